"""Enters what came back, what was changed in it, and drift."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple

from limn.node.store.journal.edits.reader import DRIFT_COLUMNS, ROI_COLUMNS
from limn.node.store.journal.edits.rows import DriftRow, EditedRoi, ReturnedState
from limn.node.store.journal.writable_journal import WritableJournal


class EditJournal(WritableJournal):
    """The transitions of structure sets that came back."""

    def enter_returned(self, files: Mapping[str, float]) -> None:
        """Enter files of ``data_dir/returned`` with the times when they came (UTC s); once each."""
        with self._transaction() as db:
            db.executemany(
                "insert or ignore into returned (file, came_at, state) values (?, ?, ?)",
                [(name, at, ReturnedState.WAITING) for name, at in files.items()],
            )

    def measuring(self, returned_id: int) -> int:
        """Note that a process begins to measure a file; returns how many have begun with it."""
        with self._transaction() as db:
            db.execute("update returned set tries = tries + 1 where id = ?", (returned_id,))
        return int(self._one("select tries from returned where id = ?", (returned_id,))["tries"])

    def not_measured(self, returned_id: int) -> None:
        """The process was ended for a scan, and not by the file: it counts as no try."""
        with self._transaction() as db:
            db.execute("update returned set tries = max(0, tries - 1) where id = ?", (returned_id,))

    def measured(
        self,
        returned_id: int,
        state: ReturnedState,
        reason: str = "",
        editor: str = "",
        software: str = "",
        edits: Mapping[int, Sequence[EditedRoi]] | None = None,
    ) -> None:
        """Note what came of a file that waits; of one that does not, nothing.

        Parameters
        ----------
        edits : number of each scan that it is of, to its ROIs
        """
        marks = ", ".join("?" * (len(ROI_COLUMNS) + 1))
        with self._transaction() as db:
            cursor = db.execute(
                "update returned set state = ?, reason = ?, editor = ?, software = ? "
                "where id = ? and state = ?",
                (state, reason, editor, software, returned_id, ReturnedState.WAITING),
            )
            if not cursor.rowcount:
                return
            for scan, rois in (edits or {}).items():
                edit = db.execute(
                    "insert into edit (returned, scan) values (?, ?)", (returned_id, scan)
                ).lastrowid
                db.executemany(
                    f"insert into edit_roi (edit, {', '.join(ROI_COLUMNS)}) "  # noqa: S608 - names
                    f"values ({marks})",
                    [(edit, *astuple(each)) for each in rois],
                )

    def enter_drifts(self, drifts: Iterable[DriftRow]) -> None:
        """Replace what is known of all scanners and ROIs."""
        marks = ", ".join("?" * len(DRIFT_COLUMNS))
        with self._transaction() as db:
            db.execute("delete from drift")
            db.executemany(
                f"insert into drift ({', '.join(DRIFT_COLUMNS)}) values ({marks})",  # noqa: S608
                [astuple(each) for each in drifts],
            )
