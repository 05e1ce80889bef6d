"""Measures the signs by which contours are judged: numbers with a unit, of the scan and each organ.

Padding, bed and other animals don't count, for every sign is measured in or beside the organs.
A sign that can't be measured is absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from limn.domain.scan import Organ, Volume, occupied_box
from limn.segment.draw.delineate import Delineated
from limn.segment.draw.hounsfield import AIR_HU

Mask = npt.NDArray[np.bool_]

# Thinner than this is no organ but air, or padding.
AIR_BELOW_HU = -850.0
# Lung is thinner than this; a lung full of fluid, collapsed or drawn in the belly is not.
SOFT_ABOVE_HU = -200.0
# The normal distribution's quartile: the median of absolute differences as a standard deviation.
QUARTILE = 0.6745
# Fewer voxels of an organ tell nothing of its surface.
FEWEST_VOXELS = 8
# The networks are asked so far beyond an organ's ends whether it goes on, and as far within it.
END_MM = 2.0

SCAN_SIGNS = (
    "lie_probability",
    "onlooker_nats",
    "sides_nats",
    "right_lung_share",
    "heart_left_mm",
    "apex_left_mm",
    "thickness_mm",
    "air_hu",
    "tissue_hu",
    "calibration_slope",
    "noise_hu",
    "animals",
    "chest_unsure",
    "least_fold_dsc",
    "least_expected_dsc",
)
ORGAN_SIGNS = (
    "volume_mm3",
    "length_mm",
    "head_beyond_mm",
    "tail_beyond_mm",
    "head_doubt_mm",
    "tail_doubt_mm",
    "breaks",
    "width_mm",
    "field_edge_share",
    "air_beside_share",
    "soft_share",
    "mean_hu",
    "spread_hu",
    "step_hu",
    "fold_dsc",
    "surface_disagreement",
    "expected_dsc",
    "entropy_nats",
    "surface_entropy_nats",
    "removed_share",
)


@dataclass(frozen=True, slots=True)
class Signs:
    """The signs of a scan; those that could not be measured are absent.

    Attributes
    ----------
    scan : by the names of `SCAN_SIGNS`
    organs : of each organ, by the names of `ORGAN_SIGNS`
    """

    scan: Mapping[str, float]
    organs: Mapping[Organ, Mapping[str, float]]


def measure(drawn: Delineated, volume: Volume) -> Signs:
    """Measure the signs.

    Parameters
    ----------
    volume : the scan in HU, on the grid of the labels
    """
    part = _Part.of(drawn, volume)
    organs = {
        organ: _organ_signs(drawn, part, organ, label)
        for label, organ in drawn.labels.organs.items()
    }
    return Signs(_scan_signs(drawn, part), organs)


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """The organs' box with `END_MM` around it, along the animal's own S, P, L.

    Attributes
    ----------
    edges : for both ends of each axis, whether the box ends where the scan does
    """

    hu: npt.NDArray[np.float32]
    labels: npt.NDArray[np.uint8]
    disagreement: npt.NDArray[np.uint8]
    spacing_mm: tuple[float, float, float]
    edges: tuple[tuple[bool, bool], ...]

    @classmethod
    def of(cls, drawn: Delineated, volume: Volume) -> _Part:
        shape = volume.grid.shape_zyx
        around = [1 + int(END_MM / mm) for mm in volume.grid.spacing_mm.zyx]
        low_high = [
            (max(0, span.start - more), min(n, span.stop + more))
            for span, n, more in zip(drawn.labels.box, shape, around, strict=True)
        ]
        z, y, x = (slice(low, high) for low, high in low_high)
        # The edges of the scan's arrays are turned like any array: a map of them has 27 voxels.
        edges = np.zeros((3, 3, 3), dtype=np.uint8)
        for axis, ((low, high), n) in enumerate(zip(low_high, shape, strict=True)):
            ends = np.moveaxis(edges, axis, 0)
            ends[0] |= np.uint8(low == 0)
            ends[2] |= np.uint8(high == n)
        letters = volume.grid.axis_letters
        turned = drawn.lie.straightened(edges, letters)
        straight = drawn.lie.straighten(Volume(volume.hu_zyx[z, y, x], volume.grid.part((z, y, x))))
        return cls(
            straight.hu_zyx,
            drawn.lie.straightened(drawn.labels.labels_zyx[z, y, x], letters),
            drawn.lie.straightened(drawn.disagreement_zyx[z, y, x], letters),
            straight.grid.spacing_mm.zyx,
            tuple(
                (bool(np.take(turned, 0, axis)[1, 1]), bool(np.take(turned, 2, axis)[1, 1]))
                for axis in range(3)
            ),
        )


def _scan_signs(drawn: Delineated, part: _Part) -> dict[str, float]:
    sides, thickness, peaks = drawn.sides, drawn.thickness, drawn.peaks
    expected = [each.expected_dsc for each in drawn.certainty.values()]
    signs = {
        "lie_probability": drawn.lie.probability,
        "onlooker_nats": sides.onlooker_nats,
        "sides_nats": sides.nats,
        "right_lung_share": sides.right_lung_share,
        "heart_left_mm": sides.heart_left_mm,
        "apex_left_mm": sides.apex_left_mm,
        "thickness_mm": thickness.shown_mm if thickness else None,
        "air_hu": peaks.air.at if peaks and peaks.air else None,
        "tissue_hu": peaks.tissue.at if peaks and peaks.tissue else None,
        "calibration_slope": drawn.calibration.slope if drawn.calibration else 1.0,
        "noise_hu": _noise_hu(part),
        "animals": float(drawn.animals),
        "chest_unsure": float("chest-unsure" in drawn.flags),
        "least_fold_dsc": min(drawn.fold_dsc.values(), default=None),
        "least_expected_dsc": min(expected, default=None),
    }
    return {name: float(value) for name, value in signs.items() if value is not None}


def _noise_hu(part: _Part) -> float | None:
    """Standard deviation of the noise: of differences of neighbours in the organs."""
    inside = (part.labels[:-1] > 0) & (part.labels[:-1] == part.labels[1:])
    if not inside.any():
        return None
    steps = (part.hu[1:] - part.hu[:-1])[inside]
    return float(np.median(np.abs(steps)) / QUARTILE / np.sqrt(2.0))


def _organ_signs(drawn: Delineated, part: _Part, organ: Organ, label: int) -> dict[str, float]:
    signs = {"volume_mm3": drawn.labels.volumes_mm3()[organ]}
    if organ in drawn.fold_dsc:
        signs["fold_dsc"] = drawn.fold_dsc[organ]
    if organ in drawn.certainty:
        certainty = drawn.certainty[organ]
        signs["expected_dsc"] = certainty.expected_dsc
        signs["entropy_nats"] = certainty.entropy_nats
        signs["surface_entropy_nats"] = certainty.surface_entropy_nats
    mask = part.labels == label
    voxels = int(mask.sum())
    if voxels < FEWEST_VOXELS:
        return signs
    removed = drawn.removed_voxels.get(organ, 0)
    signs["removed_share"] = removed / (removed + voxels)
    ends = _end_signs(mask, (part.labels > 0) & ~mask, part)
    return signs | ends | _shape_signs(mask, part) | _picture_signs(mask, part)


def _end_signs(mask: Mask, others: Mask, part: _Part) -> dict[str, float]:
    """Where an organ ends towards head and tail, and how far the folds doubt that.

    An end is beyond those of all other organs by a distance, or short of them by a negative one.
    The doubt is the length by which the folds differ: of a fold in five that goes on for 1 mm it is
    0.2 mm.
    """
    z_mm = part.spacing_mm[0]
    own, other = (np.flatnonzero(each.any(axis=(1, 2))) for each in (mask, others))
    near = max(1, round(END_MM / z_mm))
    area = float(mask.sum()) / len(own)
    signs = {}
    # The first axis grows towards the head.
    for name, end, sign in (("head", -1, 1), ("tail", 0, -1)):
        if len(other):
            signs[f"{name}_beyond_mm"] = float(sign * (own[end] - other[end])) * z_mm
        slices = slice(max(0, own[end] - near), own[end] + near + 1)
        y, x = (
            slice(max(0, span.start - 1), span.stop + 1) for span in occupied_box(mask[slices])[1:]
        )
        doubt = float(part.disagreement[slices, y, x].sum(dtype=np.int64)) / 255.0
        signs[f"{name}_doubt_mm"] = doubt / area * z_mm
    return signs


def _shape_signs(mask: Mask, part: _Part) -> dict[str, float]:
    z_mm, y_mm, x_mm = part.spacing_mm
    slices = np.flatnonzero(mask.any(axis=(1, 2)))
    areas_mm2 = mask.sum(axis=(1, 2))[slices] * y_mm * x_mm
    cut = [
        int(np.take(mask, end, axis).sum())
        for axis, edges in enumerate(part.edges)
        for end, at_edge in zip((0, -1), edges, strict=True)
        if at_edge
    ]
    return {
        "length_mm": float(slices[-1] - slices[0] + 1) * z_mm,
        "breaks": float(sum(second - first > 1 for first, second in pairwise(slices))),
        "width_mm": float(2.0 * np.sqrt(np.median(areas_mm2) / np.pi)),
        "field_edge_share": sum(cut) / float(mask.sum()) ** (2 / 3),
    }


def _picture_signs(mask: Mask, part: _Part) -> dict[str, float]:
    """What the pixels show in the organ, at its surface and beside it."""
    box = tuple(slice(max(0, span.start - 1), span.stop + 1) for span in occupied_box(mask))
    mask, hu = mask[box], part.hu[box]
    beside = ndimage.binary_dilation(mask) & ~mask
    surface = mask & ~ndimage.binary_erosion(mask, border_value=1)
    inside = hu[mask]
    near = hu[beside] if beside.any() else np.array([AIR_HU], dtype=np.float32)
    return {
        "mean_hu": float(inside.mean()),
        "spread_hu": float(inside.std()),
        "soft_share": float((inside > SOFT_ABOVE_HU).mean()),
        "air_beside_share": float((near < AIR_BELOW_HU).mean()),
        "step_hu": float(near.mean() - hu[surface].mean()) if surface.any() else 0.0,
        "surface_disagreement": float(part.disagreement[box][surface].mean() / 255.0)
        if surface.any()
        else 0.0,
    }
