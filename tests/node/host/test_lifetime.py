import os
import select
import signal
import subprocess
import sys

import pytest

from limn.node.host import lifetime

HOLDING = """
import subprocess, sys, time
from limn.node import lifeline
lifeline.hold()
print("up", flush=True)
"""
SLEEPING = HOLDING + "time.sleep(60)"
PARENT = f"""
import subprocess, sys, time
pipe = subprocess.PIPE
child = subprocess.Popen([sys.executable, "-c", {SLEEPING!r}], stdin=pipe, stdout=pipe)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(60)
"""


def child(then: str) -> subprocess.Popen[bytes]:
    """A process that holds its lifeline and then does something."""
    started = subprocess.Popen(
        [sys.executable, "-c", HOLDING + then], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert started.stdout is not None
    assert started.stdout.readline() == b"up\n"
    return started


@pytest.mark.parametrize("then", ["time.sleep(60)", "while True: pass"])
def test_a_child_ends_when_its_input_closes(then):
    """Waiting or computing, it does not outlive its supervisor."""
    process = child(then)
    assert process.poll() is None
    process.stdin.close()
    assert process.wait(10) == 3
    process.stdout.close()


def test_a_child_lives_while_its_input_is_open():
    """What is written to it changes nothing."""
    process = child("time.sleep(0.3); print('done', flush=True)")
    process.stdin.write(b"hello\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"done\n"
    assert process.wait(10) == 0
    process.stdin.close()
    process.stdout.close()


def test_a_child_can_end_by_itself():
    """The waiting thread does not keep the interpreter from exiting."""
    process = child("")
    assert process.wait(10) == 0
    process.stdin.close()
    process.stdout.close()


def test_a_child_ends_when_its_parent_is_killed():
    """SIGKILL leaves no time to say goodbye; the pipe closes all the same."""
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE)
    pid = int(parent.stdout.readline())
    watched = os.pidfd_open(pid)
    parent.send_signal(signal.SIGKILL)
    parent.wait(10)
    ended, _, _ = select.select([watched], [], [], 10)
    os.close(watched)
    parent.stdout.close()
    assert ended


def test_a_child_told_to_stop_finishes_first():
    """On Windows there is no SIGTERM to send; what comes through the pipe does the same."""
    process = child(
        "import signal, threading\n"
        "stopping = threading.Event()\n"
        "signal.signal(signal.SIGTERM, lambda *_: stopping.set())\n"
        "print('waiting', flush=True)\n"
        "while not stopping.wait(0.05): pass\n"
        "print('finished', flush=True)\n"
    )
    assert process.stdout.readline() == b"waiting\n"
    process.stdin.write(lifetime.STOP)
    process.stdin.flush()
    assert process.stdout.readline() == b"finished\n"
    assert process.wait(10) == 0
    process.stdin.close()
    process.stdout.close()


def test_on_posix_a_signal_asks():
    """An init system and a person do the same to a process that runs alone."""
    process = child("time.sleep(60)")
    lifetime.ask_to_stop(process)
    assert process.wait(10) == -signal.SIGTERM
    process.stdin.close()
    process.stdout.close()
