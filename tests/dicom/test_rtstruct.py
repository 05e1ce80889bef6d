import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK
from matplotlib.path import Path as Polygon
from pydicom.uid import ImplicitVRLittleEndian

from limn.dicom import rtstruct
from limn.dicom.ct import CtIdentity
from limn.dicom.rtstruct import Identity, Style
from limn.dicom.series import Series, assemble
from limn.dicom.volume import read_headers
from limn.domain.geometry import Grid
from limn.domain.scan import Labels, Volume, dice
from limn.segment.draw.rasterise import rasterise
from limn.segment.draw.trace import trace
from tests.conftest import COLOURS, require_peer, write_series
from tests.support.organs import Organ

CT = CtIdentity("M1", "2.25.8", ("20260101", "120000"))
STYLE = Style.of_organs(Organ, "Mus musculus", colours=COLOURS)
IDENTITY = Identity(
    sop_instance_uid="2.25.81",
    series_instance_uid="2.25.82",
    date="20260102",
    time="030405",
    label="limn",
    software="0.1",
    algorithm="limn test",
)
# Not cubic; along every array axis the two ends differ. Slices are few, plastimatch reads files.
SHAPE = (9, 26, 34)
ORIENTATIONS = {
    "supine": (1, 0, 0, 0, 1, 0),
    "prone": (-1, 0, 0, 0, -1, 0),
    "feet first": (-1, 0, 0, 0, 1, 0),
    "coronal": (1, 0, 0, 0, 0, -1),
    "sagittal": (0, 1, 0, 0, 0, -1),
}


def organs(shape) -> np.ndarray:
    """Four organs: a heart with holes, a ragged cord, a lung at the border, one of specks."""
    z, y, x = np.indices(shape)
    labels = np.zeros(shape, np.uint8)
    labels[(z - 4) ** 2 / 9 + (y - 9) ** 2 / 40 + (x - 12) ** 2 / 60 < 1] = 1
    labels[(abs(z - 4) < 2) & ((y - 9) ** 2 + (x - 12) ** 2 < 5)] = 0
    labels[4, 9, 12] = 1
    labels[(y - 20) ** 2 + (x - 8) ** 2 < 9 + z / 2] = 2
    labels[(x > 26) & (y < 12) & (z < 7)] = 3
    speckles = np.random.default_rng(4).random(shape) < 0.2
    labels[(labels == 0) & speckles & (x > 18) & (y > 14)] = 4
    return labels


@dataclass(frozen=True)
class Case:
    """A series on disk and its structure set beside it."""

    series: Series
    labels: Labels
    contents: bytes
    ct_folder: Path
    file: Path

    @property
    def ds(self):
        """The structure set as pydicom reads it."""
        return pydicom.dcmread(self.file)


def grid_of(iop, shape=SHAPE, spacing=(0.2, 0.1)) -> Grid:
    """A stack with different spacing along all axes and no round numbers in its origin."""
    x, y = np.array(iop[:3], float), np.array(iop[3:], float)
    origins = np.array([-7.123, 3.456, 20.789]) + np.outer(
        np.arange(shape[0]) * 0.14, np.cross(x, y)
    )
    return Grid(origins, shape[1], shape[2], *spacing, x, y)


def make(
    folder: Path,
    iop=ORIENTATIONS["supine"],
    *,
    change=None,
    empty=None,
    identity=IDENTITY,
    style=STYLE,
    **kwargs,
) -> Case:
    """Write a CT series, trace the organs, build the structure set."""
    grid = grid_of(iop, **kwargs)
    hu = np.random.default_rng(2).integers(-900, 900, grid.shape_zyx).astype(np.float32)
    paths = write_series(Volume(hu, grid), folder / "ct", CT)
    for path in paths if change else []:
        ds = pydicom.dcmread(path)
        change(ds)
        ds.save_as(path)
    series = assemble(read_headers(paths))
    voxels = organs(grid.shape_zyx)
    voxels[voxels == empty] = 0
    labels = Labels(voxels, series.grid, dict(enumerate(Organ, 1)))
    contours = trace(labels).contours
    contents = rtstruct.build(series, contours, labels.volumes_mm3(), identity, style)
    (folder / "RS.dcm").write_bytes(contents)
    return Case(series, labels, contents, folder / "ct", folder / "RS.dcm")


@pytest.fixture(scope="module")
def case(tmp_path_factory) -> Case:
    """A supine mouse; its file and its series are only read."""
    return make(tmp_path_factory.mktemp("supine"))


def run(program: str, *arguments) -> str:
    """The output of another program on both streams."""
    done = subprocess.run(
        [require_peer(program), *arguments],
        text=True,
        errors="replace",
        capture_output=True,
        check=False,
    )
    return done.stdout + done.stderr


def assert_sound(case: Case) -> None:
    """The validators of dicom3tools and dcmtk have no complaint."""
    verdict = run("/usr/bin/dciodvfy", case.file)
    assert "RTStructureSet" in verdict
    assert "Error" not in verdict, verdict
    dump = run("/usr/bin/drtdump", case.file)
    assert dump.startswith("RT Structure Set object"), dump
    complaints = [line for line in dump.splitlines() if line.startswith(("E:", "W:", "F:"))]
    assert complaints == []


@pytest.mark.peer
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_plastimatch_reads_back_every_voxel(tmp_path, orientation):
    """Plastimatch turns the file into exactly the voxels that were labelled, for every organ."""
    case = make(tmp_path, ORIENTATIONS[orientation])
    run(
        "/usr/bin/plastimatch", "convert", "--input", case.file, "--referenced-ct",
        case.ct_folder, "--output-prefix", tmp_path / "out", "--prefix-format", "nrrd",
    )  # fmt: skip
    for organ in Organ:
        image = SimpleITK.ReadImage(str(tmp_path / "out" / f"{organ}.nrrd"))
        found = np.zeros(SHAPE, bool)
        for column, row, k in np.argwhere(SimpleITK.GetArrayFromImage(image).T).tolist():
            point = np.array([image.TransformIndexToPhysicalPoint((column, row, k))])
            slice_mm = float(point[0] @ case.series.grid.normal_xyz)
            index = int(np.abs(case.series.grid.slice_positions_mm - slice_mm).argmin())
            y, x = np.rint(case.series.grid.plane_indices_yx(index, point)[0]).astype(int)
            found[index, y, x] = True
        assert dice(found, case.labels.mask(organ)) == 1.0


@pytest.mark.peer
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_validators_have_no_complaint(tmp_path, orientation):
    """Dicom3tools' dciodvfy finds no error and drtdump warns of nothing."""
    assert_sound(make(tmp_path, ORIENTATIONS[orientation]))


@pytest.mark.parametrize("spacing", [(0.2, 0.1), (0.07, 0.31)])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_itk_and_matplotlib_find_every_voxel(tmp_path, orientation, spacing):
    """With ITK's geometry and matplotlib's polygons the file's points are the labelled voxels."""
    case = make(tmp_path, ORIENTATIONS[orientation], spacing=spacing)
    by_uid = {}
    for path in sorted(case.ct_folder.iterdir()):
        by_uid[str(pydicom.dcmread(path).SOPInstanceUID)] = SimpleITK.ReadImage(str(path))
    order = {uid: k for k, uid in enumerate(case.series.sop_instance_uids)}
    ds = case.ds
    names = {roi.ROINumber: roi.ROIName for roi in ds.StructureSetROISequence}
    centres = np.indices(SHAPE[1:]).reshape(2, -1).T
    for roi in ds.ROIContourSequence:
        found = np.zeros(SHAPE, bool)
        for item in roi.ContourSequence:
            uid = str(item.ContourImageSequence[0].ReferencedSOPInstanceUID)
            points = np.array(item.ContourData, float).reshape(-1, 3)
            index = [
                by_uid[uid].TransformPhysicalPointToContinuousIndex(point.tolist())
                for point in points
            ]
            columns, rows, depth = np.array(index).T
            assert np.abs(depth).max() < 1e-3
            inside = Polygon(np.column_stack((rows, columns))).contains_points(centres)
            found[order[uid]] |= inside.reshape(SHAPE[1:])
        wanted = case.labels.mask(Organ(names[roi.ReferencedROINumber]))
        np.testing.assert_array_equal(found, wanted)


def test_our_own_reading_gives_every_voxel(case):
    """What `contours_of` reads rasterises to the labels, whatever the site calls the organs."""
    style = Style({organ: f"mouse {organ}" for organ in Organ}, COLOURS, "Mus musculus")
    contents = rtstruct.build(
        case.series, trace(case.labels).contours, case.labels.volumes_mm3(), IDENTITY, style
    )
    ds = rtstruct.read(contents)
    assert [roi.ROIName for roi in ds.StructureSetROISequence] == [f"mouse {o}" for o in Organ]
    contours = rtstruct.contours_of(ds, case.series, style)
    for organ in Organ:
        np.testing.assert_array_equal(
            rasterise(contours, case.series.grid, organ), case.labels.mask(organ)
        )


def test_the_structure_set_says_what_it_is(case):
    """Names, colours, volumes in cm3, unapproved, automatic, every slice referenced."""
    ds = case.ds
    assert ds.Modality == "RTSTRUCT"
    assert ds.file_meta.TransferSyntaxUID == ImplicitVRLittleEndian
    assert (ds.SOPInstanceUID, ds.SeriesInstanceUID) == ("2.25.81", "2.25.82")
    assert ds.ApprovalStatus == "UNAPPROVED"
    for roi, shown, organ in zip(
        ds.StructureSetROISequence, ds.ROIContourSequence, Organ, strict=True
    ):
        assert roi.ROIName == organ.value
        assert roi.ROIGenerationAlgorithm == "AUTOMATIC"
        assert float(roi.ROIVolume) * 1000 == pytest.approx(
            case.labels.mask(organ).sum() * 0.14 * 0.2 * 0.1, abs=1e-3
        )
        assert tuple(shown.ROIDisplayColor) == COLOURS[organ]
        assert shown.ReferencedROINumber == roi.ROINumber
    frame = ds.ReferencedFrameOfReferenceSequence[0]
    series = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    assert series.SeriesInstanceUID == CT.series_instance_uid
    assert {i.ReferencedSOPInstanceUID for i in series.ContourImageSequence} == set(
        case.series.sop_instance_uids
    )


def test_a_preview_says_so_wherever_a_person_may_look(tmp_path):
    """Label, name, description, series, every ROI: none passes for the structure set itself."""
    label = rtstruct.preview_label("limn", demonstration=False)
    identity = replace(IDENTITY, label=label, preview="one fold of 5; the others follow")
    case = make(tmp_path, identity=identity, style=STYLE.as_preview())
    ds = case.ds
    assert ds.StructureSetLabel == ds.StructureSetName == "PREVIEW limn"
    assert ds.SeriesDescription == "PREVIEW limn contours"
    assert ds.StructureSetDescription == "PREVIEW: one fold of 5; the others follow; limn test"
    assert ds.ApprovalStatus == "UNAPPROVED"
    names = [roi.ROIName for roi in ds.StructureSetROISequence]
    assert names == [f"{organ.value} PREVIEW" for organ in Organ]
    assert {r.ROIGenerationDescription for r in ds.StructureSetROISequence} == {"PREVIEW limn test"}
    assert {r.ROIObservationLabel for r in ds.RTROIObservationsSequence} == {"PREVIEW"}
    assert rtstruct.faults(ds, case.series) == []
    contours = rtstruct.contours_of(ds, case.series, STYLE.as_preview())
    assert {contour.organ for contour in contours} == set(Organ)
    assert b"PREVIEW" not in make(tmp_path).contents


@pytest.mark.peer
def test_validators_have_no_complaint_about_a_preview(tmp_path):
    """As about any other structure set."""
    identity = replace(IDENTITY, label="PREVIEW DEMO", preview="one fold of 5")
    assert_sound(make(tmp_path, identity=identity, style=STYLE.as_preview()))


@pytest.mark.parametrize(
    ("label", "demonstration", "shown"),
    [
        ("limn", False, "PREVIEW limn"),
        ("limn", True, "PREVIEW DEMO"),
        ("small mice", False, "PREVIEW small mi"),
        ("my mouse 22", False, "PREVIEW my mouse"),
    ],
)
def test_the_label_of_a_preview_has_room_for_the_word(label, demonstration, shown):
    """SH has 16 characters; the word PREVIEW is never cut, nor is DEMO."""
    assert rtstruct.preview_label(label, demonstration=demonstration) == shown


def test_long_roi_names_of_a_preview_keep_the_word():
    """LO has 64 characters."""
    style = replace(STYLE, roi_names={Organ.HEART: "h" * 64})
    assert style.as_preview().roi_names == {Organ.HEART: "h" * 56 + " PREVIEW"}


def test_no_decimal_string_is_over_16_bytes(tmp_path):
    """Every coordinate in the raw file keeps DICOM's 16 bytes, far from the origin too."""
    case = make(tmp_path)
    count = 0
    for roi in case.ds.ROIContourSequence:
        for item in roi.ContourSequence:
            raw = item.get_item("ContourData").value
            assert isinstance(raw, bytes)
            assert len(raw) % 2 == 0
            assert max(len(text.strip()) for text in raw.split(b"\\")) <= 16
            count += 1
    assert count > 50


COPIED = {
    "PatientID": "M1",
    "PatientBirthDate": "20250909",
    "PatientSex": "M",
    "PatientSpeciesDescription": "Rattus norvegicus",
    "PatientAge": "012W",
    "PatientWeight": "0.025",
    "StrainDescription": "C57BL/6J",
    "ResponsibleOrganization": "House",
    "StudyInstanceUID": "2.25.8.1",
    "StudyDate": "20260101",
    "StudyTime": "120000",
    "StudyID": "7",
    "StudyDescription": "week 7",
    "AccessionNumber": "A7",
    "ReferringPhysicianName": "Doe^Jane",
    "FrameOfReferenceUID": "2.25.8.4",
    "PositionReferenceIndicator": "XY",
}


@pytest.mark.peer
@pytest.mark.parametrize(
    ("character_set", "name"),
    [("ISO_IR 192", "Mäuschen^Größe=鼠"), ("ISO_IR 100", "Mäuschen^Größe")],
)
def test_patient_and_study_are_the_cts(tmp_path, character_set, name):
    """The planning system finds the same patient and study, letter for letter."""

    def change(ds) -> None:
        ds.SpecificCharacterSet = character_set
        ds.PatientName = name
        for keyword, value in COPIED.items():
            setattr(ds, keyword, value)

    case = make(tmp_path, change=change)
    ds = case.ds
    for keyword, value in COPIED.items():
        assert str(ds[keyword].value) == value, keyword
    assert ds.SpecificCharacterSet == character_set
    assert str(ds.PatientName) == name
    raw = pydicom.dcmread(next(case.ct_folder.iterdir())).get_item("PatientName").value
    encoding = {"ISO_IR 192": "utf-8", "ISO_IR 100": "latin-1"}[character_set]
    assert raw.startswith(name.encode(encoding))
    assert pydicom.dcmread(case.file).get_item("PatientName").value == raw
    assert_sound(case)


@pytest.mark.peer
def test_a_sparse_ct_gets_a_complete_structure_set(tmp_path):
    """Without study details, sex or species the Type 2 attributes are there and empty."""
    gone = (
        "StudyID", "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName",
        "PatientBirthDate", "PatientSex", "PatientSpeciesDescription", "SpecificCharacterSet",
        "PositionReferenceIndicator", "SeriesNumber",
    )  # fmt: skip

    def change(ds) -> None:
        for keyword in gone:
            del ds[keyword]

    case = make(tmp_path, change=change)
    ds = case.ds
    for keyword in ("StudyID", "StudyDate", "StudyTime", "AccessionNumber", "PatientSex"):
        assert keyword in ds
        assert not ds[keyword].value
    assert ds.PatientSpeciesDescription == "Mus musculus"
    assert_sound(case)


@pytest.mark.peer
def test_without_frame_of_reference_a_fixed_one_is_made(tmp_path):
    """A CT without FrameOfReferenceUID gets the same one in every structure set of the series."""

    def change(ds) -> None:
        del ds.FrameOfReferenceUID

    case = make(tmp_path / "1", change=change)
    again = make(tmp_path / "2", change=change)
    assert case.contents == again.contents
    ds = case.ds
    frames = {
        ds.FrameOfReferenceUID,
        ds.ReferencedFrameOfReferenceSequence[0].FrameOfReferenceUID,
        *(roi.ReferencedFrameOfReferenceUID for roi in ds.StructureSetROISequence),
    }
    assert len(frames) == 1
    assert frames != {""}
    assert_sound(case)


@pytest.mark.peer
@pytest.mark.peer
def test_notes_lead_the_description(case):
    """Warnings for the reader come first; a long text is cut to ST's 1024 characters."""
    note = "mirrored image: held for release"
    contours = trace(case.labels).contours
    for notes, expected in (
        ([note, "second"], f"{note}; second; {IDENTITY.algorithm}"),
        ([note * 40], (note * 40)[:1024]),
    ):
        contents = rtstruct.build(
            case.series, contours, case.labels.volumes_mm3(), IDENTITY, STYLE, notes
        )
        assert rtstruct.read(contents).StructureSetDescription == expected
        case.file.write_bytes(contents)
        assert_sound(case)
    assert rtstruct.read(case.contents).StructureSetDescription == IDENTITY.algorithm


def test_an_empty_organ_is_left_out(tmp_path):
    """An organ without voxels has no ROI at all, and the others keep their numbers in step."""
    case = make(tmp_path, empty=2)
    ds = case.ds
    assert [roi.ROIName for roi in ds.StructureSetROISequence] == ["Heart", "Lung_R", "Lung_L"]
    assert [roi.ROINumber for roi in ds.StructureSetROISequence] == [1, 2, 3]
    assert [roi.ReferencedROINumber for roi in ds.ROIContourSequence] == [1, 2, 3]
    assert [roi.ReferencedROINumber for roi in ds.RTROIObservationsSequence] == [1, 2, 3]
    assert_sound(case)


def test_the_same_scan_gives_the_same_file(tmp_path):
    """The same inputs make the same bytes, so sending again is harmless."""
    assert make(tmp_path / "1").contents == make(tmp_path / "2").contents


def test_a_sound_structure_set_has_no_faults(case):
    """A new structure set has no faults, before and after its values have been read."""
    ds = case.ds
    assert rtstruct.faults(ds, case.series) == []
    assert len(ds.ROIContourSequence[0].ContourSequence[0].ContourData) > 9
    assert rtstruct.faults(ds, case.series) == []


def unknown_slice(ds) -> None:
    """Refer to an instance that does not exist."""
    item = ds.ROIContourSequence[1].ContourSequence[2]
    item.ContourImageSequence[0].ReferencedSOPInstanceUID = "2.25.666"


def two_points(ds) -> None:
    """Leave a line."""
    item = ds.ROIContourSequence[1].ContourSequence[2]
    item.ContourData, item.NumberOfContourPoints = item.ContourData[:6], 2


def wrong_count(ds) -> None:
    """Announce more points than there are."""
    ds.ROIContourSequence[1].ContourSequence[2].NumberOfContourPoints += 1


def off_plane(ds) -> None:
    """Move one point 5 um along the normal."""
    item = ds.ROIContourSequence[1].ContourSequence[2]
    item.ContourData[2] = f"{float(item.ContourData[2]) + 0.005:.4f}"


def other_slice(ds) -> None:
    """Refer to the neighbouring slice."""
    items = ds.ROIContourSequence[1].ContourSequence
    items[2].ContourImageSequence = items[3].ContourImageSequence


def long_decimal(ds) -> None:
    """Write a coordinate with 18 bytes."""
    element = ds.ROIContourSequence[1].ContourSequence[2].get_item("ContourData")
    value = element.value.split(b"\\")
    value[0] = value[0] + b"0" * (18 - len(value[0]))
    ds.ROIContourSequence[1].ContourSequence[2]["ContourData"] = element._replace(
        value=b"\\".join(value)
    )


def long_label(ds) -> None:
    """Write a label of 17 characters."""
    ds.get_item("StructureSetLabel")
    ds["StructureSetLabel"]._value = "limn" * 4 + "!"


@pytest.mark.parametrize(
    ("plant", "found"),
    [
        (unknown_slice, r"ROI 2 contour 3: ReferencedSOPInstanceUID 2.25.666 is not in the"),
        (two_points, r"ROI 2 contour 3: NumberOfContourPoints 2"),
        (wrong_count, r"ROI 2 contour 3: NumberOfContourPoints"),
        (off_plane, r"ROI 2 contour 3: ContourData leaves the plane"),
        (other_slice, r"ROI 2 contour 3: ContourData leaves the plane"),
        (long_decimal, r"ROI 2 contour 3: ContourData over 16 bytes"),
        (long_label, r"StructureSetLabel 'limnlimnlimnlimn!' has over 16 characters"),
    ],
)
def test_every_planted_fault_is_found(case, plant, found):
    """One fault among many sound contours is found, once, and its place is named."""
    ds = case.ds
    plant(ds)
    (fault,) = rtstruct.faults(ds, case.series)
    assert fault.startswith(found)


def test_far_from_the_origin_points_stay_in_their_plane(tmp_path):
    """A stack with uneven slice positions keeps every contour on its own slice."""

    def change(ds) -> None:
        wobble = 0.0012 if ds.InstanceNumber % 2 else -0.0003
        x, y, z = ds.ImagePositionPatient
        ds.ImagePositionPatient = [x - 900, y + 900, f"{float(z) + wobble - 1234.5678:.6f}"]

    case = make(tmp_path, change=change)
    assert rtstruct.faults(case.ds, case.series) == []
    contours = rtstruct.contours_of(case.ds, case.series, STYLE)
    for organ in Organ:
        np.testing.assert_array_equal(
            rasterise(contours, case.series.grid, organ), case.labels.mask(organ)
        )
