"""The journal's scans that a person had contoured again with another bundle (D-278).

Such a scan is entered once it is contoured: while it were ready, the engine would contour it with
the site's own bundle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from limn.node.store.journal.journal import Journal
from limn.node.store.journal.rows import Arrived, ScanRow
from limn.node.store.journal.transitions import enter_contours, free_uids

# The reason of a scan whose results are being written; one that keeps it was broken off.
UNFINISHED = "limn ended while its contours were written; run it again with that bundle"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contours:
    """What is entered of a scan that was contoured again.

    Attributes
    ----------
    path : of its structure set on disk
    held : why a person must look first; None if nobody must
    started_at : when its contouring began, UTC seconds
    intervention_s : from the first version's readiness until then; it is left out of door to door
    """

    path: str
    record: dict[str, Any]
    held: str | None
    contents_sha256: str
    started_at: float
    intervention_s: float


class RerunJournal(Journal):
    """Enters scans that another bundle contoured."""

    def issue(self, arrived: Arrived) -> tuple[str, str, str, str]:
        """SOP and Series Instance UID, date and time of its structure set; the same each time.

        They are noted as issued, so that a file of that UID is no sign of a lost journal.
        """
        with self._transaction() as db:
            uids, date, time = free_uids(db, arrived, arrived.date, arrived.time)
            db.execute("insert or ignore into issued values (?, ?, ?)", (uids[0], date, time))
        return *uids, date, time

    def begin_rerun(self, arrived: Arrived, newest: int) -> ScanRow | None:
        """Give it a number, under which its results are written.

        None if it was contoured already, or if ``newest`` is no longer the series' newest version.
        """
        with self._transaction() as db:
            known = self.find(arrived)
            if known is not None:
                return known if known.reason == UNFINISHED else None
            last = db.execute(
                "select id from scan where series_instance_uid = ? and profile = ? "
                "and field is null order by version desc limit 1",
                (arrived.series_instance_uid, arrived.profile),
            ).fetchone()
            if last is None or last["id"] != newest:
                return None
            scan_id = self._insert(db, replace(arrived, refused=UNFINISHED), ())
            # The scan log has it once it is contoured.
            db.execute("update scan set logged = 1 where id = ?", (scan_id,))
        return self.scan(scan_id)

    def finish_rerun(
        self, arrived: Arrived, destinations: Sequence[str], contours: Contours
    ) -> bool:
        """Enter contours and deliveries; these wait or are held as those of any scan.

        False if the node has the scan in hand since `begin_rerun`: then nothing has changed.
        """
        with self._transaction() as db:
            scan_id = self._insert(db, arrived, destinations)
            if scan_id == 0:
                return False
            db.execute(
                "update scan set tries = 1, started_at = ?, intervention_s = ? where id = ?",
                (contours.started_at, contours.intervention_s, scan_id),
            )
            return enter_contours(
                db,
                scan_id,
                contours.path,
                contours.record,
                contours.held,
                contours.contents_sha256,
            )

    def contoured_before(self, arrived: Arrived) -> str:
        """SOP Instance UID of the newest structure set of this series; empty if there is none."""
        rows = self._all(
            "select sop_instance_uid from structure_set join scan on scan.id = structure_set.scan "
            "where scan.series_instance_uid = ? and scan.profile = ? and scan.state = 'contoured' "
            "and field is null order by version desc limit 1",
            (arrived.series_instance_uid, arrived.profile),
        )
        return str(rows[0]["sop_instance_uid"]) if rows else ""
