"""Durable writes: whatever fails and whenever, a name has its old contents or its new ones."""

import errno
import os
import stat
from pathlib import Path

import numpy as np
import pytest

from limn.domain import files
from limn.domain.files import new_folder, replacement, write_durably

POSIX = pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes, and syncs no folder")


def broken(*_, **__):
    """A disk that takes no more, or a process that ends here."""
    raise OSError(errno.EIO, "the disk is gone")


@pytest.fixture
def steps(monkeypatch):
    """Every sync and rename, in the order in which they were done."""
    done = []
    for name in ("fsync", "replace", "rename"):
        real = getattr(os, name)

        def step(*arguments, name=name, real=real):
            if name == "fsync":
                mode = os.fstat(arguments[0]).st_mode
                done.append("sync folder" if stat.S_ISDIR(mode) else "sync file")
            else:
                done.append("rename")
            return real(*arguments)

        monkeypatch.setattr(os, name, step)
    return done


def test_contents_are_on_disk_before_their_name_is(tmp_path, steps):
    """The file is synced, renamed, and its folder synced; nothing else is left in the folder."""
    path = tmp_path / "file"
    write_durably(path, b"contents")
    assert path.read_bytes() == b"contents"
    assert steps == (
        ["sync file", "rename"] if os.name == "nt" else ["sync file", "rename", "sync folder"]
    )
    assert list(tmp_path.iterdir()) == [path]


@POSIX
@pytest.mark.parametrize(("mode", "found"), [(0o666, 0o640), (0o600, 0o600)])
def test_the_mode_is_that_of_a_new_file(tmp_path, mode, found):
    """The umask is taken off, and what stood there before does not decide."""
    path = tmp_path / "file"
    path.touch(0o644)
    before = os.umask(0o027)
    try:
        write_durably(path, b"", mode)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == found


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_step_that_fails_leaves_the_old_contents(tmp_path, monkeypatch, step):
    """The error is raised, the old contents are whole, no part is left, and the next try works."""
    path = tmp_path / "file"
    write_durably(path, b"old")
    with monkeypatch.context() as patched:
        patched.setattr(os, step, broken)
        with pytest.raises(OSError, match="the disk is gone"):
            write_durably(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    write_durably(path, b"new")
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("error", [OSError, ValueError, KeyboardInterrupt])
def test_a_writer_that_fails_half_way_leaves_the_old_contents(tmp_path, error):
    """Whatever ends the writer, its part is removed."""
    path = tmp_path / "file"
    write_durably(path, b"old")

    def write() -> None:
        with replacement(path) as part:
            part.write_bytes(b"ne")
            raise error

    with pytest.raises(error):
        write()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_writer_that_writes_nothing_is_an_error(tmp_path):
    """No part to rename: the old contents stay."""
    path = tmp_path / "file"
    write_durably(path, b"old")
    with pytest.raises(FileNotFoundError), replacement(path):
        pass
    assert path.read_bytes() == b"old"


def test_an_error_after_the_rename_is_raised_and_the_new_contents_stay(tmp_path, monkeypatch):
    """The name may not survive a power cut then; the caller must know."""
    path = tmp_path / "file"
    write_durably(path, b"old")
    monkeypatch.setattr(files, "fsync_folder", broken)
    with pytest.raises(OSError, match="the disk is gone"):
        write_durably(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_of_very_many_files_is_listed_once(tmp_path, monkeypatch):
    """An export folder on a share would be listed anew at each write."""
    listed = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: listed.append(folder) or scandir(folder))
    (tmp_path / ".two.0123456789abcdef.part").touch()
    for name in ("one", "two", "one", "three"):
        write_durably(tmp_path / name, b"x")
    with replacement(tmp_path / "four") as part:
        part.touch()
    assert listed == [tmp_path]
    assert {path.name for path in tmp_path.iterdir()} == {"one", "two", "three", "four"}


@pytest.mark.parametrize("left", [".file.part", ".file.0123456789abcdef.part"])
def test_what_a_killed_process_left_is_removed(tmp_path, left):
    """A part that is longer than the new contents, and that other users could read."""
    path = tmp_path / "file"
    (tmp_path / left).write_bytes(b"half of something longer")
    write_durably(path, b"new", 0o600)
    assert path.read_bytes() == b"new"
    if os.name != "nt":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_writer_finds_the_format_in_the_name_of_the_part(tmp_path):
    """NumPy adds ".npz" to a name without it, and then the part would not be found."""
    path = tmp_path / "arrays.npz"
    with replacement(path, ".npz") as part:
        np.savez(part, a=np.arange(3))
    with np.load(path) as kept:
        np.testing.assert_array_equal(kept["a"], [0, 1, 2])
    assert list(tmp_path.iterdir()) == [path]


def fill(part: Path) -> None:
    """Two files, one in a folder of its own."""
    (part / "inner").mkdir()
    (part / "first").write_bytes(b"1")
    (part / "inner" / "second").write_bytes(b"2")


def test_a_folder_gets_its_name_when_all_in_it_is_on_disk(tmp_path, steps):
    """Its files and folders are synced before the rename."""
    path = tmp_path / "folder"
    with new_folder(path) as part:
        fill(part)
        assert not path.exists()
    assert (path / "first").read_bytes() + (path / "inner" / "second").read_bytes() == b"12"
    renamed = steps.index("rename")
    assert steps[:renamed].count("sync file") == 2
    if os.name != "nt":
        assert steps[:renamed].count("sync folder") == 2
        assert steps[renamed + 1 :] == ["sync folder"]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("step", ["fsync", "rename"])
def test_a_folder_whose_last_steps_fail_is_not_there(tmp_path, monkeypatch, step):
    """No folder, no part, and the next try works."""
    path = tmp_path / "folder"
    with monkeypatch.context() as patched:
        patched.setattr(os, step, broken)
        with pytest.raises(OSError, match="the disk is gone"), new_folder(path) as part:
            fill(part)
    assert list(tmp_path.iterdir()) == []
    with new_folder(path) as part:
        fill(part)
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_of_a_folder_is_removed(tmp_path):
    """No file of the earlier try gets into the new folder."""
    (tmp_path / ".folder.part").mkdir()
    (tmp_path / ".folder.part" / "half").touch()
    with new_folder(tmp_path / "folder") as part:
        fill(part)
    assert {own.name for own in (tmp_path / "folder").iterdir()} == {"first", "inner"}
    assert list(tmp_path.iterdir()) == [tmp_path / "folder"]


def test_a_folder_that_holds_files_is_not_replaced(tmp_path):
    """It stays as it was, and no part is left."""
    path = tmp_path / "folder"
    path.mkdir()
    (path / "mine").touch()
    with pytest.raises(OSError), new_folder(path) as part:  # noqa: PT011 - the system's own text
        fill(part)
    assert [own.name for own in path.iterdir()] == ["mine"]
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def guessed(monkeypatch):
    """Names of parts that somebody else knows: the strongest that a neighbour could be."""
    monkeypatch.setattr(files, "_new_part", lambda path, ending="": path.with_name("part" + ending))


def links(folder: Path, name: str) -> Path:
    """A link at this name to a file of importance; returns that file."""
    precious = folder / "scans.csv"
    precious.write_bytes(b"precious")
    (folder / name).symlink_to(precious)
    return precious


@POSIX
def test_a_link_at_the_name_of_the_part_is_not_followed(tmp_path, guessed):
    """Nothing is written through it; the write fails and can be tried again."""
    precious = links(tmp_path, "part")
    with pytest.raises(FileExistsError):
        write_durably(tmp_path / "file", b"contents")
    assert precious.read_bytes() == b"precious"


@POSIX
@pytest.mark.timeout(10)
def test_a_fifo_at_the_name_of_the_part_does_not_hang(tmp_path, guessed):
    """Neither in the write nor in the sync of a part that another writer made."""
    os.mkfifo(tmp_path / "part")
    with pytest.raises(FileExistsError):
        write_durably(tmp_path / "file", b"contents")
    with pytest.raises(OSError, match="no regular file"), replacement(tmp_path / "file"):
        pass
    assert not (tmp_path / "file").exists()


@POSIX
@pytest.mark.timeout(10)
@pytest.mark.parametrize("name", ["file", ".file.part", ".file.0123456789abcdef.part"])
@pytest.mark.parametrize("kind", ["link", "fifo"])
def test_what_others_put_at_the_names_is_replaced_or_removed(tmp_path, name, kind):
    """A link or FIFO at the name itself, or where an earlier limn had its part."""
    precious = links(tmp_path, name)
    if kind == "fifo":
        (tmp_path / name).unlink()
        os.mkfifo(tmp_path / name)
    write_durably(tmp_path / "file", b"contents")
    assert precious.read_bytes() == b"precious"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "scans.csv"]
    assert (tmp_path / "file").read_bytes() == b"contents"
    assert not (tmp_path / "file").is_symlink()


@POSIX
def test_a_link_in_the_place_of_a_part_is_not_synced_through(tmp_path):
    """Swapped after it was written: the writer's part is not what gets the name."""
    precious = links(tmp_path, "other")
    with pytest.raises(OSError), replacement(tmp_path / "file") as part:  # noqa: PT011
        part.symlink_to(precious)
    assert not (tmp_path / "file").exists()


def test_the_name_of_a_part_is_another_each_time(tmp_path):
    """So nothing can stand there before."""
    names = set()
    for _ in range(5):
        with replacement(tmp_path / "file", ".csv") as part:
            part.touch()
            names.add(part.name)
    assert len(names) == 5
    assert all(name.startswith(".file.") and name.endswith(".part.csv") for name in names)
