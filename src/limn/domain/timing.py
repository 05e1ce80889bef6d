"""Measures the stages of a scan."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

# The stages whose sum is door_to_door_s, in their order.
DOOR_TO_DOOR_STAGES = (
    "settle_s",
    "queue_s",
    "transfer_s",
    "read_s",
    "preprocess_s",
    "inference_s",
    "clean_s",
    "judge_s",
    "trace_s",
    "rtstruct_s",
    "prove_s",
    "picture_s",
    "deliver_s",
    "overhead_s",
)
# The paper's runtime: "from data preparation up to exportation of the automated contours".
RUNTIME_STAGES = (
    "read_s",
    "preprocess_s",
    "inference_s",
    "clean_s",
    "judge_s",
    "trace_s",
    "rtstruct_s",
    "prove_s",
)


def _unwatched(_: str) -> None:
    """Nobody follows the stages."""


@dataclass(slots=True)
class Stopwatch:
    """Seconds per stage, from a monotonic clock that tests can replace.

    Attributes
    ----------
    began : called with the name of each stage as it begins
    """

    clock: Callable[[], float] = time.perf_counter
    elapsed_s: dict[str, float] = field(default_factory=dict)
    began: Callable[[str], None] = _unwatched

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time spent inside to a stage such as ``read_s``."""
        self.began(name)
        started = self.clock()
        try:
            yield
        finally:
            self.elapsed_s[name] = self.elapsed_s.get(name, 0.0) + self.clock() - started


def in_words(seconds: float) -> str:
    """A duration for a person who waits."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
