"""Composition root: what each process of the node is made of, and the supervisor over them."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from distributed.security import Security
from filelock import FileLock, Timeout

from limn.domain.errors import BundleUnfit, ConfigWrong
from limn.node import lifeline, metrics, oplog
from limn.node.again import alarm
from limn.node.config import Config, load_config
from limn.node.courier import Courier
from limn.node.dispatch import Dispatcher
from limn.node.intake import Intake
from limn.node.journal import Journal
from limn.node.peer_tls import check_keys
from limn.node.receive import listen
from limn.node.release import what_to_do
from limn.node.retention import Retention
from limn.node.salvage import set_damaged_aside
from limn.node.settle import Rules
from limn.node.spool import Spool
from limn.node.wake import send_wake
from limn.node.watch import FolderWatch
from limn.segment.bundle import Bundle, open_bundle

log = logging.getLogger(__name__)

DRAIN_S = 120.0
PORT_WAIT_S = 5.0
LAST_WORDS_S = 2.0
RESTART_S = 0.5
SLOWEST_RESTART_S = 10.0
TLS_FILES = ("ca.pem", "cert.pem", "key.pem")


def deliverable_bundle(config: Config) -> Bundle:
    """The site's bundle, if this site may deliver with it.

    Raises
    ------
    BundleUnfit
        If it is damaged, or a demonstration bundle and the site has not allowed that.
    """
    bundle = open_bundle(config.model.bundle)
    if bundle.demonstration and not config.model.allow_demo_bundle:
        msg = (
            f"bundle {bundle.label} is for demonstration ({bundle.not_for}); set "
            "model.allow_demo_bundle = true to deliver with it all the same"
        )
        raise BundleUnfit(msg)
    return bundle


def run_receiver(config_path: Path) -> None:
    """Both doors: the Storage SCP and the watched folder."""
    config = load_config(config_path)
    oplog.set_up(config.data_dir, "receiver", config.log)
    stopping = _stop_on_signal()
    lifeline.hold()
    journal = Journal(config.journal_path)
    intake = Intake(
        Spool(
            config.spool_dir,
            config.receive.min_free_mb * 2**20,
            config.receive.max_spool_mb and config.receive.max_spool_mb * 2**20,
        ),
        journal,
        Rules(
            config.settle.min_slices,
            config.settle.settle_s,
            config.settle.hold_s,
            config.settle.expected_slices,
        ),
        destinations=[destination.name for destination in config.destination],
        profile=config.planning_system.profile,
        bundle_sha256=deliverable_bundle(config).sha256,
        wake=lambda: send_wake(config),
    )
    intake.recover()
    server = listen(config.receive, intake, config.settle.settle_s)
    retention = Retention(config, journal, intake)
    threads = [
        threading.Thread(target=intake.run, args=(stopping,), name="settle"),
        threading.Thread(target=retention.run, args=(stopping,), name="retention"),
    ]
    if config.watch is not None:
        watch = FolderWatch(config.watch, intake, config.data_dir / "watched.sqlite")
        threads.append(threading.Thread(target=watch.run, args=(stopping,), name="watch"))
    _run_until_stopped(threads, stopping)
    server.shutdown()
    journal.close()


def run_engine(config_path: Path) -> None:
    """Dispatch and delivery."""
    config = load_config(config_path)
    oplog.set_up(config.data_dir, "engine", config.log)
    stopping = _stop_on_signal()
    lifeline.hold()
    journal = Journal(config.journal_path)
    couriers = [
        Courier(
            destination,
            journal,
            config.scan_log_path,
            config.receive.ae_title,
            keeps_scan_log=number == 0,
        )
        for number, destination in enumerate(config.destination)
    ]

    def contoured() -> None:
        for courier in couriers:
            courier.wake()

    for row in journal.on_hold():
        # Said again at every start: what nobody releases would be forgotten.
        line = what_to_do(journal, row, config, config_path)
        log.warning("%s animal %s %s", row.name, row.animal, line)
    for row in journal.quarantined():
        log.error("%s animal %s %s", row.name, row.animal, alarm(row, config_path))
    dispatcher = Dispatcher(
        config,
        config_path,
        journal,
        scheduler_address(config),
        security_of(config),
        deliverable_bundle(config),
        contoured,
    )
    # Couriers stop after the dispatcher, so that its last results still go out.
    dispatched = threading.Event()
    threads = [
        threading.Thread(target=dispatcher.run, args=(stopping,), name="dispatch"),
        threading.Thread(
            target=_listen_for_wakes, args=(config, dispatcher, stopping), name="wake"
        ),
    ]
    carriers = [
        threading.Thread(target=courier.run, args=(dispatched,), name="courier")
        for courier in couriers
    ]
    for thread in carriers:
        thread.start()
    _run_until_stopped(threads, stopping, carriers)
    dispatched.set()
    for thread in carriers:
        thread.join()
    for courier in couriers:
        courier.work()
    journal.close()


def check_ports(config: Config) -> None:
    """Try every port that the node will listen on.

    Raises
    ------
    ConfigWrong
        Names the first key whose port can't be had.
    """
    for key, host, port, kind in (
        ("receive.port", config.receive.host, config.receive.port, socket.SOCK_STREAM),
        ("engine.port", config.engine.host, config.engine.port, socket.SOCK_STREAM),
        ("engine.wake_port", "127.0.0.1", config.engine.wake_port, socket.SOCK_DGRAM),
    ):
        # The children of a node that was just killed hold theirs a moment longer.
        give_up_s = time.monotonic() + PORT_WAIT_S
        while (why := _unusable(host, port, kind)) and time.monotonic() < give_up_s:
            time.sleep(0.2)
        if why:
            msg = (
                f"{key} {port} on {host} can't be used ({why}); stop what listens there or "
                "choose another port"
            )
            raise ConfigWrong(msg)


def _unusable(host: str, port: int, kind: socket.SocketKind) -> str:
    """Why an address can't be bound; empty if it can."""
    with socket.socket(socket.AF_INET, kind) as probe:
        if kind == socket.SOCK_STREAM:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.strerror or str(error)
    return ""


def scheduler_address(config: Config) -> str:
    """Where Dask's scheduler listens."""
    return f"tls://{config.engine.host}:{config.engine.port}"


def security_of(config: Config) -> Security:
    """The engine's own TLS: pickles travel on these connections."""
    ca, cert, key = (str(config.tls_dir / name) for name in TLS_FILES)
    return Security(
        require_encryption=True,
        tls_ca_file=ca,
        tls_scheduler_cert=cert,
        tls_scheduler_key=key,
        tls_worker_cert=cert,
        tls_worker_key=key,
        tls_client_cert=cert,
        tls_client_key=key,
    )


@dataclass(slots=True)
class _Child:
    """One process of the node and when it may be started again."""

    name: str
    command: Sequence[str]
    process: subprocess.Popen[bytes] | None = None
    said: threading.Thread | None = None
    restarts: int = 0
    started_s: float = 0.0
    pause_s: float = RESTART_S
    start_at_s: float = 0.0


class Supervisor:
    """Starts every process of the node, restarts what dies, ends them with itself."""

    def __init__(self, config_path: Path) -> None:
        self._config_path = config_path.resolve()
        self._config = load_config(config_path)
        self._stopping = threading.Event()

    def run(self) -> None:
        """Serve until SIGINT or SIGTERM, then drain.

        Raises
        ------
        ConfigWrong
            If another node already uses this data folder.
        BundleUnfit
            If the bundle can't be used here.
        """
        config = self._config
        oplog.set_up(config.data_dir, "limn", config.log)
        lock = FileLock(config.data_dir / "limn.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            msg = f"another limn runs on {config.data_dir}; stop it first"
            raise ConfigWrong(msg) from error
        with lock:
            bundle = deliverable_bundle(config)
            check_keys(config)
            check_ports(config)
            set_damaged_aside(config, bundle.sha256)
            log.info("bundle %s, %s", bundle.label, bundle.sha256[:12])
            config.ready_path.unlink(missing_ok=True)
            _write_tls(config.tls_dir)
            self._stopping = _stop_on_signal()
            children = self._children()
            try:
                with metrics.serving(config, lambda: [_told(child) for child in children]):
                    while not self._stopping.wait(0.1):
                        for child in children:
                            self._keep_alive(child)
            finally:
                self._end(children)
                config.ready_path.unlink(missing_ok=True)
            log.info("stopped")

    def _children(self) -> list[_Child]:
        config = self._config
        tls = [
            part
            for flag, name in zip(("ca-file", "cert", "key"), TLS_FILES, strict=True)
            for part in (f"--tls-{flag}", str(config.tls_dir / name))
        ]
        # Dask opens its HTTP pages on every interface even without a dashboard.
        no_page = ("--no-dashboard", "--dashboard-address", "127.0.0.1:0")
        limn = [sys.executable, "-m", "limn.cli", "serve", "--config", str(self._config_path)]
        scheduler = [
            *(sys.executable, "-m", "distributed.cli.dask_scheduler"),
            *("--host", config.engine.host, "--port", str(config.engine.port)),
            *("--protocol", "tls", *no_page, "--preload", "limn.node.lifeline"),
            *tls,
        ]
        worker = [
            *(sys.executable, "-m", "distributed.cli.dask_worker", scheduler_address(config)),
            *("--host", config.engine.host, "--nthreads", "1", "--no-nanny"),
            *no_page,
            *("--memory-limit", "0", "--death-timeout", "60"),
            *("--local-directory", str(config.data_dir / "dask")),
            *tls,
            *("--preload", "limn.node.worker", str(self._config_path)),
        ]
        return [
            _Child("scheduler", scheduler),
            _Child("worker", worker),
            _Child("engine", [*limn, "--only", "engine"]),
            _Child("receiver", [*limn, "--only", "receiver"]),
        ]

    def _keep_alive(self, child: _Child) -> None:
        now_s = time.monotonic()
        if child.process is None:
            if now_s >= child.start_at_s:
                child.process = _start(child.command)
                if child.process.stdout is not None:
                    child.said = oplog.relay(child.process.stdout, child.name)
                child.started_s = now_s
            return
        code = child.process.poll()
        if code is None:
            if now_s - child.started_s > 60:
                child.pause_s = RESTART_S
            return
        log.error("%s ended (%s); it is started again in %.1f s", child.name, code, child.pause_s)
        child.process = None
        child.restarts += 1
        child.start_at_s = now_s + child.pause_s
        child.pause_s = min(SLOWEST_RESTART_S, child.pause_s * 2)

    def _end(self, children: list[_Child]) -> None:
        """Doors first, then what is in flight, then the workers."""
        log.info("stopping: no new scans; finishing what runs")
        for name in ("receiver", "engine", "worker", "scheduler"):
            child = next(child for child in children if child.name == name)
            if child.process is None or child.process.poll() is not None:
                continue
            child.process.terminate()
            try:
                child.process.wait(DRAIN_S)
            except subprocess.TimeoutExpired:
                log.error("%s did not stop in %g s and is killed", name, DRAIN_S)
                child.process.kill()
                child.process.wait()
            if child.said is not None:
                child.said.join(LAST_WORDS_S)


def _told(child: _Child) -> metrics.Process:
    process = child.process
    return metrics.Process(
        child.name, process is not None and process.poll() is None, child.restarts
    )


def _start(command: Sequence[str]) -> subprocess.Popen[bytes]:
    environment = os.environ | {
        oplog.TO_SUPERVISOR: "1",
        # A worker's death is charged by us, to the scan that ran, not by Dask to all.
        "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0",
        # The interpreter lock may be held long by native code; our own deadline ends a job.
        "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "300s",
        "DASK_DISTRIBUTED__SCHEDULER__WORK_STEALING": "False",
        "DASK_LOGGING__DISTRIBUTED": "warning",
    }
    # Its own session: Ctrl-C reaches the supervisor alone, which then stops them in order.
    return subprocess.Popen(  # noqa: S603
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        start_new_session=True,
    )


def _write_tls(folder: Path) -> None:
    """A new key and certificate for the engine's connections, at every start."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    made = Security.temporary()
    for name, text in zip(
        TLS_FILES,
        (made.tls_ca_file, made.tls_scheduler_cert, made.tls_scheduler_key),
        strict=True,
    ):
        path = folder / name
        path.touch(mode=0o600)
        path.chmod(0o600)
        path.write_text(str(text))


def _stop_on_signal() -> threading.Event:
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    return stopping


def _run_until_stopped(
    threads: Sequence[threading.Thread],
    stopping: threading.Event,
    others: Sequence[threading.Thread] = (),
) -> None:
    """Run the threads; if one breaks, end the process so that the supervisor restarts it.

    ``others`` run already and are watched too, but not waited for.
    """
    for thread in threads:
        thread.start()
    while not stopping.wait(0.1):
        if not all(thread.is_alive() for thread in (*threads, *others)):
            log.critical("a thread of this process broke; restarting")
            os._exit(4)
    for thread in threads:
        thread.join()


def _listen_for_wakes(config: Config, dispatcher: Dispatcher, stopping: threading.Event) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", config.engine.wake_port))
        listener.settimeout(0.2)
        while not stopping.is_set():
            try:
                listener.recv(16)
            except TimeoutError:
                continue
            dispatcher.wake()
