"""Queries on what goes to a destination beside a structure set: previews, CT series, forms."""

from __future__ import annotations

from collections.abc import Collection

from limn.node.store.journal.connection import JournalConnection
from limn.node.store.journal.rows import (
    CompanionRow,
    PreviewDeliveryRow,
    PreviewRow,
    ScanRow,
    companion_row,
    preview_delivery_row,
    preview_row,
)


class CompanionReader(JournalConnection):
    """Which destination has which, and why not."""

    def companions(self, scan_id: int) -> list[CompanionRow]:
        """The other forms of a scan's contours that went or must go to a destination."""
        rows = self._all(
            "select companion_delivery.* from companion_delivery join structure_set on "
            "structure_set.id = companion_delivery.structure_set where structure_set.scan = ? "
            "order by companion_delivery.id",
            (scan_id,),
        )
        return [companion_row(row) for row in rows]

    def due_companion(self, destination: str, resting: Collection[int]) -> CompanionRow | None:
        """The next form to send: the destination has the structure set of it; None if none is.

        Parameters
        ----------
        resting : numbers of those for which it is too early
        """
        rows = self._all(
            "select companion_delivery.* from companion_delivery join structure_set on "
            "structure_set.id = companion_delivery.structure_set join scan on scan.id = "
            "structure_set.scan join delivery on delivery.structure_set = structure_set.id and "
            "delivery.destination = companion_delivery.destination where "
            "companion_delivery.state = 'waiting' and companion_delivery.destination = ? and "
            "scan.state = 'contoured' and delivery.state = 'delivered' order by "
            "scan.priority desc, companion_delivery.id limit ?",
            (destination, len(resting) + 1),
        )
        return next((companion_row(row) for row in rows if row["id"] not in resting), None)

    def scans_with_companions(self) -> set[int]:
        """Scans of which some destination still lacks a form, or has refused it."""
        rows = self._all(
            "select distinct scan from structure_set join companion_delivery on "
            "companion_delivery.structure_set = structure_set.id where "
            "companion_delivery.state <> 'delivered'",
            (),
        )
        return {int(row["scan"]) for row in rows}

    def has_series(self, series_instance_uid: str, destination: str) -> bool:
        """Whether limn has sent a CT series to a destination."""
        query = "select 1 from sent_series where series_instance_uid = ? and destination = ?"
        return bool(self._all(query, (series_instance_uid, destination)))

    def preview_of(self, scan_id: int) -> PreviewRow | None:
        """The preview of a scan; None if none was begun."""
        rows = self._all("select * from preview where scan = ?", (scan_id,))
        return preview_row(rows[0]) if rows else None

    def preview_delivery(self, delivery_id: int) -> PreviewDeliveryRow:
        """One delivery of a preview by its number."""
        row = self._one("select * from preview_delivery where id = ?", (delivery_id,))
        return preview_delivery_row(row)

    def preview_deliveries(self, scan_id: int) -> list[PreviewDeliveryRow]:
        """The deliveries of a scan's preview, one for each destination that takes previews."""
        query = "select * from preview_delivery where scan = ? order by id"
        return [preview_delivery_row(row) for row in self._all(query, (scan_id,))]

    def preview_accepted_at(self, scan_id: int) -> float | None:
        """When the first destination took a scan's preview (UTC s); None if none did."""
        query = "select min(accepted_at) as at from preview_delivery where scan = ?"
        at = self._one(query, (scan_id,))["at"]
        return None if at is None else float(at)

    def scan_of_preview(self, sop_instance_uid: str) -> ScanRow | None:
        """The scan of which this is the preview; None if it is not one of limn's."""
        clause = "where id = (select scan from preview where sop_instance_uid = ?)"
        return next(self._scans(clause, (sop_instance_uid,)), None)
