"""Weighs whether left is left: the signs in the image that tell an animal from its mirror image.

No planner sees that the lungs are exchanged. So four signs speak together, each in nats (natural
logarithm of how much more likely it is in this animal than in its mirror image): what the onlooker
sees, the right lung's share, on which side of the spine the heart lies, and to which side its apex
leans. The header's own word is a prior, and no more. Means and spreads of the anatomical signs are
those of thirty phantoms; the spreads are doubled, for real animals vary more.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from limn.domain.scan import Labels, Role, by_role
from limn.segment.engine.localisation.orient import PRIOR_MIRRORED, Lie, right_lung_share

# Mean of a sign, and its spread; in a mirror image the mean is the opposite.
RIGHT_SHARE_BEYOND_HALF = (0.091, 0.072)
HEART_LEFT_MM = (1.6, 1.3)
APEX_LEFT_MM = (1.2, 0.8)
# No sign alone may decide.
MOST_NATS = 6.0
# Left is left if this is as likely or more.
SURE = 0.99
# The spine runs straight enough for this length beside the heart.
BESIDE_MM = 5.0
# Fewer voxels of an organ tell no direction.
FEWEST_VOXELS = 30


@dataclass(frozen=True, slots=True)
class Sides:
    """The signs that tell left from right, in the animal as it is taken to lie.

    Attributes
    ----------
    onlooker_nats : by how much the onlooker prefers this way to lie to any mirror image
    right_lung_share : of both lungs' volume
    heart_left_mm : how far the heart's middle lies to the left of the spine
    apex_left_mm : how far the heart's caudal quarter lies to the left of its cranial one
    believed_mirrored : the animal is taken for a mirror image
    """

    onlooker_nats: float
    right_lung_share: float | None
    heart_left_mm: float | None
    apex_left_mm: float | None
    believed_mirrored: bool

    @property
    def nats(self) -> float:
        """How much more likely left is left than not: the sum of prior and signs."""
        share = None if self.right_lung_share is None else self.right_lung_share - 0.5
        prior = float(np.log((1 - PRIOR_MIRRORED) / PRIOR_MIRRORED))
        return (
            (-prior if self.believed_mirrored else prior)
            + _at_most(self.onlooker_nats)
            + _sign(share, RIGHT_SHARE_BEYOND_HALF)
            + _sign(self.heart_left_mm, HEART_LEFT_MM)
            + _sign(self.apex_left_mm, APEX_LEFT_MM)
        )

    @property
    def probability(self) -> float:
        """That left is left."""
        return float(1.0 / (1.0 + np.exp(-self.nats)))

    @property
    def exchanged(self) -> bool:
        """Whether the signs say that left and right are exchanged."""
        return self.probability <= 1.0 - SURE

    @property
    def sure(self) -> bool:
        """Whether the signs leave no doubt that left is left."""
        return self.probability >= SURE

    @property
    def words(self) -> str:
        """The signs for a person."""
        signs = [f"onlooker {self.onlooker_nats:+.1f} nats"]
        if self.right_lung_share is not None:
            signs.append(f"right lung {100 * self.right_lung_share:.0f} % of both (a mouse: 59)")
        if self.heart_left_mm is not None:
            signs.append(f"heart {_side(self.heart_left_mm)} of the spine")
        if self.apex_left_mm is not None:
            signs.append(f"apex {_side(self.apex_left_mm)}")
        return ", ".join(signs)


# Of a scan in which nothing was drawn.
NO_SIGNS = Sides(0.0, None, None, None, believed_mirrored=False)


def weigh_sides(labels: Labels, lie: Lie) -> Sides:
    """Measure the signs.

    Parameters
    ----------
    labels : of the straightened scan, whose axes are the animal's S, P, L
    """
    heart_left_mm, apex_left_mm = _heart(labels)
    share = right_lung_share(by_role(labels.volumes_mm3(), labels.roles))
    return Sides(lie.hand_nats, share, heart_left_mm, apex_left_mm, lie.mirrored)


def _heart(labels: Labels) -> tuple[float | None, float | None]:
    """`Sides.heart_left_mm` and `Sides.apex_left_mm`; None without heart, cord and lungs.

    They are measured in the chest's own frame: the spine beside the heart runs towards the head,
    the lungs lie in front of it. So a rolled or bent animal changes little.
    """
    heart, cord = _places_mm(labels, Role.HEART), _places_mm(labels, Role.CORD)
    lungs = np.concatenate([_places_mm(labels, each) for each in (Role.LUNG_R, Role.LUNG_L)])
    if min(len(heart), len(cord), len(lungs)) < FEWEST_VOXELS:
        return None, None
    middle = heart.mean(axis=0)
    cord = cord[np.abs(cord[:, 0] - middle[0]) < BESIDE_MM]
    if len(cord) < FEWEST_VOXELS:
        return None, None
    spine = cord.mean(axis=0)
    cranial = np.linalg.svd(cord - spine, full_matrices=False)[2][0]
    cranial = cranial * np.sign(cranial[0])
    ventral = lungs.mean(axis=0) - spine
    ventral -= cranial * (ventral @ cranial)
    # In axes S, P, L this cross product points to the animal's left.
    left = np.cross(ventral / np.linalg.norm(ventral), cranial)
    along = (heart - middle) @ cranial
    apex = heart[along < np.percentile(along, 25)].mean(axis=0)
    base = heart[along > np.percentile(along, 75)].mean(axis=0)
    return float((middle - spine) @ left), float((apex - base) @ left)


def _places_mm(labels: Labels, role: Role) -> npt.NDArray[np.float64]:
    """Places (n, 3) of an organ's voxels along z, y, x; none if no organ has the role."""
    organ = labels.organ_of(role)
    if organ is None:
        return np.zeros((0, 3))
    found = np.argwhere(labels.mask(organ)[labels.box]).astype(np.float64)
    return np.asarray(found * np.array(labels.grid.spacing_mm.zyx))


def _sign(value: float | None, usual: tuple[float, float]) -> float:
    """Nats of a sign that is normal about the mean, and about its opposite in a mirror image."""
    mean, spread = usual
    return 0.0 if value is None else _at_most(2.0 * mean * value / spread**2)


def _at_most(nats: float) -> float:
    return float(np.clip(nats, -MOST_NATS, MOST_NATS))


def _side(left_mm: float) -> str:
    return f"{abs(left_mm):.1f} mm to the {'left' if left_mm >= 0 else 'right'}"
