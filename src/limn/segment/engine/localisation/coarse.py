"""Makes a whole scan coarse, for the networks that find animals, chests and how they lie."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from limn.domain.cores import on_every_core
from limn.domain.geometry import SpacingMm

# Coarse enough to be quick, fine enough for the heart's tilt and the lobes.
COARSE_MM = 0.84
# NumPy adds so many neighbours or more in pairs, fewer one after the other.
FEWEST_PAIRED = 8


def block_means(array: npt.NDArray[np.float32], factors: Sequence[int]) -> npt.NDArray[np.float32]:
    """Mean of every block of so many voxels along each axis; a rest at the end is left out.

    Axis by axis, from the outermost to the innermost: an array in C order is read once, and no
    copy of it is made. Sums have the order of `numpy.mean`, so no bit of a mean differs (D-281).
    """
    z_factor, y_factor, x_factor = factors
    z, y, x = (n // f for n, f in zip(array.shape, factors, strict=True))
    used = array[:, : y * y_factor, : x * x_factor]
    out = np.empty((z, y, x), dtype=np.float32)

    def fill(planes: slice) -> None:
        # Both are written again and again, so that they stay in the cache.
        plane = np.empty((y * y_factor, x * x_factor), dtype=np.float32)
        rows = np.empty((y, x * x_factor), dtype=np.float32)
        for k in range(planes.start, planes.stop):
            np.add.reduce(used[k * z_factor : (k + 1) * z_factor], axis=0, out=plane)
            plane /= np.float32(z_factor)
            np.add.reduce(plane.reshape(y, y_factor, x * x_factor), axis=1, out=rows)
            rows /= np.float32(y_factor)
            _means_along_rows(rows.reshape(y, x, x_factor), out[k])

    on_every_core(fill, z)
    return out


def _means_along_rows(blocks: npt.NDArray[np.float32], out: npt.NDArray[np.float32]) -> None:
    """The means of (y, x, n) numbers over n; NumPy takes three times as long for so few."""
    count = blocks.shape[2]
    if count >= FEWEST_PAIRED:
        np.add.reduce(blocks, axis=2, out=out)
    else:
        out[:] = blocks[..., 0]
        for k in range(1, count):
            out += blocks[..., k]
    out /= np.float32(count)


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
