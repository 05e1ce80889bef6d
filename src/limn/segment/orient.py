"""Whether the anatomy agrees with the way the header says that the animal lies.

A header that calls a prone mouse supine turns left into right, and nothing in the geometry can
show it. The organs can: the cord lies on the back's side of the heart, the left lung on the
animal's left, and the right lung is the larger (0.60-0.66 of both in measured mice).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from limn.domain.geometry import Reorientation
from limn.domain.scan import Labels, Organ

# The cord runs 5-9 mm behind the heart's middle; less than this is another animal's way to lie.
MIN_BEHIND_MM = 1.5
MIN_RIGHT_SHARE = 0.48


def contradictions(labels: Labels) -> list[str]:
    """What speaks against the header; empty when the anatomy agrees or can't tell."""
    turn = Reorientation.between(labels.grid.axis_letters, "SPL")
    spacing = turn.spacing(labels.grid.spacing_mm).zyx
    # The organs' box is enough, for only distances between organs count.
    turned = turn.apply(labels.labels_zyx[labels.box])
    middle_mm = {}
    for label, organ in labels.organs.items():
        found = np.argwhere(turned == label)
        if len(found):
            middle_mm[organ] = found.mean(axis=0) * spacing
    said = []
    if {Organ.CORD, Organ.HEART} <= set(middle_mm):
        behind_mm = float(middle_mm[Organ.CORD][1] - middle_mm[Organ.HEART][1])
        if behind_mm < MIN_BEHIND_MM:
            said.append(f"the cord lies {-behind_mm:.1f} mm to the belly's side of the heart")
    if {Organ.LUNG_L, Organ.LUNG_R} <= set(middle_mm):
        left_mm = float(middle_mm[Organ.LUNG_L][2] - middle_mm[Organ.LUNG_R][2])
        if left_mm < 0:
            said.append("the left lung lies on the animal's right")
    return said


def right_lung_share(volumes_mm3: Mapping[Organ, float]) -> float | None:
    """Share of the right lung in both; None when one is absent."""
    left, right = volumes_mm3.get(Organ.LUNG_L, 0.0), volumes_mm3.get(Organ.LUNG_R, 0.0)
    return right / (left + right) if left and right else None
