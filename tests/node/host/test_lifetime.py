import os
import select
import signal
import subprocess
import sys

import pytest

from limn.node.host import lifetime

WATCHING = """
import subprocess, sys, time
from limn.node.host import lifetime
lifetime.end_with_supervisor()
print("up", flush=True)
"""
SLEEPING = WATCHING + "time.sleep(60)"
PARENT = f"""
import subprocess, sys, time
pipe = subprocess.PIPE
child = subprocess.Popen([sys.executable, "-c", {SLEEPING!r}], stdin=pipe, stdout=pipe)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(60)
"""


def child(then: str) -> subprocess.Popen[bytes]:
    """A process that ends with its supervisor, and what it does meanwhile."""
    started = subprocess.Popen(
        [sys.executable, "-c", WATCHING + then], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert started.stdout is not None
    assert started.stdout.readline() == b"up\n"
    return started


@pytest.mark.parametrize("then", ["time.sleep(60)", "while True: pass"])
def test_a_child_ends_when_its_input_closes(then):
    """Whether it waits or computes, it does not outlive its supervisor."""
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
    """SIGKILL runs no clean-up code, but the pipe closes all the same."""
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE)
    pid = int(parent.stdout.readline())
    watched = os.pidfd_open(pid)
    parent.send_signal(signal.SIGKILL)
    parent.wait(10)
    ended, _, _ = select.select([watched], [], [], 10)
    os.close(watched)
    parent.stdout.close()
    assert ended


def test_a_child_that_is_asked_to_stop_finishes_first():
    """Windows has no SIGTERM; the message through the pipe does the same."""
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


def test_on_posix_a_signal_requests_the_stop():
    """An init system and an operator send the same signal to a process that runs alone."""
    process = child("time.sleep(60)")
    lifetime.request_stop(process)
    assert process.wait(10) == -signal.SIGTERM
    process.stdin.close()
    process.stdout.close()
