"""Takes memory from the system bit by bit, for one array whose size is not known yet.

The system fills each new page with zeros, and on a virtual machine the host must find it first: up
to a second for a whole-body scan.
"""

from __future__ import annotations

import math
import mmap
import sys
from contextlib import suppress

import numpy as np
import numpy.typing as npt

_ZEROS = bytes(2**20)


class GrowingBuffer:
    """Memory for an array of fp32.

    Parameters
    ----------
    most_bytes : so much address space is reserved; memory is only taken as the buffer grows
    """

    def __init__(self, most_bytes: int) -> None:
        try:
            self._memory = _reserved(max(1, most_bytes))
        except (OSError, OverflowError, ValueError):
            # A system that promises no more address space than it has memory: nothing is taken.
            self._memory = None
        self._taken_bytes = 0

    def grow(self, more_bytes: int) -> None:
        """Take more memory, as far as address space is reserved."""
        memory, first = self._memory, self._taken_bytes
        if memory is None:
            return
        self._taken_bytes = min(len(memory), first + more_bytes)
        for start in range(first, self._taken_bytes, len(_ZEROS)):
            end = min(start + len(_ZEROS), self._taken_bytes)
            memory[start:end] = _ZEROS[: end - start]

    def array(self, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """An array of this memory, always the same, or a new one if it does not fit."""
        count = math.prod(shape)
        if self._memory is None or 4 * count > len(self._memory):
            return np.empty(shape, dtype=np.float32)
        return np.frombuffer(self._memory, dtype=np.float32, count=count).reshape(shape)


def _reserved(count_bytes: int) -> mmap.mmap | None:
    """Address space without memory behind it; None where there is no such thing."""
    if sys.platform == "win32":
        return None
    # Shared memory, the default, has no large pages: it is slower to use and to give back.
    memory = mmap.mmap(-1, count_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if sys.platform == "linux":
        with suppress(OSError):
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory
