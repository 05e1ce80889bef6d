"""The tiles of nnU-Net's sliding window, and the weights of their voxels."""

from __future__ import annotations

import itertools
from functools import lru_cache

import numpy as np
import torch
from scipy import ndimage

PatchZyx = tuple[int, int, int]
TileZyx = tuple[slice, slice, slice]


def tiles_over(shape: tuple[int, ...], patch: PatchZyx, step: float) -> list[TileZyx]:
    """Tiles that cover an array at least as large as the patch, in nnU-Net's order.

    Parameters
    ----------
    step : largest distance from one tile to the next, as a share of the patch
    """
    starts = [_starts(n, p, step) for n, p in zip(shape, patch, strict=True)]
    z, y, x = patch
    return [
        (slice(a, a + z), slice(b, b + y), slice(c, c + x))
        for a, b, c in itertools.product(*starts)
    ]


def _starts(size: int, patch: int, step: float) -> list[int]:
    if patch == 1:
        return list(range(size))
    if size <= patch:
        return [0]
    count = int(np.ceil((size - patch) / (patch * step))) + 1
    return [round((size - patch) / (count - 1) * i) for i in range(count)]


@lru_cache(maxsize=4)
def gaussian(patch: PatchZyx) -> torch.Tensor:
    """nnU-Net's weights: sigma an eighth of the patch, zeros set to the least positive weight."""
    point = np.zeros(patch)
    point[tuple(n // 2 for n in patch)] = 1
    weight = ndimage.gaussian_filter(point, [n / 8 for n in patch], mode="constant")
    weight /= weight.max()
    weight[weight == 0] = weight[weight > 0].min()
    return torch.from_numpy(weight.astype(np.float32))
