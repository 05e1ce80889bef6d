"""Measures one structure set that came back, in a process of its own, beside no live scan.

``python -m limn.node.contour.edits.measure FOLDER``. The folder has ``request.json``; it gets
``answer.json`` and a picture for each scan. A damaged file may end this process, or fill its
memory, and nothing else.
"""

from __future__ import annotations

import errno
import math
import sys
from collections.abc import Iterable
from contextlib import closing, suppress
from pathlib import Path

import psutil
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from limn.dicom.bounded import DAMAGES, read
from limn.dicom.identity import decoded_text
from limn.domain.errors import LimnError
from limn.domain.files import write_durably
from limn.domain.one_line import one_line
from limn.node.contour.edits.match import Match, NoScan, Pair, matches_of, organs_of
from limn.node.contour.edits.picture import draw_edit
from limn.node.contour.edits.request import (
    DISK_FULL,
    EditAnswer,
    EditRequest,
    picture_name,
    read_request,
)
from limn.node.host.lifetime import end_with_supervisor
from limn.node.host.step_back import step_back
from limn.node.store.journal.edits.rows import Change, EditedRoi, ReturnedState
from limn.node.store.journal.reader import JournalReader
from limn.segment.compare.edit import Way, edit_of

# Contours of one whole animal take a tenth of it.
MOST_BYTES = 4 * 2**30
_DECIMALS = 4
# A file of others may have many names of any length; the journal, the log and pages show them.
MOST_LETTERS = 500
# Who may have corrected contours, beside the ROIInterpreter of each ROI.
_PEOPLE = ("ReviewerName", "OperatorsName", "ContentCreatorName")


def measure(request: EditRequest, folder: Path) -> EditAnswer:
    """Find the scans of the structure set and compare; never raises for what the file is.

    Raises
    ------
    OSError
        If a disk is full.
    """
    try:
        ds = read(Path(request.file))
        if ds.get("Modality") != "RTSTRUCT":
            return EditAnswer(state=ReturnedState.FAILED, reason="it is no structure set")
        with closing(JournalReader(Path(request.journal))) as journal:
            matches = matches_of(ds, journal, Path(request.results_dir))
        return _answer(ds, matches, request, folder)
    except NoScan as why:
        return EditAnswer(state=ReturnedState.UNMATCHED, reason=_short(one_line(why)))
    except MemoryError:
        reason = "it needs more memory than is free"
        return EditAnswer(state=ReturnedState.FAILED, reason=reason)
    except (LimnError, InvalidDicomError, OSError, *DAMAGES) as error:
        if _is_full(error):
            raise
        reason = _short(one_line(error)) or type(error).__name__
        return EditAnswer(state=ReturnedState.FAILED, reason=reason)


def _answer(ds: Dataset, matches: list[Match], request: EditRequest, folder: Path) -> EditAnswer:
    previews = [each.row.name for each in matches if each.preview]
    if previews:
        reason = f"it is of the PREVIEW of {', '.join(previews)}, which its structure set replaces"
        return EditAnswer(state=ReturnedState.PREVIEW, reason=reason)
    edits = {}
    for match in matches:
        edits[match.row.id] = rois = [_edited(pair, match) for pair in match.pairs]
        changed = any(each.change in (Change.EDITED, Change.EMPTIED) for each in rois)
        if request.picture and changed:
            picture = draw_edit(match, rois)
            write_durably(folder / picture_name(match.row.id), picture)
    return EditAnswer(
        state=ReturnedState.MEASURED,
        editor=_editor(ds, matches) if request.editors else "",
        software=" ".join(_texts(ds, ("Manufacturer", "ManufacturerModelName"))),
        edits=edits,
    )


def _edited(pair: Pair, match: Match) -> EditedRoi:
    organ, role = organs_of(match.row).get(pair.before.name, ("", ""))
    name = pair.before.name
    if pair.after is None:
        return EditedRoi(roi=name, organ=organ, role=role, change=Change.ABSENT)
    grid = match.series.grid
    before, after = pair.masks
    found = edit_of(before, after, grid.spacing_mm, grid.axis_letters)
    same = bool((before == after).all())
    change = Change.SAME if same else Change.EDITED if after.any() else Change.EMPTIED
    head, back, left = found.centre_mm
    return EditedRoi(
        roi=name,
        organ=organ,
        role=role,
        came_as=pair.after.name,
        change=change,
        dsc=_number(found.dsc),
        hd95_mm=_number(found.hd95_mm),
        added_path_mm=_number(found.added_path_mm),
        volume_before_mm3=_number(found.volume_before_mm3),
        volume_mm3=_number(found.volume_mm3),
        **{f"{way}_mm": _number(found.surface_mm[way]) for way in Way},
        centre_cranial_mm=_number(head),
        centre_dorsal_mm=_number(back),
        centre_left_mm=_number(left),
    )


def _short(text: str) -> str:
    return text if len(text) <= MOST_LETTERS else f"{text[: MOST_LETTERS - 3]}..."


def _number(value: float) -> float | None:
    return round(value, _DECIMALS) if math.isfinite(value) else None


def _editor(ds: Dataset, matches: Iterable[Match]) -> str:
    """Who corrected it, as the file says: the reviewer, the operator, or who drew the ROIs.

    What limn's own structure set says already is the scanner's operator, who did not.
    """
    own = {text for each in matches for text in _texts(each.series.first, _PEOPLE)}
    drawn = list(ds.get("RTROIObservationsSequence") or ())
    people = [
        *_texts(ds, _PEOPLE),
        *(text for item in drawn for text in _texts(item, ("ROIInterpreter",))),
    ]
    return _short("; ".join(dict.fromkeys(each for each in people if each not in own)))


def _texts(ds: Dataset, keywords: Iterable[str]) -> list[str]:
    found = (decoded_text(ds, keyword).replace("^", " ").strip() for keyword in keywords)
    return [one_line(each) for each in found if each]


def _be_modest() -> None:
    """Give way to every other process, and fail before the system ends one for its memory."""
    step_back()
    if sys.platform != "win32":
        import resource  # noqa: PLC0415 - Windows has none

        free = psutil.virtual_memory().available
        most = psutil.Process().memory_info().vms + min(MOST_BYTES, free // 2)
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_AS, (most, most))


def main() -> None:
    """Read the request, write the answer; end when the engine does."""
    end_with_supervisor()
    _be_modest()
    folder = Path(sys.argv[1])
    try:
        measure(read_request(folder), folder).write(folder)
    except OSError as error:
        if not _is_full(error):
            raise
        sys.exit(DISK_FULL)


def _is_full(error: BaseException) -> bool:
    """Whether a disk or a quota is full."""
    return getattr(error, "errno", None) in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))


if __name__ == "__main__":
    main()
