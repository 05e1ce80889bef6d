"""Turns the voxels of a file that does not say how its axes lie, by what a person says of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from limn.domain.errors import RefusedSeries
from limn.domain.geometry import Reorientation, SpacingMm, axial_grid
from limn.domain.one_line import one_line
from limn.domain.scan import Volume

ASK = (
    "give the directions that the array's axes z, y, x grow towards, as --lie LETTERS (S or I, P "
    "or A, L or R: SPL is an array from an animal's tail to its head, belly to back, right to "
    "left); a mirror image can't be told from the animal"
)


class AxesUnknown(RefusedSeries):
    """An image that says nothing of how its axes lie; a person must give their directions.

    Attributes
    ----------
    silence : what was looked for in vain
    """

    def __init__(self, silence: str) -> None:
        super().__init__(f"{silence}; {ASK}")
        self.silence = silence


class HeaderWrong(ValueError):
    """A header that gives no image; its reader adds the file's name."""


# Names of units of length, as headers have them in small letters.
UNITS_MM = {
    **dict.fromkeys(("m", "meter"), 1000.0),
    **dict.fromkeys(("cm", "centimeter"), 10.0),
    **dict.fromkeys(("mm", "millimeter"), 1.0),
    **dict.fromkeys(("um", "\u00b5m", "\u03bcm", "micron", "micrometer"), 0.001),
}
# Of a file that is read: four bytes for each, and as many again while it is worked on.
MOST_VOXELS = 2**30


def believable(shape_zyx: tuple[int, int, int], what: object) -> None:
    """Check the size that a header claims, before memory is asked for.

    Raises
    ------
    RefusedSeries
        If an axis is empty, or there are more than `MOST_VOXELS`.
    """
    if min(shape_zyx) < 1 or np.prod(shape_zyx, dtype=object) > MOST_VOXELS:
        z, y, x = shape_zyx
        msg = (
            f"{one_line(what)}: {x} x {y} x {z} voxels, from 1 to {MOST_VOXELS} expected; "
            "reconstruct it with larger voxels, or crop it to the animal"
        )
        raise RefusedSeries(msg)


def checked_lie(lie: str) -> str:
    """The letters of directions as capitals.

    Raises
    ------
    ValueError
        If they are not one letter for each axis.
    """
    letters = lie.upper()
    if len(letters) != 3 or any(len(set(letters) & set(pair)) != 1 for pair in ("SI", "PA", "LR")):
        msg = "three letters, one of S and I, P and A, L and R each, expected"
        raise ValueError(msg)
    return letters


def turned(numbers_zyx: npt.NDArray[Any], spacing: SpacingMm, lie: str) -> Volume:
    """The voxels in the order S, P, L; the corner of the field is the origin.

    Parameters
    ----------
    lie : the letters that the axes (z, y, x) grow towards, as a person gives them

    Raises
    ------
    RefusedSeries
        If ``lie`` is not one letter for each axis.
    """
    try:
        turn = Reorientation.between(checked_lie(lie), "SPL")
    except ValueError as error:
        msg = f"--lie {lie}: {error}"
        raise RefusedSeries(msg) from error
    array = np.ascontiguousarray(turn.apply(numbers_zyx), dtype=np.float32)
    along = turn.spacing(spacing)
    corner = np.array([along.x, along.y, along.z]) / 2
    shape = (array.shape[0], array.shape[1], array.shape[2])
    return Volume(array, axial_grid(shape, along, corner))
