"""A whole node as its operators see it: log, metrics, and starts on what is broken."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from prometheus_client.parser import text_string_to_metric_families

from limn.domain.errors import PeerUnreachable
from limn.node.dimse.client import Peer, store
from tests.conftest import free_port
from tests.support.node.parts import write_slices
from tests.support.node.running import wait_for
from tests.support.node.siege import FakeNode, mounted
from tests.support.node.toy import toy

pytestmark = pytest.mark.node

EXPORT = '[[destination]]\nkind = "folder"\nname = "export"\nfolder = "export"\n'


@pytest.fixture
def node(tmp_path: Path) -> Iterator[FakeNode]:
    """A node with a network that thresholds, and a page; not started."""
    node = FakeNode(tmp_path / "node", EXPORT)
    text = node.config.read_text()
    node.config.write_text(f"{text}[metrics]\nport = {free_port()}\n")
    yield node
    if node.process is not None and node.process.poll() is None:
        node.end()


def send(node: FakeNode, number: int) -> set[int]:
    """One toy mouse over one association; the statuses."""
    peer = Peer("LIMN", "127.0.0.1", node.port, "SCANNER")
    paths = write_slices(node.folder / f"toy-{number}", toy(number).datasets)
    return set(store(peer, [pydicom.dcmread(path) for path in paths]))


def delivered(node: FakeNode, count: int) -> list[Path]:
    """The export folder, once it holds so many and the log knows of them."""
    wait_for(lambda: node.log().count("delivered to export") >= count, 90, node.explain)
    return sorted((node.folder / "export").glob("RS*.dcm"))


def page(node: FakeNode, path: str) -> tuple[int, str]:
    """Status and text of a page; 0 while nobody answers."""
    port = node.config.read_text().rpartition("port = ")[2].strip()
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


def samples(node: FakeNode) -> dict[tuple[str, ...], float]:
    """Every sample of the metrics: name and label values."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(page(node, "/metrics")[1])
        for sample in family.samples
    }


def test_log_metrics_and_health_of_a_node_with_a_scan(node: FakeNode) -> None:
    """Every process speaks in one log, with the scan on its lines; the page knows the scan.

    Takes more than 10 s: a worker is killed and warms up again.
    """
    node.launch()
    wait_for(lambda: page(node, "/health")[0] == 503, 60, node.explain)
    reasons = json.loads(page(node, "/health")[1])["reasons"]
    assert "no warm worker" in reasons
    node.start_waiting()
    wait_for(lambda: page(node, "/health")[0] == 200, 60, node.explain)
    assert send(node, 1) == {0}
    delivered(node, 1)
    wait_for(lambda: samples(node).get(("limn_door_to_door_seconds_count",)) == 1, 20)
    found = samples(node)
    assert found["limn_scans", "contoured", "live"] == 1
    assert found["limn_deliveries", "export", "delivered"] == 1
    assert found["limn_workers",] == 1
    assert found["limn_process_restarts_total", "worker"] == 0
    assert found["limn_process_resident_memory_bytes", "worker"] > 2**20
    assert found["limn_health", "ready"] == 1
    accepted = found["limn_destination_last_accepted_timestamp_seconds", "export"]
    assert abs(accepted - time.time()) < 60
    stored = ("limn_instances_received_total",)
    wait_for(lambda: samples(node)[stored] == len(toy(1).datasets), 10, node.explain)
    worker = node.pid("worker")
    assert worker is not None
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: samples(node)["limn_process_restarts_total", "worker"] == 1, 30)
    wait_for(lambda: page(node, "/health")[0] == 200, 90, node.explain)
    lines = [json.loads(each) for each in (node.data / "limn.jsonl").read_text().splitlines()]
    assert {"limn", "receiver", "worker", "engine"} <= {line["process"] for line in lines}
    about = [line for line in lines if line["scan"] == "scan-00001"]
    assert {"receiver", "worker", "engine"} <= {line["process"] for line in about}
    assert {line["animal"] for line in about} == {"T0001"}
    readable = node.log().splitlines()
    assert sum("scan-00001" in line for line in readable) == len(about)
    assert not [path for path in node.data.glob("*.log") if path.name != "limn.log"]


def test_processes_that_are_stopped_are_named_and_the_scheduler_is_started_again(
    node: FakeNode,
) -> None:
    """SIGSTOP: each is alive for the system. The scan that waits meanwhile is delivered.

    Takes more than 10 s: each silence is noticed after 5 s, the scheduler's ended after 30 s.
    """
    node.start()
    wait_for(lambda: page(node, "/health")[0] == 200, 60, node.explain)
    for name in ("receiver", "worker"):
        stopped = node.pid(name)
        assert stopped is not None
        os.kill(stopped, signal.SIGSTOP)
        silence = f"{name} has given no sign of life"
        wait_for(lambda said=silence: said in page(node, "/health")[1], 20, node.explain)
        os.kill(stopped, signal.SIGCONT)
        wait_for(lambda: page(node, "/health")[0] == 200, 30, node.explain)
    scheduler = node.pid("scheduler")
    assert scheduler is not None
    os.kill(scheduler, signal.SIGSTOP)
    assert send(node, 1) == {0}
    delivered(node, 1)
    assert "scheduler has given no sign of life" in node.log()
    wait_for(lambda: page(node, "/health")[0] == 200, 90, node.explain)


@pytest.mark.skipif(os.name == "nt", reason="Windows stops no process so")
def test_a_stopped_supervisor_is_named_and_old_signs_are_not(node: FakeNode) -> None:
    """Its children work on; a file of an earlier run with three workers says nothing."""
    old = node.folder / "data" / "heartbeats" / "worker-2"
    old.parent.mkdir(parents=True, mode=0o700)
    old.parent.parent.chmod(0o700)
    old.write_bytes(b"0000060.0\n")
    os.utime(old, (1.0, 1.0))
    node.start()
    assert not old.exists()
    queue = (sys.executable, "-m", "limn.cli", "queue", "--json", "--config", str(node.config))

    def said() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(subprocess.check_output(queue))
        return found

    assert (said()["node"], said()["silent"]) == ("ready", [])
    assert node.process is not None
    node.process.send_signal(signal.SIGSTOP)
    try:
        wait_for(lambda: said()["node"] == "degraded", 30)
        (line,) = said()["silent"]
        assert line.startswith("supervisor limn has given no sign of life for ")
    finally:
        node.process.send_signal(signal.SIGCONT)
    wait_for(lambda: said()["node"] == "ready", 30)


def test_a_node_on_a_damaged_journal_starts_clean_and_sends_nothing_twice(
    node: FakeNode,
) -> None:
    """Set aside, said, the delivered scan known; the next animal is contoured as ever.

    Takes more than 10 s: two starts of a node.
    """
    node.start()
    send(node, 1)
    (first,) = delivered(node, 1)
    assert node.stop() == 0
    before = (first.stat().st_mtime_ns, first.stat().st_ino, first.read_bytes())
    journal = node.data / "journal.sqlite"
    contents = journal.read_bytes()
    journal.write_bytes(contents[:100] + b"\xff" * 8000 + contents[8100:])
    node.start()
    assert len(list(node.data.glob("journal.sqlite.corrupt-*"))) == 1
    assert "THE JOURNAL IS DAMAGED" in node.log()
    send(node, 2)
    both = delivered(node, 2)
    assert len(both) == 2
    assert (first.stat().st_mtime_ns, first.stat().st_ino, first.read_bytes()) == before
    assert node.query("select id, state, tries from scan order by id") == [
        (1, "contoured", 0),
        (2, "contoured", 1),
    ]


def test_a_node_below_its_watermark_starts_and_takes_nothing(node: FakeNode) -> None:
    """It says what is short; whoever sends is refused, and health says why."""
    text = node.config.read_text().replace("min_free_mb = 1\n", "min_free_mb = 1000000000\n")
    node.config.write_text(text)
    node.start()
    assert "MB free, receive.min_free_mb is 1000000000" in node.log()
    assert any("MB free" in each for each in json.loads(page(node, "/health")[1])["reasons"])
    with pytest.raises(PeerUnreachable, match="refused the association"):
        send(node, 1)
    assert not list((node.data / "spool").glob("*/*.dcm"))


def serve(node: FakeNode) -> subprocess.CompletedProcess[str]:
    """Start a node that should not start."""
    return subprocess.run(
        [sys.executable, "-m", "limn.cli", "serve", "--config", str(node.config)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_a_node_on_a_full_disk_says_so(tmp_path: Path) -> None:
    """No traceback: the folder, the reason, and what to do."""
    disk = mounted(tmp_path / "disk")
    if disk is None:
        pytest.skip("this user may not mount a disk to fill it")
    try:
        with (disk / "ballast").open("wb") as ballast:
            os.posix_fallocate(ballast.fileno(), 0, shutil.disk_usage(disk).free)
        refused = serve(FakeNode(tmp_path / "node", EXPORT, data=disk / "data"))
    finally:
        subprocess.run(["/bin/umount", str(disk)], check=True)
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"limn: data_dir {disk / 'data'} can't be written (No space")
    assert refused.stderr.count("\n") == 1


def test_a_node_whose_data_folder_can_t_be_written_says_so(node: FakeNode) -> None:
    """A file in its place, or a mount that is not there."""
    (node.folder / "file").write_text("mine")
    text = node.config.read_text().replace(str(node.data), str(node.folder / "file" / "data"))
    node.config.write_text(text)
    refused = serve(node)
    assert refused.returncode == 1
    assert "can't be written (" in refused.stderr
    assert refused.stderr.count("\n") == 1


@pytest.mark.parametrize("fault", ["absent", "a file absent", "changed"])
def test_a_node_without_its_model_says_who_must_act(
    node: FakeNode, tmp_path: Path, fault: str
) -> None:
    """The bundle's folder, or the file in it, and that it must be installed again."""
    bundle = tmp_path / "bundle"
    text = node.config.read_text()
    source = Path(next(each for each in text.splitlines() if "bundle =" in each).split('"')[1])
    if fault != "absent":
        bundle.mkdir()
        for path in source.rglob("*"):
            if path.is_file():
                link = bundle / path.relative_to(source)
                link.parent.mkdir(exist_ok=True)
                link.symlink_to(path)
        (bundle / "plans.json").unlink()
    if fault == "changed":
        (bundle / "plans.json").write_text("{}")
    node.config.write_text(text.replace(str(source), str(bundle)))
    refused = serve(node)
    assert refused.returncode == 1
    assert str(bundle) in refused.stderr
    assert "install the bundle again" in refused.stderr or "give the folder" in refused.stderr
