"""Lays the box that the folds see around a chest that the localiser found."""

from __future__ import annotations

from limn.domain.geometry import Grid, Reorientation
from limn.segment.engine.orient import STRAIGHT, Lie
from limn.segment.engine.region import Region

# If the organs fit into one tile with this margin, the box is that tile.
TIGHT_MM = 1.0
# The margin of a box of several tiles.
LOOSE_MM = 2.0


def box_around_chest(
    chest: Region,
    coarse_shape: tuple[int, ...],
    grid: Grid,
    lie: Lie,
    tile_mm: tuple[float, float, float],
) -> Region:
    """The box in voxels of the scan, at least one tile large where the scan is.

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
    for k in range(3):
        axis = turn.axes[k]
        begin, end = chest.low[k] / coarse_shape[k], chest.high[k] / coarse_shape[k]
        if turn.flipped[k]:
            begin, end = 1.0 - end, 1.0 - begin
        low[axis], high[axis] = _span(
            (begin, end), grid.shape_zyx[axis], grid.spacing_mm.zyx[axis], tile_mm[own.index(k)]
        )
    return Region((low[0], low[1], low[2]), (high[0], high[1], high[2]))


def _span(organs: tuple[float, float], count: int, mm: float, tile_mm: float) -> tuple[int, int]:
    """First voxel, and last plus one, along one axis.

    Parameters
    ----------
    organs : where they begin and end, as shares of the scan's length
    """
    first_mm, last_mm = (share * count * mm for share in organs)
    long_mm = last_mm - first_mm
    fits = long_mm + 2 * TIGHT_MM <= tile_mm
    wanted_mm = tile_mm if fits else max(tile_mm, long_mm + 2 * LOOSE_MM)
    length = min(count, max(1, int(wanted_mm / mm + 1e-6)))
    start = round((first_mm + last_mm) / 2 / mm - length / 2)
    start = min(max(0, start), count - length)
    return start, start + length
