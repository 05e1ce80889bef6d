"""Shares work among this machine's cores, for functions that let other threads run meanwhile."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

# Parts for each core: one that another program delays holds up no more than this share.
PARTS = 4


def on_every_core(do: Callable[[slice], None], count: int) -> None:
    """Do so many things, in slices of neighbours, as many slices at a time as there are cores.

    Parameters
    ----------
    do : NumPy and decoders let other threads run; it writes only what belongs to its own slice
    """
    cores = _cores()
    step = -(-count // (cores * PARTS)) if cores > 1 else count
    slices = [slice(first, min(count, first + step)) for first in range(0, count, max(1, step))]
    if len(slices) < 2:
        for each in slices:
            do(each)
        return
    with ThreadPoolExecutor(cores, thread_name_prefix="core") as pool:
        for _ in pool.map(do, slices):
            pass


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
