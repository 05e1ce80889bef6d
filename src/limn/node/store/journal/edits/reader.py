"""What came back, over a connection that can't write; safe to share between threads."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from limn.node.store.journal.connection import JournalConnection
from limn.node.store.journal.edits.rows import (
    Change,
    DriftRow,
    EditedRoi,
    ReturnedRow,
    ReturnedState,
    ScanEdit,
)
from limn.node.store.journal.rows import ScanRow

ROI_COLUMNS = tuple(EditedRoi.__dataclass_fields__)
DRIFT_COLUMNS = tuple(DriftRow.__dataclass_fields__)


class EditReader(JournalConnection):
    """Structure sets that came back, and what was changed in them."""

    def known_returned(self, state: ReturnedState | None = None) -> set[str]:
        """The names of all files that are in the journal; only of those of ``state``."""
        query = "select file from returned where state = coalesce(?, state)"
        return {str(row["file"]) for row in self._all(query, (state,))}

    def returned_files(
        self, state: ReturnedState | None = None, most: int = -1
    ) -> list[ReturnedRow]:
        """So many structure sets that came back, oldest first; only those of ``state``."""
        which = "" if state is None else "where state = ? "
        rows = self._all(
            f"select * from returned {which}order by came_at, id limit ?",  # noqa: S608 - no value
            (most,) if state is None else (state, most),
        )
        return [
            ReturnedRow(
                **{name: row[name] for name in ReturnedRow.__dataclass_fields__ if name != "state"},
                state=ReturnedState(row["state"]),
            )
            for row in rows
        ]

    def scans_of_structure_set(self, sop_instance_uid: str) -> list[ScanRow]:
        """The scans of which this is a structure set or preview of limn's; several in a field.

        Also of the structure set from before a person named the animal.
        """
        if not sop_instance_uid:
            return []
        return list(
            self._scans(
                "where state = 'contoured' and (scan.id in (select scan from structure_set where "
                "sop_instance_uid = ? or replaces = ?) or scan.id in (select scan from preview "
                "where sop_instance_uid = ?) or coalesce(field, scan.id) in (select field from "
                "joined where sop_instance_uid = ?)) order by scan.id desc",
                (sop_instance_uid,) * 4,
            )
        )

    def contoured_of_series(self, uids: Iterable[str]) -> list[ScanRow]:
        """The contoured scans of these series, the newest first."""
        clause = (
            "where state = 'contoured' and series_instance_uid in (select value from json_each(?))"
            " order by scan.id desc"
        )
        return list(self._scans(clause, (json.dumps(list(uids)),)))

    def contoured_of_studies(self, uids: Iterable[str], most: int) -> list[ScanRow]:
        """So many contoured scans of these studies, the newest first."""
        clause = (
            "where state = 'contoured' and study_instance_uid in (select value from json_each(?)) "
            "order by scan.id desc limit ?"
        )
        return list(self._scans(clause, (json.dumps(list(uids)), most)))

    def edits(self, scans: Iterable[int] | None = None, last: int = 0) -> list[ScanEdit]:
        """The structure sets that were compared with limn's, oldest first.

        Parameters
        ----------
        scans : of these alone, by their numbers
        last : so many, the newest; 0 for all
        """
        wanted = None if scans is None else json.dumps(list(scans))
        rows = self._all(
            "select edit.id, edit.scan, animal, sender, bundle_sha256, last_slice_at, file, "
            "came_at, editor, software from edit join returned on returned.id = edit.returned "
            "join scan on scan.id = edit.scan where ? is null or edit.scan in "
            "(select value from json_each(?)) order by came_at desc, edit.id desc limit ?",
            (wanted, wanted or "[]", last or -1),
        )
        rois = self._rois([row["id"] for row in rows])
        return [ScanEdit(**dict(row), rois=tuple(rois.get(row["id"], ()))) for row in rows][::-1]

    def _rois(self, edits: Sequence[int]) -> dict[int, list[EditedRoi]]:
        found: dict[int, list[EditedRoi]] = {}
        for row in self._all(
            "select * from edit_roi where edit in (select value from json_each(?)) order by rowid",
            (json.dumps(list(edits)),),
        ):
            values: dict[str, Any] = {name: row[name] for name in ROI_COLUMNS}
            values["change"] = Change(row["change"])
            found.setdefault(row["edit"], []).append(EditedRoi(**values))
        return found

    def drifts(self) -> list[DriftRow]:
        """What is known of each scanner and ROI, in their order."""
        rows = self._all("select * from drift order by scanner, rowid", ())
        return [DriftRow(**{name: row[name] for name in DRIFT_COLUMNS}) for row in rows]

    def returned_counts(self) -> dict[str, int]:
        """How many structure sets came back, by state; measured ones as accepted or edited."""
        counts = {
            str(row["state"]): int(row["n"])
            for row in self._all(
                "select state, count(*) as n from returned where state <> 'measured' "
                "group by state",
                (),
            )
        }
        edited = self._one(
            "select count(*) as n, coalesce(sum(changed), 0) as changed from (select exists ("
            "select 1 from edit_roi where edit_roi.edit = edit.id and "
            "change in ('edited', 'emptied')) as changed from edit)",
            (),
        )
        return counts | {
            "accepted": int(edited["n"] - edited["changed"]),
            "edited": int(edited["changed"]),
        }
