import errno
import fcntl
import os
import threading

import pytest

from limn.node.receive.slots import BATCH, Slots
from limn.node.store.disk.spool import SLOTS
from tests.support.node.parts import SCP, Door, encoded, slices


@pytest.fixture
def slots(tmp_path):
    """No slots yet."""
    return Slots(tmp_path / "slots")


def holding(slots):
    """The contents of every slot that is not empty."""
    return sorted(filter(None, (path.read_bytes() for path in slots._folder.iterdir())))


def test_what_was_written_is_there(slots):
    """Every slot holds its own contents, beyond the first batch too."""
    written = [slots.write(b"%04d" % n) for n in range(BATCH + 3)]
    assert [path.read_bytes() for path in written] == [b"%04d" % n for n in range(BATCH + 3)]


def test_a_name_is_on_disk_before_its_contents(slots, monkeypatch):
    """The folder is synced when a batch is made, and not again for each instance."""
    synced = []
    monkeypatch.setattr(
        "limn.node.receive.slots.fsync_folder", lambda folder: synced.append(folder.name)
    )
    for n in range(BATCH):
        slots.write(b"%d" % n)
    assert synced.count("slots") == 1
    slots.write(b"one more")
    assert synced.count("slots") == 2


@pytest.mark.skipif(not hasattr(os, "O_DSYNC"), reason="Windows: fsync, as below")
def test_contents_are_written_through(slots, monkeypatch):
    """The file descriptor of the write has the flag O_DSYNC."""
    through, write = [], os.write

    def seen(descriptor, contents):
        flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
        through.append((os.fstat(descriptor).st_ino, flags & os.O_DSYNC == os.O_DSYNC))
        return write(descriptor, contents)

    monkeypatch.setattr(os, "write", seen)
    slot = slots.write(b"x")
    assert through == [(slot.stat().st_ino, True)]


def test_contents_are_synced_where_nothing_writes_through(slots, monkeypatch):
    """Write does not return before fsync has."""
    synced = []
    slots.write(b"the batch is made")
    monkeypatch.setattr("limn.node.receive.slots._WRITE_THROUGH", 0)
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    slot = slots.write(b"x")
    assert synced == [slot.stat().st_ino]
    assert slot.read_bytes() == b"x"


def test_the_last_inodes_are_left_to_others(slots, monkeypatch):
    """A batch that the disk does not take whole keeps one file, and a failed one keeps none."""
    left, create = [5], os.open

    def creates(path, flags, *mode, **more):
        if flags & os.O_CREAT:
            if not left[0]:
                raise OSError(errno.ENOSPC, "No space left on device")
            left[0] -= 1
        return create(path, flags, *mode, **more)

    monkeypatch.setattr(os, "open", creates)
    assert slots.write(b"first").read_bytes() == b"first"
    assert len(list(slots._folder.iterdir())) == 1
    for _ in range(3):
        with pytest.raises(OSError, match="No space left"):
            slots.write(b"second")
    assert len(list(slots._folder.iterdir())) == 1


def test_a_write_that_ends_early_goes_on(slots, monkeypatch):
    """A kernel may take less than it was given."""
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, rest: write(descriptor, bytes(rest[:3])))
    assert slots.write(b"0123456789").read_bytes() == b"0123456789"


def test_a_discarded_slot_is_empty_and_used_again(slots):
    """No byte of a refused instance stays, and refusals leak no file."""
    for n in range(3 * BATCH):
        slots.discard(slots.write(b"longer than the next %d" % n))
    assert holding(slots) == []
    slot = slots.write(b"x")
    assert slot.read_bytes() == b"x"
    assert len(list(slots._folder.iterdir())) <= BATCH


def test_a_disk_without_room_leaves_no_slot_behind(slots, monkeypatch):
    """The error reaches the caller, and the half-written slot is emptied."""
    slots.write(b"whole")

    write = os.write

    def full(descriptor, contents):
        if len(contents) < 4:
            raise OSError(28, "No space left on device")
        return write(descriptor, contents[:2])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        slots.write(b"half")
    assert holding(slots) == [b"whole"]


def test_a_slot_that_is_not_taken_is_discarded(slots):
    """A refusal, by return or by error, empties the slot that was written for it."""
    with slots.written(b"taken") as take:
        kept = take()
    with slots.written(b"refused"):
        pass
    with pytest.raises(KeyError), slots.written(b"broken"):
        raise KeyError
    assert kept.read_bytes() == b"taken"
    assert holding(slots) == [b"taken"]


def test_a_failed_write_is_raised_to_the_caller_that_takes(slots, monkeypatch):
    """A duplicate needs no room, and is answered as one on a full disk too."""
    monkeypatch.setattr(slots, "write", raising(OSError(28, "No space left on device")))
    with slots.written(b"not asked for"):
        pass
    with slots.written(b"asked for") as take, pytest.raises(OSError, match="No space left"):
        take()


def raising(error):
    """A function that does."""

    def does(*_):
        raise error

    return does


def test_deleted_empty_slots_are_replaced(slots):
    """Empty slots that a person deleted are created again."""
    slots.write(b"first")
    for path in slots._folder.iterdir():
        path.unlink()
    assert slots.write(b"second").read_bytes() == b"second"
    assert holding(slots) == [b"second"]


def test_threads_never_share_a_slot(slots):
    """Eight at once, each its own files."""
    written, lock = {}, threading.Lock()

    def write(name):
        for n in range(40):
            contents = b"%d %d" % (name, n)
            slot = slots.write(contents)
            with lock:
                written[contents] = slot

    threads = [threading.Thread(target=write, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(slot.read_bytes() == contents for contents, slot in written.items())
    assert len(set(written.values())) == 320


def test_a_power_cut_that_undoes_names_loses_no_instance(tmp_path):
    """Renames are not synced one by one: an instance in a slot after a crash is placed again."""
    door = Door(tmp_path)
    door.send(slices())
    named = door.files()
    for number, path in enumerate(named[:7]):
        path.rename(door.spool.root / SLOTS / f"undone-{number}")
    again = Door(tmp_path)
    again.intake.recover()
    assert again.files() == named
    assert list(Slots(door.spool.root / SLOTS).left_over()) == []


def test_after_a_crash_the_first_of_two_is_kept(tmp_path):
    """A slot with a changed slice, refused before the crash, does not replace the first."""
    door = Door(tmp_path)
    good, changed = slices()[0], slices()[0]
    changed.PixelData = bytes(len(changed.PixelData))
    door.send([good])
    (door.spool.root / SLOTS / "refused").write_bytes(encoded(changed))
    (door.spool.root / SLOTS / "torn").write_bytes(encoded(good)[:700])
    again = Door(tmp_path)
    again.intake.recover()
    assert [path.read_bytes() for path in again.files()] == [encoded(good)]
    assert again.send([good], SCP) == [0]
