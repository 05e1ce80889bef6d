"""Steps of no study, in a module that is soon imported: each runs in a fresh interpreter."""

import os
import signal
import subprocess
import sys


def end_well(path):
    """A step."""
    path.write_text(os.environ.get("CUDA_VISIBLE_DEVICES", "none"), encoding="utf-8")
    sys.stdout.write("wrote it\n")


def end_badly():
    """A step that fails."""
    raise ValueError("no such luck")


def leave_a_child(noted):
    """A step that dies with a child which never asks after it, as trainers' data workers."""
    child = subprocess.Popen(["sleep", "600"])
    noted.write_text(str(child.pid), encoding="utf-8")
    raise MemoryError("no room")


def start_a_child_and_wait(noted):
    """A step that is killed amid its work."""
    child = subprocess.Popen(["sleep", "600"])
    noted.write_text(str(child.pid), encoding="utf-8")
    child.wait()


def be_killed():
    """A step that the system ends, as it does for want of memory."""
    os.kill(os.getpid(), signal.SIGKILL)
