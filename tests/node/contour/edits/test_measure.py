"""Which scan a structure set is of, and what was changed: by rt-utils' edits of known size."""

import copy
import errno
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK

from limn.node.contour.edits import measure as module
from limn.node.contour.edits.measure import measure
from limn.node.contour.edits.request import DISK_FULL, EditRequest, picture_name, read_answer
from limn.node.store.journal.edits.rows import Change, ReturnedState
from limn.node.store.journal.edits.words import words_of
from tests.support.node.came_back import MM, NAMES, labels_of, under_new_uid
from tests.support.organs import Organ


@pytest.fixture
def ask(node, tmp_path):
    """What the process answers about a file."""

    def asked(ds: pydicom.Dataset | Path, *, editors=True):
        path = ds if isinstance(ds, Path) else node.send_back(ds)
        request = EditRequest(
            file=str(path),
            journal=str(node.journal.path),
            results_dir=str(node.data / "scans"),
            picture=True,
            editors=editors,
        )
        answer = measure(request, tmp_path)
        answer.write(tmp_path)
        assert read_answer(tmp_path) == answer, "what is written is what is read"
        return answer

    return asked


def changes(answer, row):
    """The change of each ROI of a scan."""
    return {each.roi: each.change for each in answer.edits[row.id]}


def moved_heart(by=(2, 0, 0)):
    """The labels with the heart alone moved."""
    labels, moved = labels_of(), labels_of(by)
    labels[labels == 1] = 0
    labels[moved == 1] = 1
    return labels


SAME = {"Heart": Change.SAME, "Lung_L": Change.SAME}
EDITED = SAME | {"Heart": Change.EDITED}


@pytest.mark.parametrize("new_uid", [False, True])
def test_what_nobody_changed_is_accepted(node, ask, new_uid):
    """Its own bytes, or the same contours under another UID."""
    node.scan(1)
    row = node.scan(2)
    ds = under_new_uid(node.own(row)) if new_uid else node.own(row)
    answer = ask(ds)
    assert answer.state is ReturnedState.MEASURED
    assert changes(answer, row) == SAME
    assert [each.dsc for each in answer.edits[row.id]] == [1.0, 1.0]
    assert answer.editor == "", "nobody is said to have corrected it"


def test_an_edit_by_another_program_is_measured(node, ask, tmp_path):
    """DSC, path, volume and where it moved, as SimpleITK counts them on the voxels."""
    rows = [node.scan(number) for number in (1, 2, 3)]
    labels = moved_heart()
    labels[labels == 2] = 0
    lung = labels_of() == 2
    lung[:11] = False
    labels[lung & (labels == 0)] = 2
    answer = ask(node.edited(rows[1], labels))
    assert list(answer.edits) == [rows[1].id]
    for (label, organ), roi in zip(NAMES.items(), answer.edits[rows[1].id], strict=True):
        before, after = labels_of() == label, labels == label
        images = [SimpleITK.GetImageFromArray(each.astype(np.uint8)) for each in (before, after)]
        overlap = SimpleITK.LabelOverlapMeasuresImageFilter()
        overlap.Execute(*images)
        assert (roi.roi, roi.organ, roi.change) == (organ, organ, Change.EDITED)
        assert roi.dsc == pytest.approx(overlap.GetDiceCoefficient(), abs=1e-4)
        assert roi.added_path_mm == pytest.approx(path_mm(before, after), abs=1e-3)
        assert roi.volume_mm3 == pytest.approx(after.sum() * MM.voxel_mm3, abs=1e-3)
    heart, lung = answer.edits[rows[1].id]
    assert heart.centre_cranial_mm == pytest.approx(2 * MM.z)
    assert words_of(heart).endswith("volume +0.0 %, moved cranially 1.0 mm")
    assert heart.role == "heart"
    assert lung.caudal_mm < -0.3
    assert "caudal side" in words_of(lung)
    assert "inwards" in words_of(lung)
    assert answer.editor == "Weber Anna"
    assert (tmp_path / picture_name(rows[1].id)).read_bytes().startswith(b"\x89PNG")


def path_mm(before, after):
    """Added path length by SimpleITK's contours of each slice."""
    count = 0
    for first, second in zip(before, after, strict=True):
        drawn = [
            SimpleITK.GetArrayFromImage(
                SimpleITK.BinaryContour(
                    SimpleITK.GetImageFromArray(np.pad(each, 1).astype(np.uint8)), False
                )
            )
            for each in (first, second)
        ]
        count += int(((drawn[1] > 0) & (drawn[0] == 0)).sum())
    return count * 0.3


def test_the_name_of_who_corrected_is_left_out_if_the_site_says_so(node, ask):
    """``returned.editors = false``."""
    row = node.scan(1)
    answer = ask(node.edited(row, moved_heart()), editors=False)
    assert (answer.state, answer.editor) == (ReturnedState.MEASURED, "")


def test_names_without_end_are_cut(node, ask):
    """Each ROI may say another person, and each series another reason."""
    row = node.scan(1)
    ds = node.edited(row, moved_heart())
    item = ds.RTROIObservationsSequence[0]
    for number in range(300):
        item = copy.deepcopy(item)
        item.ROIInterpreter = f"Nobody^{number}"
        ds.RTROIObservationsSequence.append(item)
    answer = ask(ds)
    assert answer.state is ReturnedState.MEASURED
    assert answer.editor.startswith("Weber Anna; Nobody 0; ")
    assert len(answer.editor) == module.MOST_LETTERS
    frames = [copy.deepcopy(ds.ReferencedFrameOfReferenceSequence[0]) for _ in range(50)]
    for number, frame in enumerate(frames):
        frame.FrameOfReferenceUID = f"2.25.77{number}"
    ds.ReferencedFrameOfReferenceSequence = frames
    answer = ask(ds)
    assert answer.state is ReturnedState.UNMATCHED
    assert len(answer.reason) == module.MOST_LETTERS


def test_an_edit_for_another_animal_is_never_matched(node, ask):
    """Neither with limn's own UID, nor with the series that it names."""
    row = node.scan(1)
    node.scan(2)
    for ds in (node.own(row), under_new_uid(node.own(row)), node.edited(row, moved_heart())):
        ds.PatientID = "M2"
        answer = ask(ds)
        assert (answer.state, answer.edits) == (ReturnedState.UNMATCHED, {})
        assert "PatientID 'M2', but 'M1' in the scan" in answer.reason
    ds = under_new_uid(node.own(row))
    ds.PatientID = ""
    assert ask(ds).state is ReturnedState.UNMATCHED


def test_one_animal_scanned_twice_is_told_apart_by_its_images(node, ask):
    """Both scans in one study: the series that the structure set names counts, and its frame."""
    first = node.scan(1, animal="M")
    second = node.scan(2, moved_heart((0, 3, 0)), animal="M")
    for row in (first, second):
        assert list(ask(under_new_uid(node.own(row))).edits) == [row.id]
    # It claims the first one's series, and its contours are on the second one's images.
    ds = under_new_uid(node.own(second))
    own = node.own(first).ReferencedFrameOfReferenceSequence
    ds.ReferencedFrameOfReferenceSequence = copy.deepcopy(own)
    answer = ask(ds)
    assert (answer.state, answer.edits) == (ReturnedState.UNMATCHED, {})


def test_contours_elsewhere_are_no_edit(node, ask):
    """They name the series, and overlap with nothing that limn drew."""
    row = node.scan(1)
    labels = np.zeros_like(labels_of())
    labels[1:4, 2:6, 2:6], labels[1:4, 30:36, 36:40] = 1, 2
    answer = ask(node.edited(row, labels))
    assert answer.state is ReturnedState.UNMATCHED
    assert "overlaps" in answer.reason


def test_a_structure_set_that_names_no_series_is_found_by_its_study(node, ask):
    """Its images are those of the scan; with neither it is of none."""
    node.scan(1)
    row = node.scan(2)
    ds = under_new_uid(node.own(row))
    study = ds.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
    del study.RTReferencedSeriesSequence
    assert changes(ask(ds), row) == SAME
    ds.StudyInstanceUID = "2.25.404"
    del ds.ReferencedFrameOfReferenceSequence
    answer = ask(ds)
    assert answer.state is ReturnedState.UNMATCHED
    assert answer.reason.startswith("it names no series")


def test_the_version_that_was_corrected_is_found(node, ask):
    """Two bundles drew one series; an edit of either is compared with what it is an edit of."""
    first = node.scan(1)
    second = node.scan(1, moved_heart((0, 3, 0)), bundle_sha256="other")
    assert first.series_instance_uid == second.series_instance_uid
    lung = labels_of()
    lung[:11][lung[:11] == 2] = 0
    assert changes(ask(node.edited(first, lung)), first) == SAME | {"Lung_L": Change.EDITED}
    other = moved_heart((0, 3, 0))
    other[:11][other[:11] == 2] = 0
    assert changes(ask(node.edited(second, other)), second) == SAME | {"Lung_L": Change.EDITED}


def test_each_of_two_animals_in_a_field_gets_its_own(node, ask):
    """One animal's file is of that animal's scan; a file of both is of both."""
    whole = labels_of()
    whole[:, :, 22:] = 0
    first = node.scan(1, whole)
    (second,) = node.journal.add_animals(first.id, [2], ("tps",))
    other = np.roll(np.where(whole == 1, 1, 0).astype(np.uint8), 20, axis=2)
    second = node.contour(second, other)
    moved = np.roll(other, 1, axis=0)
    assert changes(ask(node.edited(second, moved, {1: Organ.HEART})), second) == {
        "Heart": Change.EDITED
    }
    ds = node.edited(second, whole + 3 * moved, {1: "Heart^1", 3: "Heart^2"})
    answer = ask(ds)
    assert changes(answer, first) == {"Heart": Change.SAME}
    assert changes(answer, second) == {"Heart": Change.EDITED}
    assert [each.came_as for own in answer.edits.values() for each in own] == ["Heart^1", "Heart^2"]


def test_a_preview_is_no_correction(node, ask):
    """It comes back, or an edit of it: noted, and not measured."""
    row = node.scan(1, contoured=False)
    preview = pydicom.dcmread(node.preview(row, moved_heart()))
    row = node.contour(row, labels_of())
    moved = node.edited(row, moved_heart((3, 0, 0)), {1: "PREVIEW_Heart"})
    for ds in (preview, under_new_uid(preview), moved):
        ds.StructureSetROISequence[0].ROIName = preview.StructureSetROISequence[0].ROIName
        answer = ask(ds)
        assert (answer.state, answer.edits) == (ReturnedState.PREVIEW, {})
        assert row.name in answer.reason
    assert changes(ask(node.own(row)), row) == SAME


def test_a_roi_that_was_called_otherwise_is_found(node, ask):
    """By the beginning of its name and its place; one that is missing says nothing."""
    row = node.scan(1)
    answer = ask(node.edited(row, moved_heart(), {1: "heart_JD"}))
    heart, lung = answer.edits[row.id]
    assert (heart.change, heart.came_as) == (Change.EDITED, "heart_JD")
    assert lung.change is Change.ABSENT
    assert "never sent" in words_of(lung)


def test_what_was_emptied_is_an_edit(node, ask):
    """An ROI without a contour."""
    row = node.scan(1)
    ds = under_new_uid(node.own(row))
    ds.ROIContourSequence[0].ContourSequence = []
    heart, lung = ask(ds).edits[row.id]
    assert (heart.change, heart.dsc, lung.change) == (Change.EMPTIED, 0.0, Change.SAME)


def test_a_full_disk_is_not_the_files_fault(node, ask, monkeypatch):
    """The process says so by its code, and answers nothing; another error is named."""
    path = node.send_back(node.edited(node.scan(1), moved_heart()))

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "draw_edit", full)
    with pytest.raises(OSError, match="No space left"):
        ask(path)
    monkeypatch.setattr(module, "end_with_supervisor", lambda: None)
    monkeypatch.setattr(module, "_be_modest", lambda: None)
    monkeypatch.setattr(module, "read_request", full)
    monkeypatch.setattr(sys, "argv", ["measure", "folder"])
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert ended.value.code == DISK_FULL
    path.unlink()
    assert "No such file" in ask(path).reason


def test_damage_is_named(node, ask, tmp_path):
    """Half a file, another modality, no DICOM, slices that are gone."""
    row = node.scan(1)
    ct = next(Path(row.folder).iterdir())
    assert ask(ct).reason == "it is no structure set"
    half = tmp_path / "half.dcm"
    whole = Path(node.journal.structure_set_of(row.id).path).read_bytes()
    half.write_bytes(whole[: len(whole) // 2])
    assert ask(half).state in (ReturnedState.FAILED, ReturnedState.UNMATCHED)
    text = tmp_path / "text.dcm"
    text.write_text("no DICOM")
    assert ask(text).state is ReturnedState.FAILED
    ct.unlink()
    answer = ask(under_new_uid(node.own(row)))
    assert answer.state is ReturnedState.UNMATCHED
    assert "1 of its slices are not on disk any more (retention.spool_days)" in answer.reason
