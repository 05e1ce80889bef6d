"""Reads structure sets of any maker: every ROI as polygons on the slices of a series.

The points of a contour decide on which slice it lies; what others wrote beside them (image
references, counts, numbers of ROIs) is compared with them and never followed against them. It
handles contours without an image reference, ROIs without contours, points and open lines among
polygons, numbers longer than DICOM allows, and nested polygons for holes. Contours that can't be
placed are counted by reason and never moved.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from pydicom.datadict import keyword_for_tag
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

from limn.dicom.bounded import DAMAGES, UNDEFINED_LENGTH
from limn.dicom.identity import animal_of
from limn.dicom.rtstruct import coordinates_of
from limn.dicom.series import Series
from limn.domain.errors import RefusedSeries
from limn.domain.geometry import FloatArray, voxels_at

# PS3.3 C.8.8.6.3, without underscores: writers put them elsewhere, since the standard has one in
# each of CLOSED_PLANAR and CLOSEDPLANAR_XOR.
XOR = "CLOSEDPLANARXOR"
POLYGONS = ("CLOSEDPLANAR", XOR, "")
# A contour lies on a slice that it references if it is at most this share of the spacing away: half
# of it, and what rounding adds.
REFERENCED_SHARE = 0.52
# Without such a reference it lies on the nearest slice within this share: less than half, because
# halfway between two slices neither is the nearest.
NEAREST_SHARE = 0.45
# A contour that is further than this from its slice was drawn on other slices, or was rounded.
OFF_SHARE = 0.25
# The height of a contour's points, and of the contours of one slice, may vary by this share.
PARALLEL_SHARE = 0.1
# No image has a row or column beyond it; a point there is no place in an animal.
FARTHEST_INDEX = 1e6
# Rounding errors of a sum of a few lengths.
EPSILON_MM = 1e-6

TOO_FEW = "fewer than 3 points"
OTHER_FRAME = "drawn in another frame of reference"
OTHER_SLICE = "ContourImageSequence names another slice than the points lie on; the points count"
JOINED = "joined from a further item of ROIContourSequence with the same number"
NO_NUMBER = "without ReferencedROINumber"


@dataclass(frozen=True, slots=True, eq=False)
class Polygon:
    """One closed planar contour.

    Attributes
    ----------
    points_xyz_mm : (n, 3) patient coordinates as in the file; fewer than three points only where
        they are the centres of voxels
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
    doubts : number of contours that were placed although the file contradicts itself, by what a
        person should look at
    """

    number: int
    name: str
    interpreted_type: str
    polygons: tuple[Polygon, ...]
    left_out: Mapping[str, int]
    doubts: Mapping[str, int] = field(default_factory=dict)


def structures_of(ds: Dataset, series: Series) -> tuple[Structure, ...]:
    """Place every ROI of a structure set on a series.

    Contours that belong to no ROI are not among them: `contours_of_no_roi` counts these.

    Raises
    ------
    RefusedSeries
        If it is no structure set, belongs to another scan, is damaged, or gives two ROIs one
        number.
    """
    if cut := _cut_element(ds):
        msg = f"damaged structure set: the file ends within {cut}; export it again"
        raise RefusedSeries(msg)
    if ds.get("Modality") != "RTSTRUCT":
        msg = f"Modality {ds.get('Modality', 'absent')!r}, 'RTSTRUCT' expected"
        raise RefusedSeries(msg)
    try:
        return _structures_of(ds, series)
    except DAMAGES as error:
        msg = f"damaged structure set: {type(error).__name__}: {error}"
        raise RefusedSeries(msg) from error


def _cut_element(ds: Dataset) -> str:
    """The element within which a file ends; empty if it has the bytes that its lengths say."""
    # Access by tag would make pydicom take the bytes that are there for the whole value.
    for element in ds.values():
        if isinstance(element, RawDataElement):
            value = element.value
            # None stands for bytes that were not read, and an undefined length is no count.
            if value is None or element.length == UNDEFINED_LENGTH:
                continue
            if len(value) < element.length:
                return str(keyword_for_tag(element.tag) or element.tag)
        elif element.VR == "SQ":
            for item in element.value:
                if cut := _cut_element(item):
                    return cut
    return ""


def _refuse_without_contours(ds: Dataset) -> None:
    """Refuse a file that ends before the sequences that every structure set has."""
    for keyword in ("StructureSetROISequence", "ROIContourSequence"):
        if keyword not in ds:
            msg = (
                f"{keyword} absent: the file is cut off, or it has no contours; draw them, or "
                "export it again"
            )
            raise RefusedSeries(msg)


def _structures_of(ds: Dataset, series: Series) -> tuple[Structure, ...]:
    _refuse_without_contours(ds)
    _refuse_other_scan(ds, series)
    _refuse_shared_numbers(ds)
    # A second item of one ROI goes on where the first one ended.
    contours = defaultdict[int | None, list[Dataset]](list)
    joined = Counter[int | None]()
    for item in _items(ds, "ROIContourSequence"):
        number = _number(item, "ReferencedROINumber")
        if contours[number]:
            joined[number] += len(_items(item, "ContourSequence"))
        contours[number] += _items(item, "ContourSequence")
    types: dict[int | None, str] = {}
    for item in _items(ds, "RTROIObservationsSequence"):
        kind = str(item.get("RTROIInterpretedType") or "")
        types.setdefault(_number(item, "ReferencedROINumber"), kind)
    placing = _Placing.on(series)
    animal, scanned = animal_of(ds).strip(), animal_of(series.first).strip()
    differ = animal and scanned and animal != scanned
    other_animal = f"PatientID '{animal}', but '{scanned}' in the series" if differ else ""
    found = []
    for roi in _items(ds, "StructureSetROISequence"):
        number = _number(roi, "ROINumber")
        if number is None:
            continue
        frame = str(roi.get("ReferencedFrameOfReferenceUID") or "").strip()
        if frame and placing.frame and frame != placing.frame:
            polygons, left_out, doubts = placing.place(())
            left_out[OTHER_FRAME] = len(contours[number])
        else:
            polygons, left_out, doubts = placing.place(contours[number])
        if joined[number]:
            doubts[JOINED] = joined[number]
        if other_animal and polygons:
            doubts[other_animal] = len(polygons)
        found.append(
            Structure(
                number, _name(roi), types.get(number, ""), polygons, dict(+left_out), dict(doubts)
            )
        )
    return tuple(found)


def contours_of_no_roi(ds: Dataset) -> dict[str, int]:
    """Number of contours that no ROI of a structure set owns, by reason.

    An ROI without ROINumber can own none, so it is counted too.

    Raises
    ------
    RefusedSeries
        If the structure set is damaged.
    """
    counted = Counter[str]()
    try:
        numbers = [_number(roi, "ROINumber") for roi in _items(ds, "StructureSetROISequence")]
        for roi in _items(ds, "StructureSetROISequence"):
            if _number(roi, "ROINumber") is None:
                counted[f"ROI {_name(roi)!r} without ROINumber"] += 1
        for item in _items(ds, "ROIContourSequence"):
            number = _number(item, "ReferencedROINumber")
            count = len(_items(item, "ContourSequence"))
            if number is None:
                counted[NO_NUMBER] += count
            elif number not in numbers:
                counted[f"with ReferencedROINumber {number}, which no ROI has"] += count
    except DAMAGES as error:
        msg = f"damaged structure set: {type(error).__name__}: {error}"
        raise RefusedSeries(msg) from error
    return dict(+counted)


def _items(ds: Dataset, keyword: str) -> list[Dataset]:
    """The items of a sequence; none if it is absent or empty."""
    return list(ds.get(keyword) or ())


def _number(item: Dataset, keyword: str) -> int | None:
    """A whole number, or None if it is absent or can't be read."""
    try:
        return int(item[keyword].value)
    except DAMAGES:
        return None


def _name(roi: Dataset) -> str:
    """The name in one line, for tables and messages."""
    name = str(roi.get("ROIName") or f"ROI {_number(roi, 'ROINumber')}")
    return "".join(letter if letter.isprintable() else "?" for letter in name)


def _refuse_shared_numbers(ds: Dataset) -> None:
    """Contours name their ROI by its number alone."""
    names = defaultdict[int, list[str]](list)
    for roi in _items(ds, "StructureSetROISequence"):
        number = _number(roi, "ROINumber")
        if number is not None:
            names[number].append(_name(roi))
    shared = [
        f"ROINumber {number} is that of {' and of '.join(same)}"
        for number, same in names.items()
        if len(same) > 1
    ]
    if shared:
        msg = (
            f"{'; '.join(shared)}: contours name their ROI by this number alone; give each ROI a "
            "number of its own and export again"
        )
        raise RefusedSeries(msg)


def _refuse_other_scan(ds: Dataset, series: Series) -> None:
    """Compare frames of reference.

    Some scanners give one to all animals, and some give none. So where it is absent, or the animals
    differ, the structure set must not name images of other series alone; where the animals differ,
    it must name images of this one.
    """
    sequence = _items(ds, "ReferencedFrameOfReferenceSequence")
    rois = _items(ds, "StructureSetROISequence")
    frames = (
        _uids(sequence, "FrameOfReferenceUID")
        or _uids(rois, "ReferencedFrameOfReferenceUID")
        or _uids([ds], "FrameOfReferenceUID")
    )
    own = str(series.first.get("FrameOfReferenceUID") or "").strip()
    if own and frames and own not in frames:
        msg = (
            f"FrameOfReferenceUID {', '.join(sorted(frames))} of the structure set is not the "
            f"series' {own}: it was drawn on another scan"
        )
        raise RefusedSeries(msg)
    animal, scanned = animal_of(ds).strip(), animal_of(series.first).strip()
    differ = bool(animal and scanned and animal != scanned)
    if own and frames and not differ:
        return
    studies = [each for frame in sequence for each in _items(frame, "RTReferencedStudySequence")]
    images = [each for study in studies for each in _items(study, "RTReferencedSeriesSequence")]
    contours = [
        contour
        for roi in _items(ds, "ROIContourSequence")
        for contour in _items(roi, "ContourSequence")
    ]
    named = _uids(images, "SeriesInstanceUID") | _uids(
        [image for each in (*images, *contours) for image in _items(each, "ContourImageSequence")],
        "ReferencedSOPInstanceUID",
    )
    own_uids = {str(series.first.SeriesInstanceUID), *series.sop_instance_uids}
    if differ and not named:
        msg = (
            f"PatientID '{animal}', but '{scanned}' in the series, and the structure set names no "
            "image: it may be of another animal. If it is of this one, mend its PatientID"
        )
        raise RefusedSeries(msg)
    if named and not named & own_uids:
        why = (
            f"PatientID '{animal}', but '{scanned}' in the series"
            if differ
            else f"FrameOfReferenceUID absent from the {'structure set' if own else 'series'}"
        )
        msg = (
            f"{why}, and the structure set names no image of the series but {min(named)}: it was "
            "drawn on another scan"
        )
        raise RefusedSeries(msg)


def _uids(items: Iterable[Dataset], keyword: str) -> set[str]:
    return {str(each.get(keyword) or "").strip() for each in items} - {""}


class _Unplaceable(Exception):
    """A contour that lies on no slice; the text is the reason under which it is counted."""


@dataclass(frozen=True, slots=True, eq=False)
class _Placing:
    """A series, prepared for the contours of many ROIs.

    Attributes
    ----------
    slices_of : SOP Instance UID to the indices of its slices, with their frame numbers
    """

    series: Series
    frame: str
    positions_mm: FloatArray
    spacing_mm: float
    slices_of: Mapping[str, Mapping[int, int]]

    @classmethod
    def on(cls, series: Series) -> _Placing:
        slices_of = defaultdict[str, dict[int, int]](dict)
        for k, each in enumerate(series.slices):
            # A single-frame image is its own frame 1.
            slices_of[str(each.header.SOPInstanceUID)][each.frame or 1] = k
        return cls(
            series,
            str(series.first.get("FrameOfReferenceUID") or "").strip(),
            series.grid.slice_positions_mm,
            series.grid.spacing_mm.z,
            slices_of,
        )

    def place(
        self, contours: Iterable[Dataset]
    ) -> tuple[tuple[Polygon, ...], Counter[str], Counter[str]]:
        """The polygons of an ROI; its contours that were left out, and those in doubt, counted."""
        left_out = Counter[str]()
        placed: list[tuple[Polygon, float, list[str]]] = []
        nearest_mm: dict[int, float] = {}
        for item in contours:
            try:
                polygon, off_mm, doubts = self._placed(item)
            except _Unplaceable as reason:
                left_out[str(reason)] += 1
                continue
            placed.append((polygon, off_mm, doubts))
            k = polygon.slice_index
            nearest_mm[k] = min(off_mm, nearest_mm.get(k, off_mm), key=abs)
        polygons, doubtful = [], Counter[str]()
        for polygon, off_mm, doubts in placed:
            apart_mm = abs(off_mm - nearest_mm[polygon.slice_index])
            # Two planes on one slice would be taken for an outline and its hole.
            if apart_mm > PARALLEL_SHARE * self.spacing_mm + EPSILON_MM:
                left_out["on a slice that has contours nearer to it"] += 1
                continue
            polygons.append(polygon)
            doubtful.update(doubts)
        return tuple(polygons), left_out, doubtful

    def _placed(self, item: Dataset) -> tuple[Polygon, float, list[str]]:
        """A contour on its slice, its distance from that slice in mm, and doubts about it."""
        kind = str(item.get("ContourGeometricType") or "").strip().upper()
        plain = kind.replace("_", "").replace(" ", "")
        if plain not in POLYGONS:
            reason = f"ContourGeometricType {kind}"
            raise _Unplaceable(reason)
        # A retired attribute: a vector to add to every point. Without it the points lie elsewhere.
        if any(float(mm) for mm in item.get("ContourOffsetVector") or ()):
            raise _Unplaceable("ContourOffsetVector is not zero")
        points = _points(item)
        heights_mm = points @ self.series.grid.normal_xyz
        if float(np.ptp(heights_mm)) > PARALLEL_SHARE * self.spacing_mm:
            raise _Unplaceable("not parallel to the slices")
        height_mm = float(heights_mm.mean())
        k, doubts = self._slice_of(item, height_mm)
        doubts += [] if kind else ["ContourGeometricType absent"]
        off_mm = height_mm - float(self.positions_mm[k])
        if abs(off_mm) > OFF_SHARE * self.spacing_mm + EPSILON_MM:
            doubts.append("over a quarter of a slice beside their slice")
        grid = self.series.grid
        shape_yx = (grid.rows, grid.columns)
        indices_yx = grid.plane_indices_yx(k, points)
        if len(points) < 3 and voxels_at(indices_yx, shape_yx) is None:
            raise _Unplaceable(TOO_FEW)
        low, high = indices_yx.min(axis=0), indices_yx.max(axis=0)
        out_of_bounds = float(np.abs(indices_yx).max()) > FARTHEST_INDEX
        if out_of_bounds or (high < -0.5).any() or (low > np.array(shape_yx) - 0.5).any():
            raise _Unplaceable("outside the image")
        if (low < -1).any() or (high > np.array(shape_yx)).any():
            doubts.append("reach beyond the image")
        return Polygon(k, points, plain == XOR), off_mm, doubts

    def _slice_of(self, item: Dataset, height_mm: float) -> tuple[int, list[str]]:
        """The slice on which a contour lies; its reference decides only between near ones."""
        away_mm = np.abs(self.positions_mm - height_mm)
        nearest = int(away_mm.argmin())
        images = _items(item, "ContourImageSequence")
        named = [k for image in images for k in self._referenced(image)]
        without = len(images) - sum(1 for each in images if each.get("ReferencedSOPInstanceUID"))
        doubts = ["ContourImageSequence has an item without UID"] if without else []
        near = [k for k in named if away_mm[k] <= REFERENCED_SHARE * self.spacing_mm + EPSILON_MM]
        if near:
            return min(near, key=lambda k: float(away_mm[k])), doubts
        if away_mm[nearest] > NEAREST_SHARE * self.spacing_mm:
            raise _Unplaceable("between or beyond the slices")
        if named:
            doubts.append(OTHER_SLICE)
        elif len(images) > without:
            doubts.append("ContourImageSequence names no image of the series")
        return nearest, doubts

    def _referenced(self, image: Dataset) -> list[int]:
        """The slices that an item of ContourImageSequence names."""
        frames = self.slices_of.get(str(image.get("ReferencedSOPInstanceUID") or "").strip(), {})
        stated = image.get("ReferencedFrameNumber")
        if stated in (None, ""):
            return list(frames.values())
        numbers = stated if isinstance(stated, Iterable) else [stated]
        return [frames[int(number)] for number in numbers if int(number) in frames]


def _points(item: Dataset) -> FloatArray:
    """(n, 3) patient coordinates of a contour whose numbers agree with each other, mm."""
    try:
        numbers = coordinates_of(item)
    except DAMAGES as error:
        raise _Unplaceable("ContourData unreadable") from error
    if not len(numbers):
        raise _Unplaceable("ContourData empty")
    if len(numbers) % 3:
        raise _Unplaceable("ContourData is no multiple of 3 numbers")
    if not np.isfinite(numbers).all():
        raise _Unplaceable("ContourData unreadable")
    points = numbers.reshape(-1, 3)
    stated = _number(item, "NumberOfContourPoints")
    if len(points) < 3 and stated not in (None, len(points)):
        raise _Unplaceable(TOO_FEW)
    # Points were lost, or never meant: the outline is not the one that was drawn.
    if stated not in (None, len(points)):
        raise _Unplaceable("NumberOfContourPoints differs from ContourData")
    return points
