"""Adds the sample to a sealed bundle: tiles that a painter paints for its grid and axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from limn.domain.errors import BundleUnfit
from limn.domain.scan import Organ
from limn.segment.bundle.bundle import Bundle, open_bundle
from limn.segment.bundle.sample import Sample, add_sample
from limn.segment.engine.plans import read_plan

# Takes the patch, its spacing (mm) and the letters that its axes grow towards; gives int16 HU and,
# for each organ, the voxels that it fills, of each tile.
Painter = Callable[
    [tuple[int, int, int], tuple[float, float, float], str],
    Sequence[tuple[npt.NDArray[np.int16], dict[Organ, npt.NDArray[np.bool_]]]],
]


def sampled(folder: Path, paint: Painter) -> Bundle:
    """Add the sample to a bundle, and seal it again: its sha256 changes.

    Raises
    ------
    BundleUnfit
        If the bundle is damaged, or its networks are 2d.
    """
    bundle = open_bundle(folder)
    plan = read_plan(bundle)
    across, *within = plan.spacing_mm
    if across is None:
        msg = f"bundle {bundle.label} is 2d; only 3d networks get a sample"
        raise BundleUnfit(msg)
    letters = "".join(bundle.orientation[axis] for axis in plan.transpose)
    hu, truth = [], []
    for tile, organs in paint(plan.patch, (across, within[0], within[1]), letters):
        labels = np.zeros(tile.shape, dtype=np.uint8)
        for label, organ in bundle.organs.items():
            if organ in organs:
                labels[organs[organ]] = label
        hu.append(tile)
        truth.append(labels)
    return add_sample(folder, Sample(np.stack(hu), np.stack(truth)))
