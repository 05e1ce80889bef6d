"""Metrics for Prometheus and a health page, over HTTP from the supervisor, off by default.

The supervisor outlives every other process, so that the page can say which of them is down. It
counts only restarts itself; every other figure comes from the journal, the scan log and the notes
of engine and receiver, so that a restart of the node resets nothing.
"""

from __future__ import annotations

import json
import logging
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler

import psutil

from limn import __version__
from limn.domain.errors import ConfigWrong
from limn.domain.light import Light
from limn.domain.timing import DOOR_TO_DOOR_STAGES
from limn.node.commissioning import COMMISSIONING
from limn.node.config import Config
from limn.node.host.certs import valid_until
from limn.node.host.expiry import given_certificates
from limn.node.host.port_holder import HostPort, refusal_of
from limn.node.serve.bounded_http import BoundedHttpServer
from limn.node.serve.health import Cause, Health, NodeState, ProcessState, Reason, state_of
from limn.node.serve.metrics.metric_family import Family
from limn.node.serve.metrics.register_metrics import of_door, of_register
from limn.node.store.disk import scanlog, space
from limn.node.store.journal.schema import JournalError

log = logging.getLogger(__name__)

# With an animal under anaesthesia a minute is long and five are too long.
BUCKETS_S = (5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 60.0, 90.0, 120.0, 180.0, 300.0, 600.0)
TEXT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
REQUEST_S = 5.0


class Metrics:
    """The metrics of this host's part of the node, collected at every request."""

    def __init__(self, config: Config, processes: Callable[[], Sequence[ProcessState]]) -> None:
        self._config = config
        self._processes = processes
        self.health = Health(config, processes)
        self._lock = threading.Lock()
        self._log = scanlog.LogFollower(config.scan_log_path, scanlog.as_it_is)

    def text(self) -> str:
        """Every metric, in the text format."""
        families = [
            *_of_health(self.health.reasons()),
            *self._of_processes(),
            *self._of_disk(),
            *self._of_certificates(),
            *self._of_journal(),
            *of_door(self._config),
            *self._of_log(),
        ]
        return "\n".join(line for family in families for line in family.lines()) + "\n"

    def _of_processes(self) -> Iterator[Family]:
        info = Family("limn_info", "gauge", "Version of limn.")
        info.add(1, version=__version__)
        yield info
        up = Family("limn_process_up", "gauge", "Whether a process of this host runs.")
        restarts = Family("limn_process_restarts_total", "counter", "How often it died.")
        memory = Family(
            "limn_process_resident_memory_bytes", "gauge", "Memory of a process of this host."
        )
        for each in self._processes():
            up.add(int(each.up), process=each.name)
            restarts.add(each.restarts, process=each.name)
            with suppress(psutil.Error):
                if each.pid is not None:
                    memory.add(psutil.Process(each.pid).memory_info().rss, process=each.name)
        yield from (up, restarts, memory)
        workers = Family("limn_workers", "gauge", "Warm workers that this node's engine knows.")
        workers.add(self.health.workers())
        yield workers

    def _of_disk(self) -> Iterator[Family]:
        free = Family("limn_disk_free_bytes", "gauge", "Free space below data_dir.")
        free.add(self._free_bytes())
        yield free
        least = Family("limn_disk_watermark_bytes", "gauge", "Below this senders are refused.")
        least.add(self._config.receive.refuse_free_mb * 2**20)
        yield least
        inodes = Family("limn_disk_free_inodes", "gauge", "Files that the disk can still take.")
        with suppress(OSError):
            if (found := space.inodes_of(self._config.data_dir)) is not None:
                inodes.add(found.free)
        yield inodes

    def _of_certificates(self) -> Iterator[Family]:
        ends = Family(
            "limn_certificate_end_timestamp_seconds",
            "gauge",
            "When a certificate that the site gave ends, UTC, by its key in the config.",
        )
        for key, path in given_certificates(self._config):
            with suppress(ConfigWrong, OSError):
                ends.add(valid_until(path).timestamp(), certificate=key)
        yield ends

    def _of_journal(self) -> Iterator[Family]:
        sound = Family("limn_journal_ok", "gauge", "Whether the journal is readable and sound.")
        sound.add(int(self.health.journal_sound()))
        yield sound
        if not self._config.journal_path.exists():
            return
        try:
            with closing(self.health.journal()) as journal:
                yield from of_register(self._config, journal)
        except JournalError as error:
            log.error("metrics: %s: %s", self._config.journal_path, error)

    def _of_log(self) -> Iterator[Family]:
        rows = self._rows()
        delivered = [row for row in rows if row["outcome"] == "delivered"]
        outcomes = Family("limn_scans_logged_total", "counter", "Rows of the scan log by outcome.")
        for outcome in sorted({row["outcome"] for row in rows}):
            outcomes.add(sum(row["outcome"] == outcome for row in rows), outcome=outcome)
        yield outcomes
        lights = Family("limn_scans_by_light_total", "counter", "Contoured scans by light.")
        for light in Light:
            lights.add(sum(row.get("light") == light for row in rows), light=light)
        yield lights
        whole = Family(
            "limn_door_to_door_seconds", "histogram", "Last slice in to structure set accepted."
        )
        seconds = _numbers(delivered, "door_to_door_s")
        for bucket_s in BUCKETS_S:
            whole.add(sum(value <= bucket_s for value in seconds), "_bucket", le=repr(bucket_s))
        whole.add(len(seconds), "_bucket", le="+Inf")
        whole.add(sum(seconds), "_sum")
        whole.add(len(seconds), "_count")
        yield whole
        stages = Family("limn_stage_seconds", "summary", "What door to door is made of.")
        for stage in ("receive_s", *DOOR_TO_DOOR_STAGES):
            spent = _numbers(delivered, stage)
            name = stage.removesuffix("_s")
            stages.add(sum(spent), "_sum", stage=name)
            stages.add(len(spent), "_count", stage=name)
        yield stages

    def _rows(self) -> list[dict[str, str]]:
        """The scan log without phantoms of a commissioning; only new rows are read."""
        with self._lock:
            try:
                rows = self._log.rows()
                return [row for row in rows if COMMISSIONING not in row.get("flags", "").split()]
            except OSError:
                return []

    def _free_bytes(self) -> int:
        try:
            return shutil.disk_usage(self._config.data_dir).free
        except OSError:
            return 0


def _of_health(reasons: Sequence[Reason]) -> Iterator[Family]:
    states = Family("limn_health", "gauge", "1 for what /health says of this node, else 0.")
    for state in NodeState:
        states.add(int(state is state_of(reasons)), state=state)
    yield states
    causes = Family(
        "limn_health_reasons", "gauge", "How many reasons of /health are of each cause."
    )
    for cause in Cause:
        state = Reason(cause, "").state
        causes.add(sum(each.cause is cause for each in reasons), reason=cause, state=state)
    yield causes


@contextmanager
def serving(config: Config, processes: Callable[[], Sequence[ProcessState]]) -> Iterator[None]:
    """Serve ``/metrics`` and ``/health`` within the ``with`` block, if the site gives a port.

    Raises
    ------
    ConfigWrong
        If the port can't be used.
    """
    if config.metrics.port is None:
        yield
        return
    host, port = config.metrics.host, config.metrics.port
    try:
        server = BoundedHttpServer((host, port), _page(Metrics(config, processes)))
    except OSError as error:
        refused = {HostPort("metrics.port", host, port): error.strerror or str(error)}
        raise ConfigWrong(refusal_of(refused)) from error
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    log.info("metrics and health on http://%s:%d", host, port)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


def _page(metrics: Metrics) -> type[BaseHTTPRequestHandler]:
    class Page(BaseHTTPRequestHandler):
        """Two pages; everything else is not found."""

        timeout = REQUEST_S
        server_version = "limn"
        sys_version = ""

        def do_GET(self) -> None:
            if self.path == "/metrics":
                self._answer(HTTPStatus.OK, TEXT_TYPE, metrics.text())
            elif self.path == "/health":
                status, text = _health_answer(metrics.health.reasons())
                self._answer(status, "application/json", text)
            else:
                self.send_error(HTTPStatus.NOT_FOUND)

        def _answer(self, status: HTTPStatus, content_type: str, text: str) -> None:
            body = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """A line for every scrape would bury the scans."""

    return Page


def _health_answer(reasons: Sequence[Reason]) -> tuple[HTTPStatus, str]:
    """Status and text of the health page: 200 while the node works, degraded or not (D-252)."""
    state = state_of(reasons)
    works = state is not NodeState.NOT_READY
    text = json.dumps(
        {
            "ok": works,
            "state": state,
            "reasons": [each.text for each in reasons],
            "causes": [
                {"cause": each.cause, "state": each.state, "text": each.text} for each in reasons
            ],
        }
    )
    return HTTPStatus.OK if works else HTTPStatus.SERVICE_UNAVAILABLE, text


def _numbers(rows: Iterable[dict[str, str]], column: str) -> list[float]:
    return [float(row[column]) for row in rows if row.get(column)]
