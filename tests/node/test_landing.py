import logging
from types import SimpleNamespace

import pytest

from limn.node.config import load_config
from limn.node.dispatch import DEATHS, Dispatcher, _Flight
from limn.node.journal import COHORT, LIVE, Journal
from limn.node.worker import Result
from tests.conftest import free_port
from tests.node.parts import arrived
from tests.node.site import CONFIG


class Desk:
    """A dispatcher without a scheduler; results come as told."""

    def __init__(self, folder):
        path = folder / "limn.toml"
        path.write_text(CONFIG.format(wake=free_port(), tps=104))
        self.path = path
        self.journal = Journal(folder / "data" / "journal.sqlite")
        bundle = SimpleNamespace(demonstration=False, sha256="b" * 64)
        self.dispatcher = Dispatcher(
            load_config(path), path, self.journal, "tls://x", None, bundle, lambda: None
        )

    def began(self, **changes):
        """A scan that a worker has begun."""
        row = self.journal.insert(arrived(**changes), ("tps",))
        self.journal.started(row.id)
        return row

    def lands(self, row, status, result=None):
        """What comes back of it."""
        flight = _Flight("key", "worker", 1.0, 0.0, started=True)
        flight.future = SimpleNamespace(
            status=status, result=lambda: result, exception=lambda: RuntimeError("killed")
        )
        self.dispatcher._flights[row.id] = flight
        self.dispatcher._land(row.id, flight)
        return self.journal.scan(row.id)


@pytest.fixture
def desk(tmp_path):
    """An empty journal."""
    made = Desk(tmp_path)
    yield made
    made.journal.close()


def product(held=None):
    """A scan that was contoured."""
    record = {"runtime_s": 1.0, "device": "cpu"}
    return Result(scan=1, started_at=1.0, structure_set=b"RS", record=record, held=held)


def test_the_journal_keeps_when_a_contoured_scan_began(desk):
    """Of one whose worker died it forgets it: nobody has that one now."""
    after = desk.lands(desk.began(), "finished", product())
    assert after.state == "contoured"
    assert after.started_at is not None
    for status in ("error", "cancelled"):
        died = desk.began(series_instance_uid=f"2.25.{len(status)}")
        after = desk.lands(died, status)
        assert (after.state, after.tries, after.started_at) == ("ready", 1, None)


def test_the_third_death_is_an_alarm(desk, caplog):
    """An ERROR with scan, animal, count and the command; two deaths are not enough."""
    row = desk.began()
    for _ in range(DEATHS - 1):
        assert desk.lands(row, "error").state == "ready"
        desk.journal.started(row.id)
    caplog.clear()
    assert desk.lands(row, "error").state == "quarantined"
    (line,) = [each for each in caplog.records if "QUARANTINED" in each.getMessage()]
    assert line.levelno == logging.ERROR
    said = line.getMessage()
    assert said.startswith("scan-00001 animal M1 QUARANTINED, not contoured: the worker died 3 ")
    assert said.endswith(f"limn retry --config {desk.path} scan-00001")


@pytest.mark.parametrize(("priority", "held"), [(LIVE, 1), (COHORT, 0)])
def test_only_live_scans_are_held(desk, priority, held):
    """Of a cohort nothing goes out; why somebody should look stands in its record."""
    row = desk.lands(desk.began(priority=priority), "finished", product("mirrored image"))
    assert len(desk.journal.on_hold()) == held
    assert row.record.get("held") == (None if held else "mirrored image")
