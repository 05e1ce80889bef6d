"""A folder for one run at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from limn.domain.errors import ConfigWrong
from limn.domain.folders import writable


@contextmanager
def sole(folder: Path, doing: str, name: str = ".lock") -> Iterator[None]:
    """The folder, made if need be, for this run alone.

    Parameters
    ----------
    doing : what another run does there, such as "is writing there"
    name : of the lock's file

    Raises
    ------
    ConfigWrong
        If the folder takes no file, or another run has it.
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
