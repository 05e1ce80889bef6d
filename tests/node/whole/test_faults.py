"""A whole node whose processes die; no program of others is needed."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset

from limn.node.dimse.client import Peer, store
from tests.support.node.running import Node, children_of, wait_for
from tests.support.node.siege import FakeNode
from tests.support.node.toy import toy

pytestmark = pytest.mark.node

EXPORT = '[[destination]]\nkind = "folder"\nname = "export"\nfolder = "export"\n'


def running(node: Node) -> Iterator[Node]:
    """The node, started, and stopped at the end."""
    node.start()
    yield node
    assert node.process is not None
    if node.process.poll() is None:
        node.stop()


@pytest.fixture(scope="module")
def _site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeNode]:
    """A node that exports into a folder; its network takes a second: time to be stopped."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAKE_INFERENCE_S", "1.0")
        yield from running(FakeNode(tmp_path_factory.mktemp("site") / "node", EXPORT))


@pytest.fixture
def toy_node(_site: FakeNode) -> FakeNode:
    """The node of all tests here, started again if the test before has stopped it."""
    assert _site.process is not None
    if _site.process.poll() is not None:
        before = _site.log().count("listening as")
        (_site.data / "ready").unlink(missing_ok=True)
        _site.start()
        wait_for(lambda: _site.log().count("listening as") > before, 60, _site.explain)
    return _site


def send(node: Node, datasets: Iterable[Dataset]) -> None:
    """Send a series over one association."""
    peer = Peer("LIMN", "127.0.0.1", node.port, "SCANNER")
    assert set(store(peer, list(datasets))) == {0}


def exported(node: Node, animal: str) -> list[Path]:
    """The animal's structure sets in the export folder."""
    found = (node.folder / "export").glob("RS*.dcm")
    return [path for path in found if pydicom.dcmread(path).PatientID == animal]


def tries(node: Node, animal: str) -> list[tuple[int]]:
    """How often a worker has begun each scan of the animal."""
    return node.query("select tries from scan where animal = ?", animal)


def serve(node: Node) -> subprocess.CompletedProcess[str]:
    """Start a node that should refuse to start."""
    return subprocess.run(
        [sys.executable, "-m", "limn.cli", "serve", "--config", str(node.config)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def pid_of(node: Node, *words: str) -> int:
    """The child whose command line holds all the words."""
    for pid in node.children():
        command = Path(f"/proc/{pid}/cmdline").read_text()
        if all(word in command for word in words):
            return pid
    raise AssertionError(words)


@pytest.mark.parametrize(("number", "animal"), [(signal.SIGINT, 23), (signal.SIGTERM, 24)])
def test_a_stopped_node_leaves_nothing_running_and_loses_nothing(
    toy_node: FakeNode, number: signal.Signals, animal: int
) -> None:
    """Ctrl-C, or systemd, while a scan runs: it is finished first; then no process is left."""
    children = toy_node.children()
    assert len(children) >= 4
    send(toy_node, toy(animal).datasets)
    wait_for(lambda: tries(toy_node, toy(animal).animal) == [(1,)], 60)
    assert toy_node.stop(number) == 0
    assert toy_node.rows()[toy(animal).animal]["outcome"] == "delivered"
    assert not [pid for pid in children if alive(pid)]


def test_killing_the_supervisor_takes_the_children_along(toy_node: FakeNode) -> None:
    """Kill -9 on the supervisor: every child notices that its pipe closed.

    Takes more than 10 s: two starts of a node.
    """
    assert toy_node.process is not None
    children = toy_node.children()
    toy_node.process.kill()
    toy_node.process.wait()
    # A restart at once finds ports that the dying children still hold, and waits for them.
    (toy_node.folder / "data" / "ready").unlink(missing_ok=True)
    toy_node.start()
    assert not any(alive(pid) for pid in children)


def test_every_port_is_bound_to_loopback(toy_node: FakeNode) -> None:
    """No process of the node listens on an address that another machine can reach."""
    assert toy_node.process is not None
    sockets = set()
    for pid in [toy_node.process.pid, *toy_node.children()]:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                sockets.add(str(link.readlink()))
    listening = {}
    for name in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            fields = line.split()
            bound = fields[3] in ("0A", "07")
            if bound and f"socket:[{fields[9]}]" in sockets:
                listening[fields[1]] = name
    assert len(listening) >= 3
    outside = [address for address in listening if not address.startswith("0100007F:")]
    assert not outside, f"bound beyond 127.0.0.1: {outside}"


def test_a_port_in_use_is_named(toy_node: FakeNode, tmp_path: Path) -> None:
    """A node whose port another one has does not start, and says which key to change."""
    other = Node(tmp_path / "other", EXPORT)
    text = other.config.read_text().replace(f"port = {other.port}", f"port = {toy_node.port}", 1)
    other.config.write_text(text)
    refused = serve(other)
    assert refused.returncode == 1
    assert f"receive.port {toy_node.port}" in refused.stderr


def test_no_second_node_starts_on_the_same_data(toy_node: FakeNode) -> None:
    """A second start is refused with what to do, and the first runs on."""
    second = serve(toy_node)
    assert second.returncode == 1
    assert "another limn runs on" in second.stderr
    assert toy_node.process is not None
    assert toy_node.process.poll() is None
    assert children_of(toy_node.process.pid)


def test_a_demonstration_bundle_does_not_deliver_unasked(tmp_path: Path) -> None:
    """Without allow_demo_bundle the node does not start and says which key would let it."""
    node = Node(tmp_path / "node", EXPORT)
    node.config.write_text(node.config.read_text().replace("allow_demo_bundle = true\n", ""))
    refused = serve(node)
    assert refused.returncode == 1
    assert "allow_demo_bundle" in refused.stderr


def test_a_scan_survives_the_death_of_worker_and_engine(toy_node: FakeNode) -> None:
    """Worker killed while it contours, then the engine: one structure set all the same.

    Takes more than 10 s: a worker starts twice.
    """
    send(toy_node, toy(21).datasets)
    wait_for(lambda: tries(toy_node, toy(21).animal) == [(1,)], 60, toy_node.explain)
    os.kill(pid_of(toy_node, "dask_worker"), signal.SIGKILL)
    wait_for(lambda: tries(toy_node, toy(21).animal) == [(2,)], 90, toy_node.explain)
    worker = pid_of(toy_node, "dask_worker")
    os.kill(pid_of(toy_node, "--only", "engine"), signal.SIGKILL)
    row = toy_node.wait_row(toy(21).animal)
    assert row["outcome"] == "delivered"
    assert len(exported(toy_node, toy(21).animal)) == 1
    assert pid_of(toy_node, "dask_worker") == worker, "the model stays warm when the engine dies"


def test_a_scan_survives_the_death_of_scheduler_and_receiver(toy_node: FakeNode) -> None:
    """Scheduler killed while a scan runs, the receiver right after it was taken.

    The engine hears of the next scan's start from the new scheduler.
    Takes more than 10 s: the worker ends with its scheduler and warms up again.
    """
    send(toy_node, toy(22).datasets)
    wait_for(lambda: bool(tries(toy_node, toy(22).animal)), 20)
    os.kill(pid_of(toy_node, "--only", "receiver"), signal.SIGKILL)
    os.kill(pid_of(toy_node, "dask_scheduler"), signal.SIGKILL)
    assert toy_node.wait_row(toy(22).animal)["outcome"] == "delivered"
    assert len(exported(toy_node, toy(22).animal)) == 1
    send(toy_node, toy(25).datasets)
    assert toy_node.wait_row(toy(25).animal)["outcome"] == "delivered"
    assert tries(toy_node, toy(25).animal) == [(1,)]


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and waits for its parent does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
