"""Work in a process of its own, with its own environment and log, that ends with its parent."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from limn.domain.errors import StageFailed

# A child takes over the environment of its parent, which all threads share.
_STARTING = threading.Lock()


def run_alone(
    work: Callable[..., None], arguments: tuple[Any, ...], log: Path, environment: Mapping[str, str]
) -> None:
    """Call a function of a module in a fresh interpreter, and wait for it.

    Parameters
    ----------
    log : all that it prints, added to what is there
    environment : set before anything is imported

    Raises
    ------
    StageFailed
        If it did not come to its end; the text has its last line and names the log.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with _STARTING, _environment(environment):
        process = multiprocessing.get_context("spawn").Process(
            target=_logged, args=(work, arguments, log)
        )
        process.start()
    process.join()
    if process.exitcode:
        msg = f"{_why(process.exitcode, log)} ({log}); start again to go on"
        raise StageFailed(msg)


def end_all() -> None:
    """End whatever `run_alone` has begun, with all that it began itself."""
    for process in multiprocessing.active_children():
        _end_descendants(process.pid)
        process.terminate()


def cores() -> int:
    """How many this process may use: a batch system may have lent it a few of many."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def end_with_parent() -> None:
    """To be called in a child: whose parent was killed would work or wait for ever."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        _end_descendants(os.getpid())
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _logged(work: Callable[..., None], arguments: tuple[Any, ...], log: Path) -> None:
    end_with_parent()
    with log.open("a", buffering=1, encoding="utf-8") as file:
        # What native code and the children of this process print goes there too.
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        sys.stdout = sys.stderr = file
        faulthandler.enable(file)
        try:
            work(*arguments)
        except BaseException:  # noqa: BLE001 - whatever ends it goes into the log
            traceback.print_exc(file=file)
            file.flush()
            _end_descendants(os.getpid())
            os._exit(1)


def _end_descendants(pid: int | None) -> None:
    """Ask all that a process began to end: trainers' data workers would outlive them.

    multiprocessing's own tracker does not listen, and clears up after the rest.
    """
    with suppress(psutil.NoSuchProcess):
        for process in psutil.Process(pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                process.terminate()


def _why(exitcode: int, log: Path) -> str:
    if exitcode < 0:
        name = signal.Signals(-exitcode).name
        short = " (out of memory?)" if name == "SIGKILL" else ""
        return f"ended by {name}{short}"
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else f"it ended with {exitcode}"


@contextmanager
def _environment(added: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in added}
    os.environ.update(added)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
