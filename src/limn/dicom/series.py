"""Assembles instances to one CT series, or refuses them by naming the keyword and the value.

A slice is a single-frame instance or one frame of a multi-frame one; after `assemble` the two
are handled in the same way.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag
from pydicom.uid import (
    JPEG2000,
    CTImageStorage,
    EnhancedCTImageStorage,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSNearLossless,
    LegacyConvertedEnhancedCTImageStorage,
)

from limn.dicom.bounded import DAMAGES
from limn.dicom.identity import animal_of, unread_elements
from limn.domain.errors import RefusedSeries
from limn.domain.geometry import (
    OBLIQUE_TOLERANCE,
    FloatArray,
    Grid,
    IntArray,
    ladder,
    same_directions,
    same_spacings,
)
from limn.domain.one_line import one_line

CT_CLASSES = (CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage)

MIN_SLICES = 3
# A series that lacks more than this share of its slices is refused.
MAX_MISSING_SHARE = 0.1
SAME_POSITION_MM = 0.001
# Sine of the angle to the patient's axes above which a flag is set: 0.02 mm over a mouse.
UNFLAGGED_OBLIQUE = 0.001
# Positions may be rounded to this size at most.
COARSEST_ROUNDING_MM = 0.1
SIDEWAYS_MM = 0.01
# What tells the images apart that lie at one position, the plainest first.
PHASES = (
    "AcquisitionNumber",
    "TemporalPositionIdentifier",
    "TemporalPositionIndex",
    "NominalPercentageOfCardiacPhase",
    "GatingCycleNumber",
    "TriggerTime",
    "EchoNumbers",
    "KVP",
    "ConvolutionKernel",
    "ImageType",
    "ReconstructionDiameter",
    "AcquisitionTime",
    "ContentTime",
    "SeriesNumber",
)
_PLAIN_NUMBERS = re.compile(r"[-+.0-9eE\\]*")
# Of more values than this the first few are listed.
LISTED = 6

# ImageOrientationPatient of an axial stack for each PatientPosition (PS3.3 C.7.3.1.1.2).
AXIAL_ORIENTATIONS = {
    "HFS": (1, 0, 0, 0, 1, 0),
    "HFP": (-1, 0, 0, 0, -1, 0),
    "FFS": (-1, 0, 0, 0, 1, 0),
    "FFP": (1, 0, 0, 0, -1, 0),
    "HFDL": (0, -1, 0, 1, 0, 0),
    "HFDR": (0, 1, 0, -1, 0, 0),
    "FFDL": (0, 1, 0, 1, 0, 0),
    "FFDR": (0, -1, 0, -1, 0, 0),
}

# Syntaxes that are lossy unless LossyImageCompression says otherwise.
LOSSY_SYNTAXES = (JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless, JPEG2000)

# Functional groups of Enhanced CT (PS3.3 C.7.6.16, C.8.15.3), and their attributes that a
# single-frame header has itself.
_GROUPS = {
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PixelMeasuresSequence": ("PixelSpacing",),
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept", "RescaleType"),
    "CTImageFrameTypeSequence": ("FrameType",),
}


@dataclass(frozen=True, slots=True, eq=False)
class Instance:
    """One file: its header, and the path for its pixels.

    Attributes
    ----------
    pixels_at : where the element PixelData begins in the file; None if nobody knows
    """

    header: Dataset
    path: Path
    pixels_at: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Slice:
    """One plane of the stack.

    Attributes
    ----------
    header : of the instance
    plane : position, orientation, spacing and rescale of this plane; the header itself for
        a single-frame instance
    frame : 1-based frame number, None in a single-frame instance
    pixels_at : see `Instance`
    """

    header: Dataset
    plane: Dataset
    path: Path
    frame: int | None
    pixels_at: int | None = None

    @property
    def reference(self) -> tuple[str, int | None]:
        """SOP Instance UID and frame, by which a contour refers to its image."""
        return (str(self.header.SOPInstanceUID), self.frame)

    @property
    def name(self) -> str:
        """The slice in messages."""
        uid = str(self.header.get("SOPInstanceUID", "without SOPInstanceUID"))
        return uid if self.frame is None else f"{uid} frame {self.frame}"


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """A CT series of checked geometry, in the order of the slice normal.

    Attributes
    ----------
    rungs : (n,) index of every slice on an even ladder, starting at 0; a skipped number is a
        missing slice
    flags : what is unusual about it, for the record
    unread : elements of the first header with the bytes of their sender
    animal : PatientID, as `animal_of` shows it
    """

    slices: tuple[Slice, ...]
    grid: Grid
    rungs: IntArray
    flags: tuple[str, ...]
    unread: Mapping[BaseTag, RawDataElement] = field(default_factory=dict)
    animal: str = ""

    @property
    def first(self) -> Dataset:
        """The header of the first slice."""
        return self.slices[0].header

    @property
    def sop_instance_uids(self) -> tuple[str, ...]:
        """One per slice, in the order of the grid."""
        return tuple(str(each.header.SOPInstanceUID) for each in self.slices)

    @property
    def headers(self) -> tuple[Dataset, ...]:
        """One per instance, in the order of the slices."""
        return tuple({str(s.header.SOPInstanceUID): s.header for s in self.slices}.values())


_Part = TypeVar("_Part", Instance, Slice)
_Found = TypeVar("_Found")


def assemble(instances: Sequence[Instance], *, assume_hu: bool = False) -> Series:
    """Check that the instances are one CT series on one grid.

    Parameters
    ----------
    assume_hu : bool
        Pixels without RescaleSlope are Hounsfield units, as the site's config declares.

    Raises
    ------
    RefusedSeries
        Names the DICOM keyword, the value found and the value expected.
    """
    if not instances:
        raise RefusedSeries("no DICOM instance to contour")
    try:
        return _assembled(instances, assume_hu=assume_hu)
    except DAMAGES as error:
        msg = f"damaged header: {type(error).__name__}: {error}"
        raise RefusedSeries(msg) from error


def _assembled(instances: Sequence[Instance], *, assume_hu: bool) -> Series:
    _check_each(instances, lambda each: _check_instance(each.header))
    _check_uids(instances)
    named = [(each.header, str(each.header.SOPInstanceUID)) for each in instances]
    for keyword in ("SeriesInstanceUID", "StudyInstanceUID"):
        _check_same(named, keyword, _shown)
    # Not decoded: a structure set gets its bytes.
    _check_same(named, "PatientID", lambda header, _: animal_of(header))
    for keyword in ("FrameOfReferenceUID", "Rows", "Columns"):
        _check_same(named, keyword, _shown)
    slices = [
        Slice(instance.header, plane, instance.path, frame, instance.pixels_at)
        for instance in instances
        for frame, plane in planes(instance.header)
    ]
    places = _check_each(slices, lambda each: _check_slice(each, assume_hu=assume_hu))
    spacing = _common(slices, "PixelSpacing", [each.spacing for each in places], same_spacings)
    orientation = _common(
        slices, "ImageOrientationPatient", [each.orientation for each in places], same_directions
    )
    if len(slices) < MIN_SLICES:
        msg = f"{len(slices)} slices, at least {MIN_SLICES} expected"
        if len(slices) == 1:
            msg += "; does the exporter give each slice a SeriesInstanceUID of its own?"
        raise RefusedSeries(msg)
    return _stack(slices, np.array([each.position for each in places]), spacing, orientation)


def _stack(
    slices: Sequence[Slice], origins: FloatArray, spacing: FloatArray, orientation: FloatArray
) -> Series:
    first = slices[0].plane
    normal_xyz = np.cross(orientation[:3], orientation[3:])
    order = np.argsort(origins @ normal_xyz, kind="stable")
    ordered = [slices[i] for i in order]
    # The axes are checked first: with wrong axes the positions would seem to be wrong.
    try:
        grid = Grid(
            slice_origins_xyz_mm=origins[order],
            rows=int(slices[0].header.Rows),
            columns=int(slices[0].header.Columns),
            spacing_y_mm=float(spacing[0]),
            spacing_x_mm=float(spacing[1]),
            along_x_xyz=orientation[:3],
            along_y_xyz=orientation[3:],
        )
        _ = grid.axis_letters
    except ValueError as error:
        msg = f"ImageOrientationPatient {_shown(first, 'ImageOrientationPatient')}: {error}"
        raise RefusedSeries(msg) from error
    rungs = _rungs(grid, ordered)
    header = ordered[0].header
    unread = unread_elements(header)
    return Series(tuple(ordered), grid, rungs, _flags(ordered, rungs), unread, animal_of(header))


def planes(header: Dataset) -> list[tuple[int | None, Dataset]]:
    """Every plane of an instance: (None, header) or (frame number, its functional groups)."""
    frames = int(header.get("NumberOfFrames") or 1)
    if "PerFrameFunctionalGroupsSequence" not in header:
        return [(None, header)]
    shared = (header.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    found: list[tuple[int | None, Dataset]] = []
    for number, group in enumerate(header.PerFrameFunctionalGroupsSequence[:frames], start=1):
        plane = Dataset()
        for sequence, keywords in _GROUPS.items():
            items = group.get(sequence) or shared.get(sequence)
            for keyword in keywords:
                # As it was written: `written_numbers` and `_shown` name what is no number.
                if items and keyword in items[0]:
                    element = items[0].get_item(keyword)
                    plane[element.tag] = element
        found.append((number, plane))
    return found


def normal_xyz(plane: Dataset) -> tuple[float, float, float]:
    """The slice normal, not normalised: the cross product of ImageOrientationPatient's triples.

    In plain floats, because a scanner waits while this is computed for every slice.

    Raises
    ------
    AttributeError, TypeError, ValueError
        If the header has no usable ImageOrientationPatient.
    """
    ax, ay, az, bx, by, bz = written_numbers(plane, "ImageOrientationPatient")
    return ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx


def rounding_mm(plane: Dataset) -> float:
    """Size of the last decimal of the position along the normal, at most 0.1 mm."""
    try:
        along = [abs(part) for part in normal_xyz(plane)]
        axis = along.index(max(along))
        position: Any = plane.ImagePositionPatient
        if isinstance(position, str):
            position = position.split("\\")
        value = position[axis]
        text = Decimal(getattr(value, "original_string", str(value)).strip())
        exponent = text.normalize().as_tuple().exponent
        return float(min(COARSEST_ROUNDING_MM, 10.0 ** int(exponent)))
    except (AttributeError, IndexError, InvalidOperation, TypeError, ValueError):
        return 0.0


def _check_instance(header: Dataset) -> None:
    name = str(header.get("SOPInstanceUID", "without SOPInstanceUID"))
    if header.get("Modality") != "CT":
        msg = f"Modality {header.get('Modality', 'absent')!r}, 'CT' expected (instance {name})"
        raise RefusedSeries(msg)
    if header.get("SOPClassUID") not in CT_CLASSES:
        msg = f"SOPClassUID {header.get('SOPClassUID', 'absent')}, a CT image class expected"
        raise RefusedSeries(msg)
    _check_no_scout(header, name)
    for keyword in ("SeriesInstanceUID", "SOPInstanceUID", "StudyInstanceUID"):
        if not header.get(keyword):
            msg = f"{keyword} absent (instance {name})"
            raise RefusedSeries(msg)
    for keyword in ("Rows", "Columns", "BitsAllocated"):
        if not header.get(keyword):
            msg = f"{keyword} absent: instance {name} has no pixels"
            raise RefusedSeries(msg)
    if header.get("HighBit") is not None and header.get("BitsStored"):
        expected = int(header.BitsStored) - 1
        if int(header.HighBit) != expected:
            msg = f"HighBit {header.HighBit}, {expected} expected (BitsStored - 1) in {name}"
            raise RefusedSeries(msg)
    if int(header.get("SamplesPerPixel") or 1) != 1:
        msg = f"SamplesPerPixel {header.SamplesPerPixel}, 1 expected (instance {name})"
        raise RefusedSeries(msg)
    frames = int(header.get("NumberOfFrames") or 1)
    groups = len(header.get("PerFrameFunctionalGroupsSequence") or ())
    if frames > 1 and groups != frames:
        msg = (
            f"NumberOfFrames {frames}, but PerFrameFunctionalGroupsSequence has {groups} items: "
            f"the frames of {name} have no position"
        )
        raise RefusedSeries(msg)


def _check_no_scout(header: Dataset, name: str) -> None:
    """Refuse a localizer by its type, before its size or orientation is refused."""
    for frame, plane in planes(header):
        for value in (header.get("ImageType"), plane.get("FrameType")):
            kinds = [value] if isinstance(value, str) else list(value or ())
            if "LOCALIZER" in kinds:
                where = name if frame is None else f"{name} frame {frame}"
                shown = "\\".join(kinds)
                msg = (
                    f"ImageType {shown}: the series has a scout ({where}); send the scan without it"
                )
                raise RefusedSeries(msg)


def _check_uids(instances: Sequence[Instance]) -> None:
    counted = Counter(str(instance.header.SOPInstanceUID) for instance in instances)
    uid, count = counted.most_common(1)[0]
    if count > 1:
        msg = f"SOPInstanceUID {uid} names {count} files; which of them is the slice?"
        raise RefusedSeries(msg)


class _Place(NamedTuple):
    """The numbers of a plane's geometry, as they are written."""

    position: list[float]
    orientation: list[float]
    spacing: list[float]


def _check_slice(each: Slice, *, assume_hu: bool) -> _Place:
    for keyword in ("RescaleSlope", "RescaleIntercept"):
        text = _shown(each.plane, keyword).strip()
        missing = text in {"absent", ""}
        if missing and not assume_hu:
            msg = (
                f"{keyword} absent: pixels are not in HU (instance {each.name}); set "
                "assume_hu in the site's config if this scanner writes HU"
            )
            raise RefusedSeries(msg)
        if missing:
            continue
        number = _float(text)
        if number is None or (keyword == "RescaleSlope" and number == 0):
            msg = f"{keyword} {text} is no number that gives HU (instance {each.name})"
            raise RefusedSeries(msg)
    orientation = _numbers(each, "ImageOrientationPatient", 6)
    position = _numbers(each, "ImagePositionPatient", 3)
    spacing = _numbers(each, "PixelSpacing", 2)
    if min(spacing) <= 0:
        msg = f"PixelSpacing {_shown(each.plane, 'PixelSpacing')} is not positive ({each.name})"
        raise RefusedSeries(msg)
    return _Place(position, orientation, spacing)


def _check_each(every: Sequence[_Part], check: Callable[[_Part], _Found]) -> list[_Found]:
    """What the check finds of each; refuse with the first fault, and say how many have one."""
    found, refusals = [], []
    for each in every:
        try:
            found.append(check(each))
        except RefusedSeries as refusal:
            refusals.append(str(refusal))
    if len(refusals) == 1:
        raise RefusedSeries(refusals[0])
    if refusals:
        msg = f"{refusals[0]}; {len(refusals)} of {len(every)} images are refused"
        raise RefusedSeries(msg)
    return found


def _check_same(
    found: Sequence[tuple[Dataset, str]], keyword: str, shown: Callable[[Dataset, str], str]
) -> None:
    """Refuse a keyword whose text differs."""
    texts = [shown(ds, keyword) for ds, _ in found]
    usual = Counter(texts).most_common(1)[0][0]
    odd = [k for k, text in enumerate(texts) if text != usual]
    _refuse_odd(keyword, usual, [(texts[k], found[k][1]) for k in odd])


def _common(
    slices: Sequence[Slice],
    keyword: str,
    written: Sequence[Sequence[float]],
    same: Callable[[FloatArray, FloatArray], bool],
) -> FloatArray:
    """The median of a geometry that every slice writes; refuse one that is another's.

    The median does not depend on the order in which the slices came.
    """
    numbers = np.array(written)
    median = np.asarray(np.median(numbers, axis=0), dtype=np.float64)
    # Each with the median, and not with another's: two may be off to two sides.
    if not all(same(own, median) for own in numbers):
        texts = [_shown(each.plane, keyword) for each in slices]
        usual = texts.index(Counter(texts).most_common(1)[0][0])
        odd = [k for k, own in enumerate(numbers) if not same(own, numbers[usual])]
        _refuse_odd(keyword, texts[usual], [(texts[k], slices[k].name) for k in odd])
    return median


def _refuse_odd(keyword: str, usual: str, odd: Sequence[tuple[str, str]]) -> None:
    if odd:
        msg = (
            f"{keyword} differs within the series: {usual}, but {odd[0][0]} in "
            f"{len(odd)} instances, first {odd[0][1]}"
        )
        raise RefusedSeries(msg)


def _rungs(grid: Grid, ordered: Sequence[Slice]) -> IntArray:
    """The index of each slice on an even ladder; refuse positions that fit none."""
    positions_mm = grid.slice_positions_mm
    steps_mm = np.diff(positions_mm)
    same = np.flatnonzero(steps_mm <= SAME_POSITION_MM)
    if len(same):
        raise RefusedSeries(_several_at_one_place(ordered, steps_mm > SAME_POSITION_MM))
    rounded_mm = min(rounding_mm(each.plane) for each in ordered)
    rungs = ladder(positions_mm, rounded_mm)
    spacing_mm = float(np.median(steps_mm))
    if rungs is None or rungs[-1] + 1 - len(rungs) > MAX_MISSING_SHARE * (rungs[-1] + 1):
        k = int(np.argmax(np.abs(steps_mm - spacing_mm)))
        msg = (
            f"ImagePositionPatient: slices {k + 1} and {k + 2} of {len(ordered)} are "
            f"{steps_mm[k]:.4f} mm apart, {spacing_mm:.4f} mm expected"
        )
        raise RefusedSeries(msg)
    origins = grid.slice_origins_xyz_mm
    straight = origins[0] + np.outer(positions_mm - positions_mm[0], grid.normal_xyz)
    sideways_mm = float(np.abs(origins - straight).max())
    if sideways_mm > max(SIDEWAYS_MM, rounded_mm):
        msg = (
            f"ImagePositionPatient moves {sideways_mm:.3f} mm sideways through the series: the "
            "gantry was tilted"
        )
        raise RefusedSeries(msg)
    return rungs


def _several_at_one_place(ordered: Sequence[Slice], is_step: npt.NDArray[np.bool_]) -> str:
    """Say how many images lie at one position, and what tells them apart."""
    place = np.concatenate(([0], np.cumsum(is_step)))
    counts = np.bincount(place)
    most, places = int(counts.max()), len(counts)
    repeated = int(np.count_nonzero(counts > 1))
    apart = [told for keyword in PHASES if (told := _told_apart(ordered, place, keyword))]
    k = int(np.argmax(counts[place] > 1))
    pair = f"instances {ordered[k].name} and {ordered[k + 1].name}"
    if counts.min() < most and not apart:
        # Coarsely rounded positions, or one image too many.
        where = _shown(ordered[k].plane, "ImagePositionPatient")
        also = f"; {repeated} positions of {places} have several images" if repeated > 1 else ""
        return f"ImagePositionPatient {where} twice: {pair}{also}"
    shown = f"{most} images at each of {repeated} positions"
    if places > repeated:
        least = int(counts[counts > 1].min())
        shown = f"{shown if least == most else f'{least} to {shown}'}, one at each other"
    told = apart[0] if apart else f"the first two are {pair}"
    return (
        f"ImagePositionPatient: {shown}; {told}; export one of them, under a SeriesInstanceUID of "
        "its own"
    )


def _told_apart(ordered: Sequence[Slice], place: IntArray, keyword: str) -> str:
    """The values of a keyword if they differ among all images of each position, else nothing."""
    values = [_shown(each.header, keyword) for each in ordered]
    if len(set(zip(place.tolist(), values, strict=True))) < len(ordered) or "absent" in values:
        return ""
    every = sorted(set(values), key=lambda text: (len(text), text))
    if len(every) > int(np.bincount(place).max()):
        return ""
    if all(text.isdecimal() for text in every) and int(every[-1]) - int(every[0]) == len(every) - 1:
        return f"{keyword} {every[0]}..{every[-1]}"
    return f"{keyword} {', '.join(every[:LISTED])}{', ...' if len(every) > LISTED else ''}"


def _flags(ordered: Sequence[Slice], rungs: IntArray) -> tuple[str, ...]:
    first = ordered[0].header
    flags = [
        f"gap:{after}-{after + 1}:{missing}"
        for after, missing in zip(
            np.flatnonzero(np.diff(rungs) > 1) + 1,
            np.diff(rungs)[np.diff(rungs) > 1] - 1,
            strict=True,
        )
    ]
    if any(_is_lossy(each.header) for each in ordered):
        flags.append("lossy")
    if not first.get("FrameOfReferenceUID"):
        flags.append("no-frame-of-reference")
    kinds = {str(each.plane.get("RescaleType") or "HU").strip() for each in ordered}
    # A space stands between two flags, so none may have one.
    flags += [f"rescale-type:{'-'.join(one_line(k).split())}" for k in sorted(kinds - {"HU"})]
    off_axis = max(
        float(np.sort(np.abs(axis))[-2])
        for axis in np.reshape(written_numbers(ordered[0].plane, "ImageOrientationPatient"), (2, 3))
    )
    if off_axis > UNFLAGGED_OBLIQUE:
        flags.append(f"oblique:{np.degrees(np.arcsin(off_axis)):.2f}deg")
    position = str(first.get("PatientPosition", "")).strip()
    fitting = axial_position(written_numbers(ordered[0].plane, "ImageOrientationPatient"))
    if position in AXIAL_ORIENTATIONS and fitting not in ("", position):
        flags.append(f"position:{position}-but-axes-say-{fitting}")
    return tuple(flags)


def axial_position(orientation: Sequence[float]) -> str:
    """The PatientPosition whose axial stack has this ImageOrientationPatient; empty if none."""
    for name, axes in AXIAL_ORIENTATIONS.items():
        if np.allclose(orientation, axes, atol=OBLIQUE_TOLERANCE):
            return name
    return ""


def _is_lossy(header: Dataset) -> bool:
    stated = str(header.get("LossyImageCompression", ""))
    if stated in {"00", "01"}:
        return stated == "01"
    return header.file_meta.get("TransferSyntaxUID") in LOSSY_SYNTAXES


def _numbers(each: Slice, keyword: str, count: int) -> list[float]:
    try:
        numbers = written_numbers(each.plane, keyword)
    except (AttributeError, TypeError, ValueError):
        numbers = []
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        shown = _shown(each.plane, keyword)
        why = f"{count} numbers expected"
        if shown != "absent" and not _PLAIN_NUMBERS.fullmatch(shown):
            also = "no comma" if "," in shown else "nothing else"
            why += f", with a decimal point in each and a backslash between them, and {also}"
        msg = f"{keyword} {shown}, {why} (instance {each.name})"
        raise RefusedSeries(msg)
    return numbers


def written_numbers(header: Dataset, keyword: str) -> list[float]:
    """The numbers of an element in whatever VR they were written.

    pydicom does not split a text of one value, such as UT, ST or LT.

    Raises
    ------
    AttributeError, TypeError, ValueError
        If the element is absent or holds something else.
    """
    value: Any = getattr(header, keyword)
    if isinstance(value, bytes):
        value = value.decode("ascii").rstrip("\0 ")
    return [float(part) for part in (value.split("\\") if isinstance(value, str) else value)]


def _float(value: object) -> float | None:
    """A finite number, or None."""
    try:
        number = float(str(value))
    except ValueError:
        return None
    return number if np.isfinite(number) else None


def _shown(header: Dataset, keyword: str) -> str:
    try:
        value: Any = header.get(keyword)
    except ValueError:
        # pydicom reads no number in it: as it was written.
        value = header.get_item(keyword).value
    if isinstance(value, bytes):
        value = value.decode("latin-1").rstrip("\0 ")
    if value is None:
        return "absent"
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        return str(value)
    return "\\".join(str(part) for part in value)
