"""Reads structure sets of any maker: every ROI as polygons on the slices of a series.

It handles contours without an image reference, ROIs without contours, points and open lines among
polygons, numbers longer than DICOM allows, and nested polygons for holes. Contours that can't be
placed are counted by reason and never moved.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset

from limn.dicom.rtstruct import points_of, reference_of
from limn.dicom.series import Series
from limn.domain.errors import RefusedSeries
from limn.domain.geometry import FloatArray

POLYGONS = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR", "")
# A contour without image reference belongs to the nearest slice within this share of the spacing.
NEAREST_SHARE = 0.5
# The height of a contour's points may vary by this share of the spacing.
PARALLEL_SHARE = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class Polygon:
    """One closed planar contour.

    Attributes
    ----------
    points_xyz_mm : (n, 3) patient coordinates as in the file
    xor : whether it is CLOSEDPLANAR_XOR
    """

    slice_index: int
    points_xyz_mm: FloatArray
    xor: bool


@dataclass(frozen=True, slots=True, eq=False)
class Structure:
    """One ROI.

    Attributes
    ----------
    left_out : number of contours that could not be placed, by reason
    """

    number: int
    name: str
    interpreted_type: str
    polygons: tuple[Polygon, ...]
    left_out: Mapping[str, int]


def structures_of(ds: Dataset, series: Series) -> tuple[Structure, ...]:
    """Place every ROI of a structure set on a series.

    Raises
    ------
    RefusedSeries
        If it is no structure set, or belongs to another frame of reference.
    """
    if ds.get("Modality") != "RTSTRUCT":
        msg = f"Modality {ds.get('Modality', 'absent')!r}, 'RTSTRUCT' expected"
        raise RefusedSeries(msg)
    _check_frame(ds, series)
    contours = {
        int(roi.ReferencedROINumber): roi.get("ContourSequence") or ()
        for roi in ds.get("ROIContourSequence") or ()
    }
    types = {
        int(each.ReferencedROINumber): str(each.get("RTROIInterpretedType") or "")
        for each in ds.get("RTROIObservationsSequence") or ()
    }
    slice_of = {each.reference: k for k, each in enumerate(series.slices)}
    found = []
    for roi in ds.get("StructureSetROISequence") or ():
        number = int(roi.ROINumber)
        polygons, left_out = [], Counter[str]()
        for item in contours.get(number, ()):
            placed = _place(item, series, slice_of)
            if isinstance(placed, Polygon):
                polygons.append(placed)
            else:
                left_out[placed] += 1
        found.append(
            Structure(
                number,
                str(roi.get("ROIName") or f"ROI {number}"),
                types.get(number, ""),
                tuple(polygons),
                dict(left_out),
            )
        )
    return tuple(found)


def _check_frame(ds: Dataset, series: Series) -> None:
    frames = {
        str(each.FrameOfReferenceUID)
        for each in ds.get("ReferencedFrameOfReferenceSequence") or ()
        if each.get("FrameOfReferenceUID")
    }
    own = str(series.first.get("FrameOfReferenceUID") or "")
    if own and frames and own not in frames:
        msg = (
            f"FrameOfReferenceUID {', '.join(sorted(frames))} of the structure set is not the "
            f"series' {own}: it was drawn on another scan"
        )
        raise RefusedSeries(msg)


def _place(
    item: Dataset, series: Series, slice_of: Mapping[tuple[str, int | None], int]
) -> Polygon | str:
    """A contour on its slice, or the reason why it has none."""
    kind = str(item.get("ContourGeometricType") or "")
    if kind not in POLYGONS:
        return f"ContourGeometricType {kind}"
    try:
        points = points_of(item)
    except (ValueError, AttributeError):
        return "ContourData unreadable"
    if len(points) < 3:
        return "fewer than 3 points"
    grid = series.grid
    heights_mm = points @ grid.normal_xyz
    if float(np.ptp(heights_mm)) > PARALLEL_SHARE * grid.spacing_mm.z:
        return "not parallel to the slices"
    k = slice_of.get(reference_of(item)) if item.get("ContourImageSequence") else None
    if k is None:
        away_mm = np.abs(grid.slice_positions_mm - float(heights_mm.mean()))
        k = int(away_mm.argmin())
        if away_mm[k] > NEAREST_SHARE * grid.spacing_mm.z:
            return "between or beyond the slices"
    return Polygon(k, points, kind == "CLOSEDPLANAR_XOR")
