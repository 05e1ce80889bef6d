"""A single-frame CT series as one Enhanced CT multi-frame instance, for tests."""

from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import EnhancedCTImageStorage


def enhance(paths: list[Path], out: Path, *, shared_rescale: bool = True) -> Path:
    """Frames in the order of the files; compressed frames stay as they are.

    Parameters
    ----------
    shared_rescale : rescale in the shared functional groups, or in each frame's own
    """
    sources = [pydicom.dcmread(path) for path in paths]
    first = sources[0]
    ds = pydicom.dcmread(paths[0])
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    for keyword in (
        *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"),
        *("RescaleSlope", "RescaleIntercept", "RescaleType"),
    ):
        del ds[keyword]
    ds.NumberOfFrames = len(sources)
    shared = Dataset()
    shared.PixelMeasuresSequence = [_item(first, "PixelSpacing", "SliceThickness")]
    shared.PlaneOrientationSequence = [_item(first, "ImageOrientationPatient")]
    if shared_rescale:
        shared.PixelValueTransformationSequence = [_rescale(first)]
    ds.SharedFunctionalGroupsSequence = [shared]
    groups = []
    for source in sources:
        group = Dataset()
        group.PlanePositionSequence = [_item(source, "ImagePositionPatient")]
        if not shared_rescale:
            group.PixelValueTransformationSequence = [_rescale(source)]
        groups.append(group)
    ds.PerFrameFunctionalGroupsSequence = groups
    if ds.file_meta.TransferSyntaxUID.is_compressed:
        codes = [next(generate_frames(s.PixelData, number_of_frames=1)) for s in sources]
        ds.PixelData = encapsulate(codes)
    else:
        ds.PixelData = b"".join(source.PixelData for source in sources)
    out.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(out, enforce_file_format=True)
    return out


def _item(source: Dataset, *keywords: str) -> Dataset:
    item = Dataset()
    for keyword in keywords:
        item[keyword] = source[keyword]
    return item


def _rescale(source: Dataset) -> Dataset:
    return _item(source, "RescaleSlope", "RescaleIntercept", "RescaleType")
