"""The jobs that are at a worker or on their way to one."""

from __future__ import annotations

import itertools
import logging
import threading
import time
import uuid
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Event

from distributed import Client, Future

from limn.domain.files import may_pass
from limn.node.config import Config
from limn.node.contour.job import UNFIT, Job, Result
from limn.node.contour.work.worker import run_job
from limn.node.persist import write_until_done
from limn.node.store.journal.journal import Journal
from limn.node.store.journal.rows import ScanRow, uids_of_others
from limn.node.store.journal.schema import LIVE
from limn.node.store.journal.states import PreviewState

log = logging.getLogger(__name__)

# A result of some megabytes arrives within this time, or its worker is gone.
FETCH_S = 30.0


@dataclass(slots=True)
class JobInFlight:
    """A job at a worker or on its way to one. Times are UTC seconds.

    Attributes
    ----------
    queue_s : how long the scan waited because no worker was free
    future : None while the scan's bytes are still being sent
    pixels : the bytes on the worker, which frees them when this object goes
    result : what the worker returned; None if the job failed or the result was lost
    transfer_s : how long sending the bytes took
    unreadable : why the scan's files can't be sent; empty if they can
    surprise : an error that nobody expected on its way to the worker
    started : whether the worker has reported the job's start
    orphan : whether its worker was missing at the last look
    preview : whether it gives the scan's preview, not its structure set
    """

    key: str
    worker: str
    submitted_at: float
    queue_s: float
    future: Future[Result] | None = None
    pixels: Future[bytes] | None = None
    result: Result | None = None
    transfer_s: float = 0.0
    unreadable: str = ""
    surprise: Exception | None = None
    started: bool = False
    orphan: bool = False
    preview: bool = False


class Flights:
    """Sends jobs to the workers and brings their results back.

    Parameters
    ----------
    label : StructureSetLabel of this site's structure sets
    on_done : called from any thread with the scan's id and its job, once that job has ended
    """

    def __init__(
        self,
        config: Config,
        journal: Journal,
        label: str,
        on_done: Callable[[int, JobInFlight], None],
        stopping: Event,
    ) -> None:
        self._config = config
        self._journal = journal
        self._label = label
        self._on_done = on_done
        self._stopping = stopping
        self._jobs: dict[int, JobInFlight] = {}
        self._count = itertools.count()

    def __len__(self) -> int:
        """How many jobs are in flight."""
        return len(self._jobs)

    def __contains__(self, scan_id: int) -> bool:
        """Whether a job of this scan is in flight."""
        return scan_id in self._jobs

    @property
    def jobs(self) -> Mapping[int, JobInFlight]:
        """The jobs in flight, by the number of their scan."""
        return self._jobs

    @property
    def on_their_way(self) -> tuple[str, ...]:
        """Workers that have not reported the start of the job that was sent to them."""
        return tuple(job.worker for job in self._jobs.values() if not job.started)

    def submit(
        self, client: Client, row: ScanRow, worker: str, *, waited: bool, preview: bool = False
    ) -> None:
        """Send a scan to a worker, for its structure set or for its preview.

        ``waited`` says that no worker was free when it was ready. Its preview is time in the queue.
        """
        number = next(self._count)
        job = self._preview_job_of(row) if preview else self._job_of(row)
        submitted_at = time.time()
        waited = waited or self._journal.preview_of(row.id) is not None
        queue_s = submitted_at - row.ready_at if waited else 0.0
        key = f"{row.name}-{number}-{uuid.uuid4().hex}"
        flight = JobInFlight(key, worker, submitted_at, queue_s, preview=preview)
        self._jobs[row.id] = flight
        if self._config.engine.pixels == "path":
            self._start(client, job, flight, -number)
        else:
            # In its own thread, so that other scans' results are filed meanwhile.
            send = (client, job, flight, -number)
            threading.Thread(target=self._send_and_start, args=send, daemon=True).start()

    def started(self, key: str) -> None:
        """A worker runs the job with this key, which may be another node's."""
        for scan_id, flight in self._jobs.items():
            if flight.key == key:
                flight.started = True
                if flight.preview:
                    return
                write = partial(self._journal.started, scan_id)
                tries = write_until_done(write, "the journal", self._stopping)
                if tries > 1:
                    log.warning("scan-%05d runs again, try %d", scan_id, tries)

    def remove(self, scan_id: int, flight: JobInFlight) -> bool:
        """Take out a job that has ended; False if it was given up before."""
        if self._jobs.get(scan_id) is not flight:
            return False
        del self._jobs[scan_id]
        return True

    def give_up(self, scan_id: int) -> None:
        """Give up a job that could not be sent."""
        self._jobs.pop(scan_id, None)

    def clear(self) -> None:
        """Give up every job: the connection to the scheduler is gone."""
        self._jobs.clear()

    def drop_orphans(self, workers: Collection[str]) -> None:
        """Give up jobs whose worker left in good order: Dask would keep them for its return.

        If the worker died, Dask reports the error before this runs a second time.
        """
        for scan_id, flight in list(self._jobs.items()):
            if flight.future is None or flight.worker in workers:
                flight.orphan = False
            elif not flight.orphan:
                flight.orphan = True
            else:
                log.warning("scan-%05d: worker %s left; it runs again", scan_id, flight.worker)
                flight.future.cancel()
                del self._jobs[scan_id]
                write = partial(self._journal.stopped, scan_id)
                if flight.preview:
                    write = partial(self._journal.drop_previews, "its worker left", scan_id)
                write_until_done(write, "the journal", self._stopping)

    def _job_of(self, row: ScanRow) -> Job:
        several = len(self._journal.animals_of(row.id)) > 1
        structure_set = self._journal.structure_set_of(row.id)
        return Job(
            scan=row.id,
            animal=row.animal,
            paths=tuple(str(Path(row.folder) / name) for name in row.files),
            model=self._config.model,
            planning_system=self._config.planning_system,
            sop_instance_uid=structure_set.sop_instance_uid,
            series_instance_uid=structure_set.series_instance_uid,
            date=structure_set.date,
            time=structure_set.time,
            predecessor_uid=self._predecessor_uid(row),
            deadline_s=self._config.engine.deadline_s,
            judge=self._config.judge,
            roi=self._config.roi,
            forms=self._config.forms,
            input_digest=row.series_digest,
            received_at=row.last_slice_at + row.settle_s,
            delivered=row.priority >= LIVE,
            animal_number=row.animal_number,
            animal_name=row.animal_name,
            others=() if several else self._uids_of_others(row),
            one_of_several=several,
        )

    def _uids_of_others(self, row: ScanRow) -> tuple[tuple[str, str, str], ...]:
        """UIDs for the other animals of the field and what each replaces; none if one is wanted."""
        if self._config.model.two_animals != "each":
            return ()
        return tuple(
            (*uids, self._earlier_uid(row.predecessor, number))
            for number, uids in enumerate(uids_of_others(row), start=2)
        )

    def _preview_job_of(self, row: ScanRow) -> Job:
        preview = self._journal.preview_of(row.id)
        if preview is None:
            msg = f"{row.name} has no preview in the journal"
            raise LookupError(msg)
        return replace(
            self._job_of(row),
            sop_instance_uid=preview.sop_instance_uid,
            series_instance_uid=preview.series_instance_uid,
            preview=True,
        )

    def _predecessor_uid(self, row: ScanRow) -> str:
        """What this scan's structure set replaces.

        That of before the animal had a name, its preview, or what an earlier version has.
        """
        if replaced := self._journal.structure_set_of(row.id).replaces:
            return replaced
        return self._preview_uid(row.id) or self._earlier_uid(row.predecessor, row.animal_number)

    def _earlier_uid(self, earlier: int | None, animal_number: int) -> str:
        """What the animal of this number has of this version of a series, or of an earlier one."""
        while earlier is not None:
            animals = {each.animal_number: each for each in self._journal.animals_of(earlier)}
            before = animals.get(animal_number)
            if before is not None and before.state == "contoured":
                return self._journal.structure_set_of(before.id).sop_instance_uid
            if before is not None and (uid := self._preview_uid(before.id)):
                return uid
            earlier = self._journal.scan(earlier).predecessor
        return ""

    def _preview_uid(self, scan_id: int) -> str:
        """SOP Instance UID of a scan's preview; empty if none was contoured."""
        preview = self._journal.preview_of(scan_id)
        contoured = preview is not None and preview.state == PreviewState.CONTOURED
        return preview.sop_instance_uid if preview is not None and contoured else ""

    def _send_and_start(self, client: Client, job: Job, flight: JobInFlight, priority: int) -> None:
        """Send the files straight to the worker, not through the scheduler, then the job."""
        began_s = time.perf_counter()
        try:
            files = [Path(path).read_bytes() for path in job.paths]
        except OSError as error:
            why = f"the scan can't be read from the spool: {error}"
            if may_pass(error):
                flight.result = Result(
                    scan=job.scan, started_at=time.time(), ended=UNFIT, reason=why
                )
            else:
                flight.unreadable = why
            self._on_done(job.scan, flight)
            return
        try:
            flight.pixels = client.scatter(
                b"".join(files), workers=[flight.worker], direct=True, hash=False
            )
            flight.transfer_s = time.perf_counter() - began_s
            sized = replace(job, sizes=tuple(map(len, files)))
            self._start(client, sized, flight, priority)
        except OSError as error:
            log.error(
                "scan-%05d can't be sent to worker %s (%s); is engine.worker_port there open to "
                "this host?",
                job.scan,
                flight.worker,
                error,
            )
        except Exception as error:  # noqa: BLE001 - it is logged where the job is filed
            flight.surprise = error
        finally:
            if flight.future is None:
                self._on_done(job.scan, flight)

    def _start(self, client: Client, job: Job, flight: JobInFlight, priority: int) -> None:
        flight.future = client.submit(
            run_job,
            job,
            self._label,
            flight.pixels,
            key=flight.key,
            pure=False,
            priority=priority,
            workers=[flight.worker],
        )
        # Dask calls back from one thread for all jobs; a lost result would block that thread.
        fetch = threading.Thread(target=self._fetch, args=(job.scan, flight), daemon=True)
        flight.future.add_done_callback(lambda _: fetch.start())

    def _fetch(self, scan_id: int, flight: JobInFlight) -> None:
        """Bring the result here; a lost one is waited for in vain, hence a thread for each job."""
        future = flight.future
        try:
            if future is not None and future.status == "finished":
                flight.result = future.result(timeout=FETCH_S)
        except Exception as error:  # noqa: BLE001 - for any error of Dask the result is not here
            log.warning("scan-%05d: its result is lost: %r", scan_id, error)
        finally:
            self._on_done(scan_id, flight)
