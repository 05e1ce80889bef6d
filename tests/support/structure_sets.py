"""What a faulty planning system makes of a structure set: mirrored, moved, renamed."""

import io
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import pydicom

Points = npt.NDArray[np.float64]


def mirrored(contents: bytes) -> bytes:
    """Left and right exchanged: x of every point changes its sign."""
    return _with_points(contents, lambda points: points * [-1.0, 1.0, 1.0])


def moved(contents: bytes, shift_xyz_mm: Points) -> bytes:
    """Every point moved."""
    return _with_points(contents, lambda points: points + shift_xyz_mm)


def renamed(contents: bytes, names: Mapping[str, str]) -> bytes:
    """Other names of ROIs."""
    ds = pydicom.dcmread(io.BytesIO(contents))
    for roi in ds.StructureSetROISequence:
        roi.ROIName = names.get(roi.ROIName, roi.ROIName)
    return _written(ds)


def encoded_set(ds: pydicom.Dataset) -> bytes:
    """A dataset that came over the network, as a file."""
    return _written(ds)


def _with_points(contents: bytes, change: Callable[[Points], Points]) -> bytes:
    ds = pydicom.dcmread(io.BytesIO(contents))
    for roi in ds.ROIContourSequence:
        for contour in roi.get("ContourSequence") or ():
            points = np.array([float(v) for v in contour.ContourData]).reshape(-1, 3)
            contour.ContourData = [f"{mm:.4f}" for mm in change(points).ravel()]
    return _written(ds)


def _written(ds: pydicom.Dataset) -> bytes:
    file = io.BytesIO()
    ds.save_as(file, enforce_file_format=True)
    return file.getvalue()
