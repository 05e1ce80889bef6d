"""Jobs in flight: started, given up with their worker, removed once."""

import threading
from types import SimpleNamespace

import pytest

from limn.node.contour.flights import Flights, JobInFlight
from limn.node.store.journal.journal import Journal
from tests.support.node.parts import arrived


@pytest.fixture
def journal(tmp_path):
    """An empty journal."""
    made = Journal(tmp_path / "journal.sqlite")
    yield made
    made.close()


def in_flight(journal, **changes):
    """A scan with a job at worker w, and what cancels its future."""
    row = journal.insert(arrived(), ("tps",))
    cancelled = []
    future = SimpleNamespace(cancel=lambda: cancelled.append(True))
    flights = Flights(None, journal, "label", lambda *_: None, threading.Event())
    job = JobInFlight("key", "w", 1.0, 0.0, **({"future": future} | changes))
    flights._jobs[row.id] = job
    return flights, row, job, cancelled


def test_a_job_whose_worker_left_is_given_up_at_the_second_look(journal):
    """Dask would keep it for the worker's return; the scan is ready for another worker."""
    flights, row, _, cancelled = in_flight(journal)
    flights.started("key")
    assert journal.scan(row.id).started_at is not None
    flights.drop_orphans({"v"})
    assert row.id in flights
    flights.drop_orphans({"v"})
    assert row.id not in flights
    assert cancelled == [True]
    assert journal.scan(row.id).started_at is None


def test_a_worker_that_is_back_at_the_second_look_keeps_its_job(journal):
    """The count begins again when the worker is seen."""
    flights, row, _, cancelled = in_flight(journal)
    for live in ({"v"}, {"w"}, {"v"}):
        flights.drop_orphans(live)
    assert row.id in flights
    assert cancelled == []


def test_a_job_whose_bytes_are_still_being_sent_is_no_orphan(journal):
    """The thread that sends them reports what became of it."""
    flights, row, _, _ = in_flight(journal, future=None)
    for _ in range(3):
        flights.drop_orphans({"v"})
    assert row.id in flights


def test_the_start_of_another_node_s_job_changes_nothing(journal):
    """Every node hears of every job on the scheduler."""
    flights, row, job, _ = in_flight(journal)
    flights.started("another key")
    assert not job.started
    assert flights.on_their_way == ("w",)
    assert journal.scan(row.id).tries == 0
    flights.started("key")
    assert flights.on_their_way == ()
    assert journal.scan(row.id).tries == 1


def test_a_result_of_a_job_that_was_given_up_is_ignored(journal):
    """Only the job that is in flight now can end, and only once."""
    flights, row, job, _ = in_flight(journal)
    assert not flights.remove(row.id, JobInFlight("earlier", "w", 0.5, 0.0))
    assert flights.remove(row.id, job)
    assert not flights.remove(row.id, job)
    assert len(flights) == 0
