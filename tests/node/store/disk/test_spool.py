import errno
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limn.domain.files import write_durably
from limn.node.receive.slots import Slots
from limn.node.store.disk.space import Inodes
from limn.node.store.disk.spool import RELEASED, SLOTS, Released, Spool, SpoolFull

HOSTILE = [
    "../../etc/passwd",
    "/etc/passwd",
    "..",
    "",
    ".",
    "a/b\\c",
    "nul\0byte",
    "1.2.3\n",
    "x" * 5000,
    "CON",
    "\u202e\u0000ü",
]


@pytest.fixture
def spool(tmp_path):
    """An empty spool."""
    return Spool(tmp_path / "spool", 0)


def store(spool: Spool, series: str, instance: str, contents: bytes):
    """Write an instance and name it, as the intake does."""
    return spool.place(Slots(spool.root / SLOTS).write(contents), series, instance)


def test_an_instance_is_stored_as_it_came(spool):
    """The bytes on disk are the bytes received."""
    path = store(spool, "1.2.3", "1.2.3.4", b"bytes")
    assert path.read_bytes() == b"bytes"
    assert path == spool.folder("1.2.3") / spool.file_name("1.2.3.4")


def test_the_instances_of_a_series_lie_in_one_folder(spool):
    """One folder per series, one file per instance, whatever the order."""
    for series, instance in [("1", "1.1"), ("2", "2.1"), ("1", "1.2"), ("1", "1.1")]:
        store(spool, series, instance, instance.encode())
    assert len(list(spool.folders())) == 2
    assert len(list(spool.folder("1").glob("*.dcm"))) == 2


def test_nothing_half_written_stays(spool):
    """Nothing but the instance and room for the release marker is left in its folder."""
    path = store(spool, "1", "1.1", b"x" * 100_000)
    assert set(spool.folder("1").iterdir()) == {path, spool.folder("1") / RELEASED}


def test_a_part_file_of_a_crash_is_no_instance(spool):
    """A file that a power cut left unfinished, of this or an earlier limn, is not listed."""
    path = store(spool, "1", "1.1", b"whole")
    path.with_name(f".{spool.file_name('1.2')}.part").write_bytes(b"ha")
    Slots(spool.root / SLOTS).write(b"ha")
    assert list(spool.folder("1").glob("*.dcm")) == [path]
    assert list(spool.folders()) == [spool.folder("1")]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    """The rename comes last: a reader never sees half of the new contents."""
    path = tmp_path / "file"
    write_durably(path, b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            write_durably(path, b"new")
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("series", HOSTILE)
@pytest.mark.parametrize("instance", HOSTILE)
def test_no_sender_chooses_a_path(tmp_path, series, instance):
    """A hostile UID lands in the spool like any other, one folder deep."""
    spool = Spool(tmp_path / "spool", 0)
    path = store(spool, series, instance, b"x")
    assert path.resolve().parent.parent == (tmp_path / "spool").resolve()
    assert sorted(tmp_path.iterdir()) == [tmp_path / "spool"]


@given(st.text(max_size=80), st.text(max_size=80))
def test_different_uids_never_share_a_file(first, second):
    """Names follow from UIDs, and from nothing but them."""
    spool = Spool(Path("/spool"), 0)
    same = first == second
    assert (spool.file_name(first) == spool.file_name(second)) is same
    assert (spool.folder(first) == spool.folder(second)) is same
    assert spool.folder(first).parent == spool.root


def test_the_watermark(tmp_path):
    """Below min_free_bytes the spool is full, at or above it is not."""
    free = shutil.disk_usage(tmp_path).free
    assert Spool(tmp_path / "a", free * 2).is_full()
    assert not Spool(tmp_path / "b", free // 2).is_full()


@pytest.mark.parametrize(
    ("free", "total", "full", "low"),
    [
        (400, 10**6, True, True),
        (4000, 10**6, False, True),
        (6000, 10**6, False, False),
        (60, 1000, False, True),
        (40, 1000, True, True),
        (0, 10, False, True),
    ],
)
def test_inodes_have_watermarks_too(spool, monkeypatch, free, total, full, low):
    """A disk with room for bytes may have none for files; a small disk keeps a small part."""
    inodes = Inodes(free, total)
    monkeypatch.setattr("limn.node.store.disk.spool.inodes_of", lambda folder: inodes)
    assert spool.is_full() is full
    assert spool.is_low(0) is low
    assert (f"{free} inodes free and keeps" in spool.shortage()) is full


def test_a_disk_without_inodes_of_its_own_has_no_watermark_for_them(spool, monkeypatch):
    """Btrfs says 0 of 0."""
    real = os.statvfs(spool.root.parent)
    none = SimpleNamespace(
        **{name: getattr(real, name) for name in ("f_bavail", "f_frsize", "f_blocks", "f_bfree")},
        f_files=0,
        f_favail=0,
    )
    monkeypatch.setattr(os, "statvfs", lambda folder: none)
    assert not spool.is_full()
    assert not spool.is_low(0)


def test_a_disk_that_can_not_be_written_is_full(tmp_path):
    """Every error of the disk becomes SpoolFull with its reason."""
    (tmp_path / "spool").write_text("a file where the folder should be")
    slot = Slots(tmp_path / "slots").write(b"x")
    with pytest.raises(SpoolFull, match=rf"Errno {errno.ENOTDIR}|Errno {errno.EEXIST}"):
        Spool(tmp_path / "spool", 0).place(slot, "1", "1.1")


def test_the_release_marker(spool):
    """The number of instances at the last complete release, and their sender."""
    store(spool, "1", "1.1", b"x")
    assert spool.released(spool.folder("1")) == Released()
    spool.mark_released("1", Released(1, "SCANNER@10.0.0.1", 3, 2.5))
    assert spool.released(spool.folder("1")) == Released(1, "SCANNER@10.0.0.1", 3, 2.5)
    spool.mark_released("1", Released(2, "OTHER@10.0.0.2"))
    assert spool.released(spool.folder("1")) == Released(2, "OTHER@10.0.0.2")
    assert len(list(spool.folder("1").glob("*.dcm"))) == 1


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"instances": "many", "sender": ""}'])
def test_a_damaged_marker_means_not_released(spool, text):
    """When in doubt the series counts as half-sent."""
    store(spool, "1", "1.1", b"x")
    (spool.folder("1") / RELEASED).write_text(text)
    assert spool.released(spool.folder("1")) == Released()


def test_an_absent_spool_is_empty(spool):
    """Before the first instance there is nothing to list."""
    assert list(spool.folders()) == []


def test_the_release_marker_needs_no_room(spool):
    """A disk that is full when the association ends still takes the marker."""
    path = store(spool, "1", "1.1", b"x").with_name(RELEASED)
    before = path.stat()
    spool.mark_released("1", Released(400, "A" * 16 + "@" + "\u00e9" * 500, 400, 29.123))
    assert path.stat().st_ino == before.st_ino
    assert path.stat().st_size == before.st_size
    assert spool.released(spool.folder("1")).instances == 400
