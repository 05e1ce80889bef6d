"""What one destination gets of structure sets: some ROIs, or several animals in one file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import UID, RTStructureSetStorage

from limn.dicom.rtstruct import (
    LO_CHARACTERS,
    SH_CHARACTERS,
    ST_CHARACTERS,
    preview_name,
    read,
    reference_of,
    to_bytes,
)
from limn.dicom.uids import uid_from
from limn.domain.errors import ConfigWrong, StageFailed

# TG-263 puts what a site adds to a name behind this.
QUALIFIER = "^"
# The last word of the label of a demonstration bundle.
DEMO = "DEMO"
_Drawn: TypeAlias = list[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class AnimalFile:
    """The structure set of one of several animals.

    Attributes
    ----------
    number : of the animal in the field
    name : empty if it has none
    contents : of its file
    """

    number: int
    name: str
    contents: bytes


def choose_rois(contents: bytes, names: Sequence[str], destination: str) -> bytes:
    """The structure set with the ROIs of these names alone; its UIDs are the destination's own.

    The same input gives the same bytes. The structure set that it replaces is named as the same
    destination knows it. Other contents under one SOP Instance UID would be an error (PS3.3
    C.12.1.1), for destinations may exchange their files.

    Parameters
    ----------
    names : as they stand in the structure set; those of a preview end with PREVIEW

    Raises
    ------
    ConfigWrong
        If the file has none of them.
    """
    ds = read(contents)
    wanted = {*names, *map(preview_name, names)}
    kept = {int(roi.ROINumber) for roi in ds.StructureSetROISequence if str(roi.ROIName) in wanted}
    if not kept:
        msg = f"none of its ROIs is {', '.join(names)}"
        raise ConfigWrong(msg)
    ds.StructureSetROISequence = [
        roi for roi in ds.StructureSetROISequence if int(roi.ROINumber) in kept
    ]
    for keyword in ("ROIContourSequence", "RTROIObservationsSequence"):
        items = [each for each in ds[keyword].value if int(each.ReferencedROINumber) in kept]
        setattr(ds, keyword, items)
    uid = UID(uid_for(str(ds.SOPInstanceUID), names, destination))
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = uid
    for before in ds.get("PredecessorStructureSetSequence") or ():
        known = str(before.ReferencedSOPInstanceUID)
        before.ReferencedSOPInstanceUID = uid_for(known, names, destination)
    return to_bytes(ds)


def uid_for(sop_instance_uid: str, names: Sequence[str], destination: str) -> str:
    """The SOP Instance UID under which a destination gets some ROIs of a structure set."""
    return uid_from(f"{sop_instance_uid}|{destination}|{'|'.join(sorted(names))}")


def join_animals(
    animals: Sequence[AnimalFile], uid: str, of: int, predecessor: str = "", absent: str = ""
) -> bytes:
    """One structure set with the ROIs of several animals of a series; the same bytes each time.

    An ROI is named with its own name, ``^`` and the animal's name or number, such as ``Heart^M1``
    (TG-263 has what a site adds behind a ``^``). The file is read back: each contour must be that
    of the animal's own structure set, which was proven against the voxels.

    Parameters
    ----------
    animals : in the order of their numbers
    uid : SOP Instance UID of the file
    of : how many animals the field has
    predecessor : SOP Instance UID of the file that it replaces; empty for what the animals replace
    absent : which animals are not in it and why; empty if all are

    Raises
    ------
    ConfigWrong
        If two ROIs would have one name.
    StageFailed
        If the animals are not of one series, or the file differs from theirs.
    """
    parts = [read(each.contents) for each in animals]
    marks = marks_of(animals)
    if len({_field_of(part) for part in parts}) > 1:
        raise StageFailed("structure sets of different series can't be one file")
    ds = read(animals[0].contents)
    for keyword in ("StructureSetROISequence", "ROIContourSequence", "RTROIObservationsSequence"):
        setattr(ds, keyword, [])
    expected = [
        (f"{_base(name, mark)}{QUALIFIER}{mark}", *contours)
        for part, mark in zip(parts, marks, strict=True)
        for name, *contours in _drawn(part)
    ]
    for part, mark in zip(parts, marks, strict=True):
        _append(ds, part, mark)
    names = [str(roi.ROIName) for roi in ds.StructureSetROISequence]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        msg = f"two ROIs of one file would be {', '.join(twice)}; give them shorter roi_names"
        raise ConfigWrong(msg)
    _head(ds, parts, (uid, predecessor), of, absent)
    contents = to_bytes(ds)
    if _drawn(read(contents)) != expected:
        raise StageFailed("the file of all animals differs from their own structure sets")
    return contents


def marks_of(animals: Sequence[AnimalFile]) -> list[str]:
    """What tells the ROIs of each animal apart: its name, or its number if names are one."""
    marks = ["_".join(each.name.split()) or str(each.number) for each in animals]
    distinct = len(set(marks)) == len(marks) and max(map(len, marks)) <= LO_CHARACTERS // 2
    return marks if distinct else [str(each.number) for each in animals]


def _base(name: str, mark: str) -> str:
    """An ROI's own name; of a long one the beginning."""
    return name[: LO_CHARACTERS - len(QUALIFIER) - len(mark)]


def _field_of(ds: Dataset) -> tuple[str, ...]:
    """The animal's study, series and frame of reference."""
    (frame,) = ds.ReferencedFrameOfReferenceSequence
    series = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    own = (ds.get("PatientID"), ds.StudyInstanceUID, frame.FrameOfReferenceUID)
    return (*map(str, own), str(series.SeriesInstanceUID))


def _append(ds: FileDataset, part: FileDataset, mark: str) -> None:
    """Add the ROIs of one animal, under numbers that follow those that are there."""
    begin = len(ds.StructureSetROISequence)
    renumbered = {}
    for number, roi in enumerate(part.StructureSetROISequence, start=begin + 1):
        renumbered[int(roi.ROINumber)] = number
        roi.ROINumber = number
        roi.ROIName = f"{_base(str(roi.ROIName), mark)}{QUALIFIER}{mark}"
        ds.StructureSetROISequence.append(roi)
    for keyword in ("ROIContourSequence", "RTROIObservationsSequence"):
        for item in part[keyword].value:
            item.ReferencedROINumber = renumbered[int(item.ReferencedROINumber)]
            if "ObservationNumber" in item:
                item.ObservationNumber = item.ReferencedROINumber
            ds[keyword].value.append(item)


def _head(
    ds: FileDataset,
    parts: Sequence[FileDataset],
    uids: tuple[str, str],
    of: int,
    absent: str,
) -> None:
    """UIDs, words and date of the file; parameters as of `join_animals`."""
    uid, predecessor = uids
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = UID(uid)
    ds.SeriesInstanceUID = uid_from(f"series|{uid}")
    ds.StructureSetLabel = ds.StructureSetName = _label(parts, of)
    first = f"{len(parts)} of {of} animals in one file"
    if absent:
        first += f", WITHOUT {absent}"
    # Each animal's own warnings stand at its beginning.
    share = (ST_CHARACTERS - len(first)) // len(parts) - 2
    told = [str(part.StructureSetDescription)[: max(0, share)] for part in parts]
    ds.StructureSetDescription = "; ".join((first, *told))[:ST_CHARACTERS]
    last = max(parts, key=lambda part: (part.StructureSetDate, part.StructureSetTime))
    for kind in ("StructureSet", "Series", "InstanceCreation"):
        for keyword in (f"{kind}Date", f"{kind}Time"):
            ds[keyword].value = last[keyword].value
    known = [
        str(each.ReferencedSOPInstanceUID)
        for part in parts
        for each in part.get("PredecessorStructureSetSequence") or ()
    ]
    replaced = [predecessor] if predecessor else list(dict.fromkeys(known))
    if "PredecessorStructureSetSequence" in ds:
        del ds.PredecessorStructureSetSequence
    if replaced:
        ds.PredecessorStructureSetSequence = [_referenced(each) for each in replaced]


def _referenced(uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = RTStructureSetStorage
    item.ReferencedSOPInstanceUID = uid
    return item


def _label(parts: Sequence[FileDataset], of: int) -> str:
    """What the labels of the animals have in common, and how many are in the file."""
    labels = [str(part.StructureSetLabel).split() for part in parts]
    if len(labels) == 1:
        return " ".join(labels[0])
    words = [each[0] for each in zip(*labels, strict=False) if len(set(each)) == 1]
    count = f"all {of}" if len(parts) == of else f"{len(parts)} of {of}"
    tail = f"{DEMO} {count}" if DEMO in words else count
    base = " ".join(word for word in words if word != DEMO)
    return f"{base[: SH_CHARACTERS - len(tail) - 1].rstrip()} {tail}".lstrip()


def _drawn(ds: Dataset) -> _Drawn:
    """Name, volume, colour, type and contours of each ROI, as they stand in the file."""
    contours = {int(each.ReferencedROINumber): each for each in ds.ROIContourSequence}
    observed = {int(each.ReferencedROINumber): each for each in ds.RTROIObservationsSequence}
    return [
        (
            str(roi.ROIName),
            str(roi.get("ROIVolume")),
            list(contours[number].ROIDisplayColor),
            str(observed[number].RTROIInterpretedType),
            list(_lines(contours[number])),
        )
        for roi in ds.StructureSetROISequence
        for number in (int(roi.ROINumber),)
    ]


def _lines(roi: Dataset) -> Iterator[tuple[Any, ...]]:
    """Slice, kind, count and bytes of each contour."""
    for item in roi.ContourSequence:
        data = item.get_item("ContourData").value
        kind = str(item.ContourGeometricType)
        yield reference_of(item), kind, int(item.NumberOfContourPoints), data
