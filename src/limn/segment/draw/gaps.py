"""Takes interpolated slices out of the labels, and finds the organs that missing slices cut."""

from __future__ import annotations

import numpy as np

from limn.domain.geometry import Grid, IntArray
from limn.domain.scan import Labels, Organ, Role


def unbridge(labels: Labels, rungs: IntArray, grid: Grid) -> Labels:
    """Labels of the slices that exist, at their own positions."""
    if len(labels.labels_zyx) == len(rungs):
        return labels
    return labels.on_voxels(np.ascontiguousarray(labels.labels_zyx[rungs]), grid)


def organs_in_gaps(labels: Labels, rungs: IntArray) -> list[Organ]:
    """Organs that a missing slice cuts, the cord only where it lies beside another organ.

    The cord runs through every slice of a scan, so every gap cuts it. Away from the others its
    contour may be absent from the missing slice. ``labels`` are on the bridged grid.
    """
    missing = np.setdiff1d(np.arange(len(labels.labels_zyx)), rungs)
    if len(missing) == 0:
        return []
    cord = labels.organ_of(Role.CORD)
    others = [organ for organ in labels.organs.values() if organ != cord]
    cut = [organ for organ in others if labels.mask(organ)[missing].any()]
    if cord is not None:
        is_other = np.isin(
            labels.labels_zyx, [k for k, organ in labels.organs.items() if organ != cord]
        )
        found = np.flatnonzero(is_other.any(axis=(1, 2)))
        if len(found):
            missing = missing[(missing >= found[0]) & (missing <= found[-1])]
        if labels.mask(cord)[missing].any():
            cut.append(cord)
    return cut
