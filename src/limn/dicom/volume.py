"""A series to Hounsfield units on its grid, every slice decoded once.

The only place of this room that opens files: the decoders want paths.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import (
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from limn.dicom.series import Instance, Series
from limn.domain.errors import RefusedSeries
from limn.domain.scan import Volume

NATIVE_SYNTAXES = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
)
# Decoded by SimpleITK's GDCM; nothing else is offered to senders.
COMPRESSED_SYNTAXES = (
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    JPEG2000Lossless,
    JPEG2000,
    RLELossless,
)
TRANSFER_SYNTAXES: tuple[UID, ...] = (*NATIVE_SYNTAXES, *COMPRESSED_SYNTAXES)


def read_headers(paths: Sequence[Path]) -> list[Instance]:
    """The headers of the files, pixels left on disk.

    Raises
    ------
    RefusedSeries
        If a file is not DICOM.
    """
    return [Instance(_read_header(path), path) for path in paths]


def _read_header(path: Path) -> Dataset:
    try:
        return pydicom.dcmread(path, stop_before_pixels=True)
    except (InvalidDicomError, EOFError, OSError, ValueError) as error:
        msg = f"{path.name} is not a readable DICOM file: {error}"
        raise RefusedSeries(msg) from error


def read_volume(series: Series) -> Volume:
    """Decode every slice: HU = stored value * RescaleSlope + RescaleIntercept (PS3.3 C.11.1).

    Raises
    ------
    RefusedSeries
        If the pixels of an instance can't be decoded.
    """
    hu_zyx = np.empty(series.grid.shape_zyx, dtype=np.float32)
    for k, instance in enumerate(series.instances):
        hu_zyx[k] = _decode(instance)
    return Volume(hu_zyx, series.grid)


def _decode(instance: Instance) -> npt.NDArray[np.float32]:
    header = instance.header
    syntax = header.file_meta.get("TransferSyntaxUID")
    try:
        if syntax in NATIVE_SYNTAXES:
            stored = pydicom.dcmread(instance.path).pixel_array.astype(np.float64)
            slope = float(header.get("RescaleSlope", 1))
            hu = stored * slope + float(header.get("RescaleIntercept", 0))
        elif syntax in COMPRESSED_SYNTAXES:
            hu = _decode_compressed(instance.path)
        else:
            msg = f"TransferSyntaxUID {syntax} can't be decoded (instance {header.SOPInstanceUID})"
            raise RefusedSeries(msg)
    except (RuntimeError, ValueError, AttributeError, EOFError) as error:
        msg = f"PixelData of instance {header.SOPInstanceUID} can't be decoded: {error}"
        raise RefusedSeries(msg) from error
    if hu.shape != (header.Rows, header.Columns):
        msg = f"PixelData of instance {header.SOPInstanceUID} is {hu.shape}, not Rows x Columns"
        raise RefusedSeries(msg)
    return np.asarray(hu, dtype=np.float32)


def _decode_compressed(path: Path) -> npt.NDArray[np.float64]:
    """GDCM by way of SimpleITK, which applies the rescale itself."""
    # Imported here: it costs 0.2 s, and the receiver needs this module for its syntaxes only.
    import SimpleITK  # noqa: PLC0415

    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    return np.asarray(SimpleITK.GetArrayFromImage(reader.Execute())[0], dtype=np.float64)
