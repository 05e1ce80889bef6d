"""Durations between wall-clock times, whatever is done to the clock while this process runs."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

# NTP moves a clock by less than this without a step.
STEP_S = 0.5


@dataclass(slots=True)
class _Stretch:
    """A time without a step: from and to (monotonic seconds), and wall minus monotonic clock."""

    from_s: float
    to_s: float
    offset_s: float


class ClockHistory:
    """How far the wall clock was from the monotonic clock at any time since this process began.

    All processes of a node record wall-clock times (UTC seconds). A step of the clock lies between
    two calls of `look`; times from before this process began are taken as recorded without a step.
    """

    def __init__(self) -> None:
        self._looked_s = time.monotonic()
        offset_s = time.time() - self._looked_s
        self._stretches = [_Stretch(-math.inf, math.inf, offset_s)]

    def look(self) -> None:
        """Notice a step of the clock since the last look."""
        now_s = time.monotonic()
        offset_s = time.time() - now_s
        last = self._stretches[-1]
        if abs(offset_s - last.offset_s) >= STEP_S:
            last.to_s = now_s
            self._stretches.append(_Stretch(self._looked_s, math.inf, offset_s))
        else:
            last.offset_s = offset_s
        self._looked_s = now_s

    def elapsed_s(self, began_at: float, ended_at: float) -> float:
        """Seconds between two wall-clock times; negative only if a step can't be told."""
        self.look()
        began_s, ended_s = self._monotonic_s(began_at), self._monotonic_s(ended_at)
        if began_s is None or ended_s is None or ended_s < began_s:
            return ended_at - began_at
        return ended_s - began_s

    def _monotonic_s(self, at: float) -> float | None:
        """The monotonic time at which the wall clock showed ``at``; None if it never did."""
        for stretch in reversed(self._stretches):
            at_s = at - stretch.offset_s
            if stretch.from_s <= at_s <= min(stretch.to_s, self._looked_s + STEP_S):
                return at_s
        return None
