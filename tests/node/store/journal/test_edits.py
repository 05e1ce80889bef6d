"""What came back, in the journal."""

from contextlib import closing

import pytest

from limn.node.store.journal.edits.rows import Change, DriftRow, EditedRoi, ReturnedState
from limn.node.store.journal.journal import Journal
from limn.node.store.journal.reader import JournalReader
from limn.node.store.journal.schema import VERSION
from tests.support.node.journals import as_before_states, as_version
from tests.support.node.parts import arrived

HEART = EditedRoi(roi="Heart", organ="Heart", came_as="Heart", change=Change.EDITED, dsc=0.9)
LUNG = EditedRoi(roi="Lung", change=Change.SAME, came_as="Lung", dsc=1.0, caudal_mm=0.0)


@pytest.mark.parametrize("version", range(VERSION + 1))
def test_a_journal_learns_what_came_back(tmp_path, version):
    """Of every earlier version; its scans stay, and a reader is enough to bring it up to date."""
    path = tmp_path / "data" / "journal.sqlite"
    with closing(Journal(path)) as old:
        rows = [old.insert(arrived(input_digest=f"d{k}"), ("tps",)) for k in range(2)]
        old.contoured(rows[0].id, "/rs.dcm", {})
    if version == 0:
        as_before_states(path)
    elif version < VERSION:
        as_version(path, version)
    with closing(JournalReader(path)) as reader:
        assert (reader.edits(), reader.returned_files(), reader.drifts()) == ([], [], [])
    with closing(Journal(path)) as journal:
        assert journal._db.execute("pragma user_version").fetchone()[0] == VERSION
        assert [row.state for row in journal.scans()] == ["contoured", "ready"]
        journal.enter_returned({"a.dcm": 5.0})
        (row,) = journal.returned_files(ReturnedState.WAITING)
        journal.measured(row.id, ReturnedState.MEASURED, edits={rows[0].id: [HEART, LUNG]})
        (edit,) = journal.edits()
        assert (edit.name, edit.rois, edit.accepted) == (rows[0].name, (HEART, LUNG), False)
        assert journal.is_sound()


@pytest.fixture
def journal(tmp_path):
    """A journal with two contoured scans and three files that came back."""
    with closing(Journal(tmp_path / "journal.sqlite")) as made:
        for number in (1, 2):
            row = made.insert(
                arrived(input_digest=f"d{number}", series_instance_uid=f"2.25.{number}"), ("tps",)
            )
            made.contoured(row.id, "/rs.dcm", {})
        made.enter_returned({"a.dcm": 5.0, "b.dcm": 7.0, "c.dcm": 6.0})
        yield made


def test_files_are_entered_once_in_the_order_in_which_they_came(journal):
    """Whatever their names."""
    journal.enter_returned({"a.dcm": 99.0, "d.dcm": 8.0})
    files = journal.returned_files()
    assert [row.file for row in files] == ["a.dcm", "c.dcm", "b.dcm", "d.dcm"]
    assert journal.known_returned() == {"a.dcm", "b.dcm", "c.dcm", "d.dcm"}
    assert [journal.measuring(files[0].id) for _ in range(2)] == [1, 2]
    journal.not_measured(files[0].id)
    assert journal.returned_files()[0].tries == 1


def test_what_was_measured_stays(journal):
    """A file of two scans; a second answer changes nothing; the newest of a scan are asked for."""
    a, c, b = journal.returned_files()
    journal.measured(a.id, ReturnedState.MEASURED, "", "Anna", "TPS", {1: [HEART], 2: [LUNG]})
    journal.measured(a.id, ReturnedState.FAILED, "late")
    journal.measured(b.id, ReturnedState.MEASURED, edits={1: [LUNG]})
    journal.measured(c.id, ReturnedState.UNMATCHED, "of no scan")
    assert [(edit.scan, edit.file, edit.accepted) for edit in journal.edits()] == [
        (1, "a.dcm", False),
        (2, "a.dcm", True),
        (1, "b.dcm", True),
    ]
    assert [edit.file for edit in journal.edits([1])] == ["a.dcm", "b.dcm"]
    assert [edit.file for edit in journal.edits(last=1)] == ["b.dcm"]
    assert journal.edits([]) == []
    assert journal.returned_counts() == {"unmatched": 1, "accepted": 2, "edited": 1}


def test_what_is_absent_says_nothing(journal):
    """An edit of nothing but absent ROIs is not accepted either."""
    (a, *_) = journal.returned_files()
    absent = EditedRoi(roi="Heart", change=Change.ABSENT)
    journal.measured(a.id, ReturnedState.MEASURED, edits={1: [absent], 2: [absent, LUNG]})
    assert [edit.accepted for edit in journal.edits()] == [False, True]


def test_drifts_are_replaced(journal):
    """What is known now, and nothing of before."""
    drift = DriftRow(
        scanner="CT1",
        roi="Heart",
        bundle_sha256="b",
        count=20,
        first_dsc=1.0,
        last_dsc=0.9,
        p=0.001,
        since=5.0,
    )
    journal.enter_drifts([drift])
    assert journal.drifts() == [drift]
    journal.enter_drifts([])
    assert journal.drifts() == []
