"""Measures how two delineations of one scan differ: DSC, 95 % distance and volume of each organ."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from limn.domain.records import OrganDifference
from limn.domain.scan import Labels, Organ, dice, occupied_box
from limn.segment.compare.distances import SurfaceDistances


def differences(
    old: Labels,
    new: Labels,
    old_lights: Mapping[Organ, str] | None = None,
    new_lights: Mapping[Organ, str] | None = None,
) -> tuple[OrganDifference, ...]:
    """Compare every organ of either delineation, by name, in the order of the old one.

    Raises
    ------
    ValueError
        If the two have other numbers of voxels.
    """
    if old.labels_zyx.shape != new.labels_zyx.shape:
        msg = f"labels of {old.labels_zyx.shape} and {new.labels_zyx.shape} voxels don't compare"
        raise ValueError(msg)
    box = occupied_box(np.maximum(old.labels_zyx, new.labels_zyx))
    old_mm3, new_mm3 = old.volumes_mm3(), new.volumes_mm3()
    found = []
    for organ in dict.fromkeys((*old.organs.values(), *new.organs.values())):
        dsc = hd95_mm = None
        if organ in old_mm3 and organ in new_mm3:
            was, now = (each.labels_zyx[box] == _number(each, organ) for each in (old, new))
            distances = SurfaceDistances.between(was, now, old.grid.spacing_mm)
            far_mm = distances.hausdorff_mm()
            dsc, hd95_mm = dice(was, now), None if math.isnan(far_mm) else far_mm
        found.append(
            OrganDifference(
                organ=organ,
                dsc=dsc,
                hd95_mm=hd95_mm,
                old_mm3=old_mm3.get(organ),
                new_mm3=new_mm3.get(organ),
                old_light=(old_lights or {}).get(organ, ""),
                new_light=(new_lights or {}).get(organ, ""),
            )
        )
    return tuple(found)


def _number(labels: Labels, organ: Organ) -> int:
    return next(number for number, own in labels.organs.items() if own == organ)
