"""Can the data folder be written, and has it room? What must be written waits until it has."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import TypeVar

log = logging.getLogger(__name__)

# A full disk is tried again after so long.
PAUSE_S = 1.0
# What SQLite says of a disk; any other error is a fault of ours.
_OF_THE_DISK = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_BUSY,
}

# So many pictures and label files; a scan has one of each, a few MB.
MOST_LATER = 40

Written = TypeVar("Written")


class GivenUp(Exception):
    """The node was told to stop before the disk took what was to be written."""


def insist(write: Callable[[], Written], what: str, stopping: Event) -> Written:
    """Write, again until the disk takes it; said once when it does not and once when it does.

    Parameters
    ----------
    write : may be called again after it has failed anywhere
    what : for the log

    Raises
    ------
    GivenUp
        If the node is told to stop meanwhile; ``what`` is then not on disk.
    """
    waits = False
    while True:
        try:
            written = write()
        except (OSError, sqlite3.OperationalError) as error:
            if (
                isinstance(error, sqlite3.Error)
                and error.sqlite_errorcode & 255 not in _OF_THE_DISK
            ):
                raise
            if not waits:
                log.error(
                    "%s can't be written (%s) and waits in memory; make room on the disk of "
                    "data_dir, and it goes on by itself",
                    what,
                    error,
                )
            waits = True
            if stopping.wait(PAUSE_S):
                msg = f"{what} is not on disk ({error})"
                raise GivenUp(msg) from error
        else:
            if waits:
                log.info("%s is written", what)
            return written


class Later:
    """Writes what people look at as soon as the disk takes it; nothing waits for it."""

    def __init__(self) -> None:
        self._left: dict[Path, bytes] = {}

    def write(self, path: Path, contents: bytes) -> None:
        """Now, or at one of the next `again`."""
        self._left[path] = contents
        if why := self._try(path):
            log.error(
                "%s can't be written (%s) and waits in memory; make room on the disk of data_dir",
                path,
                why,
            )
        while len(self._left) > MOST_LATER:
            oldest = next(iter(self._left))
            del self._left[oldest]
            log.error("%s is given up: too many wait; the structure set is written", oldest)

    def again(self) -> None:
        """Try what was not taken."""
        for path in list(self._left):
            if not self._try(path):
                log.info("%s is written", path)

    def _try(self, path: Path) -> str:
        """Why it can't be written; empty if it is, or its folder was removed."""
        try:
            if path.parent.is_dir():
                part = path.with_name(f"{path.name}.part")
                try:
                    part.write_bytes(self._left[path])
                    part.replace(path)
                except OSError:
                    # Half of one would take the room that a structure set needs.
                    part.unlink(missing_ok=True)
                    raise
        except OSError as error:
            return error.strerror or str(error)
        del self._left[path]
        return ""
