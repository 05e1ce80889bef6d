"""Removes islands from the labels and counts the voxels that go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import cc3d
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from limn.domain.geometry import SpacingMm
from limn.domain.scan import Labels, Organ, occupied_box
from limn.segment.bundle.bundle import CleanRule

# Voxels are connected by a face, an edge or a corner.
CONNECTIVITY: Literal[26] = 26

Mask: TypeAlias = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Cleaned:
    """Labels without islands.

    Attributes
    ----------
    removed_voxels : voxels removed from each organ
    """

    labels: Labels
    removed_voxels: Mapping[Organ, int]


def clean(labels: Labels, rules: Mapping[Organ, CleanRule]) -> Cleaned:
    """Apply the bundle's rule to every organ (Malimban 2022: islands of abdominal gas)."""
    kept = labels.labels_zyx.copy()
    thorax = kept[labels.box]
    spacing_mm = labels.grid.spacing_mm
    removed: dict[Organ, int] = {}
    for label, organ in labels.organs.items():
        inside = thorax[occupied_box(thorax == label)]
        removed[organ] = 0
        if inside.size:
            drop = _islands(inside == label, rules[organ], spacing_mm)
            inside[drop] = 0
            removed[organ] = int(drop.sum())
    return Cleaned(labels.on_voxels(kept, labels.grid), removed)


def _islands(mask: Mask, rule: CleanRule, spacing_mm: SpacingMm) -> Mask:
    """The components that the rule does not keep."""
    components, count = cc3d.connected_components(mask, connectivity=CONNECTIVITY, return_N=True)
    sizes = np.bincount(components.ravel(), minlength=count + 1)
    sizes[0] = 0
    largest = int(sizes.argmax())
    keep = np.zeros(count + 1, dtype=bool)
    if rule.keep == "pieces":
        keep = sizes * spacing_mm.voxel_mm3 >= rule.min_mm3
        keep[0] = False
        if keep.sum() > 1 and np.isfinite(rule.within_mm):
            away_mm = ndimage.distance_transform_edt(components != largest, sampling=spacing_mm.zyx)
            nearest_mm = ndimage.minimum(away_mm, components, np.arange(count + 1))
            keep &= np.asarray(nearest_mm) <= rule.within_mm
    keep[largest] = True
    return np.asarray(mask & ~keep[components], dtype=np.bool_)
