"""The register of scans (SQLite): what came in, what must go out, and what became of it.

An outbox, not a queue: workers never touch it. Three tables: ``scan`` (one per distinct
input, bundle and profile), ``structure_set`` (its UIDs and date fixed before anything is
computed, so that a re-run or re-send is the same file) and ``delivery`` (one per
destination). A structure set that a person must see first is held: its deliveries are not
``waiting`` but ``held``, so that no courier of any version claims them, until it is released.
One that was discarded instead stays so for good, and keeps the reason.

Cohort scans (`limn contour DIR...`) stand here too, below every live scan: they have no
delivery, so that no courier can ever take one to a planning system, and no row in the scan log.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from limn.node.permissions import make_private_file, make_private_folder
from limn.node.store.rows import (
    Arrived,
    DeliveryRow,
    ScanRow,
    StructureSetRow,
    delivery_row,
    structure_set_row,
)
from limn.node.store.schema import LATER_COLUMNS, LIVE, SCHEMA


class Journal:
    """A connection to the register; safe to share between threads."""

    def __init__(self, path: Path) -> None:
        make_private_folder(path.parent)
        make_private_file(path)
        self._lock = threading.RLock()
        self._db = sqlite3.connect(path, timeout=30, check_same_thread=False, isolation_level=None)
        self._db.row_factory = sqlite3.Row
        self._db.execute("pragma journal_mode = wal")
        self._db.execute("pragma synchronous = full")
        self._db.execute("pragma foreign_keys = on")
        with self._transaction():
            for statement in SCHEMA.split(";"):
                if statement.strip():
                    self._db.execute(statement)
            for table, columns in LATER_COLUMNS.items():
                known = {row["name"] for row in self._db.execute(f"pragma table_info({table})")}
                for name in columns.keys() - known:
                    self._db.execute(f"alter table {table} add column {name} {columns[name]}")

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._db.close()

    def insert(self, arrived: Arrived, destinations: Sequence[str]) -> ScanRow | None:
        """Register a series with its structure set and deliveries; None if it is known.

        The UIDs of the structure set follow from series, input, bundle and profile, so the
        same input gives the same structure set, also after the register was lost.
        """
        with self._transaction() as db:
            last = db.execute(
                "select id, version from scan where series_instance_uid = ? and profile = ? "
                "order by version desc limit 1",
                (arrived.series_instance_uid, arrived.profile),
            ).fetchone()
            values = {
                "id": self._next_number(db),
                "series_instance_uid": arrived.series_instance_uid,
                "input_digest": arrived.input_digest,
                "bundle_sha256": arrived.bundle_sha256,
                "profile": arrived.profile,
                "version": last["version"] + 1 if last else 1,
                "predecessor": last["id"] if last else None,
                "study_instance_uid": arrived.study_instance_uid,
                "animal": arrived.animal,
                "sender": arrived.sender,
                "folder": arrived.folder,
                "files": json.dumps(arrived.files),
                "receive_s": arrived.receive_s,
                "settle_s": arrived.settle_s,
                "last_slice_at": arrived.last_slice_at,
                "ready_at": arrived.ready_at,
                "priority": arrived.priority,
                "state": "refused" if arrived.refused else "ready",
                "reason": arrived.refused,
                # The scan log is for animals that were scanned today.
                "logged": int(arrived.priority < LIVE),
            }
            cursor = db.execute(
                f"insert or ignore into scan ({', '.join(values)}) "  # noqa: S608
                f"values ({', '.join('?' * len(values))})",
                tuple(values.values()),
            )
            if cursor.rowcount == 0:
                scan_id = self._revive(db, arrived)
            else:
                scan_id = int(cursor.lastrowid or 0)
            if scan_id == 0:
                return None
            if not arrived.refused:
                self._insert_structure_set(db, scan_id, arrived, destinations)
        return self.scan(scan_id)

    def _revive(self, db: sqlite3.Connection, arrived: Arrived) -> int:
        """A series refused because its association broke, now sent whole: run it after all."""
        row = db.execute(
            "select scan.id from scan left join structure_set on structure_set.scan = scan.id "
            "where scan.series_instance_uid = ? and input_digest = ? and bundle_sha256 = ? "
            "and scan.profile = ? and state = 'refused' and structure_set.id is null",
            (
                arrived.series_instance_uid,
                arrived.input_digest,
                arrived.bundle_sha256,
                arrived.profile,
            ),
        ).fetchone()
        if row is None or arrived.refused:
            return 0
        db.execute(
            "update scan set state = 'ready', reason = '', logged = 0, settle_s = ?, "
            "receive_s = ?, last_slice_at = ?, ready_at = ? where id = ?",
            (
                arrived.settle_s,
                arrived.receive_s,
                arrived.last_slice_at,
                arrived.ready_at,
                row["id"],
            ),
        )
        return int(row["id"])

    def _insert_structure_set(
        self,
        db: sqlite3.Connection,
        scan_id: int,
        arrived: Arrived,
        destinations: Sequence[str],
    ) -> None:
        cursor = db.execute(
            "insert into structure_set (scan, profile, sop_instance_uid, series_instance_uid, "
            "date, time) values (?, ?, ?, ?, ?, ?)",
            (
                scan_id,
                arrived.profile,
                *arrived.structure_set_uids,
                arrived.date,
                arrived.time,
            ),
        )
        db.executemany(
            "insert into delivery (structure_set, destination, state) values (?, ?, 'waiting')",
            [(cursor.lastrowid, destination) for destination in destinations],
        )

    def number_from(self, least: int) -> None:
        """Give no scan a lower number from now on: people have seen those already."""
        with self._transaction() as db:
            db.execute("insert into numbering values (?)", (least,))

    def _next_number(self, db: sqlite3.Connection) -> int:
        row = db.execute(
            "select max(coalesce((select max(id) from scan), 0) + 1, "
            "coalesce((select max(least) from numbering), 1)) as number"
        ).fetchone()
        return int(row["number"])

    def scan(self, scan_id: int) -> ScanRow:
        """One scan by its number."""
        return next(self._scans("where id = ?", (scan_id,)))

    def scans(self) -> list[ScanRow]:
        """Every scan, oldest first."""
        return list(self._scans("order by id", ()))

    def ready(self) -> list[ScanRow]:
        """Scans that wait for a worker, in the order in which they should run."""
        return list(self._scans("where state = 'ready' order by priority desc, id", ()))

    def find(self, arrived: Arrived) -> ScanRow | None:
        """The scan of this very input, bundle and profile."""
        return next(
            self._scans(
                "where series_instance_uid = ? and input_digest = ? and bundle_sha256 = ? "
                "and profile = ?",
                (
                    arrived.series_instance_uid,
                    arrived.input_digest,
                    arrived.bundle_sha256,
                    arrived.profile,
                ),
            ),
            None,
        )

    def knows(self, series_instance_uid: str, input_digest: str) -> bool:
        """Whether this very input came before, whatever bundle it was contoured with."""
        values = (series_instance_uid, input_digest)
        return bool(
            self._all(
                "select 1 from scan where series_instance_uid = ? and input_digest = ?", values
            )
        )

    def superseded(self, scan_id: int) -> bool:
        """Whether a newer version of the same series was contoured."""
        newer = (
            "select 1 from scan as old join scan as new on "
            "new.series_instance_uid = old.series_instance_uid and new.profile = old.profile "
            "and new.version > old.version where old.id = ? and new.state = 'contoured'"
        )
        return bool(self._all(newer, (scan_id,)))

    def inputs(self, folder: str) -> list[tuple[str, ...]]:
        """The files of every scan that was made from a folder of the spool, oldest first.

        A series that was refused at the door, before it was whole, is not among them.
        """
        return [
            row.files
            for row in self._scans(
                "where folder = ? and exists (select 1 from structure_set "
                "where structure_set.scan = scan.id) order by id",
                (folder,),
            )
        ]

    def quarantined(self) -> list[ScanRow]:
        """Scans that killed their worker too often, oldest first."""
        return list(self._scans("where state = 'quarantined' order by id", ()))

    def unlogged_ends(self, destination: str) -> list[ScanRow]:
        """Scans that ended, or that a destination answered for good, and are not logged yet."""
        return list(
            self._scans(
                "where logged = 0 and (state in ('refused', 'failed', 'quarantined') or exists ("
                "select 1 from structure_set join delivery on delivery.structure_set = "
                "structure_set.id where structure_set.scan = scan.id and destination = ? "
                "and delivery.state <> 'waiting' and (held is null or released_at is not null "
                "or discarded_at is not null))) "
                "order by id",
                (destination,),
            )
        )

    def on_hold(self) -> list[ScanRow]:
        """Scans whose structure set waits for a person, oldest first."""
        return list(
            self._scans(
                "where exists (select 1 from structure_set where structure_set.scan = scan.id "
                "and held is not null and released_at is null and discarded_at is null) "
                "order by id",
                (),
            )
        )

    def discarded(self) -> list[ScanRow]:
        """Scans whose structure set a person discarded, oldest first."""
        return list(
            self._scans(
                "where exists (select 1 from structure_set where structure_set.scan = scan.id "
                "and discarded_at is not null) order by id",
                (),
            )
        )

    def structure_set_of(self, scan_id: int) -> StructureSetRow:
        """The structure set of a scan."""
        row = self._one("select * from structure_set where scan = ?", (scan_id,))
        return structure_set_row(row)

    def scan_of_structure_set(self, sop_instance_uid: str) -> ScanRow | None:
        """Whose structure set that is; None if it is not one of ours."""
        clause = "where id = (select scan from structure_set where sop_instance_uid = ?)"
        return next(self._scans(clause, (sop_instance_uid,)), None)

    def structure_set(self, structure_set_id: int) -> StructureSetRow:
        """One structure set by its number."""
        return structure_set_row(
            self._one("select * from structure_set where id = ?", (structure_set_id,))
        )

    def deliveries(self, scan_id: int) -> list[DeliveryRow]:
        """Where a scan's structure set goes, and how far that is."""
        rows = self._all(
            "select delivery.* from delivery join structure_set on structure_set.id = "
            "delivery.structure_set where structure_set.scan = ? order by delivery.id",
            (scan_id,),
        )
        return [delivery_row(row) for row in rows]

    def due(self, destination: str, now: float) -> DeliveryRow | None:
        """The next delivery to a destination whose structure set is written."""
        rows = self._all(
            "select delivery.* from delivery join structure_set on structure_set.id = "
            "delivery.structure_set join scan on scan.id = structure_set.scan where "
            "delivery.state = 'waiting' and scan.state = 'contoured' and discarded_at is null "
            "and destination = ? and next_at <= ? order by scan.priority desc, delivery.id limit 1",
            (destination, now),
        )
        return delivery_row(rows[0]) if rows else None

    def waiting(self, destination: str) -> int:
        """How many written structure sets a destination still lacks."""
        row = self._one(
            "select count(*) as n from delivery join structure_set on structure_set.id = "
            "delivery.structure_set join scan on scan.id = structure_set.scan where "
            "delivery.state = 'waiting' and scan.state = 'contoured' and destination = ?",
            (destination,),
        )
        return int(row["n"])

    def started(self, scan_id: int) -> int:
        """A worker reports that it began; returns how often that has happened."""
        with self._transaction() as db:
            db.execute(
                "update scan set tries = tries + 1, started_at = ? where id = ?",
                (time.time(), scan_id),
            )
        return self.scan(scan_id).tries

    def stopped(self, scan_id: int | None = None) -> None:
        """No worker has this scan any more, or none has any: it waits again."""
        with self._transaction() as db:
            db.execute(
                "update scan set started_at = null where state = 'ready' and id = coalesce(?, id)",
                (scan_id,),
            )

    def retry(self, scan_id: int, now: float) -> bool:
        """Let a scan that ended without a structure set run again, under the same UIDs.

        False if it did not end so, or was never whole.
        """
        with self._transaction() as db:
            changed = db.execute(
                "update scan set state = 'ready', reason = '', record = '{}', tries = 0, "
                "started_at = null, logged = priority < ?, again_s = again_s + ? - ready_at, "
                "ready_at = ? where id = ? and state in ('refused', 'failed', 'quarantined') "
                "and exists (select 1 from structure_set where structure_set.scan = scan.id)",
                (LIVE, now, now, scan_id),
            ).rowcount
        return bool(changed)

    def anew(self, scan_id: int, arrived: Arrived, destinations: Sequence[str]) -> bool:
        """Let a delivered scan run again whose structure set was removed, under the same UIDs.

        Its clock begins with the series that came again. False if it was not delivered, or was
        discarded.

        Parameters
        ----------
        destinations : that get it; others that once had it do not
        """
        with self._transaction() as db:
            changed = db.execute(
                "update scan set state = 'ready', reason = '', record = '{}', tries = 0, "
                "started_at = null, logged = 0, again_s = 0, settle_s = ?, receive_s = ?, "
                "last_slice_at = ?, ready_at = ? "
                "where id = ? and state = 'contoured' and priority >= ? and exists (select 1 from "
                "structure_set where structure_set.scan = scan.id and discarded_at is null and "
                "(held is null or released_at is not null))",
                (
                    arrived.settle_s,
                    arrived.receive_s,
                    arrived.last_slice_at,
                    arrived.ready_at,
                    scan_id,
                    LIVE,
                ),
            ).rowcount
            if changed:
                # A person looked at what was removed, not at what comes now.
                db.execute(
                    "update structure_set set held = null, released_at = null, again_s = 0 "
                    "where scan = ?",
                    (scan_id,),
                )
                db.executemany(
                    "insert into delivery (structure_set, destination, state) "
                    "select id, ?, 'waiting' from structure_set where scan = ? "
                    "on conflict (structure_set, destination) do update set state = 'waiting', "
                    "tries = 0, next_at = 0, status = '', accepted_at = null",
                    [(destination, scan_id) for destination in destinations],
                )
        return bool(changed)

    def resend(self, scan_id: int, destinations: Sequence[str], now: float) -> list[str]:
        """Offer a written structure set again; returns the destinations to which it goes.

        One that a person must see first, or discarded, goes nowhere. A destination that the
        scan never had gets it too; one that it waits for is tried at once.
        """
        with self._transaction() as db:
            row = db.execute(
                "select structure_set.id, record, released_at from scan join structure_set on "
                "structure_set.scan = scan.id where scan.id = ? and state = 'contoured' "
                "and priority >= ? and discarded_at is null "
                "and (held is null or released_at is not null)",
                (scan_id, LIVE),
            ).fetchone()
            if row is None:
                return []
            refused = db.execute(
                "select destination from delivery where structure_set = ? and state = 'held'",
                (row["id"],),
            ).fetchall()
            if {each["destination"] for each in refused} & set(destinations):
                # Somebody had to act; the scan log gets a second row, without that time.
                began = row["released_at"] or json.loads(row["record"]).get("contoured_at", now)
                db.execute("update scan set logged = 0 where id = ?", (scan_id,))
                db.execute(
                    "update structure_set set again_s = ? where id = ?", (now - began, row["id"])
                )
            db.executemany(
                "insert into delivery (structure_set, destination, state) "
                "values (?, ?, 'waiting') on conflict (structure_set, destination) do update "
                "set state = 'waiting', tries = 0, next_at = 0, status = ''",
                [(row["id"], destination) for destination in destinations],
            )
        return list(destinations)

    def contoured(
        self, scan_id: int, path: str, record: dict[str, Any], held: str | None = None
    ) -> bool:
        """The structure set is on disk. False if the scan had already ended (a late result).

        With a reason in ``held`` its deliveries wait for `release`; in one transaction, so that
        no courier ever sees them waiting.
        """
        with self._transaction() as db:
            changed = db.execute(
                "update scan set state = 'contoured', record = ? where id = ? and state = 'ready'",
                (json.dumps(record), scan_id),
            ).rowcount
            if changed:
                db.execute(
                    "update structure_set set path = ?, held = ? where scan = ?",
                    (path, held, scan_id),
                )
            if changed and held is not None:
                db.execute(
                    "update delivery set state = 'held', status = ? where structure_set in "
                    "(select id from structure_set where scan = ?)",
                    (held, scan_id),
                )
        return bool(changed)

    def release(self, scan_id: int, released_at: float) -> bool:
        """A person lets a held structure set go. False if it was not held (any more)."""
        with self._transaction() as db:
            changed = db.execute(
                "update structure_set set released_at = ? "
                "where scan = ? and held is not null and released_at is null "
                "and discarded_at is null",
                (released_at, scan_id),
            ).rowcount
            if changed:
                db.execute(
                    "update delivery set state = 'waiting', status = '', next_at = 0 "
                    "where state = 'held' and structure_set in "
                    "(select id from structure_set where scan = ?)",
                    (scan_id,),
                )
        return bool(changed)

    def discard(self, scan_id: int, why: str, discarded_at: float) -> bool:
        """A person says that a held structure set must never go. False if it was not held.

        Its deliveries stay ``held``, a state that every courier leaves alone.
        """
        with self._transaction() as db:
            changed = db.execute(
                "update structure_set set discarded = ?, discarded_at = ? "
                "where scan = ? and held is not null and released_at is null "
                "and discarded_at is null",
                (why, discarded_at, scan_id),
            ).rowcount
            if changed:
                db.execute(
                    "update delivery set status = ? where structure_set in "
                    "(select id from structure_set where scan = ?)",
                    (f"discarded: {why}", scan_id),
                )
        return bool(changed)

    def end(self, scan_id: int, state: str, reason: str, record: dict[str, Any]) -> None:
        """A scan ended without a structure set: refused, failed or quarantined."""
        with self._transaction() as db:
            db.execute(
                "update scan set state = ?, reason = ?, record = ? where id = ? "
                "and state = 'ready'",
                (state, reason, json.dumps(record), scan_id),
            )

    def delivered(self, delivery_id: int, status: str, accepted_at: float) -> None:
        """A destination took the structure set."""
        with self._transaction() as db:
            db.execute(
                # The first acceptance stopped the clock; a resend does not start it again.
                "update delivery set state = 'delivered', status = ?, "
                "accepted_at = coalesce(accepted_at, ?), tries = tries + 1 where id = ?",
                (status, accepted_at, delivery_id),
            )

    def postponed(self, delivery_id: int, status: str, next_at: float) -> None:
        """A destination could not be reached or was out of resources; try again later."""
        with self._transaction() as db:
            db.execute(
                "update delivery set status = ?, next_at = ?, tries = tries + 1 where id = ?",
                (status, next_at, delivery_id),
            )

    def held(self, delivery_id: int, status: str) -> None:
        """A destination refused for good; somebody must act."""
        with self._transaction() as db:
            db.execute(
                "update delivery set state = 'held', status = ?, tries = tries + 1 where id = ?",
                (status, delivery_id),
            )

    def had_since(self, before: float) -> list[tuple[int, str]]:
        """Number and folder of scans that every destination has had since before a time (UTC s).

        A structure set that is held, discarded or waited for anywhere is not among them.
        """
        rows = self._all(
            "select scan.id, scan.folder from scan join structure_set on "
            "structure_set.scan = scan.id join delivery on delivery.structure_set = "
            "structure_set.id where scan.state = 'contoured' group by scan.id, scan.folder "
            "having min(delivery.state = 'delivered') and max(accepted_at) < ? order by scan.id",
            (before,),
        )
        return [(row["id"], row["folder"]) for row in rows]

    def of_folder(self, folder: str) -> list[ScanRow]:
        """Every scan that was made from a folder of the spool, oldest first."""
        return list(self._scans("where folder = ? order by id", (folder,)))

    def mark_logged(self, scan_id: int) -> None:
        """The scan's row is in the scan log."""
        with self._transaction() as db:
            db.execute("update scan set logged = 1 where id = ?", (scan_id,))

    def _scans(self, clause: str, values: tuple[Any, ...]) -> Iterator[ScanRow]:
        names = list(ScanRow.__dataclass_fields__)
        for row in self._all(f"select * from scan {clause}", values):  # noqa: S608
            fields = {name: row[name] for name in names}
            fields["files"] = tuple(json.loads(row["files"]))
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
