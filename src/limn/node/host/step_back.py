"""Lets every other process of a host go first, in computing and in memory."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import psutil

LOWEST = 19
# The kernel ends this process first when memory runs out, and never the worker with live scans.
OOM_SCORE = "1000"


def step_back() -> None:
    """Give this process the lowest priority, for good."""
    windows = getattr(psutil, "IDLE_PRIORITY_CLASS", None)
    psutil.Process().nice(LOWEST if windows is None else windows)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(OOM_SCORE, encoding="ascii")
