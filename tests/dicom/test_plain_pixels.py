"""Plain files are read without pydicom, to the same bits; any other is pydicom's."""

import numpy as np
import pydicom
import pytest
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from limn.dicom import volume
from limn.dicom.ct import CtIdentity
from limn.dicom.series import assemble
from limn.dicom.volume import read_headers, read_volume
from limn.domain.errors import RefusedSeries
from limn.domain.geometry import SpacingMm, axial_grid
from limn.domain.scan import Volume
from tests.conftest import write_series

IDENTITY = CtIdentity("M1", "2.25.7", ("20260101", "120000"))
# Odd numbers of rows and columns: 8-bit pixels need a byte of padding then.
SHAPE = (3, 7, 9)
# No value is so low or so high that it would be padding.
SLOPE = 0.05


def write(folder, kind="<u2", stored_bits=16, syntax=ExplicitVRLittleEndian, vr="OW"):
    """A series whose pixels hold every bit, beyond BitsStored too."""
    dtype = np.dtype(kind)
    bits = 8 * dtype.itemsize
    grid = axial_grid(SHAPE, SpacingMm(0.3, 0.2, 0.2), np.zeros(3))
    paths = write_series(Volume(np.zeros(SHAPE, np.float32), grid), folder, IDENTITY)
    random = np.random.default_rng(4)
    for path in paths:
        ds = pydicom.dcmread(path)
        ds.BitsAllocated, ds.BitsStored = bits, min(stored_bits, bits)
        ds.HighBit = ds.BitsStored - 1
        ds.PixelRepresentation = int(dtype.kind == "i")
        pixels = random.bytes(SHAPE[1] * SHAPE[2] * dtype.itemsize)
        ds.PixelData = pixels + b"\0" * (len(pixels) % 2)
        ds["PixelData"].VR = vr
        ds.RescaleSlope, ds.RescaleIntercept = SLOPE, 0
        written = pydicom.Dataset(ds)
        written.file_meta = ds.file_meta
        written.file_meta.TransferSyntaxUID = syntax
        written.save_as(path, enforce_file_format=True)
    return paths


def read(paths):
    """HU of the files."""
    return read_volume(assemble(read_headers(paths))).hu_zyx


def by_pydicom(paths):
    """What pydicom makes of each pixel of the files, with the rescale of `write`."""
    stored = np.array([pydicom.dcmread(path).pixel_array for path in paths])
    return (stored * SLOPE).astype(np.float32)


@pytest.fixture
def read_by_pydicom(monkeypatch):
    """The files whose pixels limn had pydicom read."""
    asked = []

    def read_whole(path):
        asked.append(path)
        return whole(path)

    whole = volume.read
    monkeypatch.setattr(volume, "read", read_whole)
    return asked


@pytest.mark.parametrize("stored_bits", [16, 12, 7, 1])
@pytest.mark.parametrize("kind", ["<u2", "<i2", "u1", "i1"])
@pytest.mark.parametrize(
    ("syntax", "vr"),
    [
        (ExplicitVRLittleEndian, "OW"),
        (ExplicitVRLittleEndian, "OB"),
        (ImplicitVRLittleEndian, "OW"),
    ],
)
def test_plain_pixels_are_those_of_pydicom(
    tmp_path, read_by_pydicom, kind, stored_bits, syntax, vr
):
    """Every kind of pixel, with anything in the unused bits, and no file goes through pydicom."""
    paths = write(tmp_path, kind, stored_bits, syntax, vr)
    np.testing.assert_array_equal(read(paths), by_pydicom(paths))
    assert read_by_pydicom == []


def change_header(ds):
    """Pixels as another kind of image, which pydicom accepts in its own way."""
    ds.PhotometricInterpretation = "PALETTE COLOR"


def add_after_pixels(ds):
    """An element after the pixels."""
    ds.add_new(0xFFFCFFFC, "OB", b"\0" * 64)


def say_one_frame(ds):
    """A single frame that says so."""
    ds.NumberOfFrames = 1


@pytest.mark.parametrize(
    ("change", "asked"), [(change_header, 1), (add_after_pixels, 1), (say_one_frame, 0)]
)
def test_what_is_not_plain_goes_through_pydicom(tmp_path, read_by_pydicom, change, asked):
    """The pixels are the same either way."""
    paths = write(tmp_path)
    ds = pydicom.dcmread(paths[1])
    change(ds)
    ds.save_as(paths[1])
    np.testing.assert_array_equal(read(paths), by_pydicom(paths))
    assert read_by_pydicom == paths[1 : 1 + asked]


def test_a_deflated_or_unusual_file_has_no_place_for_its_pixels(tmp_path):
    """Where no position in the file is known, none is used."""
    paths = write(tmp_path)
    plain = [instance.pixels_at for instance in read_headers(paths)]
    assert [path.read_bytes()[at : at + 4] for path, at in zip(paths, plain, strict=True)] == [
        b"\xe0\x7f\x10\0"
    ] * len(paths)
    ds = pydicom.dcmread(paths[0])
    ds.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    ds.save_as(paths[0])
    assert read_headers(paths)[0].pixels_at is None


@pytest.mark.parametrize("bytes_lost", [1, 2, 50])
def test_a_file_that_was_cut_off_is_refused(tmp_path, bytes_lost):
    """It is named, and never filled up."""
    paths = write(tmp_path)
    contents = paths[1].read_bytes()
    paths[1].write_bytes(contents[:-bytes_lost])
    with pytest.raises(RefusedSeries, match=r"PixelData of .* can't be decoded"):
        read(paths)
