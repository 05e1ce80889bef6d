"""Which scan gets a preview: one whose structure set is expected after the site's deadline."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from threading import Event

from limn.node.commissioning import is_commissioning
from limn.node.config import Config
from limn.node.contour.estimate import Estimator, waits_s
from limn.node.contour.flights import JobInFlight
from limn.node.persist import write_until_done
from limn.node.store.journal.journal import Journal
from limn.node.store.journal.rows import ScanRow, preview_uids
from limn.node.store.journal.schema import LIVE
from limn.segment.bundle.bundle import Bundle

log = logging.getLogger(__name__)


def preview_path(config: Config, row: ScanRow, sop_instance_uid: str) -> Path:
    """The file of a scan's preview; no pattern of a structure set's file fits it."""
    return config.results_dir / row.name / f"PREVIEW.{sop_instance_uid}.dcm"


class Previews:
    """Chooses and begins previews. Without a deadline and a destination for them there are none."""

    def __init__(self, config: Config, journal: Journal, bundle: Bundle, stopping: Event) -> None:
        self._config = config
        self._journal = journal
        self._stopping = stopping
        self._estimator = Estimator(journal, bundle.sha256)
        # Of a bundle with one fold the preview would be the whole.
        self._after_s = config.engine.preview_after_s
        self._made = bool(config.preview_destinations) and len(bundle.folds) > 1
        if self._after_s is not None and not self._made:
            log.warning(
                "engine.preview_after_s is %g, but no preview is made: %s",
                self._after_s,
                f"bundle {bundle.label} has one fold"
                if config.preview_destinations
                else "no [[destination]] has previews = true",
            )

    def forget(self) -> None:
        """A scan has ended: what is known of the node's pace is read anew."""
        self._estimator.forget()

    def begin_next(
        self, waiting: Sequence[ScanRow], in_flight: Mapping[int, JobInFlight], workers: int
    ) -> ScanRow | None:
        """Begin the next preview, in the journal; None if no scan that waits needs one.

        Parameters
        ----------
        waiting : scans without a worker, in their order
        in_flight : jobs at the workers, by the number of their scan
        """
        row = self._next(waiting, in_flight, workers)
        if row is None:
            return None
        begin = partial(self._journal.begin_preview, row.id)
        begun = write_until_done(begin, f"{row.name}: its preview", self._stopping)
        return row if begun is not None else None

    def _next(
        self, waiting: Sequence[ScanRow], in_flight: Mapping[int, JobInFlight], workers: int
    ) -> ScanRow | None:
        if not self._made or self._after_s is None or not any(map(self._may_have, waiting)):
            return None
        now = time.time()
        runs_s = [self._estimator.run_s(row) for row in waiting]
        running_s = [self._left_s(scan_id, job, now) for scan_id, job in in_flight.items()]
        waits = waits_s(running_s, runs_s, workers)
        for row, wait_s, run_s in zip(waiting, waits, runs_s, strict=True):
            if run_s is None or not self._may_have(row):
                continue
            expected_s = max(0.0, now - row.ready_at) + wait_s + run_s
            if expected_s > self._after_s:
                log.info(
                    "%s animal %s: its contours are expected %.0f s after the scan was complete "
                    "(engine.preview_after_s is %g): a PREVIEW of one fold goes first",
                    row.name,
                    row.animal,
                    expected_s,
                    self._after_s,
                )
                return row
        return None

    def _may_have(self, row: ScanRow) -> bool:
        """Whether a preview of this scan may still be begun; one whose worker died gets none.

        A preview goes to planning systems, so a phantom that commissions the node gets none.
        """
        return (
            row.priority >= LIVE
            and not row.tries
            and not is_commissioning(row.animal)
            and self._journal.preview_of(row.id) is None
        )

    def _left_s(self, scan_id: int, job: JobInFlight, now: float) -> float:
        """How long a worker still has a scan; after a preview it has all folds before it."""
        run_s = self._estimator.run_s(self._journal.scan(scan_id)) or 0.0
        return run_s if job.preview else max(0.0, run_s - max(0.0, now - job.submitted_at))

    def take_up(self, row: ScanRow) -> None:
        """Enter a preview that lies on disk and is not in the journal, for the journal was lost.

        It may be at a destination: it is not sent again, and the scan's structure set names it.
        """
        if row.priority < LIVE or self._journal.preview_of(row.id) is not None:
            return
        sop_uid, _ = preview_uids(self._journal.structure_set_of(row.id))
        path = preview_path(self._config, row, sop_uid)
        if not path.is_file():
            return

        def enter() -> None:
            self._journal.begin_preview(row.id)
            self._journal.preview_contoured(row.id, str(path), ())

        write_until_done(enter, f"{row.name}: its earlier preview", self._stopping)
