"""What is wrong with a contoured scan before anyone learns from it, said in words.

Array axes are S, P, L throughout: the last one grows towards the animal's left.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from limn.domain.geometry import Grid
from limn.domain.scan import Volume, dice
from limn.lab.data.folder_layout import LABEL_OF, Contours
from limn.lab.data.readers import corners_mm

LabelArray = npt.NDArray[np.uint8]

HEART, CORD, LUNG_R, LUNG_L, LUNGS = (
    LABEL_OF[word] for word in ("Heart", "SpinalCord", "Lung_R", "Lung_L", "Lungs")
)
# Share of both lungs that the right one has: 0.64 and 0.65 in two real mice.
RIGHT_AT_LEAST = 0.5
# Two people's hearts, or lungs, of one scan; those of two scans hardly meet.
SAME_ORGAN = 0.3
# Air in it makes lung darker than muscle or blood, whatever the calibration.
DARKER_HU = 100.0
# About -500 in two real mice and in phantoms.
LUNG_BELOW_HU = -50.0
SAME_SPACING = 0.01
SAME_GRID_MM = 0.01


def wrong_spacing(grid: Grid, wanted_mm: float) -> list[str]:
    """The CT's voxels are of another size than the layout says."""
    off = [mm for mm in grid.spacing_mm.zyx if abs(mm - wanted_mm) > SAME_SPACING * wanted_mm]
    if wanted_mm and off:
        return [
            f"wrong grid: the CT's voxels are {_by(grid.spacing_mm.zyx)} mm, {wanted_mm:g} expected"
        ]
    return []


def wrong_grid(name: str, own: Grid, ct: Grid, *, resample: bool) -> list[str]:
    """An observer's contours lie on other voxels, or in another field, than the CT."""
    if resample:
        apart_mm = float(np.abs(corners_mm(own) - corners_mm(ct)).max())
        if apart_mm > max(own.spacing_mm.zyx) + SAME_GRID_MM:
            return [f"wrong grid: {name} covers {_field(own)}, the CT {_field(ct)}"]
        return []
    if own.shape_zyx != ct.shape_zyx:
        return [
            f"wrong grid: {name} has {_by(own.shape_zyx)} voxels (z y x), the CT "
            f"{_by(ct.shape_zyx)}"
        ]
    apart_mm = float(np.abs(corners_mm(own) - corners_mm(ct)).max())
    if apart_mm > SAME_GRID_MM:
        return [f"wrong grid: {name} covers {_field(own)}, the CT {_field(ct)}"]
    return []


def missing_labels(name: str, labels_zyx: LabelArray, said: Contours) -> list[str]:
    """Organs that the layout promises and nobody drew."""
    drawn = np.bincount(labels_zyx.ravel(), minlength=256)
    return [
        f"missing label: {name} has no {word} ({' or '.join(names)})"
        for word, names in said.names.items()
        if not drawn[LABEL_OF[word]]
    ]


def undrawn(labels_zyx: LabelArray) -> list[str]:
    """Organs of which there is no voxel."""
    drawn = np.bincount(labels_zyx.ravel(), minlength=256)
    return [word for word, label in LABEL_OF.items() if label != LUNGS and not drawn[label]]


def sides(name: str, labels_zyx: LabelArray) -> list[str]:
    """Left and right lung exchanged, or the whole image mirrored."""
    right, left = labels_zyx == LUNG_R, labels_zyx == LUNG_L
    if not right.any() or not left.any():
        return []
    to_the_left = _middle(left, 2) > _middle(right, 2)
    share = float(right.sum() / (right.sum() + left.sum()))
    if to_the_left:
        return []
    if share < RIGHT_AT_LEAST:
        return [
            f"left/right swapped: {name}'s Lung_R lies left of Lung_L and is the smaller "
            f"({share:.2f} of both): the two labels are exchanged"
        ]
    return [
        f"left/right swapped: {name}'s Lung_R lies left of Lung_L and is the larger "
        f"({share:.2f} of both): the image is mirrored, or its axes are not what the layout or "
        "the header says"
    ]


def upside_down(name: str, labels_zyx: LabelArray) -> list[str]:
    """The cord on the belly's side of the heart: the axes are not what somebody says they are."""
    cord, heart = labels_zyx == CORD, labels_zyx == HEART
    if not cord.any() or not heart.any() or _middle(cord, 1) > _middle(heart, 1):
        return []
    return [
        f"back and belly exchanged: {name}'s SpinalCord lies before the Heart; the axes are not "
        "what the layout or the header says"
    ]


def doubtful_sides(name: str, labels_zyx: LabelArray) -> list[str]:
    """A right lung that lies right and is the smaller: rare in mice, but no proof."""
    right, left = int((labels_zyx == LUNG_R).sum()), int((labels_zyx == LUNG_L).sum())
    if right and left and right / (right + left) < RIGHT_AT_LEAST and not sides(name, labels_zyx):
        return [
            f"{name}'s right lung is the smaller ({right / (right + left):.2f} of both): look "
            "whether the image is mirrored and the labels exchanged"
        ]
    return []


def doubtful_hu(labels_zyx: LabelArray, volume: Volume) -> list[str]:
    """Lungs as dense as water: numbers of a file that are not yet Hounsfield units, perhaps."""
    lungs = np.isin(labels_zyx, (LUNG_R, LUNG_L))
    if not lungs.any() or (mean := float(volume.hu_zyx[lungs].mean())) < LUNG_BELOW_HU:
        return []
    return [f"{mean:.0f} HU in the lungs: are the CT's numbers Hounsfield units?"]


def elsewhere(drawn: Mapping[str, LabelArray], volume: Volume) -> list[str]:
    """Contours that do not belong to the image, or not to each other."""
    said = []
    first = drawn["observer1"]
    for name, labels_zyx in drawn.items():
        heart = labels_zyx == HEART
        lungs = np.isin(labels_zyx, (LUNG_R, LUNG_L, LUNGS))
        if heart.any() and lungs.any():
            inside, around = (float(volume.hu_zyx[mask].mean()) for mask in (lungs, heart))
            if inside > around - DARKER_HU:
                said.append(
                    f"{name} does not lie on the CT: {inside:.0f} HU in its lungs, "
                    f"{around:.0f} in its heart"
                )
        if name == "observer1":
            continue
        theirs = {"heart": first == HEART, "lungs": np.isin(first, (LUNG_R, LUNG_L))}
        for word, own in (("heart", heart), ("lungs", lungs)):
            if own.any() and theirs[word].any():
                said += _unlike(name, word, own, np.asarray(theirs[word], dtype=np.bool_))
    return said


def _unlike(
    name: str, word: str, own: npt.NDArray[np.bool_], first: npt.NDArray[np.bool_]
) -> list[str]:
    """An organ that two people drew at two places, or one of them the other way round.

    Lungs that were drawn as one have no sides to be exchanged, and a mirrored pair of them meets
    the true one: less well, though, than when it is turned back.
    """
    overlap, mirrored = dice(own, first), dice(own[:, :, ::-1], first)
    if overlap < SAME_ORGAN:
        return [f"{name} drew the {word} elsewhere than observer1 (DSC {overlap:.2f})"]
    if mirrored > overlap:
        return [
            f"left/right swapped: {name}'s {word} fit observer1's better when mirrored (DSC "
            f"{mirrored:.2f}) than as they are ({overlap:.2f})"
        ]
    return []


def _middle(mask: npt.NDArray[np.bool_], axis: int) -> float:
    """Mean index of a mask's voxels along an axis."""
    counts = mask.sum(axis=tuple(other for other in range(3) if other != axis))
    return float((counts * np.arange(len(counts))).sum() / counts.sum())


def _by(numbers: tuple[float, ...]) -> str:
    return " x ".join(f"{number:g}" for number in numbers)


def _field(grid: Grid) -> str:
    """Both corners of the field, x y z mm."""
    first, last = ([round(float(mm), 2) for mm in corner] for corner in corners_mm(grid))
    return f"{tuple(first)} to {tuple(last)} mm"
