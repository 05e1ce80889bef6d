"""Polygons to voxels: to prove limn's own structure sets and to read those of others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from skimage import draw

from limn.domain.geometry import FloatArray, Grid, IntArray, voxels_at
from limn.domain.scan import Contour, Organ

Mask: TypeAlias = npt.NDArray[np.bool_]


def rasterise(
    contours: Iterable[Contour], grid: Grid, organ: Organ, *, xor: bool = False
) -> npt.NDArray[np.bool_]:
    """Voxels whose centre lies inside a contour of the organ, (z, y, x) bool.

    Contours of one slice are combined by OR, like most planning systems do, or by XOR if they
    are CLOSEDPLANAR_XOR.
    """
    mask = np.zeros(grid.shape_zyx, dtype=np.bool_)
    for contour in contours:
        if contour.organ == organ:
            ring_yx = grid.plane_indices_yx(contour.slice_index, contour.points_xyz_mm)
            rows, columns = draw.polygon(ring_yx[:, 0], ring_yx[:, 1], shape=grid.shape_zyx[1:])
            if xor:
                mask[contour.slice_index, rows, columns] ^= True
            else:
                mask[contour.slice_index, rows, columns] = True
    return mask


def fill(rings_yx: Sequence[tuple[FloatArray, bool]], shape: tuple[int, int]) -> Mask:
    """Fill the rings of one slice, (y, x) bool.

    Parameters
    ----------
    rings_yx : rows and columns of each ring, and whether it is CLOSEDPLANAR_XOR

    A ring that lies wholly inside the filled area is a hole, because many systems nest plain
    polygons. A ring that occurs twice counts once. The corners of some rings are the outermost
    voxels themselves (OpenCV's findContours): the voxels on such a ring belong to the structure,
    on the ring of a hole too.
    """
    masks: list[tuple[Mask, bool]] = []
    edges = np.zeros(shape, dtype=np.bool_)
    for ring_yx, xor in rings_yx:
        voxels_yx = voxels_at(ring_yx, shape)
        corners_yx = ring_yx if voxels_yx is None else voxels_yx
        mask = np.zeros(shape, dtype=np.bool_)
        mask[draw.polygon(corners_yx[:, 0], corners_yx[:, 1], shape=shape)] = True
        if voxels_yx is not None:
            edge = _line(voxels_yx, shape)
            edges |= edge
            mask &= ~edge
        if not any(np.array_equal(mask, other) for other, _ in masks):
            masks.append((mask, xor))
    filled = np.zeros(shape, dtype=np.bool_)
    for mask, xor in sorted(masks, key=lambda each: -int(each[0].sum())):
        if xor or bool(filled[mask].all()):
            filled ^= mask
        else:
            filled |= mask
    return filled | edges


def _line(voxels_yx: IntArray, shape: tuple[int, int]) -> Mask:
    """The voxels on a ring from voxel to voxel, (y, x) bool."""
    mask = np.zeros(shape, dtype=np.bool_)
    for start, end in zip(voxels_yx, np.roll(voxels_yx, -1, axis=0), strict=True):
        mask[draw.line(*start, *end)] = True
    return mask
