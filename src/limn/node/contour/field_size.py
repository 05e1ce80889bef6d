"""Refuses a field of a size that no small animal's scan has, before memory is asked for."""

from __future__ import annotations

import math

from limn.domain.errors import RefusedSeries
from limn.domain.geometry import Grid
from limn.segment.bundle.species import Species

# The longest side of a field, and its volume: a bed with four mice is 200 mm long.
MOST_MM, MOST_LITRES = 300.0, 10.0
# Of three sides, the middle one has at least so much: a chest is wider, a stack may be short.
LEAST_MM = 8.0
# The cord of a mouse is 1.5 to 2 mm wide: longer voxels show nothing that could be contoured.
LONGEST_VOXEL_MM = 1.5
# The longest side of the usual field. A factor that leads there may be a wrong unit.
USUAL_MM = (15.0, 150.0)
UNITS = {
    1000.0: "perhaps micrometres were written as mm",
    0.1: "perhaps centimetres were written as mm",
    0.001: "perhaps metres were written as mm",
}


def refuse_field(grid: Grid, species: Species) -> None:
    """Refuse a field that is far too large or too small, before memory is asked for.

    Raises
    ------
    RefusedSeries
        Names the attribute, the field, the likely unit and what to do.
    """
    mm = grid.spacing_mm
    # From end to end: missing slices count.
    ends = grid.slice_positions_mm[[0, -1]]
    sides = (float(abs(ends[1] - ends[0])) + mm.z, grid.rows * mm.y, grid.columns * mm.x)
    litres = math.prod(sides) / 1e6
    if max(sides) > MOST_MM:
        axis = sides.index(max(sides))
        expected = f"at most {MOST_MM:.0f} mm expected"
    elif litres > MOST_LITRES:
        axis, expected = sides.index(max(sides)), f"at most {MOST_LITRES:.0f} litres expected"
    elif sorted(sides)[1] < LEAST_MM:
        axis, expected = sides.index(sorted(sides)[1]), f"at least {LEAST_MM:.0f} mm expected"
    else:
        _refuse_voxels(grid, species)
        return
    step = _step(grid, axis)
    keyword = step.partition(" ")[0]
    shown = " x ".join(_length(side) for side in reversed(sides))
    extent = ("long", "high", "wide")[axis]
    msg = (
        f"{step}: the field is {_length(sides[axis])} {extent} (in all {shown}), no scan "
        f"of a {species.name} is; {expected}. {_likely(max(sides), species)}; mend {keyword} where "
        "the scan is exported, and send it again"
    )
    raise RefusedSeries(msg)


def _refuse_voxels(grid: Grid, species: Species) -> None:
    """Refuse voxels that are too long along one axis, as by a wrong distance of slices."""
    sides_mm = grid.spacing_mm.zyx
    axis = sides_mm.index(max(sides_mm))
    if sides_mm[axis] > LONGEST_VOXEL_MM:
        step = _step(grid, axis)
        msg = (
            f"{step}: at most {LONGEST_VOXEL_MM:g} mm expected; longer voxels show no organ of a "
            f"{species.name}. Mend {step.partition(' ')[0]} where the scan is exported, and send "
            "it again, or scan with a smaller one"
        )
        raise RefusedSeries(msg)


def _step(grid: Grid, axis: int) -> str:
    """The attribute that gives the voxels' side along an axis z, y, x, and its value."""
    shown = f"{grid.spacing_mm.zyx[axis]:.4g} mm"
    return f"PixelSpacing {shown}" if axis else f"ImagePositionPatient {shown} from slice to slice"


def _likely(longest_mm: float, species: Species) -> str:
    for factor, words in UNITS.items():
        if USUAL_MM[0] <= longest_mm / factor <= USUAL_MM[1]:
            return words.capitalize()
    if longest_mm < USUAL_MM[0]:
        return "The voxel size is too small"
    return (
        f"Either this is a person or an animal larger than a {species.name}, sent by mistake, or "
        "the voxel size is wrong"
    )


def _length(mm: float) -> str:
    return f"{mm / 1000:.3g} m" if mm >= 1000 else f"{mm:.3g} mm"
