"""Reads the CT images of a Siemens Inveon: ``NAME.img`` with its text header ``NAME.img.hdr``.

The header has a line ``name value`` for each element, and comments that begin with ``#``. The image
has x fastest, then y, then z, without a header of its own. Of where the animal lies the header has
``subject_orientation`` only. It does not say how the axes of the image run to it, and nobody has
published that for all eight positions, so a person must give the directions of the axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from limn.domain.errors import RefusedSeries
from limn.domain.geometry import SpacingMm
from limn.domain.one_line import one_line
from limn.domain.scan import Volume
from limn.formats.axes import AxesUnknown, believable, turned

HEADER = ".hdr"
# Of ``data_type``, as comments in the headers list them.
# A CT of 8 bits is none.
_TYPES = {2: "<i2", 3: "<i4", 4: "<f4", 5: ">f4", 6: ">i2", 7: ">i4"}
_CT, _IMAGE = "1", "5"
_POSITIONS = (
    *("unknown", "feet first, prone", "head first, prone", "feet first, supine"),
    *("head first, supine", "feet first, right", "head first, right", "feet first, left"),
    "head first, left",
)
# A header has a few hundred lines.
_MOST_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class _Header:
    """The elements of a header; those of the first frame count for a file with one frame."""

    path: Path
    elements: dict[str, str]

    def text(self, name: str) -> str:
        return self.elements.get(name, "")

    def number(self, name: str) -> float:
        try:
            number = float(self.elements[name])
        except (KeyError, ValueError):
            number = float("nan")
        if not np.isfinite(number):
            raise self.refusal(name, "a number")
        return number

    def count(self, name: str) -> int:
        number = self.number(name)
        if number != int(number) or number < 0:
            raise self.refusal(name, "a whole number")
        return int(number)

    def refusal(self, name: str, expected: str) -> RefusedSeries:
        value = self.elements.get(name)
        shown = "is missing" if value is None else f"is {one_line(value)[:60]!r}"
        return RefusedSeries(f"{one_line(self.path)}: {name} {shown}, {expected} expected")


def is_inveon(path: Path) -> bool:
    """Whether a file is an Inveon header, or an image that has one beside it."""
    header = _header_of(path)
    if header is None:
        return False
    try:
        with header.open("rb") as file:
            head = file.read(_MOST_BYTES)
    except OSError:
        return False
    # Analyze and NIfTI have binary headers of the same name.
    return b"\0" not in head and b"x_dimension" in head and b"data_type" in head


def read_inveon(path: Path, lie: str) -> Volume:
    """Read an Inveon CT image.

    Parameters
    ----------
    path : of the image or of its header
    lie : letters that the axes (z, y, x) grow towards

    Raises
    ------
    RefusedSeries
        If it is no CT image of one frame, or header and image contradict each other.
    AxesUnknown
        If ``lie`` is not given.
    """
    header = _read_header(path)
    shape_zyx, spacing = _grid(header)
    numbers_zyx = _numbers(header, shape_zyx)
    if not lie:
        position = header.text("subject_orientation")
        known = int(position) if position.isascii() and position.isdigit() else 0
        said = _POSITIONS[known] if known < len(_POSITIONS) else one_line(position)[:20]
        msg = (
            f"{one_line(path)}: its header says of the animal {said!r}, but not how the axes of "
            "the image run"
        )
        raise AxesUnknown(msg)
    return turned(numbers_zyx, spacing, lie)


def _header_of(path: Path) -> Path | None:
    if path.name.lower().endswith(HEADER):
        return path
    beside = path.with_name(path.name + HEADER)
    return beside if path.name.lower().endswith(".img") and beside.is_file() else None


def _read_header(path: Path) -> _Header:
    header = _header_of(path) or path
    elements: dict[str, str] = {}
    try:
        with header.open("rb") as file:
            lines = file.read(_MOST_BYTES).decode("latin-1").splitlines()
    except OSError as error:
        msg = f"{one_line(header)} can't be read ({error.strerror})"
        raise RefusedSeries(msg) from error
    for line in lines:
        if line.strip() and not line.lstrip().startswith("#"):
            name, _, value = line.strip().partition(" ")
            elements.setdefault(name, value.strip())
    found = _Header(header, elements)
    for name, expected, words in (
        ("modality", _CT, "1 (CT)"),
        ("file_type", _IMAGE, "5 (image)"),
        ("total_frames", "1", "1 (one frame)"),
    ):
        if found.text(name) != expected:
            raise found.refusal(name, words)
    return found


def _grid(header: _Header) -> tuple[tuple[int, int, int], SpacingMm]:
    z, y, x = (header.count(f"{axis}_dimension") for axis in "zyx")
    believable((z, y, x), header.path)
    sizes_mm = [header.number(f"pixel_size_{axis}") for axis in "zyx"]
    for axis, size_mm in zip("zyx", sizes_mm, strict=True):
        if size_mm <= 0.0:
            msg = f"pixel_size_{axis}"
            raise header.refusal(msg, "millimetres")
    return (z, y, x), SpacingMm(*sizes_mm)


def _numbers(header: _Header, shape_zyx: tuple[int, int, int]) -> npt.NDArray[np.float32]:
    code = header.count("data_type")
    if code not in _TYPES:
        raise header.refusal("data_type", f"one of {', '.join(map(str, _TYPES))}")
    dtype = np.dtype(_TYPES[code])
    image = header.path.with_name(header.path.name[: -len(HEADER)])
    expected = int(np.prod(shape_zyx)) * dtype.itemsize
    try:
        size = image.stat().st_size
        if size != expected:
            z, y, x = shape_zyx
            msg = (
                f"{one_line(image)} has {size} bytes, and by its header {expected} "
                f"({x} x {y} x {z} of {dtype.itemsize}); copy both files again"
            )
            raise RefusedSeries(msg)
        stored = np.fromfile(image, dtype).reshape(shape_zyx)
    except OSError as error:
        msg = f"{one_line(image)} can't be read ({error.strerror}); it belongs beside its header"
        raise RefusedSeries(msg) from error
    scale = header.number("scale_factor") if "scale_factor" in header.elements else 1.0
    if scale == 0.0:
        raise header.refusal("scale_factor", "a number that is not 0")
    with np.errstate(over="ignore", invalid="ignore"):
        numbers = stored.astype(np.float32) * np.float32(scale)
    if not np.isfinite(numbers).all():
        msg = f"{one_line(image)}: {int((~np.isfinite(numbers)).sum())} voxels are no numbers"
        raise RefusedSeries(msg)
    return numbers
