"""Puts a series with missing slices on an even ladder; the missing ones are interpolated."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from limn.domain.geometry import Grid, IntArray


def even_grid(grid: Grid, rungs: IntArray) -> Grid:
    """The grid with every slice; the grid itself if none is missing.

    Parameters
    ----------
    rungs : (n,) index of every slice on the even ladder, see `domain.geometry.ladder`
    """
    count = int(rungs[-1]) + 1
    if count == len(rungs):
        return grid
    origins = grid.slice_origins_xyz_mm
    places = np.arange(count)
    return replace(
        grid,
        slice_origins_xyz_mm=np.column_stack(
            [np.interp(places, rungs, origins[:, axis]) for axis in range(3)]
        ),
    )


def fill_missing(hu_zyx: npt.NDArray[np.float32], rungs: IntArray) -> None:
    """Interpolate every missing slice linearly between its neighbours, in place.

    Parameters
    ----------
    hu_zyx : (z, y, x) on the even ladder; the slices in ``rungs`` are there
    """
    for place in np.setdiff1d(np.arange(len(hu_zyx)), rungs):
        after = int(np.searchsorted(rungs, place))
        below, above = int(rungs[after - 1]), int(rungs[after])
        share = np.float32((place - below) / (above - below))
        hu_zyx[place] = hu_zyx[below] * (1 - share) + hu_zyx[above] * share
