"""Composition root: what each process of the node is made of, and the supervisor over them."""

from __future__ import annotations

import logging
import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from limn.domain.errors import ConfigWrong
from limn.node import oplog
from limn.node.config import Config, load_config
from limn.node.contour.site_bundle import deliverable_bundle
from limn.node.dimse.tls import check_keys
from limn.node.host import engine_tls, lifetime
from limn.node.host.lifetime import stop_on_signal
from limn.node.host.processes import ENVIRONMENT, Part, name_of, processes
from limn.node.serve import prometheus
from limn.node.serve.ports import check_ports
from limn.node.store import space
from limn.node.store.salvage import set_damaged_aside

log = logging.getLogger(__name__)

# What a process may take to end that has no scan in hand, or has just got the last one back.
STOP_S = 60.0
LAST_WORDS_S = 2.0
RESTART_S = 0.5
SLOWEST_RESTART_S = 10.0


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
        space.try_writing(config)
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
            if said := space.shortage(config):
                # It starts all the same: what is in the journal still goes out.
                log.error("%s", said)
            self._say_ready_no_more(name)
            engine_tls.prepare(config)
            self._stopping = stop_on_signal()
            try:
                with prometheus.serving(config, lambda: [_told(child) for child in children]):
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
                lifetime.request_stop(child.process)
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


def _told(child: _Child) -> prometheus.ProcessState:
    process = child.process
    return prometheus.ProcessState(
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
