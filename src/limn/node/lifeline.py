"""A child process ends when its supervisor does: it notices that its standard input closes.

Also a preload for Dask's scheduler, which calls `dask_setup`, and speaks to the supervisor then.
"""

from __future__ import annotations

import os
import sys
import threading

from limn.node import oplog


def hold() -> None:
    """Exit this process at once when standard input closes."""
    threading.Thread(target=_wait, name="lifeline", daemon=True).start()


def _wait() -> None:
    # The raw descriptor: a reader blocked in sys.stdin would stall the interpreter's exit.
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os._exit(3)


def dask_setup(scheduler: object) -> None:
    """Called by ``dask scheduler --preload limn.node.lifeline``."""
    del scheduler
    oplog.to_supervisor("scheduler")
    hold()
