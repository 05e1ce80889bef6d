"""Shows how far the scans are that workers contour, and when those that wait are expected.

In a file that other processes read.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from limn.node.contour.estimate import Estimator, waits_s
from limn.node.contour.flights import JobInFlight
from limn.node.contour.work.progress import Told
from limn.node.store.disk.running import REWRITE_S, RunningScan, write_running
from limn.node.store.journal.journal import Journal
from limn.node.store.journal.rows import ScanRow
from limn.node.store.journal.schema import LIVE

# Of a longer queue the first ones are expected; the header of each is read once.
MOST_EXPECTED = 12


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
        self._waiting: tuple[ScanRow, ...] = ()
        self._workers = 0
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

    def wait(self, waiting: Sequence[ScanRow], workers: int) -> None:
        """These scans have no worker yet, in their order, and so many workers are there."""
        self._waiting = tuple(row for row in waiting if row.priority >= LIVE)[:MOST_EXPECTED]
        self._workers = workers

    def show(self) -> None:
        """Write the file, if it says something new, or nothing for a while."""
        keys = {job.key for job in self._jobs.values()}
        self._told = {key: each for key, each in self._told.items() if key in keys}
        shown = [
            self._scan(number, job) for number, job in self._jobs.items() if job.key in self._told
        ]
        shown += self._expected(shown, time.time())
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
            of_stage=round(share_of_stage, 3) if told.of else None,
        )

    def _expected(self, running: Sequence[RunningScan], now: float) -> Iterator[RunningScan]:
        """The scans that wait, up to the first of which nobody knows when its contours come."""
        ends = {each.scan: each.ends_at for each in running}
        left_s = [self._left_s(number, ends.get(number), now) for number in self._jobs]
        runs_s = [self._estimator.run_s(row) for row in self._waiting]
        if not self._workers or any(each is None for each in left_s):
            return
        waits = waits_s([each for each in left_s if each is not None], runs_s, self._workers)
        for row, wait_s, run_s in zip(self._waiting, waits, runs_s, strict=True):
            if run_s is None:
                return
            ends_at = float(round(now + wait_s + run_s))
            yield RunningScan(scan=row.id, stage="queue_s", share=None, ends_at=ends_at)

    def _left_s(self, number: int, ends_at: float | None, now: float) -> float | None:
        """How long a worker still has a scan; None if that is not known."""
        if ends_at is not None:
            return max(0.0, ends_at - now)
        return self._estimator.run_s(self._journal.scan(number))
