"""Finds the chest on the coarse grid, and lays the box that the folds see around it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from limn.domain.geometry import Grid, Reorientation
from limn.segment.engine.localisation.coarse import COARSE_MM, dense
from limn.segment.engine.localisation.localise import HEART, LUNGS, Localiser
from limn.segment.engine.localisation.orient import STRAIGHT, Lie, shown_spans
from limn.segment.engine.localisation.region import Region

# Length of a field that the localiser knows: a chest from T1 to T13 with neck and belly.
WINDOW_MM = 40.0
# Less of either is no chest; and what a mouse has.
LEAST_HEART_MM3, LEAST_LUNGS_MM3 = 40.0, 80.0
HEART_MM3, LUNGS_MM3 = 220.0, 480.0
# Around a tile along the animal's axes S, P, L: so far the tile can be moved.
SLACK_MM = (5.0, 2.0, 2.0)


def chest_stretches(whole: npt.NDArray[np.float32], localiser: Localiser) -> list[slice]:
    """Slices of the coarse grid that may hold the chest, the most likely first.

    A scan longer than the localiser's fields is looked at in windows, whatever way the animal lies.
    A window counts by the smaller of its heart and its lungs: gas in the bowel makes no chest.

    Parameters
    ----------
    whole : (z, y, x) HU with axes S, P, L by the header, on voxels of `COARSE_MM`
    """
    window = round(WINDOW_MM / COARSE_MM)
    last = max(0, len(whole) - window)
    (top, bottom), (left, right) = shown_spans(dense(whole))
    found = []
    for start in sorted({*range(0, last, window // 2), last}):
        labels = localiser.label(
            np.ascontiguousarray(whole[start : start + window, top:bottom, left:right])
        )
        heart, lungs = (int((labels == each).sum()) * COARSE_MM**3 for each in (HEART, LUNGS))
        if heart < LEAST_HEART_MM3 or lungs < LEAST_LUNGS_MM3:
            continue
        slices = ((labels == HEART) | (labels == LUNGS)).sum(axis=(1, 2))
        middle = start + round(float(np.average(np.arange(len(slices)), weights=slices)))
        found.append((min(heart / HEART_MM3, lungs / LUNGS_MM3), middle))
    if last == 0:
        return [slice(0, len(whole))] if found else []
    return [
        slice(max(0, middle - window // 2), min(len(whole), middle + window // 2))
        for _, middle in sorted(found, reverse=True)
    ]


def find_chest(
    whole: npt.NDArray[np.float32], lie: Lie, stretch: slice, localiser: Localiser
) -> Region | None:
    """The organs' box on the coarse grid; None if the localiser sees no whole chest.

    Parameters
    ----------
    whole, stretch : see `chest_stretches`
    """
    (top, bottom), (left, right) = shown_spans(dense(whole[stretch]))
    field = whole[stretch, top:bottom, left:right]
    turn = Reorientation.between(lie.letters, STRAIGHT)
    straight = np.ascontiguousarray(turn.apply(field))
    found = localiser.find(straight)
    if found is None:
        return None
    z, y, x = straight.shape
    return found.turned_back(turn, (z, y, x)).moved((stretch.start, top, left))


@dataclass(frozen=True, slots=True)
class ChestBox:
    """Where the folds look for the chest.

    Attributes
    ----------
    outer : in voxels of the scan; all that is prepared for the folds
    organs : first and last of the organs along the scan's axes, as shares of the outer box
    """

    outer: Region
    organs: tuple[tuple[float, float], ...]


def box_around_chest(
    chest: Region,
    coarse_shape: tuple[int, ...],
    grid: Grid,
    lie: Lie,
    tile_mm: tuple[float, float, float],
) -> ChestBox:
    """The box of a tile and the slack around it, as far as the scan goes.

    Parameters
    ----------
    chest : the organs' box on the coarse grid, whose axes are S, P, L by the header
    coarse_shape : of that grid, which covers the scan
    grid : of the scan
    tile_mm : along the animal's own axes S, P, L
    """
    turn = Reorientation.between(grid.axis_letters, STRAIGHT)
    # Axes of the header's S, P, L that the animal's own S, P, L run along.
    own = Reorientation.between(lie.letters, STRAIGHT).axes
    low, high = [0, 0, 0], [0, 0, 0]
    organs = [(0.0, 1.0)] * 3
    for k in range(3):
        axis, mine = turn.axes[k], own.index(k)
        begin, end = chest.low[k] / coarse_shape[k], chest.high[k] / coarse_shape[k]
        if turn.flipped[k]:
            begin, end = 1.0 - end, 1.0 - begin
        count, mm = grid.shape_zyx[axis], grid.spacing_mm.zyx[axis]
        wanted_mm = max(tile_mm[mine], (end - begin) * count * mm) + 2 * SLACK_MM[mine]
        length = min(count, round(wanted_mm / mm))
        first = round((begin + end) / 2 * count - length / 2)
        low[axis] = min(max(0, first), count - length)
        high[axis] = low[axis] + length
        organs[axis] = ((begin * count - low[axis]) / length, (end * count - low[axis]) / length)
    outer = Region((low[0], low[1], low[2]), (high[0], high[1], high[2]))
    return ChestBox(outer, tuple(organs))
