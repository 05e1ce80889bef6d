"""The metrics as Prometheus reads them, and the health page for each fault of a node."""

import json
import socket
import sqlite3
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import psutil
import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from limn.domain.errors import ConfigWrong
from limn.domain.records import ScanRecord
from limn.domain.timing import DOOR_TO_DOOR_STAGES
from limn.node.config import Config, load_config
from limn.node.serve.bounded_http import MAX_CONNECTIONS, BoundedHttpServer
from limn.node.serve.health import ProcessState
from limn.node.serve.metrics.prometheus import BUCKETS_S, Metrics, serving
from limn.node.store.disk import scanlog, space
from limn.node.store.journal.journal import Journal
from tests.conftest import free_port
from tests.support.node.parts import arrived
from tests.support.node.running import wait_for

ALL_UP = tuple(
    ProcessState(name, True, 0) for name in ("scheduler", "worker", "engine", "receiver")
)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A node with a page and a destination whose name needs escaping."""
    (tmp_path / "limn.toml").write_text(
        f'data_dir = "."\nmodel.bundle = "b"\nreceive.port = {free_port()}\n'
        f"receive.min_free_mb = 1\nmetrics.port = {free_port()}\n"
        '[[destination]]\nkind = "folder"\nname = "tps"\nfolder = "o"\n'
        '[[destination]]\nkind = "folder"\nname = \'the "old" \\archive\'\nfolder = "a"\n'
    )
    return load_config(tmp_path / "limn.toml")


def parsed(metrics: Metrics) -> dict[str, Metric]:
    """The page as Prometheus' own parser reads it, by family."""
    return {family.name: family for family in text_string_to_metric_families(metrics.text())}


def values(metric: Metric, *labels: str) -> dict[tuple[str, ...], float]:
    """Samples by the values of some labels."""
    return {tuple(each.labels[name] for name in labels): each.value for each in metric.samples}


def faults(metrics: Metrics) -> list[str]:
    """The sentences of the health page."""
    return [each.text for each in metrics.health.reasons()]


def logged(config: Config, number: int, outcome: str = "delivered", **changes: object) -> None:
    """A row of the scan log."""
    record = ScanRecord(
        scan_id=f"scan-{number:05d}",
        outcome=outcome,
        last_slice_utc=f"t{number}",
        accepted_utc="2026-01-01T00:00:00.000+00:00" if outcome == "delivered" else "",
        **changes,  # type: ignore[arg-type]
    )
    scanlog.append(config.scan_log_path, record)


def test_an_empty_node_has_a_page_that_parses(config: Config) -> None:
    """With no journal and no log every family still has its type."""
    found = parsed(Metrics(config, lambda: ALL_UP))
    assert found["limn_journal_ok"].samples[0].value == 1
    assert found["limn_workers"].samples[0].value == 0
    assert found["limn_door_to_door_seconds"].type == "histogram"
    assert all(metric.documentation for metric in found.values())
    assert not [name for name, metric in found.items() if metric.type == "unknown"]


def test_scans_and_deliveries_are_counted_by_state(config: Config) -> None:
    """Two ready, one contoured: it waits for one destination and the other refused it."""
    with closing(Journal(config.journal_path)) as journal:
        names = [each.name for each in config.destination]
        for number in range(3):
            changes = {"series_instance_uid": f"2.25.{number}", "ready_at": time.time() - 100}
            assert journal.insert(arrived(**changes), names) is not None
        journal.contoured(1, "x", {"contoured_at": time.time() - 50})
        journal.refused(journal.deliveries(1)[1].id, "0xC000")
        found = parsed(Metrics(config, lambda: ALL_UP))
    states = values(found["limn_scans"], "state", "kind")
    assert states == {("contoured", "live"): 1, ("ready", "live"): 2}
    assert values(found["limn_deliveries"], "destination", "state") == {
        ("tps", "waiting"): 1,
        (names[1], "waiting"): 0,
        (names[1], "refused"): 1,
    }
    assert 100 <= found["limn_oldest_ready_seconds"].samples[0].value < 200
    waiting = values(found["limn_oldest_waiting_seconds"], "destination")
    assert 50 <= waiting["tps",] < 150
    assert waiting[names[1],] == 0
    assert found["limn_structure_sets_held"].samples[0].value == 0
    last = found["limn_last_scan_timestamp_seconds"].samples[0].value
    assert abs(last - (time.time() - 20)) < 60


def test_contoured_scans_are_counted_by_light(config: Config) -> None:
    """A refused scan has none."""
    for number, light in enumerate(("green", "green", "red", "")):
        logged(config, number, light=light)
    lights = values(parsed(Metrics(config, lambda: ALL_UP))["limn_scans_by_light"], "light")
    assert lights == {("green",): 2, ("amber",): 0, ("red",): 1}


def test_door_to_door_is_a_histogram_of_what_was_delivered(config: Config) -> None:
    """Cumulative buckets, sum and count; neither of a refused scan nor of a phantom."""
    for number, seconds in enumerate((4.0, 20.0, 25.0, 1000.0)):
        logged(config, number, door_to_door_s=seconds, inference_s=seconds / 2)
    logged(config, 9, "refused")
    logged(config, 11, door_to_door_s=7.0, flags="demo-bundle commissioning")
    metrics = Metrics(config, lambda: ALL_UP)
    whole = parsed(metrics)["limn_door_to_door_seconds"]
    buckets = {s.labels["le"]: s.value for s in whole.samples if s.name.endswith("_bucket")}
    assert [float(edge) for edge in buckets] == [*BUCKETS_S, float("inf")]
    assert (buckets["5.0"], buckets["20.0"], buckets["30.0"]) == (1, 2, 3)
    assert (buckets["600.0"], buckets["+Inf"]) == (3, 4)
    totals = {s.name.rpartition("_")[2]: s.value for s in whole.samples if not s.labels}
    assert totals == {"sum": 1049, "count": 4}
    stages = parsed(metrics)["limn_stage_seconds"]
    sums = {s.labels["stage"]: s.value for s in stages.samples if s.name.endswith("_sum")}
    assert sums["inference"] == 524.5
    assert set(sums) == {"receive", *(stage.removesuffix("_s") for stage in DOOR_TO_DOOR_STAGES)}
    outcomes = values(parsed(metrics)["limn_scans_logged"], "outcome")
    assert outcomes == {("delivered",): 4, ("refused",): 1}
    logged(config, 10, door_to_door_s=1.0)
    counts = [s.value for s in parsed(metrics)["limn_door_to_door_seconds"].samples]
    assert counts[0] == 2, "a new row is seen"


def test_processes_and_workers(config: Config) -> None:
    """Which runs, how often each died, and how many workers the engine knows."""
    config.ready_path.write_text("3\n")
    processes = (ProcessState("worker", False, 7), ProcessState("engine", True, 0))
    found = parsed(Metrics(config, lambda: processes))
    assert values(found["limn_process_up"], "process") == {("worker",): 0, ("engine",): 1}
    assert values(found["limn_process_restarts"], "process")["worker",] == 7
    assert found["limn_workers"].samples[0].value == 3


def test_a_damaged_journal_is_named(config: Config) -> None:
    """The page stays up without the families that come from the journal."""
    config.journal_path.write_text("no database" * 100)
    metrics = Metrics(config, lambda: ALL_UP)
    found = parsed(metrics)
    assert found["limn_journal_ok"].samples[0].value == 0
    assert "limn_scans" not in found
    assert any("is damaged" in reason for reason in faults(metrics))


@contextmanager
def listening(port: int) -> Iterator[None]:
    """A process that listens on the port."""
    with socket.create_server(("127.0.0.1", port)):
        yield


def get(config: Config, path: str) -> tuple[int, str, str]:
    """Status, type and text of a page."""
    url = f"http://127.0.0.1:{config.metrics.port}{path}"
    try:
        with urllib.request.urlopen(url, timeout=10) as reply:
            return reply.status, reply.headers["Content-Type"], reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers["Content-Type"], error.read().decode()


def test_health_is_200_while_all_is_well(config: Config) -> None:
    """The receiver listens, a worker is warm, the disk has room."""
    config.ready_path.write_text("1\n")
    with serving(config, lambda: ALL_UP), listening(config.receive.port):
        status, kind, text = get(config, "/health")
    assert (status, kind, json.loads(text)) == (
        200,
        "application/json",
        {"ok": True, "state": "ready", "reasons": [], "causes": []},
    )


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("door", "nothing listens on 127.0.0.1:"),
        ("worker", "no warm worker"),
        ("disk", "MB free, receive.min_free_mb is"),
        ("inodes", "has 3 inodes free (files it can still take): no scan is taken below 500"),
        ("process", "engine does not run"),
        ("stuck", "engine has given no sign of life for 7 s"),
    ],
)
def test_health_is_503_with_the_reason(
    config: Config, fault: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each fault alone is enough, and is the only one named."""
    if fault != "worker":
        config.ready_path.write_text("1\n")
    if fault == "inodes":
        monkeypatch.setattr(space, "inodes_of", lambda folder: space.Inodes(3, 10**6))
    if fault == "disk":
        receive = config.receive.model_copy(update={"min_free_mb": 10**9})
        config = config.model_copy(update={"receive": receive})
    silence = "engine has given no sign of life for 7 s"
    engine = {
        "process": ProcessState("engine", False, 1),
        "stuck": ProcessState("engine", True, 0, silence),
    }
    processes: Sequence[ProcessState] = [*ALL_UP[:2], engine.get(fault, ALL_UP[2]), ALL_UP[3]]
    port = free_port() if fault == "door" else config.receive.port
    with serving(config, lambda: processes), listening(port):
        status, _, text = get(config, "/health")
    answer = json.loads(text)
    assert (status, answer["ok"], len(answer["reasons"])) == (503, False, 1), text
    assert reason in answer["reasons"][0]


def test_health_connects_to_no_port(config: Config) -> None:
    """The check makes no connection, which the receiver might refuse and log."""
    config.ready_path.write_text("1\n")
    with socket.create_server(("127.0.0.1", config.receive.port)) as door:
        assert faults(Metrics(config, lambda: ALL_UP)) == []
        door.settimeout(0.2)
        with pytest.raises(TimeoutError):
            door.accept()


def test_a_host_of_workers_alone_needs_no_receiver(config: Config) -> None:
    """Receiver and engine run on another host; here only the worker can fail."""
    receive = config.receive.model_copy(update={"min_free_mb": 10**9})
    config = config.model_copy(update={"receive": receive})
    assert faults(Metrics(config, lambda: [ProcessState("worker", True, 0)])) == []
    ill = faults(Metrics(config, lambda: [ProcessState("worker", False, 0)]))
    assert ill == ["worker does not run"]


def test_metrics_over_http(config: Config) -> None:
    """As Prometheus fetches them; other pages don't exist, and half a request does no harm."""
    with serving(config, lambda: ALL_UP):
        assert config.metrics.port is not None
        with socket.create_connection(("127.0.0.1", config.metrics.port)) as torn:
            torn.sendall(b"\0\xff GET")
        status, kind, text = get(config, "/metrics")
        assert (status, kind) == (200, "text/plain; version=0.0.4; charset=utf-8")
        assert list(text_string_to_metric_families(text))
        assert get(config, "/")[0] == 404
        assert get(config, "/metrics/../../etc/passwd")[0] == 404


def test_connections_that_drip_leave_the_page_and_the_files_of_the_supervisor_alone(
    config: Config,
) -> None:
    """Many clients send one byte of a header and stay; the page answers, few descriptors are open.

    The supervisor starts its children in the same process and needs descriptors for them.
    """
    assert config.metrics.port is not None
    address = ("127.0.0.1", config.metrics.port)
    own = psutil.Process()
    with ExitStack() as clients, serving(config, lambda: ALL_UP):
        before = own.num_fds()
        for _ in range(4 * MAX_CONNECTIONS):
            client = clients.enter_context(socket.create_connection(address, timeout=10))
            with suppress(OSError):
                client.sendall(b"G")
        assert get(config, "/metrics")[0] == 200
        wait_for(lambda: own.num_fds() - before < 5.5 * MAX_CONNECTIONS, 10)


def test_a_request_that_never_ends_is_ended(config: Config) -> None:
    """Each byte comes in time, but the whole request has a time too."""
    address = ("127.0.0.1", config.metrics.port or 0)
    with BoundedHttpServer(address, BaseHTTPRequestHandler, connection_s=0.3) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            with socket.create_connection(address, timeout=10) as client:
                wait_for(lambda: _is_cut_off(client), 10)
        finally:
            server.shutdown()
            thread.join()


def _is_cut_off(client: socket.socket) -> bool:
    """Whether one more byte of a header finds the connection closed."""
    try:
        client.sendall(b"G")
    except OSError:
        return True
    return False


def test_no_port_no_page(config: Config) -> None:
    """No port is open until the site sets one."""
    metrics = config.metrics.model_copy(update={"port": None})
    silent = config.model_copy(update={"metrics": metrics})
    with serving(silent, lambda: ALL_UP), pytest.raises(OSError, match=r"refused|111"):
        get(config, "/health")


def test_a_port_that_is_taken_is_named(config: Config) -> None:
    """The node does not start without the page that its site watches."""
    assert config.metrics.port is not None
    taken, wrong = (
        listening(config.metrics.port),
        pytest.raises(ConfigWrong, match=r"metrics\.port"),
    )
    with taken, wrong, serving(config, lambda: ALL_UP):
        pass


def test_the_page_leaves_the_journal_alone(config: Config) -> None:
    """It only reads: it neither locks nor changes a journal in use."""
    with closing(Journal(config.journal_path)) as journal:
        journal.insert(arrived(), ["tps"])
        with sqlite3.connect(config.journal_path, isolation_level=None) as writer:
            writer.execute("begin immediate")
            found = parsed(Metrics(config, lambda: ALL_UP))
            writer.execute("rollback")
    assert values(found["limn_scans"], "state") == {("ready",): 1}


def test_a_process_that_ends_again_and_again_is_named_while_it_is_up(config: Config) -> None:
    """Between two deaths it runs; the health page is 503 all the same."""
    looping = [ProcessState("worker", True, 9, loop="worker has ended 9 times in a row")]
    assert faults(Metrics(config, lambda: looping)) == ["worker has ended 9 times in a row"]
