"""Checks folders that a person names before any long work begins."""

from __future__ import annotations

import tempfile
from pathlib import Path

from limn.domain.errors import ConfigWrong


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
