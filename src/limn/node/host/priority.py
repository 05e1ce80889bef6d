"""The lowest priority, for processes that no scan may wait for."""

from __future__ import annotations

import os
import sys

import psutil


def take_lowest() -> None:
    """Give this process what the others leave of processor and disk."""
    own = psutil.Process()
    if os.name == "posix":
        own.nice(19)
    else:
        own.nice(psutil.IDLE_PRIORITY_CLASS)
    if hasattr(own, "ionice") and sys.platform == "linux":
        own.ionice(psutil.IOPRIO_CLASS_IDLE)
