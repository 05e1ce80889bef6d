"""Says which voxels lie deeper in a mask than a given depth; many times faster than all depths."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]

# Squared distances are counted in these parts of a mm2, as 16-bit integers.
PARTS = 1000
MOST_DEPTH_MM = 5.0


def deeper_than(mask: Mask, depth_mm: float, spacing_mm: Sequence[float]) -> Mask:
    """Voxels from which every voxel outside the mask is farther than ``depth_mm``.

    The mask goes on beyond the array as it is at the edge. It is the squared distance transform of
    Saito and Toriwaki (1994), axis by axis, cut off at the depth.

    Parameters
    ----------
    mask : (z, y, x)
    depth_mm : at most `MOST_DEPTH_MM`, so that a sum of two squares fits into 16 bits
    """
    if not 0 <= depth_mm <= MOST_DEPTH_MM:
        msg = f"a depth of {depth_mm} mm, 0 to {MOST_DEPTH_MM} expected"
        raise ValueError(msg)
    enough = np.uint16(round(depth_mm**2 * PARTS) + 1)
    nearest = np.where(mask, enough, np.uint16(0))
    for axis, mm in enumerate(spacing_mm):
        nearest = np.moveaxis(nearest, axis, 0)
        before, nearest = nearest, nearest.copy()
        for steps in range(1, int(depth_mm / mm) + 1):
            farther = before + np.uint16(round((steps * mm) ** 2 * PARTS))
            np.minimum(nearest[steps:], farther[:-steps], out=nearest[steps:])
            np.minimum(nearest[:-steps], farther[steps:], out=nearest[:-steps])
        nearest = np.moveaxis(nearest, 0, axis)
    return np.asarray(nearest >= enough)
