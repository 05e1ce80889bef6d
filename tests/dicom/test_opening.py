"""Files without preamble or file meta, and folders whose every file has one fault."""

import io
import struct
from pathlib import Path

import pydicom
import pytest
from pydicom.filewriter import dcmwrite
from pydicom.uid import ImplicitVRLittleEndian
from rich.console import Console

from limn.dicom.folder import one_series
from limn.dicom.instance import Unreadable, inspect
from limn.dicom.series import assemble
from limn.dicom.volume import read_headers, read_volume
from limn.domain.errors import RefusedSeries
from limn.node.batch.find_series import find_series, read_series
from tests.support.node.parts import encoded, slices


def bare(ds: pydicom.Dataset, *, implicit: bool = False, little: bool = True) -> bytes:
    """The data set alone."""
    file = io.BytesIO()
    copy = pydicom.Dataset(ds)
    if not little:
        del copy.PixelData
    dcmwrite(file, copy, implicit_vr=implicit, little_endian=little)
    return file.getvalue()


def as_implicit(ds: pydicom.Dataset) -> bytes:
    """The data set alone, in implicit VR."""
    return bare(ds, implicit=True)


def without_preamble(ds: pydicom.Dataset) -> bytes:
    """File meta and data set, without 128 bytes and DICM."""
    return encoded(ds)[132:]


def dicm_alone(ds: pydicom.Dataset) -> bytes:
    """The preamble was cut off before DICM."""
    return encoded(ds)[128:]


def without_meta(ds: pydicom.Dataset) -> bytes:
    """Preamble and DICM, then the data set at once."""
    return b"\0" * 128 + b"DICM" + bare(ds)


OPENINGS = [bare, as_implicit, without_preamble, dicm_alone, without_meta]


@pytest.mark.parametrize("opening", OPENINGS)
def test_a_plain_file_without_its_beginning_is_taken(tmp_path, opening):
    """At both doors and by the pipeline: the same instance with the same pixels."""
    for k, ds in enumerate(slices()):
        (tmp_path / f"{k}.dcm").write_bytes(opening(ds))
    whole = inspect(encoded(slices()[0]))
    found = inspect((tmp_path / "0.dcm").read_bytes())
    assert found.sop_instance_uid == whole.sop_instance_uid
    assert found.places == whole.places
    if opening is not as_implicit:
        # A resend with another beginning is the same instance.
        assert found.digest == whole.digest
    volume = read_volume(assemble(one_series(tmp_path, Console(quiet=True))))
    plain = tmp_path / "plain"
    plain.mkdir()
    for k, ds in enumerate(slices()):
        (plain / f"{k}.dcm").write_bytes(encoded(ds))
    expected = read_volume(assemble(read_headers(sorted(plain.iterdir()))))
    assert (volume.hu_zyx == expected.hu_zyx).all()


@pytest.mark.parametrize(
    ("contents", "why"),
    [
        (b"the left mouse is bigger\n" * 40, "not a DICOM file: DICM does not stand after 128"),
        (b"\x08\x00 this only begins like one" * 40, "not a DICOM file: DICM does not stand"),
        (b"\x08\x00", "not a DICOM file: DICM does not stand"),
        (
            struct.pack(">HH2sH", 8, 8, b"CS", 4) + b"A\\B ",
            "not a DICOM file: it has no preamble .* big endian",
        ),
    ],
)
def test_what_is_no_plain_data_set_gets_a_true_reason(contents, why):
    """Text, a chance likeness, two bytes, and big endian."""
    with pytest.raises(Unreadable, match=why):
        inspect(contents)


def test_compressed_pixels_without_file_meta_are_named():
    """They are neither cut off nor damaged."""
    ds = slices()[0]
    pixels = struct.pack("<HH2sHL", 0x7FE0, 0x10, b"OB", 0, 0xFFFFFFFF)
    pixels += struct.pack("<HHL", 0xFFFE, 0xE000, 0) + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    del ds.PixelData
    with pytest.raises(Unreadable, match="PixelData is compressed, but the file declares"):
        inspect(bare(ds) + pixels)


@pytest.mark.parametrize("keyword", ["FloatPixelData", "DoubleFloatPixelData"])
def test_float_pixels_are_named_once(tmp_path, keyword):
    """Neither absent nor cut off; one line for the folder, with the count."""
    for k, ds in enumerate(slices()):
        del ds.PixelData
        setattr(ds, keyword, b"\0" * 384)
        (tmp_path / f"{k}.dcm").write_bytes(encoded(ds))
    said = io.StringIO()
    why = (
        rf"holds no CT image; left out {len(slices())} files, first .*0\.dcm: {keyword} is not read"
    )
    with pytest.raises(RefusedSeries, match=why):
        one_series(tmp_path, Console(file=said, width=1000))
    assert said.getvalue().count("left out") == 1
    (found,) = find_series([tmp_path], Path("/nowhere"), Console(quiet=True))
    with pytest.raises(RefusedSeries, match=rf"{len(slices())} files, first .*{keyword} is not"):
        read_series(found)


def test_slices_that_are_a_series_each_are_counted(tmp_path):
    """Not a UID for each of 120."""
    many = slices(count=120)
    for k, ds in enumerate(many):
        ds.SeriesInstanceUID = f"2.25.4.{k}"
        (tmp_path / f"{k}.dcm").write_bytes(encoded(ds))
    with pytest.raises(RefusedSeries, match="120 series of one file each, one expected: ") as told:
        one_series(tmp_path, Console(quiet=True))
    assert "export it again under one SeriesInstanceUID" in str(told.value)
    assert len(str(told.value)) < 400
    with pytest.raises(RefusedSeries, match="1 slices, at least 3 expected; does the exporter"):
        assemble(read_headers([tmp_path / "0.dcm"]))


def test_implicit_files_of_a_single_frame_stay_implicit(tmp_path):
    """The syntax that was found is the one by which the pixels are read."""
    path = tmp_path / "1.dcm"
    path.write_bytes(as_implicit(slices()[0]))
    (instance,) = read_headers([path])
    assert instance.header.file_meta.TransferSyntaxUID == ImplicitVRLittleEndian
