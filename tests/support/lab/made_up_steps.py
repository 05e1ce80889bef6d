"""Made-up steps, in a module that is imported fast, for each runs in a new interpreter."""

import os
import signal
import subprocess
import sys


def end_well(path):
    """A step that succeeds."""
    path.write_text(os.environ.get("CUDA_VISIBLE_DEVICES", "none"), encoding="utf-8")
    sys.stdout.write("wrote it\n")


def end_badly():
    """A step that fails."""
    raise ValueError("no such luck")


def leave_a_child(noted):
    """A step that fails and leaves a child that does not watch it, as trainers do."""
    child = subprocess.Popen(["sleep", "600"])
    noted.write_text(str(child.pid), encoding="utf-8")
    raise MemoryError("no room")


def start_a_child_and_wait(noted):
    """A step that waits for its child."""
    child = subprocess.Popen(["sleep", "600"])
    noted.write_text(str(child.pid), encoding="utf-8")
    child.wait()


def be_killed():
    """A step that the system kills, as it does when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)
