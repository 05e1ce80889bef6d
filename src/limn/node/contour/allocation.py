"""Which worker takes the next scan: decided inside the scheduler, for every node that shares it.

Several receiving nodes share the workers and know nothing of each other's journals. Each sends a
request here before it submits, so that no scan waits behind another while a worker is idle, and
no node's cohort keeps another node's animal waiting. Nothing here must survive: a node that still
waits repeats its request within a second.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from distributed.core import Status
from distributed.diagnostics.plugin import SchedulerPlugin

# A worker reports the start and the end of each job under this topic.
TOPIC = "limn-jobs"
# The metric in a worker's heartbeat that names its limn and its bundle.
KIND = "limn"
# A node that has not repeated its request for this long no longer waits.
REQUEST_S = 2.5
# An assigned worker that never started the job is free again after this long; enough time to send
# a scan's bytes to another host.
ASSIGNMENT_S = 120.0
NAME = "limn-allocation"


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocationRequest:
    """A node needs a worker.

    Attributes
    ----------
    node : which node, the same for as long as its engine lives
    client : its connection, by the id that Dask gave it
    kind : the limn and the bundle that the worker must have, see `site_bundle.kind_of`
    priority : of the scan that waits; None only counts the workers
    on_their_way : workers that have not started the job which this node sent them
    resting : workers that could not take a scan of this node and shall get none for now
    """

    node: str
    client: str
    kind: str
    priority: int | None
    on_their_way: tuple[str, ...]
    resting: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocationReply:
    """Addresses: the assigned worker, if any, the live ones of the kind, and those of another.

    Attributes
    ----------
    next : the live one that would be assigned now; empty if all are at work
    """

    worker: str = ""
    next: str = ""
    workers: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Assignment:
    node: str
    client: str
    since_s: float


@dataclass(frozen=True, slots=True)
class _WaitingNode:
    priority: int
    since_s: float
    seen_s: float
    resting: tuple[str, ...] = ()


@dataclass(slots=True)
class Allocation:
    """Who has a worker and who waits for one. Times are seconds of one monotonic clock."""

    running: dict[str, str] = field(default_factory=dict)
    _assigned: dict[str, _Assignment] = field(default_factory=dict)
    _waiting: dict[str, _WaitingNode] = field(default_factory=dict)

    def assign(self, request: AllocationRequest, idle: Sequence[str], now_s: float) -> str:
        """An idle worker for this node's next scan; empty if it has to wait.

        Nodes that wait take turns: higher priority first, then the one that has waited longest.
        """
        self._forget(request, now_s)
        before = self._waiting.pop(request.node, None)
        if request.priority is None:
            return ""
        same = before is not None and before.priority == request.priority
        since_s = before.since_s if before is not None and same else now_s
        this = _WaitingNode(request.priority, since_s, now_s, request.resting)
        free = self.free(idle)
        # A node that can't use any of these workers does not keep them from others.
        ahead = sum(
            _turn(other) < _turn(this) and not set(free) <= set(other.resting)
            for other in self._waiting.values()
        )
        if ahead >= len(free):
            self._waiting[request.node] = this
            return ""
        self._assigned[free[0]] = _Assignment(request.node, request.client, now_s)
        return free[0]

    def free(self, idle: Sequence[str]) -> list[str]:
        """The idle workers that no node has, in the order in which they are assigned."""
        return [each for each in idle if each not in self._assigned and each not in self.running]

    def job_started(self, worker: str, key: str) -> None:
        """The worker runs a job, even if the node that sent it is gone."""
        self.running[worker] = key
        self._assigned.pop(worker, None)

    def job_ended(self, worker: str) -> None:
        """The worker's job is over."""
        self.running.pop(worker, None)

    def worker_left(self, worker: str) -> None:
        """The worker is no longer on this scheduler."""
        self.running.pop(worker, None)
        self._assigned.pop(worker, None)

    def client_left(self, client: str) -> None:
        """A node's connection ended: the workers assigned to it are free again."""
        self._assigned = {w: each for w, each in self._assigned.items() if each.client != client}

    def _forget(self, request: AllocationRequest, now_s: float) -> None:
        self._waiting = {
            node: each for node, each in self._waiting.items() if now_s - each.seen_s <= REQUEST_S
        }
        self._assigned = {
            worker: each
            for worker, each in self._assigned.items()
            if now_s - each.since_s <= ASSIGNMENT_S
            and (each.node != request.node or worker in request.on_their_way)
        }


def _turn(node: _WaitingNode) -> tuple[int, float]:
    return -node.priority, node.since_s


class _AllocationPlugin(SchedulerPlugin):
    """Tells the allocation what happens on the scheduler."""

    def __init__(self) -> None:
        self.allocation = Allocation()

    def log_event(self, topic: str, msg: Any) -> None:
        if topic != TOPIC:
            return
        if "started" in msg:
            self.allocation.job_started(msg["worker"], msg["started"])
        else:
            self.allocation.job_ended(msg["worker"])

    def remove_worker(self, scheduler: Any, worker: str, **rest: Any) -> None:
        del scheduler, rest
        self.allocation.worker_left(worker)

    def remove_client(self, scheduler: Any, client: str) -> None:
        del scheduler
        self.allocation.client_left(client)


def allocate(request: AllocationRequest, dask_scheduler: Any) -> AllocationReply:
    """Answer one request; `Client.run_on_scheduler` runs it in the scheduler's event loop."""
    if NAME not in dask_scheduler.plugins:
        dask_scheduler.add_plugin(_AllocationPlugin(), name=NAME)
    allocation = dask_scheduler.plugins[NAME].allocation
    live = [state for state in dask_scheduler.workers.values() if state.status == Status.running]
    fit = [
        state
        for state in live
        if state.metrics.get(KIND) == request.kind and state.address not in request.resting
    ]
    idle = [state.address for state in fit if not state.processing]
    worker = allocation.assign(request, idle, time.monotonic())
    return AllocationReply(
        worker=worker,
        next=next(iter(allocation.free(idle)), ""),
        workers=_addresses(fit),
        others=_addresses(state for state in live if state.metrics.get(KIND) != request.kind),
    )


def _addresses(states: Iterable[Any]) -> tuple[str, ...]:
    return tuple(sorted(state.address for state in states))
