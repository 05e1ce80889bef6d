"""A node and its operator: a peer that hangs, a scan that kills."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from pynetdicom import evt

from tests.conftest import REPOSITORY, free_port, require_peer
from tests.support.node.parts import peer
from tests.support.node.running import storescu_command, wait_for
from tests.support.node.siege import FakeNode, Tps
from tests.support.node.toy import toy, write_toy

# Many starts of a node, each of which may take a minute on a busy machine.
pytestmark = [pytest.mark.node, pytest.mark.timeout(900)]

ENVIRONMENT = os.environ | {"TCP_NODELAY": "1", "COLUMNS": "200"}


def limn(*arguments: object) -> list[str]:
    """A command as an operator gives it."""
    return [sys.executable, "-m", "limn.cli", *map(str, arguments)]


def said(*arguments: object) -> str:
    """What a command that succeeds prints."""
    done = subprocess.run(
        limn(*arguments),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=ENVIRONMENT,
        cwd=REPOSITORY,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def send(node: FakeNode, number: int, folder: Path) -> None:
    """One toy by dcmtk's storescu."""
    series = folder / toy(number).animal
    if not series.exists():
        write_toy(toy(number), folder)
    done = subprocess.run(
        storescu_command(node.port, series), env=ENVIRONMENT, check=False, timeout=120
    )
    assert done.returncode == 0


def states(node: FakeNode) -> list[str]:
    """How far every scan is."""
    return [state for (state,) in node.query("select state from scan order by id")]


@pytest.fixture
def tps(tmp_path: Path) -> Iterator[Tps]:
    """A storescp of dcmtk as the planning system; every file it gets has a name of its own."""
    require_peer("/usr/bin/storescp")
    made = Tps(tmp_path / "tps")
    made.start()
    yield made
    made.kill()


def test_a_planning_system_that_hangs_delays_no_contouring(tmp_path: Path) -> None:
    """Its C-STORE answers when told: meanwhile the next scans are contoured all the same.

    Takes more than 10 s: a node starts, contours three scans, and six commands run.
    """
    require_peer("/usr/bin/storescu")
    asked, answer = threading.Event(), threading.Event()
    taken: list[str] = []

    def hang(event: evt.Event) -> int:
        asked.set()
        answer.wait(240)
        taken.append(str(event.dataset.PatientID))
        return 0x0000

    port = free_port()
    destination = (
        '[[destination]]\nkind = "dicom"\nname = "TPS"\nae_title = "TPS"\n'
        f'host = "127.0.0.1"\nport = {port}\n'
    )
    node = FakeNode(tmp_path / "node", destination)
    try:
        node.start()
        with peer(handlers=[(evt.EVT_C_STORE, hang)], port=port):
            send(node, 1, tmp_path)
            wait_for(asked.is_set, 60, node.explain)
            for number in (2, 3):
                send(node, number, tmp_path)
            wait_for(lambda: states(node) == ["contoured"] * 3, 100, node.explain)
            assert not taken, "the planning system has answered nothing yet"
            listed = json.loads(said("queue", "--config", node.config, "--json"))
            assert listed["node"] == "ready"
            assert [(e["animal"], e["state"], e["destination"]) for e in listed["entries"]] == [
                (toy(number).animal, "delivering", "TPS") for number in (1, 2, 3)
            ]
            answer.set()
            wait_for(lambda: len(taken) == 3, 60, node.explain)
            empty = f"nothing waits in {node.data}\n"
            wait_for(lambda: said("queue", "--config", node.config) == empty, 60, node.explain)
    finally:
        answer.set()
        node.end()


@pytest.mark.peer
def test_a_scan_that_kills_its_worker(
    tmp_path: Path, tps: Tps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Quarantined after three deaths, said at every start, run again and sent again on demand.

    Takes half a minute: three starts of a node, and a worker that warms up again three times.
    """
    monkeypatch.setenv("FAKE_INFERENCE_S", "3.0")
    node = FakeNode(tmp_path / "node", tps.destination())
    try:
        node.start()
        send(node, 1, tmp_path)
        for death in (1, 2, 3):
            wait_for(
                lambda n=death: node.query("select tries from scan") == [(n,)], 100, node.explain
            )
            worker = node.pid("worker")
            assert worker is not None
            os.kill(worker, signal.SIGKILL)
        wait_for(lambda: states(node) == ["quarantined"], 60, node.explain)
        command = f"limn retry --config {node.config} scan-00001"
        alarms = (
            f"scan-00001 animal {toy(1).animal} QUARANTINED, not contoured: 3 tries gave nothing"
        )

        def lines() -> list[str]:
            return [each for each in node.log().splitlines() if alarms in each]

        (line,) = lines()
        assert "ERROR" in line
        assert line.endswith(command)
        assert command in said("queue", "--config", node.config)
        assert node.stop() == 0
        monkeypatch.setenv("FAKE_INFERENCE_S", "0.05")
        node.start()
        wait_for(lambda: len(lines()) == 2, 60, node.explain)

        assert "runs again; it was quarantined" in said(*command.split()[1:])
        wait_for(lambda: len(list(tps.folder.iterdir())) == 1, 60, node.explain)
        assert "is offered again" in said("resend", "--config", node.config, "scan-00001")
        wait_for(lambda: len(list(tps.folder.iterdir())) == 2, 60, node.explain)
        send(node, 1, tmp_path)
        wait_for(lambda: len(list(tps.folder.iterdir())) == 3, 60, node.explain)
        assert node.stop() == 0
        assert "is stopped and sends when it runs" in said(
            "resend", "--config", node.config, "scan-00001", "--to", "TPS"
        )
        node.start()
        wait_for(lambda: len(list(tps.folder.iterdir())) == 4, 60, node.explain)
        assert len({path.read_bytes() for path in tps.folder.iterdir()}) == 1
        assert states(node) == ["contoured"]
        ended, delivered = node.log_rows()
        assert (ended["outcome"], delivered["outcome"]) == ("quarantined", "delivered")
        assert delivered["flags"].split()[-1].startswith("again:")
    finally:
        node.end()


@pytest.mark.peer
def test_a_scan_that_runs_says_how_far_it_is(
    tmp_path: Path, tps: Tps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stage at once; share and expected end once the node has contoured a like scan."""
    monkeypatch.setenv("FAKE_INFERENCE_S", "4.0")
    node = FakeNode(tmp_path / "node", tps.destination())

    def running() -> dict[str, object]:
        listed = json.loads(said("queue", "--config", node.config, "--json"))
        return next((e for e in listed["entries"] if e["state"] == "running"), {})

    try:
        node.start()
        send(node, 1, tmp_path)
        wait_for(lambda: running().get("stage") == "inference", 100, node.explain)
        assert running().get("share") is None
        wait_for(lambda: states(node) == ["contoured"], 100, node.explain)
        send(node, 2, tmp_path)
        wait_for(lambda: running().get("stage") == "inference", 100, node.explain)
        found = running()
        ends = datetime.fromisoformat(str(found["ends_utc"])).timestamp()
        assert 0.0 < float(str(found["share"])) < 0.5
        assert 1.0 < ends - time.time() < 6.0
        assert "inference" in said("watch", "--config", node.config)
        wait_for(lambda: states(node) == ["contoured"] * 2, 100, node.explain)
        wait_for(lambda: running() == {}, 30, node.explain)
    finally:
        node.end()
