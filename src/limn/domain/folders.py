"""Folders that a person names: checked before any long work begins, and their files."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from limn.domain.errors import ConfigWrong


def files_below(folder: Path) -> list[Path]:
    """Every file below a folder, sorted; links to files count, links to folders are not followed.

    A file that can't be looked at counts too, so that reading it names it.
    """
    found = []
    for root, _, names in os.walk(folder):
        for path in (Path(root, name) for name in names):
            try:
                is_file = path.is_file()
            except OSError:
                is_file = True
            if is_file:
                found.append(path)
    return sorted(found)


def not_a_folder(path: Path) -> str:
    """What stands where a folder is expected, for people; empty for a folder, or for nothing."""
    try:
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            try:
                mode = path.stat().st_mode
            except FileNotFoundError:
                return f"it is a link to {path.readlink()}, which does not exist"
    except OSError:
        return ""
    if stat.S_ISDIR(mode):
        return ""
    kinds = {stat.S_IFIFO: "a pipe (FIFO)", stat.S_IFSOCK: "a socket", stat.S_IFREG: "a file"}
    return f"it is {kinds.get(stat.S_IFMT(mode), 'a device')}, a folder is expected"


def writable(folder: Path) -> Path:
    """Create the folder if it is missing, and check that it takes files.

    Raises
    ------
    ConfigWrong
        If it can't be created or takes no file; the text names it and what to do.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Permission bits are not enough: a file system may be read-only, even for root.
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        why = not_a_folder(folder) or error.strerror
        msg = f"{folder}: {why}; give a folder that you may write to"
        raise ConfigWrong(msg) from error
    return folder
