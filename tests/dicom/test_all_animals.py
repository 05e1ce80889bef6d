"""Several animals in one structure set: the ROIs of each are those of its own file."""

import io
from dataclasses import replace

import pydicom
import pytest

from limn.dicom import for_destination
from limn.dicom.for_destination import AnimalFile, choose_rois, join_animals
from limn.domain.errors import ConfigWrong, StageFailed
from tests.dicom.test_rtstruct import IDENTITY, STYLE, Case, assert_sound, make
from tests.support.organs import Organ

UID = "2.25.900"


@pytest.fixture(scope="module")
def animals(tmp_path_factory) -> list[Case]:
    """Two animals of one series; the second has no cord, and its own UIDs, words and date."""
    folder = tmp_path_factory.mktemp("each")
    first = make(folder, identity=replace(IDENTITY, label="limn 1/2", animal="animal 1 of 2"))
    other = replace(
        IDENTITY,
        sop_instance_uid="2.25.91",
        series_instance_uid="2.25.92",
        label="limn 2/2",
        animal="animal 2 of 2, M2,",
        time="040506",
    )
    return [first, make(folder, identity=other, empty=2)]


def files(animals: list[Case], *names: str) -> list[AnimalFile]:
    """The animals' files with these names."""
    return [
        AnimalFile(number, name, case.contents)
        for number, (case, name) in enumerate(zip(animals, names, strict=True), 1)
    ]


def own_file(case: Case) -> pydicom.FileDataset:
    """The file of one animal; the cases share a folder."""
    return pydicom.dcmread(io.BytesIO(case.contents))


def joined(animals: list[Case], *names: str, of: int = 2, **more: str) -> pydicom.FileDataset:
    """The file of all of them, as pydicom reads it."""
    contents = join_animals(files(animals, *names), UID, of, **more)
    return pydicom.dcmread(io.BytesIO(contents))


def points(ds: pydicom.Dataset) -> dict[str, list[tuple[str, list[float]]]]:
    """Slice and coordinates of every contour, by ROIName."""
    names = {int(roi.ROINumber): str(roi.ROIName) for roi in ds.StructureSetROISequence}
    return {
        names[int(roi.ReferencedROINumber)]: [
            (str(each.ContourImageSequence[0].ReferencedSOPInstanceUID), list(each.ContourData))
            for each in roi.ContourSequence
        ]
        for roi in ds.ROIContourSequence
    }


def test_every_roi_is_there_with_its_animals_name(animals):
    """The contours are those of the animals' own files, number for number."""
    ds = joined(animals, "M1", "M 2")
    own = {
        f"{name}^{mark}": drawn
        for case, mark in zip(animals, ("M1", "M_2"), strict=True)
        for name, drawn in points(own_file(case)).items()
    }
    assert list(own) == [
        *("Heart^M1", "SpinalCord^M1", "Lung_R^M1", "Lung_L^M1"),
        *("Heart^M_2", "Lung_R^M_2", "Lung_L^M_2"),
    ]
    assert points(ds) == own
    numbers = [int(roi.ROINumber) for roi in ds.StructureSetROISequence]
    assert numbers == list(range(1, 8))
    for sequence in (ds.ROIContourSequence, ds.RTROIObservationsSequence):
        assert [int(each.ReferencedROINumber) for each in sequence] == numbers
    codes = [
        each.RTROIIdentificationCodeSequence[0].CodeMeaning for each in ds.RTROIObservationsSequence
    ]
    assert codes[4:] == ["Heart", "Right lung", "Left lung"], "the base name keeps its code"
    assert (ds.SOPInstanceUID, ds.file_meta.MediaStorageSOPInstanceUID) == (UID, UID)
    assert ds.SeriesInstanceUID not in {own_file(each).SeriesInstanceUID for each in animals}
    assert (ds.StructureSetLabel, ds.StructureSetTime) == ("limn all 2", "040506")
    assert str(ds.StructureSetDescription).startswith(
        "2 of 2 animals in one file; animal 1 of 2; limn test; animal 2 of 2, M2,"
    )


@pytest.mark.parametrize(
    ("names", "first", "last"),
    [
        (("", ""), "Heart^1", "Lung_L^2"),
        (("A", ""), "Heart^A", "Lung_L^2"),
        (("A", "A"), "Heart^1", "Lung_L^2"),
        (("2", ""), "Heart^1", "Lung_L^2"),
        (("long" * 16, "B"), "Heart^1", "Lung_L^2"),
    ],
)
def test_names_that_do_not_tell_them_apart_give_way_to_numbers(animals, names, first, last):
    """Of all animals, so that nobody has to guess."""
    rois = joined(animals, *names).StructureSetROISequence
    assert (str(rois[0].ROIName), str(rois[-1].ROIName)) == (first, last)


def test_the_same_animals_give_the_same_bytes(animals):
    """It may be sent again."""
    one, two = (join_animals(files(animals, "A", "B"), UID, 2) for _ in range(2))
    assert one == two


def test_what_is_absent_is_said_first(animals):
    """With one animal alone the label is that animal's."""
    ds = joined(animals[:1], "", absent="animal 2 (scan-00002), which was refused")
    assert str(ds.StructureSetDescription).startswith(
        "1 of 2 animals in one file, WITHOUT animal 2 (scan-00002), which was refused; "
    )
    assert ds.StructureSetLabel == "limn 1/2"
    assert "Heart^1" in points(ds)


def test_a_long_roi_name_keeps_its_beginning(tmp_path):
    """And its animal; two that are the same then are refused."""
    long = "O" * 63
    style = replace(STYLE, roi_names={**STYLE.roi_names, Organ.HEART: f"{long}A"})
    case = make(tmp_path, style=style)
    ds = joined([case], "M1")
    assert str(ds.StructureSetROISequence[0].ROIName) == f"{long[:61]}^M1"
    style = replace(style, roi_names={**style.roi_names, Organ.CORD: f"{long}B"})
    with pytest.raises(ConfigWrong, match="shorter roi_names"):
        joined([make(tmp_path, style=style)], "M1")


def test_the_replaced_file_is_named(animals, tmp_path):
    """The last file of the field, or else what the animals' own files replace."""
    ds = joined(animals, "", "", predecessor="2.25.77")
    (before,) = ds.PredecessorStructureSetSequence
    assert before.ReferencedSOPInstanceUID == "2.25.77"
    replacing = make(tmp_path, identity=replace(IDENTITY, predecessor_uid="2.25.66"))
    (before,) = joined([replacing], "").PredecessorStructureSetSequence
    assert before.ReferencedSOPInstanceUID == "2.25.66"
    assert "PredecessorStructureSetSequence" not in joined(animals, "", "")


def test_every_animals_warning_has_room(tmp_path):
    """Four animals with long words: each one's beginning is in the description."""
    cases = [
        make(tmp_path, identity=replace(IDENTITY, animal=f"animal {n} of 4: " + "words " * 200))
        for n in range(1, 5)
    ]
    text = str(joined(cases, "", "", "", "", of=4).StructureSetDescription)
    assert len(text) <= 1024
    assert all(f"animal {n} of 4: words" in text for n in range(1, 5))


@pytest.mark.parametrize(
    ("labels", "of", "label"),
    [
        (
            ("limn DEMO 1/4", "limn DEMO 2/4", "limn DEMO 3/4", "limn DEMO 4/4"),
            4,
            "limn DEMO all 4",
        ),
        (("a long DEMO 1/3", "a long DEMO 3/3"), 3, "a lo DEMO 2 of 3"),
        (("limn M1", "limn M2"), 2, "limn all 2"),
        (("M1", "M2"), 2, "all 2"),
    ],
)
def test_the_label_says_how_many(tmp_path, labels, of, label):
    """DEMO stays whatever the site's own label is."""
    cases = [make(tmp_path, identity=replace(IDENTITY, label=each)) for each in labels]
    assert joined(cases, *[""] * len(cases), of=of).StructureSetLabel == label


def test_animals_of_two_series_are_never_one_file(animals, tmp_path):
    """Their contours are in different frames."""

    def change(ds):
        ds.FrameOfReferenceUID = "2.25.4711"

    other = make(tmp_path, change=change)
    with pytest.raises(StageFailed, match="different series"):
        joined([animals[0], other], "", "")


def test_a_file_that_differs_from_its_animals_is_not_sent(animals, monkeypatch):
    """The proof fails if a point moves on the way into the file."""
    whole = for_destination.to_bytes

    def moved(ds):
        ds.ROIContourSequence[-1].ContourSequence[0].ContourData[0] += 0.1
        return whole(ds)

    monkeypatch.setattr(for_destination, "to_bytes", moved)
    with pytest.raises(StageFailed, match="differs"):
        joined(animals, "", "")


@pytest.mark.peer
def test_validators_have_no_complaint(animals, tmp_path):
    """Also with some ROIs alone."""
    for number, parts in enumerate(
        (
            files(animals, "M1", "M2"),
            [
                replace(each, contents=choose_rois(each.contents, ["Heart"], "tps"))
                for each in files(animals, "", "")
            ],
        )
    ):
        path = tmp_path / f"{number}.dcm"
        path.write_bytes(join_animals(parts, UID, 2, "2.25.77"))
        assert_sound(replace(animals[0], file=path))
