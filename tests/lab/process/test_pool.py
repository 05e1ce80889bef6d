"""Several processes at once, and what is said if one of them is killed."""

import os
import signal
from functools import partial

import pytest

from limn.domain.errors import StageFailed
from limn.lab.process.pool import in_processes


def kill_itself(number):
    """As the system does when memory is short."""
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("workers", [1, 2])
def test_every_item_is_answered(workers):
    """In any order, by other processes than this one."""
    assert sorted(in_processes(partial(pow, 2), (1, 2, 3), workers, "counts")) == [2, 4, 8]
    (pid,) = in_processes(_pid, (0,), workers, "counts")
    assert pid != os.getpid()


def _pid(_):
    return os.getpid()


def test_no_item_starts_nothing():
    """An empty list has no answers."""
    assert list(in_processes(_pid, (), 2, "counts")) == []


def test_a_killed_process_is_named():
    """The message says what it did, and that the run goes on."""
    with pytest.raises(StageFailed, match="a process that counts was killed, most likely for lack"):
        list(in_processes(kill_itself, (1, 2), 2, "counts"))
