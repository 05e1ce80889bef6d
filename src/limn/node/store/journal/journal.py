"""The journal of scans (SQLite): which series came, where each structure set goes, how it ended.

It is an outbox, not a queue: workers never touch it. It has three tables: ``scan`` (one row per
distinct input, bundle and profile), ``structure_set`` (UIDs and date are fixed before anything
is computed, so that a second run gives the same file) and ``delivery`` (one row per destination).
Previews have tables of their own (`preview_journal`), so that no query on structure sets finds one.
The states of scans and deliveries follow the tables of `states`. A structure set that a person must
see first is held: until the person releases or discards it, its deliveries are ``held`` and not
``waiting``, so that no courier of any version takes them.

Scans of a cohort (`limn contour DIR...`) are in it too, with a lower priority than live scans.
They have no delivery, so that no courier can take one to a planning system, and no row in the
scan log.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Sequence
from typing import Any

from limn.node.store.disk.evidence import note_number
from limn.node.store.journal.animal_journal import COLUMNS, AnimalJournal, insert_scan
from limn.node.store.journal.companion_journal import offer_companions
from limn.node.store.journal.rows import Arrived, ScanRow
from limn.node.store.journal.schema import LIVE
from limn.node.store.journal.states import (
    SCAN_TABLE,
    DeliveryEvent,
    DeliveryState,
    ScanEvent,
    ScanState,
)
from limn.node.store.journal.transitions import (
    MAY_GO,
    NOT_DISMISSED,
    ON_HOLD,
    complete_rejected,
    discard_held,
    enter_contours,
    insert_structure_set,
    move_deliveries,
    move_delivery,
    next_of_scan,
    offer,
    structure_set_id,
    supersede,
    withdraw_previews,
)

_ENDS = {
    ScanState.REFUSED: ScanEvent.REFUSE,
    ScanState.FAILED: ScanEvent.FAIL,
    ScanState.QUARANTINED: ScanEvent.QUARANTINE,
}


class Journal(AnimalJournal):
    """A connection to the journal that may write; safe to share between threads."""

    def insert(self, arrived: Arrived, destinations: Sequence[str]) -> ScanRow | None:
        """Enter a series with its structure set and deliveries; None if it is known.

        The UIDs of the structure set follow from series, input, bundle and profile, so the
        same input gives the same structure set even after the journal was lost.
        """
        with self._transaction() as db:
            scan_id = self._insert(db, arrived, destinations)
        return self.scan(scan_id) if scan_id else None

    def _insert(self, db: sqlite3.Connection, arrived: Arrived, destinations: Sequence[str]) -> int:
        """The same within a transaction; the scan's number, 0 if the series is known."""
        event = ScanEvent.REJECT if arrived.refused else ScanEvent.SETTLE
        last = db.execute(
            "select id, version from scan where series_instance_uid = ? and profile = ? "
            "and field is null order by version desc limit 1",
            (arrived.series_instance_uid, arrived.profile),
        ).fetchone()
        values = {name: getattr(arrived, name) for name in COLUMNS} | {
            "id": self._next_number(db, arrived.input_digest),
            "version": last["version"] + 1 if last else 1,
            "predecessor": last["id"] if last else None,
            "state": SCAN_TABLE[ScanState.NEW, event],
            "reason": arrived.refused,
            # The scan log is for animals that were scanned today.
            "logged": int(arrived.priority < LIVE),
        }
        cursor = insert_scan(db, values)
        scan_id = int(cursor.lastrowid or 0) if cursor.rowcount else complete_rejected(db, arrived)
        if scan_id == 0:
            return 0
        db.execute(
            "insert or ignore into scan_files values (?, ?)",
            (scan_id, json.dumps(arrived.files)),
        )
        if not arrived.refused:
            insert_structure_set(db, scan_id, arrived, destinations)
        if arrived.supersedes:
            supersede(db, scan_id, arrived)
        note_number(self.path, scan_id, arrived.input_digest)
        return scan_id

    def started(self, scan_id: int) -> int:
        """Note that a worker began with a scan; returns how many times one has begun with it."""
        with self._transaction() as db:
            if next_of_scan(db, scan_id, ScanEvent.START) is not None:
                db.execute(
                    "update scan set tries = tries + 1, started_at = ? where id = ?",
                    (time.time(), scan_id),
                )
        return self.scan(scan_id).tries

    def stopped(self, scan_id: int | None = None) -> None:
        """Note that no worker runs this scan any more (None: any scan); it waits for one."""
        with self._transaction() as db:
            rows = db.execute(
                "select id from scan where id = coalesce(?, id) and started_at is not null",
                (scan_id,),
            ).fetchall()
            for row in rows:
                # The start of a scan that has ended stays in the journal.
                if next_of_scan(db, row["id"], ScanEvent.STOP) is ScanState.READY:
                    db.execute("update scan set started_at = null where id = ?", (row["id"],))

    def retry(self, scan_id: int, now: float) -> bool:
        """Let a scan that ended without a structure set run again, under the same UIDs.

        False if it did not end so, or if its series was never complete.
        """
        with self._transaction() as db:
            if structure_set_id(db, scan_id) is None:
                return False
            state = next_of_scan(db, scan_id, ScanEvent.RETRY)
            if state is None:
                return False
            db.execute(
                "update scan set state = ?, reason = '', record = '{}', tries = 0, "  # noqa: S608
                f"started_at = null, logged = priority < ?, {NOT_DISMISSED}, "
                "intervention_s = intervention_s + ? - ready_at, ready_at = ? where id = ?",
                (state, LIVE, now, now, scan_id),
            )
        return True

    def recontour(self, scan_id: int, arrived: Arrived, destinations: Sequence[str]) -> bool:
        """Let a delivered scan run again whose structure set was removed, under the same UIDs.

        Its clock starts with the series that came this time. False if it was not delivered, or
        if it was discarded.

        Parameters
        ----------
        destinations : names of those that get it; any other that once had it does not
        """
        with self._transaction() as db:
            structure_set = structure_set_id(db, scan_id, MAY_GO)
            if structure_set is None or self.scan(scan_id).priority < LIVE:
                return False
            state = next_of_scan(db, scan_id, ScanEvent.RECONTOUR)
            if state is None:
                return False
            db.execute(
                "update scan set state = ?, reason = '', record = '{}', tries = 0, "
                "started_at = null, logged = 0, intervention_s = 0, settle_s = ?, receive_s = ?, "
                "last_slice_at = ?, ready_at = ? where id = ?",
                (
                    state,
                    arrived.settle_s,
                    arrived.receive_s,
                    arrived.last_slice_at,
                    arrived.ready_at,
                    scan_id,
                ),
            )
            # The person looked at the structure set that was removed, not at the new one.
            db.execute(
                "update structure_set set held = null, released_at = null, released_by = '', "
                "release_why = '', intervention_s = 0 where id = ?",
                (structure_set,),
            )
            offer(db, structure_set, destinations)
            db.executemany(
                "update delivery set accepted_at = null where structure_set = ? "
                "and destination = ?",
                [(structure_set, name) for name in destinations],
            )
        return True

    def resend(self, scan_id: int, destinations: Sequence[str], now: float) -> list[str]:
        """Offer a written structure set again; returns the destinations to which it goes.

        A structure set that is held or was discarded goes nowhere. A destination that the scan
        never had gets it too. A destination that it waits for is tried at once.
        """
        with self._transaction() as db:
            # MAY_GO is a constant.
            row = db.execute(
                "select structure_set.id, record, released_at from scan join structure_set on "  # noqa: S608
                "structure_set.scan = scan.id where scan.id = ? and state = 'contoured' "
                "and priority >= ?" + MAY_GO,
                (scan_id, LIVE),
            ).fetchone()
            if row is None:
                return []
            replaced = db.execute(
                "select destination from delivery where structure_set = ? and state = ?",
                (row["id"], DeliveryState.DISCARDED),
            ).fetchall()
            ended = {each["destination"] for each in replaced}
            destinations = [name for name in destinations if name not in ended]
            refused = db.execute(
                "select destination from delivery where structure_set = ? and state = ?",
                (row["id"], DeliveryState.REFUSED),
            ).fetchall()
            if {each["destination"] for each in refused} & set(destinations):
                # An operator had to act: the scan log gets a second row without that time.
                began = row["released_at"] or json.loads(row["record"]).get("contoured_at", now)
                db.execute("update scan set logged = 0 where id = ?", (scan_id,))
                db.execute(
                    "update structure_set set intervention_s = ? where id = ?",
                    (now - began, row["id"]),
                )
            offer(db, row["id"], destinations)
        return list(destinations)

    def contoured(
        self,
        scan_id: int,
        path: str,
        record: dict[str, Any],
        held: str | None = None,
        contents_sha256: str = "",
    ) -> bool:
        """Note that the structure set is on disk; False if the scan had ended before.

        With a reason in ``held`` its deliveries become ``held`` until `release`. It is one
        transaction, so that no courier sees them as ``waiting``. What is held of an older version
        with a part of the slices is discarded, and so is this one if the newer one came first.
        """
        with self._transaction() as db:
            return enter_contours(db, scan_id, path, record, held, contents_sha256)

    def release(self, scan_id: int, released_at: float, by: str = "", why: str = "") -> bool:
        """Let a held structure set be sent, by a person's order; False if it is not held.

        Parameters
        ----------
        by, why : the person's name and reason; empty if not given
        """
        with self._transaction() as db:
            structure_set = structure_set_id(db, scan_id, ON_HOLD)
            if structure_set is None:
                return False
            db.execute(
                "update structure_set set released_at = ?, released_by = ?, release_why = ? "
                "where id = ?",
                (released_at, by, why, structure_set),
            )
            move_deliveries(db, scan_id, DeliveryEvent.RELEASE, "status = '', next_at = 0")
        return True

    def discard(self, scan_id: int, why: str, discarded_at: float, by: str = "") -> bool:
        """Never send a held structure set, by a person's order; False if it is not held."""
        with self._transaction() as db:
            structure_set = structure_set_id(db, scan_id, ON_HOLD)
            if structure_set is None:
                return False
            discard_held(db, scan_id, structure_set, why, discarded_at, by=by)
        return True

    def dismiss(self, scan_id: int, why: str, dismissed_at: float, by: str = "") -> bool:
        """Note a person's decision that nobody need act on a live scan that ended badly.

        Its state stays, and the scan log gets a second row. False if it has not ended badly, or
        was dismissed before.
        """
        with self._transaction() as db:
            cursor = db.execute(
                "update scan set dismissed = ?, dismissed_by = ?, dismissed_at = ?, logged = 0 "
                "where id = ? and state in ('refused', 'failed', 'quarantined') "
                "and dismissed_at is null and priority >= ?",
                (why, by, dismissed_at, scan_id, LIVE),
            )
        return cursor.rowcount > 0

    def look(self, scan_id: int, person: str, at: float) -> None:
        """Note that a person looked at a scan, of whatever state; every look stays (D-251)."""
        with self._transaction() as db:
            db.execute(
                "insert into look (scan, person, at) values (?, ?, ?)", (scan_id, person, at)
            )

    def end(self, scan_id: int, end: str, reason: str, record: dict[str, Any]) -> None:
        """Note that a scan ended without a structure set: "refused", "failed" or "quarantined"."""
        with self._transaction() as db:
            state = next_of_scan(db, scan_id, _ENDS[ScanState(end)])
            if state is not None:
                db.execute(
                    "update scan set state = ?, reason = ?, record = ? where id = ?",
                    (state, reason, json.dumps(record), scan_id),
                )
                withdraw_previews(db, scan_id)

    def delivered(
        self, delivery_id: int, status: str, accepted_at: float, forms: Sequence[str] = ()
    ) -> None:
        """Note that a destination accepted the structure set; these forms follow it there."""
        # The first acceptance stopped the clock; a resend does not change that time.
        columns = "status = ?, accepted_at = coalesce(accepted_at, ?), tries = tries + 1"
        with self._transaction() as db:
            accept, values = DeliveryEvent.ACCEPT, (status, accepted_at)
            if move_delivery(db, delivery_id, accept, columns, values):
                offer_companions(db, delivery_id, forms)

    def postponed(self, delivery_id: int, status: str, next_at: float) -> None:
        """Note that a destination can't be reached or has no room; next try at ``next_at``."""
        columns = "status = ?, next_at = ?, tries = tries + 1"
        self._write_answer(delivery_id, DeliveryEvent.POSTPONE, columns, (status, next_at))

    def refused(self, delivery_id: int, status: str) -> None:
        """Note that a destination refused it for good; an operator must act."""
        columns = "status = ?, tries = tries + 1"
        self._write_answer(delivery_id, DeliveryEvent.REFUSE, columns, (status,))

    def _write_answer(
        self, delivery_id: int, event: DeliveryEvent, columns: str, values: Sequence[object]
    ) -> None:
        with self._transaction() as db:
            move_delivery(db, delivery_id, event, columns, values)

    def mark_logged(self, scan_id: int) -> None:
        """Note that the scan's row is in the scan log."""
        with self._transaction() as db:
            db.execute("update scan set logged = 1 where id = ?", (scan_id,))
