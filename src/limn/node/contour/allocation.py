"""Which worker takes the next scan: decided inside the scheduler, for every node that shares it.

Several receiving nodes share the workers and know nothing of each other's journals. Each asks
here before it submits, so that no scan waits behind another while a worker is idle, and no
node's cohort keeps another node's animal waiting. Nothing here must survive: whoever still
waits asks again within a second.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from distributed.core import Status
from distributed.diagnostics.plugin import SchedulerPlugin

# A worker says what it runs under this topic, in the order in which it happens.
TOPIC = "limn-jobs"
# What a worker computes with, among the metrics of its heartbeat.
KIND = "limn"
# A node that has not asked again for so long no longer waits.
WANT_S = 2.5
# A granted worker that never started the job is free again after this long; it covers the way of
# a scan's bytes to another host.
GRANT_S = 120.0
NAME = "limn-window"


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocationRequest:
    """A node asks for a worker.

    Attributes
    ----------
    node : who asks, the same for as long as its engine lives
    client : its connection, by the id that Dask gave it
    kind : what the worker must compute with
    priority : of the scan that waits; None only counts the workers
    holding : workers to which this node's jobs are still on their way
    resting : workers that could not take a scan of this node; they are not asked for now
    """

    node: str
    client: str
    kind: str
    priority: int | None
    holding: tuple[str, ...]
    resting: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocationReply:
    """The worker that is granted, if any, and the live ones that fit and don't, by address."""

    worker: str = ""
    workers: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Grant:
    node: str
    client: str
    since_s: float


@dataclass(frozen=True, slots=True)
class _Want:
    priority: int
    since_s: float
    seen_s: float
    resting: tuple[str, ...] = ()


@dataclass(slots=True)
class Allocation:
    """Grants and wishes. Times are seconds of one monotonic clock."""

    running: dict[str, str] = field(default_factory=dict)
    _grants: dict[str, _Grant] = field(default_factory=dict)
    _wants: dict[str, _Want] = field(default_factory=dict)

    def grant(self, ask: AllocationRequest, idle: Sequence[str], now_s: float) -> str:
        """An idle worker for this node's next scan; empty if it has to wait.

        Nodes that wait take turns: higher priority first, then who has waited longest.
        """
        self._forget(ask, now_s)
        before = self._wants.pop(ask.node, None)
        if ask.priority is None:
            return ""
        since_s = before.since_s if before and before.priority == ask.priority else now_s
        mine = _Want(ask.priority, since_s, now_s, ask.resting)
        free = [
            worker for worker in idle if worker not in self._grants and worker not in self.running
        ]
        # One that can't use any of these workers does not keep them from others.
        ahead = sum(
            _order(other) < _order(mine) and not set(free) <= set(other.resting)
            for other in self._wants.values()
        )
        if ahead >= len(free):
            self._wants[ask.node] = mine
            return ""
        self._grants[free[0]] = _Grant(ask.node, ask.client, now_s)
        return free[0]

    def started(self, worker: str, key: str) -> None:
        """The worker runs a job, whoever sent it and whether or not anybody still wants it."""
        self.running[worker] = key
        self._grants.pop(worker, None)

    def ended(self, worker: str) -> None:
        """The worker's job is over."""
        self.running.pop(worker, None)

    def gone(self, worker: str) -> None:
        """The worker has left."""
        self.running.pop(worker, None)
        self._grants.pop(worker, None)

    def left(self, client: str) -> None:
        """A node's connection ended: what it was granted is free again."""
        self._grants = {w: grant for w, grant in self._grants.items() if grant.client != client}

    def _forget(self, ask: AllocationRequest, now_s: float) -> None:
        self._wants = {n: want for n, want in self._wants.items() if now_s - want.seen_s <= WANT_S}
        self._grants = {
            worker: grant
            for worker, grant in self._grants.items()
            if now_s - grant.since_s <= GRANT_S
            and (grant.node != ask.node or worker in ask.holding)
        }


def _order(want: _Want) -> tuple[int, float]:
    return -want.priority, want.since_s


class _Watch(SchedulerPlugin):
    """Keeps the window true to what happens on the scheduler."""

    def __init__(self) -> None:
        self.window = Allocation()

    def log_event(self, topic: str, msg: Any) -> None:
        if topic != TOPIC:
            return
        if "started" in msg:
            self.window.started(msg["worker"], msg["started"])
        else:
            self.window.ended(msg["worker"])

    def remove_worker(self, scheduler: Any, worker: str, **rest: Any) -> None:
        del scheduler, rest
        self.window.gone(worker)

    def remove_client(self, scheduler: Any, client: str) -> None:
        del scheduler
        self.window.left(client)


def answer(ask: AllocationRequest, dask_scheduler: Any) -> AllocationReply:
    """Run in the scheduler's event loop by ``Client.run_on_scheduler``: one ask at a time."""
    if NAME not in dask_scheduler.plugins:
        dask_scheduler.add_plugin(_Watch(), name=NAME)
    window = dask_scheduler.plugins[NAME].window
    live = [state for state in dask_scheduler.workers.values() if state.status == Status.running]
    fit = [
        state
        for state in live
        if state.metrics.get(KIND) == ask.kind and state.address not in ask.resting
    ]
    idle = [state.address for state in fit if not state.processing]
    return AllocationReply(
        worker=window.grant(ask, idle, time.monotonic()),
        workers=_addresses(fit),
        others=_addresses(state for state in live if state.metrics.get(KIND) != ask.kind),
    )


def _addresses(states: Iterable[Any]) -> tuple[str, ...]:
    return tuple(sorted(state.address for state in states))
