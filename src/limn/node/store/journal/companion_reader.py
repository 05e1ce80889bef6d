"""Queries on what goes to a destination beside a structure set: CT series, and other forms."""

from __future__ import annotations

from collections.abc import Collection

from limn.node.store.journal.preview_reader import PreviewReader
from limn.node.store.journal.rows import CompanionRow, companion_row


class CompanionReader(PreviewReader):
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
