"""Reads from the bytes of one CT instance what identifies and places it, or says what is wrong."""

from __future__ import annotations

import hashlib
import io
import math
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from limn.dicom.bounded import (
    DAMAGES,
    OPENING_BYTES,
    after_meta,
    check_header_bytes,
    check_promise,
    is_delimited,
    is_encapsulated,
    meta_offset,
    pixel_bytes,
    plain_syntax,
    read,
)
from limn.dicom.elements import check_deflated, check_elements, has_many_elements
from limn.dicom.identity import animal_of
from limn.dicom.series import CT_CLASSES, normal_xyz, planes, rounding_mm, written_numbers
from limn.dicom.uids import is_usable_uid
from limn.dicom.volume import NATIVE_SYNTAXES, TRANSFER_SYNTAXES

SERIES_INSTANCE_UID = 0x0020000E
# Of the file that lists what lies on a medium (PS3.10 8).
DICOMDIR = "1.2.840.10008.1.3.10"
# The UIDs of a CT slice stand in its first two kilobytes.
PART_BYTES = 2**16


@dataclass(frozen=True, slots=True)
class SlicePlace:
    """Where a header says that a slice lies: its first voxel, mm LPS, and its normal."""

    position_xyz_mm: tuple[float, float, float]
    normal_xyz: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class ReceivedInstance:
    """What the intake needs to know about one instance.

    Attributes
    ----------
    animal : PatientID, as `animal_of` shows it
    places : one for each frame; None where the header gives none
    rounding_mm : size of the last decimal in which they are written
    announced_slices : ImagesInAcquisition (PS3.3 C.7.6.1), if it is a count
    digest : SHA-256 of the data set, without the file meta information
    """

    sop_instance_uid: str
    series_instance_uid: str
    study_instance_uid: str
    animal: str
    places: tuple[SlicePlace | None, ...]
    rounding_mm: float
    announced_slices: int | None
    digest: str


def positions_mm(instances: Iterable[ReceivedInstance]) -> list[float | None]:
    """Position of every slice along the normal of all of them, None where the header gives none.

    One normal for the series, as in `limn.dicom.series`: 150 mm away from the origin the last
    digits of a slice's own normal would move it by some hundredths of a millimetre.
    """
    places = [place for each in instances for place in each.places]
    known = [place for place in places if place is not None]
    if not known:
        return [None] * len(places)
    with np.errstate(all="ignore"):
        normal_xyz = np.median([place.normal_xyz for place in known], axis=0)
        along_mm = iter(
            (np.array([place.position_xyz_mm for place in known]) @ normal_xyz).tolist()
        )
    return [None if place is None else next(along_mm) for place in places]


def input_digest(instances: Iterable[ReceivedInstance]) -> str:
    """SHA-256 that identifies the content of a series, in any order of its instances."""
    return digest_of_series((each.sop_instance_uid, each.digest) for each in instances)


def digest_of_series(contents: Iterable[tuple[str, str]]) -> str:
    """As `input_digest`, of each instance's SOP Instance UID and digest."""
    lines = sorted(f"{uid} {digest}" for uid, digest in contents)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def digest_of_file(path: Path) -> str:
    """The digest of the instance in a file, as `inspect` gives it; reads it once, in pieces.

    Raises
    ------
    OSError
        If it can't be read.
    """
    with path.open("rb") as file:
        opening = file.read(OPENING_BYTES)
        file.seek(_dataset_offset(opening))
        return hashlib.file_digest(file, "sha256").hexdigest()


def uids_of_part(part: bytes, syntax: str) -> tuple[str, str] | None:
    """Series and SOP Instance UID of a data set of which only the beginning came.

    Parameters
    ----------
    part : the first bytes of the data set, without file meta
    syntax : its transfer syntax

    Returns
    -------
    None if it ends before both UIDs, or is damaged.
    """
    after = False

    def is_after(tag: BaseTag, _vr: str | None, _length: int) -> bool:
        nonlocal after
        after = int(tag) > SERIES_INSTANCE_UID
        return after

    try:
        uid = UID(syntax)
        if uid == DeflatedExplicitVRLittleEndian:
            part = zlib.decompressobj(-zlib.MAX_WBITS).decompress(part, PART_BYTES)
        ds = read_dataset(
            io.BytesIO(part), uid.is_implicit_VR, uid.is_little_endian, stop_when=is_after
        )
        uids = str(ds.SeriesInstanceUID), str(ds.SOPInstanceUID)
    except DAMAGES:
        return None
    return uids if after else None


def uids_of_file(contents: bytes) -> tuple[str, str] | None:
    """Series and SOP Instance UID of a file that can't be used; None if it does not name both."""
    try:
        if inflates(contents):
            check_deflated(after_meta(contents))
        elif has_many_elements(contents):
            return None
        ds = read(contents, stop_before_pixels=True)
        uids = str(ds.get("SeriesInstanceUID") or ""), str(ds.get("SOPInstanceUID") or "")
    except (InvalidDicomError, Unreadable, *DAMAGES):
        return None
    return uids if all(map(is_usable_uid, uids)) else None


def may_be_cut_off(contents: bytes) -> bool:
    """Whether bytes that name no series may be the beginning of an instance; a DICOMDIR is none."""
    if not contents.strip(b"\0"):
        return True
    if DICOMDIR.encode() in contents[:OPENING_BYTES]:
        return False
    return bool(meta_offset(contents)) or plain_syntax(contents[:OPENING_BYTES]) is not None


class Unreadable(Exception):
    """The bytes are no CT instance that limn can use; the text says why."""


def inflates(contents: bytes) -> bool:
    """Whether the instance is deflated: reading it may need a thousand times its size."""
    uid = DeflatedExplicitVRLittleEndian.encode()
    return uid in contents[: _dataset_offset(contents) or None]


def inspect(contents: bytes) -> ReceivedInstance:
    """Read one CT instance.

    Raises
    ------
    Unreadable
        If it is not a whole CT image instance.
    """
    if not contents:
        raise Unreadable("the file is empty")
    try:
        # The hash first: it releases the interpreter to the thread that writes these bytes.
        digest = hashlib.sha256(memoryview(contents)[_dataset_offset(contents) :]).hexdigest()
        if inflates(contents):
            check_deflated(after_meta(contents))
        else:
            check_elements(contents)
        ds = read(contents, leave_pixels=True)
        if _ends_within_pixels(ds, contents):
            raise Unreadable("PixelData has no end: the compressed image is cut off")
        _check(ds, len(contents))
        check_header_bytes(ds, len(contents))
        every = [plane for _, plane in planes(ds)]
        return ReceivedInstance(
            sop_instance_uid=str(ds.SOPInstanceUID),
            series_instance_uid=str(ds.SeriesInstanceUID),
            study_instance_uid=str(ds.get("StudyInstanceUID", "")),
            animal=animal_of(ds),
            places=tuple(_place(plane) for plane in every),
            rounding_mm=min((rounding_mm(plane) for plane in every), default=0.0),
            announced_slices=_announced(ds),
            digest=digest,
        )
    except InvalidDicomError as error:
        msg = f"not a DICOM file: {error}"
        raise Unreadable(msg) from error
    except DAMAGES as error:
        msg = f"damaged DICOM: {error}"
        raise Unreadable(msg) from error


def _dataset_offset(contents: bytes) -> int:
    """Where the data set begins, after the file meta, which differs from sender to sender.

    The meta begins with its own length, (0002,0000) UL (PS3.10 7.1).
    """
    start = meta_offset(contents)
    if contents[start : start + 8] != b"\x02\x00\x00\x00UL\x04\x00":
        return start if contents[start : start + 2] == b"\x08\x00" else 0
    return start + 12 + int.from_bytes(contents[start + 8 : start + 12], "little")


def _ends_within_pixels(ds: Dataset, contents: bytes) -> bool:
    """Whether compressed pixel data lack their end."""
    if is_encapsulated(ds):
        return not is_delimited(ds, contents)
    # Where pydicom finds no delimiter it gives no element at all.
    return not len(ds) and "SOPClassUID" in read(contents, stop_before_pixels=True)


def _check(ds: Dataset, total_bytes: int) -> None:
    syntax = ds.file_meta.get("TransferSyntaxUID")
    if syntax is None:
        raise Unreadable(
            "TransferSyntaxUID absent, and the first elements do not show it: can't be decoded"
        )
    if syntax not in TRANSFER_SYNTAXES:
        msg = f"TransferSyntaxUID {syntax} can't be decoded here"
        raise Unreadable(msg)
    if ds.get("SOPClassUID") not in CT_CLASSES:
        name = UID(ds.get("SOPClassUID", "")).name or "no SOPClassUID"
        msg = f"Modality {ds.get('Modality', 'absent')} ({name}), a CT image expected"
        raise Unreadable(msg)
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"):
        uid = str(ds.get(keyword) or "")
        # Without a study UID the worker refuses the whole series and says so.
        if not is_usable_uid(uid) and not (keyword == "StudyInstanceUID" and not uid):
            msg = f"{keyword} {uid[:70]!r} is not a valid UID"
            raise Unreadable(msg)
    if "PixelData" not in ds:
        for keyword in ("FloatPixelData", "DoubleFloatPixelData"):
            if keyword in ds:
                msg = (
                    f"{keyword} is not read; export whole numbers (PixelData) with a rescale to HU"
                )
                raise Unreadable(msg)
        raise Unreadable("PixelData absent: the file has no pixels or is cut off")
    check_promise(ds)
    if syntax in NATIVE_SYNTAXES:
        if is_encapsulated(ds):
            msg = f"PixelData is compressed, but the file declares {UID(syntax).name}, or nothing"
            raise Unreadable(msg)
        frames = int(ds.get("NumberOfFrames") or 1)
        expected = ds.Rows * ds.Columns * frames * ds.get("SamplesPerPixel", 1)
        expected = expected * ds.BitsAllocated // 8
        found = pixel_bytes(ds, total_bytes)
        if found < expected:
            msg = f"PixelData has {found} bytes, {expected} expected: cut off"
            raise Unreadable(msg)


def _place(ds: Dataset) -> SlicePlace | None:
    try:
        x, y, z = written_numbers(ds, "ImagePositionPatient")
        nx, ny, nz = normal_xyz(ds)
    except (AttributeError, TypeError, ValueError):
        return None
    if not math.isfinite(nx * x + ny * y + nz * z):
        return None
    return SlicePlace((x, y, z), (nx, ny, nz))


def _announced(ds: Dataset) -> int | None:
    """ImagesInAcquisition; None if it is no count, which refuses no slice."""
    try:
        count = int(ds.get("ImagesInAcquisition"))
    except (OverflowError, TypeError, ValueError):
        return None
    return count if count > 0 else None
