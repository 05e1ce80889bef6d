"""Work is shared among cores: everything once, and an error comes through."""

import threading

import numpy as np
import pytest

from limn.domain import cores


@pytest.mark.parametrize("machine", [1, 2, 16])
@pytest.mark.parametrize("count", [0, 1, 2, 7, 8, 9, 700])
def test_everything_is_done_once(monkeypatch, machine, count):
    """Whatever the machine and however few there are."""
    monkeypatch.setattr(cores, "_cores", lambda: machine)
    done = np.zeros(count, dtype=int)

    def add(part):
        done[part] += 1

    cores.on_every_core(add, count)
    assert (done == 1).all()


def test_two_cores_work_at_a_time(monkeypatch):
    """Neither of two parts ends before the other has begun."""
    monkeypatch.setattr(cores, "_cores", lambda: 2)
    both = threading.Barrier(2, timeout=20)
    cores.on_every_core(lambda part: both.wait(), 2)


def test_an_error_reaches_the_caller(monkeypatch):
    """That of the first part that has one."""
    monkeypatch.setattr(cores, "_cores", lambda: 2)

    def refuse(part):
        msg = f"part {part.start}"
        raise ValueError(msg)

    with pytest.raises(ValueError, match="part 0"):
        cores.on_every_core(refuse, 10)
