"""What the page of edits and a scan's page show of contours that came back, as values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from limn.node.board.history.charts import Chart, Key, Mark, frame_of, framed
from limn.node.contour.edits.drifts import courses_of
from limn.node.operate.history.edits import came, is_of_animal, outcome_of
from limn.node.store.journal.edits.rows import Change, ReturnedState, ScanEdit
from limn.node.store.journal.edits.words import drift_words, picture_of, words_of
from limn.node.store.journal.reader import JournalReader

SIZE = (900.0, 300.0)
# The colours of history.css; further ROIs are in the table alone.
MOST_ROIS = 6
# Of each ROI; older ones are in the line.
MOST_MARKS = 60
# The line is the median of so many scans.
SMOOTH = 9
PAGE = 30
# Of the charts: some years of a scanner.
MOST_EDITS = 3000


@dataclass(frozen=True, slots=True, kw_only=True)
class EditLine:
    """One structure set that came back.

    Attributes
    ----------
    outcome : "accepted" or "edited"
    rois : name of each ROI and what was changed, in words; then the others together
    picture : its file in the scan's results; empty if nothing was changed
    """

    scan: str
    animal: str
    scanner: str
    came: str
    editor: str
    outcome: str
    rois: tuple[tuple[str, str], ...]
    picture: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EditsPage:
    """The page of edits.

    Attributes
    ----------
    counts : how many came back, by what became of them
    drifts : sentences, of what drifts now
    lines : newest first
    others : file, state and reason of what was not measured
    """

    counts: tuple[tuple[str, int], ...]
    drifts: tuple[str, ...]
    charts: tuple[Chart, ...]
    lines: tuple[EditLine, ...]
    others: tuple[tuple[str, str, str], ...]


def edits_page(journal: JournalReader) -> EditsPage:
    """All that came back."""
    edits = [each for each in journal.edits(last=MOST_EDITS) if is_of_animal(each)]
    others = [
        (row.file, str(row.state), row.reason)
        for row in journal.returned_files()
        if row.state is not ReturnedState.MEASURED
    ]
    return EditsPage(
        counts=tuple((name, count) for name, count in journal.returned_counts().items() if count),
        drifts=tuple(drift_words(each) for each in journal.drifts() if each.since is not None),
        charts=tuple(_charts(edits)),
        lines=tuple(line_of(each) for each in reversed(edits[-PAGE:])),
        others=tuple(others[::-1][:PAGE]),
    )


def scan_edits(journal: JournalReader, scan: int) -> tuple[EditLine, ...]:
    """What came back of one scan, oldest first."""
    return tuple(line_of(each) for each in journal.edits([scan]))


def edit_marks(journal: JournalReader, names: Iterable[str]) -> dict[str, str]:
    """In a few words what became of these scans' contours; of those that came back."""
    numbers = [int(name.rpartition("-")[2]) for name in names if name[-1:].isdecimal()]
    return {each.name: _mark(each) for each in journal.edits(numbers)}


def line_of(edit: ScanEdit) -> EditLine:
    """One structure set as a line."""
    same = [each.roi for each in edit.rois if each.change is Change.SAME]
    changed = tuple(
        (each.roi, words_of(each)) for each in edit.rois if each.change is not Change.SAME
    )
    return EditLine(
        scan=edit.name,
        animal=edit.animal,
        scanner=edit.scanner,
        came=came(edit),
        editor=edit.editor,
        outcome=outcome_of(edit),
        rois=(*changed, ("unchanged", ", ".join(same))) if same else changed,
        picture="" if edit.accepted else picture_of(edit.file),
    )


def _mark(edit: ScanEdit) -> str:
    worst = min(
        (each for each in edit.rois if each.change in (Change.EDITED, Change.EMPTIED)),
        key=lambda each: each.dsc or 0.0,
        default=None,
    )
    if worst is None:
        return outcome_of(edit)
    return f"edited: {worst.roi} {worst.dsc or 0.0:.3f}"


def _charts(edits: Sequence[ScanEdit]) -> Iterable[Chart]:
    """DSC over time: a chart for each scanner, a line for each ROI."""
    by_scanner: dict[str, dict[str, list[tuple[ScanEdit, float]]]] = {}
    for (scanner, roi), course in courses_of(edits).items():
        by_scanner.setdefault(scanner, {})[roi] = course
    for number, (scanner, courses) in enumerate(by_scanner.items()):
        yield _chart(number, scanner, dict(list(courses.items())[:MOST_ROIS]))


def _chart(number: int, scanner: str, courses: dict[str, list[tuple[ScanEdit, float]]]) -> Chart:
    values = [value for course in courses.values() for _, value in course]
    times = [edit.last_slice_at for course in courses.values() for edit, _ in course]
    frame = frame_of(times, values, size=SIZE, may_log=False)
    return framed(
        frame,
        name=f"edits{number}",
        title=f"{scanner}: how much of each ROI stayed as limn drew it (DSC)",
        words=f"{len(set(times))} scans of the newest bundle; DSC from {min(values):.3f} to "
        f"{max(values):.3f}, 1 for contours that nobody changed. The lines are medians of "
        f"{SMOOTH} scans.",
        y_name="DSC",
        keys=tuple(Key(f"group{k}", roi) for k, roi in enumerate(courses)),
        lines=tuple(
            frame.line(f"p50 group{k}", _smooth(course))
            for k, course in enumerate(courses.values())
        ),
        marks=tuple(
            Mark(
                f"group{k}",
                round(frame.x(edit.last_slice_at), 1),
                round(frame.y(value), 1),
                f"/{edit.name}",
                f"{roi}, {edit.name}: DSC {value:.3f}",
            )
            for k, (roi, course) in enumerate(courses.items())
            for edit, value in course[-MOST_MARKS:]
            if value < 1.0
        ),
        columns=("ROI", "scans", "first median", "last median"),
        rows=tuple(
            (
                roi,
                str(len(course)),
                f"{median(value for _, value in course[:SMOOTH]):.3f}",
                f"{median(value for _, value in course[-SMOOTH:]):.3f}",
            )
            for roi, course in courses.items()
        ),
    )


def _smooth(course: Sequence[tuple[ScanEdit, float]]) -> list[tuple[float, float]]:
    """Each scan's time, and the median of it and the scans before it."""
    return [
        (edit.last_slice_at, median(value for _, value in course[max(0, k + 1 - SMOOTH) : k + 1]))
        for k, (edit, _) in enumerate(course)
    ]
