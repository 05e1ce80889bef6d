"""Instances to one contourable series, or a refusal that names the keyword and the value."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
)

from limn.domain.errors import RefusedSeries
from limn.domain.geometry import FloatArray, Grid

CT_CLASSES = (CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage)

# Neighbouring slices may differ from the series' spacing by this share of it or this
# distance, whichever is larger: positions are often written with few decimals.
SPACING_TOLERANCE = 0.01
SPACING_TOLERANCE_MM = 0.002
MIN_SLICES = 3


@dataclass(frozen=True, slots=True, eq=False)
class Instance:
    """One file: its header and where its pixels are."""

    header: Dataset
    path: Path


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """A CT series whose geometry is proven, in the order of the slice normal."""

    instances: tuple[Instance, ...]
    grid: Grid

    @property
    def first(self) -> Dataset:
        """The header of the first slice."""
        return self.instances[0].header

    @property
    def sop_instance_uids(self) -> tuple[str, ...]:
        """One per slice, in the order of the grid."""
        return tuple(str(instance.header.SOPInstanceUID) for instance in self.instances)


def assemble(instances: Sequence[Instance], *, assume_hu: bool = False) -> Series:
    """Prove that the instances are one CT series on one uniform grid.

    Parameters
    ----------
    assume_hu : bool
        The site declares that pixels without RescaleSlope are Hounsfield units.

    Raises
    ------
    RefusedSeries
        Names the DICOM keyword, the value found and the value expected.
    """
    if not instances:
        raise RefusedSeries("no DICOM instance to contour")
    for instance in instances:
        _check_instance(instance.header, assume_hu=assume_hu)
    for keyword in (
        "SeriesInstanceUID",
        "PatientID",
        "Rows",
        "Columns",
        "PixelSpacing",
        "ImageOrientationPatient",
        "FrameOfReferenceUID",
    ):
        _check_same(instances, keyword)
    if len(instances) < MIN_SLICES:
        msg = f"{len(instances)} slices, at least {MIN_SLICES} expected"
        raise RefusedSeries(msg)
    first = instances[0].header
    orientation = _numbers(first, "ImageOrientationPatient", 6)
    spacing = _numbers(first, "PixelSpacing", 2)
    normal_xyz = np.cross(orientation[:3], orientation[3:])
    origins = np.array([_numbers(i.header, "ImagePositionPatient", 3) for i in instances])
    order = np.argsort(origins @ normal_xyz, kind="stable")
    # Before the positions: along axes that are none they would take the blame.
    try:
        grid = Grid(
            slice_origins_xyz_mm=origins[order],
            rows=int(first.Rows),
            columns=int(first.Columns),
            spacing_y_mm=float(spacing[0]),
            spacing_x_mm=float(spacing[1]),
            along_x_xyz=orientation[:3],
            along_y_xyz=orientation[3:],
        )
        _ = grid.axis_letters
    except ValueError as error:
        msg = f"ImageOrientationPatient {_shown(first, 'ImageOrientationPatient')}: {error}"
        raise RefusedSeries(msg) from error
    _check_positions(origins[order], normal_xyz, [instances[i] for i in order])
    return Series(tuple(instances[i] for i in order), grid)


def _check_instance(header: Dataset, *, assume_hu: bool) -> None:
    name = str(header.get("SOPInstanceUID", "without SOPInstanceUID"))
    if header.get("Modality") != "CT":
        msg = f"Modality {header.get('Modality', 'absent')!r}, 'CT' expected (instance {name})"
        raise RefusedSeries(msg)
    if header.get("SOPClassUID") not in CT_CLASSES:
        msg = f"SOPClassUID {header.get('SOPClassUID', 'absent')}, a CT image class expected"
        raise RefusedSeries(msg)
    if int(header.get("NumberOfFrames") or 1) > 1:
        msg = f"NumberOfFrames {header.NumberOfFrames}: multi-frame CT is not supported yet"
        raise RefusedSeries(msg)
    for keyword in ("SeriesInstanceUID", "SOPInstanceUID", "StudyInstanceUID"):
        if not header.get(keyword):
            msg = f"{keyword} absent (instance {name})"
            raise RefusedSeries(msg)
    if "LOCALIZER" in (header.get("ImageType") or ()):
        msg = f"ImageType {_shown(header, 'ImageType')}: a scout lies in the series ({name})"
        raise RefusedSeries(msg)
    _check_pixels(header, name)
    if not assume_hu:
        _check_rescale(header, name)
    _numbers(header, "ImageOrientationPatient", 6)
    _numbers(header, "ImagePositionPatient", 3)
    if min(_numbers(header, "PixelSpacing", 2)) <= 0:
        msg = f"PixelSpacing {_shown(header, 'PixelSpacing')} is not positive"
        raise RefusedSeries(msg)


def _check_pixels(header: Dataset, name: str) -> None:
    for keyword in ("Rows", "Columns", "BitsAllocated"):
        if not header.get(keyword):
            msg = f"{keyword} absent: instance {name} has no pixels"
            raise RefusedSeries(msg)
    if int(header.get("SamplesPerPixel") or 1) != 1:
        msg = f"SamplesPerPixel {header.SamplesPerPixel}, 1 expected (instance {name})"
        raise RefusedSeries(msg)


def _check_rescale(header: Dataset, name: str) -> None:
    for keyword in ("RescaleSlope", "RescaleIntercept"):
        if header.get(keyword) is None:
            msg = (
                f"{keyword} absent: pixels are not in HU (instance {name}); set "
                "assume_hu in the site's config if this scanner writes HU"
            )
            raise RefusedSeries(msg)


def _check_same(instances: Sequence[Instance], keyword: str) -> None:
    values = Counter(_shown(instance.header, keyword) for instance in instances)
    if len(values) > 1:
        (usual, _), (odd, count), *_ = values.most_common()
        msg = f"{keyword} differs within the series: {usual}, but {odd} in {count} instances"
        raise RefusedSeries(msg)


def _check_positions(
    origins: FloatArray, normal_xyz: FloatArray, ordered: Sequence[Instance]
) -> None:
    positions_mm = origins @ normal_xyz
    steps_mm = np.diff(positions_mm)
    spacing_mm = float(np.median(steps_mm))
    tolerance_mm = max(SPACING_TOLERANCE * spacing_mm, SPACING_TOLERANCE_MM)
    same = np.flatnonzero(steps_mm <= SPACING_TOLERANCE_MM)
    if len(same):
        first, second = (ordered[int(same[0]) + i].header for i in (0, 1))
        msg = (
            f"ImagePositionPatient {_shown(first, 'ImagePositionPatient')} twice: "
            f"instances {first.SOPInstanceUID} and {second.SOPInstanceUID}"
        )
        raise RefusedSeries(msg)
    odd = np.flatnonzero(np.abs(steps_mm - spacing_mm) > tolerance_mm)
    if len(odd):
        k = int(odd[0])
        msg = (
            f"ImagePositionPatient: slices {k + 1} and {k + 2} of {len(ordered)} are "
            f"{steps_mm[k]:.4f} mm apart, {spacing_mm:.4f} mm expected"
        )
        raise RefusedSeries(msg)
    shear = origins - origins[0] - np.outer(positions_mm - positions_mm[0], normal_xyz)
    if float(np.abs(shear).max()) > max(tolerance_mm, 0.01):
        msg = (
            f"ImagePositionPatient moves {float(np.abs(shear).max()):.3f} mm sideways through "
            "the series: the gantry was tilted"
        )
        raise RefusedSeries(msg)


def _numbers(header: Dataset, keyword: str, count: int) -> FloatArray:
    value: Any = header.get(keyword)
    try:
        numbers = np.array([float(v) for v in value], dtype=np.float64)
    except (TypeError, ValueError):
        numbers = np.empty(0)
    if len(numbers) != count or not np.isfinite(numbers).all():
        shown = "absent" if value is None else _shown(header, keyword)
        msg = (
            f"{keyword} {shown}, {count} numbers expected "
            f"(instance {header.get('SOPInstanceUID', 'without SOPInstanceUID')})"
        )
        raise RefusedSeries(msg)
    return numbers


def _shown(header: Dataset, keyword: str) -> str:
    value: Any = header.get(keyword)
    if value is None:
        return "absent"
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        return str(value)
    return "\\".join(str(part) for part in value)
