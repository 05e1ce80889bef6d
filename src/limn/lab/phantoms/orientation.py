"""How a phantom is stacked for a PatientPosition, and how its pixels contradict the header.

`restack` keeps every voxel at its place in the animal and orders the stack as a scanner does for
a PatientPosition: the header stays true. `turn_pixels` and `mirror_pixels` move the voxels and keep
the grid: the header becomes false. Labels move with their voxels.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt

from limn.dicom.series import AXIAL_ORIENTATIONS
from limn.domain.geometry import FloatArray, Grid, Reorientation
from limn.domain.scan import Labels, Volume

POSITIONS = tuple(AXIAL_ORIENTATIONS)
STACKS = ("axial", "coronal", "sagittal")
# The patient's axes in the order of an array whose axes are S, P, L.
AXES = "zyx"
_Scalar = TypeVar("_Scalar", bound=np.generic)


def restack(volume: Volume, labels: Labels, position: str, stack: str) -> tuple[Volume, Labels]:
    """The same animal, every voxel at its place, as another stack of slices.

    Parameters
    ----------
    position : PatientPosition, one of `POSITIONS`
    stack : one of `STACKS`, cut along the scanner's axes: the coronal slices of an animal
        on its side are sagittal cuts of the animal
    """
    along_x, along_y = axes_of(position, stack)
    letters = Grid(np.zeros((1, 3)), 1, 1, 1.0, 1.0, along_x, along_y).axis_letters
    turn = Reorientation.between(volume.grid.axis_letters, letters)
    grid = turn.grid(volume.grid)
    return (
        Volume(np.ascontiguousarray(turn.apply(volume.hu_zyx)), grid),
        Labels(np.ascontiguousarray(turn.apply(labels.labels_zyx)), grid, labels.organs),
    )


def axes_of(position: str, stack: str) -> tuple[FloatArray, FloatArray]:
    """Unit vectors of growing column and row index of a stack, patient coordinates."""
    across, down = np.reshape(np.array(AXIAL_ORIENTATIONS[position], dtype=np.float64), (2, 3))
    along = np.cross(across, down)
    return {"axial": (across, down), "coronal": (across, -along), "sagittal": (down, -along)}[stack]


def turn_pixels(volume: Volume, labels: Labels, axis: str) -> tuple[Volume, Labels]:
    """Half a turn of the voxels about a patient axis; the grid stays, so the header is false.

    Parameters
    ----------
    volume, labels : with array axes S, P, L
    axis : "x" (left-right), "y" (belly-back) or "z" (tail-head)
    """
    return _flipped(volume, labels, tuple(k for k, letter in enumerate(AXES) if letter != axis))


def mirror_pixels(volume: Volume, labels: Labels, axis: str) -> tuple[Volume, Labels]:
    """The voxels mirrored along a patient axis; the grid stays, so the header is false.

    Parameters
    ----------
    volume, labels : with array axes S, P, L
    axis : "x" (left-right), "y" (belly-back) or "z" (tail-head)
    """
    return _flipped(volume, labels, (AXES.index(axis),))


def _flipped(volume: Volume, labels: Labels, axes: tuple[int, ...]) -> tuple[Volume, Labels]:
    def flip(array_zyx: npt.NDArray[_Scalar]) -> npt.NDArray[_Scalar]:
        return np.ascontiguousarray(np.flip(array_zyx, axes))

    return (
        Volume(flip(volume.hu_zyx), volume.grid),
        Labels(flip(labels.labels_zyx), labels.grid, labels.organs),
    )
