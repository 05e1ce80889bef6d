"""A connection to the journal that may write: transactions, and what must not be given again."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from limn.node.permissions import make_private_file, make_private_folder
from limn.node.store.journal.reader import JournalReader
from limn.node.store.journal.schema import prepare
from limn.node.store.journal.transitions import ANY_UID, withdraw_previews

# Columns with a whole path.
_PATHS = (("scan", "folder"), ("structure_set", "path"), ("preview", "path"))


class WritableJournal(JournalReader):
    """Transactions on the journal, and the numbers and UIDs that it must not give again."""

    def _connect(self, path: Path, timeout_s: float) -> sqlite3.Connection:
        make_private_folder(path.parent)
        make_private_file(path)
        db = sqlite3.connect(path, timeout_s, check_same_thread=False, isolation_level=None)
        try:
            db.execute("pragma journal_mode = wal")
            db.execute("pragma synchronous = full")
            db.execute("pragma foreign_keys = on")
            prepare(db, path)
        except BaseException:
            db.close()
            raise
        return db

    def paths(self) -> set[str]:
        """Every path that it names: of series in the spool, of structure sets and previews."""
        return {
            str(row["path"])
            for table, column in _PATHS
            for row in self._all(f"select distinct {column} as path from {table}", ())  # noqa: S608 - constants
            if row["path"]
        }

    def move_paths(self, former: str, folder: str) -> int:
        """Name everything below a folder by its new place; returns how many paths that are."""
        length, count = len(former), 0
        with self._transaction() as db:
            for table, column in _PATHS:
                count += db.execute(
                    f"update {table} set {column} = ? || substr({column}, ?) "  # noqa: S608
                    f"where substr({column}, 1, ?) = ? and substr({column}, ?, 1) in ('/', '\\')",
                    (folder, length + 1, length, former, length + 1),
                ).rowcount
        return count

    def number_from(self, least: int) -> None:
        """Give no new scan a number below ``least``: people have seen the lower ones already."""
        with self._transaction() as db:
            db.execute("insert into numbering values (?)", (least,))

    def copied_at(self) -> str:
        """When `copy_to` made this journal (ISO, UTC); empty once a node has begun with it."""
        copied = self._all("select at from copied", ())
        return str(copied[0]["at"]) if copied else ""

    def begin_with_copy(self, restore: str) -> None:
        """A node begins with it now, and does not know which UIDs were issued after the copy.

        Parameters
        ----------
        restore : in the UIDs of what is contoured from now on, and different each time
        """
        with self._transaction() as db:
            db.execute("insert or replace into issued values (?, '', ?)", (ANY_UID, restore))
            db.execute("delete from copied")
            # Nor does it know which previews were sent.
            withdraw_previews(db)

    def reserve(self, numbers: Mapping[int, str]) -> None:
        """Keep numbers that were given for the inputs that had them, by the input's digest."""
        with self._transaction() as db:
            db.executemany("insert or ignore into reserved values (?, ?)", numbers.items())

    def enter_issued(self, structure_sets: Iterable[tuple[str, str, str]]) -> None:
        """Enter UID, date and time of structure sets that may be at a destination already.

        A scan that comes again gets the same date, or another UID if the date is not known: no UID
        is sent with other contents.
        """
        with self._transaction() as db:
            db.executemany("insert or ignore into issued values (?, ?, ?)", structure_sets)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._db.execute("begin immediate")
            try:
                yield self._db
                self._db.execute("commit")
            except BaseException:
                # On a full disk SQLite may have rolled back by itself, or only the commit fails.
                if self._db.in_transaction:
                    self._db.execute("rollback")
                raise
