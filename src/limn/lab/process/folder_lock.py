"""A lock on a folder: one run at a time writes there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from limn.domain.errors import ConfigWrong
from limn.domain.folders import writable


@contextmanager
def folder_lock(folder: Path, doing: str, name: str = ".lock") -> Iterator[None]:
    """Make the folder if it is not there, and keep other runs out of it.

    Parameters
    ----------
    doing : completes the error's "another ...", such as "run is writing there"
    name : of the lock's file

    Raises
    ------
    ConfigWrong
        If no file can be written in the folder, or another run has locked it.
    """
    writable(folder)
    lock = FileLock(folder / name)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        msg = f"{folder}: another {doing}; wait for it, or give another folder"
        raise ConfigWrong(msg) from error
    except OSError as error:
        msg = f"{folder}: {error.strerror}"
        raise ConfigWrong(msg) from error
    try:
        yield
    finally:
        lock.release()
