"""Sets and checks the permissions of files: POSIX modes; Windows has the folder's access list."""

from __future__ import annotations

import os
from pathlib import Path

from limn.domain.errors import ConfigWrong

OWNER_ONLY_FOLDER = 0o700
OWNER_ONLY_FILE = 0o600


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
