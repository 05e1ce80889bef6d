"""Writes labels as a DICOM segmentation object (PS3.3 A.51), by highdicom."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import highdicom
import numpy as np
import numpy.typing as npt
import pydicom
from highdicom.seg import Segmentation, SegmentDescription
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import ImplicitVRLittleEndian
from pydicom.valuerep import DA, TM

from limn.dicom.rtstruct import Identity, Style, copy_patient
from limn.dicom.series import Series
from limn.dicom.uids import uid_from
from limn.domain.errors import RefusedSeries, StageFailed
from limn.domain.scan import Organ

# An organ whose code nobody gave is an anatomical structure of this name.
CATEGORY = codes.SCT.AnatomicalStructure
UNKNOWN = codes.SCT.AnatomicalStructure


def build_segmentation(
    series: Series,
    labels_zyx: npt.NDArray[np.uint8],
    organs: Mapping[int, Organ],
    identity: Identity,
    style: Style,
) -> bytes:
    """The segmentation object as a DICOM file: a binary segment for each organ that has a voxel.

    Its UIDs and dates follow from those of the structure set of the same scan, so that one UID
    names one content. It is read back, and must give the same voxels.

    Raises
    ------
    StageFailed
        If it gives other voxels.
    RefusedSeries
        If the series is multi-frame, or its headers lack what highdicom needs, or no organ has a
        voxel.
    """
    headers = [each.header for each in series.slices]
    if len({str(header.SOPInstanceUID) for header in headers}) < len(headers):
        raise RefusedSeries("a DICOM segmentation of a multi-frame series is not written yet")
    present = {label: organ for label, organ in organs.items() if (labels_zyx == label).any()}
    if not present:
        raise RefusedSeries("no organ has a voxel, so there is no segment to write")
    masks = np.stack([labels_zyx == label for label in present], axis=-1).astype(np.uint8)
    algorithm = _algorithm(identity)
    try:
        made = Segmentation(
            source_images=headers,
            pixel_array=masks,
            segmentation_type="BINARY",
            segment_descriptions=[
                _described(number, organ, algorithm, identity, style)
                for number, organ in enumerate(present.values(), start=1)
            ],
            series_instance_uid=uid_from(f"segmentation series|{identity.series_instance_uid}"),
            series_number=9500,
            sop_instance_uid=uid_from(f"segmentation|{identity.sop_instance_uid}"),
            instance_number=1,
            manufacturer="limn",
            manufacturer_model_name="limn",
            software_versions=identity.software,
            device_serial_number="none",
            series_description="limn contours",
            content_label="LIMN",
            transfer_syntax_uid=ImplicitVRLittleEndian,
        )
    except (AttributeError, KeyError, ValueError, TypeError) as error:
        msg = f"the series' headers give no DICOM segmentation: {error}"
        raise RefusedSeries(msg) from error
    copy_patient(made, series, style)
    _fix(made, identity)
    file = io.BytesIO()
    made.save_as(file)
    _prove(file, [str(header.SOPInstanceUID) for header in headers], masks)
    return file.getvalue()


def _algorithm(identity: Identity) -> highdicom.AlgorithmIdentificationSequence:
    return highdicom.AlgorithmIdentificationSequence(
        name=identity.algorithm[:64],
        family=codes.DCM.ArtificialIntelligence,
        version=identity.algorithm_version[:64] or identity.software,
    )


def _fix(made: Segmentation, identity: Identity) -> None:
    """Put the dates of the structure set and derived UIDs in place of highdicom's own."""
    made.ContentDate = made.InstanceCreationDate = DA(identity.date)
    made.ContentTime = made.InstanceCreationTime = TM(identity.time)
    for equipment in made.get("ContributingEquipmentSequence", ()):
        equipment.ContributionDateTime = identity.date + identity.time
    dimensions = uid_from(f"segmentation dimensions|{identity.sop_instance_uid}")
    for item in (*made.DimensionOrganizationSequence, *made.DimensionIndexSequence):
        item.DimensionOrganizationUID = dimensions


def _prove(file: io.BytesIO, slices: Sequence[str], masks_zyxn: npt.NDArray[np.uint8]) -> None:
    """Read the file and compare each frame with the mask of its slice and segment (PS3.3 C.8.20).

    Raises
    ------
    StageFailed
        If a voxel differs, or a frame is missing.
    """
    file.seek(0)
    ds = pydicom.dcmread(file)
    rows, columns = masks_zyxn.shape[1:3]
    frames = ds.pixel_array.reshape(-1, rows, columns)
    place = {uid: k for k, uid in enumerate(slices)}
    shared = ds.SharedFunctionalGroupsSequence[0]
    found = 0
    for frame, group in zip(frames, ds.PerFrameFunctionalGroupsSequence, strict=True):
        # What all frames have in common may stand in the shared groups.
        named, derived = (
            (group if keyword in group else shared)[keyword][0]
            for keyword in ("SegmentIdentificationSequence", "DerivationImageSequence")
        )
        source, segment = derived.SourceImageSequence[0], int(named.ReferencedSegmentNumber) - 1
        mask = masks_zyxn[place[str(source.ReferencedSOPInstanceUID)], :, :, segment]
        if not np.array_equal(frame, mask):
            msg = f"segment {segment + 1} has other voxels when the segmentation is read back"
            raise StageFailed(msg)
        found += int(frame.sum())
    if found != int(masks_zyxn.sum()):
        msg = f"{int(masks_zyxn.sum()) - found} voxels lack when the segmentation is read back"
        raise StageFailed(msg)


def _described(
    number: int,
    organ: Organ,
    algorithm: highdicom.AlgorithmIdentificationSequence,
    identity: Identity,
    style: Style,
) -> SegmentDescription:
    code = style.codes.get(organ)
    kind = UNKNOWN if code is None else Code(code.value, code.scheme, code.meaning)
    return SegmentDescription(
        segment_number=number,
        segment_label=style.roi_names[organ],
        segmented_property_category=CATEGORY,
        segmented_property_type=kind,
        algorithm_type="AUTOMATIC",
        algorithm_identification=algorithm,
        tracking_uid=uid_from(f"tracking|{identity.series_instance_uid}|{organ}"),
        tracking_id=f"limn {style.roi_names[organ]}",
        display_color=highdicom.color.CIELabColor.from_rgb(*style.colours[organ]),
    )
