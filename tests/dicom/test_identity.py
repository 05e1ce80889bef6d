"""What names an animal stays as its sender wrote it."""

import re
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.charset import convert_encodings
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag

from limn.dicom import rtstruct
from limn.dicom.identity import animal_of
from limn.dicom.instance import Unreadable, inspect
from limn.dicom.series import Series, assemble
from limn.dicom.volume import read_headers
from limn.domain.errors import RefusedSeries
from limn.domain.geometry import SpacingMm, axial_grid
from limn.domain.scan import Contour, Volume
from tests.conftest import COLOURS, write_series
from tests.dicom.test_rtstruct import CT, IDENTITY
from tests.support.organs import Organ

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning")

STYLE = rtstruct.Style.of_organs(Organ, "Mus musculus", colours=COLOURS)
SHAPE = (4, 6, 8)
# Stands in the file where the bytes of a test go.
PLACE = "@@@@@@@@"


def series_with(folder: Path, value: bytes, character_set: str | None, keyword: str) -> list[Path]:
    """A series whose every file has these bytes as the value of a keyword."""
    assert len(value) == len(PLACE)
    grid = axial_grid(SHAPE, SpacingMm(0.2, 0.2, 0.1), np.zeros(3))
    paths = write_series(Volume(np.zeros(SHAPE, np.float32), grid), folder, CT)
    for path in paths:
        ds = pydicom.dcmread(path)
        if keyword == "CodeMeaning":
            item = Dataset()
            item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "1", "SCT", PLACE
            ds.PatientSpeciesCodeSequence = Sequence([item])
        else:
            # Of any VR; pydicom takes no such number.
            ds[keyword] = DataElement(Tag(keyword), "LO", PLACE)
        if character_set is None:
            del ds.SpecificCharacterSet
        else:
            ds.SpecificCharacterSet = character_set
        ds.save_as(path)
        path.write_bytes(path.read_bytes().replace(PLACE.encode(), value))
    return paths


def structure_set_of(series: Series) -> bytes:
    """A structure set of one contour."""
    corners = np.array([[0.0, 0.0], [0.0, 3.0], [3.0, 0.0]])
    contour = Contour(Organ.HEART, 1, series.grid.plane_points_xyz_mm(1, corners))
    return rtstruct.build(series, [contour], {Organ.HEART: 1.0}, IDENTITY, STYLE)


@pytest.mark.parametrize(
    "keyword", ["PatientID", "PatientName", "StudyID", "CodeMeaning", "PatientComments"]
)
@pytest.mark.parametrize(
    ("value", "character_set"),
    [
        (b"M\xfcller-7", "ISO_IR 192"),
        (b"M\xfcller-7", "GB18030"),
        (b"M\xfcller-7", None),
        (b"M\x81\xff\xfe er7", "ISO 2022 IR 87"),
        (b"M\xc3\xbcller7", "ISO_IR 100"),
        (b"M\xc3\xbcller7", "no such set"),
        (b" M  1 \0\0", "ISO_IR 192"),
    ],
)
def test_the_structure_set_has_the_bytes_of_the_ct(tmp_path, value, character_set, keyword):
    """Whatever the declared character set says: another name is another animal."""
    series = assemble(read_headers(series_with(tmp_path, value, character_set, keyword)))
    ds = pydicom.dcmread(pydicom.filebase.DicomBytesIO(structure_set_of(series)))
    if keyword == "CodeMeaning":
        ds = ds.PatientSpeciesCodeSequence[0]
    assert ds.get_item(keyword).value == value
    assert pydicom.dcmread(series.slices[0].path).get("SpecificCharacterSet") == ds.get(
        "SpecificCharacterSet", character_set
    )


@pytest.mark.parametrize(
    ("value", "character_set", "shown"),
    [
        (b"M\xfcller-7", "ISO_IR 192", r"M\xfcller-7"),
        (b"M\xfcller-7", "ISO_IR 100", "Müller-7"),
        (b"M\xc3\xbcller7", "ISO_IR 192", "Müller7"),
        (b"M1\nERROR", "ISO_IR 100", r"M1\x0aERROR"),
        (b"M1\\M2   ", "ISO_IR 100", r"M1\x5cM2"),
        (b"M\xc2\xa01    ", "ISO_IR 192", r"M\u00a01"),
        (b"M\xa01     ", "ISO_IR 192", r"M\xa01"),
        (b"M\x1b$B;3  ", "ISO_IR 100", r"M\x1b$B;3"),
        (b"M\x1b$B;3\x1b(", "ISO_IR 100", r"M\x1b$B;3\x1b("),
        (b"\x1b$B;3\x1b(B", "\\ISO 2022 IR 87", "山"),
    ],
)
def test_journal_and_log_show_each_byte(tmp_path, value, character_set, shown):
    """An undecodable byte is escaped, so the name stays one line and no other animal's."""
    path = series_with(tmp_path, value, character_set, "PatientID")[0]
    assert inspect(path.read_bytes()).animal == shown
    assert animal_of(pydicom.dcmread(path)) == shown
    assert assemble(read_headers(sorted(tmp_path.iterdir()))).animal == shown


def test_two_names_that_both_fail_to_decode_stay_two_animals(tmp_path):
    """Both would read as the same replacement character."""
    paths = series_with(tmp_path, b"M\xfcller-7", "ISO_IR 192", "PatientID")
    paths[2].write_bytes(paths[2].read_bytes().replace(b"M\xfcller-7", b"M\xf6ller-7"))
    with pytest.raises(RefusedSeries, match=r"PatientID differs .*M\\xfcller-7, but M\\xf6ller-7"):
        assemble(read_headers(paths))


SETS = (
    *(None, "ISO_IR 100", "ISO_IR 192", "GB18030", "ISO_IR 13", "ISO 2022 IR 87"),
    *(["", "ISO 2022 IR 87"], ["", "ISO 2022 IR 149"], ["ISO 2022 IR 100", "ISO 2022 IR 87"]),
)
PIECES = [
    *(
        b"M",
        b"1",
        b"\xa0",
        b"\xc2\xa0",
        b"\xfc",
        b"\xc3\xbc",
        b"xa0",
        b"\\",
        b"\x1b$B;3",
        b"\x1b(B",
    ),
    *(b"\x1bQ", b"\xf3\xa0\x80\x81", b"\xee\x80\x80", b"\x1b$)C", b"\x85", b"\n", b"u00a0", b"u3"),
]


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=5).map(b"".join), st.sampled_from(SETS))
def test_a_shown_name_says_what_the_bytes_are(value, character_set):
    """Read back it gives the text, or the bytes where the declared set can't decode them."""
    ds = Dataset()
    ds.SpecificCharacterSet = character_set
    tag = Tag("PatientID")
    ds[tag] = RawDataElement(tag, "LO", len(value), value, 0, False, True)
    shown = animal_of(ds)
    assert shown.isprintable()
    escapes = r"\\x(..)|\\u(....)|\\U(.{8})"
    text = re.sub(escapes, lambda found: chr(int(next(filter(None, found.groups())), 16)), shown)
    # Only a name that could not be decoded has an escaped byte beyond ASCII, or an escape sequence.
    if re.search(r"\\x[89a-f]|\\x1b", shown):
        assert text.encode("latin-1") == value.rstrip(b"\0 ")
    elif b"\x1b" not in value:
        encoding = convert_encodings(character_set)[0]
        assert value.decode(encoding).rstrip("\0 ") == text


def test_two_names_that_are_too_long_stay_two_however_they_are_encoded() -> None:
    """Latin-1 bytes that are no UTF-8, and the same letters as UTF-8."""
    names = set()
    tag = Tag("PatientID")
    for value in (b"A" * 70 + "ü".encode(), b"A" * 70 + b"\xfc"):
        ds = Dataset()
        ds.SpecificCharacterSet = "ISO_IR 192"
        ds[tag] = RawDataElement(tag, "LO", len(value), value, 0, False, True)
        names.add(animal_of(ds))
    assert len(names) == 2


def test_uids_with_leading_zeros_are_copied(tmp_path):
    """Whole scanners write them; planning systems compare texts."""
    grid = axial_grid(SHAPE, SpacingMm(0.2, 0.2, 0.1), np.zeros(3))
    paths = write_series(Volume(np.zeros(SHAPE, np.float32), grid), tmp_path, CT)
    for k, path in enumerate(paths):
        ds = pydicom.dcmread(path)
        ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.003.04", "1.2.003.05"
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"1.2.003.05.{k:03}"
        ds.FrameOfReferenceUID = "1.2.003.06"
        ds.save_as(path)
    seen = inspect(paths[1].read_bytes())
    assert (seen.series_instance_uid, seen.sop_instance_uid) == ("1.2.003.05", "1.2.003.05.001")
    ds = rtstruct.read(structure_set_of(assemble(read_headers(paths))))
    frame = ds.ReferencedFrameOfReferenceSequence[0]
    study = frame.RTReferencedStudySequence[0]
    assert (ds.StudyInstanceUID, ds.FrameOfReferenceUID) == ("1.2.003.04", "1.2.003.06")
    assert study.RTReferencedSeriesSequence[0].SeriesInstanceUID == "1.2.003.05"
    assert rtstruct.reference_of(ds.ROIContourSequence[0].ContourSequence[0]) == (
        "1.2.003.05.001",
        None,
    )


@pytest.mark.parametrize("uid", ["1.2..3", "1.2.3.", "7", "1.2.x", "1." * 32 + "1", "../../etc"])
def test_what_is_no_uid_is_refused_by_its_value(tmp_path, uid):
    """A UID names things on the disk and in the journal."""
    path = series_with(tmp_path, b"M1      ", "ISO_IR 192", "PatientID")[0]
    ds = pydicom.dcmread(path)
    ds.SeriesInstanceUID = uid
    ds.save_as(path)
    with pytest.raises(Unreadable, match=r"SeriesInstanceUID .* is not a valid UID"):
        inspect(path.read_bytes())


@pytest.mark.parametrize("text", [b"\xb2       ", b"none    ", b"1e3     ", b"-1      "])
def test_a_series_number_that_is_none_keeps_no_scan_back(tmp_path, text):
    """A superscript two is a digit to Python, but no number."""
    paths = series_with(tmp_path, text, "ISO_IR 100", "SeriesNumber")
    series = assemble(read_headers(paths))
    ds = pydicom.dcmread(pydicom.filebase.DicomBytesIO(structure_set_of(series)))
    assert ds.SeriesNumber == 9000


def test_two_names_that_are_too_long_stay_two() -> None:
    """Longer than DICOM allows, and different only after that."""
    names = []
    for end in ("left", "right"):
        ds = Dataset()
        ds.PatientID = f"{'A' * 70}-{end}"
        names.append(animal_of(ds))
    assert names[0] != names[1]
    assert all(len(name) == 64 and name.startswith("A" * 50) for name in names)
