"""How planes of an array hang on the screen, whichever way the animal lies in the array.

Head up in coronal and sagittal planes, belly up in axial ones, the animal's right side at the
viewer's left, its belly at the left of a sagittal plane: as in ``picture.png``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from limn.domain.geometry import Grid, Reorientation

_Scalar = TypeVar("_Scalar", bound=np.generic)

# Axes of the turned array: towards the head, the back and the animal's left.
WANTED = "SPL"


@dataclass(frozen=True, slots=True)
class Hanging:
    """Planes across the axes S, P and L of an animal, out of an array with other axes.

    Attributes
    ----------
    shape_zyx : of the array
    """

    turn: Reorientation
    shape_zyx: tuple[int, int, int]

    @classmethod
    def of(cls, grid: Grid) -> Hanging:
        """Planes of arrays on a grid."""
        return cls(Reorientation.between(grid.axis_letters, WANTED), grid.shape_zyx)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Planes across each axis: axial, coronal, sagittal."""
        s, p, left = (self.shape_zyx[axis] for axis in self.turn.axes)
        return (s, p, left)

    def place(self, axis: int, index: int) -> tuple[int, int]:
        """The array's axis and index of a plane.

        Parameters
        ----------
        axis : 0 axial, 1 coronal, 2 sagittal
        index : counted towards the head, the back or the left
        """
        own = self.turn.axes[axis]
        return own, self.shape_zyx[own] - 1 - index if self.turn.flipped[axis] else index

    def hung(self, axis: int, plane: npt.NDArray[_Scalar]) -> npt.NDArray[_Scalar]:
        """A plane of the array, its two axes in the array's order, as rows and columns to show."""
        row, column = (other for other in range(3) if other != axis)
        if self.turn.axes[row] > self.turn.axes[column]:
            plane = plane.T
        # Rows that run along the body begin at the head.
        up = self.turn.flipped[row] != (row == 0)
        across = self.turn.flipped[column]
        return plane[:: -1 if up else 1, :: -1 if across else 1]
