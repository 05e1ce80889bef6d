"""A child process ends when its supervisor does: it notices that its standard input closes.

On Windows it is told through the same pipe to finish and stop, for there ``terminate`` kills.

Also a preload for Dask's scheduler, which calls `dask_setup`, and speaks to the supervisor then.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence

from limn.node import oplog

log = logging.getLogger(__name__)

STOP = b"stop\n"


def hold() -> None:
    """Exit this process at once when standard input closes."""
    threading.Thread(target=_wait, name="lifeline", daemon=True).start()


def _wait() -> None:
    # The raw descriptor: a reader blocked in sys.stdin would stall the interpreter's exit.
    while said := os.read(sys.stdin.fileno(), 1024):
        if STOP in said:
            # What SIGTERM does to this process: finish what runs, then end.
            signal.raise_signal(signal.SIGTERM)
    os._exit(3)


def ask_to_stop(child: subprocess.Popen[bytes]) -> None:
    """Let a child that holds its lifeline finish what it does, then end."""
    if os.name == "posix" or child.stdin is None:
        child.terminate()
        return
    child.stdin.write(STOP)
    child.stdin.flush()


def dask_setup(scheduler: object) -> None:
    """Called by ``dask scheduler --preload limn.node.host.lifetime``."""
    del scheduler
    oplog.to_supervisor("scheduler")
    hold()


def stop_on_signal() -> threading.Event:
    """An event that is set when this process is told to end."""
    stopping = threading.Event()
    # The last is how a service of Windows is stopped.
    for number in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGBREAK", signal.SIGTERM)):
        signal.signal(number, lambda *_: stopping.set())
    return stopping


def run_until_stopped(
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
