"""Lets every other process of a host go first: at the processor, the disk and in memory."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

import psutil

LOWEST = 19
# The kernel ends this process first when memory runs out, and never the worker with live scans.
OOM_SCORE = "1000"


def step_back() -> None:
    """Give this process the lowest priority, for good."""
    own, windows = psutil.Process(), getattr(psutil, "IDLE_PRIORITY_CLASS", None)
    own.nice(LOWEST if windows is None else windows)
    if sys.platform == "linux":
        own.ionice(psutil.IOPRIO_CLASS_IDLE)
        with suppress(OSError):
            score = Path(psutil.PROCFS_PATH, "self", "oom_score_adj")
            score.write_text(OOM_SCORE, encoding="ascii")
