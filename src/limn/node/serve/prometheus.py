"""Metrics for Prometheus and a health page, over HTTP from the supervisor, off by default.

The supervisor outlives every other process, so that the page can say which of them is down. It
counts only restarts itself; every other figure comes from the journal and the scan log, so that a
restart of the node resets nothing.

The text format is that of https://prometheus.io/docs/instrumenting/exposition_formats/, 0.0.4.
"""

from __future__ import annotations

import json
import logging
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler

from limn import __version__
from limn.domain.errors import ConfigWrong
from limn.domain.light import Light
from limn.domain.timing import DOOR_TO_DOOR_STAGES
from limn.node import heartbeat
from limn.node.config import Config
from limn.node.serve.bounded_http import BoundedHttpServer
from limn.node.store.disk import scanlog, space
from limn.node.store.journal.reader import JournalReader
from limn.node.store.journal.schema import JournalBusy, JournalError

log = logging.getLogger(__name__)

# With an animal under anaesthesia a minute is long and five are too long.
BUCKETS_S = (5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 60.0, 90.0, 120.0, 180.0, 300.0, 600.0)
TEXT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PROBE_S = 2.0
REQUEST_S = 5.0
# The check reads the whole journal.
INTEGRITY_EVERY_S = 600.0


@dataclass(frozen=True, slots=True)
class ProcessState:
    """One child of the supervisor.

    Attributes
    ----------
    silence : says that it runs and its work stands still
    loop : says that it ends again and again soon after its start
    """

    name: str
    up: bool
    restarts: int
    silence: str = ""
    loop: str = ""


@dataclass(slots=True)
class Family:
    """One metric with its samples, as the exposition format groups them."""

    name: str
    kind: str
    about: str
    samples: list[tuple[str, Mapping[str, str], float]] = field(default_factory=list)

    def add(self, value: float, suffix: str = "", **labels: str) -> None:
        """One sample; ``suffix`` is such as ``_sum``."""
        self.samples.append((suffix, labels, value))

    def lines(self) -> Iterator[str]:
        """The family as text."""
        yield f"# HELP {self.name} {self.about}"
        yield f"# TYPE {self.name} {self.kind}"
        for suffix, labels, value in self.samples:
            inner = ",".join(f'{name}="{_escaped(text)}"' for name, text in labels.items())
            yield f"{self.name}{suffix}{'{' + inner + '}' if inner else ''} {value!r}"


class Metrics:
    """The metrics of this host's part of the node, collected at every request."""

    def __init__(self, config: Config, processes: Callable[[], Sequence[ProcessState]]) -> None:
        self._config = config
        self._processes = processes
        self._lock = threading.Lock()
        self._log = scanlog.LogFollower(config.scan_log_path, scanlog.as_it_is)
        self._sound = True
        self._checked_s = float("-inf")

    def text(self) -> str:
        """Every metric, in the text format."""
        families = [*self._of_processes(), *self._of_disk(), *self._of_journal(), *self._of_log()]
        return "\n".join(line for family in families for line in family.lines()) + "\n"

    def faults(self) -> list[str]:
        """Why the next scan would not be contoured now; empty if all is well."""
        found = [f"{each.name} does not run" for each in self._processes() if not each.up]
        found += [each.silence for each in self._processes() if each.silence]
        found += [each.loop for each in self._processes() if each.loop]
        found += [
            f"{name} has given no sign of life for {silent_s:.0f} s"
            for name, silent_s in heartbeat.silent_now(self._config.heartbeats_dir).items()
        ]
        if any(each.name == "receiver" for each in self._processes()):
            found += [*self._receiving_faults(), *self._disk_faults()]
        return found

    def _receiving_faults(self) -> Iterator[str]:
        receive = self._config.receive
        if not _is_taken(receive.host, receive.port):
            yield f"nothing listens on {receive.host}:{receive.port}"
        if not self._workers():
            yield "no warm worker"
        if not self._journal_sound():
            yield f"{self._config.journal_path} is damaged; start limn again, which sets it aside"

    def _disk_faults(self) -> Iterator[str]:
        """Only for a host that receives: one with workers alone needs no room for scans."""
        try:
            if short := space.shortage(self._config):
                yield short
        except OSError as error:
            yield f"{self._config.data_dir} can't be reached ({error.strerror})"

    def _of_processes(self) -> Iterator[Family]:
        info = Family("limn_info", "gauge", "Version of limn.")
        info.add(1, version=__version__)
        yield info
        up = Family("limn_process_up", "gauge", "Whether a process of this host runs.")
        restarts = Family("limn_process_restarts_total", "counter", "How often it died.")
        for each in self._processes():
            up.add(int(each.up), process=each.name)
            restarts.add(each.restarts, process=each.name)
        yield up
        yield restarts
        workers = Family("limn_workers", "gauge", "Warm workers that this node's engine knows.")
        workers.add(self._workers())
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

    def _of_journal(self) -> Iterator[Family]:
        sound = Family("limn_journal_ok", "gauge", "Whether the journal is readable and sound.")
        sound.add(int(self._journal_sound()))
        yield sound
        if not self._config.journal_path.exists():
            return
        try:
            with closing(self._journal()) as journal:
                yield from _of_register(journal, [d.name for d in self._config.destination])
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
        """The scan log, of which only new rows are read."""
        with self._lock:
            try:
                return list(self._log.rows())
            except OSError:
                return []

    def _workers(self) -> int:
        try:
            count = self._config.ready_path.read_text(encoding="utf-8").strip()
        except OSError:
            return 0
        return int(count) if count.isdigit() else 1

    def _free_bytes(self) -> int:
        try:
            return shutil.disk_usage(self._config.data_dir).free
        except OSError:
            return 0

    def _journal(self) -> JournalReader:
        return JournalReader(self._config.journal_path, PROBE_S)

    def _journal_sound(self) -> bool:
        with self._lock:
            now_s = time.monotonic()
            if not self._config.journal_path.exists():
                return True
            # A damaged journal stays so until the node starts again.
            if self._sound and now_s >= self._checked_s + INTEGRITY_EVERY_S:
                self._sound = self._quick_check()
                self._checked_s = now_s
            return self._sound

    def _quick_check(self) -> bool:
        try:
            with closing(self._journal()) as journal:
                return journal.is_sound()
        except JournalBusy:
            # Locked for a moment, or it can't be opened: that says nothing about its contents.
            return True
        except JournalError:
            return False


def _of_register(journal: JournalReader, destinations: Iterable[str]) -> Iterator[Family]:
    now = time.time()
    scans = Family("limn_scans", "gauge", "Scans in the journal by state.")
    for state, kind, count in journal.scan_counts():
        scans.add(count, state=state, kind=kind)
    yield scans
    ready = Family("limn_oldest_ready_seconds", "gauge", "How long a scan waits for a worker.")
    ready_at = journal.oldest_ready_at()
    ready.add(max(0.0, now - ready_at) if ready_at else 0)
    yield ready
    states = Family("limn_deliveries", "gauge", "Structure sets by destination and state.")
    oldest = Family(
        "limn_oldest_waiting_seconds", "gauge", "How long a structure set waits for a destination."
    )
    waiting: dict[str, float] = dict.fromkeys(destinations, 0.0)
    counts = {(name, "waiting"): 0 for name in waiting}
    for destination, state, count, since in journal.delivery_counts():
        counts[destination, state] = count
        if since is not None:
            waiting[destination] = max(0.0, now - float(since))
    for (destination, state), count in counts.items():
        states.add(count, destination=destination, state=state)
    for destination, seconds in waiting.items():
        oldest.add(seconds, destination=destination)
    yield states
    yield oldest
    held = Family("limn_structure_sets_held", "gauge", "Structure sets a person must look at.")
    held.add(len(journal.on_hold()))
    yield held
    last = Family(
        "limn_last_scan_timestamp_seconds", "gauge", "When the last scan's last slice came, UTC."
    )
    last.add(journal.last_slice_at() or 0)
    yield last


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
        msg = (
            f"metrics.port {port} on {host} can't be used ({error.strerror or error}); stop what "
            "listens there or choose another port"
        )
        raise ConfigWrong(msg) from error
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
                reasons = metrics.faults()
                status = HTTPStatus.SERVICE_UNAVAILABLE if reasons else HTTPStatus.OK
                text = json.dumps({"ok": not reasons, "reasons": reasons})
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


def _is_taken(host: str, port: int) -> bool:
    """Whether a process listens there, without a connection.

    A receiver with TLS or with a list of networks would log a warning for each connection.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        if sys.platform != "win32":
            # A closed connection may linger; on Windows this option would share the port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return True
    return False


def _numbers(rows: Iterable[dict[str, str]], column: str) -> list[float]:
    return [float(row[column]) for row in rows if row.get(column)]


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
