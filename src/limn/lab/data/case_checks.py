"""Checks a contoured scan before a system learns from it, and describes each fault in words.

Array axes are S, P, L throughout: the last one grows towards the animal's left. A check that must
know an organ's role does not run in a data set without it; `left_out_checks` says so.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from limn.domain.geometry import Grid
from limn.domain.scan import Role, Volume, dice
from limn.lab.data.folder_layout import ObserverLayout
from limn.lab.data.organs import DatasetOrgans
from limn.lab.data.readers import corners_mm

LabelArray = npt.NDArray[np.uint8]

Mask = npt.NDArray[np.bool_]

LUNGS = (Role.LUNG_R, Role.LUNG_L)
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


def left_out_checks(organs: DatasetOrgans) -> list[str]:
    """The checks that do not run, because the data set lacks the organs that they look at."""
    needs = {
        "left and right of the lungs": LUNGS,
        "back and belly": (Role.HEART, Role.CORD),
        "Hounsfield units in the lungs": LUNGS,
        "lungs darker than the heart": (Role.HEART, *LUNGS),
    }
    return [
        f"{check} (no {' and no '.join(role for role in roles if not organs.has(role))})"
        for check, roles in needs.items()
        if not organs.has(*roles)
    ]


def missing_labels(
    name: str, labels_zyx: LabelArray, layout: ObserverLayout, organs: DatasetOrgans
) -> list[str]:
    """Organs that the layout names and the observer did not draw."""
    label_of = organs.label_of
    counts = np.bincount(labels_zyx.ravel(), minlength=256)
    return [
        f"missing label: {name} has no {word} ({' or '.join(names)})"
        for word, names in layout.names.items()
        if not counts[label_of[word]]
    ]


def absent_organs(labels_zyx: LabelArray, organs: DatasetOrgans) -> list[str]:
    """Organs without a voxel."""
    counts = np.bincount(labels_zyx.ravel(), minlength=256)
    return [organ for label, organ in organs.organs.items() if not counts[label]]


def swapped_sides(name: str, labels_zyx: LabelArray, organs: DatasetOrgans) -> list[str]:
    """Left and right lung exchanged, or the whole image mirrored."""
    right, left = _mask(labels_zyx, organs, LUNGS[0]), _mask(labels_zyx, organs, LUNGS[1])
    if not right.any() or not left.any() or _mean_index(left, 2) > _mean_index(right, 2):
        return []
    share = float(right.sum() / (right.sum() + left.sum()))
    right_name, left_name = (organs.roles[role] for role in LUNGS)
    if share < MIN_RIGHT_SHARE:
        return [
            f"left/right swapped: {name}'s {right_name} lies left of {left_name} and is the "
            f"smaller ({share:.2f} of both): the two labels are exchanged"
        ]
    return [
        f"left/right swapped: {name}'s {right_name} lies left of {left_name} and is the larger "
        f"({share:.2f} of both): the image is mirrored, or its axes are not what the layout or "
        "the header says"
    ]


def swapped_pairs(name: str, labels_zyx: LabelArray, organs: DatasetOrgans) -> list[str]:
    """A right organ left of its left one, by TG-263's ending of their names; not the lungs."""
    lungs = {organs.roles[role] for role in LUNGS if organs.has(role)}
    label_of, faults = organs.label_of, []
    for organ in organs.organs.values():
        other = f"{organ.removesuffix('_R')}_L"
        if not organ.endswith("_R") or other not in label_of or organ in lungs:
            continue
        right, left = labels_zyx == label_of[organ], labels_zyx == label_of[other]
        if right.any() and left.any() and _mean_index(left, 2) < _mean_index(right, 2):
            faults.append(
                f"left/right swapped: {name}'s {organ} lies left of {other}: the two labels are "
                "exchanged, or the image is mirrored"
            )
    return faults


def upside_down(name: str, labels_zyx: LabelArray, organs: DatasetOrgans) -> list[str]:
    """The cord lies on the belly side of the heart: the axes are not as stated."""
    cord, heart = _mask(labels_zyx, organs, Role.CORD), _mask(labels_zyx, organs, Role.HEART)
    if not cord.any() or not heart.any() or _mean_index(cord, 1) > _mean_index(heart, 1):
        return []
    return [
        f"back and belly exchanged: {name}'s {organs.roles[Role.CORD]} lies before the "
        f"{organs.roles[Role.HEART]}; the axes are not what the layout or the header says"
    ]


def doubtful_sides(name: str, labels_zyx: LabelArray, organs: DatasetOrgans) -> list[str]:
    """The right lung is the smaller one, on the right side: rare in mice, but no proof."""
    right, left = (int(_mask(labels_zyx, organs, role).sum()) for role in LUNGS)
    if (
        right
        and left
        and right / (right + left) < MIN_RIGHT_SHARE
        and not swapped_sides(name, labels_zyx, organs)
    ):
        return [
            f"{name}'s right lung is the smaller ({right / (right + left):.2f} of both): check "
            "whether the image is mirrored and the labels are exchanged"
        ]
    return []


def doubtful_hu(labels_zyx: LabelArray, volume: Volume, organs: DatasetOrgans) -> list[str]:
    """Lungs as dense as water: the file's values may not be Hounsfield units."""
    lungs = _mask(labels_zyx, organs, *LUNGS)
    if not lungs.any() or (mean := float(volume.hu_zyx[lungs].mean())) < MAX_LUNG_HU:
        return []
    return [f"{mean:.0f} HU in the lungs: are the CT's values Hounsfield units?"]


def misplaced_contours(
    labels: Mapping[str, LabelArray], volume: Volume, organs: DatasetOrgans
) -> list[str]:
    """Contours that fit neither the image nor those of observer 1."""
    faults = []
    first = labels["observer1"]
    joined = _joined_lungs(organs)
    for name, labels_zyx in labels.items():
        heart = _mask(labels_zyx, organs, Role.HEART)
        lungs = _mask(labels_zyx, organs, *LUNGS) | np.isin(labels_zyx, joined)
        if heart.any() and lungs.any():
            inside, around = (float(volume.hu_zyx[mask].mean()) for mask in (lungs, heart))
            if inside > around - MIN_LUNG_CONTRAST_HU:
                faults.append(
                    f"{name} does not lie on the CT: {inside:.0f} HU in its lungs, "
                    f"{around:.0f} in its heart"
                )
        if name == "observer1":
            continue
        reference = {
            "heart": _mask(first, organs, Role.HEART),
            "lungs": _mask(first, organs, *LUNGS),
        }
        compared = False
        for word, organ in (("heart", heart), ("lungs", lungs)):
            if organ.any() and reference[word].any():
                compared = True
                faults += _disagreements(name, word, organ, reference[word])
        if not compared:
            faults += _other_drawing(name, labels_zyx, first)
    return faults


def _other_drawing(name: str, labels_zyx: LabelArray, first: LabelArray) -> list[str]:
    """Drawings without heart and lungs that share no voxel, or share more when one is mirrored."""
    here, mirrored = (
        int(((each == first) & (first > 0)).sum()) for each in (labels_zyx, labels_zyx[:, :, ::-1])
    )
    both = set(np.unique(labels_zyx)) & set(np.unique(first)) - {0}
    if both and not here and not mirrored:
        return [f"{name} drew the same organs as observer1, and none of them at the same place"]
    if mirrored > here:
        return [
            f"left/right swapped: {name}'s organs fit observer1's better when mirrored ({mirrored} "
            f"voxels in common) than as they are ({here})"
        ]
    return []


def _disagreements(name: str, word: str, organ: Mask, first: Mask) -> list[str]:
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


def _mask(labels_zyx: LabelArray, organs: DatasetOrgans, *roles: Role) -> Mask:
    """The voxels of the organs with these roles; none for a role that the data set lacks."""
    return np.asarray(np.isin(labels_zyx, organs.labels_of(*roles)), dtype=np.bool_)


def _joined_lungs(organs: DatasetOrgans) -> list[int]:
    """The label of both lungs as one, if the data set has one."""
    lungs = {organs.roles[role] for role in LUNGS if organs.has(role)}
    return [organs.label_of[name] for name, parts in organs.joined.items() if set(parts) == lungs]


def _mean_index(mask: Mask, axis: int) -> float:
    """Mean index of the mask's voxels along an axis."""
    counts = mask.sum(axis=tuple(other for other in range(3) if other != axis))
    return float((counts * np.arange(len(counts))).sum() / counts.sum())


def _product(numbers: tuple[float, ...]) -> str:
    return " x ".join(f"{number:g}" for number in numbers)


def _field_of_view(grid: Grid) -> str:
    """Two opposite corners of the field of view, x y z mm."""
    first, last = ([round(float(mm), 2) for mm in corner] for corner in corners_mm(grid))
    return f"{tuple(first)} to {tuple(last)} mm"
