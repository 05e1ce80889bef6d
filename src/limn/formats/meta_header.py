"""Reads the text header of a MetaImage: its sizes before MetaIO takes memory, its unit, its axes.

MetaIO takes what a header does not say for the identity or for 1, and of two matrices one (D-287).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from limn.domain.errors import RefusedSeries
from limn.domain.one_line import one_line
from limn.formats.axes import ASK, UNITS_MM, AxesUnknown, HeaderWrong, believable

# How an element must look if it is there; the first two must be.
_ELEMENTS = {
    "NDims": "3",
    "DimSize": r"[0-9]{1,6}(\s+[0-9]{1,6}){2}",
    "ElementNumberOfChannels": "1",
    "HeaderSize": r"-1|[0-9]{1,9}",
    "CompressedDataSize": r"[0-9]{1,11}",
    "ElementDataFile": r"LOCAL|[^%]*",
}
_NEEDED = ("NDims", "DimSize")
# MetaIO's names for one matrix, and for the sizes of a voxel.
_MATRICES = ("transformmatrix", "rotation", "orientation")
_SIZES = ("elementspacing", "elementsize")
# AnatomicalOrientation says where each axis comes from, as ITK writes it: RAI is LPS.
_FROM_XYZ = {
    **{"R": (1.0, 0.0, 0.0), "L": (-1.0, 0.0, 0.0)},
    **{"A": (0.0, 1.0, 0.0), "P": (0.0, -1.0, 0.0)},
    **{"I": (0.0, 0.0, 1.0), "S": (0.0, 0.0, -1.0)},
}
# An axis within 60 degrees of its letter may be called so.
_LEAST_COSINE = 0.5
_MOST_BYTES = 1 << 14


@dataclass(frozen=True, slots=True)
class MetaHeader:
    """The elements of a header.

    Attributes
    ----------
    values : of each element, by its name in small letters: as often as it stands there
    """

    path: Path
    values: Mapping[str, tuple[str, ...]]

    def check(self) -> None:
        """Check the numbers that MetaIO trusts.

        Raises
        ------
        HeaderWrong
            Names the element and its value.
        """
        for name, pattern in _ELEMENTS.items():
            value = self._first(name.lower())
            if (value or name in _NEEDED) and re.fullmatch(pattern, value) is None:
                msg = f"{name} is {one_line(value)[:60]!r}: an image of three dimensions expected"
                raise HeaderWrong(msg)
        x, y, z = map(int, self._first("dimsize").split())
        believable((z, y, x), self.path)
        if not any(self._first(name) for name in _SIZES):
            msg = (
                "its header does not say how large a voxel is; write ElementSpacing = X Y Z into "
                "it, in millimetres"
            )
            raise HeaderWrong(msg)

    def unit_mm(self) -> float:
        """The unit of its lengths.

        Raises
        ------
        HeaderWrong
            If it has a unit of another name than limn knows.
        """
        unit = self._first("distanceunits").lower()
        if unit in ("", "?"):
            return 1.0
        if unit not in UNITS_MM:
            msg = f"DistanceUnits is {one_line(unit)[:60]!r}, one of {', '.join(UNITS_MM)} expected"
            raise HeaderWrong(msg)
        return UNITS_MM[unit]

    def check_axes(self, directions: npt.NDArray[np.float64]) -> None:
        """Check that it says how its axes lie, and says one thing.

        Parameters
        ----------
        directions : (3, 3) of the axes x, y, z in its columns, LPS, as ITK reads them

        Raises
        ------
        AxesUnknown
            If it does not say so.
        RefusedSeries
            If it contradicts itself.
        """
        matrices = [value for name in _MATRICES for value in self.values.get(name, ())]
        if not matrices:
            msg = f"{one_line(self.path)}: its header has no TransformMatrix"
            raise AxesUnknown(msg)
        for other in matrices[1:]:
            if _numbers(other) != _numbers(matrices[0]):
                shown = [one_line(each)[:60] for each in (matrices[0], other)]
                msg = f"one matrix of its axes is {shown[0]}, another {shown[1]}"
                raise self._contradiction(msg)
        letters = self._first("anatomicalorientation").upper()
        if len(letters) != 3 or not set(letters) <= set(_FROM_XYZ):
            return
        for axis, letter in enumerate(letters):
            if np.dot(_FROM_XYZ[letter], directions[:, axis]) < _LEAST_COSINE:
                msg = (
                    f"AnatomicalOrientation is {letters}, the letters that its axes x, y, z come "
                    f"from, and TransformMatrix says otherwise of {'xyz'[axis]}"
                )
                raise self._contradiction(msg)

    def _first(self, name: str) -> str:
        return self.values.get(name, ("",))[0]

    def _contradiction(self, what: str) -> RefusedSeries:
        return RefusedSeries(f"{one_line(self.path)}: its header contradicts itself: {what}; {ASK}")


def read_meta_header(path: Path) -> MetaHeader:
    """Read a header up to its voxels.

    Raises
    ------
    OSError
        If the file can't be read.
    """
    with path.open("rb") as file:
        lines = file.read(_MOST_BYTES).decode("latin-1").split("\n")
    values: dict[str, tuple[str, ...]] = {}
    for line in lines:
        name, _, value = line.partition("=")
        key = name.strip().lower()
        values[key] = (*values.get(key, ()), value.strip())
        if key == "elementdatafile":
            break
    return MetaHeader(path, values)


def _numbers(text: str) -> list[float] | str:
    try:
        return [float(each) for each in text.split()]
    except ValueError:
        return text
