"""Reads what the text header of an NRRD file says of its axes and lengths.

ITK takes any space for the patient's, any unit for millimetres, and 1 for a size that is missing
(D-287).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from limn.domain.one_line import one_line
from limn.formats.axes import UNITS_MM, HeaderWrong

# NRRD's spaces whose axes are those of an animal.
_ANATOMICAL = {
    *("ras", "las", "lps"),
    *("right-anterior-superior", "left-anterior-superior", "left-posterior-superior"),
}
_QUOTED = re.compile(r'"([^"]*)"')
_MOST_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class NrrdHeader:
    """The fields of a header, by their names in small letters; values in small letters too."""

    fields: Mapping[str, str]

    def says_axes(self) -> bool:
        """Whether it says how its three axes lie to the animal (NRRD format, section 5.2)."""
        return self.fields.get("space", "") in _ANATOMICAL and self._directions() == 3

    def unit_mm(self) -> float:
        """The unit of its lengths: ``space units``, or ``units`` of its axes.

        Raises
        ------
        HeaderWrong
            If the axes have different units, or one that limn does not know.
        """
        field = "space units" if self._directions() else "units"
        units = {each for each in _QUOTED.findall(self.fields.get(field, "")) if each}
        if not units:
            return 1.0
        if len(units) > 1 or not units <= set(UNITS_MM):
            msg = (
                f"{field} is {one_line(self.fields[field])[:60]}, one of {', '.join(UNITS_MM)} for "
                "all axes expected"
            )
            raise HeaderWrong(msg)
        return UNITS_MM[units.pop()]

    def check_sizes(self) -> None:
        """Check that it says how large a voxel is.

        Raises
        ------
        HeaderWrong
            If an axis has no length.
        """
        sizes = [_number(each) for each in self.fields.get("spacings", "").split()]
        if self._directions() == 3 or (len(sizes) >= 3 and all(size > 0.0 for size in sizes[-3:])):
            return
        msg = "its header has no length of each axis (space directions, or spacings in millimetres)"
        raise HeaderWrong(msg)

    def _directions(self) -> int:
        return self.fields.get("space directions", "").count("(")


def read_nrrd_header(path: Path) -> NrrdHeader:
    """Read a header up to its empty line.

    Raises
    ------
    OSError
        If the file can't be read.
    """
    with path.open("rb") as file:
        head = file.read(_MOST_BYTES).replace(b"\r", b"").split(b"\n\n", 1)[0]
    lines = (line.partition(":") for line in head.decode("utf-8", "replace").lower().split("\n"))
    return NrrdHeader({name.strip(): value.strip() for name, _, value in lines})


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        return 0.0
    return number if math.isfinite(number) else 0.0
