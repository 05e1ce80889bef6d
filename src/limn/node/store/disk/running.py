"""How far the scans are that workers contour, and when those that wait are expected."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from limn.node.store.disk.notice import read_notice, write_notice

# While a scan runs the engine writes the file at least so often, and a reader believes it so long.
REWRITE_S = 5.0
BELIEVED_S = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningScan:
    """A scan that a worker contours, or that waits for one.

    Attributes
    ----------
    scan : its number
    stage : of `limn.domain.timing.DOOR_TO_DOOR_STAGES`; "queue_s" of a scan that waits
    share : of the work that is done, 0 to 1; None where nothing is known of such scans yet
    ends_at : when its contours are expected, UTC seconds; None as well
    preview : whether they are a preview's
    of_stage : the share of the stage alone, which the worker tells; None if the stage has no parts
    """

    scan: int
    stage: str
    share: float | None
    ends_at: float | None
    preview: bool = False
    of_stage: float | None = None


def write_running(path: Path, scans: Sequence[RunningScan], now: float) -> None:
    """Replace the file; errors are ignored."""
    write_notice(path, [asdict(each) for each in scans], now)


def read_running(path: Path, now: float) -> dict[int, RunningScan]:
    """The scans that run or wait, by their number; none if the engine has not written lately."""
    try:
        found = [RunningScan(**each) for each in read_notice(path, now, BELIEVED_S) or ()]
    except TypeError:
        return {}
    return {
        each.scan: each for each in found if each.ends_at is None or math.isfinite(each.ends_at)
    }
