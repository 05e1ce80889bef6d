"""Makes a whole scan coarse, for the networks that find animals, chests and how they lie."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from limn.domain.geometry import SpacingMm

# Coarse enough to be quick, fine enough for the heart's tilt and the lobes.
COARSE_MM = 0.84


def block_means(array: npt.NDArray[np.float32], factors: Sequence[int]) -> npt.NDArray[np.float32]:
    """Mean of every block of so many voxels along each axis; a rest at the end is left out.

    Axis by axis, from the outermost to the innermost: an array in C order is read once, and no
    copy of it is made.
    """
    z, y, x = (n // f for n, f in zip(array.shape, factors, strict=True))
    out = np.empty((z, y, x), dtype=np.float32)
    for k in range(z):
        slab = array[k * factors[0] : (k + 1) * factors[0], : y * factors[1], : x * factors[2]]
        plane = slab.mean(axis=0, dtype=np.float32)
        rows = plane.reshape(y, factors[1], x * factors[2]).mean(axis=1)
        out[k] = rows.reshape(y, x, factors[2]).mean(axis=2)
    return out


def coarse(
    hu_zyx: npt.NDArray[np.float32], spacing_mm: SpacingMm, voxel_mm: float = COARSE_MM
) -> npt.NDArray[np.float32]:
    """HU on voxels of `COARSE_MM` or another size: block means, then linear interpolation."""
    factors = [
        max(1, min(n, int(voxel_mm / mm + 1e-6)))
        for n, mm in zip(hu_zyx.shape, spacing_mm.zyx, strict=True)
    ]
    means = block_means(hu_zyx, factors)
    # An array thinner than a coarse voxel keeps one.
    zoom = [
        max(1.0 / n, f * mm / voxel_mm)
        for n, f, mm in zip(means.shape, factors, spacing_mm.zyx, strict=True)
    ]
    return np.asarray(
        ndimage.zoom(means, zoom, order=1, grid_mode=True, mode="nearest"), dtype=np.float32
    )


def dense(hu_zyx: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Density for the onlooker: air 0, water 1, at most 2.5."""
    return np.asarray(np.clip((hu_zyx + 1000.0) / 1000.0, 0.0, 2.5), dtype=np.float32)
