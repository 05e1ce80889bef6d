"""Writes a volume as CT image instances: of a phantom, or of an image of another format.

A structure set refers to a CT series, so limn makes one of an image (D-237). Its UIDs follow from
all that the series says: the same image of the same animal gives the same series, byte for byte.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import UID, CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian

from limn.dicom.rtstruct import LO_CHARACTERS
from limn.dicom.series import axial_position
from limn.dicom.uids import uid_from
from limn.domain.one_line import one_line
from limn.domain.scan import Volume

# Noise in air reaches far below -1000 HU.
RESCALE_INTERCEPT = -4096
# Of the CT series that is made of an image.
SLICES = "ct_[0-9][0-9][0-9][0-9].dcm"

_RESCALE = ("RescaleSlope", "RescaleIntercept", "RescaleType")


@dataclass(frozen=True, slots=True)
class CtIdentity:
    """The animal, and the UIDs and times that the caller fixes.

    Attributes
    ----------
    uid_root : every UID of the series starts with it
    when : DICOM date and time, ``YYYYMMDD`` and ``HHMMSS``
    patient_position, sex, tube_kv : empty if nobody knows them
    model : what made the images
    """

    animal: str
    uid_root: str
    when: tuple[str, str]
    patient_position: str = "HFS"
    description: str = "limn phantom"
    sex: str = "F"
    tube_kv: str = "50"
    model: str = "phantom"

    @property
    def study_instance_uid(self) -> str:
        """UID of the study."""
        return f"{self.uid_root}.1"

    @property
    def series_instance_uid(self) -> str:
        """UID of the series."""
        return f"{self.uid_root}.2"


def ct_instances(volume: Volume, identity: CtIdentity) -> list[FileDataset]:
    """One CT Image Storage dataset per slice, Explicit VR LE, 16 bit unsigned."""
    grid = volume.grid
    spacing_mm = grid.spacing_mm
    stored = np.clip(np.round(volume.hu_zyx) - RESCALE_INTERCEPT, 0, 65535).astype("<u2")
    orientation = [_ds(v) for v in (*grid.along_x_xyz, *grid.along_y_xyz)]
    instances = []
    for k, origin in enumerate(grid.slice_origins_xyz_mm):
        ds = _frame(identity, f"{identity.uid_root}.3.{k + 1}")
        ds.InstanceNumber = k + 1
        ds.ImagePositionPatient = [_ds(v) for v in origin]
        ds.ImageOrientationPatient = orientation
        ds.PixelSpacing = [_ds(spacing_mm.y), _ds(spacing_mm.x)]
        ds.SliceThickness = _ds(spacing_mm.z)
        ds.Rows, ds.Columns = grid.rows, grid.columns
        ds.PixelData = stored[k].tobytes()
        instances.append(ds)
    return instances


def multi_frame(instances: Sequence[FileDataset], *, shared_rescale: bool = True) -> FileDataset:
    """One Enhanced CT instance with a frame for each single-frame instance, in their order.

    It has only the attributes that a reader of geometry and pixels needs (PS3.3 C.7.6.16).
    Compressed frames stay compressed.

    Parameters
    ----------
    shared_rescale : write the rescale into the shared functional groups, or into each frame's
    """
    first = instances[0]
    ds = copy.deepcopy(first)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    moved = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness")
    for keyword in (*moved, *_RESCALE):
        if keyword in ds:
            del ds[keyword]
    ds.NumberOfFrames = len(instances)
    shared = Dataset()
    shared.PixelMeasuresSequence = [_item(first, "PixelSpacing", "SliceThickness")]
    shared.PlaneOrientationSequence = [_item(first, "ImageOrientationPatient")]
    if shared_rescale:
        shared.PixelValueTransformationSequence = [_item(first, *_RESCALE)]
    ds.SharedFunctionalGroupsSequence = [shared]
    ds.PerFrameFunctionalGroupsSequence = []
    for instance in instances:
        group = Dataset()
        group.PlanePositionSequence = [_item(instance, "ImagePositionPatient")]
        if not shared_rescale:
            group.PixelValueTransformationSequence = [_item(instance, *_RESCALE)]
        ds.PerFrameFunctionalGroupsSequence.append(group)
    if ds.file_meta.TransferSyntaxUID.is_compressed:
        codes = [next(generate_frames(i.PixelData, number_of_frames=1)) for i in instances]
        ds.PixelData = encapsulate(codes)
    else:
        # Without each image's padding byte; the whole may need one again.
        frame_bytes = int(ds.Rows) * int(ds.Columns) * int(ds.BitsAllocated) // 8
        pixels = b"".join(i.PixelData[:frame_bytes] for i in instances)
        ds.PixelData = pixels + b"\0" * (len(pixels) % 2)
    return ds


def _item(source: Dataset, *keywords: str) -> Dataset:
    item = Dataset()
    for keyword in keywords:
        if keyword in source:
            item[keyword] = source[keyword]
    return item


def _frame(identity: CtIdentity, sop_instance_uid: str) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = UID(sop_instance_uid)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset("", Dataset(), file_meta=meta, preamble=b"\0" * 128)
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, UID(sop_instance_uid)
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = identity.when[0]
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = identity.when[1]
    ds.AccessionNumber, ds.Modality, ds.Manufacturer = "", "CT", "limn"
    ds.ReferringPhysicianName = ""
    ds.SeriesDescription = identity.description
    ds.ManufacturerModelName = identity.model
    ds.PatientName, ds.PatientID = f"{identity.animal}^Mouse", identity.animal
    ds.PatientBirthDate, ds.PatientSex = "", identity.sex
    ds.PatientSpeciesDescription, ds.PatientBreedDescription = "Mus musculus", ""
    # Type 2C, required for every non-human patient.
    ds.PatientBreedCodeSequence, ds.BreedRegistrationSequence = [], []
    ds.ResponsiblePerson = ds.ResponsibleOrganization = ds.PatientSexNeutered = ""
    # Type 2C, required if no body part says that it has one side.
    ds.Laterality = ""
    ds.KVP, ds.PatientPosition = identity.tube_kv, identity.patient_position
    ds.StudyInstanceUID = identity.study_instance_uid
    ds.SeriesInstanceUID = identity.series_instance_uid
    ds.StudyID, ds.SeriesNumber, ds.AcquisitionNumber = "1", 1, 1
    ds.FrameOfReferenceUID = f"{identity.uid_root}.4"
    ds.PositionReferenceIndicator = ""
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = str(RESCALE_INTERCEPT), "1", "HU"
    return ds


def _ds(value: float) -> str:
    """A decimal string within DICOM's 16 bytes."""
    return f"{value:.6f}".rstrip("0").rstrip(".") or "0"


def write_image_series(
    volume: Volume, folder: Path, animal: str, description: str, when: tuple[str, str]
) -> Iterator[Path]:
    """Write one CT image for each slice of an image, in place of those of an earlier series.

    An image seldom tells of the animal, the tube and the bed, so the series never does.

    Parameters
    ----------
    when : DICOM date and time; empty if nobody knows them
    """
    grid = volume.grid
    identity = CtIdentity(
        animal=one_line(animal)[:LO_CHARACTERS],
        uid_root="",
        when=when,
        patient_position=axial_position([*grid.along_x_xyz, *grid.along_y_xyz]),
        description=one_line(description)[:LO_CHARACTERS],
        sex="",
        tube_kv="",
        model="image file",
    )
    # Whatever a file of the series says is in its UIDs.
    digest = hashlib.sha256(f"{identity}|{grid.spacing_mm}|{grid.shape_zyx}".encode())
    for array in (volume.hu_zyx, grid.slice_origins_xyz_mm, grid.along_x_xyz, grid.along_y_xyz):
        digest.update(np.ascontiguousarray(array).tobytes())
    identity = replace(identity, uid_root=uid_from(f"image file|{digest.hexdigest()}"))
    folder.mkdir(parents=True, exist_ok=True)
    for earlier in folder.glob(SLICES):
        earlier.unlink()
    for number, ds in enumerate(ct_instances(volume, identity), start=1):
        path = folder / f"ct_{number:04d}.dcm"
        # No link that others put here is followed.
        path.unlink(missing_ok=True)
        with path.open("xb") as file:
            ds.save_as(file, enforce_file_format=True)
        yield path
