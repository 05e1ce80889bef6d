import errno
import logging
import os
import re
import shutil
import sqlite3
import time
from datetime import UTC, datetime
from pathlib import Path

import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import MPEG2MPML, MRImageStorage

from limn.node.config import Watch
from limn.node.dimse.status import OUT_OF_RESOURCES
from limn.node.receive.folder import missed_files, taken_files, unlinked, watched_folder
from limn.node.receive.folder.taken_files import FileState
from limn.node.receive.folder.unlinked import UnlinkedFolder, is_within, open_regular
from limn.node.receive.folder.watched_folder import FolderWatch
from limn.node.receive.store_result import StoreResult
from tests.support.node.parts import COUNT, Door, encoded, running, slices, until, write_slices

SETTLE_S = 0.2


class Place:
    """A watched folder in front of an intake."""

    def __init__(
        self,
        root: Path,
        *,
        rescan_s: float = 30.0,
        settle_s: float = SETTLE_S,
        max_bytes: int = 2**29,
        **door: float,
    ) -> None:
        self.root = root
        self.folder = root / "in"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.memory = root / "watched.sqlite"
        self.door = Door(root / "data", **{"hold_s": 5.0, **door})
        self.settings = Watch(folder=self.folder, settle_s=settle_s, rescan_s=rescan_s)
        self.max_bytes = max_bytes

    def watching(self):
        """The watch, until the block is left."""
        watch = FolderWatch(self.settings, self.door.intake, self.memory, self.max_bytes)
        return running(watch.run)

    def taken(self) -> int:
        """How many instances the spool holds."""
        return len(self.door.files())

    def let_settle(self) -> None:
        """Wait until the watch has scanned and taken the files."""
        time.sleep(3 * SETTLE_S)


class Unnotified(FolderWatch):
    """A watch of a share that sends no notifications."""

    def _start_observer(self) -> None:
        """Start none."""


@pytest.fixture
def place(tmp_path):
    """A folder whose next rescan is far off, so that notifications must work."""
    return Place(tmp_path)


def test_files_dropped_in_become_a_scan(place):
    """A series written into the folder is one scan whose sender is the folder."""
    with place.watching():
        write_slices(place.folder, slices())
        (row,) = place.door.wait_for_scans()
    assert (row.state, len(row.files)) == ("ready", COUNT)
    assert str(place.folder) in row.sender


def test_files_that_were_there_before_the_start_are_taken(place):
    """Files that came while the node was down wait in the folder."""
    write_slices(place.folder, slices())
    with place.watching():
        (row,) = place.door.wait_for_scans()
    assert len(row.files) == COUNT


def test_a_slowly_written_file_is_taken_once_whole(place, caplog):
    """While it grows it is left alone, so that no half of it is read."""
    contents = encoded(slices()[0])
    size = len(contents) // 6 + 1
    with place.watching():
        with (place.folder / "slow.dcm").open("wb") as file:
            for start in range(0, len(contents), size):
                file.write(contents[start : start + size])
                file.flush()
                assert place.taken() == 0
                time.sleep(SETTLE_S / 2)
        until(place.taken)
    (path,) = place.door.files()
    assert path.read_bytes() == contents
    assert "refused" not in caplog.text


def test_a_folder_with_files_that_found_no_room_is_not_complete(tmp_path, monkeypatch):
    """They are tried again; until they are stored, nothing is contoured."""
    place = Place(tmp_path, rescan_s=0.1, min_slices=5)
    accept, room = place.door.intake.accept, [12]

    def filling(contents, source, arrived_s=None):
        if place.taken() >= room[0]:
            return StoreResult(OUT_OF_RESOURCES, "full")
        return accept(contents, source, arrived_s)

    monkeypatch.setattr(place.door.intake, "accept", filling)
    write_slices(place.folder, slices())
    with place.watching():
        until(lambda: place.taken() == 12)
        place.let_settle()
        assert place.door.scans() == []
        room[0] = COUNT
        (row,) = place.door.wait_for_scans()
    assert (row.state, len(row.files)) == ("ready", COUNT)


def test_a_file_that_was_taken_as_broken_is_taken_again_when_whole(tmp_path):
    """A writer that stalled longer than settle_s loses nothing."""
    place = Place(tmp_path, rescan_s=0.1)
    contents = encoded(slices()[0])
    path = place.folder / "stalled.dcm"
    with place.watching():
        path.write_bytes(contents[:-50])
        place.let_settle()
        assert place.taken() == 0
        with path.open("ab") as file:
            file.write(contents[-50:])
        until(place.taken)


def test_a_file_renamed_into_the_folder_is_taken(place):
    """Some tools write beside the folder and then rename."""
    outside = place.root / "outside.dcm"
    outside.write_bytes(encoded(slices()[0]))
    with place.watching():
        place.let_settle()
        outside.rename(place.folder / "inside.dcm")
        until(place.taken)


def test_a_renamed_file_is_no_second_instance(place):
    """A file under another name is the same instance."""
    path = place.folder / "one.dcm"
    path.write_bytes(encoded(slices()[0]))
    with place.watching():
        until(place.taken)
        path.rename(place.folder / "two.dcm")
        place.let_settle()
    assert place.taken() == 1


def test_a_copied_folder_is_taken(place):
    """A whole study with subfolders is copied in."""
    source = place.root / "study"
    write_slices(source / "day 1" / "série", slices("1"))
    write_slices(source / "day 2", slices("2"))
    with place.watching():
        place.let_settle()
        shutil.copytree(source, place.folder / "study")
        rows = place.door.wait_for_scans(2)
    assert sorted(row.animal for row in rows) == ["M1", "M2"]
    assert [len(row.files) for row in rows] == [COUNT, COUNT]


def test_a_folder_moved_in_is_taken(place):
    """A rename brings a whole tree at once, with one notification."""
    source = place.root / "study"
    write_slices(source / "deep" / "deeper", slices())
    with place.watching():
        place.let_settle()
        source.rename(place.folder / "study")
        (row,) = place.door.wait_for_scans()
    assert len(row.files) == COUNT


def test_links_out_of_the_folder_are_not_followed(tmp_path, caplog):
    """Links and pipes are left alone and logged once; the regular file is taken."""
    place = Place(tmp_path, rescan_s=0.1)
    paths = write_slices(tmp_path / "elsewhere", slices())
    (place.folder / "file.dcm").symlink_to(paths[0])
    (place.folder / "folder").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (place.folder / "loop").symlink_to(place.folder, target_is_directory=True)
    (place.folder / "dangling.dcm").symlink_to(tmp_path / "nowhere")
    os.mkfifo(place.folder / "pipe.dcm")
    (place.folder / "real.dcm").write_bytes(paths[1].read_bytes())
    with place.watching():
        until(place.taken)
        place.let_settle()
    assert place.taken() == 1
    left = [r.getMessage() for r in caplog.records if "left alone" in r.getMessage()]
    assert sorted(line.split(str(place.folder))[1] for line in left) == [
        "/dangling.dcm left alone: a link",
        "/file.dcm left alone: a link",
        "/folder left alone: a link to a folder",
        "/loop left alone: a link to a folder",
        "/pipe.dcm left alone: no regular file",
    ]


def test_a_file_that_turns_into_a_link_while_it_settles_is_left(tmp_path):
    """Between scan and reading a link takes the place of the file, or of its folder."""
    place = Place(tmp_path)
    (path,) = write_slices(place.folder, slices()[:1])
    found = path.stat()
    (secret,) = write_slices(tmp_path / "elsewhere", slices("2")[:1])
    os.utime(secret, ns=(found.st_mtime_ns, found.st_mtime_ns))
    version = (found.st_size, found.st_mtime_ns)
    with open_regular(str(path), *version) as file:
        assert file.read() == path.read_bytes()
    path.unlink()
    path.symlink_to(secret)
    with (
        pytest.raises(OSError, match=re.escape(os.strerror(errno.ELOOP))),
        open_regular(str(path), *version),
    ):
        pass
    path.unlink()
    os.mkfifo(path)
    with (
        pytest.raises(OSError, match="no regular file"),
        open_regular(str(path), *version),
    ):
        pass
    (place.folder / "sub").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert not is_within(str(place.folder / "sub"), place.folder)
    assert is_within(str(place.folder), place.folder)


@pytest.mark.parametrize("swapped", ["in", "in/sub", "parent"])
def test_a_folder_that_turns_into_a_link_after_the_look_is_not_read_through(tmp_path, swapped):
    """The watched folder, one in it, or one above it becomes a link between look and read."""
    top = tmp_path / "parent"
    (path,) = write_slices(top / "in" / "sub", slices()[:1])
    folder = UnlinkedFolder(top / "in")
    (found,) = folder.files()
    assert folder.read(found.path, found.state.size, found.state.modified_ns) == path.read_bytes()
    target = top if swapped == "parent" else top / swapped
    target.rename(tmp_path / "elsewhere")
    target.symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert path.exists()
    with pytest.raises(OSError, match=re.escape(os.strerror(errno.ENOTDIR))):
        folder.read(found.path, found.state.size, found.state.modified_ns)
    assert not [each for each in folder.files() if not each.why_left]


def test_a_link_that_was_there_at_the_start_is_followed(tmp_path):
    """An administrator may give a link as the watched folder; links in it are still left alone."""
    (path,) = write_slices(tmp_path / "disk" / "in", slices()[:1])
    (tmp_path / "in").symlink_to(tmp_path / "disk" / "in", target_is_directory=True)
    (tmp_path / "disk" / "in" / "out").symlink_to(tmp_path, target_is_directory=True)
    folder = UnlinkedFolder(tmp_path / "in")
    link, found = sorted(folder.files(), key=lambda each: not each.why_left)
    assert link.why_left == "a link to a folder"
    assert found.path.startswith(str(tmp_path / "in"))
    assert folder.read(found.path, found.state.size, found.state.modified_ns) == path.read_bytes()


@pytest.mark.parametrize("target", ["next", "in"])
def test_a_link_that_was_turned_elsewhere_is_named_and_not_passed_over(tmp_path, target):
    """Some sites turn a link to each day's folder: the old one is not watched in silence."""
    for name in ("today", "next"):
        (tmp_path / name).mkdir()
    (tmp_path / "in").symlink_to(tmp_path / "today", target_is_directory=True)
    folder = UnlinkedFolder(tmp_path / "in")
    folder.check()
    (tmp_path / "in").unlink()
    (tmp_path / "in").symlink_to(tmp_path / target, target_is_directory=True)
    with pytest.raises(OSError, match=re.escape(os.strerror(errno.ELOOP))):
        folder.check()


def test_without_descriptors_of_folders_links_are_left_alone_too(tmp_path, monkeypatch):
    """As on Windows: paths are resolved and compared."""
    monkeypatch.setattr(unlinked, "_BY_DESCRIPTOR", False)
    (path,) = write_slices(tmp_path / "in" / "sub", slices()[:1])
    folder = UnlinkedFolder(tmp_path / "in")
    (found,) = folder.files()
    assert folder.read(found.path, found.state.size, found.state.modified_ns) == path.read_bytes()
    path.parent.rename(tmp_path / "elsewhere")
    path.parent.symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    with pytest.raises(OSError, match="leads out"):
        folder.read(found.path, found.state.size, found.state.modified_ns)
    assert [each.why_left for each in folder.files()] == ["a link to a folder"]


def test_folders_within_folders_end_somewhere(tmp_path):
    """A tree of more levels than descriptors is looked at down to a limit, and named."""
    deep = tmp_path / "in" / "/".join(["d"] * 70)
    (path,) = write_slices(deep, slices()[:1])
    assert path.exists()
    (found,) = UnlinkedFolder(tmp_path / "in").files()
    assert found.why_left == "more than 64 folders deep"


ODD_NAMES = {
    "no UTF-8": b"M\xe4use.dcm",
    "a line end": b"a\n2026-11-29 10:00:00,000 receiver ERROR forged.dcm",
    "other line ends": "a\u2028forged\x85forged\x0cforged\r.dcm".encode(),
    "escape sequences": b"\x1b[2J\x1b[31mred.dcm",
    "255 bytes": b"n" * 251 + b".dcm",
    "markup": b"[red] %s %d {0}.dcm",
}


@pytest.mark.parametrize("name", ODD_NAMES.values(), ids=ODD_NAMES)
def test_a_file_is_taken_whatever_its_name(tmp_path, caplog, name):
    """In a folder of an odd name too; it is remembered, and no name stands raw in the log."""
    place = Place(tmp_path, rescan_s=0.05)
    folder = place.folder / os.fsdecode(name.removesuffix(b".dcm"))
    folder.mkdir()
    for number, ds in enumerate(slices()):
        (folder / os.fsdecode(b"%02d" % number + name[2:])).write_bytes(encoded(ds))
    (place.folder / os.fsdecode(name)).write_text("no DICOM")
    with place.watching():
        (row,) = place.door.wait_for_scans()
        until(lambda: "refused: not a DICOM file" in caplog.text)
    assert (row.state, len(row.files)) == ("ready", COUNT)
    assert row.sender.isprintable()
    assert all(record.getMessage().isprintable() for record in caplog.records)
    caplog.clear()
    with place.watching():
        place.let_settle()
    assert caplog.text == ""


def test_a_surprise_with_one_file_does_not_end_the_watch(tmp_path, caplog, monkeypatch):
    """An error that nobody expected is logged once with the file's name; the others are taken."""
    place = Place(tmp_path, rescan_s=0.05)
    paths = write_slices(place.folder, slices())
    taken = place.door.intake.accept

    def accept(contents, *more):
        if contents == paths[3].read_bytes():
            raise ZeroDivisionError
        return taken(contents, *more)

    monkeypatch.setattr(place.door.intake, "accept", accept)
    with place.watching():
        until(lambda: place.taken() == COUNT - 1)
        place.let_settle()
    surprised = [r.getMessage() for r in caplog.records if "passed over" in r.getMessage()]
    assert len(surprised) == 1
    assert str(paths[3]) in surprised[0]


def test_a_disk_that_is_full_for_a_moment_loses_no_file(tmp_path, caplog, monkeypatch):
    """The list of taken files can't be written: the file is tried again, the series whole."""
    place = Place(tmp_path, rescan_s=0.05)
    paths = write_slices(place.folder, slices())
    add, failures = taken_files.TakenFiles.add, iter(range(2))

    def full_at_first(taken, path, *more):
        if path == str(paths[3]) and next(failures, None) is not None:
            raise sqlite3.OperationalError("database or disk is full")
        add(taken, path, *more)

    monkeypatch.setattr(taken_files.TakenFiles, "add", full_at_first)
    with place.watching():
        (row,) = place.door.wait_for_scans()
    assert (row.state, len(row.files)) == ("ready", COUNT)
    assert "can't write down that it was taken (database or disk is full)" in caplog.text
    assert "passed over" not in caplog.text


def test_a_file_beyond_its_limit_is_not_read(tmp_path, caplog):
    """Its size is known beforehand; the refusal is logged once."""
    place = Place(tmp_path, rescan_s=0.1)
    (path,) = write_slices(place.folder, slices()[:1])
    watch = FolderWatch(place.settings, place.door.intake, place.memory, path.stat().st_size - 1)
    with running(watch.run):
        until(lambda: "receive.max_instance_mb" in caplog.text)
        place.let_settle()
    assert place.taken() == 0
    assert caplog.text.count("receive.max_instance_mb") == 1


def test_a_share_that_vanishes_and_comes_back(tmp_path, caplog):
    """Logged once when it vanishes and once when it is back; then files are taken again."""
    caplog.set_level(logging.INFO)
    place = Place(tmp_path, rescan_s=0.1)
    sent = slices()
    away = tmp_path / "away"
    with place.watching():
        write_slices(place.folder, sent[:5])
        until(lambda: place.taken() == 5)
        place.folder.rename(away)
        until(lambda: "can't be reached" in caplog.text)
        place.let_settle()
        write_slices(away / "new", sent[5:])
        away.rename(place.folder)
        until(lambda: place.taken() == COUNT)
        (row,) = place.door.wait_for_scans()
    assert len(row.files) == COUNT
    assert caplog.text.count("can't be reached") == 1
    assert caplog.text.count("is back") == 1


def test_notifications_work_again_after_the_share_came_back(tmp_path, caplog):
    """The observer watches the new folder, not the old one."""
    caplog.set_level(logging.INFO)
    place = Place(tmp_path, rescan_s=2.0)
    with place.watching():
        place.let_settle()
        place.folder.rename(tmp_path / "away")
        until(lambda: "can't be reached" in caplog.text)
        place.folder.mkdir()
        until(lambda: "is back" in caplog.text)
        # The next rescan is 2 s away.
        started_s = time.monotonic()
        (place.folder / "one.dcm").write_bytes(encoded(slices()[0]))
        until(place.taken)
        assert time.monotonic() - started_s < 1.5


@pytest.mark.skipif(os.name == "nt", reason="Windows has no FIFO and few links")
@pytest.mark.parametrize("kind", ["pipe", "link"])
def test_a_watched_folder_that_is_none_is_named(tmp_path, caplog, kind):
    """A pipe, or a link whose share is not mounted; a folder in its place is taken up."""
    place = Place(tmp_path, rescan_s=0.1)
    folder, gone = tmp_path / "scans", tmp_path / "unmounted"
    if kind == "pipe":
        os.mkfifo(folder)
    else:
        folder.symlink_to(gone)
    place.settings = Watch(folder=folder, settle_s=SETTLE_S, rescan_s=0.1)
    with place.watching():
        until(lambda: "can't be reached" in caplog.text)
        if kind == "pipe":
            folder.unlink()
        (gone if kind == "link" else folder).mkdir()
        write_slices(folder, slices())
        until(lambda: place.taken() == COUNT)
    what = {
        "pipe": "it is a pipe (FIFO), a folder is expected",
        "link": f"it is a link to {gone}, which does not exist",
    }[kind]
    assert f"{folder} can't be reached ({what}); waiting for it to come back\n" in caplog.text


def test_a_share_that_gives_an_error_is_waited_for(tmp_path, caplog):
    """An error other than "no such folder", such as a stale share gives, does not end the watch."""
    place = Place(tmp_path, rescan_s=0.1)
    unreachable = tmp_path / ("x" * 300)
    with pytest.raises(OSError, match="too long") as caught:
        unreachable.stat()
    assert caught.value.errno == errno.ENAMETOOLONG
    place.settings = Watch(folder=unreachable, settle_s=SETTLE_S, rescan_s=0.1)
    with place.watching():
        until(lambda: "can't be reached" in caplog.text)
        place.let_settle()
    assert caplog.text.count("can't be reached") == 1


def test_nothing_is_taken_twice_after_a_restart(tmp_path):
    """The list of taken files survives: the spool is emptied, and nothing is taken again."""
    place = Place(tmp_path, rescan_s=0.1)
    write_slices(place.folder, slices())
    with place.watching():
        place.door.wait_for_scans()
    shutil.rmtree(place.door.spool.root)
    with place.watching():
        place.let_settle()
    assert place.taken() == 0


def test_a_changed_file_is_taken_again_after_a_restart(tmp_path):
    """A file with another size or time is another file."""
    place = Place(tmp_path, rescan_s=0.1)
    path = place.folder / "one.dcm"
    path.write_bytes(encoded(slices()[0]))
    with place.watching():
        until(place.taken)
    path.write_bytes(encoded(slices()[1]))
    with place.watching():
        until(lambda: place.taken() == 2)


def test_the_folder_is_only_read(tmp_path):
    """Names, bytes, times and modes stay, also those of a refused file."""
    place = Place(tmp_path, rescan_s=0.1)
    paths = write_slices(place.folder / "series", slices())
    paths.append(place.folder / "notes.txt")
    paths[-1].write_text("mouse 12")
    for path in paths:
        os.utime(path, ns=(10**18, 10**18))
        path.chmod(0o444)
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns, p.stat().st_mode) for p in paths}
    with place.watching():
        place.door.wait_for_scans()
    after = {
        p: (p.read_bytes(), p.stat().st_mtime_ns, p.stat().st_mode)
        for p in place.folder.rglob("*")
        if p.is_file()
    }
    assert after == before


def test_bad_files_are_logged_once_and_remembered(tmp_path, caplog):
    """Logged with the reason, and not again at a rescan or after a restart."""
    place = Place(tmp_path, rescan_s=0.05)
    (place.folder / "notes.txt").write_text("mouse 12")
    (place.folder / "empty.dcm").touch()
    (place.folder / "cut.dcm").write_bytes(encoded(slices()[0])[:-50])
    for _ in range(2):
        with place.watching():
            until(lambda: caplog.text.count("refused") >= 3)
            place.let_settle()
    assert caplog.text.count("notes.txt refused: not a DICOM file") == 1
    assert caplog.text.count("empty.dcm refused: the file is empty") == 1
    assert caplog.text.count("cut.dcm refused: PixelData") == 1
    assert place.taken() == 0


def test_a_fault_of_many_files_is_logged_once_with_the_count(tmp_path, caplog):
    """A converter's folder of 120 files, and a note among them."""
    place = Place(tmp_path)
    for k in range(120):
        (place.folder / f"{k:03}.dcm").write_bytes(encoded(slices()[0])[: -50 - k])
    (place.folder / "notes.txt").write_text("mouse 12")
    with place.watching():
        until(lambda: "notes.txt refused: not a DICOM file" in caplog.text)
    lines = [record.getMessage() for record in caplog.records if "refused" in record.getMessage()]
    counts = [int(count) + 1 for count in re.findall(r"and (\d+) more files", " ".join(lines))]
    assert sum(counts) + len(lines) - len(counts) == 121
    assert len(lines) < 20


def test_bad_files_among_good_ones_do_no_harm(place):
    """A text file of the scanner beside the slices does not disturb the series."""
    write_slices(place.folder, slices())
    (place.folder / "scan.log").write_text("80 kV")
    with place.watching():
        (row,) = place.door.wait_for_scans()
    assert (row.state, len(row.files)) == ("ready", COUNT)


def test_a_file_is_tried_again_when_the_disk_was_full(tmp_path, caplog):
    """Below the watermark nothing is taken, and nothing is forgotten."""
    place = Place(tmp_path, rescan_s=0.1, min_free_bytes=2**62)
    (place.folder / "one.dcm").write_bytes(encoded(slices()[0]))
    with place.watching():
        until(lambda: "not taken" in caplog.text)
    room = Place(tmp_path, rescan_s=0.1)
    with room.watching():
        until(room.taken)


def test_without_notifications_the_rescan_finds_files(tmp_path):
    """No observer runs: the rescan alone finds the series."""
    place = Place(tmp_path, rescan_s=0.2)
    with running(Unnotified(place.settings, place.door.intake, place.memory).run):
        place.let_settle()
        write_slices(place.folder / "new", slices())
        (row,) = place.door.wait_for_scans()
    assert len(row.files) == COUNT


def test_notifications_are_quicker_than_the_rescan(place):
    """With a rescan every 30 s a file is taken within 5 s."""
    with place.watching():
        place.let_settle()
        started_s = time.monotonic()
        (place.folder / "one.dcm").write_bytes(encoded(slices()[0]))
        until(place.taken)
        assert time.monotonic() - started_s < 5


def test_the_silence_of_the_series_counts_from_its_last_file(tmp_path):
    """last_slice_at is the time of the file, not the time at which the watch took it."""
    place = Place(tmp_path)
    with place.watching():
        place.let_settle()
        write_slices(place.folder, slices())
        written_at = time.time()
        (row,) = place.door.wait_for_scans()
    assert row.last_slice_at == pytest.approx(written_at, abs=0.2)
    assert row.settle_s >= SETTLE_S


@pytest.mark.parametrize("contents", [b"x" * 100, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_damaged_memory_of_taken_files_keeps_no_receiver_down(tmp_path, contents, caplog):
    """It is set aside with a line in the log, and files are remembered anew."""
    path = tmp_path / "watched.sqlite"
    path.write_bytes(contents)
    taken = taken_files.TakenFiles(path)
    assert not taken.has("a", FileState(1, 2))
    taken.add("a", FileState(1, 2))
    assert taken.has("a", FileState(1, 2))
    (kept,) = tmp_path.glob("watched.sqlite.damaged-*")
    assert kept.read_bytes() == contents
    assert f"is kept as {kept.name}" in caplog.text


def test_a_memory_of_taken_files_that_is_damaged_while_it_is_open_is_begun_anew(tmp_path):
    """Another program wrote into it while the node ran."""
    path = tmp_path / "watched.sqlite"
    taken = taken_files.TakenFiles(path)
    taken.add("a", FileState(1, 2))
    taken._db.execute("pragma wal_checkpoint(truncate)")
    path.write_bytes(b"y" * path.stat().st_size)
    taken._db.close()
    taken._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    taken.add("b", FileState(1, 2))
    assert (taken.has("a", FileState(1, 2)), taken.has("b", FileState(1, 2))) == (False, True)


class Unreadable(UnlinkedFolder):
    """A folder whose files with such a name can't be read."""

    names = "secret"
    error: OSError = PermissionError(errno.EACCES, "Permission denied")

    def read(self, path: str, size: int, modified_ns: int) -> bytes:
        """As the system does for a file of somebody else."""
        if self.names in Path(path).name:
            raise self.error
        return super().read(path, size, modified_ns)


@pytest.fixture
def unreadable(monkeypatch):
    """The watch's folder has such files, and waits a moment for them."""
    monkeypatch.setattr(watched_folder, "UnlinkedFolder", Unreadable)
    monkeypatch.setattr(missed_files, "UNREADABLE_S", 3 * SETTLE_S)


@pytest.mark.parametrize("error", [errno.EACCES, errno.EIO, errno.ENOENT])
def test_a_stray_file_that_can_not_be_read_holds_up_no_series(
    tmp_path, caplog, unreadable, monkeypatch, error
):
    """Somebody's notes beside the slices, or a lock that is gone again: logged once at most."""
    monkeypatch.setattr(Unreadable, "error", OSError(error, os.strerror(error)))
    place = Place(tmp_path, rescan_s=0.1, min_slices=5)
    write_slices(place.folder, slices())
    (place.folder / "secret.txt").write_text("x")
    with place.watching():
        (row,) = place.door.wait_for_scans()
        place.let_settle()
    assert (row.state, len(row.files)) == ("ready", COUNT)
    assert caplog.text.count("secret.txt") == (0 if error == errno.ENOENT else 1)


@pytest.mark.parametrize("name", ["secret.dcm", "secret.DCM"])
def test_a_slice_that_can_not_be_read_is_waited_for_and_named_once(
    tmp_path, caplog, unreadable, name
):
    """It may be the end of the animal; once it can be read, the series is whole."""
    place = Place(tmp_path, rescan_s=0.1, min_slices=5)
    *most, last = write_slices(place.folder, slices())
    last.rename(place.folder / name)
    with place.watching():
        until(lambda: len(place.door.files()) == len(most))
        until(lambda: "can't be read: Permission denied" in caplog.text)
        place.let_settle()
        assert place.door.scans() == []
        assert caplog.text.count(name) == 1
        (place.folder / name).rename(last)
        (row,) = place.door.wait_for_scans()
    assert (row.state, len(row.files)) == ("ready", COUNT)


def test_a_series_does_not_come_in_two_while_a_file_of_it_is_locked(tmp_path, monkeypatch, caplog):
    """Another program has the last file for a second, as on a share of Windows."""
    monkeypatch.setattr(watched_folder, "UnlinkedFolder", Unreadable)
    place = Place(tmp_path, rescan_s=30.0, min_slices=5)
    *_, last = write_slices(place.folder, slices())
    last.rename(place.folder / "secret.part")
    with place.watching():
        until(lambda: len(place.door.files()) == COUNT - 1)
        place.let_settle()
        assert place.door.scans() == []
        monkeypatch.setattr(Unreadable, "names", "nothing of this name")
        (row,) = place.door.wait_for_scans()
    assert (row.state, len(row.files)) == ("ready", COUNT)
    assert "can't be read" not in caplog.text


def test_slices_that_are_gone_before_they_are_read_are_logged_with_their_count(
    tmp_path, unreadable, monkeypatch, caplog
):
    """A folder is moved away meanwhile: a line, and what was taken of it is no scan."""
    monkeypatch.setattr(Unreadable, "error", FileNotFoundError(errno.ENOENT, "gone"))
    place = Place(tmp_path, rescan_s=30.0, min_slices=5)
    for k, path in enumerate(write_slices(place.folder, slices())):
        if k >= COUNT // 2:
            path.rename(place.folder / f"secret{k}.dcm")
    with place.watching():
        until(lambda: "gone before it was read" in caplog.text)
        place.let_settle()
        assert place.door.scans() == []
    assert caplog.text.count("gone before it was read") == 1
    assert f"and {COUNT // 2 - 1} more files of this kind" in caplog.text


def broken(place: Place, path: Path, kind: str) -> None:
    """Spoil one file so that limn does not take it."""
    contents = path.read_bytes()
    if kind == "cut off":
        path.write_bytes(contents[:-200])
    elif kind == "cut off in its header":
        path.write_bytes(contents[:200])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "a link":
        path.unlink()
        path.symlink_to(place.folder.parent / "elsewhere.dcm")
    elif kind == "larger than limn takes":
        path.write_bytes(contents + bytes(2**21))
    elif kind == "of a syntax that limn can't decode":
        ds = pydicom.dcmread(path)
        ds.PixelData = encapsulate([ds.PixelData])
        ds.file_meta.TransferSyntaxUID = MPEG2MPML
        ds.save_as(path)


BROKEN = (
    *("cut off", "cut off in its header", "empty", "a link", "larger than limn takes"),
    "of a syntax that limn can't decode",
)


@pytest.mark.parametrize("where", ["last", "first"])
@pytest.mark.parametrize("kind", BROKEN)
def test_a_series_waits_for_slices_that_were_not_taken(tmp_path, kind, where):
    """The end of an animal is missing, and the rest is even: refused after hold_s."""
    place = Place(tmp_path, rescan_s=0.1, min_slices=5, hold_s=1.0, max_bytes=2**21)
    paths = write_slices(place.folder, slices())
    for path in paths[-5:] if where == "last" else paths[:5]:
        broken(place, path, kind)
    with place.watching():
        (row,) = place.door.wait_for_scans()
    assert (row.state, len(row.files)) == ("refused", COUNT - 5)


def test_a_slice_that_was_cut_off_and_comes_whole_ends_the_wait(tmp_path):
    """A copy that was broken off is made again."""
    place = Place(tmp_path, rescan_s=0.1, min_slices=5, hold_s=20.0)
    *_, last = write_slices(place.folder, slices())
    whole = last.read_bytes()
    last.write_bytes(whole[:-200])
    with place.watching():
        until(lambda: len(place.door.files()) == COUNT - 1)
        place.let_settle()
        assert place.door.scans() == []
        last.write_bytes(whole)
        (row,) = place.door.wait_for_scans()
    assert (row.state, len(row.files)) == ("ready", COUNT)


def test_other_files_that_are_refused_hold_up_no_series(tmp_path):
    """A structure set, a DICOMDIR and an image of another kind, named as the slices are."""
    place = Place(tmp_path, rescan_s=0.1, min_slices=5, hold_s=20.0)
    paths = write_slices(place.folder, slices())
    other = pydicom.dcmread(paths[0])
    other.SOPClassUID, other.Modality = MRImageStorage, "MR"
    other.SeriesInstanceUID, other.SOPInstanceUID = "1.2.3", "1.2.3.4"
    other.save_as(place.folder / "other.dcm")
    with place.watching():
        (row,) = place.door.wait_for_scans()
    assert (row.state, len(row.files)) == ("ready", COUNT)


@pytest.mark.parametrize(
    ("name", "contents"),
    [
        ("DICOMDIR", bytes(128) + b"DICM" + bytes(40) + b"1.2.840.10008.1.3.10\0" + bytes(200)),
        ("._slice_0001.dcm", bytes(128) + b"DICM" + bytes(100)),
        ("protocol.log", b"Tube 65 kV, 0.4 mA\n" * 20),
    ],
)
def test_a_programs_own_notes_beside_the_slices_hold_up_no_series(tmp_path, name, contents):
    """What lists the medium, what a Mac adds, and what the scanner writes for a person."""
    place = Place(tmp_path, rescan_s=0.1, min_slices=5, hold_s=20.0)
    write_slices(place.folder, slices())
    (place.folder / name).write_bytes(contents)
    with place.watching():
        (row,) = place.door.wait_for_scans()
    assert (row.state, len(row.files)) == ("ready", COUNT)


@pytest.mark.parametrize("year", [1601, 2400])
def test_a_file_is_taken_whatever_its_time(tmp_path, year, caplog):
    """A share without times gives the beginning of its calendar."""
    place = Place(tmp_path, rescan_s=0.1)
    seconds = int(
        (datetime(year, 1, 1, tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()
    )
    for path in write_slices(place.folder, slices()):
        os.utime(path, (seconds, seconds))
    with place.watching():
        (row,) = place.door.wait_for_scans()
        place.let_settle()
    assert (row.state, len(row.files)) == ("ready", COUNT)
    assert len(place.door.scans()) == 1
    assert "fault of limn" not in caplog.text


def test_another_animal_under_the_same_names_sizes_and_times_is_taken(tmp_path):
    """As from archives without times; a file whose rights alone changed is not taken again."""
    place = Place(tmp_path, rescan_s=0.1)
    first = slices()
    second = slices("2")
    with place.watching():
        for path in write_slices(place.folder, first):
            os.utime(path, (315532800, 315532800))
        place.door.wait_for_scans(1)
        for path in place.folder.glob("*.dcm"):
            path.chmod(0o600)
        place.let_settle()
        for path in write_slices(place.folder, second):
            os.utime(path, (315532800, 315532800))
        rows = place.door.wait_for_scans(2)
    assert [row.series_instance_uid for row in rows] == [
        each[0].SeriesInstanceUID for each in (first, second)
    ]
    assert [len(row.files) for row in rows] == [COUNT, COUNT]


@pytest.mark.skipif(os.geteuid() == 0, reason="root looks into every folder")
def test_a_folder_that_limn_can_not_look_into_is_named(tmp_path, caplog):
    """The other half of the animal may lie there."""
    place = Place(tmp_path, rescan_s=0.1)
    closed = place.folder / "closed"
    closed.mkdir()
    closed.chmod(0)
    with place.watching():
        until(lambda: "can't look into it" in caplog.text)
    closed.chmod(0o700)
    assert str(closed) in caplog.text


def test_a_folder_that_can_not_be_listed_is_found_so(tmp_path, monkeypatch):
    """Whoever limn runs as."""
    (tmp_path / "closed").mkdir()
    listed = os.listdir

    def refused(folder):
        raise PermissionError(errno.EACCES, "Permission denied")

    folder = UnlinkedFolder(tmp_path)
    monkeypatch.setattr(os, "listdir", lambda at: listed(at) if refusals else refused(at))
    refusals = []
    (found,) = folder.files()
    assert "can't look into it (Permission denied)" in found.why_left


def test_what_came_waits_while_the_share_is_gone(tmp_path, caplog):
    """The first half lies there when the share goes; the second comes with it."""
    place = Place(tmp_path, rescan_s=0.05, min_slices=5, settle_s=0.5)
    sent = slices()
    with place.watching():
        write_slices(place.folder, sent[:12])
        until(lambda: len(place.door.files()) == 12)
        place.folder.rename(tmp_path / "away")
        until(lambda: "can't be reached" in caplog.text)
        time.sleep(3.0)
        assert place.door.scans() == []
        (tmp_path / "away").rename(place.folder)
        write_slices(place.folder, sent)
        (row,) = place.door.wait_for_scans()
    assert (row.state, len(row.files)) == ("ready", COUNT)


def test_a_series_that_was_whole_goes_on_when_the_share_is_back(tmp_path, caplog):
    """Nothing more comes of it."""
    place = Place(tmp_path, rescan_s=0.05, settle_s=0.5)
    with place.watching():
        write_slices(place.folder, slices())
        until(lambda: len(place.door.files()) == COUNT)
        place.folder.rename(tmp_path / "away")
        until(lambda: "can't be reached" in caplog.text)
        (tmp_path / "away").rename(place.folder)
        (row,) = place.door.wait_for_scans()
    assert (row.state, len(row.files)) == ("ready", COUNT)
