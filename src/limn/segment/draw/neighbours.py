"""Shrinks and closes masks by the six neighbours of each voxel, bit for bit as scipy does."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]


def shrunk(mask: Mask, times: int = 1, *, beyond: bool = False) -> Mask:
    """Voxels whose six neighbours belong to the mask too; `scipy.ndimage.binary_erosion`.

    Parameters
    ----------
    times : again and again, so often
    beyond : whether what lies outside the array belongs to the mask
    """
    for _ in range(times):
        smaller = mask.copy()
        for axis in range(mask.ndim):
            own, inner = np.moveaxis(mask, axis, 0), np.moveaxis(smaller, axis, 0)
            inner[1:] &= own[:-1]
            inner[:-1] &= own[1:]
            if not beyond:
                inner[:1] = inner[-1:] = False
        mask = smaller
    return mask


def closed(mask: Mask) -> Mask:
    """The mask grown by its neighbours, then shrunk; `scipy.ndimage.binary_closing`.

    It loses its voxels at the array's edge.
    """
    larger = mask.copy()
    for axis in range(mask.ndim):
        own, outer = np.moveaxis(mask, axis, 0), np.moveaxis(larger, axis, 0)
        outer[1:] |= own[:-1]
        outer[:-1] |= own[1:]
    return shrunk(larger)
