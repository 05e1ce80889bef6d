"""The engine's thread: one process at a time, beside no live scan, and what the site keeps."""

import logging
import os
from pathlib import Path
from threading import Event, Thread

import pydicom
import pytest

from limn.node.config import Config, load_config
from limn.node.contour.edits import watch as module
from limn.node.contour.edits.request import DISK_FULL
from limn.node.contour.edits.watch import EditWatch
from limn.node.store.disk.spool import SLOTS
from limn.node.store.journal.edits.rows import Change, EditedRoi, ReturnedState
from limn.node.store.journal.edits.words import picture_of
from limn.node.store.journal.schema import JournalBusy
from limn.node.store.lull import ASK_S, QUIET_S
from limn.node.surprises import LONGEST_PAUSE_S, Surprises
from tests.node.contour.edits.test_measure import moved_heart
from tests.node.store.test_lull import Clock
from tests.support.node.came_back import labels_of, under_new_uid
from tests.support.node.parts import arrived
from tests.support.node.running import wait_for

# What stands for the process that measures: one that sleeps, and one that dies.
SLEEPS = "import sys; sys.stdin.read()"
DIES = "raise SystemExit(9)"

CONFIG = """
data_dir = "data"
[model]
bundle = "bundle"
{returned}
[[destination]]
kind = "folder"
name = "tps"
folder = "out"
"""


def config_of(folder: Path, returned: str = "") -> Config:
    """A site's config; the data folder is the node's."""
    path = folder / "limn.toml"
    path.write_text(CONFIG.format(returned=f"[returned]\n{returned}" if returned else ""))
    return load_config(path)


@pytest.fixture
def looks(node, tmp_path):
    """A watch of the site with these settings, and its looks until nothing waits."""
    made = []

    clock = Clock()

    def of(returned="", child=None, monkeypatch=None):
        if child is not None:
            (tmp_path / "limn_test_child.py").write_text(child)
            monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
            monkeypatch.setattr(module, "_MODULE", "limn_test_child")
        made.append(EditWatch(config_of(tmp_path, returned), node.journal, clock))
        # The first look of a node counts as if a slice had come.
        clock.now_s += QUIET_S
        return made[-1]

    of.clock = clock
    yield of
    for each in made:
        each._end_child()


def until_measured(watch, node):
    """Look until no file waits."""

    def done():
        watch.work()
        return not node.journal.returned_files(ReturnedState.WAITING) and watch._seen is not None

    wait_for(done, 60)


def test_what_came_back_is_measured_in_a_process_of_its_own(node, looks, caplog):
    """An edit and an untouched one: in the journal, the log, and a picture of the edit."""
    caplog.set_level(logging.INFO)
    first, second = node.scan(1), node.scan(2)
    path = node.send_back(node.edited(first, moved_heart()))
    node.send_back(under_new_uid(node.own(second)))
    watch = looks()
    until_measured(watch, node)
    edited, accepted = node.journal.edits()
    if edited.scan != first.id:
        edited, accepted = accepted, edited
    assert (edited.scan, edited.file, edited.editor) == (first.id, path.name, "Weber Anna")
    assert [each.change for each in edited.rois] == [Change.EDITED, Change.SAME]
    assert (edited.accepted, accepted.accepted) == (False, True)
    assert accepted.software == "Other Planner 5"
    results = node.data / "scans"
    assert (results / first.name / picture_of(path.name)).read_bytes().startswith(b"\x89PNG")
    assert not list((results / second.name).glob("edit-*"))
    assert f"{second.name} animal M2 came back: accepted as it was" in caplog.text
    assert f"{first.name} animal M1 came back: Heart: DSC 0." in caplog.text
    assert not (node.data / "edits").exists()
    assert node.journal.returned_counts() == {"accepted": 1, "edited": 1}
    # A second look, and a second start, find nothing new.
    until_measured(looks(), node)
    assert len(node.journal.edits()) == 2


def test_a_live_scan_ends_the_measurement_and_it_begins_again(node, looks, monkeypatch):
    """Nothing runs beside a live scan; a cohort's scan waits for nobody."""
    row = node.scan(1)
    node.send_back(node.own(row))
    watch = looks(child=SLEEPS, monkeypatch=monkeypatch)
    watch.work()
    measuring = watch._measuring
    assert measuring is not None
    live = node.journal.insert(arrived(series_instance_uid="2.25.5"), ())
    looks.clock.now_s += ASK_S
    watch.work()
    assert watch._measuring is None
    assert measuring.child.poll() is not None
    (waits,) = node.journal.returned_files(ReturnedState.WAITING)
    assert waits.tries == 0, "the scan ended it, not the file"
    looks.clock.now_s += ASK_S
    watch.work()
    assert watch._measuring is None
    node.journal.end(live.id, "failed", "gone", {})
    node.journal.insert(arrived(series_instance_uid="2.25.6", priority=0), ())
    looks.clock.now_s += ASK_S
    watch.work()
    assert watch._measuring is not None


def test_the_first_slice_ends_the_measurement(node, looks, monkeypatch):
    """While it comes in no scan is in the journal yet; it goes on when no more come."""
    node.send_back(node.own(node.scan(1)))
    slots = node.data / "spool" / SLOTS
    slots.mkdir()
    watch = looks(child=SLEEPS, monkeypatch=monkeypatch)
    watch.work()
    measuring = watch._measuring
    assert measuring is not None
    (slots / "slice").touch()
    watch.work()
    assert watch._measuring is None
    assert measuring.child.poll() is not None
    assert node.journal.ready() == []
    assert node.journal.returned_files(ReturnedState.WAITING)[0].tries == 0
    looks.clock.now_s += QUIET_S
    watch.work()
    assert watch._measuring is not None


def test_a_file_that_ends_its_process_is_given_up(node, looks, monkeypatch, caplog):
    """After two deaths, and after ten minutes; the next file is measured."""
    row = node.scan(1)
    node.send_back(node.own(row), "first")
    watch = looks(child=DIES, monkeypatch=monkeypatch)
    until_measured(watch, node)
    (given_up,) = node.journal.returned_files()
    assert (given_up.state, given_up.tries) == (ReturnedState.FAILED, 2)
    assert "returned/first.dcm can't be measured: the process that read it died" in caplog.text
    node.send_back(node.own(row), "second")
    watch = looks(child=SLEEPS, monkeypatch=monkeypatch)
    watch.work()
    looks.clock.now_s += module.LONGEST_S
    watch.work()
    assert node.journal.returned_files()[-1].reason == "it took longer than 600 s"


def test_a_full_folder_is_entered_by_and_by(node, looks, monkeypatch):
    """What an archive forwarded for years; never all in one transaction, nor while a scan runs."""
    monkeypatch.setattr(module, "MOST_NEW", 2)
    folder = node.data / "returned"
    folder.mkdir()
    for number in range(5):
        (folder / f"{number}.dcm").write_bytes(b"")
        os.utime(folder / f"{number}.dcm", (number, number))
    live = node.journal.insert(arrived(series_instance_uid="2.25.5"), ())
    watch = looks()
    watch.work()
    assert node.journal.known_returned() == set()
    node.journal.end(live.id, "failed", "gone", {})
    looks.clock.now_s += ASK_S
    watch.work()
    assert len(node.journal.known_returned()) == 2
    until_measured(watch, node)
    assert [row.came_at for row in node.journal.returned_files()] == [0, 1, 2, 3, 4]


def test_what_is_no_file_stops_nothing(node, looks):
    """A link into nowhere, and a folder with the name of a file."""
    path = node.send_back(node.own(node.scan(1)))
    path.with_name("link.dcm").symlink_to("nowhere")
    path.with_name("folder.dcm").mkdir()
    watch = looks('keep = "figures"')
    until_measured(watch, node)
    assert node.journal.known_returned() == {path.name}
    assert not path.exists()
    assert path.with_name("folder.dcm").is_dir()


def test_a_site_keeps_figures_alone(node, looks):
    """The contours of its people, their names and pictures are gone once they are measured."""
    row = node.scan(1)
    path = node.send_back(node.edited(row, moved_heart()))
    other = node.send_back(under_new_uid(node.own(row)))
    watch = looks('keep = "figures"')
    until_measured(watch, node)
    assert not path.exists()
    assert not other.exists()
    assert [edit.editor for edit in node.journal.edits()] == ["", ""]
    assert not list((node.data / "scans" / row.name).glob("edit-*"))
    # It comes again: the receiver keeps it, and it goes.
    path.write_bytes(b"the same")
    watch._seen = None
    watch.work()
    assert not path.exists()
    assert len(node.journal.edits()) == 2


def test_a_site_that_keeps_figures_loses_nothing_else(node, looks):
    """What was not measured stays: of no scan, of a PREVIEW, or not to be read."""
    row = node.scan(1, contoured=False)
    preview = pydicom.dcmread(node.preview(row, moved_heart()))
    row = node.contour(row, labels_of())
    foreign = under_new_uid(node.own(row))
    foreign.PatientID = "M2"
    stay = [node.send_back(preview), node.send_back(foreign)]
    stay.append(stay[0].with_name("half.dcm"))
    stay[-1].write_bytes(stay[0].read_bytes()[:500])
    goes = node.send_back(node.own(row))
    watch = looks('keep = "figures"')
    until_measured(watch, node)
    assert not goes.exists()
    assert all(path.exists() for path in stay)
    assert node.journal.returned_counts() == {
        **{"accepted": 1, "edited": 0, "failed": 1, "preview": 1, "unmatched": 1}
    }
    # Neither at a later look, nor after a start.
    watch = looks('keep = "figures"')
    until_measured(watch, node)
    assert all(path.exists() for path in stay)


def test_a_full_disk_gives_no_file_up(node, looks, monkeypatch, caplog):
    """It is measured when there is room again; the log says it once."""
    node.send_back(node.own(node.scan(1)))
    watch = looks(child=f"raise SystemExit({DISK_FULL})", monkeypatch=monkeypatch)
    watch._surprises = Surprises(looks.clock)
    for _ in range(module.DEATHS + 1):
        watch._work_guarded()
        watch._measuring.child.wait(30)
        watch._work_guarded()
        assert watch._measuring is None
        looks.clock.now_s += LONGEST_PAUSE_S
    (waits,) = node.journal.returned_files(ReturnedState.WAITING)
    assert waits.tries == 0
    assert caplog.text.count("No space left on device") == 1
    assert "Traceback" not in caplog.text


def test_nothing_runs_while_an_error_rests(node, looks, monkeypatch):
    """Nobody looks then whether a live scan comes."""
    node.send_back(node.own(node.scan(1)))
    watch = looks(child=SLEEPS, monkeypatch=monkeypatch)
    watch.work()
    child = watch._measuring.child

    def locked():
        raise JournalBusy("database is locked")

    monkeypatch.setattr(watch._lull, "broken_by", locked)
    watch._work_guarded()
    assert child.poll() is not None
    assert watch._measuring is None


def test_a_site_measures_nothing(node, looks):
    """The files stay, as before."""
    path = node.send_back(node.own(node.scan(1)))
    watch = looks('keep = "files"')
    watch.work()
    assert path.exists()
    assert node.journal.returned_files() == []


def test_a_fault_ends_no_engine(node, looks, monkeypatch, caplog):
    """It is logged once, and tried again; a full disk, too."""
    watch = looks()
    monkeypatch.setattr(module, "LOOK_S", 0.01)
    tries = []

    def fails():
        tries.append(0)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(watch, "work", fails)
    monkeypatch.setattr(watch._surprises, "rests", lambda key: False)
    stopping = Event()
    thread = Thread(target=watch.run, args=(stopping,))
    thread.start()
    wait_for(lambda: len(tries) > 2, 10)
    stopping.set()
    thread.join()
    assert caplog.text.count("what came back is not measured; it is tried again") == 1


def test_a_drift_is_logged_once(node, looks, caplog):
    """When the last contours are found worse than the first, and not again while they are."""
    for number in range(14):
        row = node.scan(100 + number, came=number)
        node.journal.enter_returned({f"{number}.dcm": float(number)})
        (waits,) = node.journal.returned_files(ReturnedState.WAITING)
        rois = [
            EditedRoi(roi="Heart", organ="Heart", change=Change.SAME, dsc=1.0)
            if number < 7
            else EditedRoi(roi="Heart", organ="Heart", change=Change.EDITED, dsc=0.9)
        ]
        node.journal.measured(waits.id, ReturnedState.MEASURED, edits={row.id: rois})
    watch = looks("drift_count = 7")
    watch.work()
    watch._drift_is_due = True
    watch.work()
    (drift,) = node.journal.drifts()
    assert (drift.scanner, drift.roi, drift.count) == ("CT1", "Heart", 7)
    assert (drift.first_dsc, drift.last_dsc) == (1.0, 0.9)
    assert drift.since is not None
    assert caplog.text.count("scanner CT1, Heart: the last 7 contours that came back") == 1
    # Another setting counts from the next start on; a site that measures no more has no alarm.
    looks("drift_count = 8").work()
    assert node.journal.drifts() == []
    node.journal.enter_drifts([drift])
    looks('keep = "files"').work()
    assert node.journal.drifts() == []
