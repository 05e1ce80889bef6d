"""Parses DICOM bytes within bounds, whatever sizes a header claims.

A few kilobytes can inflate to gigabytes, claim 10**10 pixels or 10**8 elements. Each of these is
measured before memory is spent on it.
"""

from __future__ import annotations

import io
import math
import re
import struct
import zlib
from pathlib import Path
from typing import Any, BinaryIO, cast

import pydicom
from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag, Tag
from pydicom.uid import (
    UID,
    AllTransferSyntaxes,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32, STANDARD_VR, STR_VR

# Exceptions of pydicom, the decoders and NumPy for damaged bytes. pydicom raises OSError too, for a
# sequence whose items end early, and parses elements on access, so any access may raise.
DAMAGES = (
    AttributeError,
    BytesLengthException,
    EOFError,
    IndexError,
    KeyError,
    MemoryError,
    NotImplementedError,
    OSError,
    OverflowError,
    # Includes RecursionError, for sequences deeper than the interpreter allows.
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)

PIXEL_DATA = 0x7FE00010
SEQUENCE_DELIMITER = b"\xfe\xff\xdd\xe0"
# 1024 x 1024 x 2048: 8 GiB as Hounsfield units.
MAX_VOXELS = 2**31
MAX_INFLATED_BYTES = 2**30
# An element costs two or three reads and some 500 bytes of memory. An Enhanced CT of a
# thousand frames has 100,000 elements.
MAX_READS = 2**21
# Beside the pixels; a scanner's private groups stay far below.
MAX_HEADER_BYTES = 2**22
MAX_HEADER_BYTES_PER_FRAME = 2**16
# Longer pixel data are not copied: half a megabyte costs the scanner half a millisecond.
LONG_BYTES = 2**16
UNDEFINED_LENGTH = 0xFFFFFFFF
# How many pixels there are, and how many bits each has.
_COUNTS = tuple(
    Tag(keyword)
    for keyword in (
        *("SamplesPerPixel", "NumberOfFrames", "Rows", "Columns"),
        *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    )
)
# Enough for a preamble, or for two elements.
OPENING_BYTES = 512


class Overlarge(ValueError):
    """Larger than any scan of a mouse; the text names the keyword and the limit."""


def read(
    source: bytes | Path, *, stop_before_pixels: bool = False, leave_pixels: bool = False
) -> FileDataset:
    """Parse a DICOM file, or its bytes.

    Parameters
    ----------
    leave_pixels : do not copy long pixel data; then only `pixel_bytes` may ask about them

    Raises
    ------
    Overlarge
        If the data set inflates to too many bytes or has too many elements.
    ValueError
        If a size of the pixels is written as a text that is no number; the keyword is named.
    InvalidDicomError, OSError, ...
        As pydicom raises them.
    """
    if isinstance(source, Path):
        with source.open("rb") as file:
            return _read(file, stop_before_pixels)[0]
    if leave_pixels:
        header, _ = _read(io.BytesIO(source), stop_before_pixels, LONG_BYTES)
        left = [each for each in header.values() if isinstance(each, RawDataElement)]
        left = [each for each in left if _is_left(each)]
        if all(each.tag == PIXEL_DATA and each.length != UNDEFINED_LENGTH for each in left):
            return header
    return _read(io.BytesIO(source), stop_before_pixels)[0]


def read_header(path: Path) -> tuple[FileDataset, int | None]:
    """Parse a DICOM file up to its pixel data; errors as of `read`.

    Returns
    -------
    header : what stands before PixelData
    place : where the element PixelData begins in the file, or the file's end if it has none; None
        if no place in the file can be given
    """
    with path.open("rb") as file:
        return _read(file, stop_before_pixels=True)


def pixel_bytes(header: Dataset, total_bytes: int) -> int:
    """Bytes of pixel data that the file really has, even if `read` left them."""
    # Access by tag would make pydicom read the value.
    pixels = next((each for each in header.values() if each.tag == PIXEL_DATA), None)
    if isinstance(pixels, RawDataElement) and _is_left(pixels):
        return max(0, min(pixels.length, total_bytes - pixels.value_tell))
    return len(pixels.value) if pixels is not None and isinstance(pixels.value, bytes) else 0


def is_encapsulated(header: Dataset) -> bool:
    """Whether the pixel data are compressed fragments, whatever the file meta declares."""
    pixels = next((each for each in header.values() if each.tag == PIXEL_DATA), None)
    if isinstance(pixels, RawDataElement):
        return pixels.length == UNDEFINED_LENGTH
    return pixels is not None and bool(pixels.is_undefined_length)


def is_delimited(header: Dataset, contents: bytes) -> bool:
    """Whether the fragments of compressed pixel data end with their delimiter (PS3.5 A.4).

    Without it a decoder refuses them, or they are cut off.
    """
    pixels = next((each for each in header.values() if each.tag == PIXEL_DATA), None)
    if not isinstance(pixels, RawDataElement) or not isinstance(pixels.value, bytes):
        return True
    end = pixels.value_tell + len(pixels.value)
    return contents[end : end + 4] == SEQUENCE_DELIMITER and len(contents) >= end + 8


def _is_left(element: RawDataElement) -> bool:
    return element.value is None and element.length > LONG_BYTES


def check_promise(header: Dataset) -> None:
    """Compare Rows, Columns and NumberOfFrames with the limit, before any decoder uses them.

    Raises
    ------
    Overlarge
        Names the keywords and their values.
    """
    rows, columns = int(header.get("Rows") or 0), int(header.get("Columns") or 0)
    frames = int(header.get("NumberOfFrames") or 1)
    samples = int(header.get("SamplesPerPixel") or 1)
    if frames < 1 or rows * columns * frames * samples > MAX_VOXELS:
        msg = (
            f"Rows {rows} x Columns {columns} x NumberOfFrames {frames} is not within 1 to "
            f"{MAX_VOXELS} voxels"
        )
        raise Overlarge(msg)


def check_header_bytes(header: Dataset, total_bytes: int) -> None:
    """Compare the size of the data set without its pixels with the limit.

    Raises
    ------
    Overlarge
        Names the size.
    """
    frames = int(header.get("NumberOfFrames") or 1)
    beside = total_bytes - pixel_bytes(header, total_bytes)
    allowed = MAX_HEADER_BYTES + MAX_HEADER_BYTES_PER_FRAME * frames
    if beside > allowed:
        msg = f"{beside} bytes beside PixelData, at most {allowed} expected"
        raise Overlarge(msg)


# Start of a JPEG 2000 codestream and the size marker right after it (ITU-T T.800 A.5.1).
_SOC_SIZ = re.compile(rb"\xff\x4f\xff\x51")


def coded_size(code: bytes) -> tuple[int, int] | None:
    """Rows and columns in a JPEG, JPEG-LS or JPEG 2000 codestream; None if it has none (RLE).

    A decoder uses these and not the header's. Boxes of any length may precede a JPEG 2000
    codestream and contain a smaller one, so the largest size counts.
    """
    if code[:2] == b"\xff\xd8":
        return _jpeg_size(code)
    found = []
    for start in (each.end() for each in _SOC_SIZ.finditer(code)):
        x, y, x0, y0 = (
            int.from_bytes(code[start + k : start + k + 4], "big") for k in (4, 8, 12, 16)
        )
        found.append((y - y0, x - x0))
    return max(found, key=lambda size: abs(size[0] * size[1]), default=None)


def _jpeg_size(code: bytes) -> tuple[int, int] | None:
    """From the start-of-frame marker (ITU-T T.81 B.2.2, T.87 C.2.2)."""
    at = 2
    while at + 9 <= len(code) and code[at] == 0xFF:
        marker = code[at + 1]
        if marker in {0x01, 0xFF} or 0xD0 <= marker <= 0xD7:
            at += 1 if marker == 0xFF else 2
            continue
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in {0xC4, 0xC8, 0xCC}):
            return (
                int.from_bytes(code[at + 5 : at + 7], "big"),
                int.from_bytes(code[at + 7 : at + 9], "big"),
            )
        at += 2 + int.from_bytes(code[at + 2 : at + 4], "big")
    return None


def _read(
    file: BinaryIO, stop_before_pixels: bool, leave_bytes: int | None = None
) -> tuple[FileDataset, int | None]:
    """The data set, and where in the file reading ended; None where that is not known."""
    metered = cast(BinaryIO, _Metered(file))
    preamble = _preamble(metered)
    meta = read_dataset(
        metered,
        is_implicit_VR=False,
        is_little_endian=True,
        stop_when=lambda tag, vr, length: tag.group != 2,
    )
    start = metered.tell()
    opening = metered.read(OPENING_BYTES)
    command_set = opening[:2] == b"\0\0"
    metered.seek(start)
    if "TransferSyntaxUID" not in meta and (plain := plain_syntax(opening)) is not None:
        meta.TransferSyntaxUID = plain
    syntax = meta.get("TransferSyntaxUID")
    if command_set or not isinstance(syntax, UID) or syntax not in AllTransferSyntaxes:
        # pydicom knows the usual faults of other writers.
        metered.seek(0)
        whole = pydicom.dcmread(
            metered, defer_size=leave_bytes, stop_before_pixels=stop_before_pixels
        )
        return _with_counts(whole), None
    deflated = syntax == DeflatedExplicitVRLittleEndian
    if deflated:
        # pydicom inflates without a limit.
        metered = cast(BinaryIO, _Metered(io.BytesIO(_inflate(metered.read()))))
        # A position in the inflated data is no position in the file.
        leave_bytes = None
    implicit, little = syntax.is_implicit_VR, syntax.is_little_endian
    ds = read_dataset(
        metered,
        is_implicit_VR=implicit,
        is_little_endian=little,
        stop_when=_at_pixels if stop_before_pixels else None,
        defer_size=leave_bytes,
    )
    found = FileDataset("", ds, preamble, FileMetaDataset(meta), implicit, little)
    found.set_original_encoding(implicit, little, ds.original_character_set)
    return _with_counts(found), None if deflated else metered.tell()


def _with_counts(header: FileDataset) -> FileDataset:
    """The header with a number wherever pixels are counted, in whatever VR of text it was written.

    Raises
    ------
    ValueError
        Names the keyword and the text that is no whole number.
    """
    for tag in _COUNTS:
        element: Any = header.get_item(tag)
        if element is None or element.VR not in STR_VR:
            continue
        text = element.value
        if isinstance(text, bytes):
            text = text.decode("latin-1")
        if not (text := str(text or "").strip("\0 ")):
            continue
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not number.is_integer():
            msg = f"{keyword_for_tag(tag)} {text[:70]!r} (VR {element.VR}), a whole number expected"
            raise ValueError(msg)
        if element.VR != "IS":
            header[tag] = DataElement(tag, dictionary_VR(tag), int(number))
    return header


def meta_offset(contents: bytes) -> int:
    """Where the file meta, or the first element, begins: after DICM if there is one."""
    if contents[128:132] == b"DICM":
        return 132
    return 4 if contents[:4] == b"DICM" else 0


def after_meta(contents: bytes) -> bytes:
    """The data set after the file meta, whether or not the meta states its own length."""
    file = cast(BinaryIO, _Metered(io.BytesIO(contents)))
    _preamble(file)
    read_dataset(
        file,
        is_implicit_VR=False,
        is_little_endian=True,
        stop_when=lambda tag, vr, length: tag.group != 2,
    )
    return contents[file.tell() :]


def _preamble(file: BinaryIO) -> bytes | None:
    """Go to the first element: after a preamble, after DICM alone, or at the start.

    Raises
    ------
    InvalidDicomError
        If there is no DICM, and the first bytes are no plain element either.
    """
    opening = file.read(OPENING_BYTES)
    offset = meta_offset(opening)
    if offset == 0 and opening[:2] != b"\x02\0" and plain_syntax(opening) is None:
        raise InvalidDicomError(_no_opening(opening))
    file.seek(offset)
    return opening[:128] if offset == 132 else None


def _no_opening(opening: bytes) -> str:
    if opening[:2] == b"\0\x08":
        return (
            "it has no preamble and no file meta, and begins in big endian, which only "
            "the file meta can declare; export it as a DICOM file (PS3.10)"
        )
    return (
        "DICM does not stand after 128 bytes, and the first bytes are no element in explicit or "
        "implicit little endian"
    )


def plain_syntax(opening: bytes) -> UID | None:
    """The syntax of a data set without file meta, by its first two elements; None if unclear.

    The first one is of group 0008, where every image has its class; the second one must have a
    higher tag, which no length or VR that was guessed wrongly leads to.
    """
    if opening[:2] != b"\x08\0":
        return None
    vr = opening[4:6].decode("latin-1")
    if vr in EXPLICIT_VR_LENGTH_32:
        end, syntax = 12 + int.from_bytes(opening[8:12], "little"), ExplicitVRLittleEndian
    elif vr in STANDARD_VR:
        end, syntax = 8 + int.from_bytes(opening[6:8], "little"), ExplicitVRLittleEndian
    else:
        end, syntax = 8 + int.from_bytes(opening[4:8], "little"), ImplicitVRLittleEndian
    if end + 4 > len(opening):
        return None
    return syntax if _tag(opening, 0) < _tag(opening, end) else None


def _tag(contents: bytes, at: int) -> tuple[int, int]:
    group, element = struct.unpack_from("<HH", contents, at)
    return group, element


def _at_pixels(tag: BaseTag, vr: str | None, length: int) -> bool:
    return int(tag) == PIXEL_DATA


def _inflate(zipped: bytes) -> bytes:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = inflater.decompress(zipped, MAX_INFLATED_BYTES + 1)
    if len(inflated) > MAX_INFLATED_BYTES:
        msg = f"the deflated data set has more than {MAX_INFLATED_BYTES} bytes"
        raise Overlarge(msg)
    if not inflater.eof:
        raise zlib.error("the deflated data set is cut off")
    return inflated


class _Metered:
    """A file that raises once it has been read in too many pieces."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._reads = 0
        self.seek = file.seek
        self.tell = file.tell

    def read(self, size: int = -1) -> bytes:
        self._reads += 1
        if self._reads > MAX_READS:
            msg = f"the data set has more elements than fit {MAX_READS} reads"
            raise Overlarge(msg)
        return self._file.read(size)
