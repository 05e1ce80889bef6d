import json
import os
import socket
import time
from dataclasses import replace

import pytest

from limn.node.restarts import RestartLoop
from limn.node.store.disk import space
from limn.node.store.disk.receiving import ReceivingSeries, write_receiving
from limn.node.store.journal.schema import COHORT
from tests.support.node.parts import arrived
from tests.support.node.site import Site

LEFT_AFTER_S = 8 * 86400


@pytest.fixture
def full(site):
    """One scan of each kind."""
    running = site.scan(1)
    site.journal.started(running.id)
    site.scan(2)
    site.scan(3)
    _, died = site.journal.ready()[0], site.journal.ready()[2]
    site.journal.started(died.id)
    site.journal.stopped(died.id)
    down = site.contoured(4)
    site.journal.postponed(
        site.journal.deliveries(down.id)[0].id, "TPS@127.0.0.1:104 does not answer", 1.8e9
    )
    site.journal.delivered(site.journal.deliveries(down.id)[1].id, "written", 1.8e9)
    site.contoured(5, held="mirrored [image]")
    refused = site.contoured(6)
    for delivery in site.journal.deliveries(refused.id):
        site.journal.refused(delivery.id, "0xA900")
    for number, state in ((7, "refused"), (8, "failed"), (9, "quarantined")):
        row = site.scan(number)
        site.journal.end(row.id, state, f"why\nit {state}", {})
    site.scan(10, refused="the association broke off after 2 slices")
    done = site.contoured(11)
    for delivery in site.journal.deliveries(done.id):
        site.journal.delivered(delivery.id, "0x0000", 1.8e9)
    for number in (20, 21):
        site.journal.insert(
            arrived(series_instance_uid=f"2.25.{number}", priority=COHORT, animal="C1"), ()
        )
    return site


def test_a_disk_that_is_short_is_said_first(full, monkeypatch):
    """The shortage is read from the disk: the journal does not have it."""
    monkeypatch.setattr(space, "shortage", lambda config: "data has 0 MB free; free some space")
    assert full.limn("queue").startswith("data has 0 MB free; free some space\n")
    assert json.loads(full.limn("queue", "--json"))["disk"].startswith("data has 0 MB")


def test_a_process_whose_work_stands_still_is_named(full, monkeypatch):
    """The engine runs, and its last sign of life is older than five seconds."""
    monkeypatch.setattr("limn.node.operate.queue.engine_runs", lambda config: True)
    folder = full.config.parent / "data" / "heartbeats"
    folder.mkdir()
    now = time.time()
    for name, ago_s, contents in (
        ("engine", 8.0, b"0000120.0\n"),
        ("receiver", 1.0, b"0000120.0\n"),
        ("scheduler", 99.0, b"0000000.0\n"),
    ):
        (folder / name).write_bytes(contents)
        os.utime(folder / name, (now - ago_s, now - ago_s))
    said = json.loads(full.limn("queue", "--json"))
    assert said["node"] == "degraded"
    assert [line.partition(" for ")[0] for line in said["silent"]] == [
        "engine has given no sign of life"
    ]
    assert full.limn("queue").startswith("degraded: engine has given no sign of life for ")


def test_a_process_that_ends_again_and_again_is_named(full):
    """Also while no engine runs, because the engine may be that process."""
    folder = full.config.parent / "data" / "heartbeats"
    folder.mkdir()
    loop = RestartLoop("engine", folder / "engine.restarts")
    for _ in range(3):
        loop.ended(1)
    assert json.loads(full.limn("queue", "--json"))["restarting"] == [loop.line]
    assert full.limn("queue").startswith("degraded: engine has ended 3 times in a row")


def test_everything_in_the_node_by_kind(full):
    """Scans that run, scans that wait in their order, deliveries, and held structure sets."""
    said = json.loads(full.limn("queue", "--json"))
    assert said["node"] == "stopped"
    assert said["cohort"] == {"waiting": 2}
    entries = said["entries"]
    assert [(e["scan"][-2:], e["state"], e["place"]) for e in entries] == [
        ("01", "running", None),
        ("02", "waiting", 1),
        ("03", "waiting", 2),
        ("05", "held", None),
        ("04", "delivering", None),
        ("06", "refused by peer", None),
        ("06", "refused by peer", None),
        ("07", "refused", None),
        ("08", "failed", None),
        ("09", "quarantined", None),
        ("10", "refused", None),
    ]
    running, first, second, held, delivering, *_ = entries
    assert running["tries"] == 1
    assert running["since_utc"][:13] == time.strftime("%Y-%m-%dT%H", time.gmtime())
    assert (first["tries"], second["tries"]) == (0, 1)
    assert held["reason"] == "mirrored [image]"
    assert (delivering["destination"], delivering["tries"]) == ("tps", 1)
    assert delivering["status"] == "TPS@127.0.0.1:104 does not answer"
    assert delivering["next_try_utc"] == "2027-01-15T08:00:00+00:00"
    command = f"--config '{full.config}' scan-000"
    does = {entry["scan"][-2:]: entry["do"] for entry in entries}
    assert does["05"] == f"look at its picture.png, then: limn release {command}05"
    assert does["06"] == f"mend it there, then: limn resend {command}06"
    nothing = "; if nobody need act on it: limn release {} --discard --why 'TEXT' --by NAME"
    for number, does_what in (
        ("07", f"mend what the reason names, then: limn retry {command}07"),
        ("09", f"look at limn.log, then: limn retry {command}09"),
        ("10", "send the series again from the scanner"),
    ):
        assert does[number] == does_what + nothing.format(f"{command}{number}")
    assert {does[number] for number in ("01", "02", "03", "04")} == {""}


def test_a_version_that_a_newer_one_replaced_is_named(site):
    """It waits no more; the newer one says so, and the log keeps why."""
    old = site.scan(1)
    site.scan(1, input_digest="d2", supersedes=True)
    (entry,) = json.loads(site.limn("queue", "--json"))["entries"]
    assert (entry["scan"], entry["place"]) == ("scan-00002", 1)
    assert entry["reason"] == "replaces scan-00001, which no worker had begun"
    assert f"{old.name} animal M1: not contoured: scan-00002, a newer" in site.limn("log")


def test_an_earlier_version_is_named_when_the_newer_one_fails(site):
    """An animal has no contours then; the operator may let the earlier version run."""
    site.scan(1)
    newer = site.scan(1, input_digest="d2", supersedes=True)
    site.journal.end(newer.id, "failed", "no animal found", {})
    (entry,) = json.loads(site.limn("queue", "--json"))["entries"]
    assert entry["scan"] == newer.name
    retry = f"limn retry --config '{site.config}' scan-00001"
    assert f"; scan-00001 is an earlier version that was not contoured: {retry}; if" in entry["do"]


def test_a_series_that_is_coming_in_says_what_it_waits_for(site):
    """The receiver wrote it a moment ago; what it wrote before it died is not believed."""
    coming = ReceivingSeries(
        animal="M7",
        sender="SCANNER@10.0.0.1",
        series_instance_uid="2.25.7",
        since_utc="2026-01-01T12:00:00+00:00",
        slices=120,
        expected=240,
        waits_for="240 slices, which its headers announce",
        until_utc="2026-01-01T12:00:30+00:00",
    )
    path = site.data / "receiving.json"
    write_receiving(path, [coming], time.time() - 5)
    assert site.limn("queue") == (
        "coming in: animal M7 from SCANNER@10.0.0.1, 120 of 240 slices; waits for 240 slices, "
        "which its headers announce, until 12:00:30 UTC\n"
    )
    (found,) = json.loads(site.limn("queue", "--json"))["receiving"]
    assert (found["animal"], found["slices"], found["expected"]) == ("M7", 120, 240)
    write_receiving(path, [coming], time.time() - 60)
    assert json.loads(site.limn("queue", "--json"))["receiving"] == []
    assert site.limn("queue").startswith("nothing waits")


def test_an_image_of_which_a_person_must_say_something_is_red(site):
    """It has no slices yet, and the line says what to write; half a copy just waits."""
    words = (
        "asked: a person must say which animal it is (patient_id): write ... into /in/M7.nii.toml"
    )
    image = ReceivingSeries(
        animal="",
        sender="image /in/M7.nii",
        series_instance_uid="",
        since_utc="2026-01-01T12:00:00+00:00",
        slices=0,
        expected=None,
        waits_for=words,
        until_utc="",
        light="red",
    )
    half = replace(image, animal="M8", waits_for="the rest of it", light="")
    write_receiving(site.data / "receiving.json", [image, half], time.time())
    assert site.limn("queue").splitlines() == [
        f"needs a person: image /in/M7.nii, {words}",
        "coming in: animal M8 from image /in/M7.nii, waits for the rest of it",
    ]
    assert json.loads(site.limn("queue", "--json"))["receiving"][0]["light"] == "red"


def test_the_table_is_for_people(full, monkeypatch):
    """Kinds, reasons in one line, commands unbroken, the cohort in one line, no markup eaten."""
    monkeypatch.setenv("COLUMNS", "160")
    out = full.limn("queue")
    assert out.startswith("the node is stopped: these scans continue when it starts\n")
    assert "mirrored [image]" in out
    assert "number 2, try 2" in out
    assert "to tps: 1 tries; TPS@127.0.0.1:104 does not answer; next 08:00:00" in out
    assert f"scan-00009 animal M9: look at limn.log, then: limn retry --config '{full.config}'" in (
        out
    )
    assert "it quarantined" in out
    assert "why\n" not in out
    assert out.endswith("behind them, of `limn contour`: 0 running, 2 waiting\n")
    assert "scan-00011" not in out


def test_an_empty_node_is_one_line(site):
    """Nothing to read is quickly read, whether the node ran ever or not."""
    assert site.limn("queue") == f"nothing waits in {site.data}; the node is stopped\n"
    for row in (site.contoured(1), site.contoured(2)):
        for delivery in site.journal.deliveries(row.id):
            site.journal.delivered(delivery.id, "0x0000", 1.8e9)
    assert site.limn("queue") == f"nothing waits in {site.data}; the node is stopped\n"
    assert json.loads(site.limn("queue", "--json"))["entries"] == []


def test_asking_makes_no_journal(tmp_path, capsys):
    """A wrong folder stays empty."""
    site = Site(tmp_path, capsys)
    site.journal.close()
    for path in site.data.iterdir():
        path.unlink()
    site.limn("queue")
    assert list(site.data.iterdir()) == []


def test_old_and_mended_refusals_leave_the_list(site):
    """A week later, or with a newer version contoured; a quarantine stands until it is lifted."""
    old = time.time() - LEFT_AFTER_S
    for number, state in ((1, "refused"), (2, "quarantined")):
        row = site.scan(number, ready_at=old)
        site.journal.end(row.id, state, "why", {})
    mended = site.scan(3)
    site.journal.end(mended.id, "refused", "slice missing", {})
    site.contoured(3, input_digest="d2")
    entries = json.loads(site.limn("queue", "--json"))["entries"]
    assert {(e["scan"], e["state"]) for e in entries} == {
        ("scan-00002", "quarantined"),
        ("scan-00004", "delivering"),
    }


def test_whether_the_node_is_there(full):
    """An engine that listens is a running node; without a warm worker a line says so."""
    port = int(full.config.read_text().split("wake_port = ")[1].split()[0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as engine:
        engine.bind(("127.0.0.1", port))
        assert full.limn("queue").startswith("no worker is ready: scans wait until one is\n")
        (full.data / "ready").touch()
        assert full.limn("queue").lstrip().startswith("scan")
        assert "the node runs and starts within a second" in full.limn("retry", "scan-00009")
        assert engine.recv(16) == b"wake"


def test_a_preview_is_named_as_such(site, monkeypatch):
    """While a worker has it, while a destination lacks it, and once it is there."""

    def entries():
        return json.loads(site.limn("queue", "--json"))["entries"]

    monkeypatch.setenv("COLUMNS", "200")

    row = site.scan(1)
    site.journal.begin_preview(row.id)
    (entry,) = entries()
    said = "its PREVIEW of one fold is being contoured"
    assert (entry["state"], entry["reason"]) == ("running", said)
    assert said in site.limn("log")
    assert said in site.limn("queue")
    assert "try 0" not in site.limn("queue")
    site.journal.preview_contoured(row.id, "/preview.dcm", ("tps",))
    sending, waiting = entries()
    assert (sending["state"], sending["destination"]) == ("delivering", "tps")
    assert sending["reason"] == "PREVIEW"
    assert (waiting["state"], waiting["place"], waiting["reason"]) == ("waiting", 1, "")
    assert "PREVIEW to tps: 0 tries" in site.limn("queue")
    delivery = site.journal.take_preview("tps")
    site.journal.preview_delivered(delivery.id, "0x0000", 5.0)
    (waiting,) = entries()
    assert waiting["reason"] == "its PREVIEW went to tps"
    site.journal.started(row.id)
    (running,) = entries()
    assert (running["state"], running["reason"]) == ("running", "its PREVIEW went to tps")
    assert "its PREVIEW went to tps" in site.limn("log")
    assert "try 1; its PREVIEW went to tps" in site.limn("queue")
