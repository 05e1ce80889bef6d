"""Small files that claim or inflate to more than the limits."""

import struct
import zlib

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLSLossless,
    RLELossless,
)

from limn.dicom import bounded
from limn.dicom.bounded import PIXEL_DATA, Overlarge, check_promise, coded_size, pixel_bytes, read
from limn.dicom.instance import Unreadable, inspect
from limn.dicom.series import assemble
from limn.dicom.volume import read_headers, read_volume
from limn.domain.errors import RefusedSeries
from tests.support.node.parts import encoded, slices, write_slices


def body_of(whole: bytes) -> int:
    """Where the data set begins: past the file meta, whose length is its first element."""
    return 144 + int.from_bytes(whole[140:144], "little")


def deflated(ds: Dataset, body: bytes) -> bytes:
    """A file whose data set is these bytes, deflated."""
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    whole = encoded(ds)
    start = body_of(whole)
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return whole[:start] + packer.compress(body) + packer.flush()


def nested(depth: int) -> bytes:
    """Sequences of undefined length within each other, Explicit VR Little Endian."""
    opened = struct.pack("<HH2sHL", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF)
    item = struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
    return (opened + item) * depth


def test_a_deflated_slice_reads_as_it_was():
    """Tags, character set and pixels."""
    ds = slices()[0]
    ds.SpecificCharacterSet, ds.PatientID = "ISO_IR 192", "Mäuschen"
    plain = read(encoded(ds))
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    found = read(encoded(ds))
    assert found == plain
    assert found.PatientID == "Mäuschen"
    assert (found.pixel_array == plain.pixel_array).all()
    assert found.file_meta.TransferSyntaxUID == DeflatedExplicitVRLittleEndian
    header = read(encoded(ds), stop_before_pixels=True)
    assert "PixelData" not in header
    assert header.Rows == ds.Rows


def test_a_zip_bomb_is_measured_before_it_is_unpacked(monkeypatch):
    """A file that inflates a thousandfold is refused, with memory for the limit at most."""
    monkeypatch.setattr(bounded, "MAX_INFLATED_BYTES", 2**22)
    bomb = deflated(slices()[0], bytes(2**26))
    assert len(bomb) < 2**17
    with pytest.raises(Overlarge, match="more than 4194304 bytes"):
        read(bomb)
    # Counted first: zeros are elements of tag 0.
    with pytest.raises(Unreadable, match="more than 33024 elements"):
        inspect(bomb)


def test_a_swarm_of_elements_is_ended(monkeypatch):
    """Elements are counted: each has eight bytes in the file and five hundred in memory."""
    monkeypatch.setattr(bounded, "MAX_READS", 10_000)
    swarm = b"".join(
        struct.pack("<HH2sH", 0x0009 + 2 * (k // 60000), k % 60000, b"LO", 0) for k in range(20_000)
    )
    ds = slices()[0]
    whole = encoded(ds)
    start = body_of(whole)
    for contents in (whole[:start] + swarm + whole[start:], deflated(slices()[0], swarm)):
        with pytest.raises(Unreadable, match="more elements than fit"):
            inspect(contents)


@pytest.mark.parametrize("depth", [200, 5000, 200_000])
def test_deep_nesting_is_refused_and_no_more(depth):
    """Sequences deeper than the interpreter allows give 0xC000 and no dead thread."""
    ds = slices()[0]
    whole = encoded(ds)
    start = body_of(whole)
    with pytest.raises(Unreadable):
        inspect(whole[:start] + nested(depth))


def test_a_header_larger_than_its_pixels_deserve_is_refused(monkeypatch):
    """Every slice's header is kept while a scan is contoured."""
    monkeypatch.setattr(bounded, "MAX_HEADER_BYTES", 0)
    ds = slices()[0]
    assert inspect(encoded(ds))
    ds.add_new(0x00091010, "LO", "X")
    ds.add_new(0x00091011, "OB", bytes(2**17))
    with pytest.raises(Unreadable, match="bytes beside PixelData"):
        inspect(encoded(ds))


@pytest.mark.parametrize(
    "promise",
    [
        {"Rows": 65535, "Columns": 65535},
        {"NumberOfFrames": 2**31 - 1},
        {"NumberOfFrames": -1},
        {"Rows": 4096, "Columns": 4096, "NumberOfFrames": 129},
    ],
)
def test_a_promise_beyond_any_mouse_is_refused_before_decoding(promise, tmp_path):
    """The receiver and the worker both check the size that a compressed header claims."""
    ds = slices()[0]
    ds.compress(RLELossless, generate_instance_uid=False)
    for keyword, value in promise.items():
        setattr(ds, keyword, value)
    with pytest.raises(Overlarge, match="NumberOfFrames"):
        check_promise(ds)
    with pytest.raises(Unreadable, match="Rows"):
        inspect(encoded(ds))


def test_a_worker_does_not_believe_the_headers_of_a_series(tmp_path):
    """`limn contour` reads folders that no receiver has checked."""
    series = slices()
    for ds in series:
        ds.compress(RLELossless, generate_instance_uid=False)
        ds.Rows = ds.Columns = 65535
    found = assemble(read_headers(write_slices(tmp_path, series)))
    with pytest.raises(RefusedSeries, match="voxels can be contoured"):
        read_volume(found)


def code_of(syntax: str, rows: int, columns: int) -> bytes:
    """A codestream of this size, written by another library."""
    imagecodecs = pytest.importorskip("imagecodecs")
    pixels = np.arange(rows * columns, dtype=np.uint16).reshape(rows, columns) % 4000
    if syntax == JPEG2000Lossless:
        return bytes(imagecodecs.jpeg2k_encode(pixels, codecformat="j2k"))
    if syntax == JPEGLSLossless:
        return bytes(imagecodecs.jpegls_encode(pixels))
    return bytes(imagecodecs.ljpeg_encode(pixels, bitspersample=16))


@pytest.mark.parametrize("syntax", [JPEGLossless, JPEGLSLossless, JPEG2000Lossless])
def test_the_size_in_a_codestream_is_read(syntax):
    """JPEG, JPEG-LS and JPEG 2000: rows first."""
    assert coded_size(code_of(syntax, 30, 47)) == (30, 47)


def test_no_box_hides_a_large_codestream():
    """The true size follows ten thousand bytes that contain a smaller one."""
    small, large = (code_of(JPEG2000Lossless, n, n + 1) for n in (6, 60))
    assert coded_size(small[:24] + bytes(10_000) + large) == (60, 61)


def test_rle_names_no_size():
    """Random bytes have none either."""
    assert coded_size(b"\x01\0\0\0" + bytes(100)) is None
    assert coded_size(b"\xff\xd8\xff") is None
    assert coded_size(b"") is None


@pytest.mark.parametrize("syntax", [JPEGLossless, JPEGLSLossless, JPEG2000Lossless])
def test_a_codestream_larger_than_its_header_says_is_not_decoded(tmp_path, syntax):
    """The header says 6 x 8, the codestream 600 x 800: a decoder uses the latter."""
    series = slices()
    for ds in series:
        ds.PixelData = encapsulate([code_of(syntax, 600, 800)])
        ds["PixelData"].VR = "OB"
        ds["PixelData"].is_undefined_length = True
        ds.file_meta.TransferSyntaxUID = syntax
    found = assemble(read_headers(write_slices(tmp_path, series)))
    with pytest.raises(RefusedSeries, match=r"codestream says \(600, 800\), Rows x Col"):
        read_volume(found)


def test_pixels_stay_where_they_are_and_nothing_else(monkeypatch):
    """The length of pixels is known, also in a cut file; another long value is read."""
    monkeypatch.setattr(bounded, "LONG_BYTES", 32)
    ds = slices()[0]
    contents = encoded(ds)
    left = read(contents, leave_pixels=True)
    (pixels,) = (each for each in left.values() if each.tag == PIXEL_DATA)
    assert pixels.value is None
    assert pixel_bytes(left, len(contents)) == len(ds.PixelData)
    assert pixel_bytes(left, len(contents) - 7) == len(ds.PixelData) - 7
    ds.ImageComments = "a mouse " * 20
    assert read(encoded(ds), leave_pixels=True).ImageComments.startswith("a mouse")


def test_compressed_pixels_hide_nothing_behind_them(monkeypatch):
    """Their length is not in the file; bytes after them count as header."""
    monkeypatch.setattr(bounded, "LONG_BYTES", 32)
    monkeypatch.setattr(bounded, "MAX_HEADER_BYTES", 5000)
    monkeypatch.setattr(bounded, "MAX_HEADER_BYTES_PER_FRAME", 0)
    ds = slices()[0]
    ds.compress(RLELossless, generate_instance_uid=False)
    inspect(encoded(ds))
    ds.add_new(0x7FE10010, "LO", "X")
    ds.add_new(0x7FE11011, "OB", bytes(6000))
    with pytest.raises(Unreadable, match="bytes beside PixelData"):
        inspect(encoded(ds))


def test_a_command_set_before_the_data_set_is_passed_over():
    """Some programs write a file as it came over the network."""
    contents = encoded(slices()[0])
    start = body_of(contents)
    command = struct.pack("<HHLL", 0, 0, 4, 0)
    found = read(contents[:start] + command + contents[start:])
    assert found.SOPInstanceUID == read(contents).SOPInstanceUID


def test_an_element_that_announces_four_gigabytes_is_cut_off():
    """A length beyond the end of the file costs no memory."""
    ds = slices()[0]
    whole = encoded(ds)
    start = body_of(whole)
    lying = struct.pack("<HH2sHL", 0x0009, 0x1010, b"OB", 0, 0xFFFFFFF0)
    with pytest.raises(Unreadable):
        inspect(whole[:start] + lying + whole[start:])
    assert ds.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian


@pytest.mark.parametrize("cut", [1, 2, 4, 7, 8, 9, 100])
def test_a_compressed_image_that_is_cut_off_is_refused(cut):
    """Also where only its delimiter is missing: the whole one must not count as other content."""
    ds = slices()[0]
    ds.compress(RLELossless, generate_instance_uid=False)
    contents = encoded(ds)
    assert inspect(contents).sop_instance_uid == ds.SOPInstanceUID
    with pytest.raises(Unreadable, match="the compressed image is cut off"):
        inspect(contents[:-cut])


def test_elements_after_a_compressed_image_are_no_cut():
    """Trailing padding, for one."""
    ds = slices()[0]
    ds.compress(RLELossless, generate_instance_uid=False)
    ds.DataSetTrailingPadding = b"\0" * 100
    assert inspect(encoded(ds)).sop_instance_uid == ds.SOPInstanceUID
