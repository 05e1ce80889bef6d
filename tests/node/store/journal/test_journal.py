import multiprocessing
import sqlite3
import threading
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom.uid import UID

from limn.domain.errors import ConfigWrong
from limn.node.store.journal.journal import Journal
from limn.node.store.journal.schema import COHORT, LIVE, SCHEMA
from tests.support.node.journals import before_retry
from tests.support.node.parts import arrived

WRITERS = 4
EACH = 15
BOTH = ("tps", "archive")


@pytest.fixture
def path(tmp_path):
    """Where the journal of a test lies."""
    return tmp_path / "data" / "journal.sqlite"


@pytest.fixture
def journal(path):
    """An empty journal."""
    opened = Journal(path)
    yield opened
    opened.close()


def test_a_series_becomes_a_scan(journal):
    """What the intake hands over is what the dispatcher reads."""
    given = arrived()
    row = journal.insert(given, BOTH)
    assert row is not None
    assert (row.name, row.version, row.predecessor, row.state) == ("scan-00001", 1, None, "ready")
    assert row.files == given.files
    assert (row.animal, row.sender, row.folder) == (given.animal, given.sender, given.folder)
    assert (row.receive_s, row.settle_s) == (given.receive_s, given.settle_s)
    assert (row.last_slice_at, row.ready_at) == (given.last_slice_at, given.ready_at)
    assert journal.ready() == [row]
    structure_set = journal.structure_set_of(row.id)
    assert (structure_set.date, structure_set.time) == ("20260101", "120000")
    assert structure_set.path == ""
    assert [(d.destination, d.state, d.tries) for d in journal.deliveries(row.id)] == [
        ("tps", "waiting", 0),
        ("archive", "waiting", 0),
    ]


def test_a_scan_that_is_not_there_is_named(journal):
    """The number comes from a person, or from a note of another journal."""
    with pytest.raises(LookupError, match="no scan 7"):
        journal.scan(7)


def test_the_same_input_again_is_ignored(journal):
    """Exactly once in effect: no second scan, structure set or delivery."""
    first = journal.insert(arrived(), BOTH)
    assert journal.insert(arrived(sender="OTHER", date="20270101"), BOTH) is None
    assert journal.scans() == [first]
    assert len(journal.deliveries(1)) == 2


def test_the_same_input_is_ignored_after_it_was_contoured(journal):
    """A resend of yesterday's series contours nothing."""
    row = journal.insert(arrived(), BOTH)
    journal.contoured(row.id, "/rs.dcm", {})
    assert journal.insert(arrived(), BOTH) is None
    assert journal.scan(row.id).state == "contoured"


def test_a_changed_input_is_a_new_version(journal):
    """A late slice changes the digest: version 2, then 3, each naming its predecessor."""
    first = journal.insert(arrived(), BOTH)
    second = journal.insert(arrived(input_digest="d2"), BOTH)
    third = journal.insert(arrived(input_digest="d3"), BOTH)
    assert [row.version for row in (first, second, third)] == [1, 2, 3]
    assert [row.predecessor for row in (first, second, third)] == [None, first.id, second.id]


def test_another_series_starts_at_version_one(journal):
    """Versions count within a series."""
    journal.insert(arrived(), BOTH)
    other = journal.insert(arrived(series_instance_uid="2.25.7"), BOTH)
    assert (other.version, other.predecessor) == (1, None)


def test_another_bundle_contours_the_same_input_again(journal):
    """The same input with another bundle is another scan."""
    journal.insert(arrived(), BOTH)
    again = journal.insert(arrived(bundle_sha256="c" * 64), BOTH)
    assert (again.version, again.predecessor) == (2, 1)


def test_uids_follow_from_the_input_alone(tmp_path):
    """The same input gives the same structure set, also after the register was lost."""
    sets = []
    for number in (1, 2):
        journal = Journal(tmp_path / f"{number}.sqlite")
        if number == 2:
            journal.insert(arrived(series_instance_uid="2.25.555"), BOTH)
        row = journal.insert(arrived(sender=str(number)), BOTH)
        sets.append(journal.structure_set_of(row.id))
        journal.close()
    assert sets[0].sop_instance_uid == sets[1].sop_instance_uid
    assert sets[0].series_instance_uid == sets[1].series_instance_uid


@pytest.mark.parametrize(
    "changes",
    [
        {"series_instance_uid": "2.25.9"},
        {"input_digest": "d9"},
        {"bundle_sha256": "c" * 64},
        {"profile": "muriplan"},
    ],
)
def test_other_inputs_have_other_uids(journal, changes):
    """No two structure sets share a UID, and all UIDs are valid."""
    journal.insert(arrived(), BOTH)
    journal.insert(replace(arrived(), **changes), BOTH)
    sets = [journal.structure_set_of(scan) for scan in (1, 2)]
    uids = {uid for each in sets for uid in (each.sop_instance_uid, each.series_instance_uid)}
    assert len(uids) == 4
    assert all(UID(uid).is_valid and len(uid) <= 64 for uid in uids)


def test_a_refused_series_has_no_structure_set(journal):
    """An aborted series is on record with its reason, and nothing is to be delivered."""
    row = journal.insert(arrived(refused="broke off"), BOTH)
    assert (row.state, row.reason) == ("refused", "broke off")
    assert journal.ready() == []
    assert journal.deliveries(row.id) == []
    assert journal.unlogged_ends("tps") == [row]


def test_a_refused_series_that_is_resent_whole_runs(journal):
    """The same slices, this time released: the scan is revived with its new times."""
    refused = journal.insert(arrived(refused="broke off"), BOTH)
    journal.mark_logged(refused.id)
    row = journal.insert(arrived(last_slice_at=5e9, ready_at=5e9 + 1, settle_s=0.7), BOTH)
    assert row.id == refused.id
    assert (row.state, row.reason, row.logged) == ("ready", "", False)
    assert (row.last_slice_at, row.ready_at, row.settle_s) == (5e9, 5e9 + 1, 0.7)
    assert len(journal.deliveries(row.id)) == 2
    assert journal.insert(arrived(), BOTH) is None


def test_a_refused_series_refused_intervention_stays_one_row(journal):
    """A sender that keeps breaking off fills no log."""
    journal.insert(arrived(refused="broke off"), BOTH)
    assert journal.insert(arrived(refused="broke off"), BOTH) is None
    assert len(journal.scans()) == 1


def test_a_series_that_the_worker_refused_is_not_revived(journal):
    """A series that can't be contoured is not tried again with the same input."""
    row = journal.insert(arrived(), BOTH)
    journal.end(row.id, "refused", "RescaleSlope absent", {})
    assert journal.insert(arrived(), BOTH) is None
    assert journal.scan(row.id).state == "refused"


def test_nothing_is_due_before_it_is_written(journal):
    """A delivery starts with its structure set on disk."""
    row = journal.insert(arrived(), BOTH)
    assert journal.due("tps", 1e12) is None
    assert journal.waiting("tps") == 0
    assert journal.contoured(row.id, "/rs.dcm", {"read_s": 0.5})
    assert journal.due("tps", 0.0).structure_set == journal.structure_set_of(row.id).id
    assert journal.structure_set_of(row.id).path == "/rs.dcm"
    assert journal.scan(row.id).record == {"read_s": 0.5}


def test_every_destination_has_its_own_delivery(journal):
    """One that took the file, one that must wait, one that refused."""
    row = journal.insert(arrived(), (*BOTH, "folder"))
    journal.contoured(row.id, "/rs.dcm", {})
    tps, archive, folder = journal.deliveries(row.id)
    journal.delivered(tps.id, "0x0000", 1000.0)
    journal.postponed(archive.id, "does not answer", 2000.0)
    journal.refused(folder.id, "0xC001")
    tps, archive, folder = journal.deliveries(row.id)
    assert (tps.state, tps.status, tps.accepted_at, tps.tries) == ("delivered", "0x0000", 1000.0, 1)
    assert (archive.state, archive.status, archive.tries) == ("waiting", "does not answer", 1)
    assert (folder.state, folder.status, folder.tries) == ("refused", "0xC001", 1)
    assert journal.due("tps", 1e12) is None
    assert journal.due("folder", 1e12) is None
    assert journal.due("archive", 1999.0) is None
    assert journal.due("archive", 2000.0) == archive
    assert [journal.waiting(name) for name in ("tps", "archive", "folder")] == [0, 1, 0]


@pytest.mark.parametrize("state", ["refused", "failed", "quarantined"])
def test_a_late_result_after_the_end_is_ignored(journal, state):
    """A worker that was taken for dead may still answer; the first outcome stays."""
    row = journal.insert(arrived(), BOTH)
    journal.end(row.id, state, "gone", {})
    assert not journal.contoured(row.id, "/late.dcm", {"read_s": 1})
    after = journal.scan(row.id)
    assert (after.state, after.reason, after.record) == (state, "gone", {})
    assert journal.structure_set_of(row.id).path == ""
    assert journal.due("tps", 1e12) is None


def test_a_second_result_is_ignored(journal):
    """The first result stands, whatever comes after it."""
    row = journal.insert(arrived(), BOTH)
    journal.contoured(row.id, "/first.dcm", {"read_s": 1})
    assert not journal.contoured(row.id, "/second.dcm", {"read_s": 2})
    journal.end(row.id, "failed", "too late", {})
    after = journal.scan(row.id)
    assert (after.state, after.reason, after.record) == ("contoured", "", {"read_s": 1})
    assert journal.structure_set_of(row.id).path == "/first.dcm"


def test_starts_are_counted(journal):
    """How often a worker began a scan decides about quarantine."""
    row = journal.insert(arrived(), BOTH)
    assert [journal.started(row.id) for _ in range(3)] == [1, 2, 3]


def test_scans_that_ended_are_logged_once(journal):
    """A scan leaves the list of unlogged ends when its row is written."""
    rows = [journal.insert(arrived(input_digest=str(n)), BOTH) for n in range(4)]
    for row, state in zip(rows, ("refused", "failed", "quarantined"), strict=False):
        journal.end(row.id, state, state, {})
    assert [row.state for row in journal.unlogged_ends("tps")] == [
        "refused",
        "failed",
        "quarantined",
    ]
    journal.mark_logged(rows[1].id)
    assert [row.id for row in journal.unlogged_ends("tps")] == [rows[0].id, rows[2].id]


def test_an_answered_scan_is_to_be_logged(journal):
    """The answer of the planning system ends a scan; that of another destination does not."""
    row = journal.insert(arrived(), BOTH)
    journal.contoured(row.id, "/rs.dcm", {})
    tps, archive = journal.deliveries(row.id)
    journal.delivered(archive.id, "0x0000", 1.0)
    assert journal.unlogged_ends("tps") == []
    journal.refused(tps.id, "0xC000")
    assert [each.id for each in journal.unlogged_ends("tps")] == [row.id]


def test_the_journal_survives_reopening(path):
    """Everything is there after a crash: the first connection is never closed."""
    first = Journal(path)
    row = first.insert(arrived(), BOTH)
    first.contoured(row.id, "/rs.dcm", {"read_s": 0.5})
    first.postponed(first.deliveries(row.id)[0].id, "does not answer", 7.0)
    second = Journal(path)
    assert second.scans() == first.scans()
    assert second.deliveries(row.id) == first.deliveries(row.id)
    assert second.structure_set_of(row.id) == first.structure_set_of(row.id)
    first.close()
    second.close()


def test_a_missing_scan_is_an_error(journal):
    """No row is invented."""
    with pytest.raises(LookupError, match="no row"):
        journal.structure_set_of(5)


def test_a_failed_insert_leaves_nothing(journal):
    """Scan, structure set and deliveries come together or not at all."""
    with pytest.raises(Exception, match="UNIQUE"):
        journal.insert(arrived(), ("tps", "tps"))
    assert journal.scans() == []
    assert journal.insert(arrived(), BOTH) is not None


def _fill(journal: Journal, writer: int) -> None:
    for number in range(EACH):
        row = journal.insert(arrived(series_instance_uid=f"2.25.{writer}.{number}"), BOTH)
        assert row is not None
        journal.started(row.id)
        journal.insert(arrived(series_instance_uid="2.25.0", input_digest=str(number)), BOTH)


def _fill_in_process(path: Path, writer: int) -> None:
    journal = Journal(path)
    _fill(journal, writer)
    journal.close()


def _check_filled(journal: Journal) -> None:
    rows = journal.scans()
    own = [row for row in rows if row.series_instance_uid != "2.25.0"]
    shared = [row for row in rows if row.series_instance_uid == "2.25.0"]
    assert len(own) == WRITERS * EACH
    assert {row.tries for row in own} == {1}
    # Every writer gave the same fifteen inputs of one series: each is there once, in a chain.
    assert sorted(row.version for row in shared) == list(range(1, EACH + 1))
    assert all(len(journal.deliveries(row.id)) == 2 for row in rows)


def test_threads_share_a_journal(journal):
    """The receiver's threads write through one connection."""
    threads = [threading.Thread(target=_fill, args=(journal, n + 1)) for n in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    _check_filled(journal)


@pytest.mark.slow
def test_processes_share_a_journal(path):
    """Receiver, engine and `limn log` open a fresh journal at the same moment and all write."""
    spawn = multiprocessing.get_context("spawn")
    writers = [
        spawn.Process(target=_fill_in_process, args=(path, number + 1)) for number in range(WRITERS)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0] * WRITERS
    journal = Journal(path)
    _check_filled(journal)
    journal.close()


def test_a_held_structure_set_is_never_due(path, journal):
    """Every destination's delivery is held with the reason, also after a restart."""
    row = journal.insert(arrived(), BOTH)
    other = journal.insert(arrived(series_instance_uid="2.25.7"), BOTH)
    assert journal.contoured(row.id, "/rs.dcm", {"contoured_at": 5.0}, "mirrored image")
    assert journal.contoured(other.id, "/other.dcm", {})
    reopened = Journal(path)
    for each in (journal, reopened):
        assert [(d.state, d.status, d.tries) for d in each.deliveries(row.id)] == [
            ("held", "mirrored image", 0)
        ] * 2
        assert [scan.id for scan in each.on_hold()] == [row.id]
        assert each.structure_set_of(row.id).on_hold
        for name in BOTH:
            due = each.due(name, 1e12)
            assert due.structure_set == each.structure_set_of(other.id).id
            assert each.waiting(name) == 1
        assert each.unlogged_ends("tps") == []
    reopened.close()


def test_a_released_structure_set_is_due_at_once(path, journal):
    """Released by another process: this connection sees it without being reopened."""
    row = journal.insert(arrived(), BOTH)
    journal.contoured(row.id, "/rs.dcm", {}, "mirrored image")
    other = Journal(path)
    assert other.release(row.id, 99.0)
    assert not other.release(row.id, 100.0)
    other.close()
    for name in BOTH:
        assert journal.due(name, 0.0).structure_set == journal.structure_set_of(row.id).id
    assert [(d.state, d.status) for d in journal.deliveries(row.id)] == [("waiting", "")] * 2
    structure_set = journal.structure_set_of(row.id)
    assert (structure_set.held, structure_set.released_at) == ("mirrored image", 99.0)
    assert not structure_set.on_hold
    assert journal.on_hold() == []


def test_releasing_is_not_sending_again(journal):
    """A delivery that a destination refused is not held, so it can't be released."""
    row = journal.insert(arrived(), BOTH)
    assert not journal.release(row.id, 1.0)
    journal.contoured(row.id, "/rs.dcm", {}, "mirrored image")
    journal.release(row.id, 1.0)
    tps, _ = journal.deliveries(row.id)
    journal.refused(tps.id, "0xC000")
    assert not journal.release(row.id, 2.0)
    assert [d.state for d in journal.deliveries(row.id)] == ["refused", "waiting"]
    assert [scan.id for scan in journal.unlogged_ends("tps")] == [row.id]
    assert journal.on_hold() == []


def test_a_late_result_holds_nothing(journal):
    """The first result stays; a second one that asks for a hold changes nothing."""
    row = journal.insert(arrived(), BOTH)
    journal.contoured(row.id, "/first.dcm", {})
    assert not journal.contoured(row.id, "/second.dcm", {}, "mirrored image")
    assert [d.state for d in journal.deliveries(row.id)] == ["waiting", "waiting"]
    assert journal.structure_set_of(row.id).held is None


def test_a_journal_of_an_earlier_limn_is_taken_over(path):
    """Its scans and deliveries stay as they are, and from now on it can hold."""
    old = Journal(path)
    first = old.insert(arrived(), BOTH)
    old.contoured(first.id, "/rs.dcm", {})
    old._db.execute("alter table structure_set drop column held")
    for later in ("released_at", "discarded", "discarded_at"):
        old._db.execute(f"alter table structure_set drop column {later}")
    old._db.execute("pragma user_version = 0")
    old.close()
    journal = Journal(path)
    assert journal.structure_set_of(first.id).held is None
    assert [d.state for d in journal.deliveries(first.id)] == ["waiting", "waiting"]
    row = journal.insert(arrived(series_instance_uid="2.25.7"), BOTH)
    journal.contoured(row.id, "/rs.dcm", {}, "mirrored image")
    assert [scan.id for scan in journal.on_hold()] == [row.id]
    journal.close()


def test_a_journal_that_could_not_discard_is_taken_over(path):
    """A structure set that the old journal held is still held, and can now be discarded."""
    old = Journal(path)
    row = old.insert(arrived(), BOTH)
    old.contoured(row.id, "/rs.dcm", {}, "mirrored image")
    for later in ("discarded", "discarded_at"):
        old._db.execute(f"alter table structure_set drop column {later}")
    old._db.execute("pragma user_version = 0")
    old.close()
    journal = Journal(path)
    assert [scan.id for scan in journal.on_hold()] == [row.id]
    assert journal.discarded() == []
    assert journal.discard(row.id, "wrong export", 3.0)
    journal.close()


def test_a_discarded_structure_set_is_never_due(path, journal):
    """Not after a restart, not by a release that comes too late; the reason is kept."""
    row = journal.insert(arrived(), BOTH)
    journal.contoured(row.id, "/rs.dcm", {}, "mirrored image")
    assert journal.discard(row.id, "wrong export", 98.0)
    reopened = Journal(path)
    for each in (journal, reopened):
        assert not each.release(row.id, 99.0)
        assert not each.discard(row.id, "another reason", 99.0)
        structure_set = each.structure_set_of(row.id)
        assert (structure_set.discarded, structure_set.discarded_at) == ("wrong export", 98.0)
        assert (structure_set.path, structure_set.released_at) == ("/rs.dcm", None)
        assert not structure_set.on_hold
        assert each.on_hold() == []
        assert [scan.id for scan in each.discarded()] == [row.id]
        assert {d.state for d in each.deliveries(row.id)} == {"discarded"}
        assert [each.due(name, 1e12) for name in BOTH] == [None, None]
        assert [scan.id for scan in each.unlogged_ends("tps")] == [row.id]
    reopened.close()


def test_only_what_is_held_can_be_discarded(journal):
    """A structure set that was never held, or was released, can't be discarded."""
    plain = journal.insert(arrived(), BOTH)
    journal.contoured(plain.id, "/rs.dcm", {})
    gone = journal.insert(arrived(series_instance_uid="2.25.7"), BOTH)
    journal.contoured(gone.id, "/gone.dcm", {}, "mirrored image")
    journal.release(gone.id, 1.0)
    for row in (plain, gone):
        assert not journal.discard(row.id, "wrong export", 2.0)
        assert [d.state for d in journal.deliveries(row.id)] == ["waiting", "waiting"]
    assert journal.discarded() == []


def test_a_journal_from_before_retry_is_taken_over(path):
    """Its rows stay as they are; its quarantined scan runs, its refused delivery is offered."""
    before_retry(path)
    for _ in range(2):
        journal = Journal(path)
        refused, quarantined, waiting = journal.scans()
        assert [row.state for row in journal.scans()] == ["contoured", "quarantined", "ready"]
        assert (refused.started_at, refused.intervention_s, refused.priority) == (None, 0.0, LIVE)
        assert journal.structure_set_of(2).sop_instance_uid == "2.25.21"
        journal.close()
    journal = Journal(path)
    assert journal.retry(quarantined.id, 1000.0)
    assert journal.resend(refused.id, ["tps"], 1000.0) == ["tps"]
    assert [row.id for row in journal.ready()] == [quarantined.id, waiting.id]
    assert journal.due("tps", 0.0).structure_set == 1
    journal.close()


@pytest.mark.parametrize("state", ["refused", "failed", "quarantined"])
def test_a_scan_that_ended_badly_runs_again(journal, state):
    """All its tries are back, its structure set and deliveries are the same, the log gets a row."""
    row = journal.insert(arrived(ready_at=100.0), BOTH)
    before = journal.structure_set_of(row.id)
    for _ in range(3):
        journal.started(row.id)
    journal.end(row.id, state, "gone", {"queue_s": 1.0})
    journal.mark_logged(row.id)
    assert journal.retry(row.id, 160.0)
    after = journal.scan(row.id)
    assert (after.state, after.tries, after.reason, after.record) == ("ready", 0, "", {})
    assert (after.logged, after.started_at) == (False, None)
    assert (after.ready_at, after.intervention_s) == (160.0, 60.0)
    assert journal.structure_set_of(row.id) == before
    assert [d.state for d in journal.deliveries(row.id)] == ["waiting", "waiting"]
    assert not journal.retry(row.id, 170.0), "it waits already"
    journal.contoured(row.id, "/rs.dcm", {})
    assert not journal.retry(row.id, 180.0), "what is contoured is never contoured twice"


def test_what_was_never_whole_does_not_run_again(journal):
    """A series that broke off has no structure set; only its sender can mend that."""
    row = journal.insert(arrived(refused="broke off"), BOTH)
    assert not journal.retry(row.id, 160.0)
    assert journal.scan(row.id).state == "refused"


def test_a_structure_set_is_offered_again(journal):
    """To the named destinations, at once, with tries from zero; the first acceptance stays."""
    row = journal.insert(arrived(), BOTH)
    journal.contoured(row.id, "/rs.dcm", {"contoured_at": 40.0})
    tps, archive = journal.deliveries(row.id)
    journal.delivered(tps.id, "0x0000", 50.0)
    journal.postponed(archive.id, "does not answer", 150.0)
    journal.mark_logged(row.id)
    assert journal.resend(row.id, ["tps"], 100.0) == ["tps"]
    assert journal.due("tps", 0.0).id == tps.id
    assert journal.due("archive", 100.0) is None
    assert journal.scan(row.id).logged, "what was delivered has its row"
    assert journal.structure_set_of(row.id).intervention_s == 0.0
    journal.delivered(tps.id, "0x0111", 101.0)
    tps = journal.deliveries(row.id)[0]
    assert (tps.state, tps.status, tps.accepted_at) == ("delivered", "0x0111", 50.0)
    assert journal.resend(row.id, ["archive", "new"], 102.0) == ["archive", "new"]
    assert journal.due("archive", 103.0).id == archive.id
    assert journal.due("new", 103.0).structure_set == archive.structure_set


def test_what_a_peer_refused_is_logged_anew_once_it_is_offered_again(journal):
    """The time until an operator acted is kept, to be left out of the scan's times."""
    row = journal.insert(arrived(), BOTH)
    journal.contoured(row.id, "/rs.dcm", {"contoured_at": 40.0})
    for delivery in journal.deliveries(row.id):
        journal.refused(delivery.id, "0xA900")
    journal.mark_logged(row.id)
    journal.resend(row.id, BOTH, 100.0)
    assert not journal.scan(row.id).logged
    assert journal.structure_set_of(row.id).intervention_s == 60.0


@pytest.mark.parametrize("became", ["held", "discarded", "ready", "refused", "cohort"])
def test_what_must_not_go_is_not_offered_again(journal, became):
    """A held, a discarded and a missing structure set are not offered."""
    row = journal.insert(arrived(priority=COHORT if became == "cohort" else LIVE), BOTH)
    if became in ("held", "discarded", "cohort"):
        held = None if became == "cohort" else "mirrored"
        journal.contoured(row.id, "/rs.dcm", {"contoured_at": 4.0}, held)
    if became == "discarded":
        journal.discard(row.id, "wrong export", 5.0)
    if became == "refused":
        journal.end(row.id, "refused", "RescaleSlope absent", {})
    before = journal.deliveries(row.id)
    assert journal.resend(row.id, BOTH, 6.0) == []
    assert journal.deliveries(row.id) == before


def test_live_scans_go_before_cohorts(journal):
    """However long the cohort has waited; and the scan log never hears of it."""
    cohort = [
        journal.insert(arrived(series_instance_uid=f"2.25.{n}", priority=COHORT), ())
        for n in range(3)
    ]
    live = [journal.insert(arrived(series_instance_uid=f"2.25.9{n}"), BOTH) for n in range(2)]
    assert [row.id for row in journal.ready()] == [row.id for row in (*live, *cohort)]
    journal.end(cohort[0].id, "refused", "RescaleSlope absent", {})
    assert journal.unlogged_ends("tps") == []
    journal.retry(cohort[0].id, 1000.0)
    assert journal.scan(cohort[0].id).logged


def test_who_runs_is_known(journal):
    """The start is known until the worker dies or has lost the scan."""
    rows = [journal.insert(arrived(series_instance_uid=f"2.25.{n}"), BOTH) for n in range(3)]
    for row in rows:
        journal.started(row.id)
    assert journal.scan(rows[0].id).started_at == pytest.approx(time.time(), abs=30)
    journal.stopped(rows[1].id)
    assert [journal.scan(row.id).started_at is None for row in rows] == [False, True, False]
    journal.stopped()
    assert [journal.scan(row.id).started_at for row in rows] == [None] * 3


def test_the_inputs_of_a_folder(journal):
    """The files of each contoured version; a series that was never complete is left out."""
    journal.insert(arrived(input_digest="d0", refused="broke off", files=("z.dcm",)), BOTH)
    journal.insert(arrived(), BOTH)
    journal.insert(arrived(input_digest="d2", files=("c.dcm",)), BOTH)
    assert journal.inputs("/spool/1") == [("a.dcm", "b.dcm"), ("c.dcm",)]
    assert journal.find(arrived(input_digest="d2")).id == 3
    assert journal.find(arrived(input_digest="d9")) is None
    assert journal.knows("2.25.1", "d2")
    assert not journal.knows("2.25.9", "d2")


def test_a_superseded_version(journal):
    """Once a newer one is contoured, not before."""
    first = journal.insert(arrived(), BOTH)
    second = journal.insert(arrived(input_digest="d2"), BOTH)
    assert not journal.superseded(first.id)
    journal.contoured(second.id, "/rs.dcm", {})
    assert journal.superseded(first.id)
    assert not journal.superseded(second.id)


def test_a_whole_version_replaces_one_that_waits(journal):
    """Of a series that grows while no worker is free one version runs, the newest."""
    for number in range(4):
        journal.insert(arrived(input_digest=f"d{number}", supersedes=number != 2), ("tps",))
    states = [(row.state, row.version) for row in journal.scans()]
    assert states == [("superseded", 1), ("superseded", 2), ("superseded", 3), ("ready", 4)]
    assert journal.scan(2).reason.startswith("scan-00004, a newer version of its series")
    assert [row.id for row in journal.ready()] == [4]


def test_other_content_under_the_same_uid_replaces_nothing(journal):
    """It may be the second half of the animal. A late slice replaces the version that it is of."""
    journal.insert(arrived(), ("tps",))
    journal.insert(arrived(input_digest="d2", files=("c.dcm",), supersedes=True), ("tps",))
    grown = arrived(input_digest="d3", files=("c.dcm", "d.dcm"), supersedes=True)
    journal.insert(grown, ("tps",))
    assert [row.state for row in journal.scans()] == ["ready", "superseded", "ready"]


def test_a_version_that_runs_or_waits_for_a_broken_one_stays(journal):
    """A worker has begun with the first; what came later is not whole, or of another series."""
    first = journal.insert(arrived(), ("tps",))
    journal.started(first.id)
    journal.insert(arrived(input_digest="d2"), ("tps",))
    journal.insert(arrived(input_digest="d3", refused="broke off"), ("tps",))
    journal.insert(arrived(series_instance_uid="2.25.7", supersedes=True), ("tps",))
    assert [row.state for row in journal.scans()] == ["ready", "ready", "refused", "ready"]


def test_a_journal_that_knows_no_superseded_scans_learns_the_state(tmp_path):
    """Version 1 of the journal: its rows stay, and the check of its table takes the new state."""
    path = tmp_path / "journal.sqlite"
    with closing(sqlite3.connect(path)) as db:
        db.executescript(SCHEMA.replace(", 'superseded'", ""))
        db.execute("pragma user_version = 1")
    with closing(Journal(path)) as journal:
        journal.insert(arrived(), ("tps",))
        journal.insert(arrived(input_digest="d2", supersedes=True), ("tps",))
        assert [row.state for row in journal.scans()] == ["superseded", "ready"]
        assert journal.is_sound()
        with pytest.raises(sqlite3.IntegrityError):
            journal._db.execute("update scan set state = 'lost'")
    with closing(Journal(path)) as journal:
        assert [row.state for row in journal.scans()] == ["superseded", "ready"]


def test_an_old_sqlite_changes_nothing_and_is_named(path, monkeypatch):
    """The journal of an earlier limn stays as it is until Python has a newer SQLite."""
    before_retry(path)
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 1))
    with pytest.raises(ConfigWrong, match=r"SQLite is .* 3\.35\.0 or newer"):
        Journal(path)
    monkeypatch.undo()
    journal = Journal(path)
    assert [row.state for row in journal.scans()] == ["contoured", "quarantined", "ready"]
    journal.close()
