"""Every quirk: it is in the files, and limn reads the same HU or refuses with the reason."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    RLELossless,
)

from limn.dicom.ct import CtIdentity, ct_instances
from limn.dicom.series import assemble
from limn.dicom.volume import read_headers, read_volume
from limn.domain.errors import ConfigWrong, RefusedSeries
from limn.domain.geometry import SpacingMm, axial_grid
from limn.domain.scan import Volume
from limn.lab.phantoms.quirks import QUIRKS, SeriesFile, choose, save

# Rows and columns are odd: an 8-bit image has an odd number of bytes.
SHAPE = (24, 15, 17)
ORIGIN = np.array([-3.21, -2.34, 5.67])


@dataclass(frozen=True)
class Reading:
    """How limn reads a quirk: HU within a tolerance, flags, or a refusal."""

    off_hu: float = 0.0
    flags: tuple[str, ...] = ()
    refused: str = ""


READINGS = {
    "rounded-positions": Reading(),
    "blank-orientation": Reading(refused="ImageOrientationPatient"),
    "wrong-patient-position": Reading(flags=("position:HFP-but-axes-say-HFS",)),
    "no-frame-of-reference": Reading(flags=("no-frame-of-reference",)),
    "rescale-per-slice": Reading(off_hu=0.03),
    "eight-bit": Reading(off_hu=5.0),
    "no-rescale": Reading(refused="RescaleSlope absent"),
    "rescale-type-us": Reading(flags=("rescale-type:US",)),
    "gap": Reading(flags=("gap:12-13:2",)),
    "gap-aside": Reading(flags=("gap:1-2:2",)),
    "scout": Reading(refused="LOCALIZER"),
    "position-twice": Reading(refused="ImagePositionPatient .* twice"),
    "pet-beside": Reading(refused="Modality 'PT'"),
    "high-bit": Reading(refused="HighBit 12, 15 expected"),
    "file-twice": Reading(refused="SOPInstanceUID .* names 2 files"),
}


def syntax(expected: UID) -> Callable[[list[Dataset]], bool]:
    """Every file is written in this transfer syntax."""
    return lambda found: {each.file_meta.TransferSyntaxUID for each in found} == {expected}


def absent(*keywords: str) -> Callable[[list[Dataset]], bool]:
    """No file has any of these attributes."""
    return lambda found: not any(keyword in each for each in found for keyword in keywords)


def every(check: Callable[[Dataset], bool]) -> Callable[[list[Dataset]], bool]:
    """The check holds for every file."""
    return lambda found: all(check(each) for each in found)


def text(ds: Dataset, keyword: str) -> list[str]:
    """Numbers as they are written in the file."""
    return [value.original_string for value in ds[keyword].value]


# What the files must show, read by pydicom in the order of their names.
PROOFS: dict[str, Callable[[list[Dataset]], bool]] = {
    "rounded-positions": every(
        lambda ds: all(len(v.split(".")[1]) == 1 for v in text(ds, "ImagePositionPatient"))
    ),
    "exponent-notation": every(
        lambda ds: all(
            "E" in v for v in text(ds, "PixelSpacing") + text(ds, "ImagePositionPatient")
        )
    ),
    "wobbling-orientation": lambda found: (
        len({str(each.ImageOrientationPatient) for each in found}) == 3
    ),
    "blank-orientation": every(lambda ds: not ds.ImageOrientationPatient),
    "wrong-thickness": every(lambda ds: ds.SliceThickness == ds.get("SpacingBetweenSlices") == 1),
    "instance-from-zero": lambda found: [int(f.InstanceNumber) for f in found] == list(range(24)),
    "instance-descending": lambda found: (
        [int(each.InstanceNumber) for each in found] == list(range(24, 0, -1))
    ),
    "no-manufacturer": every(lambda ds: ds.Manufacturer == ""),
    "no-patient-position": absent("PatientPosition"),
    "wrong-patient-position": every(lambda ds: ds.PatientPosition == "HFP"),
    "no-frame-of-reference": absent("FrameOfReferenceUID"),
    "no-study-details": absent("StudyDate", "StudyTime", "StudyID", "AccessionNumber"),
    "contrast-names-tracer": every(lambda ds: "FDG" in ds.get("ContrastBolusAgent", "")),
    "latin1-name": every(lambda ds: ds.PatientName.family_name == "Müller"),
    "japanese-name": every(lambda ds: "山田" in ds.PatientName.ideographic),
    "undeclared-charset": every(
        lambda ds: (
            "SpecificCharacterSet" not in ds and b"M\xfcller" in ds.get_item("PatientName").value
        )
    ),
    "path-in-patient-id": every(lambda ds: ds.PatientID.startswith("../")),
    "private-tags": every(
        lambda ds: (0x0099, 0x1001) in ds and ds[0x0099, 0x1001].value[:5] == "bin 2"
    ),
    "signed": every(lambda ds: ds.PixelRepresentation == 1 and ds.RescaleIntercept == 0),
    "intercept-8478": every(lambda ds: ds.RescaleIntercept == 8478),
    "fractional-slope": every(lambda ds: ds.RescaleSlope == 0.5),
    "rescale-per-slice": lambda found: len({float(each.RescaleSlope) for each in found}) > 12,
    "eight-bit": every(lambda ds: ds.BitsAllocated == 8 and ds.pixel_array.dtype == np.uint8),
    "twelve-bit": every(lambda ds: ds.HighBit == 11 and ds.pixel_array.max() < 4096),
    "no-rescale": absent("RescaleSlope", "RescaleIntercept"),
    "rescale-type-us": every(lambda ds: ds.RescaleType == "US"),
    "monochrome1": every(lambda ds: ds.PhotometricInterpretation == "MONOCHROME1"),
    "gap": lambda found: len(found) == 22,
    "gap-aside": lambda found: len(found) == 22,
    "scout": lambda found: sum("LOCALIZER" in each.ImageType for each in found) == 1,
    "position-twice": lambda found: (
        len({each.SOPInstanceUID for each in found}) == 25
        and len({str(each.ImagePositionPatient) for each in found}) == 24
    ),
    "pet-beside": lambda found: (
        [each.Modality for each in found].count("PT") == 3
        and len({each.FrameOfReferenceUID for each in found}) == 2
        and len({each.StudyInstanceUID for each in found}) == 1
    ),
    "implicit-vr": syntax(ImplicitVRLittleEndian),
    "big-endian": syntax(ExplicitVRBigEndian),
    "deflated": syntax(DeflatedExplicitVRLittleEndian),
    "rle": syntax(RLELossless),
    "jpeg-lossless": syntax(JPEGLosslessSV1),
    "jpeg-2000": syntax(JPEG2000Lossless),
    "high-bit": every(lambda ds: ds.HighBit == 12),
    "enhanced": lambda found: (
        len(found) == 1
        and found[0].SOPClassUID == EnhancedCTImageStorage
        and found[0].pixel_array.shape == SHAPE
    ),
    "descending-files": lambda found: (
        found[0].ImagePositionPatient[2] > found[-1].ImagePositionPatient[2]
    ),
    "no-extension": every(lambda ds: "." not in Path(ds.filename).name),
    "uid-names": every(lambda ds: Path(ds.filename).name == ds.SOPInstanceUID),
    "file-twice": lambda found: len(found) == 25,
}


@pytest.fixture(scope="module")
def volume() -> Volume:
    """Random values from -1000 to 1000 HU."""
    rng = np.random.default_rng(5)
    hu = np.round(rng.uniform(-1000, 1000, SHAPE)).astype(np.float32)
    return Volume(hu, axial_grid(SHAPE, SpacingMm(0.3, 0.2, 0.1), ORIGIN))


@pytest.fixture(scope="module")
def plain(volume: Volume, tmp_path_factory: pytest.TempPathFactory) -> list[Dataset]:
    """The series without quirks."""
    return [
        pydicom.dcmread(path) for path in write(volume, (), tmp_path_factory.mktemp("plain") / "ct")
    ]


def write(volume: Volume, names: tuple[str, ...], folder: Path) -> list[Path]:
    """Write the volume as a series with quirks."""
    identity = CtIdentity("M1", "2.25.31.4", ("20260101", "120000"))
    files = [
        SeriesFile(f"ct_{k:04d}.dcm", ds, (k,))
        for k, ds in enumerate(ct_instances(volume, identity))
    ]
    for quirk in choose(names):
        files = quirk.apply(files)
    folder.mkdir()
    save(files, folder)
    return sorted(folder.iterdir())


def test_the_tables_of_this_module_have_every_quirk():
    """A new quirk needs its proof."""
    assert set(PROOFS) == set(QUIRKS)
    assert set(READINGS) <= set(QUIRKS)
    assert all(quirk.meaning.endswith(".") for quirk in QUIRKS.values())


@pytest.mark.parametrize("name", list(QUIRKS))
def test_the_quirk_is_in_the_files(name: str, volume: Volume, plain: list[Dataset], tmp_path: Path):
    """Read by pydicom alone; the series without quirks does not pass the proof."""
    paths = write(volume, (name,), tmp_path / "ct")
    assert PROOFS[name]([pydicom.dcmread(path) for path in paths])
    assert not PROOFS[name](plain)


@pytest.mark.parametrize("name", list(QUIRKS))
def test_limn_reads_the_same_hu_or_refuses(name: str, volume: Volume, tmp_path: Path):
    """The refusal names its reason, the expected flags are raised, and no voxel moves."""
    reading = READINGS.get(name, Reading())
    instances = read_headers(write(volume, (name,), tmp_path / "ct"))
    if reading.refused:
        with pytest.raises(RefusedSeries, match=reading.refused):
            assemble(instances)
        return
    series = assemble(instances)
    assert series.flags == reading.flags
    kept = series.rungs
    assert len(kept) == SHAPE[0] - (2 if name.startswith("gap") else 0)
    assert np.abs(read_volume(series).hu_zyx - volume.hu_zyx[kept]).max() <= reading.off_hu
    origins = volume.grid.slice_origins_xyz_mm[kept]
    moved_mm = np.abs(series.grid.slice_origins_xyz_mm - origins).max()
    assert moved_mm <= (0.0501 if name == "rounded-positions" else 1e-6)


@pytest.mark.parametrize(
    ("names", "off_hu"),
    [
        (("enhanced", "jpeg-2000", "signed", "rounded-positions"), 0.0),
        (("enhanced", "rescale-per-slice", "big-endian"), 0.03),
        (("enhanced", "eight-bit"), 5.0),
        (("jpeg-lossless", "twelve-bit", "monochrome1"), 0.0),
        (("jpeg-2000", "eight-bit"), 5.0),
        (("jpeg-2000", "twelve-bit"), 0.0),
        (("rle", "intercept-8478", "uid-names"), 0.0),
        (("big-endian", "eight-bit"), 5.0),
        (("implicit-vr", "exponent-notation", "rounded-positions", "no-extension"), 0.0),
        (("undeclared-charset", "implicit-vr", "private-tags"), 0.0),
    ],
)
def test_quirks_together(names: tuple[str, ...], off_hu: float, volume: Volume, tmp_path: Path):
    """The order of the names does not matter."""
    for k, ordered in enumerate((names, names[::-1])):
        series = assemble(read_headers(write(volume, ordered, tmp_path / f"ct{k}")))
        assert np.abs(read_volume(series).hu_zyx - volume.hu_zyx).max() <= off_hu


def test_an_unknown_quirk_is_refused_with_a_suggestion():
    """The message names a similar quirk."""
    with pytest.raises(ConfigWrong, match="quirk 'jpeg2000' is unknown; did you mean jpeg-2000"):
        choose(["jpeg2000"])


def test_quirks_that_change_the_same_thing_exclude_each_other():
    """The message names both quirks and what they change."""
    with pytest.raises(ConfigWrong, match="signed and eight-bit both change the stored values"):
        choose(["eight-bit", "signed"])


def test_an_image_that_gdcm_can_not_compress_is_refused(volume: Volume, tmp_path: Path):
    """8 bits with odd rows and odd columns; an even number of columns works."""
    with pytest.raises(ConfigWrong, match="15 x 17 pixels of 8 bits can't be compressed"):
        write(volume, ("jpeg-lossless", "eight-bit"), tmp_path / "odd")
    even = Volume(
        volume.hu_zyx[:, :, 1:].copy(),
        axial_grid((24, 15, 16), SpacingMm(0.3, 0.2, 0.1), ORIGIN),
    )
    paths = write(even, ("jpeg-lossless", "eight-bit"), tmp_path / "even")
    stored = read_volume(assemble(read_headers(paths))).hu_zyx
    assert np.abs(stored - even.hu_zyx).max() <= 5.0


def test_a_gap_needs_slices(volume: Volume, tmp_path: Path):
    """Five slices are too few for a gap of two."""
    few = Volume(volume.hu_zyx[:5], axial_grid((5, 15, 17), SpacingMm(0.3, 0.2, 0.1), ORIGIN))
    with pytest.raises(ConfigWrong, match="5 slices: a gap of 2 needs 6"):
        write(few, ("gap",), tmp_path / "ct")
