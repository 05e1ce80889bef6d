"""What a person changed of one organ's contours: DSC, 95 % HD, added path length, where it moved.

Added path length: Vaassen et al., Phys Imaging Radiat Oncol 13:1 (2020), "the absolute cumulative
length of the contour that had to be edited". It is counted without a tolerance, in voxels of the
edited contour that are not on the contour before; the contour on a slice are the voxels of the mask
with an edge neighbour outside it on that slice. In mm: this count times the length of a voxel in
the plane (the root of its area, if it is no square).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_erosion, gaussian_filter
from scipy.spatial import KDTree

from limn.domain.geometry import FloatArray, IntArray, Reorientation, SpacingMm
from limn.domain.scan import dice, occupied_box
from limn.segment.compare.distances import SurfaceDistances

Mask: TypeAlias = npt.NDArray[np.bool_]

# The surface's direction is that of a mask smoothed by so much: single voxels have six directions.
SMOOTH_MM = 0.5
# Axes of arrays that grow to the animal's head, back and left.
AXES = "SPL"
# The four edges of a voxel on its slice.
_EDGES = np.array([[[0, 0, 0]] * 3, [[0, 1, 0], [1, 1, 1], [0, 1, 0]], [[0, 0, 0]] * 3], bool)


class Way(StrEnum):
    """A direction by the patient's axes of the image."""

    CRANIAL = "cranial"
    CAUDAL = "caudal"
    DORSAL = "dorsal"
    VENTRAL = "ventral"
    LEFT = "left"
    RIGHT = "right"


# By array axis of `AXES`: where it grows to, and the other way.
_WAYS = ((Way.CRANIAL, Way.CAUDAL), (Way.DORSAL, Way.VENTRAL), (Way.LEFT, Way.RIGHT))


@dataclass(frozen=True, slots=True, kw_only=True)
class ContourEdit:
    """One organ before and after a person's edit.

    Attributes
    ----------
    dsc : 0 to 1
    hd95_mm : NaN if nothing is left
    added_path_mm : length of contour that was drawn anew, in the plane of the slices
    surface_mm : by how much the part of the surface that looks each way was moved outwards
        (positive) or inwards, mean of signed distances; NaN where no part looks that way
    centre_mm : by how much the centre of the volume moved cranially, dorsally and to the left
    """

    dsc: float
    hd95_mm: float
    added_path_mm: float
    volume_before_mm3: float
    volume_mm3: float
    surface_mm: Mapping[Way, float]
    centre_mm: tuple[float, float, float]


def edit_of(before: Mask, after: Mask, spacing_mm: SpacingMm, axis_letters: str) -> ContourEdit:
    """Compare the contours that a person got with those that the person gave back.

    Parameters
    ----------
    before, after : (z, y, x) bool on one grid, z from slice to slice; ``before`` is not empty
    axis_letters : the patient directions that z, y and x grow towards

    Raises
    ------
    ValueError
        If their shapes differ, or ``before`` is empty.
    """
    if before.shape != after.shape or not before.any():
        msg = f"masks of {before.shape} and {after.shape} voxels, the first not empty, expected"
        raise ValueError(msg)
    box = occupied_box(before | after)
    before, after = before[box], after[box]
    turn = Reorientation.between(axis_letters, AXES)
    surface_mm, centre_mm = _moved(turn.apply(before), turn.apply(after), turn.spacing(spacing_mm))
    return ContourEdit(
        dsc=dice(before, after),
        hd95_mm=SurfaceDistances.between(after, before, spacing_mm).hausdorff_mm(),
        added_path_mm=added_path_mm(before, after, spacing_mm),
        volume_before_mm3=int(before.sum()) * spacing_mm.voxel_mm3,
        volume_mm3=int(after.sum()) * spacing_mm.voxel_mm3,
        surface_mm=surface_mm,
        centre_mm=centre_mm,
    )


def added_path_mm(before: Mask, after: Mask, spacing_mm: SpacingMm) -> float:
    """Length of the contour after an edit that was not there before it, mm."""
    added = int((_contour(after) & ~_contour(before)).sum())
    return added * math.sqrt(spacing_mm.y * spacing_mm.x)


def _contour(mask: Mask) -> Mask:
    """The voxels on the contour of every slice."""
    return np.asarray(mask & ~binary_erosion(mask, _EDGES), dtype=np.bool_)


def _moved(
    before: Mask, after: Mask, spacing_mm: SpacingMm
) -> tuple[dict[Way, float], tuple[float, float, float]]:
    """Surface and centre, of masks with axes as `AXES`."""
    nowhere = dict.fromkeys(Way, math.nan), (math.nan, math.nan, math.nan)
    if not after.any():
        return nowhere
    if np.array_equal(before, after):
        return dict.fromkeys(Way, 0.0), (0.0, 0.0, 0.0)
    before, after = np.pad(before, 1), np.pad(after, 1)
    mm = np.array(spacing_mm.zyx)
    inner, outer = _faces(before)
    new_inner, new_outer = _faces(after)
    distance_mm, _ = KDTree((new_inner + new_outer) / 2 * mm).query((inner + outer) / 2 * mm)
    # A face that the edit swallowed lies inside it; one that it left lies outside.
    sign = after[tuple(inner.T)].astype(int) + after[tuple(outer.T)].astype(int) - 1
    signed_mm = distance_mm * sign
    normals = _normals(before, inner, outer, mm)
    along = np.argmax(np.abs(normals), axis=1)
    grows = normals[np.arange(len(normals)), along] > 0
    surface_mm = {}
    for axis, (way, back) in enumerate(_WAYS):
        for each, looks in ((way, grows), (back, ~grows)):
            own = signed_mm[(along == axis) & looks]
            surface_mm[each] = float(own.mean()) if len(own) else math.nan
    shift = (np.argwhere(after).mean(axis=0) - np.argwhere(before).mean(axis=0)) * mm
    return surface_mm, (float(shift[0]), float(shift[1]), float(shift[2]))


def _faces(mask: Mask) -> tuple[IntArray, IntArray]:
    """The voxels on both sides of every face of a surface: (n, 3) inside, and (n, 3) outside."""
    sides = list(_sides(mask))
    return np.concatenate([own for own, _ in sides]), np.concatenate([other for _, other in sides])


def _sides(mask: Mask) -> Iterator[tuple[IntArray, IntArray]]:
    for axis in range(3):
        low = [slice(None)] * 3
        high = [slice(None)] * 3
        low[axis], high[axis] = slice(None, -1), slice(1, None)
        step = np.eye(3, dtype=np.int64)[axis]
        first, second = mask[tuple(low)], mask[tuple(high)]
        ends = np.argwhere(first & ~second)
        begins = np.argwhere(~first & second)
        yield ends, ends + step
        yield begins + step, begins


def _normals(mask: Mask, inner: IntArray, outer: IntArray, mm: FloatArray) -> FloatArray:
    """(n, 3) where the surface looks at each of its faces, outwards; no unit vectors."""
    wide = np.pad(mask, 3).astype(np.float32)
    smooth = gaussian_filter(wide, np.maximum(SMOOTH_MM / mm, 1.0))
    found = np.empty((len(inner), 3))
    for axis in range(3):
        slope = -np.gradient(smooth, axis=axis) / mm[axis]
        found[:, axis] = slope[tuple((inner + 3).T)] + slope[tuple((outer + 3).T)]
    return found
