"""Measures how two delineations of one scan differ: DSC, 95 % distance and volume of each organ.

Surfaces and distances are defined as in the lab's scores (D-028): the surface is the centres of an
organ's voxels with a face neighbour outside it, and the 95 % distance is the larger of the two
directed 95th percentiles.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_erosion
from scipy.spatial import KDTree

from limn.domain.geometry import FloatArray, SpacingMm
from limn.domain.records import OrganDifference
from limn.domain.scan import Labels, Organ, dice, occupied_box

Mask = npt.NDArray[np.bool_]

SHARE_PERCENT = 95.0


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
            masks = [each.labels_zyx[box] == _number(each, organ) for each in (old, new)]
            dsc, hd95_mm = dice(*masks), _hd95_mm(masks[0], masks[1], old.grid.spacing_mm)
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


def _hd95_mm(first: Mask, second: Mask, spacing_mm: SpacingMm) -> float | None:
    """The 95 % Hausdorff distance of two masks; None if one is empty."""
    if not first.any() or not second.any():
        return None
    points = [_surface_mm(mask, spacing_mm) for mask in (first, second)]
    directed = [KDTree(to).query(start)[0] for start, to in (points, points[::-1])]
    return max(float(np.percentile(mm, SHARE_PERCENT)) for mm in directed)


def _surface_mm(mask: Mask, spacing_mm: SpacingMm) -> FloatArray:
    """Centres of the surface voxels along the array's axes: (n, 3), mm."""
    return np.asarray(np.argwhere(mask & ~binary_erosion(mask)) * spacing_mm.zyx, dtype=np.float64)
