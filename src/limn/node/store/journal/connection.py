"""A connection to the journal file that can't write; the file may be replaced under it."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from limn.node.permissions import make_private_file
from limn.node.store.journal.rows import ScanRow
from limn.node.store.journal.schema import VERSION, prepare

# So long a query or a transaction waits for another process; limn's own take milliseconds.
BUSY_S = 5.0


def identity_of(path: Path) -> tuple[int, int] | None:
    """Device and inode of a file; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def is_other(path: Path, known: tuple[int, int] | None) -> bool:
    """Whether a path leads to another file than the known one, or to none.

    An error of the disk or the share says nothing, and passes.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return (found.st_dev, found.st_ino) != known


class JournalConnection:
    """A connection to the journal file, which may be replaced under it; safe to share.

    Parameters
    ----------
    timeout_s : how long a query waits while another process writes

    Raises
    ------
    ConfigWrong
        If a newer limn made the journal.
    JournalError
        If it can't be opened or read.
    """

    def __init__(self, path: Path, timeout_s: float = BUSY_S) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._db = self._connect(path, timeout_s)
        self._identity = identity_of(path)
        self._db.row_factory = sqlite3.Row

    def _connect(self, path: Path, timeout_s: float) -> sqlite3.Connection:
        uri = f"{path.resolve().as_uri()}?mode=ro"
        db = sqlite3.connect(uri, uri=True, timeout=timeout_s, check_same_thread=False)
        try:
            (version,) = db.execute("pragma user_version").fetchone()
            if version != VERSION:
                # An earlier limn made it. No node has run since the update.
                with closing(sqlite3.connect(path, timeout=timeout_s)) as writer:
                    prepare(writer, path)
        except BaseException:
            db.close()
            raise
        return db

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._db.close()

    def is_replaced(self) -> bool:
        """Whether the file was deleted or replaced since it was opened.

        What is written to it then is lost.
        """
        return is_other(self.path, self._identity)

    def copy_to(self, path: Path) -> None:
        """Write a sound copy to a new file while other processes write; it says that it is one."""
        make_private_file(path)
        with closing(sqlite3.connect(path, isolation_level=None)) as copy:
            with self._lock:
                self._db.backup(copy)
            copy.execute("pragma journal_mode = delete")
            copy.execute("insert into copied values (?)", (datetime.now(UTC).isoformat(),))

    def is_sound(self) -> bool:
        """Whether SQLite finds no damage in the file; reads all of it."""
        return bool(self._all("pragma quick_check(1)", ())[0][0] == "ok")

    def _scans(self, clause: str, values: tuple[Any, ...]) -> Iterator[ScanRow]:
        names = list(ScanRow.__dataclass_fields__)
        # The names of files stand in a table of their own: most queries skip them.
        query = "select scan.*, files from scan left join scan_files on scan_files.scan = scan.id"
        for row in self._all(f"{query} {clause}", values):
            fields = {name: row[name] for name in names}
            fields["files"] = tuple(json.loads(row["files"] or "[]"))
            fields["record"] = json.loads(row["record"])
            fields["logged"] = bool(row["logged"])
            yield ScanRow(**fields)

    def _all(self, query: str, values: tuple[Any, ...]) -> list[sqlite3.Row]:
        with self._lock:
            return self._db.execute(query, values).fetchall()

    def _one(self, query: str, values: tuple[Any, ...]) -> sqlite3.Row:
        rows = self._all(query, values)
        if not rows:
            msg = f"the journal has no row for {values}"
            raise LookupError(msg)
        return rows[0]
