"""Interpolates missing slices for the network alone, and finds the organs that they cut."""

from __future__ import annotations

import numpy as np

from limn.domain.geometry import Grid, IntArray
from limn.domain.scan import Labels, Organ, Volume

# The cord runs through every slice of a scan, so every gap cuts it. Away from heart and lungs
# its contour may be absent from the missing slice.
THORACIC = (Organ.HEART, Organ.LUNG_R, Organ.LUNG_L)


def bridge(volume: Volume, rungs: IntArray) -> Volume:
    """Interpolate the missing slices linearly between their neighbours.

    Parameters
    ----------
    rungs : (n,) index of every slice on the even ladder, see `domain.geometry.ladder`
    """
    count = int(rungs[-1]) + 1
    if count == len(rungs):
        return volume
    places = np.arange(count)
    above = np.searchsorted(rungs, places)
    below = np.where(rungs[above] == places, above, above - 1)
    span = np.maximum(rungs[above] - rungs[below], 1)
    share = ((places - rungs[below]) / span).astype(np.float32)[:, None, None]
    hu_zyx = volume.hu_zyx[below] * (1 - share) + volume.hu_zyx[above] * share
    return Volume(hu_zyx.astype(np.float32), _even(volume.grid, rungs, count))


def _even(grid: Grid, rungs: IntArray, count: int) -> Grid:
    origins = grid.slice_origins_xyz_mm
    places = np.arange(count)
    return Grid(
        slice_origins_xyz_mm=np.column_stack(
            [np.interp(places, rungs, origins[:, axis]) for axis in range(3)]
        ),
        rows=grid.rows,
        columns=grid.columns,
        spacing_y_mm=grid.spacing_y_mm,
        spacing_x_mm=grid.spacing_x_mm,
        along_x_xyz=grid.along_x_xyz,
        along_y_xyz=grid.along_y_xyz,
    )


def unbridge(labels: Labels, rungs: IntArray, grid: Grid) -> Labels:
    """Labels of the slices that exist, at their own positions."""
    if len(labels.labels_zyx) == len(rungs):
        return labels
    return Labels(np.ascontiguousarray(labels.labels_zyx[rungs]), grid, labels.organs)


def organs_in_gaps(labels: Labels, rungs: IntArray) -> list[Organ]:
    """Organs that a missing slice cuts: heart and lungs anywhere, the cord only beside them.

    ``labels`` are on the bridged grid.
    """
    missing = np.setdiff1d(np.arange(len(labels.labels_zyx)), rungs)
    if len(missing) == 0:
        return []
    cut = [
        organ
        for organ in THORACIC
        if organ in labels.organs.values() and labels.mask(organ)[missing].any()
    ]
    thorax = np.flatnonzero(
        np.isin(
            labels.labels_zyx, [k for k, organ in labels.organs.items() if organ in THORACIC]
        ).any(axis=(1, 2))
    )
    beside = missing[(missing >= thorax[0]) & (missing <= thorax[-1])] if len(thorax) else missing
    if labels.mask(Organ.CORD)[beside].any():
        cut.append(Organ.CORD)
    return cut
