"""Writes contours as an RT Structure Set, and reads them back.

The file is Implicit VR Little Endian: in Explicit VR a long contour's DS
exceeds the 16-bit length and becomes UN. Source: PS3.3 A.19.3, C.8.8.5, C.8.8.6, C.8.8.8.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal

import numpy as np
import pydicom
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.tag import Tag
from pydicom.uid import (
    PYDICOM_IMPLEMENTATION_UID,
    UID,
    ImplicitVRLittleEndian,
    RTStructureSetStorage,
)

from limn.dicom.identity import copy_into
from limn.dicom.series import Series
from limn.dicom.uids import uid_from
from limn.domain.geometry import FloatArray
from limn.domain.organ_codes import ARTIFICIAL_INTELLIGENCE, ORGAN_CODES, ORGAN_COLOURS, Code
from limn.domain.scan import Contour, Organ

# Copied unchanged from the CT, so that the planning system files both under one animal.
COPIED = (
    "SpecificCharacterSet",
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientSex",
    "PatientSpeciesDescription",
    "PatientSpeciesCodeSequence",
    "PatientBreedDescription",
    "PatientBreedCodeSequence",
    "BreedRegistrationSequence",
    "ResponsiblePerson",
    "ResponsibleOrganization",
    "PatientSexNeutered",
    "StrainDescription",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "PatientBirthTime",
    "OtherPatientIDs",
    "OtherPatientIDsSequence",
    "OtherPatientNames",
    "PatientComments",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "StudyDescription",
    "AccessionNumber",
    "ReferringPhysicianName",
    "PositionReferenceIndicator",
)
# Type 2 and 2C attributes: always present, empty if the CT has none.
TYPE_2 = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
    "PositionReferenceIndicator",
    "OperatorsName",
    # Type 2C, required for every non-human patient.
    "PatientBreedDescription",
    "PatientBreedCodeSequence",
    "BreedRegistrationSequence",
    "ResponsiblePerson",
    "ResponsibleOrganization",
    "PatientSexNeutered",
)
HoleRule = Literal["keyhole", "xor"]


DS_BYTES = 16
# Retired, and what planning systems expect in RTReferencedStudySequence.
DETACHED_STUDY_MANAGEMENT = "1.2.840.10008.3.1.2.3.1"
# PS3.5 6.2: the VRs of StructureSetLabel, ROIName and StructureSetDescription.
SH_CHARACTERS = 16
LO_CHARACTERS = 64
ST_CHARACTERS = 1024
# In every text of a preview that a person may see.
PREVIEW = "PREVIEW"
# 4 decimals of a millimetre are 0.1 um, and never need more than 16 bytes.
DECIMALS = 4
# Of ROIs to which neither site nor bundle nor TG-263's name gives a colour, in their order.
PALETTE = (
    (255, 128, 0),
    (190, 80, 255),
    (0, 220, 220),
    (255, 120, 180),
    (160, 110, 60),
    (200, 200, 200),
    (130, 160, 0),
    (90, 110, 200),
)
# Largest distance of a point from the plane of its slice; rounding alone gives 0.05 um.
PLANE_TOLERANCE_MM = 0.001


@dataclass(frozen=True, slots=True)
class Style:
    """The form of structure sets that a planning system expects.

    Attributes
    ----------
    roi_names : of every organ of the bundle, in the order of its labels
    colours : RGB, of every organ
    codes : of the organs that have one
    interpreted : RT ROI Interpreted Type (PS3.3 C.8.8.8) of ROIs that are no "ORGAN"
    species, strain : PatientSpeciesDescription and StrainDescription if the CT has none
    holes : "keyhole" joins a hole to its outline; "xor" writes both as CLOSEDPLANAR_XOR
    """

    roi_names: Mapping[Organ, str]
    colours: Mapping[Organ, tuple[int, int, int]]
    species: str
    strain: str = ""
    holes: HoleRule = "keyhole"
    codes: Mapping[Organ, Code] = field(default_factory=dict)
    interpreted: Mapping[Organ, str] = field(default_factory=dict)

    @classmethod
    def of_organs(
        cls,
        organs: Iterable[Organ],
        species: str,
        *,
        roi_names: Mapping[str, str] = MappingProxyType({}),
        colours: Mapping[str, tuple[int, int, int]] = MappingProxyType({}),
        codes: Mapping[str, Code] = MappingProxyType({}),
        strain: str = "",
        holes: HoleRule = "keyhole",
    ) -> Style:
        """A style with what is given, and usual names, colours and codes for the rest."""
        listed = tuple(organs)
        palette = itertools.cycle(PALETTE)
        own = {**ORGAN_COLOURS, **colours}
        known = {**ORGAN_CODES, **codes}
        return cls(
            {organ: roi_names.get(organ, organ) for organ in listed},
            {organ: own.get(organ) or next(palette) for organ in listed},
            species,
            strain,
            holes,
            {organ: known[organ] for organ in listed if organ in known},
        )

    def as_preview(self) -> Style:
        """The same, with ROI names that say that they belong to a preview."""
        names = {organ: preview_name(name) for organ, name in self.roi_names.items()}
        return replace(self, roi_names=names)


@dataclass(frozen=True, slots=True)
class Identity:
    """The values that stay the same if a structure set is built again.

    Attributes
    ----------
    date, time : DICOM DA and TM
    label : StructureSetLabel, at most 16 characters
    software : version of limn
    algorithm, algorithm_version : bundle and its hash
    predecessor_uid : SOP Instance UID of the structure set that this one replaces
    preview : why it is a preview, for the person who reads it; empty if it is none
    animal : which of several animals in the field it is; empty for the only one
    """

    sop_instance_uid: str
    series_instance_uid: str
    date: str
    time: str
    label: str
    software: str
    algorithm: str
    algorithm_version: str = ""
    predecessor_uid: str = ""
    preview: str = ""
    animal: str = ""


def preview_name(roi_name: str) -> str:
    """ROIName of a preview; of a long name it has the beginning."""
    return f"{roi_name[: LO_CHARACTERS - len(PREVIEW) - 1]} {PREVIEW}"


def preview_label(label: str, *, demonstration: bool) -> str:
    """StructureSetLabel of a preview; of a site's long label it has the beginning."""
    return f"{PREVIEW} DEMO" if demonstration else f"{PREVIEW} {label}"[:SH_CHARACTERS].rstrip()


def build(
    series: Series,
    contours: Sequence[Contour],
    volumes_mm3: Mapping[Organ, float],
    identity: Identity,
    style: Style,
    notes: Sequence[str] = (),
    organ_notes: Mapping[Organ, str] = MappingProxyType({}),
    derived: Mapping[Organ, str] = MappingProxyType({}),
) -> bytes:
    """The structure set as a DICOM file (PS3.3 A.19).

    Organs without a contour get no ROI: an empty ContourSequence crashes planning systems.

    Parameters
    ----------
    notes : warnings for the reader of the file, such as "mirrored image";
        StructureSetDescription begins with them
    organ_notes : what the reader must know of an organ's contour; ROIDescription begins with it
    derived : ROIs that no network drew, and how they were made
    """
    ds = _skeleton(series)
    _fill_header(ds, series, identity, style)
    # Notes come first: planning systems show the beginning, and the limit cuts the end.
    first = [f"{PREVIEW}: {identity.preview}"] if identity.preview else []
    first += [identity.animal] if identity.animal else []
    description = "; ".join((*first, *notes, identity.algorithm))
    ds.StructureSetDescription = description[:ST_CHARACTERS]
    frame_of_reference_uid = ds.ReferencedFrameOfReferenceSequence[0].FrameOfReferenceUID
    by_organ = {
        organ: [contour for contour in contours if contour.organ == organ]
        for organ in style.roi_names
    }
    present = [organ for organ, own in by_organ.items() if own]
    ds.StructureSetROISequence = [
        _structure_set_roi(
            number,
            style.roi_names[organ],
            volumes_mm3[organ],
            frame_of_reference_uid,
            identity,
            f"derived: {derived[organ]}" if organ in derived else organ_notes.get(organ, ""),
            is_derived=organ in derived,
        )
        for number, organ in enumerate(present, start=1)
    ]
    ds.ROIContourSequence = [
        _roi_contour(number, style.colours[organ], by_organ[organ], series, style.holes)
        for number, organ in enumerate(present, start=1)
    ]
    ds.RTROIObservationsSequence = [
        _observation(
            number, style.codes.get(organ), style.interpreted.get(organ, "ORGAN"), identity
        )
        for number, organ in enumerate(present, start=1)
    ]
    return to_bytes(ds)


def to_bytes(ds: FileDataset) -> bytes:
    """The file of a structure set."""
    file = io.BytesIO()
    ds.save_as(file, enforce_file_format=True)
    return file.getvalue()


def _skeleton(series: Series) -> FileDataset:
    """The structure set's references to a series (PS3.3 C.8.8.5), in a file that has no more."""
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\0\1"
    meta.ImplementationClassUID = PYDICOM_IMPLEMENTATION_UID
    ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.Modality = "RTSTRUCT"
    images = Dataset()
    images.SeriesInstanceUID = series.first.SeriesInstanceUID
    images.ContourImageSequence = [
        _reference(header.SOPClassUID, header.SOPInstanceUID) for header in series.headers
    ]
    study = _reference(DETACHED_STUDY_MANAGEMENT, series.first.StudyInstanceUID)
    study.RTReferencedSeriesSequence = [images]
    frame = Dataset()
    frame.FrameOfReferenceUID = series.first.get("FrameOfReferenceUID") or ""
    frame.RTReferencedStudySequence = [study]
    ds.ReferencedFrameOfReferenceSequence = [frame]
    return ds


def _reference(sop_class_uid: str, sop_instance_uid: str) -> Dataset:
    reference = Dataset()
    reference.ReferencedSOPClassUID = sop_class_uid
    reference.ReferencedSOPInstanceUID = sop_instance_uid
    return reference


def copy_patient(ds: Dataset, series: Series, style: Style) -> None:
    """Give a dataset the patient and study of a series, byte for byte; it must be implicit VR."""
    source = series.first
    for keyword in COPIED:
        if keyword in source:
            copy_into(ds, source, Tag(keyword), series.unread)
        elif keyword in ds:
            # The character set of a series that declares none is ASCII.
            del ds[keyword]
    for keyword in TYPE_2:
        if keyword not in ds:
            setattr(ds, keyword, [] if keyword.endswith("Sequence") else "")
    if "PatientSpeciesDescription" not in ds and "PatientSpeciesCodeSequence" not in ds:
        ds.PatientSpeciesDescription = style.species
    if "StrainDescription" not in ds and style.strain:
        ds.StrainDescription = style.strain


def _fill_header(ds: FileDataset, series: Series, identity: Identity, style: Style) -> None:
    source = series.first
    copy_patient(ds, series, style)
    frame_of_reference_uid = source.get("FrameOfReferenceUID")
    if not frame_of_reference_uid:
        # Derived from the series, so that all structure sets of one series have the same.
        frame_of_reference_uid = uid_from(f"frame of reference|{source.SeriesInstanceUID}")
        ds.ReferencedFrameOfReferenceSequence[0].FrameOfReferenceUID = frame_of_reference_uid
    if identity.predecessor_uid:
        predecessor = _reference(RTStructureSetStorage, identity.predecessor_uid)
        ds.PredecessorStructureSetSequence = [predecessor]
    ds.FrameOfReferenceUID = frame_of_reference_uid
    ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = RTStructureSetStorage
    ds.file_meta.MediaStorageSOPInstanceUID = UID(identity.sop_instance_uid)
    ds.SOPInstanceUID = UID(identity.sop_instance_uid)
    ds.SeriesInstanceUID = identity.series_instance_uid
    ds.StudyInstanceUID = source.StudyInstanceUID
    number = str(source.get("SeriesNumber") or 0)
    ds.SeriesNumber = 9000 + (int(number[-5:]) if number.isdecimal() else 0)
    ds.InstanceNumber = "1"
    ds.Manufacturer, ds.ManufacturerModelName = "limn", "limn"
    ds.SoftwareVersions = identity.software
    ds.SeriesDescription = _marked("limn contours", identity)
    ds.StructureSetLabel = identity.label
    ds.StructureSetName = identity.label
    for keyword in ("StructureSetDate", "SeriesDate", "InstanceCreationDate"):
        setattr(ds, keyword, identity.date)
    for keyword in ("StructureSetTime", "SeriesTime", "InstanceCreationTime"):
        setattr(ds, keyword, identity.time)
    ds.ApprovalStatus = "UNAPPROVED"


def _structure_set_roi(
    number: int,
    name: str,
    volume_mm3: float,
    frame_of_reference_uid: str,
    identity: Identity,
    note: str,
    *,
    is_derived: bool,
) -> Dataset:
    roi = Dataset()
    roi.ROINumber = number
    roi.ReferencedFrameOfReferenceUID = frame_of_reference_uid
    roi.ROIName = name
    if note:
        roi.ROIDescription = note[:ST_CHARACTERS]
    roi.ROIVolume = f"{volume_mm3 / 1000:.6f}"
    roi.ROIGenerationAlgorithm = "AUTOMATIC"
    roi.ROIGenerationDescription = _marked(identity.algorithm, identity)[:LO_CHARACTERS]
    if not is_derived:
        roi.ROIDerivationAlgorithmIdentificationSequence = [_algorithm(identity)]
    return roi


def _marked(text: str, identity: Identity) -> str:
    """A text of a structure set; that of a preview says so."""
    return f"{PREVIEW} {text}" if identity.preview else text


def _algorithm(identity: Identity) -> Dataset:
    """Algorithm Identification Macro (PS3.3 10.16)."""
    algorithm = Dataset()
    algorithm.AlgorithmFamilyCodeSequence = [_code(ARTIFICIAL_INTELLIGENCE)]
    algorithm.AlgorithmName = identity.algorithm[:64]
    algorithm.AlgorithmVersion = identity.algorithm_version[:64] or identity.software
    algorithm.AlgorithmSource = "limn"
    return algorithm


def _code(code: Code) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator = code.value, code.scheme
    item.CodeMeaning = code.meaning
    return item


def _roi_contour(
    number: int,
    colour: tuple[int, int, int],
    contours: Sequence[Contour],
    series: Series,
    holes: HoleRule,
) -> Dataset:
    roi = Dataset()
    roi.ROIDisplayColor = list(colour)
    roi.ReferencedROINumber = number
    roi.ContourSequence = [
        _contour(count, contour, series, holes) for count, contour in enumerate(contours, start=1)
    ]
    return roi


def _contour(count: int, contour: Contour, series: Series, holes: HoleRule) -> Dataset:
    plane = series.slices[contour.slice_index]
    image = Dataset()
    image.ReferencedSOPClassUID = plane.header.SOPClassUID
    image.ReferencedSOPInstanceUID = plane.header.SOPInstanceUID
    if plane.frame is not None:
        image.ReferencedFrameNumber = plane.frame
    item = Dataset()
    item.ContourImageSequence = [image]
    item.ContourGeometricType = "CLOSED_PLANAR" if holes == "keyhole" else "CLOSEDPLANAR_XOR"
    item.NumberOfContourPoints = len(contour.points_xyz_mm)
    item.ContourNumber = count
    # One ready string: pydicom takes three times as long for a list of decimals.
    item[0x30060050] = DataElement(
        0x30060050, "DS", _decimal_string(contour.points_xyz_mm), already_converted=True
    )
    return item


def _decimal_string(points_xyz_mm: FloatArray) -> str:
    values = np.round(points_xyz_mm, DECIMALS).ravel() + 0.0
    return "\\".join(f"{value:.{DECIMALS}f}" for value in values.tolist())


def _observation(number: int, code: Code | None, interpreted: str, identity: Identity) -> Dataset:
    observation = Dataset()
    observation.ObservationNumber = number
    observation.ReferencedROINumber = number
    if identity.preview:
        observation.ROIObservationLabel = PREVIEW
    if code is not None:
        observation.RTROIIdentificationCodeSequence = [_code(code)]
    observation.RTROIInterpretedType = interpreted
    observation.ROIInterpreter = ""
    return observation


def read(contents: bytes) -> FileDataset:
    """Parse a structure set from the bytes of its file."""
    return pydicom.dcmread(io.BytesIO(contents))


def contours_of(ds: Dataset, series: Series, style: Style) -> list[Contour]:
    """The contours of a structure set, each on the slice that it references."""
    slice_of = {each.reference: k for k, each in enumerate(series.slices)}
    organ_of_name = {name: organ for organ, name in style.roi_names.items()}
    organ_of_number = {
        int(roi.ROINumber): organ_of_name[str(roi.ROIName)] for roi in ds.StructureSetROISequence
    }
    return [
        Contour(
            organ_of_number[int(roi.ReferencedROINumber)],
            slice_of[reference_of(item)],
            points_of(item),
        )
        for roi in ds.ROIContourSequence
        for item in roi.ContourSequence
    ]


def faults(ds: Dataset, series: Series) -> list[str]:
    """What a planning system would refuse or misplace; empty if there is nothing."""
    known = {each.reference: k for k, each in enumerate(series.slices)}
    found = []
    if len(ds.StructureSetLabel) > SH_CHARACTERS:
        found.append(
            f"StructureSetLabel {ds.StructureSetLabel!r} has over {SH_CHARACTERS} characters"
        )
    for roi in ds.ROIContourSequence:
        for item in roi.ContourSequence:
            where = f"ROI {roi.ReferencedROINumber} contour {item.ContourNumber}"
            reference = reference_of(item)
            uid = reference[0]
            if reference not in known:
                found.append(f"{where}: ReferencedSOPInstanceUID {uid} is not in the series")
                continue
            if any(len(text) > DS_BYTES for text in _texts(item)):
                found.append(f"{where}: ContourData over {DS_BYTES} bytes")
            points = points_of(item)
            if len(points) < 3 or len(points) != item.NumberOfContourPoints:
                found.append(f"{where}: NumberOfContourPoints {item.NumberOfContourPoints}")
            elif series.grid.distance_to_slice_mm(known[reference], points) > PLANE_TOLERANCE_MM:
                found.append(f"{where}: ContourData leaves the plane of {uid}")
    return found


def reference_of(item: Dataset) -> tuple[str, int | None]:
    """SOP Instance UID and frame of the image on which a contour was drawn."""
    image = item.ContourImageSequence[0]
    frame = image.get("ReferencedFrameNumber")
    return (str(image.ReferencedSOPInstanceUID), None if frame is None else int(frame))


def _texts(item: Dataset) -> list[str]:
    """ContourData as text; pydicom's own decimals take ten times as long."""
    element = item.get_item("ContourData")
    if isinstance(element.value, bytes):
        return element.value.decode("ascii").strip(" \0").split("\\")
    return [getattr(value, "original_string", str(value)) for value in item.ContourData]


def coordinates_of(item: Dataset) -> FloatArray:
    """ContourData as it stands: x, y and z of each point in turn, mm; empty if it has none."""
    element = item.get_item("ContourData")
    if not getattr(element, "value", None):
        return np.empty(0)
    return np.array(_texts(item), dtype=np.float64)


def points_of(item: Dataset) -> FloatArray:
    """(n, 3) patient coordinates of a contour, mm."""
    return coordinates_of(item).reshape(-1, 3)
