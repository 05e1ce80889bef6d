"""A child process ends with its supervisor: the end of its standard input tells it so.

On Windows the same pipe carries the request to stop, because ``terminate`` kills there.

Dask's scheduler loads this module too (``--preload``) and calls `dask_setup`.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any

from limn.node import oplog
from limn.node.heartbeat import EVERY_S, HEART

log = logging.getLogger(__name__)

STOP = b"stop\n"
SCHEDULER_LIMIT_S = 30.0
# A receiver or an engine may wait for a slow disk, a lock on the journal or the scheduler.
LIMIT_S = 120.0


def end_with_supervisor() -> None:
    """Exit this process at once when its standard input closes."""
    threading.Thread(target=_watch_stdin, name="lifetime", daemon=True).start()


def _watch_stdin() -> None:
    # The raw descriptor: a reader blocked in sys.stdin would stall the interpreter's exit.
    while received := os.read(sys.stdin.fileno(), 1024):
        if STOP in received:
            # What SIGTERM does to this process: finish what runs, then end.
            signal.raise_signal(signal.SIGTERM)
    os._exit(3)


def request_stop(child: subprocess.Popen[bytes]) -> None:
    """Let a child that called `end_with_supervisor` finish its work, then end."""
    if os.name == "posix" or child.stdin is None:
        child.terminate()
        return
    child.stdin.write(STOP)
    child.stdin.flush()


def dask_setup(scheduler: Any) -> None:
    """Called by ``dask scheduler --preload limn.node.host.lifetime``."""
    oplog.to_supervisor("scheduler")
    end_with_supervisor()
    # Every node waits for its answers: it may be silent for half as long as they may.
    HEART.allow(SCHEDULER_LIMIT_S)
    beat_in(scheduler.loop)


def beat_in(loop: Any) -> None:
    """Give signs of life from the event loop that does the work (tornado's, of Dask)."""
    HEART.beat()
    loop.call_later(EVERY_S, beat_in, loop)


def stop_on_signal() -> threading.Event:
    """An event that is set when a signal asks this process to end."""
    stopping = threading.Event()
    # SIGBREAK is how a Windows service is stopped.
    for number in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGBREAK", signal.SIGTERM)):
        signal.signal(number, lambda *_: stopping.set())
    return stopping


def run_until_stopped(
    threads: Sequence[threading.Thread],
    stopping: threading.Event,
    others: Sequence[threading.Thread] = (),
) -> None:
    """Run the threads; if one breaks, end the process so that the supervisor restarts it.

    ``others`` run already and are watched too. Signs of life are given while those threads move
    that have registered.
    """
    HEART.allow(LIMIT_S)
    for thread in threads:
        thread.start()
    while not stopping.wait(0.1):
        if not all(thread.is_alive() for thread in (*threads, *others)):
            log.critical("a thread of this process broke; restarting")
            os._exit(4)
        HEART.beat()
