"""Files whose names are on disk before their contents: one fsync an instance instead of two.

A new name survives a power cut only after an fsync of its folder (POSIX), which costs as much as
the fsync of the contents. So empty files (slots) are created in batches, before instances need
them. A slot that was written is renamed to its place in the spool. A power cut may undo the
rename but not the contents; the next start places an instance that still lies in a slot.
"""

from __future__ import annotations

import os
import secrets
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from limn.domain.files import OWNER_ONLY_FILE, fsync_folder
from limn.node.permissions import make_private_folder

BATCH = 64
# O_DSYNC writes and syncs in one call. With separate calls this thread would wait after each for
# the interpreter lock, which a reader of an instance holds. Windows has no such flag.
_WRITE_THROUGH = getattr(os, "O_DSYNC", 0)


class Slots:
    """Empty files that wait for an instance; safe to share between threads."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._free: list[Path] = []

    @contextmanager
    def written(self, contents: bytes) -> Iterator[Callable[[], Path]]:
        """Write a slot, and discard it at the end if the caller has not taken it.

        Yields
        ------
        take : returns the slot, or raises the error of `write`
        """
        slot: Path | None = None
        failure: OSError | None = None
        try:
            slot = self.write(contents)
        except OSError as error:
            failure = error

        def take() -> Path:
            nonlocal slot
            if slot is None:
                raise failure or OSError("the slot was taken before")
            taken, slot = slot, None
            return taken

        try:
            yield take
        finally:
            if slot is not None:
                self.discard(slot)

    def write(self, contents: bytes) -> Path:
        """Write the contents to a slot; name and contents survive a power cut once this returns.

        Raises
        ------
        OSError
            If the disk has no room.
        """
        slot = self._free_slot()
        try:
            _write_through(slot, contents)
        except OSError:
            self.discard(slot)
            raise
        return slot

    def discard(self, slot: Path) -> None:
        """Empty a slot and use it for another instance."""
        with suppress(FileNotFoundError):
            os.truncate(slot, 0)
        with self._lock:
            self._free.append(slot)

    def left_over(self) -> Iterator[Path]:
        """Slots that an earlier process wrote and did not rename; removes its empty slots."""
        if not self._folder.is_dir():
            return
        for slot in sorted(self._folder.iterdir()):
            # Whatever else lies there is not limn's.
            found = slot.lstat()
            if not stat.S_ISREG(found.st_mode):
                continue
            if found.st_size:
                yield slot
            else:
                slot.unlink()

    def _free_slot(self) -> Path:
        with self._lock:
            while self._free:
                slot = self._free.pop()
                # A person who tidies up may have deleted the empty file.
                if slot.exists():
                    return slot
            self._free = self._create_batch()
            return self._free.pop()

    def _create_batch(self) -> list[Path]:
        make_private_folder(self._folder.parent)
        make_private_folder(self._folder)
        slots: list[Path] = []
        try:
            while len(slots) < BATCH:
                slot = self._folder / secrets.token_hex(16)
                os.close(os.open(slot, os.O_CREAT | os.O_EXCL | os.O_WRONLY, OWNER_ONLY_FILE))
                slots.append(slot)
        except OSError:
            # The last inodes belong to journal and structure sets: keep one for this instance.
            while len(slots) > 1:
                slots.pop().unlink()
            if not slots:
                raise
        fsync_folder(self._folder)
        fsync_folder(self._folder.parent)
        return slots


def _write_through(path: Path, contents: bytes) -> None:
    """Write to a file that exists; the contents are on disk once this returns."""
    descriptor = os.open(path, os.O_WRONLY | _WRITE_THROUGH | getattr(os, "O_BINARY", 0))
    try:
        rest = memoryview(contents)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        if not _WRITE_THROUGH:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
