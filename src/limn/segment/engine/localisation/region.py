"""Finds the region of the organs by one fold alone, and grows it if it cuts an organ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cc3d
import numpy as np
import numpy.typing as npt

from limn.domain.geometry import Reorientation

ShapeZyx = tuple[int, int, int]

# Margin around the organs of the first fold. The cord has no end of its own, so the margin along
# the body is larger: one vertebra at either end.
MARGIN_MM = (4.5, 2.5, 2.5)
# Smaller pieces in the first fold's labels are taken for mistakes.
LEAST_MM3 = 4.0
# The largest distance between the middles of two organs of one animal.
REACH_MM = (18.0, 12.0, 12.0)
# The least margin around the organs of a region that is one tile.
TIGHT_MM = 1.0
# How far a side that cuts an organ is moved out.
GROWTH_MM = 6.0


@dataclass(frozen=True, slots=True)
class Region:
    """A part of the network's grid: first voxel, and last voxel plus one, along z, y, x."""

    low: ShapeZyx
    high: ShapeZyx

    @classmethod
    def whole(cls, shape: ShapeZyx) -> Region:
        """All of a grid."""
        return cls((0, 0, 0), shape)

    @property
    def shape(self) -> ShapeZyx:
        """Voxels along z, y, x."""
        z, y, x = (high - low for low, high in zip(self.low, self.high, strict=True))
        return (z, y, x)

    def turned_back(self, turn: Reorientation, shape: ShapeZyx) -> Region:
        """The region of a turned array as one of the array itself.

        Parameters
        ----------
        shape : of the turned array
        """
        low, high = [0, 0, 0], [0, 0, 0]
        for k in range(3):
            span = (self.low[k], self.high[k])
            if turn.flipped[k]:
                span = (shape[k] - self.high[k], shape[k] - self.low[k])
            low[turn.axes[k]], high[turn.axes[k]] = span
        return Region((low[0], low[1], low[2]), (high[0], high[1], high[2]))

    def moved(self, by: ShapeZyx) -> Region:
        """The region of a part of an array as one of the array; the part begins there."""
        return Region(
            (self.low[0] + by[0], self.low[1] + by[1], self.low[2] + by[2]),
            (self.high[0] + by[0], self.high[1] + by[1], self.high[2] + by[2]),
        )

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """For indexing an array of the grid."""
        z, y, x = (slice(low, high) for low, high in zip(self.low, self.high, strict=True))
        return (z, y, x)


@dataclass(frozen=True, slots=True)
class _Piece:
    """One connected piece of an organ, and its box: first voxel, and last voxel plus one."""

    label: int
    mm3: float
    low: npt.NDArray[np.int64]
    high: npt.NDArray[np.int64]


def region_of_organs(
    labels_zyx: npt.NDArray[np.uint8],
    organs: int,
    spacing_mm: tuple[float, float, float],
    margin_mm: tuple[float, float, float] = MARGIN_MM,
    *,
    complete: bool = True,
) -> Region | None:
    """The surroundings of the thorax; None if there is no organ, or not enough of them.

    In a long or wide scan one fold also finds organs in beds and bowels. But the organs of one
    animal lie together: the thorax is where most organs have most of their volume within reach of
    each other. Pieces that are farther away are ignored.

    Parameters
    ----------
    organs : the number of labels, which are 1 to ``organs``
    complete : whether every organ must be there
    """
    pieces = _pieces(labels_zyx, organs, spacing_mm)
    reach = np.array(REACH_MM) / spacing_mm
    together = max(
        (_within(pieces, (piece.low + piece.high) / 2, reach) for piece in pieces),
        key=lambda near: _completeness(near, pieces, organs),
        default=[],
    )
    missing = set(range(1, organs + 1)) - {piece.label for piece in together}
    if not together or (missing and complete):
        return None
    margin = np.round(np.array(margin_mm) / spacing_mm).astype(int)
    low = np.min([piece.low for piece in together], axis=0)
    high = np.max([piece.high for piece in together], axis=0)
    return _clipped(low - margin, high + margin, labels_zyx.shape)


def _pieces(
    labels_zyx: npt.NDArray[np.uint8], organs: int, spacing_mm: tuple[float, float, float]
) -> list[_Piece]:
    """Every piece that is large enough to be no mistake."""
    voxel_mm3 = float(np.prod(spacing_mm))
    pieces = []
    for label in range(1, organs + 1):
        found = cc3d.statistics(cc3d.connected_components(labels_zyx == label, connectivity=26))
        for count, spans in zip(
            found["voxel_counts"][1:], found["bounding_boxes"][1:], strict=True
        ):
            if count * voxel_mm3 >= LEAST_MM3:
                low, high = (
                    np.array([getattr(s, end) for s in spans]) for end in ("start", "stop")
                )
                pieces.append(_Piece(label, float(count) * voxel_mm3, low, high))
    return pieces


def _within(
    pieces: list[_Piece], middle: npt.NDArray[np.float64], reach: npt.NDArray[np.float64]
) -> list[_Piece]:
    """The pieces whose middle is within reach of a point."""
    return [
        piece for piece in pieces if (np.abs((piece.low + piece.high) / 2 - middle) <= reach).all()
    ]


def _completeness(near: list[_Piece], pieces: list[_Piece], organs: int) -> tuple[int, float]:
    """How complete a thorax is: its organs, and their volumes as shares of the largest pieces."""
    whole = 0.0
    for label in range(1, organs + 1):
        largest = max((p.mm3 for p in pieces if p.label == label), default=0.0)
        own = sum(p.mm3 for p in near if p.label == label)
        whole += min(1.0, own / largest) if largest else 0.0
    return len({piece.label for piece in near}), whole


def at_least(region: Region, patch: ShapeZyx, shape: ShapeZyx) -> Region:
    """The region, grown to the size of a patch as far as the grid allows."""
    low, high = np.array(region.low), np.array(region.high)
    lacking = np.maximum(np.array(patch) - (high - low), 0)
    low = low - lacking // 2
    # Voxels that a face of the grid cuts off are added on the other side.
    low = np.maximum(np.minimum(low, np.array(shape) - np.maximum(patch, high - low)), 0)
    high = np.maximum(high, low + patch)
    return _clipped(low, high, shape)


def region_of_shares(
    organs: Sequence[tuple[float, float]],
    shape: ShapeZyx,
    spacing_mm: tuple[float, float, float],
) -> Region:
    """The surroundings of organs that begin and end at these shares of a grid."""
    margin = np.round(TIGHT_MM / np.array(spacing_mm))
    low, high = (
        np.round(np.array([span[k] for span in organs]) * shape + sign * margin).astype(int)
        for k, sign in ((0, -1), (1, 1))
    )
    return _clipped(low, high, shape)


def moved_or_grown(
    region: Region,
    labels_zyx: npt.NDArray[np.uint8],
    shape: ShapeZyx,
    spacing_mm: tuple[float, float, float],
) -> Region:
    """Like `grown`, but moved where a face cuts an organ and there is room at the other face.

    A region of the size of one tile remains one.
    """
    low, high = np.array(region.low), np.array(region.high)
    for axis in range(3):
        found = np.flatnonzero(labels_zyx.max(axis=tuple(i for i in range(3) if i != axis)))
        if not len(found):
            continue
        tight = round(TIGHT_MM / spacing_mm[axis])
        before, after = int(found[0]), labels_zyx.shape[axis] - 1 - int(found[-1])
        if before and not after and before > 2 * tight:
            step = min(before - tight, shape[axis] - region.high[axis])
        elif after and not before and after > 2 * tight:
            step = -min(after - tight, region.low[axis])
        else:
            more = max(1, round(GROWTH_MM / spacing_mm[axis]))
            low[axis] -= more * (before == 0)
            high[axis] += more * (after == 0)
            continue
        low[axis] += step
        high[axis] += step
    return _clipped(low, high, shape)


def grown(
    region: Region,
    labels_zyx: npt.NDArray[np.uint8],
    shape: ShapeZyx,
    spacing_mm: tuple[float, float, float],
) -> Region:
    """The region with every face moved out that an organ touches; unchanged if none does.

    Parameters
    ----------
    labels_zyx : labels of the region
    shape : of the whole grid, whose faces stay
    """
    low, high = np.array(region.low), np.array(region.high)
    for axis in range(3):
        more = max(1, round(GROWTH_MM / spacing_mm[axis]))
        first, last = np.take(labels_zyx, 0, axis), np.take(labels_zyx, -1, axis)
        low[axis] -= more * bool(first.any())
        high[axis] += more * bool(last.any())
    return _clipped(low, high, shape)


def _clipped(low: np.ndarray, high: np.ndarray, shape: tuple[int, ...]) -> Region:
    z0, y0, x0 = (max(0, int(n)) for n in low)
    z1, y1, x1 = (min(int(most), int(n)) for n, most in zip(high, shape, strict=True))
    return Region((z0, y0, x0), (z1, y1, x1))
