"""The last order to run a scan again with another bundle, and what became of it: a file each."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from limn.node.permissions import make_private_folder
from limn.node.store.disk.notice import read_notice, write_notice

# While an order waits or runs its note is written so often, and a reader believes it so long.
REWRITE_S = 5.0
BELIEVED_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RerunNote:
    """An order to run a scan again.

    Attributes
    ----------
    scan : its name
    bundle : label of the bundle
    by, why : the person's name and reason
    at : when it was given, UTC seconds
    state : "open" while it waits or runs
    words : how far it is; the new scan's name once it is done; why it failed
    """

    scan: str
    bundle: str
    by: str
    why: str
    at: float
    state: Literal["open", "done", "failed"] = "open"
    words: str = ""


def write_rerun_note(folder: Path, note: RerunNote) -> None:
    """Replace the note of a scan; errors of the disk are ignored."""
    with suppress(OSError):
        make_private_folder(folder)
    write_notice(_path(folder, note.scan), asdict(note), time.time())


def read_rerun_note(folder: Path, scan: str) -> RerunNote | None:
    """The last order for a scan; None if there was none. One that was broken off has failed."""
    now = time.time()
    found = _read(_path(folder, scan), now, math.inf)
    if found is None or found.state != "open":
        return found
    if _read(_path(folder, scan), now, BELIEVED_S) is not None:
        return found
    return RerunNote(
        **asdict(found) | {"state": "failed", "words": "it was broken off; nothing has changed"}
    )


def _read(path: Path, now: float, believed_s: float) -> RerunNote | None:
    contents = read_notice(path, now, believed_s)
    try:
        return None if contents is None else RerunNote(**contents)
    except TypeError:
        return None


def _path(folder: Path, scan: str) -> Path:
    return folder / f"{scan}.json"
