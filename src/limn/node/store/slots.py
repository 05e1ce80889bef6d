"""Files whose names are on disk before their contents: one fsync an instance instead of two.

A new name is safe from a power cut only after an fsync of its folder (POSIX), which costs as
much as that of the contents. So names are made in batches, ahead of what they will hold. Once
written, a slot is renamed to where it belongs; a power cut may undo that, never the contents,
and what then still lies in a slot is taken up at the next start.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from limn.domain.files import fsync_folder
from limn.node.permissions import OWNER_ONLY_FILE, make_private_folder

BATCH = 64
# One call that writes and waits for the disk: after each of several the interpreter has to be got
# back from whoever reads an instance meanwhile. Windows has none.
_THROUGH = getattr(os, "O_DSYNC", 0)


class Slots:
    """Empty files that wait for an instance; safe to share between threads."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._free: list[Path] = []

    @contextmanager
    def offered(self, contents: bytes) -> Iterator[Callable[[], Path]]:
        """`write`, and discard what the caller then does not take.

        Yields
        ------
        taken : gives what `write` gave, or raises what it raised
        """
        left: Path | None = None
        failed: OSError | None = None
        try:
            left = self.write(contents)
        except OSError as error:
            failed = error

        def taken() -> Path:
            nonlocal left
            if left is None:
                raise failed or OSError("taken before")
            slot, left = left, None
            return slot

        try:
            yield taken
        finally:
            if left is not None:
                self.discard(left)

    def write(self, contents: bytes) -> Path:
        """The slot that holds the contents; both survive a power cut once this returns.

        Raises
        ------
        OSError
            If the disk has no room.
        """
        slot = self._next()
        try:
            _write_through(slot, contents)
        except OSError:
            self.discard(slot)
            raise
        return slot

    def discard(self, slot: Path) -> None:
        """What a slot holds is not wanted; it may hold the next."""
        with suppress(FileNotFoundError):
            os.truncate(slot, 0)
        with self._lock:
            self._free.append(slot)

    def left_over(self) -> Iterator[Path]:
        """Slots that an earlier process wrote and did not rename; its empty ones go."""
        if not self._folder.is_dir():
            return
        for slot in sorted(self._folder.iterdir()):
            if slot.stat().st_size:
                yield slot
            else:
                slot.unlink()

    def _next(self) -> Path:
        with self._lock:
            while self._free:
                slot = self._free.pop()
                # Whoever tidies up may take an empty file for rubbish.
                if slot.exists():
                    return slot
            self._free = self._made()
            return self._free.pop()

    def _made(self) -> list[Path]:
        make_private_folder(self._folder.parent)
        make_private_folder(self._folder)
        made = [self._folder / secrets.token_hex(16) for _ in range(BATCH)]
        for slot in made:
            os.close(os.open(slot, os.O_CREAT | os.O_EXCL | os.O_WRONLY, OWNER_ONLY_FILE))
        fsync_folder(self._folder)
        fsync_folder(self._folder.parent)
        return made


def _write_through(path: Path, contents: bytes) -> None:
    """Into a file that is there; on disk once this returns."""
    descriptor = os.open(path, os.O_WRONLY | _THROUGH | getattr(os, "O_BINARY", 0))
    try:
        rest = memoryview(contents)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        if not _THROUGH:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
