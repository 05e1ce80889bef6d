"""Removes files from the disk once every destination has had them as long as the site sets.

The journal keeps every row. A scan that waits, is held, was discarded, failed or was quarantined
keeps its files, however old, and so does a series that is still being received. Retention runs in
the receiver, the only process that knows which series are being received.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from threading import Event

from limn.domain.files import write_durably
from limn.node import oplog
from limn.node.config import Config
from limn.node.store.journal import Journal
from limn.node.store.rows import ScanRow
from limn.node.store.spool import REMOVED, Spool

log = logging.getLogger(__name__)

EVERY_S = 3600.0
DAY_S = 86400.0
# What the engine writes for a scan; any other file in its folder belongs to a user.
RESULTS = ("RS.*.dcm", "picture.png", "labels.npz")


class Retention:
    """The removal that a site's ``[retention]`` settings ask for.

    Parameters
    ----------
    clear : removes a series from the spool; returns False and keeps it while slices of it come in
    """

    def __init__(self, config: Config, journal: Journal, clear: Callable[[Path], bool]) -> None:
        self._settings = config.retention
        self._spool = Spool(config.spool_dir, 0)
        self._results_dir = config.results_dir
        self._journal = journal
        self._clear = clear

    def run(self, stopping: Event) -> None:
        """Remove what is due every hour, until the node stops."""
        while not stopping.is_set():
            self.work(time.time())
            stopping.wait(EVERY_S)

    def work(self, now: float) -> None:
        """Remove what is due at ``now`` (UTC seconds); log what can't be removed, and keep it."""
        self._spool.sweep()
        for days, remove in (
            (self._settings.spool_days, self._remove_slices),
            (self._settings.results_days, self._remove_results),
        ):
            if days is None:
                continue
            for scan_id, folder in self._journal.delivered_before(now - days * DAY_S):
                try:
                    remove(scan_id, Path(folder))
                except OSError as error:
                    log.error(
                        "scan-%05d: its files are due and can't be removed: %s", scan_id, error
                    )

    def _remove_slices(self, scan_id: int, folder: Path) -> None:
        if folder.parent != self._spool.root:
            return
        sizes = {path.name: path.stat().st_size for path in folder.glob("*.dcm")}
        row = self._journal.scan(scan_id) if sizes else None
        if row is None or not self._is_done_with(row, set(sizes)):
            return
        if self._clear(folder):
            self._log_removal(row, f"{len(sizes)} slices", sum(sizes.values()))

    def _is_done_with(self, row: ScanRow, names: set[str]) -> bool:
        """Whether no version of a series needs any file in its folder any more."""
        for other in self._journal.scans_of_folder(row.folder):
            if other.state in ("ready", "failed", "quarantined"):
                return False
            if other.state == "superseded":
                # Its deliveries wait for ever; a newer version has its slices.
                continue
            if any(each.state != "delivered" for each in self._journal.deliveries(other.id)):
                # The deliveries of a version that a worker refused wait for ever.
                return False
        # Slices that came later and gave no structure set are not in the scan's list: keep them.
        return names <= set(row.files)

    def _remove_results(self, scan_id: int, _: Path) -> None:
        folder = self._results_dir / f"scan-{scan_id:05d}"
        files = [path for pattern in RESULTS for path in folder.glob(pattern)]
        if not files:
            return
        row = self._journal.scan(scan_id)
        undelivered = any(e.state != "delivered" for e in self._journal.deliveries(scan_id))
        if row.state != "contoured" or undelivered:
            # Its series came again after the query above, and is contoured again.
            return
        removed_bytes = sum(path.stat().st_size for path in files)
        structure_sets = list(folder.glob(RESULTS[0]))
        names = sorted({path.name for path in structure_sets}.union(RESULTS[1:]))
        note = {
            "date": datetime.now(UTC).date().isoformat(),
            "why": "every destination has it (retention.results_days)",
            "files": names,
        }
        # The structure set goes last, after the note: while it exists, the next run continues here.
        # Pictures and labels go first, so that a full disk has room for the note.
        for path in set(files) - set(structure_sets):
            path.unlink()
        write_durably(folder / REMOVED, json.dumps(note).encode())
        for path in structure_sets:
            path.unlink()
        self._log_removal(row, ", ".join(names), removed_bytes)

    def _log_removal(self, row: ScanRow, what: str, removed_bytes: int) -> None:
        accepted_at = max(each.accepted_at or 0.0 for each in self._journal.deliveries(row.id))
        day = datetime.fromtimestamp(accepted_at, UTC).date().isoformat()
        with oplog.about(scan=row.name, animal=row.animal):
            log.info("removed: %s, %.1f MB, delivered %s", what, removed_bytes / 2**20, day)
