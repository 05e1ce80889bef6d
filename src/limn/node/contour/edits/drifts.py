"""Whether contours of an ROI on a scanner are corrected more than they were at first (D-263)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from limn.domain.edits.drift import drift_of
from limn.node.commissioning import is_commissioning
from limn.node.store.journal.edits.rows import Change, DriftRow, ScanEdit


def courses_of(edits: Iterable[ScanEdit]) -> dict[tuple[str, str], list[tuple[ScanEdit, float]]]:
    """The DSC of each scanner and ROI over the scans, oldest scan first.

    Of a scan that came back several times the last counts; of each scanner the scans of its newest
    bundle. A contour that nobody changed has 1, one that was removed 0. Phantoms that commission
    the node do not count.
    """
    last: dict[int, ScanEdit] = {}
    for each in sorted(edits, key=lambda each: (each.came_at, each.id)):
        if not is_commissioning(each.animal):
            last[each.scan] = each
    ordered = sorted(last.values(), key=lambda each: (each.last_slice_at, each.scan))
    bundles = {each.scanner: each.bundle_sha256 for each in ordered}
    found: dict[tuple[str, str], list[tuple[ScanEdit, float]]] = {}
    for edit in ordered:
        if edit.bundle_sha256 != bundles[edit.scanner]:
            continue
        for roi in edit.rois:
            if roi.change is Change.EMPTIED or roi.dsc is not None:
                value = 0.0 if roi.dsc is None else roi.dsc
                found.setdefault((edit.scanner, roi.roi), []).append((edit, value))
    return found


def drifts_of(
    edits: Sequence[ScanEdit], count: int, known: Mapping[tuple[str, str], DriftRow], now: float
) -> list[DriftRow]:
    """The drift of each scanner and ROI with enough scans.

    Parameters
    ----------
    count : of scans at each end of a course
    known : what was found before, by scanner and ROI
    now : UTC seconds
    """
    rows = []
    for (scanner, roi), course in courses_of(edits).items():
        found = drift_of([value for _, value in course], count)
        if found is None:
            continue
        bundle = course[-1][0].bundle_sha256
        before = known.get((scanner, roi))
        since = before.since if before and before.bundle_sha256 == bundle else None
        rows.append(
            DriftRow(
                scanner=scanner,
                roi=roi,
                bundle_sha256=bundle,
                count=found.count,
                first_dsc=found.first,
                last_dsc=found.last,
                p=found.p,
                since=(since or now) if found.worse else None,
            )
        )
    return rows
