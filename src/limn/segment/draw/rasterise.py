"""Polygons to voxels: to prove limn's own structure sets and to read those of others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.spatial import KDTree
from skimage import draw

from limn.domain.geometry import FloatArray, Grid, IntArray, voxels_at
from limn.domain.scan import Contour, Organ

Mask: TypeAlias = npt.NDArray[np.bool_]
# Plain rings that are nowhere further apart are one outline, drawn twice.
SAME_VOXELS = 0.5
# Rings with such a difference of their extents are not compared point by point.
FAR_VOXELS = 3.0
# Between two points of a ring that is compared with another.
DENSE_VOXELS = 0.1


def rasterise(
    contours: Iterable[Contour], grid: Grid, organ: Organ, *, xor: bool = False
) -> npt.NDArray[np.bool_]:
    """Voxels whose centre lies inside a contour of the organ, (z, y, x) bool.

    Contours of one slice are combined by OR, like most planning systems do, or by XOR if they
    are CLOSEDPLANAR_XOR.
    """
    mask = np.zeros(grid.shape_zyx, dtype=np.bool_)
    for k, mask_yx in rasterised_slices(contours, grid, organ, xor=xor).items():
        mask[k] = mask_yx
    return mask


def rasterised_slices(
    contours: Iterable[Contour], grid: Grid, organ: Organ, *, xor: bool = False
) -> dict[int, Mask]:
    """As `rasterise`, (y, x) bool of each slice in which the organ has a contour."""
    masks: dict[int, Mask] = {}
    for contour in contours:
        if contour.organ == organ:
            k = contour.slice_index
            if k not in masks:
                masks[k] = np.zeros((grid.rows, grid.columns), dtype=np.bool_)
            ring_yx = grid.plane_indices_yx(k, contour.points_xyz_mm)
            rows, columns = draw.polygon(ring_yx[:, 0], ring_yx[:, 1], shape=masks[k].shape)
            if xor:
                masks[k][rows, columns] ^= True
            else:
                masks[k][rows, columns] = True
    return masks


def fill(rings_yx: Sequence[tuple[FloatArray, bool]], shape: tuple[int, int]) -> Mask:
    """Fill the rings of one slice, (y, x) bool.

    Parameters
    ----------
    rings_yx : rows and columns of each ring, and whether it is CLOSEDPLANAR_XOR

    A ring that lies wholly inside the filled area is a hole, because many systems nest plain
    polygons. A ring that occurs twice counts once, with other points too (`apart_voxels`). The
    corners of some rings are the outermost voxels themselves (OpenCV's findContours): the voxels on
    such a ring belong to the structure, on the ring of a hole too.
    """
    masks: list[tuple[Mask, bool]] = []
    edges = np.zeros(shape, dtype=np.bool_)
    for ring_yx, xor in _once(rings_yx):
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


def filled(
    polygons: Iterable[tuple[int, FloatArray, bool]], grid: Grid, slices: range | None = None
) -> Mask:
    """Voxels whose centre lies in an ROI of any maker, (z, y, x) bool; slice by slice as `fill`.

    Parameters
    ----------
    polygons : slice, (n, 3) points in patient coordinates, whether it is CLOSEDPLANAR_XOR
    slices : those of the answer; by default all of the grid
    """
    slices = range(grid.shape_zyx[0]) if slices is None else slices
    rings: dict[int, list[tuple[FloatArray, bool]]] = {}
    for k, points_xyz_mm, xor in polygons:
        rings.setdefault(k, []).append((grid.plane_indices_yx(k, points_xyz_mm), xor))
    mask = np.zeros((len(slices), grid.rows, grid.columns), dtype=np.bool_)
    for k in rings.keys() & set(slices):
        mask[k - slices.start] = fill(rings[k], (grid.rows, grid.columns))
    return mask


def apart_voxels(ring_yx: FloatArray, other_yx: FloatArray) -> float:
    """How far two rings are from each other where they are furthest apart (Hausdorff), voxels.

    Rings that are nowhere further apart than half a voxel are one outline: no voxel's centre is
    certain to lie between them.
    """
    ends = np.array([[ring.min(axis=0), ring.max(axis=0)] for ring in (ring_yx, other_yx)])
    least = float(np.abs(ends[0] - ends[1]).max())
    if least > FAR_VOXELS:
        return least
    points, others = _dense(ring_yx), _dense(other_yx)
    there, back = KDTree(others).query(points)[0], KDTree(points).query(others)[0]
    return float(max(np.max(there), np.max(back)))


def _dense(ring_yx: FloatArray) -> FloatArray:
    """Points on a ring, so many that none is far from the next."""
    ends = np.roll(ring_yx, -1, axis=0)
    pieces = [
        start + np.linspace(0.0, 1.0, steps, endpoint=False)[:, None] * (end - start)
        for start, end in zip(ring_yx, ends, strict=True)
        if (steps := max(1, int(np.ceil(np.linalg.norm(end - start) / DENSE_VOXELS))))
    ]
    return np.concatenate(pieces)


def _once(rings_yx: Sequence[tuple[FloatArray, bool]]) -> list[tuple[FloatArray, bool]]:
    """The rings without plain ones that repeat an outline."""
    kept: list[tuple[FloatArray, bool]] = []
    for ring_yx, xor in rings_yx:
        if xor or all(
            other or apart_voxels(ring_yx, known_yx) > SAME_VOXELS for known_yx, other in kept
        ):
            kept.append((ring_yx, xor))
    return kept


def _line(voxels_yx: IntArray, shape: tuple[int, int]) -> Mask:
    """The voxels on a ring from voxel to voxel, (y, x) bool."""
    mask = np.zeros(shape, dtype=np.bool_)
    for start, end in zip(voxels_yx, np.roll(voxels_yx, -1, axis=0), strict=True):
        mask[draw.line(*start, *end)] = True
    return mask
