"""Decodes a series to Hounsfield units on its grid, every slice once.

Only this module of the room opens files, because the decoders need paths.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.errors import InvalidDicomError
from pydicom.uid import (
    JPEG2000,
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from limn.dicom.bounded import (
    DAMAGES,
    MAX_VOXELS,
    Overlarge,
    check_promise,
    coded_size,
    read,
    read_header,
)
from limn.dicom.padding import fill_around_field, fill_with_air
from limn.dicom.series import Instance, Series, Slice, planes
from limn.domain.buffer import GrowingBuffer
from limn.domain.cores import on_every_core
from limn.domain.errors import RefusedSeries
from limn.domain.geometry import IntArray, even_grid
from limn.domain.one_line import one_line
from limn.domain.scan import Volume

NATIVE_SYNTAXES = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
)
# Decoded by SimpleITK's GDCM; limn accepts no other compressed syntax.
COMPRESSED_SYNTAXES = (
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    JPEG2000Lossless,
    JPEG2000,
    RLELossless,
    # Lossy: accepted, and flagged in the record.
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
)
# Kinds of pixels by BitsAllocated and PixelRepresentation, and how the element PixelData begins
# before its length: only these are read without pydicom.
_PLAIN_KINDS: dict[tuple[object, object], np.dtype[np.integer[Any]]] = {
    (8, 0): np.dtype("u1"),
    (8, 1): np.dtype("i1"),
    (16, 0): np.dtype("<u2"),
    (16, 1): np.dtype("<i2"),
}
_PLAIN_OPENINGS = {
    ExplicitVRLittleEndian: [b"\xe0\x7f\x10\0OW\0\0", b"\xe0\x7f\x10\0OB\0\0"],
    ImplicitVRLittleEndian: [b"\xe0\x7f\x10\0"],
}
# Whole numbers up to this one have a fp32 of their own.
EXACT_IN_FP32 = 2.0**24
# Values of a decoder, before the rescale.
Stored: TypeAlias = npt.NDArray[Any]
TRANSFER_SYNTAXES: tuple[UID, ...] = (*NATIVE_SYNTAXES, *COMPRESSED_SYNTAXES)


def read_headers(paths: Sequence[Path]) -> list[Instance]:
    """Read the headers of the files without their pixels.

    Raises
    ------
    RefusedSeries
        If a file is not DICOM.
    """
    return [_read_instance(path) for path in paths]


def _read_instance(path: Path) -> Instance:
    try:
        header, pixels_at = read_header(path)
        return Instance(header, path, pixels_at)
    except (InvalidDicomError, *DAMAGES) as error:
        msg = f"{one_line(path.name)} is not a readable DICOM file: {error}"
        raise RefusedSeries(msg) from error


def read_volume(
    series: Series,
    *,
    bridged: bool = False,
    pixels: dict[Path, Stored] | None = None,
    buffer: GrowingBuffer | None = None,
) -> Volume:
    """Decode every slice once: HU = stored value * RescaleSlope + RescaleIntercept.

    Padding is air. PhotometricInterpretation MONOCHROME1 only concerns display. Source: PS3.3
    C.11.1, C.7.5.1.1.2.

    Parameters
    ----------
    bridged : missing slices are interpolated, so that the volume lies on an even ladder
    pixels : of files that were decoded before (`compressed_pixels`); they are taken out
    buffer : memory for the volume

    Raises
    ------
    RefusedSeries
        If the pixels of an instance can't be decoded.
    """
    rungs = series.rungs if bridged else np.arange(len(series.slices))
    grid = even_grid(series.grid, rungs)
    if math.prod(grid.shape_zyx) > MAX_VOXELS:
        shown = " x ".join(str(size) for size in grid.shape_zyx)
        msg = f"slices x Rows x Columns is {shown}, at most {MAX_VOXELS} voxels can be contoured"
        raise RefusedSeries(msg)
    shape = grid.shape_zyx
    hu_zyx = np.empty(shape, dtype=np.float32) if buffer is None else buffer.array(shape)
    if all(each.frame is None for each in series.slices):

        def fill(k: int) -> None:
            each = series.slices[k]
            decoded = pixels.pop(each.path, None) if pixels else None
            _rescale(each, _decode(each) if decoded is None else decoded, hu_zyx[rungs[k]])

        _each_on_a_core(fill, len(series.slices))
    else:
        _read_frames(series, hu_zyx, rungs)
    fill_around_field(
        [hu_zyx[place] for place in rungs],
        [(each.header, _rescale_of(each)) for each in series.slices],
    )
    _fill_missing(hu_zyx, rungs)
    return Volume(hu_zyx, grid)


def compressed_pixels(instance: Instance) -> Stored | None:
    """Stored values (y, x) of a compressed single-frame file; None of any other.

    Others are decoded in no time, or all frames at once.

    Raises
    ------
    RefusedSeries
        If they can't be decoded.
    """
    header = instance.header
    found = planes(header)
    if len(found) != 1 or found[0][0] is not None:
        return None
    if header.file_meta.get("TransferSyntaxUID") not in COMPRESSED_SYNTAXES:
        return None
    return _decode(Slice(header, header, instance.path, None))


def read_slice(series: Series, index: int) -> npt.NDArray[np.float32]:
    """Decode one slice of a series: (y, x) HU, with the padding that its header declares as air.

    `read_volume` finds more padding, by all slices. A file with several frames is decoded as a
    whole for it.

    Raises
    ------
    RefusedSeries
        If its pixels can't be decoded.
    """
    return next(read_slices(series, [index]))


def read_slices(series: Series, indices: Sequence[int]) -> Iterator[npt.NDArray[np.float32]]:
    """Decode these slices as `read_slice`, one after the other; neighbours open one file once.

    Raises
    ------
    RefusedSeries
        If the pixels of an instance can't be decoded.
    """
    opened: dict[Path, Stored] = {}
    for index in indices:
        each = series.slices[index]
        if each.path not in opened:
            opened = {each.path: _decode(each)}
        stored = opened[each.path]
        hu_yx = np.empty((series.grid.rows, series.grid.columns), dtype=np.float32)
        _rescale(each, stored if each.frame is None else stored[each.frame - 1], hu_yx)
        yield hu_yx


def _read_frames(series: Series, hu_zyx: npt.NDArray[np.float32], rungs: IntArray) -> None:
    """Fill the slices of a series whose files hold several frames; each file is opened once."""
    for place, hu_yx in zip(rungs, read_slices(series, range(len(series.slices))), strict=True):
        hu_zyx[place] = hu_yx


def _each_on_a_core(do: Callable[[int], None], count: int) -> None:
    """Do the first alone, because decoders make their tables then; the others in parallel.

    Decoders release the GIL, so two cores take half the time.
    """

    def all_of(part: slice) -> None:
        for k in range(part.start, part.stop):
            do(k + 1)

    do(0)
    on_every_core(all_of, count - 1)


def _rescale(each: Slice, stored_yx: Stored, hu_yx: npt.NDArray[np.float32]) -> None:
    if stored_yx.shape != hu_yx.shape:
        msg = f"PixelData of {each.name} is {stored_yx.shape}, not Rows x Columns"
        raise RefusedSeries(msg)
    slope, intercept = _rescale_of(each)
    if slope.is_integer() and intercept.is_integer() and _fits(stored_yx, slope, intercept):
        np.multiply(stored_yx, np.float32(slope), out=hu_yx, dtype=np.float32)
        hu_yx += np.float32(intercept)
    else:
        rescaled = np.multiply(stored_yx, slope, dtype=np.float64)
        rescaled += intercept
        hu_yx[:] = rescaled
    fill_with_air(stored_yx, hu_yx, each.header, (slope, intercept))


def _rescale_of(each: Slice) -> tuple[float, float]:
    """Slope and intercept."""
    slope = float(each.plane.get("RescaleSlope") or 1)
    return slope, float(each.plane.get("RescaleIntercept") or 0)


def _fits(stored_yx: Stored, slope: float, intercept: float) -> bool:
    """Whether fp32 holds every product and every sum exactly; it takes a third of the time."""
    largest = float(2 ** (8 * stored_yx.dtype.itemsize))
    return abs(slope) * largest + abs(intercept) <= EXACT_IN_FP32


def _decode(each: Slice) -> Stored:
    """Stored values of an instance: (y, x), or (frame, y, x) if it has several."""
    syntax = each.header.file_meta.get("TransferSyntaxUID")
    try:
        check_promise(each.header)
        if syntax in NATIVE_SYNTAXES:
            plain = _read_plain(each)
            array = read(each.path).pixel_array if plain is None else plain
        elif syntax in COMPRESSED_SYNTAXES:
            array = _decode_compressed(each)
        else:
            msg = f"TransferSyntaxUID {syntax} can't be decoded (instance {each.name})"
            raise RefusedSeries(msg)
    except DAMAGES as error:
        msg = f"PixelData of {each.name} can't be decoded: {error}"
        raise RefusedSeries(msg) from error
    if each.frame is not None:
        array = array if array.ndim == 3 else array[None]
        frames = int(each.header.get("NumberOfFrames") or 1)
        if len(array) != frames:
            uid = each.header.SOPInstanceUID
            msg = f"PixelData of {uid} has {len(array)} frames, NumberOfFrames says {frames}"
            raise RefusedSeries(msg)
    return array


def _read_plain(each: Slice) -> Stored | None:
    """The pixels of a plain file, read straight into an array, many times faster than by pydicom.

    A plain file holds one frame of grey whole numbers in little endian, and ends with it. Any other
    is pydicom's, which also says what is wrong with a damaged one: then the result is None.
    """
    header, place = each.header, each.pixels_at
    syntax = header.file_meta.get("TransferSyntaxUID")
    kind = _PLAIN_KINDS.get((header.get("BitsAllocated"), header.get("PixelRepresentation")))
    if place is None or kind is None or syntax not in _PLAIN_OPENINGS or not _is_one_grey(header):
        return None
    unused_bits = header.BitsAllocated - (header.get("BitsStored") or 0)
    if not 0 <= unused_bits < header.BitsAllocated:
        return None
    pixels = header.Rows * header.Columns
    length = pixels * kind.itemsize
    length += length % 2
    openings = [start + length.to_bytes(4, "little") for start in _PLAIN_OPENINGS[syntax]]
    with each.path.open("rb", buffering=0) as file:
        file.seek(place)
        opening = file.read(len(openings[0]))
        if opening not in openings or os.fstat(file.fileno()).st_size != file.tell() + length:
            return None
        stored: Stored = np.empty((header.Rows, header.Columns), dtype=kind)
        if file.readinto(stored.data) != stored.nbytes:
            return None
    if unused_bits:
        # They may hold anything (PS3.5 8.1.1).
        np.left_shift(stored, unused_bits, out=stored)
        np.right_shift(stored, unused_bits, out=stored)
    return stored


def _is_one_grey(header: Dataset) -> bool:
    return (
        header.get("SamplesPerPixel") == 1
        and int(header.get("NumberOfFrames") or 1) == 1
        and header.get("PhotometricInterpretation") in ("MONOCHROME1", "MONOCHROME2")
        and "FloatPixelData" not in header
        and "DoubleFloatPixelData" not in header
    )


def _decode_compressed(each: Slice) -> Stored:
    """Decode with GDCM by way of SimpleITK, frame by frame.

    GDCM applies a rescale that it finds, so each frame is passed on without one; limn reads
    rescale and functional groups itself.
    """
    ds = read(each.path)
    frames = int(ds.get("NumberOfFrames") or 1)
    expected = (int(ds.Rows), int(ds.Columns))
    codes = list(generate_frames(ds.PixelData, number_of_frames=frames))
    for code in codes:
        found = coded_size(code)
        # RLE has no size of its own.
        if found != expected and (found or ds.file_meta.TransferSyntaxUID != RLELossless):
            msg = f"the codestream says {found}, Rows x Columns are {expected}"
            raise Overlarge(msg)
    decoded: list[Stored] = [np.empty(0)] * len(codes)
    with tempfile.TemporaryDirectory(prefix="limn-") as folder:

        def decode(k: int) -> None:
            path = Path(folder) / f"{k}.dcm"
            _bare(ds, codes[k]).save_as(path, enforce_file_format=True)
            decoded[k] = _read_stored(path)
            path.unlink()

        _each_on_a_core(decode, len(codes))
    return decoded[0] if each.frame is None else np.stack(decoded)


def _bare(ds: Dataset, code: bytes) -> Dataset:
    """One compressed frame as a CT image without anything that a decoder could interpret."""
    bare = Dataset()
    bare.file_meta = ds.file_meta
    for keyword in _PIXEL_KEYWORDS:
        if keyword in ds:
            bare[keyword] = ds[keyword]
    bare.SOPClassUID = CTImageStorage
    bare.SOPInstanceUID = ds.SOPInstanceUID
    bare.PhotometricInterpretation = "MONOCHROME2"
    bare.PixelData = encapsulate([code])
    bare["PixelData"].VR = "OB"
    bare["PixelData"].is_undefined_length = True
    return bare


_PIXEL_KEYWORDS = (
    "SamplesPerPixel",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
)


def _read_stored(path: Path) -> Stored:
    # Imported here: it takes 0.2 s, and the receiver uses only the syntaxes of this module.
    import SimpleITK  # noqa: PLC0415

    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    stored: Stored = SimpleITK.GetArrayFromImage(reader.Execute())[0]
    return stored


def _fill_missing(hu_zyx: npt.NDArray[np.float32], rungs: IntArray) -> None:
    """Interpolate every missing slice linearly between its neighbours, in place.

    Parameters
    ----------
    hu_zyx : (z, y, x) on the even ladder; the slices in ``rungs`` are there
    """
    for place in np.setdiff1d(np.arange(len(hu_zyx)), rungs):
        after = int(np.searchsorted(rungs, place))
        below, above = int(rungs[after - 1]), int(rungs[after])
        share = np.float32((place - below) / (above - below))
        hu_zyx[place] = hu_zyx[below] * (1 - share) + hu_zyx[above] * share
