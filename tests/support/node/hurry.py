"""Gives processes that step back the usual priority: the suite's other tests would starve them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

EVERY_S = 0.5


@contextmanager
def hurried() -> Iterator[None]:
    """Raise the priority of this test's processes, now and of those to come, until the end."""
    ended = threading.Event()

    def hurry() -> None:
        while not ended.wait(EVERY_S):
            for each in psutil.Process().children(recursive=True):
                # It may have ended, and only root may raise a priority.
                with suppress(psutil.Error, OSError):
                    if each.nice() > 0:
                        each.nice(0)

    thread = threading.Thread(target=hurry, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
