"""Reads a folder of SkyScan sections (Bruker NRecon): TIFF, BMP, PNG or JPEG, with their log.

The log is a text of ``name=value`` lines in sections, in the code page of the scanner's computer.
``[Reconstruction]`` has the pixel size in micrometres, the size of a section and their numbers;
``[File name convention]`` how the files are called. The grey values are attenuation between two
limits, not HU. Nothing says how the animal lay, nor whether the sections are seen from its head or
from its tail, so a person must give the directions of the axes.
"""

from __future__ import annotations

import re
import struct
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from limn.domain.errors import RefusedSeries
from limn.domain.geometry import SpacingMm
from limn.domain.one_line import one_line
from limn.domain.scan import Volume
from limn.formats.axes import AxesUnknown, believable, turned

# Files of sections; a preview ends in ``_spr`` and has no number.
_SECTIONS = (".tif", ".tiff", ".bmp", ".png", ".jpg", ".jpeg")
# A section of 8 and of 16 bits, in the 12 bits that all scans have here.
_GREY_12 = {np.dtype(np.uint8): 16.0, np.dtype(np.uint16): 1.0 / 16.0}
# The tag of TIFF and Exif that turns or mirrors a picture; Pillow obeys it in TIFF alone.
_ORIENTATION = 0x0112
# What Pillow raises for damaged files.
_DAMAGES = (
    *(EOFError, IndexError, KeyError, MemoryError, OSError, OverflowError, SyntaxError),
    *(TypeError, ValueError, ZeroDivisionError, struct.error, Image.DecompressionBombError),
)
_MOST_LOG_BYTES = 2**20
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class _Log:
    """A log; ``reconstruction`` and ``naming`` are two of its sections."""

    path: Path
    reconstruction: dict[str, str]
    naming: dict[str, str]

    def number(self, name: str) -> float:
        try:
            number = float(self.reconstruction[name])
        except (KeyError, ValueError):
            number = float("nan")
        if not np.isfinite(number) or number <= 0.0:
            value = self.reconstruction.get(name)
            shown = "is missing" if value is None else f"is {one_line(value)[:60]!r}"
            msg = f"{one_line(self.path)}: {name} {shown}, a number above 0 expected"
            raise RefusedSeries(msg)
        return number


def skyscan_log(folder: Path) -> Path | None:
    """The log of a folder of sections; None if the folder lacks either.

    Raises
    ------
    RefusedSeries
        If it has several.
    """
    paths = sorted(folder.iterdir())
    if not any(path.suffix.lower() in _SECTIONS for path in paths):
        # NRecon writes DICOM too, with the same log beside it.
        return None
    logs = [
        path
        for path in paths
        if path.suffix.lower() == ".log" and path.is_file() and "[reconstruction]" in _text(path)
    ]
    if len(logs) > 1:
        msg = f"{one_line(folder)} holds {len(logs)} reconstructions, one expected: "
        msg += ", ".join(one_line(path.name) for path in logs[:_SHOWN])
        raise RefusedSeries(msg)
    return logs[0] if logs else None


def read_skyscan(log_path: Path, lie: str) -> Volume:
    """Read the sections that belong to a log; numbers of 12 bits, which are not HU.

    Parameters
    ----------
    lie : letters that the section number, the rows and the columns grow towards

    Raises
    ------
    RefusedSeries
        If a section is missing or does not fit the log.
    AxesUnknown
        If ``lie`` is not given.
    """
    log = _read_log(log_path)
    step = int(log.number("Section to Section Step"))
    pixel_mm = log.number("Pixel Size (um)") / 1000.0
    rows = int(log.number("Result Image Height (pixels)"))
    columns = int(log.number("Result Image Width (pixels)"))
    paths = _sections(log, step)
    believable((len(paths), rows, columns), log_path.parent)
    if not lie:
        msg = (
            f"{one_line(log_path.parent)}: a SkyScan log does not say how the animal lay; the "
            "array's z is the section number, y and x are a section's rows and columns"
        )
        raise AxesUnknown(msg)
    numbers_zyx = np.empty((len(paths), rows, columns), np.float32)
    for k, path in enumerate(paths):
        numbers_zyx[k] = _section(path, (rows, columns))
    return turned(numbers_zyx, SpacingMm(pixel_mm * step, pixel_mm, pixel_mm), lie)


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            # Every byte is a letter of this code page; the names that count are ASCII.
            return file.read(_MOST_LOG_BYTES).decode("latin-1").lower()
    except OSError:
        return ""


def _read_log(path: Path) -> _Log:
    sections: dict[str, dict[str, str]] = {}
    current = sections.setdefault("", {})
    try:
        lines = path.read_bytes()[:_MOST_LOG_BYTES].decode("latin-1").splitlines()
    except OSError as error:
        msg = f"{one_line(path)} can't be read ({error.strerror})"
        raise RefusedSeries(msg) from error
    for line in lines:
        if line.strip().startswith("["):
            current = sections.setdefault(line.strip().strip("[]").lower(), {})
        elif "=" in line:
            name, _, value = line.partition("=")
            current.setdefault(name.strip(), value.strip())
    return _Log(path, sections.get("reconstruction", {}), sections.get("file name convention", {}))


def _sections(log: _Log, step: int) -> list[Path]:
    """The files of all sections, in the order of their numbers."""
    prefix = log.naming.get("Filename Prefix") or log.path.stem
    pattern = re.compile(re.escape(prefix) + r"(\d+)\Z", re.IGNORECASE)
    by_number: dict[int, Path] = {}
    for path in sorted(log.path.parent.iterdir()):
        match = pattern.match(path.stem) if path.suffix.lower() in _SECTIONS else None
        if match is None:
            continue
        number = int(match[1])
        if number in by_number:
            msg = f"{one_line(path)} and {one_line(by_number[number].name)} are one section"
            msg_0 = f"{msg}; leave one of them in the folder"
            raise RefusedSeries(msg_0)
        by_number[number] = path
    count = int(log.number("Sections Count"))
    if not by_number:
        msg = f"{one_line(log.path.parent)} holds no section {one_line(prefix)}NNNN of its log"
        raise RefusedSeries(msg)
    _check_whole(log, sorted(by_number), count, step)
    return [by_number[number] for number in sorted(by_number)]


def _check_whole(log: _Log, numbers: Sequence[int], count: int, step: int) -> None:
    """Refuse what is not every section from the first to the last."""
    # NRecon numbers the files by section, whatever the step is, or one after the other.
    apart = int(np.diff(numbers).min()) if len(numbers) > 1 else 1
    expected = range(numbers[0], numbers[-1] + 1, apart)
    missing = [number for number in expected if number not in set(numbers)]
    if missing or len(numbers) != count or apart not in (1, step):
        shown = ", ".join(map(str, missing[:_SHOWN]))
        absent = f", {len(missing)} are missing between them, first {shown}" if missing else ""
        msg = (
            f"{one_line(log.path.parent)} holds {len(numbers)} sections, {numbers[0]} to "
            f"{numbers[-1]}{absent}; its log says {count}. Copy the whole folder again"
        )
        raise RefusedSeries(msg)


def _section(path: Path, shape: tuple[int, int]) -> npt.NDArray[np.float32]:
    try:
        # Pillow warns of tags that nobody needs here.
        with warnings.catch_warnings(action="ignore"), Image.open(path) as image:
            if image.size != shape[::-1] or getattr(image, "n_frames", 1) != 1:
                raise _misfit(path, shape, f"{image.size[0]} x {image.size[1]} pixels")
            turns = [image.getexif().get(_ORIENTATION, 1)]
            # The palette of a BMP of 8 bits is grey.
            pixels = np.asarray(image.convert("RGB") if image.mode == "P" else image)
            # In a PNG file it may stand behind the pixels.
            turns.append(image.getexif().get(_ORIENTATION, 1))
    except _DAMAGES as error:
        msg = f"{one_line(path)} can't be read as an image: {one_line(error)[:200]}"
        raise RefusedSeries(msg) from error
    if wrong := [turn for turn in turns if turn != 1]:
        msg = (
            f"{one_line(path)}: its Orientation is {one_line(wrong[0])[:20]}, so that its rows and "
            "columns are shown turned or mirrored, 1 expected; write the sections anew without it"
        )
        raise RefusedSeries(msg)
    if pixels.ndim == 3 and np.ptp(pixels, axis=2).max() == 0:
        pixels = pixels[:, :, 0]
    if pixels.ndim != 2 or pixels.dtype.newbyteorder("=") not in _GREY_12:
        raise _misfit(path, shape, "colours, or values of another type")
    return pixels.astype(np.float32) * np.float32(_GREY_12[pixels.dtype.newbyteorder("=")])


def _misfit(path: Path, shape: tuple[int, int], what: str) -> RefusedSeries:
    return RefusedSeries(
        f"{one_line(path)} has {what}, by its log {shape[1]} x {shape[0]} grey ones of 8 or 16 "
        "bits expected"
    )
