"""The other forms of a scan, as a worker makes them for the site's folders."""

import io

import highdicom
import pydicom
import pytest

from limn.node.config import Model, PlanningSystem
from limn.node.contour.job import Job
from limn.node.contour.work.warm import Warm, options_of
from limn.node.contour.work.worker import contour_here
from limn.segment.bundle.bundle import open_bundle
from tests.conftest import BUNDLE
from tests.support.node.fake_worker import FakeEnsemble
from tests.support.node.toy import toy, write_toy


@pytest.fixture
def contoured(tmp_path):
    """What a worker returns for a toy, if the site's folders want these forms."""
    paths = write_toy(toy(1), tmp_path)

    def run(*forms, **more):
        job = Job(
            scan=7,
            animal="M1",
            paths=tuple(map(str, paths)),
            model=Model(bundle=BUNDLE),
            planning_system=PlanningSystem(),
            sop_instance_uid="2.25.1",
            series_instance_uid="2.25.2",
            date="20260101",
            time="120000",
            predecessor_uid="",
            deadline_s=60.0,
            forms=forms,
            **more,
        )
        ensemble = FakeEnsemble(open_bundle(BUNDLE))
        result = contour_here(job, "limn", Warm(ensemble, options_of(job, ensemble.bundle)))
        assert result.ended == "", result.reason
        return result

    return run


def test_nothing_more_is_made_than_is_wanted(contoured):
    """A site without such a folder waits for none."""
    assert contoured().forms == {}
    assert set(contoured("nifti").forms) == {"labels.nii.gz", "labels.csv"}


def test_each_form_comes_back_whole(contoured):
    """A segmentation that highdicom reads, of the organs of the structure set."""
    result = contoured("seg", "nrrd", "stl", "csv")
    names = {roi.ROIName for roi in rois(result)}
    assert {f"{name}.stl" for name in names} | {"SEG.dcm", "labels.seg.nrrd", "volumes.csv"} == set(
        result.forms
    )
    segmentation = highdicom.seg.Segmentation.from_dataset(
        pydicom.dcmread(io.BytesIO(result.forms["SEG.dcm"]))
    )
    labels = {segmentation.get_segment_description(n).segment_label for n in (1, 2, 3, 4)}
    assert labels == names


def test_a_preview_has_no_other_forms(contoured):
    """The structure set of all folds brings them."""
    assert contoured("seg", preview=True).forms == {}


def rois(result):
    """The ROIs of a result's structure set."""
    return pydicom.dcmread(io.BytesIO(result.structure_set)).StructureSetROISequence
