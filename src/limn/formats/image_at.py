"""Says which image of another format than DICOM a file or folder is, and what reads it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from limn.domain.scan import Volume
from limn.formats.image_file import SUFFIXES, is_image_file, read_image_file
from limn.formats.inveon import is_inveon, read_inveon
from limn.formats.skyscan import read_skyscan, skyscan_log


@dataclass(frozen=True, slots=True)
class Image:
    """An image of another format than DICOM: the file that describes it, and what reads it."""

    path: Path
    read: Callable[[Path, str], Volume]


def image_at(source: Path) -> Image | None:
    """The image that a file or folder is; None if it is none.

    Raises
    ------
    RefusedSeries
        If a folder holds several.
    """
    if source.is_dir():
        log = skyscan_log(source)
        return None if log is None else Image(log, read_skyscan)
    if is_inveon(source):
        return Image(source, read_inveon)
    return Image(source, read_image_file) if is_image_file(source) else None


def animal_of(name: str) -> str:
    """The name of an image's file or folder without the endings of its format."""
    for suffix in (*SUFFIXES, ".hdr", ".img"):
        name = name.removesuffix(suffix)
    return name
