"""Takes interpolated slices out of the labels, and finds the organs that missing slices cut."""

from __future__ import annotations

import numpy as np

from limn.domain.geometry import Grid, IntArray
from limn.domain.scan import Labels, Organ

# The cord runs through every slice of a scan, so every gap cuts it. Away from heart and lungs
# its contour may be absent from the missing slice.
THORACIC = (Organ.HEART, Organ.LUNG_R, Organ.LUNG_L)


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
