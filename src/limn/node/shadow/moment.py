"""Decides when the shadow bundle draws: in a lull of the node, with memory to spare (D-272)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

# A lull must have lasted so long before the shadow begins: scans often come in a row.
LULL_S = 5.0
# Free memory without which it does not begin: what a worker of the embedded bundle takes, and room
# for the next live scan. With less than the second figure it gives up.
BEGIN_BYTES, KEEP_BYTES = 3 * 2**30, 2**29


class Step(StrEnum):
    """What is done at a moment."""

    WAIT = "wait"
    BEGIN = "begin"
    GO_ON = "go on"
    GIVE_UP = "give up"


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """What counts for the decision.

    Attributes
    ----------
    broken_by : what there is to do for live scans; empty in a lull
    lull_s : how long the lull has lasted
    free_bytes : memory that the host could give to a process
    due : how many scans the shadow has to draw
    draws : whether it draws now
    """

    broken_by: str
    lull_s: float
    free_bytes: int
    due: int
    draws: bool

    @property
    def why_not(self) -> str:
        """Why the shadow must not draw now; empty if it may."""
        if self.broken_by:
            return self.broken_by
        if self.free_bytes < (KEEP_BYTES if self.draws else BEGIN_BYTES):
            return f"{self.free_bytes / 2**30:.1f} GiB of memory are free"
        return ""

    def step(self) -> Step:
        """What to do now."""
        if self.draws:
            return Step.GIVE_UP if self.why_not else Step.GO_ON
        begins = self.due > 0 and self.lull_s >= LULL_S and not self.why_not
        return Step.BEGIN if begins else Step.WAIT
