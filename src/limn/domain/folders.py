"""Folders that a person names: checked before any long work begins, and their files."""

from __future__ import annotations

import os
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
        msg = f"{folder}: {error.strerror}; give a folder that you may write to"
        raise ConfigWrong(msg) from error
    return folder
