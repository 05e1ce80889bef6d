"""Composition root: what each process of the node is made of, and the supervisor over them."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from limn.domain.errors import BundleUnfit, ConfigWrong
from limn.node import disk, engine_tls, lifeline, metrics, oplog
from limn.node.again import alarm
from limn.node.commit import Provider, Requester
from limn.node.config import Config, load_config
from limn.node.courier import Courier
from limn.node.dispatch import Dispatcher
from limn.node.intake import Intake
from limn.node.journal import Journal
from limn.node.peer_tls import check_keys
from limn.node.processes import ENVIRONMENT, Part, name_of, processes
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

# What a process may take to end that has no scan in hand, or has just got the last one back.
STOP_S = 60.0
PORT_WAIT_S = 5.0
LAST_WORDS_S = 2.0
LAST_SETTLE_S = 10.0
RESTART_S = 0.5
SLOWEST_RESTART_S = 10.0


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
    # What senders may still bring while limn stops is taken in and handed over.
    shut = threading.Event()
    lifeline.hold()
    journal = Journal(config.journal_path)
    spool = Spool(
        config.spool_dir,
        config.receive.min_free_mb * 2**20,
        config.receive.max_spool_mb and config.receive.max_spool_mb * 2**20,
    )
    intake = Intake(
        spool,
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
    commitment = (
        Provider(spool, config.receive.commitment, config.receive.ae_title),
        Requester(journal, config.destination, config.receive.ae_title),
    )
    server = listen(config.receive, intake, config.settle.settle_s, commitment)
    retention = Retention(config, journal, intake)
    threads = [
        threading.Thread(target=intake.run, args=(shut,), name="settle"),
        threading.Thread(target=retention.run, args=(shut,), name="retention"),
    ]
    if config.watch is not None:
        watch = FolderWatch(
            config.watch,
            intake,
            config.data_dir / "watched.sqlite",
            config.receive.max_instance_mb * 2**20,
        )
        threads.append(threading.Thread(target=watch.run, args=(shut,), name="watch"))
    _run_until_stopped(threads, stopping)
    intake.closing()
    server.shutdown()
    # What a sender has just ended is whole when it has been quiet.
    until_s = time.monotonic() + min(config.settle.settle_s + 0.5, LAST_SETTLE_S)
    while intake.settle() and time.monotonic() < until_s:
        time.sleep(0.05)
    shut.set()
    for thread in threads:
        thread.join()
    journal.close()


def run_engine(config_path: Path) -> None:
    """Dispatch and delivery."""
    config = load_config(config_path)
    oplog.set_up(config.data_dir, "engine", config.log)
    # When the scheduler is away the dispatcher says so once; Dask would with a stack each time.
    for chatty in ("distributed.utils", "distributed.client"):
        logging.getLogger(chatty).setLevel(logging.CRITICAL)
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
        config.engine.address,
        engine_tls.security_of(config),
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
    for thread in threads:
        thread.join()
    dispatched.set()
    for thread in carriers:
        thread.join()
    for courier in couriers:
        courier.work()
    journal.close()


def check_ports(config: Config, only: Part | None = None) -> str:
    """Try every port that this host will listen on; returns them in words.

    Raises
    ------
    ConfigWrong
        Names the first key whose port can't be had.
    """
    ports = _ports(config, only)
    for key, host, port, kind in ports:
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
    return ", ".join(str(port) for _, _, port, _ in ports)


def _ports(config: Config, only: Part | None) -> list[tuple[str, str, int, socket.SocketKind]]:
    """Key, host, port and kind of what this host's part listens on."""
    receive, engine = config.receive, config.engine
    found = []
    if only in {None, "receiver"}:
        found += [
            ("receive.port", receive.host, receive.port, socket.SOCK_STREAM),
            ("engine.wake_port", "127.0.0.1", engine.wake_port, socket.SOCK_DGRAM),
        ]
    if only == "scheduler" or (only is None and engine.scheduler == "local"):
        found.append(("engine.port", engine.host, engine.port, socket.SOCK_STREAM))
    if only in {None, "worker"}:
        found += [
            ("engine.worker_port", engine.host, port, socket.SOCK_STREAM)
            for port in engine.worker_ports
            if port
        ]
    return found


def _unusable(host: str, port: int, kind: socket.SocketKind) -> str:
    """Why an address can't be bound; empty if it can."""
    with socket.socket(socket.AF_INET, kind) as probe:
        if kind == socket.SOCK_STREAM and os.name == "posix":
            # Past what lingers of closed connections; on Windows it would take another's port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.strerror or str(error)
    return ""


@dataclass(slots=True)
class _Child:
    """One process of the node and when it may be started again."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    said: threading.Thread | None = None
    restarts: int = 0
    started_s: float = 0.0
    pause_s: float = RESTART_S
    start_at_s: float = 0.0


class Supervisor:
    """Starts every process of this host, restarts what dies, ends them with itself.

    Parameters
    ----------
    only : one part of a node whose other parts run on other hosts
    """

    def __init__(self, config_path: Path, only: Part | None = None) -> None:
        self._config_path = config_path.resolve()
        self._config = load_config(config_path)
        self._only = only
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
        name = name_of(self._only)
        children = self._children()
        disk.try_writing(config)
        oplog.set_up(config.data_dir, name, config.log)
        lock = FileLock(config.data_dir / f"{name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            msg = f"another limn runs on {config.data_dir}; stop it first"
            raise ConfigWrong(msg) from error
        with lock:
            bundle = None if self._only == "scheduler" else deliverable_bundle(config)
            if name == "limn":
                check_keys(config)
            check_ports(config, self._only)
            if bundle is not None:
                log.info("bundle %s, %s", bundle.label, bundle.sha256[:12])
                if name == "limn":
                    set_damaged_aside(config, bundle.sha256)
            if said := disk.shortage(config):
                # It starts all the same: what is in the journal still goes out.
                log.error("%s", said)
            self._say_ready_no_more(name)
            engine_tls.prepare(config)
            self._stopping = _stop_on_signal()
            try:
                with metrics.serving(config, lambda: [_told(child) for child in children]):
                    while not self._stopping.wait(0.1):
                        for child in children:
                            self._keep_alive(child)
            finally:
                self._end(children)
                self._say_ready_no_more(name)
            log.info("stopped")

    def _say_ready_no_more(self, name: str) -> None:
        if name == "limn":
            self._config.ready_path.unlink(missing_ok=True)

    def _children(self) -> list[_Child]:
        found = processes(self._config, self._config_path, self._only)
        return [_Child(each.name, each.command, each.environment) for each in found]

    def _keep_alive(self, child: _Child) -> None:
        now_s = time.monotonic()
        if child.process is None:
            if now_s >= child.start_at_s:
                child.process = _start(child.command, child.environment)
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
        for child in reversed(children):
            if child.process is None or child.process.poll() is not None:
                continue
            with suppress(OSError):
                lifeline.ask_to_stop(child.process)
            within_s = drain_s(self._config, child.name)
            try:
                child.process.wait(within_s)
            except subprocess.TimeoutExpired:
                log.error(
                    "%s did not stop in %g s and is killed; what it had in hand is in the journal "
                    "and is done after the next start",
                    child.name,
                    within_s,
                )
                child.process.kill()
                child.process.wait()
            if child.said is not None:
                child.said.join(LAST_WORDS_S)


def drain_s(config: Config, process: str) -> float:
    """How long a process may take to end; the engine as long as a scan that runs may take."""
    return STOP_S + (config.engine.deadline_s if process == "engine" else 0.0)


def _told(child: _Child) -> metrics.Process:
    process = child.process
    return metrics.Process(
        child.name, process is not None and process.poll() is None, child.restarts
    )


def _start(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    # Its own session: Ctrl-C reaches the supervisor alone, which then stops them in order.
    return subprocess.Popen(  # noqa: S603
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, **ENVIRONMENT, oplog.TO_SUPERVISOR: "1", **environment},
        start_new_session=True,
        # The same on Windows.
        creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
    )


def _stop_on_signal() -> threading.Event:
    stopping = threading.Event()
    # The last is how a service of Windows is stopped.
    for number in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGBREAK", signal.SIGTERM)):
        signal.signal(number, lambda *_: stopping.set())
    return stopping


def _run_until_stopped(
    threads: Sequence[threading.Thread],
    stopping: threading.Event,
    others: Sequence[threading.Thread] = (),
) -> None:
    """Run the threads; if one breaks, end the process so that the supervisor restarts it.

    ``others`` run already and are watched too.
    """
    for thread in threads:
        thread.start()
    while not stopping.wait(0.1):
        if not all(thread.is_alive() for thread in (*threads, *others)):
            log.critical("a thread of this process broke; restarting")
            os._exit(4)


def _listen_for_wakes(config: Config, dispatcher: Dispatcher, stopping: threading.Event) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", config.engine.wake_port))
        listener.settimeout(0.2)
        while not stopping.is_set():
            try:
                listener.recv(16)
            except TimeoutError:
                continue
            dispatcher.wake()
