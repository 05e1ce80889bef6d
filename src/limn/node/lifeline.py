"""A child process ends when its supervisor does: it notices that its standard input closes.

On Windows it is told through the same pipe to finish and stop, for there ``terminate`` kills.

Also a preload for Dask's scheduler, which calls `dask_setup`, and speaks to the supervisor then.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

from limn.node import oplog

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
    """Called by ``dask scheduler --preload limn.node.lifeline``."""
    del scheduler
    oplog.to_supervisor("scheduler")
    hold()
