"""Memory that grows before the size of its array is known."""

import mmap
from pathlib import Path

import numpy as np
import pytest

from limn.domain import buffer as buffer_module
from limn.domain.buffer import GrowingBuffer


def test_an_array_lies_in_the_memory_that_was_taken():
    """Asked for again it is the same memory, so that it is held once."""
    buffer = GrowingBuffer(2**24)
    buffer.grow(2**21 + 3)
    buffer.grow(2**20)
    first = buffer.array((4, 8, 16))
    first[:] = 7.0
    second = buffer.array((2, 8, 16))
    assert (first.dtype, first.shape) == (np.float32, (4, 8, 16))
    assert first.flags.writeable
    assert first.flags.c_contiguous
    assert np.array_equal(second, first[:2])
    del buffer
    assert first.sum() == 7.0 * first.size


@pytest.mark.parametrize("most_bytes", [0, 4 * 1000 - 1])
def test_an_array_that_does_not_fit_has_memory_of_its_own(most_bytes):
    """Growing beyond what was reserved is no error."""
    buffer = GrowingBuffer(most_bytes)
    buffer.grow(10**6)
    array = buffer.array((10, 10, 10))
    array[:] = 1.0
    assert array.shape == (10, 10, 10)
    assert array.sum() == 1000


def test_a_system_that_reserves_nothing_gives_new_memory(monkeypatch):
    """Where address space must have memory behind it."""

    def refuses(*_, **__):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(buffer_module.mmap, "mmap", refuses)
    buffer = GrowingBuffer(2**40)
    buffer.grow(100)
    assert buffer.array((2, 3)).shape == (2, 3)


@pytest.mark.skipif(not hasattr(mmap, "MADV_HUGEPAGE"), reason="this system is not Linux")
def test_only_what_was_asked_for_is_taken():
    """Address space of gigabytes costs nothing."""

    def held_mb():
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * mmap.PAGESIZE / 2**20

    before = held_mb()
    buffer = GrowingBuffer(2**33)
    assert held_mb() - before < 8
    buffer.grow(2**26)
    assert 60 < held_mb() - before < 80
    del buffer
    assert held_mb() - before < 8
