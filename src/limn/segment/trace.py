"""Labels to closed planar polygons.

Boundary rule: marching squares on the binary mask at level 0.505, so the outline runs half-way
between the centres of an inside and an outside voxel, 0.005 of a voxel inward. That small
step breaks the exact ties which readers round in different directions; every reader tried
(plastimatch, scikit-image, matplotlib, dcmrtstruct2nii, rt-utils) gets back the same voxels.
Holes are joined to their outline by a keyhole (PS3.3 C.8.8.6.3), the one encoding that all
of them read alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from skimage import measure

from limn.domain.geometry import FloatArray, IntArray
from limn.domain.scan import Contour, Labels, Organ

LEVEL = 0.505
# A keyhole's cut passes voxel centres at this share of a voxel or more, if one of this many
# shortest cuts does.
CLEARANCE = 0.1
BRIDGES_TRIED = 64


HoleRule = Literal["keyhole", "xor"]


@dataclass(frozen=True, slots=True, eq=False)
class Traced:
    """Every contour of every organ.

    Attributes
    ----------
    dropped : contours of fewer than three points, by organ; planning systems refuse those
    """

    contours: tuple[Contour, ...]
    dropped: Mapping[Organ, int]


def trace(labels: Labels, holes: HoleRule = "keyhole", max_points: int | None = None) -> Traced:
    """Outline every organ on every slice, in patient coordinates.

    Parameters
    ----------
    holes : "keyhole", or "xor" for rings of their own
    max_points : a slice whose outline has more is cut into parts that have fewer
    """
    contours: list[Contour] = []
    dropped: dict[Organ, int] = {}
    for label, organ in labels.organs.items():
        mask = labels.labels_zyx == label
        dropped[organ] = 0
        rows = np.flatnonzero(mask.any(axis=(0, 2)))
        columns = np.flatnonzero(mask.any(axis=(0, 1)))
        if len(rows) == 0:
            continue
        corner = np.array([rows[0], columns[0]], dtype=np.float64)
        box = mask[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        for slice_index in np.flatnonzero(box.any(axis=(1, 2))):
            for ring_yx in outline(box[slice_index], holes, max_points):
                if len(ring_yx) < 3:
                    dropped[organ] += 1
                    continue
                points = labels.grid.plane_points_xyz_mm(int(slice_index), ring_yx + corner)
                contours.append(Contour(organ, int(slice_index), points))
    return Traced(tuple(contours), dropped)


def outline(
    mask_yx: npt.NDArray[np.bool_], holes: HoleRule = "keyhole", max_points: int | None = None
) -> list[FloatArray]:
    """Closed rings around the true pixels.

    Returns
    -------
    list of (n, 2) float64
        Row and column; the last point joins the first and does not repeat it.
    """
    padded = np.pad(mask_yx, 1).astype(np.float64)
    rings = [ring[:-1] - 1.0 for ring in measure.find_contours(padded, LEVEL)]
    if holes == "keyhole":
        outers = [ring for ring in rings if _signed_area(ring) > 0]
        inners = [ring for ring in rings if _signed_area(ring) < 0]
        owned = _assign(outers, inners)
        rings = [_keyhole(outer, mine) for outer, mine in zip(outers, owned, strict=True)]
    rings = [_without_collinear(ring) for ring in rings]
    if max_points is None or all(len(ring) <= max_points for ring in rings):
        return rings
    return _in_two(mask_yx, holes, max_points)


def _in_two(mask_yx: npt.NDArray[np.bool_], holes: HoleRule, max_points: int) -> list[FloatArray]:
    """Outline two halves on their own: fewer points each, and not one voxel changes."""
    axis = int(np.argmax(mask_yx.shape))
    middle = mask_yx.shape[axis] // 2
    first, second = np.split(mask_yx, [middle], axis=axis)
    shift = np.zeros(2)
    shift[axis] = middle
    return [
        *outline(first, holes, max_points),
        *(ring + shift for ring in outline(second, holes, max_points)),
    ]


def _signed_area(ring_yx: FloatArray) -> float:
    """Positive for the rings that find_contours puts around high values."""
    y, x = ring_yx[:, 0], ring_yx[:, 1]
    return 0.5 * float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))


def _assign(outers: list[FloatArray], holes: list[FloatArray]) -> list[list[FloatArray]]:
    """Each hole to the smallest outline around it."""
    owned: list[list[FloatArray]] = [[] for _ in outers]
    by_size = sorted(range(len(outers)), key=lambda i: abs(_signed_area(outers[i])))
    for hole in holes:
        for i in by_size:
            if measure.points_in_poly(hole[:1], outers[i])[0]:
                owned[i].append(hole)
                break
    return owned


def _keyhole(outer: FloatArray, holes: list[FloatArray]) -> FloatArray:
    """Cut from the outline to each hole and back along the same line, nearest hole first.

    The cuts run between the voxels' centres: a centre on a cut would be inside for one
    reader and outside for another.
    """
    if not holes:
        return outer
    ring = _with_midpoints(outer)
    waiting = [_with_midpoints(hole) for hole in holes]
    while waiting:
        bridges = [_shortest_bridge(ring, hole) for hole in waiting]
        nearest = min(range(len(waiting)), key=lambda i: bridges[i][0])
        _, i, j = bridges[nearest]
        hole = waiting.pop(nearest)
        around = np.roll(hole, -j, axis=0)
        ring = np.concatenate((ring[: i + 1], around, around[:1], ring[i:]))
    return ring


def _with_midpoints(ring: FloatArray) -> FloatArray:
    """The ring with a point between every two of its own, which all lie on rows or columns."""
    between = (ring + np.roll(ring, -1, axis=0)) / 2
    return np.stack((ring, between), axis=1).reshape(-1, 2)


def _shortest_bridge(ring: FloatArray, hole: FloatArray) -> tuple[float, int, int]:
    """Squared length and both ends of the shortest line that keeps clear of voxel centres.

    Ends on the rings' own vertices come first: they lie on rows or columns and round inward,
    as a reader that rounds to whole voxels (rt-utils) needs it. The points between do not.
    """
    on_ring, on_hole = ((each % 1 == 0).any(axis=1) for each in (ring, hole))
    found = (0.0, 0, 0)
    for mine, theirs in ((on_ring, on_hole), (~on_ring, ~on_hole)):
        found, clear = _nearest_clear(ring, hole, np.flatnonzero(mine), np.flatnonzero(theirs))
        if clear:
            break
    return found


def _nearest_clear(
    ring: FloatArray, hole: FloatArray, mine: IntArray, theirs: IntArray
) -> tuple[tuple[float, int, int], bool]:
    """Best of the nearest pairs, and whether it keeps clear of voxel centres."""
    distance2 = ((ring[mine, None, :] - hole[None, theirs, :]) ** 2).sum(axis=2).ravel()
    count = min(BRIDGES_TRIED, len(distance2))
    nearest = np.argpartition(distance2, count - 1)[:count]
    nearest = nearest[np.argsort(distance2[nearest], kind="stable")]
    ends = [(int(mine[n // len(theirs)]), int(theirs[n % len(theirs)])) for n in nearest]
    best = next((n for n, (i, j) in enumerate(ends) if _is_clear(ring[i], hole[j])), None)
    chosen = best or 0
    return (float(distance2[nearest[chosen]]), *ends[chosen]), best is not None


def _is_clear(start_yx: FloatArray, end_yx: FloatArray) -> bool:
    """Whether the line passes every voxel centre at `CLEARANCE` or more."""
    low = np.floor(np.minimum(start_yx, end_yx)).astype(int)
    high = np.ceil(np.maximum(start_yx, end_yx)).astype(int) + 1
    rows, columns = np.mgrid[low[0] : high[0], low[1] : high[1]]
    along = end_yx - start_yx
    from_start = np.column_stack((rows.ravel(), columns.ravel())) - start_yx
    share = np.clip(from_start @ along / float(along @ along), 0.0, 1.0)
    return bool(np.hypot(*(from_start - share[:, None] * along).T).min() >= CLEARANCE)


def _without_collinear(ring: FloatArray) -> FloatArray:
    """Drop the points that lie on the straight line between their neighbours."""
    into = ring - np.roll(ring, 1, axis=0)
    out = np.roll(ring, -1, axis=0) - ring
    cross = into[:, 0] * out[:, 1] - into[:, 1] * out[:, 0]
    ahead = (into * out).sum(axis=1) > 0
    return np.asarray(ring[~((np.abs(cross) < 1e-9) & ahead)], dtype=np.float64)
