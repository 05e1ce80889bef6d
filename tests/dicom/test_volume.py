import subprocess
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
import SimpleITK
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
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

from limn.dicom.ct import CtIdentity
from limn.dicom.series import assemble
from limn.dicom.volume import TRANSFER_SYNTAXES, read_headers, read_volume
from limn.domain.errors import RefusedSeries
from limn.domain.geometry import Grid, SpacingMm, axial_grid
from limn.domain.scan import Volume
from tests.conftest import require_peer, write_series

IDENTITY = CtIdentity("M1", "2.25.6", ("20260101", "120000"))
SLOPE, INTERCEPT = 2.0, -1000.0
# Largest deviation in stored values, which the encoders below are given.
NEAR = 2
PIXELS = {"unsigned 16": ("<u2", 0, 4095, 12), "signed 16": ("<i2", -2000, 2000, 16),
          "full 16": ("<u2", 0, 65535, 16), "8 bit": ("u1", 0, 255, 8)}  # fmt: skip


def read(paths) -> Volume:
    """The volume of the files."""
    return read_volume(assemble(read_headers(list(paths))))


@pytest.mark.parametrize(
    "iop",
    [(1, 0, 0, 0, 1, 0), (-1, 0, 0, 0, -1, 0), (-1, 0, 0, 0, 1, 0), (1, 0, 0, 0, 0, -1),
     (0, 1, 0, 0, 0, -1)],
)  # fmt: skip
def test_a_volume_is_what_simpleitk_reads(tmp_path, iop):
    """HU and every voxel's place are those of SimpleITK's series reader, in any orientation."""
    x, y = np.array(iop[:3], float), np.array(iop[3:], float)
    origins = np.array([1.5, -2.5, 40.0]) + np.outer(np.arange(4) * 0.3, np.cross(x, y))
    grid = Grid(origins, 6, 9, 0.25, 0.125, x, y)
    hu = np.random.default_rng(1).integers(-1000, 3000, grid.shape_zyx).astype(np.float32)
    paths = write_series(Volume(hu, grid), tmp_path, IDENTITY)
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path)))
    image = reader.Execute()
    volume = read(reversed(paths))
    np.testing.assert_array_equal(volume.hu_zyx, SimpleITK.GetArrayFromImage(image))
    for k, row, column in ((0, 0, 0), (3, 5, 8), (1, 4, 2)):
        np.testing.assert_allclose(
            volume.grid.plane_points_xyz_mm(k, np.array([[row, column]], float))[0],
            image.TransformIndexToPhysicalPoint((column, row, k)),
            atol=1e-5,
        )


def stored(kind: str) -> np.ndarray:
    """Three slices of stored values, smooth with an edge and both extremes of their range."""
    dtype, low, high, _ = PIXELS[kind]
    z, y, x = np.indices((3, 24, 33))
    wave = np.sin(y / 5.0 + z) * np.cos(x / 7.0) * 0.4 + 0.5
    values = (low + (high - low) * np.where(x > 20, wave, 1 - wave)).astype(dtype)
    values[:, 0, 0], values[:, 0, 1] = low, high
    return values


def write_plain(kind: str, folder: Path) -> list[Path]:
    """An uncompressed series of the kind."""
    dtype, _, _, bits = PIXELS[kind]
    values = stored(kind)
    grid = axial_grid(values.shape, SpacingMm(0.3, 0.2, 0.2), np.zeros(3))
    paths = write_series(Volume(np.zeros(values.shape, np.float32), grid), folder, IDENTITY)
    for path, pixels in zip(paths, values, strict=True):
        ds = pydicom.dcmread(path)
        ds.BitsAllocated = 8 * np.dtype(dtype).itemsize
        ds.BitsStored, ds.HighBit = bits, bits - 1
        ds.PixelRepresentation = int(np.dtype(dtype).kind == "i")
        ds.RescaleSlope, ds.RescaleIntercept = SLOPE, INTERCEPT
        ds.PixelData = pixels.tobytes()
        ds["PixelData"].VR = "OB" if ds.BitsAllocated == 8 else "OW"
        ds.save_as(path)
    return paths


def by_program(*command: str):
    """Encode with a program of dcmtk."""

    def encode(source: Path, target: Path, syntax: UID) -> None:
        program = require_peer(f"/usr/bin/{command[0]}")
        subprocess.run([program, *command[1:], source, target], check=True)
        assert pydicom.dcmread(target).file_meta.TransferSyntaxUID == syntax

    return encode


def by_openjpeg(reversible: bool):
    """Encode with OpenJPEG."""

    def encode(source: Path, target: Path, syntax: UID) -> None:
        ds = pydicom.dcmread(source)
        # A signal-to-noise ratio of 120 dB: off by at most 2 in the pixels of this test.
        level = None if reversible else 120
        code = imagecodecs.jpeg2k_encode(
            ds.pixel_array,
            level,
            codecformat="j2k",
            reversible=reversible,
            bitspersample=ds.BitsStored,
        )
        ds.PixelData = encapsulate([code])
        ds["PixelData"].VR = "OB"
        ds["PixelData"].is_undefined_length = True
        ds.file_meta.TransferSyntaxUID = syntax
        ds.save_as(target)

    return encode


def by_turbojpeg(source: Path, target: Path, syntax: UID) -> None:
    """Encode with libjpeg-turbo at its best quality, in 8 or 12 bits."""
    ds = pydicom.dcmread(source)
    code = imagecodecs.jpeg8_encode(ds.pixel_array, 100, bitspersample=ds.BitsStored)
    ds.PixelData = encapsulate([code])
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    ds.file_meta.TransferSyntaxUID = syntax
    ds.save_as(target)


ENCODERS = {
    ExplicitVRLittleEndian: by_program("dcmconv", "+te"),
    ImplicitVRLittleEndian: by_program("dcmconv", "+ti"),
    ExplicitVRBigEndian: by_program("dcmconv", "+tb"),
    DeflatedExplicitVRLittleEndian: by_program("dcmconv", "+td"),
    JPEGLossless: by_program("dcmcjpeg", "+el", "+sv", "6"),
    JPEGLosslessSV1: by_program("dcmcjpeg", "+e1"),
    JPEGLSLossless: by_program("dcmcjpls", "+el"),
    JPEGLSNearLossless: by_program("dcmcjpls", "+en", "+md", str(NEAR)),
    JPEG2000Lossless: by_openjpeg(reversible=True),
    JPEG2000: by_openjpeg(reversible=False),
    RLELossless: by_program("dcmcrle"),
    JPEGBaseline8Bit: by_turbojpeg,
    JPEGExtended12Bit: by_turbojpeg,
}
LOSSY = (JPEGLSNearLossless, JPEG2000, JPEGBaseline8Bit, JPEGExtended12Bit)
# What a syntax can't hold: dcmtk refuses to write signed pixels as near-lossless JPEG-LS.
UNFIT = {
    JPEGLSNearLossless: ("signed 16",),
    JPEGBaseline8Bit: ("unsigned 16", "signed 16", "full 16"),
    JPEGExtended12Bit: ("signed 16", "full 16", "8 bit"),
}


def test_every_offered_syntax_is_tried_here():
    """The tests below encode every transfer syntax that the node offers."""
    assert set(ENCODERS) == set(TRANSFER_SYNTAXES)


CASES = [
    pytest.param(syntax, kind, id=f"{syntax.name}-{kind}".replace(" ", "-"))
    for syntax in ENCODERS
    for kind in PIXELS
    if kind not in UNFIT.get(syntax, ())
]


@pytest.mark.parametrize(("syntax", "kind"), CASES)
def test_every_offered_syntax_decodes_to_the_same_hu(tmp_path, syntax, kind):
    """HU are those of the uncompressed series; lossy ones within what their encoder promised."""
    plain = write_plain(kind, tmp_path / "plain")
    encoded = [tmp_path / path.name for path in plain]
    for source, target in zip(plain, encoded, strict=True):
        ENCODERS[syntax](source, target, syntax)
    wanted = stored(kind).astype(np.float64) * SLOPE + INTERCEPT
    np.testing.assert_array_equal(read(plain).hu_zyx, wanted)
    found = read(encoded).hu_zyx
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, rtol=0, atol=NEAR * SLOPE if syntax in LOSSY else 0)


@pytest.mark.parametrize(("slope", "intercept"), [("0.5", "-24"), ("1.25", "8478"), ("1", "0.5")])
def test_rescale_is_applied_in_full_precision(tmp_path, slope, intercept):
    """Fractional slopes and intercepts are neither rounded nor cut, plain or compressed."""
    plain = write_plain("unsigned 16", tmp_path / "plain")
    encoded = [tmp_path / path.name for path in plain]
    for source, target in zip(plain, encoded, strict=True):
        ds = pydicom.dcmread(source)
        ds.RescaleSlope, ds.RescaleIntercept = slope, intercept
        ds.save_as(source)
        ENCODERS[JPEGLSLossless](source, target, JPEGLSLossless)
    wanted = stored("unsigned 16") * float(slope) + float(intercept)
    np.testing.assert_allclose(read(plain).hu_zyx, wanted, atol=1e-3)
    np.testing.assert_allclose(read(encoded).hu_zyx, wanted, atol=1e-3)


def test_slices_may_differ_in_their_rescale(tmp_path):
    """Every slice is rescaled by its own slope."""
    paths = write_plain("unsigned 16", tmp_path)
    ds = pydicom.dcmread(paths[1])
    ds.RescaleSlope = 3.0
    ds.save_as(paths[1])
    wanted = stored("unsigned 16") * np.array([SLOPE, 3.0, SLOPE])[:, None, None] + INTERCEPT
    np.testing.assert_array_equal(read(paths).hu_zyx, wanted)


def test_a_syntax_that_is_not_offered_is_refused(tmp_path):
    """High-throughput JPEG 2000 is not decoded; the refusal names the syntax."""
    paths = write_plain("unsigned 16", tmp_path)
    ds = pydicom.dcmread(paths[1])
    ds.file_meta.TransferSyntaxUID = HTJ2KLossless
    ds.PixelData = encapsulate([b"\xff\x4f\xff\xd9"])
    ds["PixelData"].is_undefined_length = True
    ds.save_as(paths[1])
    with pytest.raises(RefusedSeries, match=rf"TransferSyntaxUID {HTJ2KLossless} can't"):
        read(paths)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, JPEGLSLossless, JPEG2000Lossless])
def test_broken_pixels_are_refused(tmp_path, syntax):
    """A slice whose pixel data is cut short is named, never filled up."""
    plain = write_plain("unsigned 16", tmp_path / "plain")
    paths = [tmp_path / path.name for path in plain]
    for source, target in zip(plain, paths, strict=True):
        ENCODERS[syntax](source, target, syntax)
    ds = pydicom.dcmread(paths[2])
    if syntax is ExplicitVRLittleEndian:
        ds.PixelData = ds.PixelData[:200]
    else:
        ds.PixelData = encapsulate([b"\xff\xd8 not an image"])
        ds["PixelData"].is_undefined_length = True
    ds.save_as(paths[2])
    with pytest.raises(
        RefusedSeries, match=rf"PixelData of .*{ds.SOPInstanceUID} can't be decoded"
    ):
        read(paths)


def test_a_file_that_is_not_dicom_is_refused(tmp_path):
    """A text file among the slices is named."""
    paths = write_plain("unsigned 16", tmp_path)
    (tmp_path / "notes.txt").write_text("mouse 7 slept well")
    with pytest.raises(RefusedSeries, match=r"notes\.txt is not a readable DICOM file"):
        read_headers([*paths, tmp_path / "notes.txt"])


def test_headers_are_read_without_pixels(tmp_path):
    """Reading headers leaves the pixels on disk."""
    for instance in read_headers(write_plain("8 bit", tmp_path)):
        assert "PixelData" not in instance.header
