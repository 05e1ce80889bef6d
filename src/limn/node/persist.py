"""Writes that wait for a full disk: those that must be done, and those that may come later."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import TypeVar

from limn.domain.files import OWNER_ONLY_FILE, write_durably
from limn.node.heartbeat import HEART

log = logging.getLogger(__name__)

# Pause between two attempts on a full disk.
PAUSE_S = 1.0
# SQLite's errors that come from the disk; any other error is a fault of limn.
_DISK_ERRORS = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_BUSY,
}

# Pictures and label files that wait; a scan has one of each, a few MB.
MOST_DEFERRED = 40

Written = TypeVar("Written")


class WriteAbandoned(Exception):
    """The node stops before the disk took what was to be written."""


def write_until_done(write: Callable[[], Written], what: str, stopping: Event) -> Written:
    """Write, and repeat it until the disk takes it.

    The log has one line when the wait begins and one when it ends.

    Parameters
    ----------
    write : may be called again after it has failed anywhere
    what : for the log

    Raises
    ------
    WriteAbandoned
        If the node stops meanwhile; ``what`` is then not on disk.
    """
    waits = False
    while True:
        HEART.moved()
        try:
            written = write()
        except (OSError, sqlite3.OperationalError) as error:
            if (
                isinstance(error, sqlite3.Error)
                and error.sqlite_errorcode & 255 not in _DISK_ERRORS
            ):
                raise
            if not waits:
                log.error(
                    "%s can't be written (%s) and waits in memory; %s, and it goes on by itself",
                    what,
                    error,
                    _remedy(error),
                )
            waits = True
            if stopping.wait(PAUSE_S):
                msg = f"{what} is not on disk ({error})"
                raise WriteAbandoned(msg) from error
        else:
            if waits:
                log.info("%s is written", what)
            return written


def _remedy(error: Exception) -> str:
    if getattr(error, "sqlite_errorcode", 0) & 255 == sqlite3.SQLITE_BUSY:
        return "another program holds a lock on the journal: close it (a database browser, a copy)"
    return "make room on the disk of data_dir"


class DeferredWriter:
    """Writes files for people as soon as the disk takes them; no scan waits for it."""

    def __init__(self) -> None:
        self._waiting: dict[Path, bytes] = {}

    def write(self, path: Path, contents: bytes) -> None:
        """Write now, or at one of the next `flush`."""
        self._waiting[path] = contents
        if why := self._try(path):
            log.error(
                "%s can't be written (%s) and waits in memory; make room on the disk of data_dir",
                path,
                why,
            )
        while len(self._waiting) > MOST_DEFERRED:
            oldest = next(iter(self._waiting))
            del self._waiting[oldest]
            log.error("%s is given up: too many wait; the structure set is written", oldest)

    def flush(self) -> None:
        """Try every file that waits."""
        for path in list(self._waiting):
            if not self._try(path):
                log.info("%s is written", path)

    def _try(self, path: Path) -> str:
        """Why the file can't be written; empty if it was, or if its folder is gone."""
        try:
            if path.parent.is_dir():
                write_durably(path, self._waiting[path], OWNER_ONLY_FILE)
        except OSError as error:
            return error.strerror or str(error)
        del self._waiting[path]
        return ""
