"""One process of the node as its supervisor sees it: started, started again, stopped."""

from __future__ import annotations

import logging
import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from limn.node import heartbeat, oplog
from limn.node.host import lifetime
from limn.node.host.processes import ENVIRONMENT
from limn.node.restarts import RestartLoop

log = logging.getLogger(__name__)

# What a process still writes while it ends is logged for at most this long.
LAST_LINES_S = 2.0
RESTART_S = 0.5
SLOWEST_RESTART_S = 10.0
# A process that has run this long has started well: the next restart is a quick one.
STABLE_S = 60.0


@dataclass(slots=True)
class ChildProcess:
    """One process of the node and when it may be started again."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    watch: heartbeat.ProcessWatch | None = None
    loop: RestartLoop | None = None
    restarts: int = 0
    _process: subprocess.Popen[bytes] | None = None
    _log_reader: threading.Thread | None = None
    _started_s: float = 0.0
    _pause_s: float = RESTART_S
    _start_at_s: float = 0.0
    _killed: bool = False
    _named: bool = False

    @property
    def runs(self) -> bool:
        """Whether it runs now."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """Its process number; None if it does not run."""
        return self._process.pid if self._process is not None and self.runs else None

    @property
    def silence(self) -> str:
        """How long its work has stood still, in words; empty if it moves."""
        if self.watch is None or not (self.runs and self.watch.is_silent):
            return ""
        return (
            f"{self.name} has given no sign of life for {self.watch.silent_s:.0f} s; after "
            f"{self.watch.limit_s:.0f} s it is started again"
        )

    def keep_alive(self) -> None:
        """Start it if it does not run; called again and again, it waits longer each time.

        Whatever fails here is tried again: the other processes must not end with this one.
        """
        now_s = time.monotonic()
        if self._process is None:
            if now_s >= self._start_at_s:
                self._try_to_start(now_s)
            return
        code = self._process.poll()
        if code is None:
            if now_s - self._started_s > STABLE_S:
                self._pause_s = RESTART_S
                if self.loop is not None:
                    self.loop.is_over()
            self._kill_if_stuck(now_s)
            return
        log.error("%s ended (%s); it is started again in %.1f s", self.name, code, self._pause_s)
        self._process = None
        self.restarts += 1
        if self.loop is not None:
            self.loop.ended(code)
        self._start_later(now_s)

    def _start_later(self, now_s: float) -> None:
        self._start_at_s = now_s + self._pause_s
        self._pause_s = min(SLOWEST_RESTART_S, self._pause_s * 2)

    def _kill_if_stuck(self, now_s: float) -> None:
        if self.watch is None or self._process is None or self._killed:
            return
        self.watch.look(now_s)
        if self.watch.is_silent != self._named:
            self._named = self.watch.is_silent
            log.warning("%s", self.silence or f"{self.name} gives signs of life again")
        if self.watch.silent_s > self.watch.limit_s:
            log.critical(
                "%s has given no sign of life for %.0f s and is killed; what it had in hand is in "
                "the journal and is done again",
                self.name,
                self.watch.silent_s,
            )
            self._killed = True
            self._process.kill()

    def stop(self, within_s: float) -> None:
        """Let it finish what it has in hand, and kill it when its time is over."""
        if self._process is None or not self.runs:
            return
        if self.watch is not None:
            if self.watch.is_silent:
                # Its work stands still: it would be killed then anyway.
                within_s = min(within_s, max(0.0, self.watch.limit_s - self.watch.silent_s))
            # It may finish a long scan now, and its threads end one after another.
            self.watch.end()
        with suppress(OSError):
            lifetime.request_stop(self._process)
        try:
            self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            log.error(
                "%s did not stop in %g s and is killed; what it had in hand is in the journal "
                "and is done after the next start",
                self.name,
                within_s,
            )
            self._process.kill()
            self._process.wait()
        if self.watch is not None:
            self.watch.end()
        if self._log_reader is not None:
            self._log_reader.join(LAST_LINES_S)

    def _try_to_start(self, now_s: float) -> None:
        try:
            self._start(now_s)
        except (OSError, RuntimeError, MemoryError) as error:
            # No more files, memory or threads may be open: that passes.
            log.error(
                "%s can't be started (%s); next try in %.1f s", self.name, error, self._pause_s
            )
            if self._process is not None:
                # It runs, but nothing reads its log.
                self._process.kill()
                self._process.wait()
                self._process = None
            self._start_later(now_s)

    def _start(self, now_s: float) -> None:
        environment = dict(self.environment)
        if self.watch is not None:
            self.watch.begin(now_s)
            environment[heartbeat.PATH_VARIABLE] = str(self.watch.path)
        self._killed = self._named = False
        # Its own session: Ctrl-C reaches the supervisor alone, which then stops them in order.
        self._process = subprocess.Popen(  # noqa: S603
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **ENVIRONMENT, oplog.TO_SUPERVISOR: "1", **environment},
            start_new_session=True,
            # The same on Windows.
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
        if self._process.stdout is not None:
            self._log_reader = oplog.relay(self._process.stdout, self.name)
        self._started_s = now_s
