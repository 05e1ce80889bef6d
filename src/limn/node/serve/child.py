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

from limn.node import oplog
from limn.node.host import lifetime
from limn.node.host.processes import ENVIRONMENT

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
    restarts: int = 0
    _process: subprocess.Popen[bytes] | None = None
    _log_reader: threading.Thread | None = None
    _started_s: float = 0.0
    _pause_s: float = RESTART_S
    _start_at_s: float = 0.0

    @property
    def runs(self) -> bool:
        """Whether it runs now."""
        return self._process is not None and self._process.poll() is None

    def keep_alive(self) -> None:
        """Start it if it does not run; called again and again, it waits longer each time."""
        now_s = time.monotonic()
        if self._process is None:
            if now_s >= self._start_at_s:
                self._start(now_s)
            return
        code = self._process.poll()
        if code is None:
            if now_s - self._started_s > STABLE_S:
                self._pause_s = RESTART_S
            return
        log.error("%s ended (%s); it is started again in %.1f s", self.name, code, self._pause_s)
        self._process = None
        self.restarts += 1
        self._start_at_s = now_s + self._pause_s
        self._pause_s = min(SLOWEST_RESTART_S, self._pause_s * 2)

    def stop(self, within_s: float) -> None:
        """Let it finish what it has in hand, and kill it when its time is over."""
        if self._process is None or not self.runs:
            return
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
        if self._log_reader is not None:
            self._log_reader.join(LAST_LINES_S)

    def _start(self, now_s: float) -> None:
        # Its own session: Ctrl-C reaches the supervisor alone, which then stops them in order.
        self._process = subprocess.Popen(  # noqa: S603
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **ENVIRONMENT, oplog.TO_SUPERVISOR: "1", **self.environment},
            start_new_session=True,
            # The same on Windows.
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
        if self._process.stdout is not None:
            self._log_reader = oplog.relay(self._process.stdout, self.name)
        self._started_s = now_s
