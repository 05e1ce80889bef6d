"""How far a job is: told by the pipeline, passed on a few times a second."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

# Told no more often: each telling goes through the scheduler.
TOLD_EVERY_S = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """How far a job is.

    Attributes
    ----------
    stage : of `limn.domain.timing.DOOR_TO_DOOR_STAGES`
    done, of : tiles that the folds have seen, and all; both 0 before the first
    """

    stage: str
    done: int = 0
    of: int = 0


def to_nobody(_: Told) -> None:
    """For a job that nobody watches."""


@dataclass(slots=True)
class Progress:
    """The progress of one job.

    Parameters
    ----------
    tell : passes it on; it must not raise
    """

    tell: Callable[[Told], None] = to_nobody
    clock: Callable[[], float] = time.monotonic
    _stage: str = ""
    _told_s: float = field(default=-1e9)

    def stage(self, name: str) -> None:
        """A stage begins."""
        if name != self._stage:
            self._stage = name
            self._pass_on(Told(stage=name))

    def tiles(self, done: int, of: int) -> None:
        """The folds have seen so many tiles of so many."""
        if self.clock() - self._told_s >= TOLD_EVERY_S or done == of:
            self._pass_on(Told(stage=self._stage, done=done, of=of))

    def _pass_on(self, told: Told) -> None:
        self._told_s = self.clock()
        self.tell(told)
