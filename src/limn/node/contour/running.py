"""Shows how far the scans are that workers contour, in a file that other processes read."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from limn.node.contour.estimate import Estimator
from limn.node.contour.flights import JobInFlight
from limn.node.contour.work.progress import Told
from limn.node.store.disk.running import REWRITE_S, RunningScan, write_running
from limn.node.store.journal.journal import Journal


class Running:
    """What workers have told of their jobs; used by one thread.

    Parameters
    ----------
    jobs : at the workers, by the number of their scan
    """

    def __init__(
        self,
        path: Path,
        journal: Journal,
        estimator: Estimator,
        jobs: Mapping[int, JobInFlight],
    ) -> None:
        self._path = path
        self._journal = journal
        self._estimator = estimator
        self._jobs = jobs
        self._told: dict[str, tuple[Told, float]] = {}
        self._shown: list[RunningScan] = []
        self._written_s = 0.0

    def told(self, key: str, told: Told) -> None:
        """A worker says how far the job of this key is; another node's is nobody's here."""
        if any(job.key == key for job in self._jobs.values()):
            self._told[key] = told, time.time()
        self.show()

    def forget(self) -> None:
        """A scan has ended: what is known of the node's pace is read anew."""
        self._estimator.forget()
        self.show()

    def show(self) -> None:
        """Write the file, if it says something new, or nothing for a while."""
        keys = {job.key for job in self._jobs.values()}
        self._told = {key: each for key, each in self._told.items() if key in keys}
        shown = [
            self._scan(number, job) for number, job in self._jobs.items() if job.key in self._told
        ]
        now_s = time.monotonic()
        stale = bool(shown) and now_s - self._written_s > REWRITE_S
        if shown != self._shown or stale:
            self._shown, self._written_s = shown, now_s
            write_running(self._path, shown, time.time())

    def _scan(self, number: int, job: JobInFlight) -> RunningScan:
        told, at = self._told[job.key]
        share_of_stage = told.done / told.of if told.of else 0.0
        # A preview's folds are fewer than those of the scans that the estimate knows.
        known = (
            None
            if job.preview
            else self._estimator.how_far(self._journal.scan(number), told.stage, share_of_stage)
        )
        share, left_s = known or (None, None)
        return RunningScan(
            scan=number,
            stage=told.stage,
            share=None if share is None else round(share, 3),
            ends_at=None if left_s is None else round(at + left_s, 1),
            preview=job.preview,
        )
