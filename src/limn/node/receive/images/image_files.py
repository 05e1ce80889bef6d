"""Sorts the files of a watched folder: which ones make an image of another format; pure.

It goes by names alone. A file that could be DICOM is never one of an image.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from limn.formats.image_at import animal_of
from limn.node.config import ImageFormat
from limn.node.receive.folder.unlinked import FoundFile

# What a person writes beside an image that does not say all: its name with this ending. In a folder
# of sections the note has a name of its own.
NOTE = ".toml"
NOTE_OF_FOLDER = "limn.toml"
# Endings of a file that is an image by itself, and of one that needs another with the voxels.
_ALONE: Mapping[ImageFormat, tuple[str, ...]] = {
    "nifti": (".nii", ".nii.gz"),
    "nrrd": (".nrrd",),
    "metaimage": (".mha",),
}
_HEADERS: Mapping[ImageFormat, str] = {"nrrd": ".nhdr", "metaimage": ".mhd"}
_VOXELS = (".raw", ".zraw", ".gz", ".bz2", ".bin", ".dat", ".img")
_INVEON, _INVEON_HEADER = ".img", ".img.hdr"
# Sections are numbered; NRecon's preview is not, and stands beside DICOM too.
_SECTION = re.compile(r".*[0-9]{3,}\.(tif|tiff|bmp|png|jpg|jpeg)\Z", re.IGNORECASE)
_SECTIONS_BESIDE = (".log", ".tif", ".tiff", ".bmp", ".png", ".jpg", ".jpeg", ".txt")
# Fewer numbered pictures without a log are pictures.
_LEAST_SECTIONS = 3


@dataclass(frozen=True, slots=True)
class ImageFiles:
    """The files of one image, as far as they are there.

    Attributes
    ----------
    key : path of the file that describes it; of the folder for sections
    files : with the note, if there is one
    note : path of the note that a person may write
    lacks : a file without which it can't be read; empty if its name is there
    """

    key: str
    format: ImageFormat
    files: tuple[FoundFile, ...]
    note: str
    lacks: str = ""

    @property
    def name(self) -> str:
        """The name of its file or folder without the endings of its format."""
        name = PurePath(self.key).name
        return name if self.format == "skyscan" else animal_of(name)

    @property
    def folder_name(self) -> str:
        """The name of the folder in which it lies."""
        return PurePath(self.key).parent.name


def sort_files(
    found: Sequence[FoundFile], formats: Collection[ImageFormat]
) -> tuple[list[ImageFiles], list[FoundFile]]:
    """The images of these formats, and the files that belong to none."""
    folders: dict[str, dict[str, FoundFile]] = defaultdict(dict)
    for each in found:
        folder, name = os.path.split(each.path)
        if not each.why_left and not name.startswith("."):
            folders[folder][name] = each
    images = [
        image for folder, named in folders.items() for image in _images(folder, named, formats)
    ]
    taken = {each.path for image in images for each in image.files}
    rest = [each for each in found if each.path not in taken]
    return images, [each for each in rest if not _is_left(each, formats, taken)]


def _is_left(found: FoundFile, formats: Collection[ImageFormat], taken: set[str]) -> bool:
    """Whether it is no DICOM, although it belongs to no image yet: a note, or a lone log."""
    name = os.path.basename(found.path).lower()  # noqa: PTH119 - names that are no UTF-8
    if found.why_left:
        return False
    if name == NOTE_OF_FOLDER and "skyscan" in formats:
        return True
    described = name.removesuffix(NOTE)
    if described != name and any(_describes(described, each) for each in formats):
        return True
    return "skyscan" in formats and name.endswith(_SECTIONS_BESIDE) and found.path not in taken


def _describes(name: str, form: ImageFormat) -> bool:
    """Whether a name is that of a file that describes an image of a format."""
    endings = (*_ALONE.get(form, ()), *((_HEADERS[form],) if form in _HEADERS else ()))
    return name.endswith(endings) or (form == "inveon" and name.endswith(_INVEON_HEADER))


def _images(
    folder: str, named: Mapping[str, FoundFile], formats: Collection[ImageFormat]
) -> Iterator[ImageFiles]:
    for form in formats:
        if form == "skyscan":
            yield from _sections(folder, named)
            continue
        if form == "inveon":
            yield from _inveon(folder, named)
            continue
        for name in named:
            if name.lower().endswith(_ALONE[form]):
                yield _image(folder, form, name, [name], named)
            elif form in _HEADERS and name.lower().endswith(_HEADERS[form]):
                stem = name[: -len(_HEADERS[form])]
                voxels = [
                    other
                    for other in named
                    if other.startswith(f"{stem}.") and other.lower().endswith(_VOXELS)
                ]
                lacks = "" if voxels else f"its voxels, {stem}.raw or alike"
                yield _image(folder, form, name, [name, *voxels], named, lacks)


def _inveon(folder: str, named: Mapping[str, FoundFile]) -> Iterator[ImageFiles]:
    stems = {
        name[: -len(ending)]
        for name in named
        for ending in (_INVEON_HEADER, _INVEON)
        if name.endswith(ending)
    }
    for stem in sorted(stems):
        pair = [stem + _INVEON_HEADER, stem + _INVEON]
        there = [name for name in pair if name in named]
        if pair[0] not in named and f"{stem}.hdr" in named:
            # Analyze or NIfTI.
            continue
        lacks = "".join(f"its file {name}" for name in pair if name not in named)
        yield _image(folder, "inveon", pair[0], there, named, lacks)


def _image(
    folder: str,
    form: ImageFormat,
    name: str,
    names: Sequence[str],
    named: Mapping[str, FoundFile],
    lacks: str = "",
) -> ImageFiles:
    note = name + NOTE
    files = [named[each] for each in (*sorted(names), note) if each in named]
    key = os.path.join(folder, name)  # noqa: PTH118
    return ImageFiles(key, form, tuple(files), key + NOTE, lacks)


def _sections(folder: str, named: Mapping[str, FoundFile]) -> Iterator[ImageFiles]:
    numbered = [name for name in named if _SECTION.match(name)]
    logs = [name for name in named if name.lower().endswith(".log")]
    if not numbered or (not logs and len(numbered) < _LEAST_SECTIONS):
        return
    names = [name for name in named if name.lower().endswith(_SECTIONS_BESIDE)]
    names += [name for name in (NOTE_OF_FOLDER,) if name in named]
    files = tuple(named[name] for name in sorted(names))
    note = os.path.join(folder, NOTE_OF_FOLDER)  # noqa: PTH118
    yield ImageFiles(
        folder, "skyscan", files, note, "" if logs else "the log of its reconstruction"
    )
