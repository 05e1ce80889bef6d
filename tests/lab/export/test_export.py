"""Exports for others: no identity of the input is anywhere in the output, and all else is."""

import csv
import json
import re
import shutil
import subprocess
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK
from pydicom import datadict
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from limn.cli import main
from limn.dicom.bounded import read
from limn.domain.errors import ConfigWrong, StageFailed
from limn.lab.data.dataset import import_folder, read_dataset
from limn.lab.export.burnt_in import PixelDoubt
from limn.lab.export.deidentify import (
    NAMED,
    ExportRules,
    Pseudonym,
    contour_bytes,
    deidentified,
    new_uid,
    shifted,
)
from limn.lab.export.export import PAGE, TABLE, export_folder
from limn.lab.export.identities import Identities, is_plain
from limn.lab.export.profile import ACTIONS, Action
from limn.lab.phantoms.synthesize import PhantomRequest, synthesize
from tests.conftest import REPOSITORY, require_peer

LAYOUT = REPOSITORY / "config" / "site-dicom.toml"
# What a site's headers say of a person, an animal, a place; each is looked for in every byte.
SECRETS = {
    "PatientID": "LAB-4711",
    "OtherPatientIDs": "cage77",
    "AccessionNumber": "ACC90210",
    "InstitutionName": "Institute of Murine Studies",
    "InstitutionAddress": "12 Cheese Road",
    "StationName": "BASEMENT3",
    "DeviceSerialNumber": "SN0815X",
    "StudyDescription": "Smithers tumour cohort B",
    "SeriesDescription": "before surgery by Quimby",
    "ImageComments": "bitten by handler Quimby",
    "ProtocolName": "GRANT-EU-1234",
}
PERSONS = {
    "PatientName": "Krusty^Bartholomew",
    "OperatorsName": "Quimby^Joseph",
    "ReferringPhysicianName": "Hibbert^Julius",
    "PerformingPhysicianName": "Riviera^Nick",
}
WORDS = [*SECRETS.values(), "Krusty", "Bartholomew", "Quimby", "Hibbert", "Riviera", "Smithers"]
TIMES = ("20260105", "20260112")


def marked(ds: pydicom.FileDataset, animal: int, day: str) -> pydicom.FileDataset:
    """The file as a careless site would have it."""
    for keyword, value in {**SECRETS, **PERSONS}.items():
        setattr(ds, keyword, value)
    ds.PatientID = f"{SECRETS['PatientID']}-{animal}"
    ds.PatientName = f"{PERSONS['PatientName']}{'abc'[animal]}"
    ds.PatientBirthDate = "20251101"
    for keyword in ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate"):
        setattr(ds, keyword, day)
    ds.AcquisitionDateTime = f"{day}101112.500000+0100"
    ds.StudyTime = "101112"
    block = ds.private_block(0x0029, "MURINE HEADER 1.0", create=True)
    block.add_new(0x10, "LO", "Quimby was here")
    block.add_new(0x11, "UN", b"LAB-4711 raw bytes")
    item = Dataset()
    item.PatientID, item.IssuerOfPatientID = "cage77", "Institute of Murine Studies"
    ds.OtherPatientIDsSequence = Sequence([item])
    ds.add_new((0x6000, 0x4000), "LT", "overlay by Quimby")
    ds.preamble = b"LAB-4711 Krusty".ljust(128, b"\0")
    ds.file_meta.SourceApplicationEntityTitle = "BASEMENT3"
    ds.file_meta.ImplementationVersionName = "Quimby1"
    return ds


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A phantom's series and structure set."""
    folder = tmp_path_factory.mktemp("made")
    synthesize(folder, PhantomRequest(4, 1.2, (28.0, 26.0, 28.0)))
    return folder


@pytest.fixture(scope="module")
def site(made, tmp_path_factory) -> Path:
    """Two animals on two days, as `config/site-dicom.toml` expects them."""
    folder = tmp_path_factory.mktemp("site")
    for animal in range(2):
        for number, day in enumerate(TIMES):
            here = folder / f"Krusty_{animal}" / f"day-{number}"
            (here / "CT").mkdir(parents=True)
            uids: dict[str, str] = {}

            def renewed(
                ds: Dataset, seed: str = f"{animal}.{number}", uids: dict[str, str] = uids
            ) -> None:
                for element in ds.iterall():
                    if element.VR == "UI" and not str(element.value).startswith("1.2.840.10008"):
                        own = f"1.3.6.1.4.1.99999.{seed}.{len(uids) + 1}"
                        element.value = uids.setdefault(str(element.value), own)

            for path in sorted((made / "dicom").iterdir()):
                ds = marked(pydicom.dcmread(path), animal, day)
                renewed(ds)
                ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
                # Every mouse has its own pixels.
                pixels = np.frombuffer(ds.PixelData, np.int16).copy()
                pixels[0] = 10 * animal + number
                ds.PixelData = pixels.tobytes()
                ds.save_as(here / "CT" / path.name)
            ds = marked(pydicom.dcmread(made / "rtstruct.dcm"), animal, day)
            renewed(ds)
            ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
            ds.StructureSetLabel, ds.StructureSetDate = "QuimbyPlan", day
            ds.StructureSetROISequence[0].ROIDescription = "drawn by Quimby"
            ds.RTROIObservationsSequence[0].ROIInterpreter = "Quimby^Joseph"
            ds.save_as(here / "RS.1.dcm")
    return folder


@pytest.fixture(scope="module")
def exported(site, tmp_path_factory) -> Path:
    """What leaves the site, by the command."""
    out = tmp_path_factory.mktemp("leaves") / "export"
    key = out.parent / "key.json"
    assert main.main(["lab", "export", str(site), str(out), "--key", str(key)]) == 0
    return out


def every_uid(folder: Path) -> set[str]:
    """Every UID of the files that is not the standard's."""
    found = set()
    for path in folder.rglob("*.dcm"):
        ds = pydicom.dcmread(path)
        for element in (*ds.iterall(), *ds.file_meta):
            if element.VR == "UI" and not str(element.value).startswith("1.2.840.10008"):
                found.add(str(element.value))
    return found


def test_no_identity_is_in_any_byte_or_name(site, exported):
    """Names, numbers, dates and UIDs of the input, in every file and every path."""
    uids = every_uid(site) - {str(pydicom.uid.PYDICOM_IMPLEMENTATION_UID)}
    assert len(uids) > 100
    for path in exported.rglob("*"):
        assert not [word for word in WORDS if word.lower() in str(path.name).lower()]
        if path.is_dir():
            continue
        contents = path.read_bytes()
        for word in WORDS:
            assert word.encode() not in contents, (path, word)
            assert word.lower().encode() not in contents.lower() or len(word) < 6, (path, word)
        for day in (*TIMES, "20251101"):
            assert day.encode() not in contents, (path, day)
        found = {match.decode() for match in re.findall(rb"[0-9]+(?:\.[0-9]+){3,}", contents)}
        assert not found & uids
        assert b"MURINE" not in contents


def test_contours_pixels_and_geometry_stay_byte_by_byte(site, exported):
    """Coordinates as their bytes stand; the structure set refers to the slices it was drawn on."""
    before = {}
    for path in site.rglob("RS*.dcm"):
        ds = read(path)
        before[b"".join(contour_bytes(ds))] = path
    after = sorted(exported.rglob("RS-*.dcm"))
    assert len(after) == 4
    for path in after:
        ds = read(path)
        assert b"".join(contour_bytes(ds)) in before
        slices = [pydicom.dcmread(own) for own in sorted((path.parent / "CT").iterdir())]
        uids = {own.SOPInstanceUID for own in slices}
        contours = [own for roi in ds.ROIContourSequence for own in roi.ContourSequence]
        named = {own.ContourImageSequence[0].ReferencedSOPInstanceUID for own in contours}
        assert named <= uids
        assert {own.SeriesInstanceUID for own in slices} == {
            ds.ReferencedFrameOfReferenceSequence[0]
            .RTReferencedStudySequence[0]
            .RTReferencedSeriesSequence[0]
            .SeriesInstanceUID
        }
        assert {own.StudyInstanceUID for own in slices} == {ds.StudyInstanceUID}
    originals = {
        pydicom.dcmread(path).PixelData: pydicom.dcmread(path) for path in site.rglob("CT/*")
    }
    for path in exported.rglob("CT/*.dcm"):
        ds = pydicom.dcmread(path)
        own = originals[ds.PixelData]
        for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows"):
            assert ds.get_item(keyword).value == own.get_item(keyword).value


def test_animals_and_intervals_stay(exported):
    """M001 and M002, each with two days a week apart, moved by its own number of days."""
    assert sorted(path.name for path in exported.iterdir() if path.is_dir()) == ["M001", "M002"]
    moved = set()
    for animal in ("M001", "M002"):
        assert sorted(path.name for path in (exported / animal).iterdir()) == ["d000", "d007"]
        dates = []
        for day in ("d000", "d007"):
            ds = pydicom.dcmread(exported / animal / day / "CT" / "0001.dcm")
            assert (ds.PatientName, ds.PatientID) == (animal, animal)
            assert (ds.PatientIdentityRemoved, ds.PatientBirthDate) == ("YES", "")
            assert ds.LongitudinalTemporalInformationModified == "MODIFIED"
            codes = [code.CodeValue for code in ds.DeidentificationMethodCodeSequence]
            assert codes == ["113100", "113105", "113107", "113108"]
            assert ds.AcquisitionDateTime == f"{ds.StudyDate}101112.500000+0100"
            assert ds.StudyTime == "101112"
            dates.append(datetime.strptime(ds.StudyDate, "%Y%m%d"))  # noqa: DTZ007 - days
        assert dates[1] - dates[0] == timedelta(days=7)
        moved.add(dates[0])
    assert len(moved) == 2


def test_a_receiver_reads_the_same_labels(site, exported, tmp_path):
    """The committed layout imports the export, and its labels are those of the site's own."""
    labels = []
    for number, folder in enumerate((site, exported)):
        out = tmp_path / str(number)
        import_folder(folder, out, LAYOUT, None, lambda line: None)
        labels.append(
            sorted(
                SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(out / own.observer1))).tobytes()
                for own in read_dataset(out)
            )
        )
    assert len(labels[0]) == 4
    assert labels[0] == labels[1]


def test_dciodvfy_finds_no_new_error(site, exported):
    """Of the first slice and the structure set."""

    def errors(path: Path) -> set[str]:
        run = subprocess.run(
            [require_peer("dciodvfy"), str(path)], capture_output=True, text=True, check=False
        )
        return {line for line in run.stderr.splitlines() if line.startswith("Error")}

    scan = site / "Krusty_0" / "day-0"
    for before, after in (
        (next((scan / "CT").iterdir()), "CT/0001.dcm"),
        (scan / "RS.1.dcm", "RS-1.dcm"),
    ):
        assert errors(exported / "M001" / "d000" / after) <= errors(before)


def test_the_table_says_what_was_done(exported):
    """As CSV and as a page without a script; each attribute of the input once for each action."""
    with (exported / TABLE).open(newline="") as file:
        rows = {(row["keyword"], row["tag"]): row for row in csv.DictReader(file)}
    assert rows["PatientName", "(0010,0010)"]["code"] == "D"
    assert rows["StudyDescription", "(0008,1030)"]["action"] == "removed"
    assert rows["ContourData", "(3006,0050)"]["action"] == "kept"
    assert rows["", "(0029,xxxx)"]["action"] == "removed"
    assert rows["StudyInstanceUID", "(0020,000D)"]["code"] == "U"
    page = (exported / PAGE).read_text()
    assert "<script" not in page
    assert "http" not in page
    assert "Texts that stayed" in page
    assert "SpinalCord" in page


def test_a_later_export_fits_the_first_one(site, exported, tmp_path):
    """With the same key an animal keeps its name, its UIDs and its days; a new one comes after."""
    key = exported.parent / "key.json"
    kept = json.loads(key.read_text())
    assert key.stat().st_mode & 0o077 == 0
    later = tmp_path / "later"
    shutil.copytree(site / "Krusty_1" / "day-1", later / "x")
    export_folder(later, tmp_path / "out", key, (), lambda line: None)
    name = kept["animals"]["LAB-4711-1"]["name"]
    again = sorted((tmp_path / "out" / name / "d000" / "CT").iterdir())
    first = sorted((exported / name / "d007" / "CT").iterdir())
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in first]
    export_folder(later, tmp_path / "other", None, (), lambda line: None)
    (animal,) = [path for path in (tmp_path / "other").iterdir() if path.is_dir()]
    other = pydicom.dcmread(animal / "d000" / "CT" / "0001.dcm")
    assert other.SOPInstanceUID != pydicom.dcmread(first[0]).SOPInstanceUID


def test_no_two_animals_have_one_number(site, tmp_path):
    """Also where a person has taken an animal out of the key."""
    key = tmp_path / "keys" / "key.json"
    export_folder(site, tmp_path / "first", key, (), lambda line: None)
    kept = json.loads(key.read_text())
    (gone,) = [name for name, own in kept["animals"].items() if own["name"] == "M001"]
    del kept["animals"][gone]
    key.write_text(json.dumps(kept))
    export_folder(site, tmp_path / "second", key, (), lambda line: None)
    names = [path.name for path in (tmp_path / "second").iterdir() if path.is_dir()]
    assert sorted(names) == ["M002", "M003"]


def test_an_export_whose_key_can_t_be_kept_is_not_written(site, tmp_path, monkeypatch):
    """A folder that takes no file is named before; a disk that is full later leaves nothing."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigWrong, match="a folder is expected"):
        export_folder(site, tmp_path / "out", tmp_path / "file" / "key.json", (), print)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("limn.lab.export.export._keep", full)
    with pytest.raises(OSError, match="No space"):
        export_folder(site, tmp_path / "out", tmp_path / "key.json", (), lambda line: None)
    assert not (tmp_path / "out").exists()


def test_what_a_person_must_look_at_is_said(site, tmp_path):
    """Text in the pixels, by the header and by the pixels; a structure set without its CT."""
    source = tmp_path / "source"
    shutil.copytree(site / "Krusty_0" / "day-0", source)
    for path in (source / "CT").iterdir():
        ds = pydicom.dcmread(path)
        pixels = ds.pixel_array.copy()
        pixels[2:7, 2:10] = 3000
        ds.PixelData, ds.BurnedInAnnotation = pixels.tobytes(), "YES"
        ds.save_as(path)
    shutil.copy(site / "Krusty_1" / "day-0" / "RS.1.dcm", source / "RS.2.dcm")
    (source / "notes.txt").write_text("Quimby")
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.3.6.1.4.1.99999.888"
    ds.save_as(source / "own.dcm")
    lines: list[str] = []
    export_folder(source, tmp_path / "out", None, (), lines.append)
    said = [line for line in lines if line.startswith("WARNING")]
    assert any("40 pixels are the same in every slice" in line for line in said)
    assert any("the header says that text is burnt" in line for line in said)
    assert any("1 structure sets were left out: their CT is not here" in line for line in said)
    assert any("notes.txt" in line for line in lines)
    page = (tmp_path / "out" / PAGE).read_text()
    assert "no image of a class of the standard" in page
    assert not [word for word in ("notes", "Quimby", "99999.888") if word in page]


def test_a_series_without_text_is_not_doubted(site):
    """Air, padding and noise are no letters."""
    doubt = PixelDoubt()
    for path in (site / "Krusty_0" / "day-0" / "CT").iterdir():
        doubt.add(read(path))
    assert (doubt.pixels, doubt.unread) == (0, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda site, out: (site / "nothing", out, None), "is not a folder"),
        (lambda site, out: (site, site / "in", None), "may not be"),
        (lambda site, out: (site, out, out / "key.json"), "would leave with"),
        (lambda site, out: (out.parent, out.parent.parent / "o", None), "holds no CT image"),
    ],
)
def test_places_that_can_t_be_used_are_refused(change, message, site, tmp_path):
    """Before any file is written."""
    (tmp_path / "empty").mkdir()
    source, out, key = change(site, tmp_path / "empty" / "out")
    with pytest.raises(ConfigWrong, match=message):
        export_folder(source, out, key, (), lambda line: None)
    assert not (tmp_path / "empty" / "out").exists()


def test_an_export_that_would_tell_is_not_written(site, tmp_path, monkeypatch):
    """If an identity survives the table, nothing is left in the folder."""
    table = dict(ACTIONS) | {datadict.tag_for_keyword("ImageComments"): Action.KEEP}
    monkeypatch.setattr(
        "limn.lab.export.deidentify.action_for", lambda tag: table.get(int(tag), Action.REMOVE)
    )
    monkeypatch.setattr("limn.lab.export.deidentify.FREE_TEXT", frozenset())
    with pytest.raises(StageFailed, match="'Quimby' of the input is still in a file"):
        export_folder(site, tmp_path / "out", None, (), lambda line: None)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("person", "number"), [("Test^Patient", "LAB-4711"), ("limn", "DCM"), ("Kim^Su", "100")]
)
def test_names_that_stand_in_every_file_by_chance_stop_no_export(person, number, made, tmp_path):
    """A word of limn's own marks, and the number of a character set."""
    source = tmp_path / "source"
    source.mkdir()
    for path in (*sorted((made / "dicom").iterdir())[:2], made / "rtstruct.dcm"):
        ds = pydicom.dcmread(path)
        ds.SpecificCharacterSet = "ISO_IR 100"
        ds.PatientName, ds.PatientID, ds.OperatorsName = person, number, person
        ds.save_as(source / path.name)
    export_folder(source, tmp_path / "out", None, (), lambda line: None)
    for path in (tmp_path / "out").rglob("*.dcm"):
        ds = pydicom.dcmread(path)
        assert ds.SpecificCharacterSet == "ISO_IR 100"
        assert (ds.PatientName, ds.PatientID, ds.get("OperatorsName", "")) == ("M001", "M001", "")


def test_animals_whose_own_names_look_like_ours_get_other_ones(site, tmp_path):
    """M001 of the site is not M001 of the export."""
    source = tmp_path / "source"
    shutil.copytree(site / "Krusty_0" / "day-0", source)
    for path in source.rglob("*.dcm"):
        ds = pydicom.dcmread(path)
        ds.PatientID, ds.PatientName = "M001", "M001"
        ds.save_as(path)
    export_folder(source, tmp_path / "out", None, (), lambda line: None)
    assert [path.name for path in (tmp_path / "out").iterdir() if path.is_dir()] == ["X001"]


def test_names_of_rois_stay_where_they_are_organs():
    """Others get their number, and a person may let one pass."""
    assert all(is_plain(name) for name in ("Heart", "SpinalCord", "Lung_R", "PRV SpinalCord 2mm"))
    assert not any(is_plain(name) for name in ("Heart JS", "LAB-4711", "Heart_20260105", "", "7"))
    assert not any(is_plain(name) for name in ("Heart 12.01.26", "Heart 26-1-5"))
    rules = ExportRules(b"k", Pseudonym("M001", 2000), Identities(), {"Heart apex JS"})
    ds = structure_set(("Heart", "Heart by Quimby", "Heart apex JS"))
    contents, changes = deidentified(ds, rules)
    names = [roi.ROIName for roi in read(contents).StructureSetROISequence]
    assert names == ["Heart", "ROI_2", "Heart apex JS"]
    assert changes.texts["ROIName", "Heart"] == 1


@pytest.mark.parametrize(
    ("character_sets", "name"),
    [
        ("ISO_IR 192", "王小明"),
        ("ISO_IR 192", "Ольга"),
        (["", "ISO 2022 IR 87"], "山田"),
        ("GB18030", "王小东"),
    ],
)
def test_a_name_in_another_script_leaves_in_no_roi(character_sets, name):
    """Beside the word for an organ, in whatever bytes the character set has for it."""
    ds = structure_set((f"Heart {name}",), character_sets)
    assert ds.StructureSetROISequence[0].ROIName == f"Heart {name}"
    rules = ExportRules(b"k", Pseudonym("M001", 2000), Identities())
    contents, _ = deidentified(structure_set((f"Heart {name}",), character_sets), rules)
    assert [roi.ROIName for roi in read(contents).StructureSetROISequence] == ["ROI_1"]


def test_items_where_the_standard_has_none_are_removed(made):
    """A code string that a file writes as a sequence keeps nothing."""
    ds = pydicom.dcmread(sorted((made / "dicom").iterdir())[0])
    item = Dataset()
    item.PatientComments, item.PatientBirthDate = "a gift of the cohort", "20251101"
    del ds[datadict.tag_for_keyword("ImageType")]
    ds.add_new("ImageType", "SQ", [item])
    contents, _ = deidentified(
        read(saved(ds)), ExportRules(b"k", Pseudonym("M001", 2000), Identities())
    )
    assert b"a gift" not in contents
    assert b"20251101" not in contents


def test_text_where_the_standard_has_items_is_removed(made):
    """A sequence that a file writes as a text."""
    ds = pydicom.dcmread(made / "rtstruct.dcm")
    del ds.RTROIObservationsSequence
    ds.add_new("RTROIObservationsSequence", "LT", "a gift of the cohort")
    contents, _ = deidentified(
        read(saved(ds)), ExportRules(b"k", Pseudonym("M001", 2000), Identities())
    )
    assert b"a gift" not in contents


def test_a_number_for_a_name_empties_no_contour_of_vr_un(made):
    """Long contours are of VR UN (PS3.5 6.2.2); a mouse may be called 777."""
    ds = pydicom.dcmread(made / "rtstruct.dcm")
    contour = ds.ROIContourSequence[0].ContourSequence[0]
    contour.add_new("ContourData", "UN", b"1\\777\\2 ")
    ds.PatientID = "777"
    read_back, identities = read(saved(ds)), Identities()
    identities.add(read_back)
    contents, _ = deidentified(read_back, ExportRules(b"k", Pseudonym("M001", 2000), identities))
    assert b"1\\777\\2 " in contents


def test_identities_are_looked_for_in_a_deflated_file_too(made, monkeypatch):
    """It leaves as it is written plainly; a survivor stops the export."""
    ds = pydicom.dcmread(sorted((made / "dicom").iterdir())[0])
    ds.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    ds.PatientName, ds.ImageComments = "Krusty^B", "of Krusty"
    read_back, identities = read(saved(ds)), Identities()
    identities.add(read_back)
    rules = ExportRules(b"k", Pseudonym("M001", 2000), identities)
    contents, _ = deidentified(read(saved(ds)), rules)
    out = pydicom.dcmread(pydicom.filebase.DicomBytesIO(contents))
    assert out.file_meta.TransferSyntaxUID == pydicom.uid.ExplicitVRLittleEndian
    assert out.PixelData == ds.PixelData
    monkeypatch.setattr("limn.lab.export.deidentify.action_for", lambda tag: Action.KEEP)
    with pytest.raises(StageFailed, match="of the input is still in a file"):
        deidentified(read_back, rules)


def structure_set(
    names: tuple[str, ...], character_sets: str | list[str] = "ISO_IR 100"
) -> pydicom.FileDataset:
    """A structure set with these ROIs, read from its bytes."""
    ds = pydicom.FileDataset("", {}, preamble=b"\0" * 128)
    ds.SpecificCharacterSet = character_sets
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = pydicom.uid.RTStructureSetStorage, "1.2.3.4.5"
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.StructureSetROISequence = Sequence()
    for number, name in enumerate(names, start=1):
        roi = Dataset()
        roi.ROINumber, roi.ROIName = number, name
        ds.StructureSetROISequence.append(roi)
    return read(saved(ds))


def saved(ds: pydicom.FileDataset) -> bytes:
    """The bytes of a file."""
    buffer = pydicom.filebase.DicomBytesIO()
    pydicom.dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()


@pytest.mark.parametrize("seed", range(20))
def test_no_text_survives_wherever_it_stands(seed, made):
    """A hundred attributes of the dictionary, at any depth, each with a text of its own."""
    rng = np.random.default_rng(seed)
    slices = sorted((made / "dicom").iterdir())
    ds = pydicom.dcmread(made / "rtstruct.dcm" if seed % 2 else slices[0])
    texts = {"PN": "Nobody^{}", "LO": "{}", "SH": "{}", "ST": "by {}", "LT": "by {}", "UT": "by {}"}
    kinds = {**texts, "UC": "by {}", "UR": "http://{}.org", "UI": "1.3.6.1.4.1.4711.{}", "AE": "{}"}
    tags = [
        tag
        for tag, entry in datadict.DicomDictionary.items()
        if entry[0] in kinds
        and tag >> 16 > 0x0006
        and not entry[3]
        # What stays there is listed for a person (`test_the_table_says_what_was_done`).
        and ACTIONS.get(tag) is not Action.CLEAN
    ]
    holders = [ds, *(item for each in ds.iterall() if each.VR == "SQ" for item in each.value)]
    planted = []
    for k, tag in enumerate(rng.choice(tags, 100, replace=False)):
        vr = datadict.dictionary_VR(int(tag))
        word = f"{seed}{k:03d}77" if vr == "UI" else f"Zq{seed:02d}x{k:03d}w"
        holder = holders[int(rng.integers(0, len(holders)))]
        if vr == "UI" and int(tag) in ACTIONS:
            continue
        holder.add_new(int(tag), vr, kinds[vr].format(word))
        planted.append(kinds[vr].format(word) if vr == "UI" else word)
    for k in range(5):
        ds.private_block(0x0011 + 2 * k, f"Zqmaker{k}", create=True).add_new(1, "LO", f"Zqpriv{k}")
        planted += [f"Zqmaker{k}", f"Zqpriv{k}"]
    read_back = read(saved(ds))
    identities = Identities()
    identities.add(read_back)
    contents, _ = deidentified(read_back, ExportRules(b"key", Pseudonym("M001", 4000), identities))
    assert len(planted) > 60
    assert not [word for word in planted if word.encode() in contents]
    assert pydicom.dcmread(pydicom.filebase.DicomBytesIO(contents)).PatientID == "M001"


def test_dates_move_and_what_is_no_date_goes():
    """DA of today and of ACR-NEMA, DT with a zone; anything else has no date in it."""
    assert shifted("20260112", 7) == "20260105"
    assert shifted("2026.01.12", 7) == "20260105"
    assert shifted("20260101120000.5+0100", 1) == "20251231120000.5+0100"
    assert [shifted(text, 1) for text in ("2026", "20261399", "Quimby", "00010101")] == [None] * 4


def test_uids_are_new_the_same_for_the_same_and_legal():
    """At most 64 characters under 2.25; those of the standard stay."""
    first = new_uid(b"a", "1.2.3")
    assert first == new_uid(b"a", "1.2.3") != new_uid(b"b", "1.2.3")
    assert pydicom.uid.UID(first).is_valid
    assert new_uid(b"a", "1.2.840.10008.1.2") == "1.2.840.10008.1.2"
    assert new_uid(b"a", "1.2.840.10008.99.4711").startswith("2.25.")
    assert new_uid(b"a", "") == ""


def test_a_name_in_a_field_that_stays_empties_it(made):
    """A code string and a maker's name, where the animal's name stands in them."""
    ds = pydicom.dcmread(sorted((made / "dicom").iterdir())[0])
    ds.PatientName, ds.BodyPartExamined, ds.Manufacturer = "Krusty^B", "KRUSTY", "Krusty Scanners"
    ds.ManufacturerModelName, ds.ScanOptions = "MCT 9", "HELICAL COHORT B"
    read_back = read(saved(ds))
    identities = Identities()
    identities.add(read_back)
    contents, changes = deidentified(
        read_back, ExportRules(b"k", Pseudonym("M001", 2000), identities)
    )
    assert b"rusty" not in contents
    assert b"KRUSTY" not in contents
    out = pydicom.dcmread(pydicom.filebase.DicomBytesIO(contents))
    assert (out.BodyPartExamined, out.Manufacturer) == ("", "")
    assert out.ManufacturerModelName == "MCT 9"
    assert changes.texts["ManufacturerModelName", "MCT 9"] == 1
    assert changes.texts["ScanOptions", "HELICAL COHORT B"] == 1
    assert not [text for _, text in changes.texts if "rusty" in text]
    assert changes.done["(0008,0070)", NAMED] == 1
