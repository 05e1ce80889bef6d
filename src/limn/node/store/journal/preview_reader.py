"""Queries on the previews of scans."""

from __future__ import annotations

from limn.node.store.journal.connection import JournalConnection
from limn.node.store.journal.rows import (
    PreviewDeliveryRow,
    PreviewRow,
    ScanRow,
    preview_delivery_row,
    preview_row,
)


class PreviewReader(JournalConnection):
    """What became of a scan's preview, and at which destination."""

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
