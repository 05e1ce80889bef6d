"""What a person decides about a scan, and the name under which it is kept."""

from contextlib import closing

import pytest

from limn.node.store.journal.journal import Journal
from limn.node.store.journal.schema import COHORT, VERSION
from tests.support.node.journals import as_before_states, as_version
from tests.support.node.parts import arrived

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


@pytest.mark.parametrize("state", ["refused", "failed", "quarantined"])
def test_a_scan_that_ended_badly_is_dismissed(journal, state):
    """Its state stays, it needs nobody, and it gets a row in the log; once, and until it runs."""
    row = journal.insert(arrived(), BOTH)
    assert not journal.dismiss(row.id, "dead animal", 5.0, "A. Smith"), "it waits for a worker"
    journal.end(row.id, state, "gone", {})
    journal.mark_logged(row.id)
    assert [scan.id for scan in journal.ended_badly(0.0)] == [row.id]
    assert journal.dismiss(row.id, "dead animal", 5.0, "A. Smith")
    assert not journal.dismiss(row.id, "another reason", 6.0)
    after = journal.scan(row.id)
    assert (after.state, after.logged, after.reason) == (state, False, "gone")
    assert (after.dismissed, after.dismissed_by, after.dismissed_at) == (
        "dead animal",
        "A. Smith",
        5.0,
    )
    assert journal.ended_badly(0.0) == journal.quarantined() == []
    assert [scan.id for scan in journal.dismissed(5.0)] == [row.id]
    assert [scan.id for scan in journal.unlogged_ends("tps")] == [row.id]
    assert journal.retry(row.id, 160.0)
    after = journal.scan(row.id)
    assert (after.dismissed, after.dismissed_by, after.dismissed_at) == ("", "", None)


def test_only_a_live_scan_is_dismissed(journal):
    """Nobody looks at those of a cohort in the queue; what is contoured has not ended badly."""
    cohort = journal.insert(arrived(priority=COHORT), ())
    journal.end(cohort.id, "failed", "gone", {})
    done = journal.insert(arrived(series_instance_uid="2.25.7"), BOTH)
    journal.contoured(done.id, "/rs.dcm", {})
    for row in (cohort, done):
        assert not journal.dismiss(row.id, "why", 5.0)
    assert journal.dismissed(0.0) == []


@pytest.mark.parametrize("version", [0, 1, 2, 3, 4])
def test_a_journal_that_knows_no_names_learns_them(path, version):
    """Of every earlier version: held, released, discarded and failed scans stay as they are."""
    with closing(Journal(path)) as old:
        rows = [
            old.insert(arrived(series_instance_uid=f"2.25.{number}"), BOTH) for number in range(4)
        ]
        for row in rows[:3]:
            old.contoured(row.id, "/rs.dcm", {}, "mirrored image")
        old.release(rows[1].id, 5.0)
        old.discard(rows[2].id, "wrong export", 6.0)
        old.end(rows[3].id, "failed", "gone", {})
    if version == 0:
        as_before_states(path)
    else:
        as_version(path, version)
    with closing(Journal(path)) as journal:
        assert journal._db.execute("pragma user_version").fetchone()[0] == VERSION
        held, released, discarded = (journal.structure_set_of(row.id) for row in rows[:3])
        assert (held.on_hold, released.released_at, discarded.discarded_at) == (True, 5.0, 6.0)
        assert {released.released_by, released.release_why, discarded.discarded_by} == {""}
        failed = journal.scan(rows[3].id)
        assert (failed.state, failed.files, failed.dismissed_at) == ("failed", rows[3].files, None)
        assert journal.release(rows[0].id, 7.0, "A. Smith", "same series")
        assert journal.dismiss(failed.id, "dead animal", 8.0, "A. Smith")
        assert journal.is_sound()
    with closing(Journal(path)) as journal:
        assert journal.structure_set_of(rows[0].id).released_by == "A. Smith"


@pytest.mark.parametrize("whole_first", [False, True])
def test_a_held_version_is_discarded_once_the_whole_series_is_contoured(journal, whole_first):
    """Whichever of the two comes from its worker first; one of another part of it stays."""
    half = journal.insert(arrived(input_digest="d1", files=("a.dcm",)), BOTH)
    part = journal.insert(arrived(input_digest="d2", files=("z.dcm",)), BOTH)
    whole = journal.insert(arrived(input_digest="d3", files=("a.dcm", "b.dcm")), BOTH)
    journal.contoured(part.id, "/part.dcm", {"contoured_at": 5.0}, "mirrored")
    steps = [(half, "mirrored"), (whole, None)]
    for row, held in reversed(steps) if whole_first else steps:
        journal.contoured(row.id, f"/{row.id}.dcm", {"contoured_at": 7.0}, held)
    structure_set = journal.structure_set_of(half.id)
    assert structure_set.discarded == (
        "scan-00003, a newer version of its series with all its slices, is there"
    )
    assert (structure_set.discarded_at, structure_set.discarded_by) == (7.0, "")
    assert {each.state for each in journal.deliveries(half.id)} == {"discarded"}
    assert {each.state for each in journal.deliveries(whole.id)} == {"waiting"}
    assert [row.id for row in journal.on_hold()] == [part.id]
    assert not journal.release(half.id, 9.0)


def test_a_long_life_does_not_slow_a_result(journal):
    """Noting a contoured scan reads the rows of its series, and not those of all scans."""
    journal._db.execute("pragma synchronous = off")
    steps = []
    journal._db.set_progress_handler(lambda: steps.append(1), 100)
    taken = []
    for number in range(120):
        row = journal.insert(
            arrived(series_instance_uid=f"2.25.{number}", input_digest=f"d{number}"), BOTH
        )
        steps.clear()
        journal.contoured(row.id, "/rs.dcm", {})
        taken.append(len(steps))
    assert max(taken[-20:]) <= 2 * max(taken[:20])
