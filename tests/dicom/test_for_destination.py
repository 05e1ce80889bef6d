"""A file of some ROIs for one destination: sound, its own UIDs, the same bytes each time."""

import io
from dataclasses import replace

import pydicom
import pytest

from limn.dicom.for_destination import choose_rois, uid_for
from limn.domain.errors import ConfigWrong
from tests.dicom.test_rtstruct import IDENTITY, STYLE, assert_sound, make


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """A structure set that replaces another one."""
    identity = replace(IDENTITY, predecessor_uid="2.25.80")
    return make(tmp_path_factory.mktemp("whole"), identity=identity)


def chosen(case, *names, destination="tps"):
    """The file of a destination, as pydicom reads it."""
    return pydicom.dcmread(io.BytesIO(choose_rois(case.contents, names, destination)))


def test_only_the_chosen_rois_are_in_it(case):
    """Numbers, contours and observations stay in step; points are the same."""
    ds = chosen(case, "Lung_R", "Heart")
    numbers = [int(roi.ROINumber) for roi in ds.StructureSetROISequence]
    assert [str(roi.ROIName) for roi in ds.StructureSetROISequence] == ["Heart", "Lung_R"]
    for sequence in (ds.ROIContourSequence, ds.RTROIObservationsSequence):
        assert [int(each.ReferencedROINumber) for each in sequence] == numbers
    whole = {int(roi.ReferencedROINumber): roi for roi in case.ds.ROIContourSequence}
    for roi in ds.ROIContourSequence:
        theirs = whole[int(roi.ReferencedROINumber)].ContourSequence
        assert [each.ContourData for each in roi.ContourSequence] == [
            each.ContourData for each in theirs
        ]


def test_its_uids_are_the_destinations_own(case):
    """And lead from version to version; all else of the study stays."""
    ds, other = chosen(case, "Heart"), chosen(case, "Heart", destination="archive")
    assert ds.SOPInstanceUID == ds.file_meta.MediaStorageSOPInstanceUID
    assert len({ds.SOPInstanceUID, other.SOPInstanceUID, IDENTITY.sop_instance_uid}) == 3
    (before,) = ds.PredecessorStructureSetSequence
    assert before.ReferencedSOPInstanceUID == uid_for("2.25.80", ["Heart"], "tps")
    assert ds.SeriesInstanceUID == case.ds.SeriesInstanceUID


def test_sent_again_it_has_the_same_bytes(case):
    """In whatever order the site names the ROIs."""
    one = choose_rois(case.contents, ["Heart", "Lung_R"], "tps")
    assert choose_rois(case.contents, ["Lung_R", "Heart"], "tps") == one


def test_a_preview_is_chosen_by_the_same_names(tmp_path):
    """Its names end with PREVIEW."""
    made = make(
        tmp_path,
        identity=replace(IDENTITY, preview="one fold"),
        style=STYLE.as_preview(),
    )
    ds = chosen(made, "Heart")
    assert [str(roi.ROIName) for roi in ds.StructureSetROISequence] == ["Heart PREVIEW"]


def test_none_of_them_is_an_error(case):
    """An organ that was not found is absent from the file."""
    with pytest.raises(ConfigWrong, match="none of its ROIs is Spleen, Liver"):
        choose_rois(case.contents, ["Spleen", "Liver"], "tps")


@pytest.mark.peer
def test_validators_have_no_complaint(case, tmp_path):
    """As about the whole structure set."""
    path = tmp_path / "RS.dcm"
    path.write_bytes(choose_rois(case.contents, ["SpinalCord"], "tps"))
    assert_sound(replace(case, file=path))
