"""Writes labels as a DICOM segmentation object (PS3.3 A.51), by highdicom."""

from __future__ import annotations

import io
from collections.abc import Mapping

import highdicom
import numpy as np
import numpy.typing as npt
from highdicom.seg import Segmentation, SegmentDescription
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import ImplicitVRLittleEndian

from limn.dicom.rtstruct import Identity, Style, copy_patient
from limn.dicom.series import Series
from limn.dicom.uids import uid_from
from limn.domain.errors import RefusedSeries
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

    Its UIDs follow from those of the structure set of the same scan.

    Raises
    ------
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
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name=identity.algorithm[:64],
        family=codes.DCM.ArtificialIntelligence,
        version=identity.algorithm_version[:64] or identity.software,
    )
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
    file = io.BytesIO()
    made.save_as(file)
    return file.getvalue()


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
