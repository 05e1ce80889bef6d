"""The depth in a mask, against scipy's distance transform of everything."""

import numpy as np
import pytest
from scipy import ndimage

from limn.segment.draw.depth import deeper_than


@pytest.mark.parametrize("spacing_mm", [(0.6, 0.6, 0.6), (0.585, 0.45, 0.9), (4.0, 0.5, 0.5)])
@pytest.mark.parametrize("seed", range(3))
def test_as_deep_as_scipy_says(spacing_mm, seed):
    """Every voxel, where the edge of the field cuts the mask too."""
    noise = np.random.default_rng(seed).normal(size=(40, 44, 36)).astype(np.float32)
    mask = ndimage.gaussian_filter(noise, 5) > -0.02
    padded = np.pad(mask, 12, mode="edge")
    depth_mm = ndimage.distance_transform_edt(padded, sampling=spacing_mm)[12:-12, 12:-12, 12:-12]
    deep = deeper_than(mask, 3.0, spacing_mm)
    assert 0 < deep.sum() < mask.sum()
    assert np.array_equal(deep, depth_mm > 3.0)


def test_a_field_full_of_tissue_is_deep_everywhere():
    """It goes on beyond the field."""
    assert deeper_than(np.ones((5, 6, 7), np.bool_), 3.0, (0.6, 0.6, 0.6)).all()
    assert not deeper_than(np.zeros((5, 6, 7), np.bool_), 3.0, (0.6, 0.6, 0.6)).any()


def test_a_depth_that_does_not_fit_into_16_bits_is_refused():
    """It names the depth."""
    with pytest.raises(ValueError, match="7"):
        deeper_than(np.ones((3, 3, 3), np.bool_), 7.0, (0.6, 0.6, 0.6))
