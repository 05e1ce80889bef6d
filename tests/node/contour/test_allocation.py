"""Which node gets the next worker when several share them."""

import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
from distributed import Client, LocalCluster, get_worker

from limn.node.contour.allocation import (
    ASSIGNMENT_S,
    KIND,
    NAME,
    REQUEST_S,
    TOPIC,
    Allocation,
    AllocationReply,
    AllocationRequest,
    allocate,
)
from tests.support.node.parts import until


def request(node: str, priority: int | None = 100, *on_their_way: str) -> AllocationRequest:
    """A node that waits with a scan of this priority."""
    return AllocationRequest(
        node=node, client=f"{node}'s", kind="k", priority=priority, on_their_way=on_their_way
    )


def test_two_nodes_never_get_the_same_idle_worker():
    """The second node gets the other worker, though the first node's job is still on its way."""
    allocation = Allocation()
    assert allocation.assign(request("a"), ["w1", "w2"], 0.0) == "w1"
    assert allocation.assign(request("b"), ["w1", "w2"], 0.01) == "w2"
    assert allocation.assign(request("a", 100, "w1"), ["w1", "w2"], 0.02) == ""


def test_a_worker_whose_job_has_lost_its_node_is_not_idle():
    """The scan of an engine that died still runs; no other scan is sent behind it."""
    allocation = Allocation()
    assert allocation.assign(request("a"), ["w1", "w2"], 0.0) == "w1"
    allocation.job_started("w1", "scan-1")
    allocation.client_left("a's")
    assert allocation.assign(request("b"), ["w1", "w2"], 1.0) == "w2"
    allocation.job_ended("w1")
    assert allocation.assign(request("b", 100, "w2"), ["w1", "w2"], 2.0) == "w1"


def test_a_node_whose_worker_rests_does_not_keep_it_from_others():
    """The worker's disk is too small for that node's bytes; another node sends none."""
    allocation = Allocation()
    assert allocation.assign(replace(request("a"), resting=("w",)), [], 0.0) == ""
    assert allocation.assign(request("b"), ["w"], 0.1) == "w"


def test_nodes_that_wait_take_turns():
    """One node with many scans does not keep another from its first."""
    allocation = Allocation()
    assert allocation.assign(request("busy"), ["w"], 0.0) == "w"
    allocation.job_started("w", "scan-1")
    assert allocation.assign(request("busy"), [], 0.1) == ""
    assert allocation.assign(request("late"), [], 0.2) == ""
    allocation.job_ended("w")
    assert allocation.assign(request("late"), ["w"], 0.3) == "", "the other has waited longer"
    assert allocation.assign(request("busy"), ["w"], 0.4) == "w"
    allocation.job_started("w", "scan-2")
    allocation.job_ended("w")
    assert allocation.assign(request("busy"), ["w"], 0.5) == "", "now it is the late one's turn"
    assert allocation.assign(request("late"), ["w"], 0.6) == "w"


def test_a_live_scan_comes_before_another_nodes_cohort():
    """Priority counts across nodes, however long the other nodes have waited."""
    allocation = Allocation()
    assert allocation.assign(request("cohort", 0), [], 0.0) == ""
    assert allocation.assign(request("live", 100), [], 1.0) == ""
    assert allocation.assign(request("cohort", 0), ["w"], 1.1) == ""
    assert allocation.assign(request("live", 100), ["w"], 1.2) == "w"


def test_with_enough_workers_no_node_waits_for_a_turn():
    """The node in front takes one worker, not all of them."""
    allocation = Allocation()
    assert allocation.assign(request("a"), [], 0.0) == ""
    assert allocation.assign(request("b"), [], 0.1) == ""
    assert allocation.assign(request("b"), ["w1", "w2"], 0.2) == "w1"
    assert allocation.assign(request("a"), ["w1", "w2"], 0.3) == "w2"


def test_a_node_that_stops_asking_loses_its_turn():
    """It was stopped or cut off: the worker goes to a node that still asks."""
    allocation = Allocation()
    assert allocation.assign(request("gone"), [], 0.0) == ""
    assert allocation.assign(request("b"), ["w"], 0.1) == ""
    assert allocation.assign(request("b"), ["w"], 0.1 + REQUEST_S) == "w"


def test_a_node_that_has_nothing_to_do_waits_for_nothing():
    """A request that only counts the workers gets none and ends the node's turn."""
    allocation = Allocation()
    assert allocation.assign(request("a"), [], 0.0) == ""
    assert allocation.assign(request("a", None), ["w"], 0.1) == ""
    assert allocation.assign(request("b"), ["w"], 0.2) == "w"


def test_an_assigned_worker_that_runs_nothing_is_free_again():
    """When its node asks again or leaves, when the worker leaves, and in any case after a time."""
    allocation = Allocation()
    assert allocation.assign(request("a"), ["w"], 0.0) == "w"
    assert allocation.assign(request("a"), ["w"], 1.0) == "w", (
        "its job never went out; it asks again"
    )
    allocation.client_left("a's")
    assert allocation.assign(request("b"), ["w"], 2.0) == "w"
    allocation.worker_left("w")
    assert allocation.assign(request("c"), ["w"], 3.0) == "w"
    assert allocation.assign(request("d"), ["w"], 3.0 + ASSIGNMENT_S) == ""
    assert allocation.assign(request("d"), ["w"], 3.1 + ASSIGNMENT_S) == "w"


def hold_worker(name: str) -> None:
    """A job as `worker.run_job` runs it: reports its start and end, and waits in between."""
    worker = get_worker()
    worker.log_event(TOPIC, {"started": worker.get_current_task()})
    try:
        assert LET_GO[name].wait(60)
    finally:
        worker.log_event(TOPIC, {"ended": worker.get_current_task()})


LET_GO = {"a1": threading.Event(), "b1": threading.Event()}


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    """A real scheduler with three workers; one of them has another bundle."""
    with LocalCluster(
        n_workers=3,
        threads_per_worker=1,
        processes=False,
        protocol="tcp",
        dashboard_address=None,
        silence_logs=50,
    ) as cluster:
        workers = list(cluster.workers.values())
        for worker, kind in zip(workers, ("k", "k", "another"), strict=True):
            worker.metrics[KIND] = lambda _, kind=kind: kind
        with Client(cluster, set_as_default=False) as client:
            until(lambda: len(client.run_on_scheduler(allocate, request("x", None)).workers) == 2)
        yield cluster


def test_two_nodes_on_one_scheduler(cluster: LocalCluster) -> None:
    """As the scheduler itself learns of them: assignments, running jobs, nodes that leave."""

    def reply_to(client: Client, node: str, *on_their_way: str) -> AllocationReply:
        sent = replace(request(node, 100, *on_their_way), client=client.id)
        return client.run_on_scheduler(allocate, sent)

    a = Client(cluster, set_as_default=False)
    with Client(cluster, set_as_default=False) as b:
        first = reply_to(a, "a")
        second = reply_to(b, "b")
        assert {first.worker, second.worker} == set(first.workers)
        assert len(first.others) == 1, "the worker with another bundle is named, and never assigned"
        assert reply_to(a, "a", first.worker).worker == ""
        running = a.submit(hold_worker, "a1", workers=[first.worker], pure=False)
        until(lambda: first.worker in running_on(b))
        # The node dies; Dask forgets its job at once, but the worker is still busy with it.
        a.close()
        del running
        late = b.submit(hold_worker, "b1", workers=[second.worker], pure=False)
        until(lambda: second.worker in running_on(b))
        until(lambda: not processing_on(b, first.worker))
        assert reply_to(b, "b").worker == "", "no scan is sent behind a job whose node has died"
        LET_GO["a1"].set()
        until(lambda: reply_to(b, "b").worker == first.worker)
        LET_GO["b1"].set()
        late.result(timeout=30)


def test_a_worker_that_rests_gets_no_scan(cluster: LocalCluster) -> None:
    """A worker whose disk is full takes no scan for a while and does not count as ready."""
    with Client(cluster, set_as_default=False) as client:
        sent = replace(request("a"), client=client.id)
        one, two = client.run_on_scheduler(allocate, replace(sent, priority=None)).workers
        found = client.run_on_scheduler(allocate, replace(sent, resting=(one,)))
        assert (found.worker, found.workers) == (two, (two,))
        assert one not in found.others
        nobody = client.run_on_scheduler(allocate, replace(sent, resting=(one, two)))
        assert (nobody.worker, nobody.workers) == ("", ())


def test_the_worker_that_is_next_is_named_before_it_is_assigned(cluster: LocalCluster) -> None:
    """It may read ahead; one that has a job on its way is not named."""
    with Client(cluster, set_as_default=False) as client:
        sent = replace(request("a"), client=client.id)
        expected = client.run_on_scheduler(allocate, replace(sent, priority=None)).next
        found = client.run_on_scheduler(allocate, sent)
        assert found.worker == expected != ""
        assert found.next == (set(found.workers) - {expected}).pop()
        last = client.run_on_scheduler(allocate, replace(request("b"), client=client.id))
        assert (last.worker, last.next) == (found.next, "")


def running_on(client: Client) -> set[str]:
    """Workers that have reported the start of a job to the scheduler."""
    return client.run_on_scheduler(
        lambda dask_scheduler: set(dask_scheduler.plugins[NAME].allocation.running)
    )


def processing_on(client: Client, worker: str) -> int:
    """How many tasks Dask believes the worker has."""
    return client.run_on_scheduler(
        lambda dask_scheduler: len(dask_scheduler.workers[worker].processing)
    )
