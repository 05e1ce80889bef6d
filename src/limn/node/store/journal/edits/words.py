"""What was changed in an ROI, in words for people."""

from __future__ import annotations

import hashlib

from limn.node.store.journal.edits.rows import Change, DriftRow, EditedRoi, ScanEdit

# Less is below the size of a voxel, and no person drew it on purpose.
LEAST_MM = 0.05
# Two opposite sides that moved the same way by shares of each other like this moved as a whole.
LIKE = 0.5
# A smaller share of the largest movement follows from that one: a ball that is moved far lies
# further in at its sides too.
SMALL = 0.3
_AXES = (
    ("cranial", "caudal", "cranially", "caudally"),
    ("dorsal", "ventral", "dorsally", "ventrally"),
    ("left", "right", "to the left", "to the right"),
)


def words_of(roi: EditedRoi) -> str:
    """The change of an ROI in one line."""
    if roi.change is Change.SAME:
        return "unchanged"
    if roi.change is Change.EMPTIED:
        return "every contour was removed"
    if roi.change is Change.ABSENT:
        return "not in the file: deleted, or never sent there"
    parts = [
        f"DSC {roi.dsc:.3f}" if roi.dsc is not None else "",
        f"95 % HD {roi.hd95_mm:.2f} mm" if roi.hd95_mm is not None else "",
        f"{roi.added_path_mm:.0f} mm of contour added" if roi.added_path_mm is not None else "",
        _volume(roi),
        moved_words(roi),
    ]
    return ", ".join(part for part in parts if part)


def moved_words(roi: EditedRoi) -> str:
    """Where its surface was moved, the largest movement first; empty if nowhere."""
    found: list[tuple[float, str]] = []
    for one, other, there, back in _AXES:
        first, second = _mm(roi, one), _mm(roi, other)
        # As a whole: one side outwards, the opposite one inwards; the centre says how far.
        whole = getattr(roi, f"centre_{one}_mm")
        if (
            whole
            and first * second < 0
            and min(abs(first), abs(second)) > LIKE * max(abs(first), abs(second))
        ):
            found.append((abs(whole), f"moved {there if whole > 0 else back} {abs(whole):.1f} mm"))
            continue
        for side, mm in ((one, first), (other, second)):
            way = "outwards" if mm > 0 else "inwards"
            found.append((abs(mm), f"{side} side {abs(mm):.1f} mm {way}"))
    least = max(LEAST_MM, SMALL * max(mm for mm, _ in found))
    return ", ".join(words for mm, words in sorted(found, key=lambda each: -each[0]) if mm >= least)


def _mm(roi: EditedRoi, side: str) -> float:
    return float(getattr(roi, f"{side}_mm") or 0.0)


def _volume(roi: EditedRoi) -> str:
    if not roi.volume_before_mm3 or roi.volume_mm3 is None:
        return ""
    change = 100 * (roi.volume_mm3 / roi.volume_before_mm3 - 1)
    return f"volume {change:+.1f} %"


def picture_of(file: str) -> str:
    """The picture of a file that came back, in the results of its scan."""
    return f"edit-{hashlib.sha256(file.encode()).hexdigest()[:16]}.png"


def edit_words(edit: ScanEdit) -> str:
    """What was changed in a scan's structure set, in one line."""
    if edit.accepted:
        return "accepted as it was"
    return "; ".join(f"{each.roi}: {words_of(each)}" for each in edit.rois)


def drift_words(drift: DriftRow) -> str:
    """What an operator must know of a drift."""
    return (
        f"scanner {drift.scanner}, {drift.roi}: the last {drift.count} contours that came back "
        f"were corrected more (median DSC {drift.last_dsc:.3f}) than the first {drift.count} "
        f"({drift.first_dsc:.3f}), p {drift.p:.4f}; look at the board's page of edits, and at what "
        "changed in the scanner, the animals or the protocol"
    )
