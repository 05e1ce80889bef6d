"""Durable writes: a file or folder is there whole or not at all, and survives a power cut.

``write_durably`` for bytes, ``replacement`` for a writer that wants a path, ``new_folder`` for
several files that belong together. All of them promise:

- A reader finds the old contents or the new ones under the name, never a part of them.
- Once the call or the ``with`` block has returned, the contents and the name survive a power cut.
- An error before the rename leaves the old contents as they were, and no part is left beside them.
- A process that is killed may leave a hidden ``.NAME.part``; the next write removes it first.
- If only the last step fails, the fsync of the folder's names, the error is raised and the new
  contents stay.

One writer at a time is expected for a name. Readers need no lock.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def write_durably(path: Path, contents: bytes, mode: int = 0o666) -> None:
    """Write a file or replace it; the umask is taken off ``mode``."""
    with (
        replacement(path) as part,
        open(part, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as file,
    ):
        file.write(contents)


@contextmanager
def replacement(path: Path, ending: str = "") -> Iterator[Path]:
    """Yield the path of a part to be written, which replaces ``path`` when the block ends.

    Parameters
    ----------
    ending : of the part's name, such as ".nii.gz", for a writer that takes the format from it
    """
    part = path.with_name(f".{path.name}.part{ending}")
    part.unlink(missing_ok=True)
    try:
        yield part
        _fsync_file(part)
        part.replace(path)
    except BaseException:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder to be filled, which gets the name ``path`` when the block ends.

    Raises
    ------
    OSError
        If a file or a folder with files stands at ``path``; it stays as it was.
    """
    part = path.with_name(f".{path.name}.part")
    if part.exists():
        shutil.rmtree(part)
    part.mkdir()
    try:
        yield part
        for inside in part.rglob("*"):
            if inside.is_dir():
                fsync_folder(inside)
            else:
                _fsync_file(inside)
        fsync_folder(part)
        part.rename(path)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    fsync_folder(path.parent)


def fsync_folder(folder: Path) -> None:
    """Names that were made or changed in a folder survive a power cut once this returns."""
    if os.name == "nt":
        # Folders can't be opened there; NTFS keeps a journal of names itself.
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _fsync_file(path: Path) -> None:
    windows = os.name == "nt"
    if windows and not os.access(path, os.W_OK):
        # Windows syncs only what was opened for writing; this file is a link to one written before.
        return
    with path.open("r+b") if windows else path.open("rb") as file:
        os.fsync(file.fileno())
