"""Courses of each scanner and ROI, and what is called a drift."""

from limn.node.contour.edits.drifts import courses_of, drifts_of
from limn.node.store.journal.edits.rows import Change, EditedRoi, ScanEdit


def edit(
    number, dsc, *, scanner="CT1", bundle="b", came=None, scan=None, change=Change.EDITED, animal=""
):
    """A scan that came back; its heart has this DSC."""
    roi = EditedRoi(roi="Heart", organ="Heart", change=change, dsc=dsc)
    return ScanEdit(
        id=number,
        scan=number if scan is None else scan,
        animal=animal or f"M{number}",
        sender=f"{scanner}@10.0.0.1",
        bundle_sha256=bundle,
        last_slice_at=float(number),
        file=f"{number}.dcm",
        came_at=float(number if came is None else came),
        editor="",
        software="",
        rois=(roi,),
    )


def values(edits):
    """The values of each course."""
    return {key: [value for _, value in course] for key, course in courses_of(edits).items()}


def test_each_scan_counts_once_with_the_last_that_came():
    """A person may save several times, and long after another scan."""
    edits = [edit(1, 0.8), edit(2, 0.9), edit(3, 0.95, scan=1)]
    assert values(edits) == {("CT1", "Heart"): [0.9, 0.95]}
    late = [edit(1, 0.8, came=9), edit(2, 0.9)]
    assert values(late) == {("CT1", "Heart"): [0.8, 0.9]}


def test_phantoms_of_a_commissioning_do_not_count():
    """A planning system that returns them in its own way is no drift; nor counts their bundle."""
    phantom = edit(3, 0.5, animal="COMMISSIONING-LIE-FFP", bundle="new")
    assert values([edit(1, 0.8), edit(2, 0.9), phantom]) == {("CT1", "Heart"): [0.8, 0.9]}


def test_scanners_are_apart_and_a_new_bundle_begins_anew():
    """What an older bundle drew says nothing of the one that draws now."""
    edits = [
        edit(1, 0.5, bundle="old"),
        edit(2, 0.9, bundle="new"),
        edit(3, 0.7, scanner="CT2", bundle="old"),
    ]
    assert values(edits) == {("CT1", "Heart"): [0.9], ("CT2", "Heart"): [0.7]}


def test_files_of_the_watched_folder_are_one_scanner():
    """Their paths differ, and have names of animals in them."""
    edits = [edit(1, 0.9, scanner="folder /in/M1"), edit(2, 0.8, scanner="image /in/M2.nii")]
    assert values(edits) == {("watched folder", "Heart"): [0.9, 0.8]}


def test_absent_ones_are_left_out_and_emptied_ones_are_zero():
    """The destination may never have had the ROI; nothing of it left is the worst edit."""
    absent = edit(1, None, change=Change.ABSENT)
    emptied = edit(2, 0.0, change=Change.EMPTIED)
    assert values([absent, emptied]) == {("CT1", "Heart"): [0.0]}


def test_a_drift_keeps_the_time_when_it_was_found():
    """While it lasts; not over a change of the bundle."""
    edits = [edit(k, 1.0 if k < 8 else 0.8) for k in range(16)]
    (found,) = drifts_of(edits, 8, {}, 100.0)
    assert (found.since, found.first_dsc, found.last_dsc) == (100.0, 1.0, 0.8)
    (again,) = drifts_of(edits, 8, {("CT1", "Heart"): found}, 200.0)
    assert again.since == 100.0
    other = [edit(k, 1.0 if k < 8 else 0.8, bundle="new") for k in range(16)]
    assert drifts_of(other, 8, {("CT1", "Heart"): found}, 300.0)[0].since == 300.0
    assert drifts_of(edits[:15], 8, {}, 1.0) == []
    (stable,) = drifts_of([edit(k, 1.0) for k in range(16)], 8, {}, 1.0)
    assert stable.since is None
