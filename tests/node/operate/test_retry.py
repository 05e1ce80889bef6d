import json
import re
import time
from pathlib import Path

import pytest

from limn.node.store.disk import scanlog
from limn.node.store.journal.schema import COHORT
from tests.support.node.parts import Archive, encoded, peer, structure_set
from tests.support.node.site import Site


@pytest.mark.parametrize("state", ["refused", "failed", "quarantined"])
def test_a_scan_that_ended_badly_runs_again(site, state):
    """The output has the former state, and that a stopped node runs it when it starts."""
    row = site.scan(1)
    site.journal.end(row.id, state, "Traceback\n  in worker\nOSError: disk", {})
    out = site.limn("retry", "scan-00001")
    assert out == (
        f"scan-00001 animal M1 runs again; it was {state}: OSError: disk\n"
        "the node is stopped and starts when it runs\n"
    )
    assert [each.id for each in site.journal.ready()] == [row.id]
    assert "scan-00001 waits for a worker; nothing runs again" in site.refused(
        "retry", "scan-00001"
    )


def test_a_newer_version_is_named(site):
    """An operator who runs an old version again reads that there is a newer one."""
    row = site.scan(1)
    site.journal.end(row.id, "failed", "no organ", {})
    site.scan(1, input_digest="d2")
    assert "mind scan-00002 is a newer version" in site.limn("retry", "scan-00001")


def test_a_discarded_scan_is_not_sent_by_a_retry(site):
    """No command is named that would refuse it."""
    row = site.contoured(1, held="mirror image")
    site.journal.discard(row.id, "wrong export", time.time())
    said = site.refused("retry", "scan-00001")
    assert "scan-00001 is contoured already and was discarded at" in said
    assert "limn resend" not in said


def test_why_a_scan_does_not_run_again(site):
    """Each name with its reason and remedy; then no other scan runs either."""
    fine, gone, running = site.scan(1), site.scan(2), site.scan(3)
    site.contoured(4)
    site.scan(5, refused="the association broke off after 2 slices")
    site.journal.end(fine.id, "failed", "no organ", {})
    site.journal.end(gone.id, "failed", "no organ", {})
    (site.data / "spool" / "2" / "b.dcm").unlink()
    site.journal.started(running.id)
    names = [f"scan-0000{n}" for n in (1, 2, 3, 4, 5, 9)]
    said = site.refused("retry", *names)
    assert "scan-00001" not in said
    assert f"scan-00002 has lost 1 of its 2 files in {site.data}/spool/2; send the" in said
    assert "scan-00003 runs, try 1" in said
    assert (
        f"scan-00004 is contoured already; to send it once more: limn resend --config '{site}"[:60]
        in said
    )
    assert "scan-00005 was never complete (the association broke off after 2 slices); send" in said
    assert "scan-00009 is unknown" in said
    assert said.endswith("; nothing runs again\n")
    assert site.journal.scan(fine.id).state == "failed"


def test_what_a_newer_version_of_its_field_replaced_is_not_sent_again(site):
    """The command says so."""
    row = site.contoured(1)
    (delivery,) = (e for e in site.journal.deliveries(row.id) if e.destination == "tps")
    site.journal.replaced(delivery.id, "replaced by scan-00004")
    out = site.limn("resend", "scan-00001", "--to", "tps")
    assert "  not to tps: replaced by scan-00004\n" in out
    assert " -> tps" not in out


def test_a_delivered_structure_set_is_sent_again_byte_for_byte(site):
    """The peer gets the same file once more; the log keeps its one row and its clock."""
    row = site.contoured(1)
    archive = Archive(0x0000, 0x0111)
    with peer(archive, port=site.port):
        site.courier().work()
        (first,) = scanlog.rows(site.log)
        out = site.limn("resend", "scan-00001", "--to", "tps")
        site.courier().work()
    assert "scan-00001 animal M1 is offered again\n" in out
    path = site.journal.structure_set_of(row.id).path
    assert f"  {path} -> tps, TPS@127.0.0.1:{site.port}\n" in out
    assert "export" not in out
    assert len(archive.taken) == 2
    assert encoded(archive.taken[0]) == encoded(archive.taken[1])
    assert scanlog.rows(site.log) == [first]
    assert site.states(row) == ["delivered", "waiting"]


def test_what_the_planning_system_refused_is_delivered_after_all(site):
    """Refused with 0xA900 and logged so; sent again and accepted: a second row without the wait."""
    row = site.contoured(1, last_slice_at=time.time() - 3600)
    site.journal._db.execute(
        "update scan set record = ?", (json.dumps({"contoured_at": time.time() - 3590}),)
    )
    with peer(Archive(0xA900, 0x0000), port=site.port):
        site.courier().work()
        assert site.states(row) == ["refused", "waiting"]
        site.limn("resend", "scan-00001")
        site.courier().work()
    refused, delivered = scanlog.rows(site.log)
    assert (refused["outcome"], refused["destination_status"]) == ("refused by peer", "0xA900")
    assert (delivered["outcome"], delivered["destination_status"]) == ("delivered", "0x0000")
    assert re.search(r"again:35[89]\ds", delivered["flags"])
    assert 10 <= float(delivered["door_to_door_s"]) < 60


def test_a_retried_scan_has_a_second_row_and_an_honest_clock(site):
    """It failed, ran again an hour later and was delivered: the hour is flagged and left out."""
    began = time.time() - 3600
    row = site.scan(1, last_slice_at=began - 0.5, ready_at=began)
    site.journal.end(row.id, "failed", "no organ", {})
    site.courier().work()
    site.limn("retry", "scan-00001")
    uid = site.journal.structure_set_of(row.id).sop_instance_uid
    path = site.data / "RS.dcm"
    path.write_bytes(encoded(structure_set(uid)))
    site.journal.contoured(row.id, str(path), {"contoured_at": time.time()})
    with peer(Archive(), port=site.port):
        site.courier().work()
    failed, delivered = scanlog.rows(site.log)
    assert (failed["outcome"], delivered["outcome"]) == ("failed", "delivered")
    assert re.search(r"again:36\d\ds", delivered["flags"])
    assert 0.5 <= float(delivered["door_to_door_s"]) < 60


def test_why_a_structure_set_is_not_sent_again(site):
    """A held or discarded structure set is not sent."""
    site.contoured(1)
    site.contoured(2, held="mirrored image")
    discarded = site.contoured(3, held="mirrored image")
    site.journal.discard(discarded.id, "wrong export", 1.8e9)
    failed = site.scan(4)
    site.journal.end(failed.id, "failed", "no organ", {})
    site.scan(5)
    gone = site.contoured(6)
    Path(site.journal.structure_set_of(gone.id).path).unlink()
    site.contoured(7, priority=COHORT)
    names = [f"scan-0000{n}" for n in range(1, 9)]
    said = site.refused("resend", *names)
    assert "scan-00001" not in said
    assert "scan-00002 is held until a person has looked: mirrored image; then: limn rel" in said
    assert "scan-00003 was discarded at 2027-01-15 08:00:00 UTC: wrong export" in said
    assert "scan-00004 was failed, so there is nothing to send: no organ" in said
    assert "scan-00005 is not contoured yet" in said
    assert "scan-00006 has lost its structure set" in said
    assert "scan-00007 was contoured for a folder and has no destination" in said
    assert "scan-00008 is unknown" in said
    assert said.endswith("; nothing is sent again\n")


def test_a_destination_that_the_config_does_not_name(site):
    """`--to` refuses its name; a scan that had it is not sent there, and a line names it."""
    row = site.contoured(1, "old archive")
    said = site.refused("resend", "scan-00001", "--to", "old archive")
    assert said == "limn: --to old archive: no such destination; the config names tps, export\n"
    assert "old archive is not in the config any more" in site.limn("resend", "scan-00001")
    assert site.states(row) == ["waiting"] * 3


def test_before_the_first_scan(tmp_path, capsys):
    """A node that never ran: no journal is made by asking for one."""
    site = Site(tmp_path, capsys)
    site.journal.close()
    for path in site.data.iterdir():
        path.unlink()
    for command in ("retry", "resend"):
        assert "scan-00001: unknown; no scan has come to" in site.refused(command, "scan-00001")
    assert list(site.data.iterdir()) == []
