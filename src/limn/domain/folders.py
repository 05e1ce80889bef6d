"""Folders that a person names, tried before anything long begins."""

from __future__ import annotations

import tempfile
from pathlib import Path

from limn.domain.errors import ConfigWrong


def writable(folder: Path) -> Path:
    """The folder, made if need be and found fit to hold files.

    Raises
    ------
    ConfigWrong
        If it can't be made, is none, or takes no file; the text names it and what to do.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Permission bits don't tell: file systems may be read-only, and root may not write all.
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        msg = f"{folder}: {error.strerror}; give a folder that you may write to"
        raise ConfigWrong(msg) from error
    return folder
