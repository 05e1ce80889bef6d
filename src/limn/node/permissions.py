"""Sets and checks the permissions of files: POSIX modes; Windows has the folder's access list."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from limn.domain.errors import ConfigWrong
from limn.domain.files import OWNER_ONLY_FILE

OWNER_ONLY_FOLDER = 0o700


def make_private_folder(folder: Path) -> None:
    """Create a folder for its owner alone; an existing one is the site's decision."""
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=OWNER_ONLY_FOLDER, exist_ok=True)


def make_private_file(path: Path) -> None:
    """Create an empty file for its owner alone, unless it exists."""
    if not path.exists():
        path.touch(mode=OWNER_ONLY_FILE)


def check_not_others(path: Path, what: str) -> None:
    """Refuse a file that every user may change (on POSIX); a group is the site's decision.

    Raises
    ------
    ConfigWrong
        The text says what to do.
    """
    if os.name == "posix" and path.exists() and (mode := path.stat().st_mode) & 0o002:
        msg = f"{what} {path} can be changed by anybody (mode {mode & 0o777:04o}): chmod o-w {path}"
        raise ConfigWrong(msg)


def check_usable(folder: Path, patterns: Iterable[str]) -> None:
    """Refuse a data folder that everybody may change, or with a file that this user can't use.

    Parameters
    ----------
    patterns : of the files and folders in it that limn makes

    Raises
    ------
    ConfigWrong
        The text names the first such file and the mend.
    """
    check_not_others(folder, "data_dir")
    _check_parents(folder)
    for path in (each for pattern in patterns for each in folder.glob(pattern)):
        wanted = os.R_OK | os.W_OK | (os.X_OK if path.is_dir() else 0)
        if not os.access(path, wanted) and path.exists():
            msg = (
                f"{path} can't be read and written by this user{_owner(path)}; did limn run as "
                "another user before? Give data_dir to the user that runs limn: "
                f"chown -R USER {folder}"
            )
            raise ConfigWrong(msg)
        check_not_others(path, "folder" if path.is_dir() else "file")


def _check_parents(folder: Path) -> None:
    """Refuse a folder above data_dir in which anybody may put another one in its place."""
    if os.name != "posix":
        return
    for parent in folder.resolve().parents:
        mode = parent.stat().st_mode
        if mode & 0o002 and not mode & stat.S_ISVTX:
            msg = (
                f"anybody may put another folder in the place of data_dir {folder}: {parent} "
                f"can be changed by anybody (mode {mode & 0o7777:04o}): chmod o-w {parent}"
            )
            raise ConfigWrong(msg)


def _owner(path: Path) -> str:
    try:
        return f", it belongs to {path.owner()}"
    except (KeyError, OSError, NotImplementedError):
        return ""


def check_private(path: Path, what: str) -> None:
    """Refuse a secret file that users other than its owner can read.

    Raises
    ------
    ConfigWrong
        If it is absent, or (on POSIX) readable by group or others; the text says what to do.
    """
    try:
        mode = path.stat().st_mode
        path.open("rb").close()
    except OSError as error:
        msg = f"{what} {path}: {error.strerror}"
        raise ConfigWrong(msg) from error
    if os.name == "posix" and mode & 0o077:
        msg = f"{what} {path} can be read by others (mode {mode & 0o777:04o}): chmod 600 {path}"
        raise ConfigWrong(msg)
