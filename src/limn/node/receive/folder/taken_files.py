"""Which files of a watched folder were taken, across restarts."""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from limn.node.permissions import make_private_file
from limn.node.store.journal.schema import is_damaged

log = logging.getLogger(__name__)

# So many files are known without a question to the database, some 300 bytes each.
MAX_KNOWN = 200_000


@dataclass(frozen=True, slots=True)
class FileState:
    """What tells a file from one that has taken its place; times in ns, as the system gives them.

    Attributes
    ----------
    changed_ns : of its status: a copy that keeps ``modified_ns`` can't set it
    """

    size: int
    modified_ns: int
    changed_ns: int = 0


class TakenFiles:
    """The path, state and digest of each file that was taken."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, FileState] = {}
        self._before: dict[str, FileState] = {}
        try:
            self._db = self._connect()
        except sqlite3.DatabaseError as error:
            self._db = self._anew(error)

    def has(self, path: str, state: FileState) -> bool:
        """Whether this file was taken in this state."""
        if self._known.get(path) == state:
            return True
        if self._before.get(path) == state:
            self._know(path, state)
            return True
        # An earlier limn did not note when the status changed.
        has = bool(
            self._all(
                "select 1 from taken where path = ? and size = ? and modified_ns = ? "
                "and coalesce(changed_ns, ?) = ?",
                (_key(path), state.size, _time(state.modified_ns), *[_time(state.changed_ns)] * 2),
            )
        )
        if has:
            self._know(path, state)
        return has

    def whole_scan_begins(self) -> None:
        """Keep in memory what this scan finds, and what is gone no longer."""
        self._before, self._known = self._known, {}

    def sha256_of(self, path: str) -> str:
        """Of the contents with which it was taken last; empty if it was not, or nobody knows."""
        rows = self._all("select sha256 from taken where path = ?", (_key(path),))
        return str(rows[0][0] or "") if rows else ""

    def is_same(self, path: str, state: FileState, sha256: str) -> bool:
        """Whether it was taken with these contents, and only its status has changed since."""
        return bool(
            self._all(
                "select 1 from taken where path = ? and size = ? and modified_ns = ? "
                "and sha256 = ?",
                (_key(path), state.size, _time(state.modified_ns), sha256),
            )
        )

    def was_moved(self, path: str, state: FileState, sha256: str) -> bool:
        """Whether it was taken with these contents and times under a name that is gone (D-257).

        The name that is gone is forgotten.
        """
        rows = self._all(
            "select path from taken where sha256 = ? and size = ? and modified_ns = ? "
            "and path != ?",
            (sha256, state.size, _time(state.modified_ns), _key(path)),
        )
        names = (before for (before,) in rows if isinstance(before, str | bytes))
        gone = [name for name in names if _is_gone(name)]
        for before in gone:
            self._all("delete from taken where path = ?", (before,))
            for known in (self._known, self._before):
                known.pop(os.fsdecode(before), None)
        return bool(gone)

    def add(self, path: str, state: FileState, sha256: str = "") -> None:
        """Remember that it was taken."""
        self._all(
            "insert or replace into taken values (?, ?, ?, ?, ?)",
            (
                _key(path),
                state.size,
                _time(state.modified_ns),
                _time(state.changed_ns),
                sha256,
            ),
        )
        self._know(path, state)

    def _know(self, path: str, state: FileState) -> None:
        """Keep it in memory too, so that a scan asks the database of no file twice."""
        if len(self._known) < MAX_KNOWN:
            self._known[path] = state
        else:
            self._known.pop(path, None)

    def _all(self, sql: str, values: tuple[object, ...]) -> list[tuple[object, ...]]:
        try:
            return self._db.execute(sql, values).fetchall()
        except sqlite3.DatabaseError as error:
            self._db = self._anew(error)
            return self._db.execute(sql, values).fetchall()

    def _connect(self) -> sqlite3.Connection:
        make_private_file(self._path)
        db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        try:
            db.execute("pragma journal_mode = wal")
            db.execute(
                "create table if not exists taken "
                "(path text primary key, size integer, modified_ns integer)"
            )
            known = {row[1] for row in db.execute("pragma table_info(taken)")}
            for column in ("changed_ns integer", "sha256 text"):
                if column.split()[0] not in known:
                    db.execute(f"alter table taken add column {column}")
            db.execute("create index if not exists taken_by_sha256 on taken (sha256)")
        except BaseException:
            db.close()
            raise
        return db

    def _anew(self, error: sqlite3.DatabaseError) -> sqlite3.Connection:
        """Begin with an empty memory if it is damaged: it must not keep the receiver down."""
        if not is_damaged(error):
            raise error
        with suppress(AttributeError):
            self._db.close()
        self._known, self._before = {}, {}
        kept = self._path.with_name(f"{self._path.name}.damaged-{time.time_ns()}")
        self._path.replace(kept)
        for ending in ("-wal", "-shm"):
            self._path.with_name(self._path.name + ending).unlink(missing_ok=True)
        log.error(
            "%s was damaged (%s) and is kept as %s; the files of the watched folder are taken "
            "again, and a series that was delivered is offered again as it was",
            self._path,
            error,
            kept.name,
        )
        return self._connect()


def _is_gone(path: str | bytes) -> bool:
    """Whether nothing has this name any more; not if nobody can tell."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def _key(path: str) -> str | bytes:
    """A path as SQLite takes it: a name that is no UTF-8 as its bytes."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return os.fsencode(path)
    return path


def _time(time_ns: int) -> int | str:
    """A time as SQLite takes it: one before 1678 or after 2262 as a word."""
    return time_ns if abs(time_ns) < 2**63 else f"t{time_ns}"
