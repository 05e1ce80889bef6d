"""Some ROIs of a structure set, as a file of its own for one destination."""

from __future__ import annotations

from collections.abc import Sequence

from pydicom.uid import UID

from limn.dicom.rtstruct import preview_name, read, to_bytes
from limn.dicom.uids import uid_from
from limn.domain.errors import ConfigWrong


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
