"""Durable writes: a file or folder is there whole or not at all, and survives a power cut.

``write_durably`` for bytes, ``replacement`` for a writer that wants a path, ``new_folder`` for
several files that belong together. All of them promise:

- A reader finds the old contents or the new ones under the name, never a part of them.
- Once the call or the ``with`` block has returned, the contents and the name survive a power cut.
- An error before the rename leaves the old contents as they were, and no part is left beside them.
- No link that others put in the folder is followed, and no FIFO waited for: a part is made anew,
  under a name that nobody knows before, and what stands at the name itself is replaced.
- A process that is killed may leave a hidden part, ``.NAME.<16 digits>.part``; the first write of
  the name by another process removes it. A process lists a folder once, as it may have very many
  files.
- If only the last step fails, the fsync of the folder's names, the error is raised and the new
  contents stay.

One writer at a time is expected for a name. Readers need no lock.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import stat
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# The same call may succeed a moment later: too many open files, a share or a disk that stalls.
_PASSING = {
    getattr(errno, name)
    for name in (
        *("EAGAIN", "EBUSY", "EHOSTDOWN", "EHOSTUNREACH", "EINTR", "EIO", "EMFILE", "ENETUNREACH"),
        *("ENFILE", "ENOBUFS", "ENOMEM", "ESTALE", "ETIMEDOUT", "EREMOTEIO"),
    )
    if hasattr(errno, name)
}
# For its owner alone.
OWNER_ONLY_FILE = 0o600
# Windows changes line ends in a file that is not opened as binary, and has none of the others.
_FLAGS = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY", "O_CLOEXEC"))


def may_pass(error: OSError) -> bool:
    """Whether an error of a read may be gone at the next try: nobody need act for it."""
    return error.errno in _PASSING


def write_durably(path: Path, contents: bytes, mode: int = 0o666) -> None:
    """Write a file or replace it; the umask is taken off ``mode``."""
    part = _new_part(path)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS, mode)
    with _replacing(path, part), os.fdopen(descriptor, "wb") as file:
        file.write(contents)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def replacement(path: Path, ending: str = "") -> Iterator[Path]:
    """Yield the path of a part to be written, which replaces ``path`` when the block ends.

    Parameters
    ----------
    ending : of the part's name, such as ".nii.gz", for a writer that takes the format from it
    """
    part = _new_part(path, ending)
    with _replacing(path, part):
        yield part
        _fsync_file(part)


@contextmanager
def _replacing(path: Path, part: Path) -> Iterator[None]:
    """Let the part that the block has written replace ``path``; remove it if the block fails."""
    try:
        yield
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
    part = _new_part(path)
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


def _new_part(path: Path, ending: str = "") -> Path:
    """A name for a part that nobody can guess; what a killed process left is removed."""
    name = re.escape(f".{path.name}")
    # Earlier limn had no digits in the name.
    left = re.compile(rf"{name}(\.[0-9a-f]{{16}})?\.part{re.escape(ending)}", re.DOTALL)
    for part in _LEFT.taken(path.parent, left):
        _remove(part)
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.part{ending}")


class _LeftParts:
    """The names in each folder that may be parts, as this process found them at its first write."""

    def __init__(self, most: int) -> None:
        self._found: OrderedDict[Path, set[str]] = OrderedDict()
        self._most = most
        self._lock = threading.Lock()

    def taken(self, folder: Path, name: re.Pattern[str]) -> list[Path]:
        """Those that match, which are then forgotten.

        Raises
        ------
        OSError
            If the folder can't be listed.
        """
        folder = folder.absolute()
        with self._lock:
            known = self._found.get(folder)
        # Not under the lock: a share that hangs must hold up no other folder.
        found = _possible_parts(folder) if known is None else known
        with self._lock:
            found = self._found.setdefault(folder, found)
            self._found.move_to_end(folder)
            if len(self._found) > self._most:
                self._found.popitem(last=False)
            taken = [each for each in found if name.fullmatch(each)]
            found.difference_update(taken)
        return [folder / each for each in taken]


# Of a folder that was forgotten the names are listed again.
_LEFT = _LeftParts(most=1000)


def _possible_parts(folder: Path) -> set[str]:
    with os.scandir(folder) as entries:
        names = (entry.name for entry in entries)
        return {name for name in names if name.startswith(".") and ".part" in name}


def _remove(part: Path) -> None:
    """Remove a part, whatever it is; one that belongs to somebody else may stay."""
    if part.is_dir() and not part.is_symlink():
        shutil.rmtree(part, ignore_errors=True)
    else:
        with suppress(OSError):
            part.unlink()


def fsync_folder(folder: Path) -> None:
    """Names that were made or changed in a folder survive a power cut once this returns."""
    if os.name == "nt":
        # Folders can't be opened there; NTFS keeps a journal of names itself.
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _fsync_file(path: Path) -> None:
    windows = os.name == "nt"
    if windows and not os.access(path, os.W_OK):
        # Windows syncs only what was opened for writing; this file is a link to one written before.
        return
    descriptor = os.open(path, (os.O_RDWR if windows else os.O_RDONLY) | _FLAGS)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "no regular file", str(path))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
