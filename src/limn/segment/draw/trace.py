"""Labels to closed planar polygons.

Boundary rule: marching squares on the binary mask at level 0.505, so the outline runs half-way
between the centres of an inside and an outside voxel, 0.005 of a voxel inward. That small
step breaks the exact ties, which readers round in different directions; all tested readers
(plastimatch, scikit-image, matplotlib, dcmrtstruct2nii, rt-utils) recover the same voxels.
Holes are joined to their outline by a keyhole (PS3.3 C.8.8.6.3), the only encoding that all
of them read in the same way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import cdist
from skimage import measure

from limn.domain.geometry import FloatArray, Grid, IntArray
from limn.domain.scan import Box, Contour, Labels, Organ, occupied_box

LEVEL = 0.505
# Distance from voxel centres that a keyhole's cut keeps, as a share of a voxel, if one of the
# shortest cuts can.
CLEARANCE = 0.1
BRIDGES_TRIED = 64

HoleRule = Literal["keyhole", "xor"]
Mask: TypeAlias = npt.NDArray[np.bool_]


class TooRagged(Exception):
    """A structure of specks and holes, which no contours describe."""


@dataclass(frozen=True, slots=True, eq=False)
class Traced:
    """Every contour of every organ.

    Attributes
    ----------
    dropped : contours of fewer than three points, by organ; planning systems refuse them
    """

    contours: tuple[Contour, ...]
    dropped: Mapping[Organ, int]


def trace(labels: Labels, holes: HoleRule = "keyhole", max_points: int | None = None) -> Traced:
    """Outline every organ on every slice, in patient coordinates.

    Parameters
    ----------
    holes : "keyhole", or "xor" for separate rings
    max_points : a slice whose outline has more points is split into parts
    """
    outer = labels.box
    thorax = labels.labels_zyx[outer]
    traced = [
        trace_mask(thorax == label, outer, labels.grid, organ, holes, max_points)
        for label, organ in labels.organs.items()
    ]
    return joined(traced)


def joined(parts: Iterable[Traced]) -> Traced:
    """The contours of several traces as one."""
    contours: list[Contour] = []
    dropped: dict[Organ, int] = {}
    for each in parts:
        contours += each.contours
        dropped |= each.dropped
    return Traced(tuple(contours), dropped)


def trace_mask(
    mask_zyx: Mask,
    box: Box,
    grid: Grid,
    organ: Organ,
    holes: HoleRule = "keyhole",
    max_points: int | None = None,
    most_rings: int | None = None,
) -> Traced:
    """Outline one organ or ROI; the mask is that of a box of the grid.

    Raises
    ------
    TooRagged
        If a slice has more than ``most_rings`` outlines and holes: no planner wants them, and
        keyholes to all of them take minutes.
    """
    contours: list[Contour] = []
    dropped = 0
    inner = occupied_box(mask_zyx)
    low = [out.start + own.start for out, own in zip(box, inner, strict=True)]
    for z, rings in _outlines(mask_zyx[inner], holes, max_points, most_rings).items():
        for ring_yx in rings:
            if len(ring_yx) < 3:
                dropped += 1
                continue
            points = grid.plane_points_xyz_mm(low[0] + z, ring_yx + low[1:])
            contours.append(Contour(organ, low[0] + z, points))
    return Traced(tuple(contours), {organ: dropped})


def outline(
    mask_yx: Mask, holes: HoleRule = "keyhole", max_points: int | None = None
) -> list[FloatArray]:
    """Closed rings around the true pixels of one slice.

    Returns
    -------
    list of (n, 2) float64
        Row and column; the last point joins the first and does not repeat it.
    """
    return _outlines(mask_yx[None], holes, max_points).get(0, [])


def _outlines(
    mask_zyx: Mask, holes: HoleRule, max_points: int | None, most_rings: int | None = None
) -> dict[int, list[FloatArray]]:
    """Rings of every slice that has any."""
    marched: dict[int, list[_Ring]] = {}
    for z, ring in _march(mask_zyx):
        marched.setdefault(z, []).append(ring)
    if most_rings is not None and max(map(len, marched.values()), default=0) > most_rings:
        msg = f"a slice has more than {most_rings} outlines and holes"
        raise TooRagged(msg)
    found = {}
    for z, rings in marched.items():
        found[z] = [r.bends for r in rings] if holes == "xor" else _joined(rings)
        if max_points is not None and any(len(ring) > max_points for ring in found[z]):
            found[z] = _in_two(mask_zyx[z], holes, max_points)
    return found


@dataclass(frozen=True, slots=True, eq=False)
class _Ring:
    """One closed path around the inside (area > 0) or around a hole (area < 0).

    Attributes
    ----------
    points : every crossing of the lattice
    bends : the points where the path turns
    """

    points: FloatArray
    bends: FloatArray

    @property
    def area(self) -> float:
        return _signed_area(self.bends)


# Segments of a cell of four voxel centres: (which of them are inside: 1 top left, 2 top right,
# 4 bottom right, 8 bottom left; from edge; to edge), with the inside on the left of the path.
# Edges: 0 top, 1 right, 2 bottom, 3 left. Two diagonal voxels stay apart.
_SEGMENTS = (
    *((1, 3, 0), (2, 0, 1), (4, 1, 2), (8, 2, 3), (3, 3, 1), (6, 0, 2), (12, 1, 3), (9, 2, 0)),
    *((7, 3, 2), (14, 0, 3), (13, 1, 0), (11, 2, 1), (5, 3, 0), (5, 1, 2), (10, 0, 1), (10, 2, 3)),
)


def _march(mask_zyx: Mask) -> Iterator[tuple[int, _Ring]]:
    """Marching squares on all slices at once: the slice of each ring, and the ring.

    One segment starts and one ends at every lattice edge between an inside and an outside
    voxel, so the segments are a permutation whose cycles are the rings.
    """
    inside = np.pad(mask_zyx, ((0, 0), (1, 1), (1, 1))).astype(np.uint8)
    _, rows, columns = inside.shape
    kind = inside[:, :-1, :-1] + 2 * inside[:, :-1, 1:]
    kind += 4 * inside[:, 1:, 1:] + 8 * inside[:, 1:, :-1]
    z, y, x = np.nonzero((kind > 0) & (kind < 15))
    kind = kind[z, y, x]
    # The number of an edge: its first voxel, and whether it runs along columns (0) or rows (1).
    cell = 2 * ((z * rows + y) * columns + x)
    edges = np.stack((cell, cell + 3, cell + 2 * columns, cell + 1))
    parts = [(edges[a][kind == case], edges[b][kind == case]) for case, a, b in _SEGMENTS]
    start = np.concatenate([part[0] for part in parts])
    end = np.concatenate([part[1] for part in parts])
    order = np.argsort(start)
    start = start[order]
    after = np.searchsorted(start, end[order])
    points = _crossings(start, inside)
    before = np.empty_like(after)
    before[after] = np.arange(len(after))
    bends = ~_is_straight(points[before], points, points[after])
    slices = (start // 2) // (rows * columns)
    follow = after.tolist()
    seen = bytearray(len(follow))
    for first in range(len(follow)):
        if seen[first]:
            continue
        cycle = []
        place = first
        while not seen[place]:
            seen[place] = 1
            cycle.append(place)
            place = follow[place]
        ring = np.array(cycle)
        yield int(slices[first]), _Ring(points[ring], points[ring[bends[ring]]])


def _crossings(edges: IntArray, inside: npt.NDArray[np.uint8]) -> FloatArray:
    """Row and column in the unpadded slice where each edge is cut at `LEVEL`."""
    flat = inside.ravel()
    voxel, down = edges // 2, edges % 2
    columns = inside.shape[2]
    starts_inside = flat[voxel] == 1
    along = np.where(starts_inside, 1.0 - LEVEL, LEVEL)
    in_slice = voxel % (inside.shape[1] * columns)
    return np.column_stack(
        (
            in_slice // columns - 1.0 + np.where(down == 1, along, 0.0),
            in_slice % columns - 1.0 + np.where(down == 0, along, 0.0),
        )
    )


def _joined(rings: list[_Ring]) -> list[FloatArray]:
    """The rings of one slice, every hole joined to its outline."""
    outers = [ring for ring in rings if ring.area > 0]
    if len(outers) == len(rings):
        return [ring.bends for ring in outers]
    holes = [ring.points for ring in rings if ring.area < 0]
    owned = _assign([ring.points for ring in outers], holes)
    return [
        _without_collinear(_keyhole(outer.points, mine)) if mine else outer.bends
        for outer, mine in zip(outers, owned, strict=True)
    ]


def _in_two(mask_yx: Mask, holes: HoleRule, max_points: int) -> list[FloatArray]:
    """Outline two halves separately: each has fewer points, and no voxel changes."""
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
    """Positive for a path around the inside (on its left), negative around a hole."""
    y, x = ring_yx[:, 0], ring_yx[:, 1]
    return 0.5 * float(np.dot(y, np.roll(x, -1)) - np.dot(x, np.roll(y, -1)))


def _assign(outers: list[FloatArray], holes: list[FloatArray]) -> list[list[FloatArray]]:
    """Assign each hole to the smallest outline around it."""
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

    The cuts run between voxel centres, because a centre on a cut is inside for one reader and
    outside for another.
    """
    if not holes:
        return outer
    ring = _with_midpoints(outer)
    waiting = [_with_midpoints(hole) for hole in holes]
    away = [float(cdist(ring, hole).min()) for hole in waiting]
    while waiting:
        nearest = int(np.argmin(away))
        hole = waiting.pop(nearest)
        del away[nearest]
        i, j = _shortest_bridge(ring, hole)
        around = np.roll(hole, -j, axis=0)
        ring = np.concatenate((ring[: i + 1], around, around[:1], ring[i:]))
        away = [
            min(mm, float(cdist(hole, other).min()))
            for mm, other in zip(away, waiting, strict=True)
        ]
    return ring


def _with_midpoints(ring: FloatArray) -> FloatArray:
    """The ring with a point added between every two, which all lie on rows or columns."""
    between = (ring + np.roll(ring, -1, axis=0)) / 2
    return np.stack((ring, between), axis=1).reshape(-1, 2)


def _shortest_bridge(ring: FloatArray, hole: FloatArray) -> tuple[int, int]:
    """Both ends of the shortest line that keeps clear of voxel centres.

    The rings' own vertices are tried first. They lie on rows or columns and round inward, as
    readers that round to whole voxels (rt-utils) need it; the points between do not.
    """
    on_ring, on_hole = ((each % 1 == 0).any(axis=1) for each in (ring, hole))
    ends = (0, 0)
    for mine, theirs in ((on_ring, on_hole), (~on_ring, ~on_hole)):
        ends, clear = _nearest_clear(ring, hole, np.flatnonzero(mine), np.flatnonzero(theirs))
        if clear:
            break
    return ends


def _nearest_clear(
    ring: FloatArray, hole: FloatArray, mine: IntArray, theirs: IntArray
) -> tuple[tuple[int, int], bool]:
    """The best of the nearest pairs of points, and whether its line is clear of voxel centres."""
    distances = cdist(ring[mine], hole[theirs], "sqeuclidean").ravel()
    count = min(BRIDGES_TRIED, len(distances))
    nearest = np.argpartition(distances, count - 1)[:count]
    nearest = nearest[np.argsort(distances[nearest], kind="stable")]
    ends = [(int(mine[n // len(theirs)]), int(theirs[n % len(theirs)])) for n in nearest]
    best = next((n for n, (i, j) in enumerate(ends) if _is_clear(ring[i], hole[j])), None)
    return ends[best or 0], best is not None


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
    """The ring without the points on the straight line between their neighbours."""
    straight = _is_straight(np.roll(ring, 1, axis=0), ring, np.roll(ring, -1, axis=0))
    return np.asarray(ring[~straight], dtype=np.float64)


def _is_straight(before: FloatArray, here: FloatArray, after: FloatArray) -> Mask:
    """Where the path goes straight on; a path that turns back is not straight."""
    into, out = here - before, after - here
    cross = into[:, 0] * out[:, 1] - into[:, 1] * out[:, 0]
    ahead = (into * out).sum(axis=1) > 0
    return np.asarray((np.abs(cross) < 1e-9) & ahead, dtype=np.bool_)
