"""Who gets the next worker when several nodes share them."""

import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
from distributed import Client, LocalCluster, get_worker

from limn.node.contour.allocation import (
    GRANT_S,
    KIND,
    NAME,
    TOPIC,
    WANT_S,
    Allocation,
    AllocationReply,
    AllocationRequest,
    answer,
)
from tests.support.node.parts import until


def ask(node: str, priority: int | None = 100, *holding: str) -> AllocationRequest:
    """A node that waits with a scan of this priority."""
    return AllocationRequest(
        node=node, client=f"{node}'s", kind="k", priority=priority, holding=holding
    )


def test_two_nodes_never_get_the_same_idle_worker():
    """The second to ask is granted the other worker, though the first's job is still on its way."""
    window = Allocation()
    assert window.grant(ask("a"), ["w1", "w2"], 0.0) == "w1"
    assert window.grant(ask("b"), ["w1", "w2"], 0.01) == "w2"
    assert window.grant(ask("a", 100, "w1"), ["w1", "w2"], 0.02) == ""


def test_a_worker_whose_job_nobody_wants_any_more_is_not_idle():
    """An engine that died leaves its scan running; the next one does not queue up behind it."""
    window = Allocation()
    assert window.grant(ask("a"), ["w1", "w2"], 0.0) == "w1"
    window.started("w1", "scan-1")
    window.left("a's")
    assert window.grant(ask("b"), ["w1", "w2"], 1.0) == "w2"
    window.ended("w1")
    assert window.grant(ask("b", 100, "w2"), ["w1", "w2"], 2.0) == "w1"


def test_a_node_whose_worker_rests_does_not_keep_it_from_others():
    """Its disk is too small for that node's bytes; another node sends none."""
    window = Allocation()
    assert window.grant(replace(ask("a"), resting=("w",)), [], 0.0) == ""
    assert window.grant(ask("b"), ["w"], 0.1) == "w"


def test_nodes_that_wait_take_turns():
    """One node with many scans does not keep another from its first."""
    window = Allocation()
    assert window.grant(ask("busy"), ["w"], 0.0) == "w"
    window.started("w", "scan-1")
    assert window.grant(ask("busy"), [], 0.1) == ""
    assert window.grant(ask("late"), [], 0.2) == ""
    window.ended("w")
    assert window.grant(ask("late"), ["w"], 0.3) == "", "the other has waited longer"
    assert window.grant(ask("busy"), ["w"], 0.4) == "w"
    window.started("w", "scan-2")
    window.ended("w")
    assert window.grant(ask("busy"), ["w"], 0.5) == "", "now it is the late one's turn"
    assert window.grant(ask("late"), ["w"], 0.6) == "w"


def test_a_live_scan_comes_before_another_nodes_cohort():
    """Priority counts across nodes, however long the others have waited."""
    window = Allocation()
    assert window.grant(ask("cohort", 0), [], 0.0) == ""
    assert window.grant(ask("live", 100), [], 1.0) == ""
    assert window.grant(ask("cohort", 0), ["w"], 1.1) == ""
    assert window.grant(ask("live", 100), ["w"], 1.2) == "w"


def test_with_enough_workers_nobody_waits_for_a_turn():
    """Who waits in front takes one worker, not all of them."""
    window = Allocation()
    assert window.grant(ask("a"), [], 0.0) == ""
    assert window.grant(ask("b"), [], 0.1) == ""
    assert window.grant(ask("b"), ["w1", "w2"], 0.2) == "w1"
    assert window.grant(ask("a"), ["w1", "w2"], 0.3) == "w2"


def test_a_node_that_asks_no_more_loses_its_turn():
    """It was stopped or cut off: the worker goes to who still asks."""
    window = Allocation()
    assert window.grant(ask("gone"), [], 0.0) == ""
    assert window.grant(ask("b"), ["w"], 0.1) == ""
    assert window.grant(ask("b"), ["w"], 0.1 + WANT_S) == "w"


def test_a_node_that_has_nothing_to_do_waits_for_nothing():
    """Counting the workers takes none and ends the node's turn."""
    window = Allocation()
    assert window.grant(ask("a"), [], 0.0) == ""
    assert window.grant(ask("a", None), ["w"], 0.1) == ""
    assert window.grant(ask("b"), ["w"], 0.2) == "w"


def test_what_was_granted_and_not_used_is_free_again():
    """When the node says so, when it leaves, when its worker leaves, and in any case at last."""
    window = Allocation()
    assert window.grant(ask("a"), ["w"], 0.0) == "w"
    assert window.grant(ask("a"), ["w"], 1.0) == "w", "its job never went out; it asks anew"
    window.left("a's")
    assert window.grant(ask("b"), ["w"], 2.0) == "w"
    window.gone("w")
    assert window.grant(ask("c"), ["w"], 3.0) == "w"
    assert window.grant(ask("d"), ["w"], 3.0 + GRANT_S) == ""
    assert window.grant(ask("d"), ["w"], 3.1 + GRANT_S) == "w"


def hold_worker(name: str) -> None:
    """A job as `worker.run_job` runs it: says when it starts and ends, in between it waits."""
    worker = get_worker()
    worker.log_event(TOPIC, {"started": worker.get_current_task()})
    try:
        assert LET_GO[name].wait(60)
    finally:
        worker.log_event(TOPIC, {"ended": worker.get_current_task()})


LET_GO = {"a1": threading.Event(), "b1": threading.Event()}


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    """A real scheduler with three workers, of which one has another bundle."""
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
            until(lambda: len(client.run_on_scheduler(answer, ask("x", None)).workers) == 2)
        yield cluster


def test_two_nodes_on_one_scheduler(cluster: LocalCluster) -> None:
    """What the scheduler itself sees and hears: grants, running jobs, nodes that leave."""

    def asks(client: Client, node: str, *holding: str) -> AllocationReply:
        wish = AllocationRequest(
            node=node, client=client.id, kind="k", priority=100, holding=holding
        )
        return client.run_on_scheduler(answer, wish)

    a = Client(cluster, set_as_default=False)
    with Client(cluster, set_as_default=False) as b:
        first = asks(a, "a")
        second = asks(b, "b")
        assert {first.worker, second.worker} == set(first.workers)
        assert len(first.others) == 1, "the one with another bundle is told, and never granted"
        assert asks(a, "a", first.worker).worker == ""
        running = a.submit(hold_worker, "a1", workers=[first.worker], pure=False)
        until(lambda: first.worker in running_on(b))
        # The node dies; Dask forgets its job at once, the worker is busy with it all the same.
        a.close()
        del running
        late = b.submit(hold_worker, "b1", workers=[second.worker], pure=False)
        until(lambda: second.worker in running_on(b))
        until(lambda: not processing_on(b, first.worker))
        assert asks(b, "b").worker == "", "no scan is put behind a job that nobody wants any more"
        LET_GO["a1"].set()
        until(lambda: asks(b, "b").worker == first.worker)
        LET_GO["b1"].set()
        late.result(timeout=30)


def test_a_worker_that_rests_is_not_asked(cluster: LocalCluster) -> None:
    """One whose disk is full takes no scan for a while and does not count as ready."""
    with Client(cluster, set_as_default=False) as client:
        wish = AllocationRequest(node="a", client=client.id, kind="k", priority=100, holding=())
        one, two = client.run_on_scheduler(answer, replace(wish, priority=None)).workers
        found = client.run_on_scheduler(answer, replace(wish, resting=(one,)))
        assert (found.worker, found.workers) == (two, (two,))
        assert one not in found.others
        nobody = client.run_on_scheduler(answer, replace(wish, resting=(one, two)))
        assert (nobody.worker, nobody.workers) == ("", ())


def running_on(client: Client) -> set[str]:
    """Workers whose jobs have said that they started, as the scheduler has heard."""
    return client.run_on_scheduler(
        lambda dask_scheduler: set(dask_scheduler.plugins[NAME].window.running)
    )


def processing_on(client: Client, worker: str) -> int:
    """How many tasks Dask believes the worker has."""
    return client.run_on_scheduler(
        lambda dask_scheduler: len(dask_scheduler.workers[worker].processing)
    )
