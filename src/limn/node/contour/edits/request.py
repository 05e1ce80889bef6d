"""What the engine asks of the process that measures a structure set, and what that answers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from limn.node.store.journal.edits.rows import Change, EditedRoi, ReturnedState

REQUEST, ANSWER = "request.json", "answer.json"
# The process ends with this code if a disk is full: the file is not to blame (EX_TEMPFAIL).
DISK_FULL = 75


@dataclass(frozen=True, slots=True, kw_only=True)
class EditRequest:
    """A structure set that came back, and where limn's own are.

    Attributes
    ----------
    picture : whether a picture of each edit is wanted
    editors : whether the name of who corrected it may be kept
    """

    file: str
    journal: str
    results_dir: str
    picture: bool
    editors: bool

    def write(self, folder: Path) -> None:
        """Write it where the process looks for it."""
        (folder / REQUEST).write_text(json.dumps(asdict(self)), encoding="utf-8")


def read_request(folder: Path) -> EditRequest:
    """What the engine asks."""
    return EditRequest(**json.loads((folder / REQUEST).read_text(encoding="utf-8")))


@dataclass(frozen=True, slots=True, kw_only=True)
class EditAnswer:
    """What the process found.

    Attributes
    ----------
    edits : number of each scan that the structure set is of, to its ROIs
    """

    state: ReturnedState
    reason: str = ""
    editor: str = ""
    software: str = ""
    edits: Mapping[int, Sequence[EditedRoi]] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write it where the engine looks for it."""
        (folder / ANSWER).write_text(json.dumps(asdict(self)), encoding="utf-8")


def read_answer(folder: Path) -> EditAnswer | None:
    """The answer; None if the process ended without one."""
    try:
        values: dict[str, Any] = json.loads((folder / ANSWER).read_text(encoding="utf-8"))
        edits = {
            int(scan): [EditedRoi(**{**roi, "change": Change(roi["change"])}) for roi in rois]
            for scan, rois in values.pop("edits").items()
        }
        state = ReturnedState(values.pop("state"))
        return EditAnswer(state=state, edits=edits, **values)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def picture_name(scan: int) -> str:
    """The picture of a scan's edit in the folder of the process."""
    return f"edit-{scan}.png"
