"""One node on a data folder: a lock that a deleted lock file does not undo."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout

from limn.domain.errors import ConfigWrong
from limn.node.config import Config

if sys.platform != "win32":
    import fcntl


@contextmanager
def only_node(config: Config, name: str) -> Iterator[None]:
    """Hold the data folder for the ``with`` block.

    A program that sweeps old files may delete the lock file, and a second lock on a new file of
    that name would succeed. So the node holds the folder too, where the system can lock one.

    Parameters
    ----------
    name : of the part of a node, such as "limn" or "worker"; parts may share a folder

    Raises
    ------
    ConfigWrong
        If another process holds it.
    """
    lock = FileLock(config.data_dir / f"{name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise _taken(config) from error
    with lock:
        if name != "limn" or sys.platform == "win32":
            # Windows deletes no file that a process has open.
            yield
            return
        folder = os.open(config.data_dir, os.O_RDONLY)
        try:
            _lock_folder(folder, config)
            yield
        finally:
            os.close(folder)


def _lock_folder(descriptor: int, config: Config) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise _taken(config) from error
    except OSError:
        # Some network file systems lock no folder; the lock file remains.
        return


def _taken(config: Config) -> ConfigWrong:
    return ConfigWrong(f"another limn runs on {config.data_dir}; stop it first")
