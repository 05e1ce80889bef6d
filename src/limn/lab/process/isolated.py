"""A function in an isolated process: its own environment, its own log, an end with its parent."""

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

# A child inherits the environment of its parent, and all threads of the parent share that.
_STARTING = threading.Lock()


def run_isolated(
    work: Callable[..., None], arguments: tuple[Any, ...], log: Path, environment: Mapping[str, str]
) -> None:
    """Call a function of a module in a new interpreter, and wait for it.

    Parameters
    ----------
    log : file to which everything that the process prints is appended
    environment : variables that are set before the process imports anything

    Raises
    ------
    StageFailed
        If the process failed or was killed; the text has its last line and names the log.
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


def end_isolated() -> None:
    """End every process that `run_isolated` started, and the children of each."""
    for process in multiprocessing.active_children():
        _end_descendants(process.pid)
        process.terminate()


def cores() -> int:
    """Number of cores that this process may use; a batch system may allow it only some."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def end_with_parent() -> None:
    """Call this in a child: else the child of a killed parent would work or wait for ever."""
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
        # Native code and child processes print to the descriptors, not to sys.stdout.
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        sys.stdout = sys.stderr = file
        faulthandler.enable(file)
        try:
            work(*arguments)
        except BaseException:  # noqa: BLE001 - the log names every reason
            traceback.print_exc(file=file)
            file.flush()
            _end_descendants(os.getpid())
            os._exit(1)


def _end_descendants(pid: int | None) -> None:
    """Terminate the descendants of a process: a trainer's data workers would outlive it.

    multiprocessing's resource tracker ignores the signal, and cleans up after the others.
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
    return lines[-1] if lines else f"the process ended with exit code {exitcode}"


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
