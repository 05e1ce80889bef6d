"""Calls a function in several processes at once, and yields each answer when it is there."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from limn.domain.errors import StageFailed
from limn.lab.process.isolated import end_with_parent

Item = TypeVar("Item")
Answer = TypeVar("Answer")


def in_processes(
    work: Callable[[Item], Answer], items: Sequence[Item], workers: int, doing: str
) -> Iterator[Answer]:
    """Call ``work`` with each item; the answers come in the order in which they are there.

    Parameters
    ----------
    work : of a module, for processes know functions by name
    workers : at most so many processes
    doing : what a process does, for the message: "makes phantoms"

    Raises
    ------
    StageFailed
        If a process was killed.
    """
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(max(1, min(workers, len(items))), context, end_with_parent)
    try:
        for job in as_completed([pool.submit(work, item) for item in items]):
            yield job.result()
    except BrokenProcessPool as error:
        msg = (
            f"a process that {doing} was killed, most likely for lack of memory: give fewer "
            "--workers, and the run resumes where it stopped"
        )
        raise StageFailed(msg) from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
