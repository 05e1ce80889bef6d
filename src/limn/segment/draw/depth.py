"""Says which voxels lie deeper in a mask than a given depth; many times faster than all depths."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from limn.domain.cores import on_every_core

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
        squares = [
            np.uint16(round((steps * mm) ** 2 * PARTS))
            for steps in range(1, int(depth_mm / mm) + 1)
        ]
        # Parts that are cut along another axis don't know of each other.
        along = np.moveaxis(nearest, (axis, 1 if axis == 0 else 0), (0, 1))
        on_every_core(partial(_spread, along, squares), along.shape[1])
    return np.asarray(nearest >= enough)


def _spread(nearest: npt.NDArray[np.uint16], squares: Sequence[np.uint16], part: slice) -> None:
    """Take the distances of the neighbours along the first axis into account, in place.

    Parameters
    ----------
    nearest : squared distances; the first axis is the one that is looked along
    squares : of so many steps along it
    part : of the second axis
    """
    for k in range(part.start, part.stop):
        own = nearest[:, k]
        before = own.copy(order="K")
        farther = np.empty_like(before)
        for steps, square in enumerate(squares, start=1):
            np.add(before, square, out=farther)
            np.minimum(own[steps:], farther[:-steps], out=own[steps:])
            np.minimum(own[:-steps], farther[steps:], out=own[:-steps])
