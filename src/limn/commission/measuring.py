"""Measures a structure set against a phantom's truth, in millimetres of the patient.

x grows to the animal's left, y to its back, z to its head (DICOM's LPS). Which lung is the right
one is read from the numbers in the file alone, so that no grid of limn's can hide an exchange.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from limn.commission.phantoms import SentPhantom
from limn.commission.tolerances import Tolerances
from limn.dicom.bounded import read
from limn.dicom.rtstruct import coordinates_of
from limn.dicom.series import Series
from limn.dicom.structures import Structure, structures_of
from limn.domain.geometry import FloatArray, Grid
from limn.domain.scan import TG263_ROLES, Role, dice
from limn.lab.data.rois import mask_of

# How far apart the middles of two lungs lie at least, from left to right, mm.
LUNGS_APART_MM = 1.0
AXES = ("x (left-right)", "y (belly-back)", "z (tail-head)")


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredOrgan:
    """One organ of a structure set against the truth.

    Attributes
    ----------
    volume_mm3, truth_mm3 : of the voxels whose centre lies inside
    offset_xyz_mm : of `offset_xyz_mm`: of the cord sideways at the levels that both have
    left_mm : mean x of the contours' points in the file; None if it has none
    truth_left_mm : x of the middle of the truth; None if it is empty
    """

    role: str
    roi: str
    volume_mm3: float
    truth_mm3: float
    dsc: float
    offset_xyz_mm: tuple[float, float, float] | None
    left_mm: float | None
    truth_left_mm: float | None

    @property
    def off_percent(self) -> float:
        """The volume's deviation from the truth."""
        return 100.0 * (self.volume_mm3 - self.truth_mm3) / self.truth_mm3 if self.truth_mm3 else 0


def measured(
    contents: bytes, phantom: SentPhantom, names: Mapping[Role, str]
) -> tuple[MeasuredOrgan, ...]:
    """Every organ that the phantom's truth and the site's bundle have.

    Parameters
    ----------
    names : ROI name of each role

    Raises
    ------
    RefusedSeries
        If the structure set can't be read on the phantom's series.
    """
    if phantom.series is None or phantom.truth is None:
        return ()
    ds = read(contents)
    structures = {each.name: each for each in structures_of(ds, phantom.series)}
    lefts_mm = _lefts_mm(ds)
    found = []
    for role, name in names.items():
        truth = phantom.truth.mask(TG263_ROLES[role])
        organ = _organ(role, name, structures.get(name), truth, phantom.series)
        found.append(replace(organ, left_mm=lefts_mm.get(name)))
    return tuple(found)


def _lefts_mm(ds: Dataset) -> dict[str, float]:
    """Mean x of all points of each ROI, by its name: also of contours that lie on no slice."""
    names = {
        str(roi.get("ROINumber")): str(roi.get("ROIName"))
        for roi in ds.get("StructureSetROISequence") or ()
    }
    found = {}
    for roi in ds.get("ROIContourSequence") or ():
        lefts = [coordinates_of(each)[0::3] for each in roi.get("ContourSequence") or ()]
        points = np.concatenate([*lefts, np.empty(0)])
        if len(points):
            name = names.get(str(roi.get("ReferencedROINumber")), "")
            found[name] = float(points.mean())
    return found


def _organ(
    role: Role,
    name: str,
    structure: Structure | None,
    truth: npt.NDArray[np.bool_],
    series: Series,
) -> MeasuredOrgan:
    """One organ, by the voxels of the series' grid."""
    voxel_mm3 = series.grid.spacing_mm.voxel_mm3
    mask = np.zeros_like(truth) if structure is None else mask_of(structure, series)
    true = middle_xyz_mm(truth, series.grid)
    return MeasuredOrgan(
        role=role.value,
        roi=name,
        volume_mm3=float(mask.sum()) * voxel_mm3,
        truth_mm3=float(truth.sum()) * voxel_mm3,
        dsc=dice(mask, truth),
        offset_xyz_mm=offset_xyz_mm(mask, truth, series.grid, by_level=role is Role.CORD),
        left_mm=None,
        truth_left_mm=float(true[0]) if true is not None else None,
    )


def middle_xyz_mm(mask: npt.NDArray[np.bool_], grid: Grid) -> FloatArray | None:
    """Mean position of the voxels, (3,) patient coordinates; None if there is none."""
    total, count = np.zeros(3), 0
    for k in np.flatnonzero(mask.any(axis=(1, 2))):
        points_yx = np.argwhere(mask[k]).astype(np.float64)
        total += grid.plane_points_xyz_mm(int(k), points_yx).sum(axis=0)
        count += len(points_yx)
    return total / count if count else None


def offset_xyz_mm(
    mask: npt.NDArray[np.bool_],
    truth: npt.NDArray[np.bool_],
    grid: Grid,
    *,
    by_level: bool,
) -> tuple[float, float, float] | None:
    """From the middle of the truth to that of a mask; None if one is empty.

    Parameters
    ----------
    by_level : x and y are the mean over the levels along the animal that both have. A long organ
        that lies obliquely and is drawn too far at one end has its middle elsewhere, and yet lies
        in its place (D-295)
    """
    own, true = middle_xyz_mm(mask, grid), middle_xyz_mm(truth, grid)
    if own is None or true is None:
        return None
    x, y, z = (own - true).tolist()
    if by_level:
        levels = [_levels_xy_mm(each, grid) for each in (mask, truth)]
        aside = [levels[0][level] - levels[1][level] for level in levels[0].keys() & levels[1]]
        if aside:
            x, y = np.mean(aside, axis=0).tolist()
    return x, y, z


def _levels_xy_mm(mask: npt.NDArray[np.bool_], grid: Grid) -> dict[int, FloatArray]:
    """The middle (x, y) at each level along z, one for each length of the longest voxel side."""
    points = np.concatenate(
        [
            grid.plane_points_xyz_mm(int(k), np.argwhere(mask[k]).astype(np.float64))
            for k in np.flatnonzero(mask.any(axis=(1, 2)))
        ]
    )
    numbers = np.rint(points[:, 2] / max(grid.spacing_mm.zyx)).astype(int)
    return {int(level): points[numbers == level, :2].mean(axis=0) for level in np.unique(numbers)}


def exchanged(organs: Sequence[MeasuredOrgan], whose: str) -> str:
    """Why left and right are not as they must be; empty if they are, or nothing can be said.

    Parameters
    ----------
    whose : completes "Left and right are exchanged in ..."
    """
    by_role = {each.role: each for each in organs}
    right, left = by_role.get(Role.LUNG_R.value), by_role.get(Role.LUNG_L.value)
    if right is None or left is None:
        return ""
    true_mm = _apart_mm(right.truth_left_mm, left.truth_left_mm)
    apart_mm = _apart_mm(right.left_mm, left.left_mm)
    if true_mm is None or apart_mm is None or abs(true_mm) < LUNGS_APART_MM:
        return ""
    if abs(apart_mm) < LUNGS_APART_MM:
        return (
            f"Left and right can't be told in {whose}: the middles of {right.roi} and {left.roi} "
            f"lie only {abs(apart_mm):.1f} mm apart from left to right. Do not plan with it."
        )
    if (apart_mm > 0) == (true_mm > 0):
        return ""
    side, true_side = ("RIGHT", "left") if apart_mm > 0 else ("LEFT", "right")
    return (
        f"Left and right are exchanged in {whose}: {right.roi} lies {abs(apart_mm):.1f} mm to the "
        f"{side} of {left.roi} in the patient's coordinates, and in the phantom it lies on the "
        f"{true_side}. An organ on the wrong side is a wrong plan: do not treat any animal by "
        "these contours until the cause is found."
    )


def truth_exchanged(organs: Sequence[MeasuredOrgan]) -> str:
    """Why limn reads a phantom's own sides wrongly; empty if it reads them as DICOM says.

    In the patient's coordinates the right lung of every animal that its header describes lies at
    the lower x, however it lies (PS3.3 C.7.6.2.1.1). No grid of limn's says so.
    """
    by_role = {each.role: each for each in organs}
    right, left = by_role.get(Role.LUNG_R.value), by_role.get(Role.LUNG_L.value)
    if right is None or left is None:
        return ""
    true_mm = _apart_mm(right.truth_left_mm, left.truth_left_mm)
    if true_mm is None or true_mm >= LUNGS_APART_MM:
        return ""
    return (
        "Left and right are exchanged in limn's own reading of the phantom: its right lung lies "
        f"{-true_mm:.1f} mm to the left of its left lung. Do not use this limn for any animal, and "
        "report it."
    )


def _apart_mm(right_mm: float | None, left_mm: float | None) -> float | None:
    return None if right_mm is None or left_mm is None else left_mm - right_mm


def faults(organs: Sequence[MeasuredOrgan], tolerances: Tolerances, whose: str) -> tuple[str, ...]:
    """What is out of tolerance in a structure set, each as a sentence; none if all is well."""
    found = [why] if (why := exchanged(organs, whose)) else []
    for each in organs:
        role = Role(each.role)
        if not each.truth_mm3:
            if each.volume_mm3:
                found.append(
                    f"{each.roi} has {each.volume_mm3:.0f} mm3 in {whose}, and the phantom shows "
                    "none of it."
                )
            continue
        if each.offset_xyz_mm is None:
            found.append(f"{each.roi} is missing in {whose}.")
            continue
        found += [
            f"{each.roi} lies {_shown_mm(mm)} mm off along {AXES[axis]} in {whose}; "
            f"{tolerances.offset_mm(role, axis):g} mm are allowed."
            for axis, mm in enumerate(each.offset_xyz_mm)
            if abs(mm) > tolerances.offset_mm(role, axis)
        ]
        if abs(each.off_percent) > tolerances.volume_percent(role):
            found.append(
                f"{each.roi} has {each.volume_mm3:.0f} mm3 in {whose} and {each.truth_mm3:.0f} in "
                f"the phantom ({each.off_percent:+.0f} %; {tolerances.volume_percent(role):g} % "
                "are allowed)."
            )
        if each.dsc < tolerances.least_dsc(role):
            found.append(
                f"{each.roi} overlaps the truth by DSC {each.dsc:.2f} in {whose}; "
                f"{tolerances.least_dsc(role):g} is the least."
            )
    return tuple(found)


def _shown_mm(mm: float) -> str:
    return f"{mm:+.2f}"


def changed(
    back: Sequence[MeasuredOrgan],
    sent: Sequence[MeasuredOrgan],
    tolerances: Tolerances,
    voxel_mm: float,
    whose: str,
) -> tuple[str, ...]:
    """What a planning system changed in the contours that limn sent it, each as a sentence."""
    found = [why] if (why := exchanged(back, whose)) else []
    for own, its in zip(sent, back, strict=True):
        if not own.volume_mm3:
            if its.volume_mm3:
                found.append(f"{own.roi} was not sent and has {its.volume_mm3:.1f} mm3 in {whose}.")
            continue
        if own.offset_xyz_mm is None or its.offset_xyz_mm is None:
            found.append(f"{own.roi} was sent and is missing in {whose}.")
            continue
        moved = np.subtract(its.offset_xyz_mm, own.offset_xyz_mm)
        axis = int(np.argmax(np.abs(moved)))
        allowed_mm = tolerances.back_position_voxels * voxel_mm
        if abs(moved[axis]) > allowed_mm:
            found.append(
                f"{own.roi} was moved by {_shown_mm(moved[axis])} mm along {AXES[axis]} in "
                f"{whose}; {allowed_mm:.2f} mm are allowed."
            )
        if abs(its.volume_mm3 - own.volume_mm3) > allowed_mm3(own.volume_mm3, tolerances):
            found.append(
                f"{own.roi} was sent with {own.volume_mm3:.1f} mm3 and has {its.volume_mm3:.1f} "
                f"in {whose}; {allowed_mm3(own.volume_mm3, tolerances):.1f} mm3 more or less are "
                "allowed."
            )
    return tuple(found)


def allowed_mm3(volume_mm3: float, tolerances: Tolerances) -> float:
    """How much a planning system's volume may differ from limn's."""
    share = tolerances.back_volume_percent / 100.0 * volume_mm3
    return max(share, tolerances.back_volume_mm3)
