"""Simulates three observers of a phantom, who disagree as the paper's observers do.

Malimban 2022: observers 1 and 2 followed one protocol and drew in the coronal plane, in a program
that can edit no other plane, so that their outlines are ragged from slice to slice ("Best,
intermediate, and worst segmentations"). They differ most "in the superior and inferior extent" of
the cord ("Interobserver variability"). Observer 3 is another laboratory: no cord, the lungs as one
organ, voxels of another size, resampled to the CT's by nearest neighbour ("Dataset").

The disagreement is tuned to Table 3, where the generalised conformity index of the native scans is
0.79 for the heart, 0.86 for both lungs and 0.60 for the cord.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import KDTree

from limn.domain.geometry import SpacingMm
from limn.domain.scan import Box, Labels, Volume, occupied_box
from limn.phantom.anatomy import CORD, HEART, LUNG_L, LUNG_R, THORACIC_VERTEBRAE, TRUTH_LABELS

Field: TypeAlias = npt.NDArray[np.float32]
Mask: TypeAlias = npt.NDArray[np.bool_]
LabelArray: TypeAlias = npt.NDArray[np.uint8]

# Both lungs of observer 3; the truth does not use this label, so neither lung is confused with it.
LUNGS = 5
OBSERVER_LABELS: Mapping[int, str] = MappingProxyType(
    {label: str(organ) for label, organ in TRUTH_LABELS.items()} | {LUNGS: "Lungs"}
)

# The largest distance of an outline from the true surface, except at the ends of the cord.
REACH_MM = 1.2
# The finest detail that a person draws.
PEN_MM = 0.08
# The voxel size of observer 3.
OBSERVER_3_VOXEL_MM = 0.2
# Beyond its true ends the cord is extrapolated from the bend of its last millimetres.
BEND_MM = 5.0
BEYOND_MM = 5.0
CORD_STEP_MM = 0.2
# With fewer voxels the course of the cord can't be determined.
MIN_CORD_VOXELS = 20
FAR_MM = 9.0


@dataclass(frozen=True, slots=True)
class ContouringStyle:
    """How one observer deviates from the protocol.

    Attributes
    ----------
    outward_mm : by label, mean distance of an outline outside the true surface
    outward_spread_mm : its standard deviation from scan to scan
    bulge_mm : amplitude of broad bulges across neighbouring slices
    ragged_mm : spread from one coronal slice to the next, of whole outlines and along each
    ends_vertebrae : standard deviation of both ends of the cord
    tail_vertebrae : mean distance of the cord's caudal end tailward of T13
    """

    outward_mm: Mapping[int, float]
    outward_spread_mm: float
    bulge_mm: float
    ragged_mm: float
    ends_vertebrae: float
    tail_vertebrae: float


OBSERVER_1 = ContouringStyle(
    MappingProxyType(dict.fromkeys(TRUTH_LABELS, 0.0)),
    outward_spread_mm=0.015,
    bulge_mm=0.05,
    ragged_mm=0.035,
    ends_vertebrae=0.3,
    tail_vertebrae=0.0,
)
OBSERVER_2 = ContouringStyle(
    MappingProxyType({HEART: -0.16, CORD: 0.12, LUNG_R: -0.03, LUNG_L: -0.03}),
    outward_spread_mm=0.03,
    bulge_mm=0.08,
    ragged_mm=0.05,
    ends_vertebrae=1.1,
    tail_vertebrae=0.7,
)


@dataclass(frozen=True, slots=True, eq=False)
class Drawings:
    """The labels of three observers on one scan, (z, y, x) uint8 on its grid.

    Attributes
    ----------
    observer1, observer2 : labels of `anatomy.TRUTH_LABELS`
    observer3 : the heart, and both lungs with the label `LUNGS`
    """

    observer1: LabelArray
    observer2: LabelArray
    observer3: LabelArray


def observe(volume: Volume, truth: Labels, seed: int) -> Drawings:
    """Simulate the contours of three observers on a scan.

    Parameters
    ----------
    volume : the CT, which observer 3 thresholds
    truth : labels of `anatomy.TRUTH_LABELS`, axes S, P, L: rows are coronal planes
    seed : equal seeds give equal labels
    """
    organs = tuple(_view_of(truth, label) for label in TRUTH_LABELS)
    return Drawings(
        observer1=_by_protocol(truth, organs, OBSERVER_1, np.random.default_rng([seed, 31])),
        observer2=_by_protocol(truth, organs, OBSERVER_2, np.random.default_rng([seed, 32])),
        observer3=_by_threshold(volume, truth, organs, np.random.default_rng([seed, 33])),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _OrganView:
    """One organ of the truth, as all observers see it.

    Attributes
    ----------
    box : of the organ in the scan
    signed_mm : (z, y, x) of the box, distance to the organ's surface, negative inside
    along_mm : distance along the cord from its cranial end; None for other organs
    length_mm : of the cord; 0 for other organs
    """

    label: int
    box: Box
    signed_mm: Field
    along_mm: Field | None = None
    length_mm: float = 0.0


def _view_of(truth: Labels, label: int) -> _OrganView:
    spacing = truth.grid.spacing_mm
    mask = np.asarray(truth.labels_zyx == label)
    if not mask.any():
        nothing = (slice(0, 0), slice(0, 0), slice(0, 0))
        return _OrganView(label, nothing, np.empty((0, 0, 0), dtype=np.float32))
    cord = label == CORD and int(mask.sum()) >= MIN_CORD_VOXELS
    box = _widened(occupied_box(mask), mask.shape, spacing, BEYOND_MM if cord else REACH_MM + 0.5)
    signed_mm = _signed_mm(mask[box], spacing)
    return _cord(box, mask[box], signed_mm, spacing) if cord else _OrganView(label, box, signed_mm)


def _widened(box: Box, shape: tuple[int, ...], spacing: SpacingMm, margin_mm: float) -> Box:
    spans = []
    for span, size, mm in zip(box, shape, spacing.zyx, strict=True):
        more = int(np.ceil(margin_mm / mm))
        spans.append(slice(max(0, span.start - more), min(size, span.stop + more)))
    return (spans[0], spans[1], spans[2])


def _signed_mm(mask: Mask, spacing: SpacingMm) -> Field:
    """Distance to the surface, negative inside; smooth, so that shifts below a voxel matter."""
    outside = ndimage.distance_transform_edt(~mask, sampling=spacing.zyx)
    inside = ndimage.distance_transform_edt(mask, sampling=spacing.zyx)
    # The surface runs between voxel centres: subtract half a voxel.
    half_mm = float(np.mean(spacing.zyx)) / 2
    signed = np.where(mask, half_mm - inside, outside - half_mm)
    blurred = ndimage.gaussian_filter(signed, [PEN_MM / mm for mm in spacing.zyx])
    return np.asarray(blurred, dtype=np.float32)


def _cord(box: Box, mask: Mask, signed_mm: Field, spacing: SpacingMm) -> _OrganView:
    """The view of the cord with the distance along it, so that its ends can move."""
    voxels_mm = np.asarray(np.argwhere(mask) * spacing.zyx, dtype=np.float64)
    centre_mm = _centre_line(voxels_mm, spacing.z)
    steps_mm = np.linalg.norm(np.diff(centre_mm, axis=0), axis=1)
    distance_mm = np.concatenate([[0.0], np.cumsum(steps_mm)])
    tree = KDTree(centre_mm)
    voxel_distance_mm = distance_mm[tree.query(voxels_mm)[1]]
    # Percentiles, so that a few stray voxels of an oblique cut do not move the ends.
    first_mm, last_mm = (float(mm) for mm in np.percentile(voxel_distance_mm, [0.5, 99.5]))
    length_mm = last_mm - first_mm
    radius_mm = np.sqrt(len(voxels_mm) * spacing.voxel_mm3 / (np.pi * max(length_mm, 1.0)))
    near_mm, nearest = tree.query(
        np.argwhere(np.ones(mask.shape, dtype=np.bool_)) * spacing.zyx,
        distance_upper_bound=radius_mm + REACH_MM,
    )
    along_mm = np.append(distance_mm, -FAR_MM * 9)[nearest].reshape(mask.shape) - first_mm
    tube_mm = np.minimum(near_mm - radius_mm, FAR_MM).reshape(mask.shape)
    within = (along_mm > 0.5) & (along_mm < length_mm - 0.5)
    return _OrganView(
        CORD,
        box,
        np.where(within, signed_mm, tube_mm).astype(np.float32),
        (length_mm - along_mm).astype(np.float32),
        length_mm,
    )


def _centre_line(voxels_mm: npt.NDArray[np.float64], step_mm: float) -> npt.NDArray[np.float64]:
    """Points along the cord from tail to head, and beyond both ends: (n, 3), mm."""
    slices = np.round(voxels_mm[:, 0] / step_mm).astype(int)
    counts = np.bincount(slices)
    whole = np.flatnonzero(counts >= 0.6 * np.median(counts[counts > 0]))
    middle = np.array([voxels_mm[slices == k].mean(axis=0) for k in whole])
    z = middle[:, 0]
    fine_z = np.arange(z[0] - BEYOND_MM, z[-1] + BEYOND_MM, CORD_STEP_MM / 2)
    line = [fine_z]
    for axis in (1, 2):
        smooth = ndimage.gaussian_filter1d(middle[:, axis], 0.5 / step_mm, mode="nearest")
        at = np.interp(fine_z, z, smooth)
        for beyond, near, end in (
            (fine_z < z[0], z < z[0] + BEND_MM, z[0]),
            (fine_z > z[-1], z > z[-1] - BEND_MM, z[-1]),
        ):
            if int(near.sum()) > 2:
                bend = np.polynomial.Polynomial.fit(z[near], middle[near, axis], 2)
                smooth_end = float(np.interp(end, z, smooth))
                at[beyond] = bend(fine_z[beyond]) + (smooth_end - bend(end))
        line.append(at)
    return np.stack(line, axis=1)


def _by_protocol(
    truth: Labels,
    organs: tuple[_OrganView, ...],
    style: ContouringStyle,
    rng: np.random.Generator,
) -> LabelArray:
    """Labels drawn in coronal slices; where two outlines overlap, the deeper one counts."""
    result_zyx = np.zeros(truth.labels_zyx.shape, dtype=np.uint8)
    deepest = np.zeros(result_zyx.shape, dtype=np.float32)
    spacing = truth.grid.spacing_mm
    for organ in organs:
        if not organ.signed_mm.size:
            continue
        shape = organ.signed_mm.shape
        outward = style.outward_mm[organ.label] + float(rng.normal(0.0, style.outward_spread_mm))
        bulges = style.bulge_mm * _noise(rng, shape, spacing, (1.5, 1.5, 1.5))
        ragged = _noise(rng, shape, spacing, (0.8, 0.0, 0.8))
        ragged += rng.standard_normal((1, shape[1], 1), dtype=np.float32)
        inside_mm = organ.signed_mm - np.clip(
            outward + bulges + style.ragged_mm * ragged, -REACH_MM, REACH_MM
        )
        if organ.along_mm is not None:
            inside_mm[_beyond_ends(organ, organ.along_mm, style, rng)] = FAR_MM
        here = inside_mm < np.minimum(deepest[organ.box], 0.0)
        result_zyx[organ.box][here] = organ.label
        deepest[organ.box][here] = inside_mm[here]
    return result_zyx


def _beyond_ends(
    organ: _OrganView, from_head_mm: Field, style: ContouringStyle, rng: np.random.Generator
) -> Mask:
    """The part beyond the drawn ends of the cord, which vary between coronal slices."""
    vertebra_mm = organ.length_mm / THORACIC_VERTEBRAE
    most = 0.8 * BEYOND_MM
    head_mm, tail_mm = np.clip(
        rng.normal([0.0, style.tail_vertebrae], style.ends_vertebrae) * vertebra_mm, -most, most
    )
    uneven = rng.normal(0.0, 3.0 * style.ragged_mm, (2, 1, from_head_mm.shape[1], 1))
    above = from_head_mm < -head_mm + uneven[0]
    return np.asarray(above | (from_head_mm > organ.length_mm + tail_mm + uneven[1]))


def _noise(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    spacing: SpacingMm,
    reach_zyx_mm: tuple[float, float, float],
) -> Field:
    """Noise smoothed along each axis by `reach_zyx_mm`; mean 0, standard deviation 1."""
    sigma = [reach / mm for reach, mm in zip(reach_zyx_mm, spacing.zyx, strict=True)]
    noise = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), sigma)
    return np.asarray(noise / max(float(noise.std()), 1e-9), dtype=np.float32)


# Observer 3: the threshold between lung and heart, and the margin of the heart.
THRESHOLD_SHARE = 0.42
HEART_OUTWARD_MM = 0.22
BEYOND_LUNG_MM = 0.5


def _by_threshold(
    volume: Volume, truth: Labels, organs: tuple[_OrganView, ...], rng: np.random.Generator
) -> LabelArray:
    """Labels of observer 3: dark voxels in the chest are lung, between them a rounded heart."""
    result_zyx = np.zeros(truth.labels_zyx.shape, dtype=np.uint8)
    by_label = {organ.label: organ for organ in organs if organ.signed_mm.size}
    if not {HEART, LUNG_R, LUNG_L} <= by_label.keys():
        return result_zyx
    spacing = truth.grid.spacing_mm
    chest = np.isin(truth.labels_zyx, (HEART, LUNG_R, LUNG_L))
    box = _widened(occupied_box(chest), chest.shape, spacing, REACH_MM)
    labels_zyx, hu = truth.labels_zyx[box], volume.hu_zyx[box]
    soft_hu = ndimage.gaussian_filter(hu, [0.5 * OBSERVER_3_VOXEL_MM / mm for mm in spacing.zyx])
    lung_mm = np.minimum(
        _distance_in(by_label[LUNG_R], box, result_zyx.shape),
        _distance_in(by_label[LUNG_L], box, result_zyx.shape),
    )
    heart_mm = _distance_in(by_label[HEART], box, result_zyx.shape)
    lung_hu = float(np.median(hu[np.isin(labels_zyx, (LUNG_R, LUNG_L))]))
    heart_hu = float(np.median(hu[labels_zyx == HEART]))
    share = THRESHOLD_SHARE + float(rng.normal(0.0, 0.05))
    threshold_hu = lung_hu + share * (heart_hu - lung_hu)
    outward = HEART_OUTWARD_MM + float(rng.normal(0.0, 0.05))
    heart_mm = heart_mm - outward - 0.12 * _noise(rng, heart_mm.shape, spacing, (1.5, 1.5, 1.5))

    grid = _CoarseGrid.over(labels_zyx.shape, spacing, rng)
    lungs = (grid.sampled(soft_hu) < threshold_hu) & (grid.sampled(lung_mm) < BEYOND_LUNG_MM)
    lungs = ndimage.binary_opening(lungs)
    heart = (grid.sampled(heart_mm) < 0.0) & ~lungs
    coarse = np.where(lungs, LUNGS, np.where(heart, HEART, 0)).astype(np.uint8)
    result_zyx[box] = grid.resampled(coarse)
    return result_zyx


def _distance_in(organ: _OrganView, box: Box, shape: tuple[int, ...]) -> Field:
    """An organ's signed distance in another box; `FAR_MM` where it was not computed."""
    whole = np.full(shape, FAR_MM, dtype=np.float32)
    whole[organ.box] = organ.signed_mm
    return whole[box]


@dataclass(frozen=True, slots=True, eq=False)
class _CoarseGrid:
    """The voxels of observer 3 over a box of the scan.

    Attributes
    ----------
    at : index in the box of each coarse voxel's centre, one array per axis
    nearest : the coarse voxel nearest to each voxel of the box, one array per axis
    """

    at: tuple[npt.NDArray[np.float64], ...]
    nearest: tuple[npt.NDArray[np.int64], ...]

    @classmethod
    def over(
        cls, shape: tuple[int, ...], spacing: SpacingMm, rng: np.random.Generator
    ) -> _CoarseGrid:
        at, nearest = [], []
        for size, mm in zip(shape, spacing.zyx, strict=True):
            # The offset between the two grids is random.
            phase_mm = float(rng.uniform(-0.5, 0.5)) * OBSERVER_3_VOXEL_MM
            count = int(np.ceil((size * mm - phase_mm) / OBSERVER_3_VOXEL_MM)) + 1
            centres = (phase_mm + np.arange(count) * OBSERVER_3_VOXEL_MM) / mm
            at.append(np.asarray(centres, dtype=np.float64))
            coarse = np.round((np.arange(size) * mm - phase_mm) / OBSERVER_3_VOXEL_MM)
            nearest.append(np.clip(coarse, 0, count - 1).astype(np.int64))
        return cls(tuple(at), tuple(nearest))

    def sampled(self, array_zyx: Field) -> Field:
        """Values at the centres of the coarse voxels, by linear interpolation."""
        where = np.meshgrid(*self.at, indexing="ij")
        return np.asarray(
            ndimage.map_coordinates(array_zyx, where, order=1, mode="nearest"), dtype=np.float32
        )

    def resampled(self, coarse_zyx: LabelArray) -> LabelArray:
        """Coarse labels resampled to the box by nearest neighbour."""
        return np.asarray(coarse_zyx[np.ix_(*self.nearest)], dtype=np.uint8)
