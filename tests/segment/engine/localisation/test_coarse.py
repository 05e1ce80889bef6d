"""Means of blocks are those of NumPy, to the bit."""

import numpy as np
import pytest

from limn.segment.engine.localisation.coarse import block_means


def plainly(array, factors):
    """Axis by axis, with NumPy's mean."""
    z, y, x = (n // f for n, f in zip(array.shape, factors, strict=True))
    array = array[: z * factors[0], : y * factors[1], : x * factors[2]]
    array = array.reshape(z, factors[0], *array.shape[1:]).mean(axis=1, dtype=np.float32)
    array = array.reshape(z, y, factors[1], -1).mean(axis=2, dtype=np.float32)
    return array.reshape(z, y, x, factors[2]).mean(axis=3, dtype=np.float32)


@pytest.mark.parametrize(
    "factors", [(3, 3, 3), (4, 4, 4), (1, 1, 1), (2, 1, 5), (7, 6, 7), (5, 8, 9), (1, 16, 12)]
)
def test_means_are_those_of_numpy(factors):
    """Whatever the size of a block; a rest at the end counts nowhere."""
    hu = np.random.default_rng(0).normal(-400, 500, (41, 53, 67)).astype(np.float32)
    means = block_means(hu, factors)
    assert means.shape == tuple(n // f for n, f in zip(hu.shape, factors, strict=True))
    assert np.array_equal(means, plainly(hu, factors))


def test_a_part_of_a_scan_has_the_same_means():
    """It need not lie in memory in one piece."""
    hu = np.random.default_rng(1).normal(-400, 500, (40, 50, 60)).astype(np.float32)
    part = hu[5:35, 3:43, 10:58]
    assert np.array_equal(block_means(part, (3, 4, 4)), block_means(part.copy(), (3, 4, 4)))
