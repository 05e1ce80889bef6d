"""Journal to Dask and back: at most one job in flight per live worker, the journal's order.

Dask decides where a job runs and notices dead workers; what it forgets is submitted again
from the journal. Its own queue is never used: with more jobs than workers it reorders them
and can leave a worker idle (dask/distributed#8133, #9116).
"""

from __future__ import annotations

import logging
import queue
import time
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

from distributed import Client, fire_and_forget
from distributed.security import Security

from limn.node.config import Config
from limn.node.contour.allocation import TOPIC, AllocationReply, AllocationRequest, allocate
from limn.node.contour.coming_in import ComingIn
from limn.node.contour.estimate import Estimator
from limn.node.contour.flights import Flights, JobInFlight
from limn.node.contour.previews import Previews
from limn.node.contour.results import Results
from limn.node.contour.running import Running
from limn.node.contour.site_bundle import kind_of, label_of
from limn.node.contour.work.progress import Told
from limn.node.contour.work.worker import ready as ready_on_worker
from limn.node.heartbeat import HEART
from limn.node.persist import WriteAbandoned, write_until_done
from limn.node.store.journal.journal import Journal
from limn.node.store.journal.rows import ScanRow
from limn.node.store.journal.schema import is_damaged
from limn.node.store.remedies import fault_notice
from limn.node.surprises import Surprises
from limn.segment.bundle.bundle import Bundle

log = logging.getLogger(__name__)

# A lost wake-up costs at most this long.
POLL_S = 1.0
# A worker that another node leaves stands idle for at most this long.
WAITING_POLL_S = 0.1
CONNECT_S = 10.0
SURPRISE_PAUSE_S = 1.0


class Dispatcher:
    """Feeds the workers and files what they return, until ``stopping`` is set."""

    def __init__(
        self,
        config: Config,
        config_path: Path,
        journal: Journal,
        scheduler: str,
        security: Security,
        bundle: Bundle,
        contoured: Callable[[], None],
        stopping: Event,
    ) -> None:
        self._config = config
        self._journal = journal
        self._scheduler = scheduler
        self._security = security
        self._kind = kind_of(bundle)
        self._stopping = stopping
        self._events: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._flights = Flights(
            config, journal, label_of(config, bundle), self._on_job_done, stopping
        )
        self._results = Results(config, config_path, journal, contoured, stopping)
        self._previews = Previews(config, journal, bundle, stopping)
        self._running = Running(
            config.running_path, journal, Estimator(journal, bundle.sha256), self._flights.jobs
        )
        self._coming_in = ComingIn(config)
        self._had_to_wait: set[int] = set()
        self._node = uuid.uuid4().hex
        self._workers: set[str] = set()
        self._others: tuple[str, ...] = ()
        self._surprises = Surprises()

    def wake(self) -> None:
        """Something new may be in the journal."""
        self._events.put(("wake", None))

    def run(self) -> None:
        """Dispatch until the node stops; then finish what is in flight."""
        HEART.register()
        while not self._stopping.is_set():
            if not self._surprises.count(self):
                HEART.moved()
            try:
                with Client(
                    self._scheduler,
                    security=self._security,
                    timeout=CONNECT_S,
                    set_as_default=False,
                ) as client:
                    write_until_done(self._none_runs, "the journal", self._stopping)
                    client.subscribe_topic(TOPIC, self._on_job_event)
                    self._serve(client)
            except WriteAbandoned as unwritten:
                log.error("%s; it is done again after the next start", unwritten)
            except OSError as error:
                log.warning("no scheduler at %s yet: %s", self._scheduler, error)
                self._stopping.wait(0.5)
            except Exception as error:  # noqa: BLE001 - logged there
                self._note_surprise(error)
            finally:
                self._results.flush()
                self._flights.clear()
                if self._stopping.is_set():
                    self._config.ready_path.unlink(missing_ok=True)
                else:
                    self._others = ()
                    self._write_ready(set())

    def _none_runs(self) -> None:
        """No job of an earlier connection is known any more."""
        self._journal.stopped()
        self._journal.drop_previews("the engine or its connection to the scheduler ended")

    def _serve(self, client: Client) -> None:
        # A client that Dask has connected again, to a new scheduler, gets no event of a job.
        connection = client.scheduler_comm
        while client.status == "running" and client.scheduler_comm is connection:
            if self._stopping.is_set() and not self._flights:
                return
            try:
                self._results.flush()
                self._show_progress(self._running.show)
                self._fill(client, [] if self._stopping.is_set() else self._waiting())
                self._next_event()
            except (WriteAbandoned, OSError):
                raise
            except Exception as error:
                if client.status != "running":
                    raise
                self._note_surprise(error)
            else:
                self._surprises.is_over(self)
                HEART.moved()

    def _note_surprise(self, error: Exception) -> None:
        """Log an error that concerns no single scan, and go on after a pause.

        Without a sign of life meanwhile: the health page and `limn queue` name the engine, and if
        it lasts the supervisor starts it again.
        """
        if is_damaged(error):
            raise error
        if self._surprises.note(self, error):
            log.error(
                "no scan is given to a worker; it is tried again and again: %s",
                fault_notice(error, self._journal.path),
                exc_info=error,
            )
        time.sleep(SURPRISE_PAUSE_S)

    def _next_event(self) -> None:
        try:
            kind, value = self._events.get(
                timeout=WAITING_POLL_S if self._had_to_wait and self._workers else POLL_S
            )
        except queue.Empty:
            return
        if kind == "started":
            self._flights.started(value)
        elif kind == "progress":
            self._show_progress(partial(self._running.told, *value))
        elif kind == "done" and self._flights.remove(*value):
            self._results.file(*value)
            self._previews.forget()
            self._show_progress(self._running.forget)

    def _show_progress(self, show: Callable[[], None]) -> None:
        """Nobody's scan waits for it, and a fault of it ends none."""
        try:
            show()
        except Exception as error:
            if is_damaged(error):
                raise
            if self._surprises.note(self._running, error):
                log.exception("`limn queue` shows no progress; please report it")

    def _on_job_event(self, event: tuple[float, dict[str, Any]]) -> None:
        if "started" in event[1]:
            self._events.put(("started", event[1]["started"]))
        elif "progress" in event[1]:
            told = Told(stage=event[1]["stage"], done=event[1]["done"], of=event[1]["of"])
            self._events.put(("progress", (event[1]["progress"], told)))

    def _on_job_done(self, scan_id: int, flight: JobInFlight) -> None:
        self._events.put(("done", (scan_id, flight)))

    def _waiting(self) -> list[ScanRow]:
        return [
            row
            for row in self._journal.ready()
            if row.id not in self._flights and not self._results.rests(row.id)
        ]

    def _fill(self, client: Client, waiting: list[ScanRow]) -> None:
        while True:
            found = self._allocate(client, waiting[0].priority if waiting else None)
            self._name_others(found.others)
            self._warm_connections(client, found.workers)
            self._write_ready(set(found.workers))
            if not found.worker:
                break
            preview = self._next_preview(waiting, len(found.workers))
            row = preview or waiting[0]
            waiting.remove(row)
            self._submit(client, row, found.worker, preview=preview is not None)
        if found.next and not waiting:
            self._coming_in.look(client, found.next)
        self._had_to_wait = {row.id for row in waiting}
        self._running.wait(waiting, len(found.workers))
        # A worker that rests has not left; its next job may be on it already.
        self._flights.drop_orphans({*found.workers, *self._results.resting_until_s})

    def _next_preview(self, waiting: list[ScanRow], workers: int) -> ScanRow | None:
        """The scan that gets a preview now; a fault of previews delays no structure set."""
        if self._surprises.rests(self._previews):
            return None
        try:
            return self._previews.begin_next(waiting, self._flights.jobs, workers)
        except (WriteAbandoned, OSError):
            raise
        except Exception as error:
            if is_damaged(error):
                raise
            if self._surprises.note(self._previews, error):
                log.error(
                    "no scan gets a PREVIEW: %s",
                    fault_notice(error, self._journal.path),
                    exc_info=error,
                )
            return None

    def _submit(self, client: Client, row: ScanRow, worker: str, *, preview: bool) -> None:
        """Send a scan to a worker; a fault of limn with it stops no other scan."""
        try:
            if not preview:
                self._previews.take_up(row)
            waited = row.id in self._had_to_wait
            self._flights.submit(client, row, worker, waited=waited, preview=preview)
        except (WriteAbandoned, OSError):
            raise
        except Exception as error:
            if client.status != "running" or is_damaged(error):
                raise
            self._flights.give_up(row.id)
            self._results.note_fault(row.id, error, preview=preview)

    def _allocate(self, client: Client, priority: int | None) -> AllocationReply:
        """Let the scheduler, which every node shares, decide which worker takes the next scan."""
        now_s = time.monotonic()
        resting = self._results.resting_until_s.items()
        request = AllocationRequest(
            node=self._node,
            client=client.id,
            kind=self._kind,
            priority=priority,
            on_their_way=self._flights.on_their_way,
            resting=tuple(worker for worker, until_s in resting if now_s < until_s),
        )
        found: AllocationReply = client.run_on_scheduler(allocate, request)
        return found

    def _name_others(self, others: tuple[str, ...]) -> None:
        """Log the workers of another limn or bundle, once while they are the same."""
        if others == self._others:
            return
        self._others = others
        for worker in others:
            log.error(
                "worker %s is not %s and gets no scan of this node; give every host the same "
                "limn and the same bundle",
                worker,
                self._kind,
            )

    def _warm_connections(self, client: Client, workers: Sequence[str]) -> None:
        """A worker's first call costs 0.2 s: make it before an animal's scan does."""
        for worker in set(workers) - self._workers:
            fire_and_forget(
                client.submit(
                    ready_on_worker, pure=False, workers=[worker], allow_other_workers=True
                )
            )

    def _write_ready(self, workers: set[str]) -> None:
        """Write how many workers are warm; the node's other processes read it."""
        path = self._config.ready_path
        if workers and workers != self._workers:
            write_until_done(
                partial(path.write_text, f"{len(workers)}\n"), str(path), self._stopping
            )
            log.info("ready: %d warm worker%s", len(workers), "" if len(workers) == 1 else "s")
        elif workers != self._workers:
            path.unlink(missing_ok=True)
            log.warning("no worker is ready; scans wait in the journal")
        self._workers = workers
