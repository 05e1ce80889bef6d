"""Removes from the disk what every destination has had for as long as the site keeps it.

The journal keeps every row. What waits, is held or was discarded, failed, was quarantined or is
coming in stays, however old. It runs in the receiver, which alone knows what is coming in.
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
# What the engine writes for a scan; anything else in its folder is somebody's own.
RESULTS = ("RS.*.dcm", "picture.png", "labels.npz")


class Retention:
    """What a site's ``[retention]`` does to its disk.

    Parameters
    ----------
    clear : removes a series from the spool; False, and it stays, if slices of it are coming in
    """

    def __init__(self, config: Config, journal: Journal, clear: Callable[[Path], bool]) -> None:
        self._settings = config.retention
        self._spool = Spool(config.spool_dir, 0)
        self._results_dir = config.results_dir
        self._journal = journal
        self._clear = clear

    def run(self, stopping: Event) -> None:
        """Look now and then, until told to stop."""
        while not stopping.is_set():
            self.work(time.time())
            stopping.wait(EVERY_S)

    def work(self, now: float) -> None:
        """Remove what is due (``now`` in UTC seconds); what can't be removed is said and stays."""
        self._spool.sweep()
        for days, remove in (
            (self._settings.spool_days, self._remove_slices),
            (self._settings.results_days, self._remove_results),
        ):
            if days is None:
                continue
            for scan_id, folder in self._journal.had_since(now - days * DAY_S):
                try:
                    remove(scan_id, Path(folder))
                except OSError as error:
                    log.error("scan-%05d is old and can't be removed: %s", scan_id, error)

    def _remove_slices(self, scan_id: int, folder: Path) -> None:
        if folder.parent != self._spool.root:
            return
        there = {path.name: path.stat().st_size for path in folder.glob("*.dcm")}
        row = self._journal.scan(scan_id) if there else None
        if row is None or not self._over(row, set(there)):
            return
        if self._clear(folder):
            self._say(row, f"{len(there)} slices", sum(there.values()))

    def _over(self, row: ScanRow, there: set[str]) -> bool:
        """Whether nothing in a series' folder is wanted any more by any of its versions."""
        for other in self._journal.of_folder(row.folder):
            if other.state in ("ready", "failed", "quarantined"):
                return False
            if any(each.state != "delivered" for each in self._journal.deliveries(other.id)):
                # A version that a worker refused has deliveries too, and they wait for ever.
                return False
        # Slices that came later and gave no structure set were delivered to nobody.
        return there <= set(row.files)

    def _remove_results(self, scan_id: int, _: Path) -> None:
        folder = self._results_dir / f"scan-{scan_id:05d}"
        files = [path for pattern in RESULTS for path in folder.glob(pattern)]
        if not files:
            return
        row = self._journal.scan(scan_id)
        waited_for = any(e.state != "delivered" for e in self._journal.deliveries(scan_id))
        if row.state != "contoured" or waited_for:
            # Its series came again since this look began, and it is made anew.
            return
        removed_bytes = sum(path.stat().st_size for path in files)
        structure_sets = list(folder.glob(RESULTS[0]))
        names = sorted({path.name for path in structure_sets}.union(RESULTS[1:]))
        note = {
            "date": datetime.now(UTC).date().isoformat(),
            "why": "every destination has it (retention.results_days)",
            "files": names,
        }
        # The structure set goes last, after the note: while it is there the next look goes on.
        # Pictures and labels go first, or a full disk would have no room for the note.
        for path in set(files) - set(structure_sets):
            path.unlink()
        write_durably(folder / REMOVED, json.dumps(note).encode())
        for path in structure_sets:
            path.unlink()
        self._say(row, ", ".join(names), removed_bytes)

    def _say(self, row: ScanRow, what: str, removed_bytes: int) -> None:
        accepted_at = max(each.accepted_at or 0.0 for each in self._journal.deliveries(row.id))
        day = datetime.fromtimestamp(accepted_at, UTC).date().isoformat()
        with oplog.about(scan=row.name, animal=row.animal):
            log.info("removed: %s, %.1f MB, delivered %s", what, removed_bytes / 2**20, day)
