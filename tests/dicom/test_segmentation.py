"""Labels as a DICOM segmentation, read back by highdicom and dciodvfy."""

import io
import subprocess

import highdicom
import numpy as np
import pydicom
import pytest
from highdicom.seg import Segmentation

from limn.dicom.ct import CtIdentity, multi_frame
from limn.dicom.rtstruct import Identity, Style
from limn.dicom.segmentation import build_segmentation
from limn.dicom.series import Instance, assemble
from limn.dicom.volume import read_headers
from limn.domain.errors import RefusedSeries, StageFailed
from limn.domain.scan import Organ
from tests.conftest import require_peer, write_series

IDENTITY = Identity("2.25.71", "2.25.72", "20260101", "120000", "LIMN", "0.1", "limn phantom", "ab")


@pytest.fixture(scope="module")
def folder(mouse, tmp_path_factory):
    """The mouse as a series."""
    folder = tmp_path_factory.mktemp("seg") / "ct"
    write_series(mouse[0], folder, CtIdentity("M\u00fc1", "2.25.44.9", ("20260101", "120000")))
    return folder


@pytest.fixture(scope="module")
def series(folder):
    """The series, assembled."""
    return assemble(read_headers(sorted(folder.iterdir())))


def built(series, labels_zyx, organs):
    """The segmentation, read by pydicom."""
    style = Style.of_organs(organs.values(), "Mus musculus")
    contents = build_segmentation(series, labels_zyx, organs, IDENTITY, style)
    return contents, pydicom.dcmread(io.BytesIO(contents))


def test_highdicom_reads_the_labels_that_went_in(mouse, series, tmp_path):
    """Every voxel, with names, codes, colours, tracking and the algorithm."""
    labels = mouse[1]
    contents, _ = built(series, labels.labels_zyx, labels.organs)
    path = tmp_path / "SEG.dcm"
    path.write_bytes(contents)
    found = highdicom.seg.segread(path)
    assert [each.SegmentLabel for each in found.SegmentSequence] == list(labels.organs.values())
    heart = found.SegmentSequence[0]
    assert heart.SegmentedPropertyTypeCodeSequence[0].CodeValue == "80891009"
    assert heart.SegmentationAlgorithmIdentificationSequence[0].AlgorithmName == "limn phantom"
    assert heart.TrackingID == "limn Heart"
    pixels = found.get_pixels_by_source_instance(
        [str(each.header.SOPInstanceUID) for each in series.slices],
        combine_segments=True,
        assert_missing_frames_are_empty=True,
    )
    assert np.array_equal(pixels, labels.labels_zyx)


def test_one_uid_names_one_content(mouse, series):
    """A second run gives the same bytes; highdicom would write its time, to the microsecond."""
    labels = mouse[1]
    first, _ = built(series, labels.labels_zyx, labels.organs)
    again, ds = built(series, labels.labels_zyx, labels.organs)
    assert again == first
    # One organ on one slice: what all frames have in common stands elsewhere.
    one = np.zeros_like(labels.labels_zyx)
    one[5, 5:9, 5:9] = 1
    assert built(series, one, labels.organs)[1].NumberOfFrames == 1
    assert (ds.ContentDate, ds.ContentTime) == ("20260101", "120000")


@pytest.mark.parametrize("fault", ["a voxel", "a frame"])
def test_a_segmentation_that_reads_back_otherwise_is_none(mouse, series, monkeypatch, fault):
    """It fails, whatever made it so."""
    labels = mouse[1]
    save_as = Segmentation.save_as

    def spoilt(made, file):
        if fault == "a voxel":
            made.PixelData = bytes([made.PixelData[0] ^ 1]) + made.PixelData[1:]
        else:
            del made.PerFrameFunctionalGroupsSequence[-8:]
            made.NumberOfFrames = len(made.PerFrameFunctionalGroupsSequence)
            made.PixelData = made.PixelData[: -made.Rows * made.Columns]
        save_as(made, file)

    monkeypatch.setattr(Segmentation, "save_as", spoilt)
    with pytest.raises(StageFailed, match="read back"):
        built(series, labels.labels_zyx, labels.organs)


def test_the_animal_is_as_the_series_has_it(mouse, series):
    """Byte for byte, and empty where the standard wants an attribute."""
    _, ds = built(series, mouse[1].labels_zyx, mouse[1].organs)
    first = series.first
    assert ds.PatientID == first.PatientID
    assert ds.StudyInstanceUID == first.StudyInstanceUID
    assert ds.FrameOfReferenceUID == first.FrameOfReferenceUID
    assert "PatientBreedDescription" in ds


@pytest.mark.peer
def test_dciodvfy_finds_no_error(mouse, series, tmp_path):
    """With an organ that nobody gave a code, too."""
    organs = {1: Organ("Heart"), 2: Organ("Tumour 7")}
    contents, _ = built(series, np.minimum(mouse[1].labels_zyx, 2), organs)
    path = tmp_path / "SEG.dcm"
    path.write_bytes(contents)
    command = [require_peer("dciodvfy"), str(path)]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stderr
    assert "Error" not in said, said


def test_the_same_scan_gives_the_same_uids(mouse, series):
    """They follow from those of its structure set."""
    first, second = (built(series, mouse[1].labels_zyx, mouse[1].organs)[1] for _ in range(2))
    assert first.SOPInstanceUID == second.SOPInstanceUID
    assert first.SOPInstanceUID not in (IDENTITY.sop_instance_uid, IDENTITY.series_instance_uid)


def test_what_can_not_be_written_is_said(mouse, series, folder):
    """No voxel, and one file with all slices."""
    labels = mouse[1]
    with pytest.raises(RefusedSeries, match="no organ has a voxel"):
        built(series, np.zeros_like(labels.labels_zyx), labels.organs)
    one = multi_frame([pydicom.dcmread(path) for path in sorted(folder.iterdir())])
    whole = assemble([Instance(one, folder)])
    with pytest.raises(RefusedSeries, match="multi-frame"):
        built(whole, labels.labels_zyx, labels.organs)
