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
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from limn.node.modes import OWNER_ONLY_FILE, make_private_folder
from limn.node.spool import fsync_folder

BATCH = 64
# An association waits for its own write, so more than there are associations wait for none.
WRITERS = 32


class Slots:
    """Empty files that wait for an instance; safe to share between threads."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._free: list[Path] = []
        self._writers = ThreadPoolExecutor(WRITERS, thread_name_prefix="slot")

    @contextmanager
    def beside(self, contents: bytes) -> Iterator[Callable[[], Path]]:
        """Write while the caller looks at the contents; what it does not ask for is discarded.

        Yields
        ------
        written : waits for `write` and gives what it gives
        """
        writing = self._writers.submit(self.write, contents)
        asked = False

        def written() -> Path:
            nonlocal asked
            asked = True
            return writing.result()

        try:
            yield written
        finally:
            if not asked:
                with suppress(OSError):
                    self.discard(writing.result())

    def write(self, contents: bytes) -> Path:
        """The slot that holds the contents; both survive a power cut once this returns.

        Raises
        ------
        OSError
            If the disk has no room.
        """
        slot = self._next()
        try:
            with slot.open("r+b") as file:
                file.write(contents)
                file.flush()
                os.fsync(file.fileno())
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
