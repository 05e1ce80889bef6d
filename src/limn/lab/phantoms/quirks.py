"""A table of quirks: what scanners and archives do to a series, one small function each.

A quirk takes the files of a series, changes them and returns them; no voxel moves in the animal.
Quirks are always applied in the order of the table: headers, stored values, slices, encoding,
files. Two quirks that change the same thing exclude each other. Most were seen on micro-CT
scanners, in archives or in converters. Some make a series that can't be contoured, and a reader
must give the reason.
"""

from __future__ import annotations

import copy
import difflib
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import SimpleITK
from pydicom import dcmread, dcmwrite
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.tag import Tag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    PositronEmissionTomographyImageStorage,
    RLELossless,
)

from limn.dicom.ct import multi_frame
from limn.domain.errors import ConfigWrong
from limn.domain.geometry import FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class SeriesFile:
    """One file of a series before it is written.

    Attributes
    ----------
    slices : indices of the phantom's slices in the order of its frames; empty for a file that
        is not a slice of the phantom
    """

    name: str
    ds: FileDataset
    slices: tuple[int, ...]


Files: TypeAlias = list[SeriesFile]

# Found on a real micro-CT.
ODD_INTERCEPT = 8478
# Two slices were missing from a real series of 679; slices remain on both sides.
GAP_SLICES, MIN_SLICES_FOR_GAP = 2, 6
EIGHT_BIT_STEP_HU, EIGHT_BIT_LOWEST_HU = 10, -1000
TWELVE_BIT_LOWEST_HU = -1024


@dataclass(frozen=True, slots=True)
class Quirk:
    """One oddity of a series.

    Attributes
    ----------
    meaning : one line of explanation
    touches : what it changes; two quirks that change the same thing exclude each other. Empty if
        it excludes none
    """

    name: str
    meaning: str
    touches: str
    apply: Callable[[Files], Files]

    @classmethod
    def of(cls, function: Callable[[Files], Files], touches: str = "") -> Quirk:
        """A quirk with the name and the docstring of its function."""
        meaning = (function.__doc__ or "").splitlines()[0]
        return cls(function.__name__.replace("_", "-"), meaning, touches, function)


def choose(names: Sequence[str]) -> tuple[Quirk, ...]:
    """The quirks of these names, in the order in which they are applied.

    Raises
    ------
    ConfigWrong
        For a name that is not in the table, or two quirks that exclude each other.
    """
    for name in names:
        if name not in QUIRKS:
            near = difflib.get_close_matches(name, QUIRKS, n=3)
            hint = f"did you mean {' or '.join(near)}? " if near else ""
            msg = f"quirk {name!r} is unknown; {hint}'limn phantom --quirks' lists them"
            raise ConfigWrong(msg)
    chosen = tuple(quirk for name, quirk in QUIRKS.items() if name in names)
    for k, first in enumerate(chosen):
        for second in chosen[k + 1 :]:
            if first.touches and first.touches == second.touches:
                msg = (
                    f"quirks {first.name} and {second.name} both change the {first.touches}; "
                    "choose one"
                )
                raise ConfigWrong(msg)
    return chosen


def save(files: Files, folder: Path) -> None:
    """Write every file into the folder, in the transfer syntax that its meta header names."""
    for each in files:
        # "x" follows no link. Not `save_as`, which does not convert little endian to big endian.
        with (folder / each.name).open("xb") as file:
            dcmwrite(file, each.ds, enforce_file_format=True)


# Headers.


def rounded_positions(files: Files) -> Files:
    """ImagePositionPatient rounded to 0.1 mm."""
    for each in files:
        each.ds.ImagePositionPatient = [f"{float(v):.1f}" for v in each.ds.ImagePositionPatient]
    return files


def exponent_notation(files: Files) -> Files:
    """Spacing and positions in exponent notation: 2.0E-01."""
    for each in files:
        for keyword in ("PixelSpacing", "ImagePositionPatient"):
            numbers = [f"{float(value):.6E}" for value in each.ds[keyword].value]
            setattr(each.ds, keyword, numbers)
        each.ds.SliceThickness = f"{float(each.ds.SliceThickness):.6E}"
    return files


def wobbling_orientation(files: Files) -> Files:
    """The seventh decimal of ImageOrientationPatient differs from slice to slice."""
    for k, each in enumerate(files):
        axes = [float(value) for value in each.ds.ImageOrientationPatient]
        quiet = axes.index(0.0)
        axes[quiet] = 1e-7 * (k % 3)
        each.ds.ImageOrientationPatient = [f"{value:.7f}" for value in axes]
    return files


def blank_orientation(files: Files) -> Files:
    """ImageOrientationPatient empty, as by a converter that knows only one position."""
    for each in files:
        each.ds.ImageOrientationPatient = None
    return files


def wrong_thickness(files: Files) -> Files:
    """SliceThickness and SpacingBetweenSlices are 1 mm, whatever the positions."""
    for each in files:
        each.ds.SliceThickness = each.ds.SpacingBetweenSlices = "1"
    return files


def instance_from_zero(files: Files) -> Files:
    """InstanceNumber counts from 0."""
    for k, each in enumerate(files):
        each.ds.InstanceNumber = k
    return files


def instance_descending(files: Files) -> Files:
    """InstanceNumber falls along the slice normal."""
    for k, each in enumerate(files):
        each.ds.InstanceNumber = len(files) - k
    return files


def no_manufacturer(files: Files) -> Files:
    """Manufacturer and its model name empty."""
    for each in files:
        each.ds.Manufacturer = each.ds.ManufacturerModelName = ""
    return files


def no_patient_position(files: Files) -> Files:
    """PatientPosition absent."""
    return _without(files, "PatientPosition")


def wrong_patient_position(files: Files) -> Files:
    """PatientPosition contradicts the axes: prone for supine, left for right."""
    opposite = {"S": "P", "P": "S", "L": "R", "R": "L"}
    for each in files:
        position = each.ds.PatientPosition
        each.ds.PatientPosition = position[:-1] + opposite[position[-1]]
    return files


def no_frame_of_reference(files: Files) -> Files:
    """FrameOfReferenceUID absent."""
    return _without(files, "FrameOfReferenceUID")


def no_study_details(files: Files) -> Files:
    """StudyDate, StudyTime, StudyID and AccessionNumber absent."""
    return _without(files, "StudyDate", "StudyTime", "StudyID", "AccessionNumber")


def contrast_names_tracer(files: Files) -> Files:
    """ContrastBolusAgent names the PET tracer of the same session, in a native scan."""
    for each in files:
        each.ds.ContrastBolusAgent = "18F-FDG"
    return files


def latin1_name(files: Files) -> Files:
    """A PatientName with accents in ISO_IR 100."""
    for each in files:
        each.ds.SpecificCharacterSet = "ISO_IR 100"
        each.ds.PatientName = "Müller^Mäuschen"
    return files


def japanese_name(files: Files) -> Files:
    """A PatientName in three scripts with code extensions (PS3.5 annex H)."""
    for each in files:
        each.ds.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
        each.ds.PatientName = "Yamada^Nezumi=山田^鼠=やまだ^ねずみ"
    return files


def undeclared_charset(files: Files) -> Files:
    """Latin-1 bytes in PatientName and no SpecificCharacterSet."""
    name = "Müller^Mäuschen ".encode("latin-1")
    tag = Tag("PatientName")
    for each in files:
        del each.ds.SpecificCharacterSet
        # Raw, because pydicom does not encode characters outside the character set.
        each.ds[tag] = RawDataElement(tag, "PN", len(name), name, 0, False, True)
    return files


def path_in_patient_id(files: Files) -> Files:
    """A PatientID that, used as a file name, would point outside its folder."""
    for each in files:
        each.ds.PatientID = "../cage 12/left ear"
    return files


def private_tags(files: Files) -> Files:
    """A private block with a sequence, as vendors add it."""
    for each in files:
        block = each.ds.private_block(0x0099, "LIMN QUIRK", create=True)
        block.add_new(0x01, "LO", "bin 2, 720 projections")
        block.add_new(0x02, "SQ", [])
    return files


# Stored values.


def no_rescale(files: Files) -> Files:
    """RescaleSlope, RescaleIntercept and RescaleType absent: grey values without a unit."""
    return _without(files, "RescaleSlope", "RescaleIntercept", "RescaleType")


def rescale_type_us(files: Files) -> Files:
    """RescaleType US: the scanner does not state that its values are HU."""
    for each in files:
        each.ds.RescaleType = "US"
    return files


def signed(files: Files) -> Files:
    """Signed 16-bit pixels that are HU: slope 1, intercept 0."""
    for each in files:
        _store(each.ds, _hu(each.ds), np.dtype("<i2"), intercept=0)
    return files


def intercept_8478(files: Files) -> Files:
    """RescaleIntercept +8478 on signed 16-bit pixels."""
    for each in files:
        _store(each.ds, _hu(each.ds), np.dtype("<i2"), intercept=ODD_INTERCEPT)
    return files


def fractional_slope(files: Files) -> Files:
    """RescaleSlope 0.5."""
    for each in files:
        _store(each.ds, _hu(each.ds), np.dtype("<u2"), slope=0.5, intercept=-4096)
    return files


def rescale_per_slice(files: Files) -> Files:
    """Each slice uses all 16 bits, with its own rescale."""
    for each in files:
        hu_yx = _hu(each.ds)
        lowest = float(hu_yx.min())
        # Rounded up to the digits of the header, so that the brightest voxel still fits.
        slope = np.ceil(max(float(np.ptp(hu_yx)), 1.0) / 65535 * 1e9) / 1e9
        _store(each.ds, hu_yx, np.dtype("<u2"), slope=float(slope), intercept=lowest)
    return files


def eight_bit(files: Files) -> Files:
    """8-bit pixels in steps of 10 HU, from -1000 to 1550; the rest is clipped."""
    for each in files:
        _store(
            each.ds,
            _hu(each.ds),
            np.dtype("u1"),
            slope=EIGHT_BIT_STEP_HU,
            intercept=EIGHT_BIT_LOWEST_HU,
        )
    return files


def twelve_bit(files: Files) -> Files:
    """12 of 16 bits stored, from -1024 to 3071 HU; the rest is clipped."""
    for each in files:
        hu_yx = np.clip(_hu(each.ds), TWELVE_BIT_LOWEST_HU, TWELVE_BIT_LOWEST_HU + 4095)
        _store(each.ds, hu_yx, np.dtype("<u2"), intercept=TWELVE_BIT_LOWEST_HU)
        each.ds.BitsStored, each.ds.HighBit = 12, 11
    return files


def monochrome1(files: Files) -> Files:
    """PhotometricInterpretation MONOCHROME1: displayed inverted, the same HU."""
    for each in files:
        each.ds.PhotometricInterpretation = "MONOCHROME1"
    return files


# Slices.


def gap(files: Files) -> Files:
    """Two slices lost from the middle of the series, where the organs are."""
    return _without_slices(files, len(files) // 2)


def gap_aside(files: Files) -> Files:
    """Two slices lost near the first one, away from the organs."""
    return _without_slices(files, max(1, len(files) // 16))


def scout(files: Files) -> Files:
    """A localizer in the same series."""
    extra = _copy_of(files[len(files) // 2], "scout", "9001")
    extra.ds.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    return [extra, *files]


def position_twice(files: Files) -> Files:
    """Another image at the position of the middle slice."""
    return [*files, _copy_of(files[len(files) // 2], "twice", "9002")]


def pet_beside(files: Files) -> Files:
    """Three PET slices of the session in the same folder: own series, own frame of reference."""
    extra = [
        _copy_of(each, f"pet_{k + 1}", f"9003.{k + 1}") for k, each in enumerate(files[1::2][:3])
    ]
    for each in extra:
        ds = each.ds
        ds.Modality, ds.SeriesNumber = "PT", 2
        ds.SOPClassUID = PositronEmissionTomographyImageStorage
        ds.file_meta.MediaStorageSOPClassUID = PositronEmissionTomographyImageStorage
        for keyword in ("SeriesInstanceUID", "FrameOfReferenceUID"):
            if keyword in ds:
                setattr(ds, keyword, UID(f"{ds[keyword].value}.9003"))
        ds.SeriesDescription = "limn phantom, PET"
    return [*files, *extra]


# Encoding.


def implicit_vr(files: Files) -> Files:
    """Implicit VR Little Endian."""
    return _in_syntax(files, ImplicitVRLittleEndian)


def big_endian(files: Files) -> Files:
    """Explicit VR Big Endian, which the standard has retired."""
    for each in files:
        if each.ds.BitsAllocated == 16:
            swapped = np.frombuffer(each.ds.PixelData, "<u2").byteswap()
            each.ds.PixelData = swapped.tobytes()
    return _in_syntax(files, ExplicitVRBigEndian)


def deflated(files: Files) -> Files:
    """Deflated Explicit VR Little Endian."""
    return _in_syntax(files, DeflatedExplicitVRLittleEndian)


def rle(files: Files) -> Files:
    """RLE Lossless."""
    for each in files:
        each.ds.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    return files


def jpeg_lossless(files: Files) -> Files:
    """JPEG Lossless, process 14, selection value 1."""
    return _by_gdcm(files, "JPEG", JPEGLosslessSV1)


def jpeg_2000(files: Files) -> Files:
    """JPEG 2000, lossless."""
    return _by_gdcm(files, "JPEG2000", JPEG2000Lossless)


def high_bit(files: Files) -> Files:
    """HighBit is not BitsStored - 1: it is unknown which bits count."""
    for each in files:
        each.ds.HighBit = each.ds.BitsStored - 4
    return files


# Files.


def enhanced(files: Files) -> Files:
    """All slices as frames of one Enhanced CT instance (only geometry and pixels)."""
    frames = [each for each in files if each.slices]
    rescales = {(str(f.ds.get("RescaleSlope")), str(f.ds.get("RescaleIntercept"))) for f in frames}
    ds = multi_frame([each.ds for each in frames], shared_rescale=len(rescales) == 1)
    whole = SeriesFile("enhanced.dcm", ds, tuple(k for each in frames for k in each.slices))
    return [whole, *(each for each in files if not each.slices)]


def file_twice(files: Files) -> Files:
    """The middle file twice, byte by byte, under another name."""
    middle = files[len(files) // 2]
    return [*files, SeriesFile(f"copy_of_{middle.name}", middle.ds, middle.slices)]


def descending_files(files: Files) -> Files:
    """File names fall along the slice normal."""
    names = [each.name for each in files]
    return [
        SeriesFile(name, each.ds, each.slices)
        for name, each in zip(reversed(names), files, strict=True)
    ]


def no_extension(files: Files) -> Files:
    """File names of a DICOM medium: I0000001, no extension."""
    return [SeriesFile(f"I{k + 1:07d}", each.ds, each.slices) for k, each in enumerate(files)]


def uid_names(files: Files) -> Files:
    """Files named by their SOP Instance UIDs, so that their order means nothing."""
    return [SeriesFile(str(each.ds.SOPInstanceUID), each.ds, each.slices) for each in files]


_NUMBER, _POSITION = "instance numbers", "patient position"
_VALUES, _SYNTAX = "stored values", "transfer syntax"
_NAME, _FILES = "patient's name", "names of the files"

QUIRKS: dict[str, Quirk] = {
    quirk.name: quirk
    for quirk in (
        Quirk.of(rounded_positions),
        Quirk.of(exponent_notation),
        Quirk.of(wobbling_orientation, "orientation"),
        Quirk.of(blank_orientation, "orientation"),
        Quirk.of(wrong_thickness),
        Quirk.of(instance_from_zero, _NUMBER),
        Quirk.of(instance_descending, _NUMBER),
        Quirk.of(no_manufacturer),
        Quirk.of(no_patient_position, _POSITION),
        Quirk.of(wrong_patient_position, _POSITION),
        Quirk.of(no_frame_of_reference),
        Quirk.of(no_study_details),
        Quirk.of(contrast_names_tracer),
        Quirk.of(latin1_name, _NAME),
        Quirk.of(japanese_name, _NAME),
        Quirk.of(undeclared_charset, _NAME),
        Quirk.of(path_in_patient_id),
        Quirk.of(private_tags),
        Quirk.of(signed, _VALUES),
        Quirk.of(intercept_8478, _VALUES),
        Quirk.of(fractional_slope, _VALUES),
        Quirk.of(rescale_per_slice, _VALUES),
        Quirk.of(eight_bit, _VALUES),
        Quirk.of(twelve_bit, _VALUES),
        Quirk.of(no_rescale, "rescale"),
        Quirk.of(rescale_type_us, "rescale"),
        Quirk.of(monochrome1),
        Quirk.of(gap, "slices"),
        Quirk.of(gap_aside, "slices"),
        Quirk.of(scout),
        Quirk.of(position_twice),
        Quirk.of(pet_beside),
        Quirk.of(implicit_vr, _SYNTAX),
        Quirk.of(big_endian, _SYNTAX),
        Quirk.of(deflated, _SYNTAX),
        Quirk.of(rle, _SYNTAX),
        Quirk.of(jpeg_lossless, _SYNTAX),
        Quirk.of(jpeg_2000, _SYNTAX),
        Quirk.of(high_bit),
        Quirk.of(enhanced, _FILES),
        Quirk.of(descending_files, _FILES),
        Quirk.of(no_extension, _FILES),
        Quirk.of(uid_names, _FILES),
        Quirk.of(file_twice),
    )
}


def _without(files: Files, *keywords: str) -> Files:
    for each in files:
        for keyword in keywords:
            del each.ds[keyword]
    return files


def _without_slices(files: Files, start: int) -> Files:
    if len(files) < MIN_SLICES_FOR_GAP:
        msg = f"{len(files)} slices: a gap of {GAP_SLICES} needs {MIN_SLICES_FOR_GAP}"
        raise ConfigWrong(msg)
    return [*files[:start], *files[start + GAP_SLICES :]]


def _copy_of(original: SeriesFile, name: str, number: str) -> SeriesFile:
    """A copy with its own SOP Instance UID that is not a slice of the phantom."""
    ds = copy.deepcopy(original.ds)
    ds.SOPInstanceUID = UID(f"{ds.StudyInstanceUID}.{number}")
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    return SeriesFile(f"{name}.dcm", ds, ())


def _hu(ds: FileDataset) -> FloatArray:
    """(y, x) HU of a slice as `ct_instances` stores it."""
    stored = np.frombuffer(ds.PixelData, "<u2").astype(np.float64)
    return stored.reshape(ds.Rows, ds.Columns) + float(ds.RescaleIntercept)


def _store(
    ds: FileDataset,
    hu_yx: FloatArray,
    kind: np.dtype[np.signedinteger | np.unsignedinteger],
    *,
    slope: float = 1.0,
    intercept: float,
) -> None:
    """Store HU in another pixel type; values outside its range are clipped."""
    limits = np.iinfo(kind)
    stored = np.clip(np.round((hu_yx - intercept) / slope), limits.min, limits.max).astype(kind)
    bits = 8 * kind.itemsize
    ds.BitsAllocated = ds.BitsStored = bits
    ds.HighBit, ds.PixelRepresentation = bits - 1, int(kind.kind == "i")
    ds.RescaleSlope, ds.RescaleIntercept = f"{slope:.10g}", f"{intercept:.10g}"
    pixels = stored.tobytes()
    ds.PixelData = pixels + b"\0" * (len(pixels) % 2)
    ds["PixelData"].VR = "OB" if bits == 8 else "OW"


def _in_syntax(files: Files, syntax: UID) -> Files:
    for each in files:
        each.ds.file_meta.TransferSyntaxUID = syntax
    return files


def _by_gdcm(files: Files, compressor: str, syntax: UID) -> Files:
    """Compress the pixels by SimpleITK's GDCM; the header stays as it is."""
    writer = SimpleITK.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.UseCompressionOn()
    writer.SetCompressor(compressor)
    with tempfile.TemporaryDirectory(prefix="limn-") as folder:
        path = Path(folder) / "frame.dcm"
        writer.SetFileName(str(path))
        for each in files:
            stored: npt.NDArray[np.generic] = each.ds.pixel_array
            try:
                writer.Execute(SimpleITK.GetImageFromArray(stored[None]))
            except RuntimeError as error:
                # GDCM fails on JPEG Lossless of 8 bits if rows and columns are both odd.
                rows, columns = stored.shape
                msg = (
                    f"{rows} x {columns} pixels of {each.ds.BitsAllocated} bits can't be "
                    f"compressed by GDCM's {compressor}; give another field of view"
                )
                raise ConfigWrong(msg) from error
            code = next(generate_frames(dcmread(path).PixelData, number_of_frames=1))
            each.ds.PixelData = encapsulate([code])
            each.ds["PixelData"].VR = "OB"
            each.ds["PixelData"].is_undefined_length = True
            each.ds.file_meta.TransferSyntaxUID = syntax
    return files
