"""A watched folder that changes while limn looks: copies that go on, contents that come later."""

import errno
import logging
import os
import re
import shutil
import threading
import time
from contextlib import contextmanager

import pydicom
import pytest

from limn.node.dimse.status import DUPLICATE
from limn.node.receive.folder.changes import Changes
from limn.node.receive.folder.taken_files import TakenFiles
from limn.node.receive.folder.unlinked import UnlinkedFolder
from limn.node.receive.folder.watched_folder import FolderWatch
from tests.node.receive.folder.test_watched_folder import Place, Unnotified
from tests.support.node.parts import COUNT, Door, encoded, running, slices, until, write_slices

PACE_S = 0.05
MANY = 40


@contextmanager
def copying(folder, datasets, pace_s=PACE_S):
    """A copy that is under way: one file after another."""
    folder.mkdir(parents=True, exist_ok=True)

    def copy():
        for number, ds in enumerate(datasets):
            (folder / f"ct_{number:03d}.dcm").write_bytes(encoded(ds))
            time.sleep(pace_s)

    thread = threading.Thread(target=copy)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def test_a_copy_on_a_share_without_notifications_is_one_scan(tmp_path):
    """Files come faster than settle_s, and limn looks more seldom than that."""
    place = Place(tmp_path, rescan_s=0.9, settle_s=0.3, min_slices=5)
    with running(Unnotified(place.settings, place.door.intake, place.memory).run):
        place.let_settle()
        with copying(place.folder / "new", slices("1", MANY)):
            (row,) = place.door.wait_for_scans()
    assert (len(row.files), row.version) == (MANY, 1)


@pytest.mark.parametrize("where", ["new", "old"])
def test_a_copy_into_a_tree_that_takes_long_to_list_is_one_scan(tmp_path, monkeypatch, where):
    """Each file of a share takes a while to ask for, also in the very folder of the copy."""
    place = Place(tmp_path, rescan_s=0.5, settle_s=0.3, min_slices=5)
    (place.folder / "old").mkdir()
    for number in range(60):
        (place.folder / "old" / f"note{number}.txt").write_text("x")

    lists = []

    def slow(answer):
        def files(*args, **settings):
            lists.append(args)
            for found in answer(*args, **settings):
                time.sleep(0.02)
                yield found

        return files

    for name in ("files", "files_of"):
        if hasattr(UnlinkedFolder, name):
            monkeypatch.setattr(UnlinkedFolder, name, slow(getattr(UnlinkedFolder, name)))
    with place.watching():
        until(lambda: lists)
        time.sleep(0.1)
        # The copy begins in the middle of a look, and most of it is seen at the next one.
        with copying(place.folder / where, slices("1", MANY)):
            (row,) = place.door.wait_for_scans()
    assert (len(row.files), row.version) == (MANY, 1)


def test_a_folder_that_is_quick_ends_settle_s_after_its_last_file(tmp_path):
    """The second look costs no waiting."""
    place = Place(tmp_path, settle_s=0.5)
    with place.watching():
        place.let_settle()
        write_slices(place.folder, slices())
        began_s = time.monotonic()
        place.door.wait_for_scans()
        took_s = time.monotonic() - began_s
    assert 0.4 < took_s < 2.5


def test_a_folder_that_is_gone_after_its_files_were_taken_ends(tmp_path, monkeypatch):
    """Some programs move what was taken away at once."""
    place = Place(tmp_path, rescan_s=0.5)
    write_slices(place.folder / "new", slices())
    moved = []
    listed = UnlinkedFolder.files_of

    def files_of(folder, path, **settings):
        if path.endswith("new") and place.taken() == COUNT and not moved:
            moved.append((place.folder / "new").rename(tmp_path / "away"))
        return listed(folder, path, **settings)

    monkeypatch.setattr(UnlinkedFolder, "files_of", files_of)
    with place.watching():
        (row,) = place.door.wait_for_scans()
    assert moved
    assert (row.state, len(row.files)) == ("ready", COUNT)


def test_a_file_that_changes_while_it_is_read_is_no_file_of_one_moment(tmp_path, monkeypatch):
    """Also if the writer sets the time of its contents back, as rsync does."""
    path = tmp_path / "slice.dcm"
    path.write_bytes(b"A" * 100)
    found, look, looks = path.stat(), os.fstat, []

    def fstat(descriptor):
        state = look(descriptor)
        if not looks:
            time.sleep(0.02)
            path.write_bytes(b"B" * 100)
            os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
        looks.append(state)
        return state

    folder = UnlinkedFolder(tmp_path)
    monkeypatch.setattr(os, "fstat", fstat)
    with pytest.raises(BlockingIOError, match="while it was read") as caught:
        folder.read(str(path), found.st_size, found.st_mtime_ns)
    assert caught.value.errno == errno.EAGAIN
    assert folder.read(str(path), found.st_size, found.st_mtime_ns) == b"B" * 100


def preallocated(ds):
    """A slice as a copy leaves it that makes room first: its last pixels are zero."""
    contents = encoded(ds)
    return contents[:-40] + bytes(40)


def pixels(place, uid):
    """The last pixels of a slice in the spool."""
    (found,) = (path for path in place.door.files() if pydicom.dcmread(path).SOPInstanceUID == uid)
    return found.read_bytes()[-40:]


@pytest.fixture
def early(tmp_path):
    """A folder in which the last slice was taken before its pixels came."""
    place = Place(tmp_path, min_slices=5, settle_s=0.6)
    sent = slices()
    write_slices(place.folder, sent)
    (place.folder / f"ct_{COUNT - 1:03d}.dcm").write_bytes(preallocated(sent[-1]))
    return place, sent[-1]


def finish(place, ds):
    """Write the pixels of the last slice."""
    (place.folder / f"ct_{COUNT - 1:03d}.dcm").write_bytes(encoded(ds))


def test_pixels_that_come_after_a_file_was_taken_replace_the_first(early, caplog):
    """While the series waits there is one version, of the right pixels."""
    place, last = early
    with place.watching():
        until(lambda: place.taken() == COUNT)
        finish(place, last)
        until(lambda: pixels(place, last.SOPInstanceUID) == encoded(last)[-40:])
        (row,) = place.door.wait_for_scans()
    assert (row.state, row.version, len(row.files)) == ("ready", 1, COUNT)
    assert f"{last.SOPInstanceUID} was changed after limn took it" in caplog.text
    assert "A scan was made from the first" not in caplog.text
    assert place.door.send([last]) == [0]


def test_pixels_that_come_after_the_hand_over_make_the_next_version(early, caplog):
    """The scan of zeros is named, and a whole one follows."""
    place, last = early
    with place.watching():
        place.door.wait_for_scans()
        finish(place, last)
        first, second = place.door.wait_for_scans(2)
    assert (first.state, second.state) == ("superseded", "ready")
    assert (second.version, len(second.files)) == (2, COUNT)
    assert first.input_digest != second.input_digest
    assert pixels(place, last.SOPInstanceUID) == encoded(last)[-40:]
    assert "A scan was made from the first: use the next version" in caplog.text


def test_new_pixels_are_contoured_after_a_kill_too(early):
    """The receiver is killed between the new contents and the next version."""
    place, last = early
    with place.watching():
        place.door.wait_for_scans()
        finish(place, last)
        until(lambda: pixels(place, last.SOPInstanceUID) == encoded(last)[-40:])
    after = Door(place.root / "data", hold_s=1.0, min_slices=5)
    after.intake.recover()
    rows = after.wait_for_scans(2)
    assert [(row.version, len(row.files)) for row in rows] == [(1, COUNT), (2, COUNT)]
    again = Door(place.root / "data", hold_s=1.0, min_slices=5)
    again.intake.recover()
    assert again.intake.settle() == 0


def test_another_file_does_not_replace_a_slice(tmp_path, caplog):
    """A UID that is used twice is refused as over C-STORE, and the first is kept."""
    place = Place(tmp_path, min_slices=5)
    sent = slices()
    write_slices(place.folder, sent)
    with place.watching():
        place.door.wait_for_scans()
        (place.folder / "other.dcm").write_bytes(preallocated(sent[-1]))
        until(lambda: "came before with other content" in caplog.text)
    assert pixels(place, sent[-1].SOPInstanceUID) == encoded(sent[-1])[-40:]
    sent[-1].PixelData = bytes(len(sent[-1].PixelData))
    assert place.door.send([sent[-1]]) == [DUPLICATE]


def test_a_series_waits_while_a_file_of_it_changes(early):
    """It was taken, and somebody writes on: its folder is like an open association again."""
    place, last = early
    with place.watching():
        until(lambda: place.taken() == COUNT)
        time.sleep(1.0)
        finish(place, last)
        for _ in range(5):
            time.sleep(0.4)
            finish(place, last)
            assert place.door.scans() == []
        (row,) = place.door.wait_for_scans()
    assert row.version == 1
    assert pixels(place, last.SOPInstanceUID) == encoded(last)[-40:]


def test_a_folder_that_is_renamed_is_no_wish_for_its_contours(tmp_path, caplog):
    """Whoever tidies up gets nothing again; a copy is sent again, as over C-STORE (D-058)."""
    caplog.set_level(logging.INFO)
    place = Place(tmp_path, rescan_s=0.3)
    write_slices(place.folder / "a", slices())
    with place.watching():
        place.door.wait_for_scans()
        (place.folder / "a").rename(place.folder / "a-done")
        time.sleep(1.2)
        place.door.scans()
        assert "came again" not in caplog.text
        shutil.copytree(place.folder / "a-done", place.folder / "once more")
        until(lambda: place.door.scans() and "came again, 20 slices" in caplog.text)
    assert len(place.door.scans()) == 1


def test_a_rename_is_known_after_a_restart(tmp_path, caplog):
    """Somebody tidies up while the node is down."""
    caplog.set_level(logging.INFO)
    place = Place(tmp_path, rescan_s=0.3)
    write_slices(place.folder / "a", slices())
    with place.watching():
        place.door.wait_for_scans()
    (place.folder / "a").rename(place.folder / "b")
    with place.watching():
        time.sleep(1.0)
        place.door.scans()
    assert "came again" not in caplog.text


def test_a_notification_lists_its_own_folder_alone(tmp_path, monkeypatch):
    """Thousands of old files elsewhere are not asked for."""
    place = Place(tmp_path)
    write_slices(place.folder / "old", slices())
    whole, single = [], []
    files, files_of = UnlinkedFolder.files, UnlinkedFolder.files_of

    def all_files(folder):
        whole.append(folder)
        return files(folder)

    def some_files(folder, path, **settings):
        single.append(path)
        return files_of(folder, path, **settings)

    monkeypatch.setattr(UnlinkedFolder, "files", all_files)
    monkeypatch.setattr(UnlinkedFolder, "files_of", some_files)
    with place.watching():
        place.door.wait_for_scans()
        single.clear()
        write_slices(place.folder / "new" / "deep", slices("2"))
        place.door.wait_for_scans(2)
    assert len(whole) == 1
    assert single
    assert str(place.folder / "old") not in single


def test_a_scan_asks_the_memory_of_no_known_file(tmp_path, monkeypatch):
    """What was found at the last scan is known; what is gone is forgotten."""
    place = Place(tmp_path)
    paths = write_slices(place.folder, slices())
    watch = FolderWatch(place.settings, place.door.intake, place.memory)
    for found in UnlinkedFolder(place.folder).files():
        watch._taken.add(found.path, found.state)
    taken = TakenFiles(place.memory)
    asked = []
    ask = TakenFiles._all
    monkeypatch.setattr(TakenFiles, "_all", lambda each, *of: asked.append(of) or ask(each, *of))

    def scan():
        asked.clear()
        taken.whole_scan_begins()
        for found in UnlinkedFolder(place.folder).files():
            assert taken.has(found.path, found.state)
        return len(asked)

    assert [scan() for _ in range(3)] == [COUNT, 0, 0]
    paths[0].unlink()
    assert scan() == 0
    assert scan() == 0
    assert str(paths[0]) not in {*taken._known, *taken._before}


def test_what_a_notification_names_outside_the_folder_means_all_of_it(tmp_path):
    """Some systems name the folder by its real path."""
    changes = Changes(str(tmp_path))
    changes.note(str(tmp_path / "a"))
    assert changes.take() == {str(tmp_path / "a"): False}
    changes.note("/private" + str(tmp_path))
    assert changes.take() is None
    assert changes.take() == {}


def test_a_folder_of_the_watch_that_became_a_link_is_not_listed(tmp_path):
    """A notification names it; what lies behind the link is not read."""
    write_slices(tmp_path / "elsewhere", slices())
    (tmp_path / "in").mkdir()
    folder = UnlinkedFolder(tmp_path / "in")
    (tmp_path / "in" / "sub").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    with pytest.raises(OSError, match=re.escape(os.strerror(errno.ENOTDIR))):
        list(folder.files_of(str(tmp_path / "in" / "sub")))
