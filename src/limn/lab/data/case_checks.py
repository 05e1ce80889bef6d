"""Checks a contoured scan before a system learns from it, and describes each fault in words.

Array axes are S, P, L throughout: the last one grows towards the animal's left.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from limn.domain.geometry import Grid
from limn.domain.scan import Volume, dice
from limn.lab.data.folder_layout import LABEL_OF, ObserverLayout
from limn.lab.data.readers import corners_mm

LabelArray = npt.NDArray[np.uint8]

HEART, CORD, LUNG_R, LUNG_L, LUNGS = (
    LABEL_OF[word] for word in ("Heart", "SpinalCord", "Lung_R", "Lung_L", "Lungs")
)
# The right lung's share of both lungs: 0.64 and 0.65 in two real mice.
MIN_RIGHT_SHARE = 0.5
# DSC of two observers' hearts, or lungs, of one scan; those of two scans hardly overlap.
MIN_SAME_ORGAN_DSC = 0.3
# Air makes lung darker than muscle or blood, whatever the calibration.
MIN_LUNG_CONTRAST_HU = 100.0
# Lungs have about -500 HU in two real mice and in phantoms.
MAX_LUNG_HU = -50.0
SAME_SPACING = 0.01
SAME_GRID_MM = 0.01


def wrong_spacing(grid: Grid, wanted_mm: float) -> list[str]:
    """The CT's voxels have another size than the layout states."""
    off = [mm for mm in grid.spacing_mm.zyx if abs(mm - wanted_mm) > SAME_SPACING * wanted_mm]
    if wanted_mm and off:
        return [
            f"wrong grid: the CT's voxels are {_product(grid.spacing_mm.zyx)} mm, "
            f"{wanted_mm:g} expected"
        ]
    return []


def wrong_grid(name: str, grid: Grid, ct: Grid, *, resample: bool) -> list[str]:
    """An observer's contours lie on other voxels, or in another field of view, than the CT."""
    if resample:
        apart_mm = float(np.abs(corners_mm(grid) - corners_mm(ct)).max())
        if apart_mm > max(grid.spacing_mm.zyx) + SAME_GRID_MM:
            return [
                f"wrong grid: {name} covers {_field_of_view(grid)}, the CT {_field_of_view(ct)}"
            ]
        return []
    if grid.shape_zyx != ct.shape_zyx:
        return [
            f"wrong grid: {name} has {_product(grid.shape_zyx)} voxels (z y x), the CT "
            f"{_product(ct.shape_zyx)}"
        ]
    apart_mm = float(np.abs(corners_mm(grid) - corners_mm(ct)).max())
    if apart_mm > SAME_GRID_MM:
        return [f"wrong grid: {name} covers {_field_of_view(grid)}, the CT {_field_of_view(ct)}"]
    return []


def missing_labels(name: str, labels_zyx: LabelArray, layout: ObserverLayout) -> list[str]:
    """Organs that the layout names and the observer did not draw."""
    counts = np.bincount(labels_zyx.ravel(), minlength=256)
    return [
        f"missing label: {name} has no {word} ({' or '.join(names)})"
        for word, names in layout.names.items()
        if not counts[LABEL_OF[word]]
    ]


def absent_organs(labels_zyx: LabelArray) -> list[str]:
    """Organs without a voxel."""
    counts = np.bincount(labels_zyx.ravel(), minlength=256)
    return [word for word, label in LABEL_OF.items() if label != LUNGS and not counts[label]]


def swapped_sides(name: str, labels_zyx: LabelArray) -> list[str]:
    """Left and right lung exchanged, or the whole image mirrored."""
    right, left = labels_zyx == LUNG_R, labels_zyx == LUNG_L
    if not right.any() or not left.any():
        return []
    to_the_left = _mean_index(left, 2) > _mean_index(right, 2)
    share = float(right.sum() / (right.sum() + left.sum()))
    if to_the_left:
        return []
    if share < MIN_RIGHT_SHARE:
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
    """The cord lies on the belly side of the heart: the axes are not as stated."""
    cord, heart = labels_zyx == CORD, labels_zyx == HEART
    if not cord.any() or not heart.any() or _mean_index(cord, 1) > _mean_index(heart, 1):
        return []
    return [
        f"back and belly exchanged: {name}'s SpinalCord lies before the Heart; the axes are not "
        "what the layout or the header says"
    ]


def doubtful_sides(name: str, labels_zyx: LabelArray) -> list[str]:
    """The right lung is the smaller one, on the right side: rare in mice, but no proof."""
    right, left = int((labels_zyx == LUNG_R).sum()), int((labels_zyx == LUNG_L).sum())
    if (
        right
        and left
        and right / (right + left) < MIN_RIGHT_SHARE
        and not swapped_sides(name, labels_zyx)
    ):
        return [
            f"{name}'s right lung is the smaller ({right / (right + left):.2f} of both): check "
            "whether the image is mirrored and the labels are exchanged"
        ]
    return []


def doubtful_hu(labels_zyx: LabelArray, volume: Volume) -> list[str]:
    """Lungs as dense as water: the file's values may not be Hounsfield units."""
    lungs = np.isin(labels_zyx, (LUNG_R, LUNG_L))
    if not lungs.any() or (mean := float(volume.hu_zyx[lungs].mean())) < MAX_LUNG_HU:
        return []
    return [f"{mean:.0f} HU in the lungs: are the CT's values Hounsfield units?"]


def misplaced_contours(labels: Mapping[str, LabelArray], volume: Volume) -> list[str]:
    """Contours that fit neither the image nor those of observer 1."""
    faults = []
    first = labels["observer1"]
    for name, labels_zyx in labels.items():
        heart = labels_zyx == HEART
        lungs = np.isin(labels_zyx, (LUNG_R, LUNG_L, LUNGS))
        if heart.any() and lungs.any():
            inside, around = (float(volume.hu_zyx[mask].mean()) for mask in (lungs, heart))
            if inside > around - MIN_LUNG_CONTRAST_HU:
                faults.append(
                    f"{name} does not lie on the CT: {inside:.0f} HU in its lungs, "
                    f"{around:.0f} in its heart"
                )
        if name == "observer1":
            continue
        reference = {"heart": first == HEART, "lungs": np.isin(first, (LUNG_R, LUNG_L))}
        for word, organ in (("heart", heart), ("lungs", lungs)):
            if organ.any() and reference[word].any():
                faults += _disagreements(
                    name, word, organ, np.asarray(reference[word], dtype=np.bool_)
                )
    return faults


def _disagreements(
    name: str, word: str, organ: npt.NDArray[np.bool_], first: npt.NDArray[np.bool_]
) -> list[str]:
    """An organ that two observers drew at two places, or one of them mirrored.

    Lungs that were drawn as one have no sides to compare, and a mirrored pair still overlaps the
    true one; but it overlaps less than when it is mirrored back.
    """
    overlap, mirrored = dice(organ, first), dice(organ[:, :, ::-1], first)
    if overlap < MIN_SAME_ORGAN_DSC:
        return [f"{name} drew the {word} elsewhere than observer1 (DSC {overlap:.2f})"]
    if mirrored > overlap:
        return [
            f"left/right swapped: {name}'s {word} fit observer1's better when mirrored (DSC "
            f"{mirrored:.2f}) than as they are ({overlap:.2f})"
        ]
    return []


def _mean_index(mask: npt.NDArray[np.bool_], axis: int) -> float:
    """Mean index of the mask's voxels along an axis."""
    counts = mask.sum(axis=tuple(other for other in range(3) if other != axis))
    return float((counts * np.arange(len(counts))).sum() / counts.sum())


def _product(numbers: tuple[float, ...]) -> str:
    return " x ".join(f"{number:g}" for number in numbers)


def _field_of_view(grid: Grid) -> str:
    """Two opposite corners of the field of view, x y z mm."""
    first, last = ([round(float(mm), 2) for mm in corner] for corner in corners_mm(grid))
    return f"{tuple(first)} to {tuple(last)} mm"
