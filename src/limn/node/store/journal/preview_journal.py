"""The journal's part on previews: one for a scan at most, sent to each destination once at most.

A preview has tables of its own. So no query on structure sets and their deliveries finds one, and
no preview closes a scan.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from limn.node.store.journal.companion_journal import CompanionJournal
from limn.node.store.journal.rows import PreviewDeliveryRow, PreviewRow, preview_uids
from limn.node.store.journal.states import (
    PREVIEW_DELIVERY_TABLE,
    PreviewDeliveryEvent,
    PreviewDeliveryState,
    PreviewEvent,
    PreviewState,
    ScanState,
)
from limn.node.store.journal.transitions import (
    move_preview_delivery,
    next_of_preview,
    withdraw_previews,
)


class PreviewJournal(CompanionJournal):
    """The transitions of previews."""

    def begin_preview(self, scan_id: int) -> PreviewRow | None:
        """Enter a scan's preview, before its job goes to a worker; None if it had one before.

        A preview that was begun is never begun again, whatever became of it.
        """
        sop_uid, series_uid = preview_uids(self.structure_set_of(scan_id))
        with self._transaction() as db:
            state = next_of_preview(db, scan_id, PreviewEvent.BEGIN)
            if state is None:
                return None
            db.execute(
                "insert into preview (scan, sop_instance_uid, series_instance_uid, state, begun_at)"
                " values (?, ?, ?, ?, ?)",
                (scan_id, sop_uid, series_uid, state, time.time()),
            )
        return self.preview_of(scan_id)

    def preview_contoured(self, scan_id: int, path: str, destinations: Iterable[str]) -> bool:
        """Note that a preview is on disk, and offer it; False if the scan needs none any more."""
        with self._transaction() as db:
            scan = db.execute("select state from scan where id = ?", (scan_id,)).fetchone()
            wanted = ScanState(scan["state"]) is ScanState.READY
            event = PreviewEvent.CONTOUR if wanted else PreviewEvent.DROP
            state = next_of_preview(db, scan_id, event)
            if state is None:
                return False
            reason = "" if wanted else f"the scan was {scan['state']} before"
            db.execute(
                "update preview set state = ?, path = ?, reason = ? where scan = ?",
                (state, path, reason, scan_id),
            )
            if wanted:
                waiting = PREVIEW_DELIVERY_TABLE[
                    PreviewDeliveryState.NEW, PreviewDeliveryEvent.OFFER
                ]
                db.executemany(
                    "insert into preview_delivery (scan, destination, state) values (?, ?, ?)",
                    [(scan_id, name, waiting) for name in destinations],
                )
        return wanted

    def drop_previews(self, reason: str, scan_id: int | None = None) -> None:
        """Give up a scan's preview that was begun and is not on disk (None: that of any scan)."""
        with self._transaction() as db:
            rows = db.execute(
                "select scan from preview where scan = coalesce(?, scan) and state = ?",
                (scan_id, PreviewState.RUNNING),
            ).fetchall()
            for row in rows:
                state = next_of_preview(db, row["scan"], PreviewEvent.DROP)
                db.execute(
                    "update preview set state = ?, reason = ? where scan = ?",
                    (state, reason, row["scan"]),
                )

    def lose_previews(self, destination: str) -> None:
        """Give up the previews that were being sent to a destination when the engine ended.

        Nobody knows whether the destination has them.
        """
        # A start waits for no lock unless there is something to write.
        if not self._preview_ids(destination, PreviewDeliveryState.SENDING):
            return
        with self._transaction() as db:
            for number in self._preview_ids(destination, PreviewDeliveryState.SENDING):
                move_preview_delivery(db, number, PreviewDeliveryEvent.LOSE)

    def next_preview(self, destination: str) -> PreviewDeliveryRow | None:
        """The next preview for a destination; None if none waits.

        A scan that has ended or has its structure set sends none.
        """
        waiting = self._preview_ids(destination, PreviewDeliveryState.WAITING)
        return self.preview_delivery(waiting[0]) if waiting else None

    def take_preview(
        self, destination: str, delivery_id: int | None = None
    ) -> PreviewDeliveryRow | None:
        """A preview to send now, or the next one; None if it does not wait any more.

        From this transaction on it counts as sent, so that a crash sends none twice.
        """
        if not self._preview_ids(destination, PreviewDeliveryState.WAITING):
            return None
        with self._transaction() as db:
            waiting = self._preview_ids(destination, PreviewDeliveryState.WAITING)
            wanted = next(iter(waiting), None) if delivery_id is None else delivery_id
            if wanted is None or wanted not in waiting:
                return None
            move_preview_delivery(db, wanted, PreviewDeliveryEvent.SEND, "tries = tries + 1")
        return self.preview_delivery(wanted)

    def _preview_ids(self, destination: str, state: PreviewDeliveryState) -> list[int]:
        """Deliveries of previews in a state; waiting ones only of scans that are not done."""
        rows = self._all(
            "select preview_delivery.id from preview_delivery join scan on "
            "scan.id = preview_delivery.scan where destination = ? and preview_delivery.state = ? "
            "and (preview_delivery.state <> 'waiting' or scan.state = 'ready') "
            "order by scan.priority desc, preview_delivery.id",
            (destination, state),
        )
        return [row["id"] for row in rows]

    def preview_delivered(self, delivery_id: int, status: str, accepted_at: float) -> None:
        """Note that a destination has taken a preview."""
        with self._transaction() as db:
            columns, values = "status = ?, accepted_at = ?", (status, accepted_at)
            move_preview_delivery(db, delivery_id, PreviewDeliveryEvent.ACCEPT, columns, values)

    def preview_refused(self, delivery_id: int, status: str) -> None:
        """Note that a destination refused a preview."""
        with self._transaction() as db:
            refuse = PreviewDeliveryEvent.REFUSE
            move_preview_delivery(db, delivery_id, refuse, "status = ?", (status,))

    def preview_postponed(self, delivery_id: int, status: str) -> None:
        """Note that a destination could not take a preview now; it waits unless its scan ended."""
        with self._transaction() as db:
            postpone = PreviewDeliveryEvent.POSTPONE
            move_preview_delivery(db, delivery_id, postpone, "status = ?", (status,))
            row = db.execute(
                "select scan.id, scan.state from scan join preview_delivery "
                "on preview_delivery.scan = scan.id where preview_delivery.id = ?",
                (delivery_id,),
            ).fetchone()
            if row["state"] != ScanState.READY:
                withdraw_previews(db, row["id"])
