"""A file is there whole, or not at all; a name survives a power cut."""

from __future__ import annotations

import os
from pathlib import Path


def write_durably(path: Path, contents: bytes, mode: int = 0o666) -> None:
    """Temp file, fsync, rename, fsync of the folder; ``mode`` as the umask leaves it."""
    part = path.with_name(f".{path.name}.part")
    with open(part, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
        file.write(contents)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
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
