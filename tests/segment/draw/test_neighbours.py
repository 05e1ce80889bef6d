"""Masks shrunk and closed, against scipy."""

import numpy as np
import pytest
from scipy import ndimage

from limn.segment.draw.neighbours import closed, shrunk


@pytest.mark.parametrize("shape", [(20, 17, 23), (1, 9, 8), (2, 3, 1)])
@pytest.mark.parametrize("share", [0.3, 0.8, 1.0])
def test_as_scipy_does_it(shape, share):
    """Bit for bit, at the array's edge too, and for arrays in any order."""
    drawn = np.random.default_rng(3).random(shape) <= share
    for mask in (drawn, drawn.transpose(2, 0, 1), drawn[:, ::-1]):
        before = mask.copy()
        assert np.array_equal(closed(mask), ndimage.binary_closing(mask))
        for times in (1, 2):
            for beyond in (False, True):
                theirs = ndimage.binary_erosion(mask, iterations=times, border_value=beyond)
                assert np.array_equal(shrunk(mask, times, beyond=beyond), theirs)
        assert np.array_equal(mask, before)
