"""Journal to Dask and back: at most one job in flight per live worker, the journal's order.

Dask decides where a job runs and notices dead workers; what it forgets is submitted again
from the journal. Its own queue is never used: with more jobs than workers it reorders them
and can leave a worker idle (dask/distributed#8133, #9116).
"""

from __future__ import annotations

import itertools
import logging
import queue
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any, TypeVar

from distributed import Client, fire_and_forget
from distributed.security import Security

from limn import __version__
from limn.domain.files import write_durably
from limn.node import oplog
from limn.node.config import Config
from limn.node.contour.allocation import TOPIC, AllocationReply, AllocationRequest, answer
from limn.node.contour.flights import FETCH_S, JobInFlight
from limn.node.contour.job import UNFIT, Job, Result
from limn.node.contour.site_bundle import kind_of, label_of
from limn.node.contour.worker import ready as ready_on_worker
from limn.node.contour.worker import run_job
from limn.node.persist import DeferredWriter, WriteAbandoned, write_until_done
from limn.node.store.journal import Journal
from limn.node.store.remedies import alarm, what_to_do
from limn.node.store.rows import ScanRow
from limn.node.store.schema import LIVE
from limn.segment.bundle.bundle import Bundle

log = logging.getLogger(__name__)

# A lost wake-up costs at most this long.
POLL_S = 1.0
# A worker that another node leaves stands idle for at most this long.
WAITING_POLL_S = 0.1
CONNECT_S = 10.0
Written = TypeVar("Written")

# A worker that could not take a scan is asked again after so long.
REST_S = 30.0
# Deaths of a worker while it ran a scan, after which the scan is quarantined.
DEATHS = 3


class Dispatcher:
    """Feeds the workers and files what they return."""

    def __init__(
        self,
        config: Config,
        config_path: Path,
        journal: Journal,
        scheduler: str,
        security: Security,
        bundle: Bundle,
        contoured: Callable[[], None],
    ) -> None:
        self._config = config
        self._config_path = config_path
        self._journal = journal
        self._scheduler = scheduler
        self._security = security
        self._label = label_of(config, bundle)
        self._kind = kind_of(__version__, bundle.sha256)
        self._contoured = contoured
        self._events: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._flights: dict[int, JobInFlight] = {}
        self._had_to_wait: set[int] = set()
        self._count = itertools.count()
        self._deaths: Counter[int] = Counter()
        self._resting: dict[str, float] = {}
        self._for_people = DeferredWriter()
        self._node = uuid.uuid4().hex
        self._known: set[str] = set()
        self._others: tuple[str, ...] = ()
        self._stopping = Event()

    def wake(self) -> None:
        """Something new may be in the journal."""
        self._events.put(("wake", None))

    def run(self, stopping: Event) -> None:
        """Dispatch until told to stop; then finish what is in flight."""
        self._stopping = stopping
        while not stopping.is_set():
            try:
                with Client(
                    self._scheduler,
                    security=self._security,
                    timeout=CONNECT_S,
                    set_as_default=False,
                ) as client:
                    self._write(self._journal.stopped, "the journal")
                    client.subscribe_topic(TOPIC, self._on_job_event)
                    self._serve(client, stopping)
            except WriteAbandoned as unwritten:
                log.error("%s; it is done again after the next start", unwritten)
            except OSError as error:
                log.warning("no scheduler at %s yet: %s", self._scheduler, error)
                stopping.wait(0.5)
            finally:
                self._for_people.flush()
                self._flights.clear()
                if stopping.is_set():
                    self._config.ready_path.unlink(missing_ok=True)
                else:
                    self._say_ready(AllocationReply())

    def _serve(self, client: Client, stopping: Event) -> None:
        while client.status == "running":
            if stopping.is_set() and not self._flights:
                return
            self._for_people.flush()
            self._fill(client, [] if stopping.is_set() else self._waiting())
            self._next_event()

    def _next_event(self) -> None:
        try:
            kind, value = self._events.get(
                timeout=WAITING_POLL_S if self._had_to_wait and self._known else POLL_S
            )
        except queue.Empty:
            return
        if kind == "started":
            self._started(value)
        elif kind == "done":
            self._land(*value)

    def _on_job_event(self, event: tuple[float, dict[str, str]]) -> None:
        if "started" in event[1]:
            self._events.put(("started", event[1]["started"]))

    def _started(self, key: str) -> None:
        """Other nodes' jobs are told here too; only this node's own are in flight."""
        for scan_id, flight in self._flights.items():
            if flight.key == key:
                flight.started = True
                tries = self._write(partial(self._journal.started, scan_id), "the journal")
                if tries > 1:
                    log.warning("scan-%05d runs again, try %d", scan_id, tries)

    def _waiting(self) -> list[ScanRow]:
        return [row for row in self._journal.ready() if row.id not in self._flights]

    def _fill(self, client: Client, waiting: list[ScanRow]) -> None:
        while True:
            found = self._ask(client, waiting[0].priority if waiting else None)
            self._say_ready(found, client)
            if not found.worker:
                break
            self._submit(client, waiting.pop(0), found.worker)
        self._had_to_wait = {row.id for row in waiting}
        # One that rests has not left; its next job may be on it already.
        self._drop_strays({*found.workers, *self._resting})

    def _drop_strays(self, live: Collection[str]) -> None:
        """Give up jobs whose worker left in good order: Dask would keep them for its return.

        Of one that died Dask tells the job's error, at the latest before the second look here.
        """
        for scan_id, flight in list(self._flights.items()):
            if flight.future is None or flight.worker in live:
                flight.stray = False
            elif not flight.stray:
                flight.stray = True
            else:
                log.warning("scan-%05d: worker %s left; it runs again", scan_id, flight.worker)
                flight.future.cancel()
                del self._flights[scan_id]
                self._write(partial(self._journal.stopped, scan_id), "the journal")

    def _ask(self, client: Client, priority: int | None) -> AllocationReply:
        """Which worker takes the next scan; every node on this scheduler asks in the same place."""
        on_their_way = tuple(
            flight.worker for flight in self._flights.values() if not flight.started
        )
        ask = AllocationRequest(
            node=self._node,
            client=client.id,
            kind=self._kind,
            priority=priority,
            holding=on_their_way,
            resting=tuple(w for w, until_s in self._resting.items() if time.monotonic() < until_s),
        )
        found: AllocationReply = client.run_on_scheduler(answer, ask)
        return found

    def _submit(self, client: Client, row: ScanRow, worker: str) -> None:
        number = next(self._count)
        structure_set = self._journal.structure_set_of(row.id)
        job = Job(
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
        )
        submitted_at = time.time()
        waited = row.id in self._had_to_wait
        queue_s = submitted_at - row.ready_at if waited else 0.0
        key = f"{row.name}-{number}-{uuid.uuid4().hex}"
        flight = JobInFlight(key, worker, submitted_at, queue_s)
        self._flights[row.id] = flight
        if self._config.engine.pixels == "path":
            self._start(client, job, flight, -number)
        else:
            # A thread of its own: other scans' results are filed meanwhile.
            send = (client, job, flight, -number)
            threading.Thread(target=self._send_and_start, args=send, daemon=True).start()

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
        # Dask calls back from one thread for all; a result whose worker is gone is never there.
        fetch = threading.Thread(target=self._fetch, args=(job.scan, flight), daemon=True)
        flight.future.add_done_callback(lambda _: fetch.start())

    def _fetch(self, scan_id: int, flight: JobInFlight) -> None:
        """Bring the result here; in a thread of its own, for a lost one is waited for in vain."""
        future = flight.future
        try:
            if future is not None and future.status == "finished":
                flight.result = future.result(timeout=FETCH_S)
        except Exception as error:  # noqa: BLE001 - whatever Dask says of it, it is not here
            log.warning("scan-%05d: its result is lost: %r", scan_id, error)
        self._events.put(("done", (scan_id, flight)))

    def _send_and_start(self, client: Client, job: Job, flight: JobInFlight, priority: int) -> None:
        """Send the files straight to the worker, not through the scheduler, then the job."""
        began_s = time.perf_counter()
        try:
            files = [Path(path).read_bytes() for path in job.paths]
        except OSError as error:
            flight.unreadable = f"the scan can't be read from the spool: {error}"
            self._events.put(("done", (job.scan, flight)))
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
        finally:
            if flight.future is None:
                self._events.put(("done", (job.scan, flight)))

    def _predecessor_uid(self, row: ScanRow) -> str:
        """The structure set that this scan's replaces: the last version that has one."""
        earlier = row.predecessor
        while earlier is not None:
            before = self._journal.scan(earlier)
            if before.state == "contoured":
                return self._journal.structure_set_of(before.id).sop_instance_uid
            earlier = before.predecessor
        return ""

    def _land(self, scan_id: int, flight: JobInFlight) -> None:
        if self._flights.get(scan_id) is not flight:
            return
        del self._flights[scan_id]
        row = self._journal.scan(scan_id)
        future = flight.future
        with oplog.about(scan=row.name, animal=row.animal):
            if flight.unreadable:
                failed = Result(scan=scan_id, started_at=0.0, ended="failed")
                self._file(row, flight, replace(failed, reason=flight.unreadable))
            elif future is None:
                log.warning("%s never reached its worker; it is submitted again", row.name)
            elif flight.result is not None:
                self._file(row, flight, flight.result)
            elif future.status == "error":
                self._after_death(row, flight, f"its worker died ({future.exception()!r})")
            elif future.status == "finished":
                # A link that was cut just then; three times is no accident.
                future.cancel()
                why = f"its result can't be fetched from worker {flight.worker}"
                self._after_death(row, flight, f"{why}; is its port open to this host?")
            else:
                log.warning("%s: the scheduler lost the job; it is submitted again", row.name)
        # Of what has ended now, the journal keeps when it began.
        self._write(partial(self._journal.stopped, scan_id), "the journal")

    def _write(self, write: Callable[[], Written], what: str) -> Written:
        """Nothing else is done until the disk takes it; scans wait, their results in memory."""
        return write_until_done(write, what, self._stopping)

    def _end(self, row: ScanRow, state: str, reason: str, record: dict[str, Any]) -> None:
        end = partial(self._journal.end, row.id, state, reason, record)
        self._write(end, f"{row.name} animal {row.animal}, {state},")

    def _after_death(self, row: ScanRow, flight: JobInFlight, why: str) -> None:
        # A try that ended with the scheduler or with this engine is none of the scan's doing.
        self._deaths[row.id] += flight.started
        deaths = min(row.tries, self._deaths[row.id])
        if deaths >= DEATHS:
            reason = f"{deaths} tries gave nothing: {why}; look at the worker's log"
            self._end(row, "quarantined", reason, {})
            line = alarm(self._journal.scan(row.id), self._config_path)
            log.error("%s animal %s %s", row.name, row.animal, line)
            self._contoured()
        else:
            log.error("%s: %s; it runs again", row.name, why)

    def _file(self, row: ScanRow, flight: JobInFlight, result: Result) -> None:
        if row.state != "ready":
            # A structure set is written once; this one may be at the planning system already.
            log.warning("%s: a second result came late and is dropped", row.name)
            return
        if result.ended == UNFIT:
            log.error(
                "%s waits: worker %s can't take it: %s. That worker is asked again in %g s",
                row.name,
                flight.worker,
                result.reason,
                REST_S,
            )
            self._resting[flight.worker] = time.monotonic() + REST_S
            return
        if result.ended:
            record = {"limn_version": __version__, "queue_s": flight.queue_s}
            self._end(row, result.ended, result.reason, record)
            log.error("%s animal %s %s: %s", row.name, row.animal, result.ended, result.reason)
            self._contoured()
            return
        folder = self._config.results_dir / row.name
        structure_set = self._journal.structure_set_of(row.id)
        path = folder / f"RS.{structure_set.sop_instance_uid}.dcm"
        record = {
            **result.record,
            "queue_s": flight.queue_s,
            "transfer_s": flight.transfer_s + result.record.get("transfer_s", 0.0),
            "contoured_at": time.time(),
        }
        # Of a cohort nothing is sent, so that there is nothing to hold; the warning is kept.
        live = row.priority >= LIVE
        if not live and result.held is not None:
            record["held"] = result.held

        def hand_over() -> None:
            folder.mkdir(parents=True, exist_ok=True)
            write_durably(path, result.structure_set)
            held = result.held if live else None
            self._journal.contoured(row.id, str(path), record, held)

        self._write(hand_over, f"{row.name} animal {row.animal} is contoured; its structure set")
        self._contoured()
        # After the hand-over: people look at these, the planning system does not wait for them.
        self._for_people.write(folder / "picture.png", result.picture)
        self._for_people.write(folder / "labels.npz", result.labels)
        log.info(
            "%s animal %s contoured in %.1f s on %s",
            row.name,
            row.animal,
            record["runtime_s"],
            record["device"],
        )
        if live and result.held is not None:
            line = what_to_do(self._journal, row, self._config, self._config_path)
            log.error("%s animal %s %s", row.name, row.animal, line)

    def _say_ready(self, found: AllocationReply, client: Client | None = None) -> None:
        if found.others != self._others:
            self._others = found.others
            for worker in found.others:
                log.error(
                    "worker %s is not %s and gets no scan of this node; give every host the same "
                    "limn and the same bundle",
                    worker,
                    self._kind,
                )
        workers = set(found.workers)
        if client is not None:
            for worker in workers - self._known:
                # The first call of a worker costs 0.2 s; let it not be an animal's.
                call = client.submit(
                    ready_on_worker, pure=False, workers=[worker], allow_other_workers=True
                )
                fire_and_forget(call)
        if workers != self._known:
            if workers:
                text = f"{len(workers)}\n"
                self._write(
                    partial(self._config.ready_path.write_text, text), str(self._config.ready_path)
                )
                log.info("ready: %d warm worker%s", len(workers), "" if len(workers) == 1 else "s")
            else:
                self._config.ready_path.unlink(missing_ok=True)
                log.warning("no worker is ready; scans wait in the journal")
        self._known = workers
