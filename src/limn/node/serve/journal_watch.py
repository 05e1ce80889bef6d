"""Notices within a second that the journal of a running node was deleted or replaced.

On POSIX a process goes on with the deleted file, and what it writes is lost. So each process that
holds the journal ends when the name leads to another file, and the supervisor restores the journal
from the disk before it starts them again.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from contextlib import suppress
from pathlib import Path

from limn.node.store.disk.evidence import MODE_AT, WITHOUT_LOG, is_backup
from limn.node.store.journal.connection import identity_of, is_other
from limn.node.store.journal.journal import Journal
from limn.node.store.journal.schema import JournalError

log = logging.getLogger(__name__)

LOOK_S = 0.5
# Exit code of a process whose journal is gone.
JOURNAL_LOST = 5


def end_if_replaced(journal: Journal, stopping: threading.Event) -> None:
    """End this process as soon as its journal is another file than the one at the path."""

    def watch() -> None:
        restored = False
        while not stopping.wait(LOOK_S):
            with suppress(JournalError):
                restored = bool(journal.copied_at())
            if restored or journal.is_replaced():
                log.critical("%s was deleted or replaced; this process ends", journal.path)
                os._exit(JOURNAL_LOST)

    threading.Thread(target=watch, name="journal", daemon=True).start()


class JournalWatch:
    """The supervisor's look at the journal, which it does not open itself."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: tuple[int, int] | None = None
        self._file: int | None = None
        self._looked_s = 0.0
        self.accept()

    def close(self) -> None:
        """Look no more."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def is_replaced(self) -> bool:
        """Whether the file was deleted or replaced since the last `accept`."""
        if self._known is None:
            # The receiver or the engine has just made it, at the first start.
            self.accept()
            return False
        return (
            is_other(self._path, self._known) or self.is_overwritten() or self._was_restored_into()
        )

    def _was_restored_into(self) -> bool:
        """Whether SQLite has written a backup into the file, as its own `.restore` does."""
        now_s = time.monotonic()
        if now_s - self._looked_s < LOOK_S:
            return False
        self._looked_s = now_s
        return is_backup(self._path)

    def is_overwritten(self) -> bool:
        """Whether a backup was copied into the file itself: a node's journal has a log."""
        if self._file is None:
            return False
        try:
            return os.pread(self._file, 1, MODE_AT) == WITHOUT_LOG
        except OSError:
            return False

    def accept(self) -> None:
        """The file that is there now is the right one."""
        self._known = identity_of(self._path)
        if not hasattr(os, "pread"):
            return
        self.close()
        with suppress(OSError):
            # It stays open: a close would end the locks of this process's readers (POSIX).
            self._file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
