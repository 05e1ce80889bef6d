"""Converts between indices and millimetres; no other module does.

Arrays are ``[z, y, x]``; points are ``(x, y, z)`` mm in DICOM patient coordinates (LPS:
x to the animal's left, y to its back, z to its head). PS3.3 C.7.6.2.1.1 relates the two.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = npt.NDArray[np.float64]
IntArray: TypeAlias = npt.NDArray[np.int64]
_Scalar = TypeVar("_Scalar", bound=np.generic)

# Letters of the direction in which each patient axis grows, and of the opposite direction.
_TOWARDS = (("L", "R"), ("P", "A"), ("S", "I"))

# Largest component across a patient axis of a direction that counts as along it (0.57 degrees).
# Beyond it contours would leave the image axes, which planning systems refuse.
OBLIQUE_TOLERANCE = 0.01

# Two writings of one geometry differ by this at most: a spacing by this share of itself, a
# component of a unit vector by this much. Writers differ in the seventh digit, and some in the
# fourth. Over 700 voxels the tolerance moves the far edge by a tenth of a voxel, less than any
# contour shows.
SAME_GEOMETRY = 1.5e-4


@dataclass(frozen=True, slots=True)
class SpacingMm:
    """Distance between neighbouring voxel centres along each array axis, mm."""

    z: float
    y: float
    x: float

    @property
    def voxel_mm3(self) -> float:
        """Volume of one voxel."""
        return self.z * self.y * self.x

    @property
    def zyx(self) -> tuple[float, float, float]:
        """The three numbers in array order."""
        return (self.z, self.y, self.x)


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """Where the voxels of a stack of slices lie in the patient.

    Attributes
    ----------
    slice_origins_xyz_mm : (n, 3) float64
        Centre of voxel ``[k, 0, 0]`` of every slice (ImagePositionPatient), in the order
        of the array. No position is derived from that of another slice.
    rows, columns : int
        Length of the y and x array axes.
    spacing_y_mm, spacing_x_mm : float
        PixelSpacing: first value between rows (y), second between columns (x).
    along_x_xyz, along_y_xyz : (3,) float64
        Unit vectors of growing column index and growing row index
        (ImageOrientationPatient, first and second triple).
    """

    slice_origins_xyz_mm: FloatArray
    rows: int
    columns: int
    spacing_y_mm: float
    spacing_x_mm: float
    along_x_xyz: FloatArray
    along_y_xyz: FloatArray

    def __post_init__(self) -> None:
        if self.slice_origins_xyz_mm.ndim != 2 or self.slice_origins_xyz_mm.shape[1] != 3:
            msg = f"slice origins have shape {self.slice_origins_xyz_mm.shape}, (n, 3) expected"
            raise ValueError(msg)
        if min(self.rows, self.columns, len(self.slice_origins_xyz_mm)) < 1:
            msg = f"a grid of {self.shape_zyx} voxels is empty"
            raise ValueError(msg)
        if min(self.spacing_y_mm, self.spacing_x_mm) <= 0:
            msg = f"spacing {self.spacing_y_mm} x {self.spacing_x_mm} mm is not positive"
            raise ValueError(msg)
        gram = np.array([self.along_x_xyz, self.along_y_xyz])
        if not same_directions(gram @ gram.T, np.eye(2)):
            msg = "the directions of rows and columns are not orthonormal"
            raise ValueError(msg)

    @property
    def shape_zyx(self) -> tuple[int, int, int]:
        """Slices, rows, columns."""
        return (len(self.slice_origins_xyz_mm), self.rows, self.columns)

    @property
    def normal_xyz(self) -> FloatArray:
        """Unit vector of the slice normal, rows x columns (right-handed)."""
        return np.cross(self.along_x_xyz, self.along_y_xyz)

    @property
    def slice_positions_mm(self) -> FloatArray:
        """(n,) position of every slice along the normal, mm."""
        return self.slice_origins_xyz_mm @ self.normal_xyz

    @property
    def spacing_mm(self) -> SpacingMm:
        """Voxel spacing; along z the mean step without gaps (1 mm for a single slice)."""
        positions_mm = self.slice_positions_mm
        if len(positions_mm) == 1:
            z_mm = 1.0
        else:
            steps_mm = np.abs(np.diff(positions_mm))
            # Steps over missing slices are left out; rounding errors average out.
            z_mm = float(steps_mm[steps_mm < 1.5 * np.median(steps_mm) + 1e-9].mean())
        return SpacingMm(z=z_mm, y=self.spacing_y_mm, x=self.spacing_x_mm)

    def plane_points_xyz_mm(self, slice_index: int, points_yx: FloatArray) -> FloatArray:
        """Fractional (row, column) indices on one slice to patient coordinates.

        Parameters
        ----------
        slice_index : int
            Which slice; its own position is used.
        points_yx : (n, 2) float64
            Row and column, 0 at the centre of the first voxel.

        Returns
        -------
        (n, 3) float64
            ``(x, y, z)`` mm, PS3.3 equation C.7.6.2.1-1.
        """
        along_columns = np.outer(points_yx[:, 1] * self.spacing_x_mm, self.along_x_xyz)
        along_rows = np.outer(points_yx[:, 0] * self.spacing_y_mm, self.along_y_xyz)
        return np.asarray(
            self.slice_origins_xyz_mm[slice_index] + along_columns + along_rows, dtype=np.float64
        )

    def plane_indices_yx(self, slice_index: int, points_xyz_mm: FloatArray) -> FloatArray:
        """Patient coordinates on one slice to fractional (row, column); the inverse."""
        offset_xyz_mm = points_xyz_mm - self.slice_origins_xyz_mm[slice_index]
        return np.column_stack(
            (
                offset_xyz_mm @ self.along_y_xyz / self.spacing_y_mm,
                offset_xyz_mm @ self.along_x_xyz / self.spacing_x_mm,
            )
        )

    def distance_to_slice_mm(self, slice_index: int, points_xyz_mm: FloatArray) -> float:
        """Largest distance of the points from the plane of a slice."""
        offset_xyz_mm = points_xyz_mm - self.slice_origins_xyz_mm[slice_index]
        return float(np.abs(offset_xyz_mm @ self.normal_xyz).max())

    def part(self, box: tuple[slice, slice, slice]) -> Grid:
        """The grid of a box of this one's voxels; itself if the box holds all.

        Parameters
        ----------
        box : slices along z, y, x with a start and a stop within the grid
        """
        slices, rows, columns = box
        if tuple((span.start, span.stop) for span in box) == tuple((0, n) for n in self.shape_zyx):
            return self
        moved_xyz_mm = (
            rows.start * self.spacing_y_mm * self.along_y_xyz
            + columns.start * self.spacing_x_mm * self.along_x_xyz
        )
        return replace(
            self,
            slice_origins_xyz_mm=self.slice_origins_xyz_mm[slices] + moved_xyz_mm,
            rows=rows.stop - rows.start,
            columns=columns.stop - columns.start,
        )

    @property
    def axis_letters(self) -> str:
        """Patient direction in which each array axis grows, z y x, e.g. ``SPL``.

        Raises
        ------
        ValueError
            If an axis is oblique to the patient beyond `OBLIQUE_TOLERANCE`.
        """
        return "".join(
            _letter(direction) for direction in (self._growth(), self.along_y_xyz, self.along_x_xyz)
        )

    def _growth(self) -> FloatArray:
        """Direction in which the slice index grows; the normal for a single slice."""
        positions_mm = self.slice_positions_mm
        return -self.normal_xyz if positions_mm[-1] < positions_mm[0] else self.normal_xyz


def same_spacings(first_mm: FloatArray, second_mm: FloatArray) -> bool:
    """Whether two spacings are one, written twice."""
    return bool(np.all(np.abs(first_mm - second_mm) <= SAME_GEOMETRY * np.abs(second_mm)))


def same_directions(first: FloatArray, second: FloatArray) -> bool:
    """Whether unit vectors, or their products, are one, written twice."""
    return bool(np.all(np.abs(first - second) <= SAME_GEOMETRY))


def _letter(direction_xyz: FloatArray) -> str:
    axis = int(np.argmax(np.abs(direction_xyz)))
    off_axis = float(np.max(np.abs(np.delete(direction_xyz, axis))))
    if off_axis > OBLIQUE_TOLERANCE:
        rounded = [round(float(value), 4) for value in direction_xyz]
        msg = f"direction {rounded} is oblique to the patient's axes"
        raise ValueError(msg)
    return _TOWARDS[axis][0 if direction_xyz[axis] > 0 else 1]


# How far a point may lie from a voxel's centre, as a share of a voxel, to count as that centre:
# 0.1 mm voxels in a file with two decimals of a millimetre.
CENTRE_TOLERANCE = 0.05


def voxels_at(points_yx: FloatArray, shape_yx: tuple[int, int]) -> IntArray | None:
    """The voxels of whose centres an outline consists, or None if a point is no centre.

    Parameters
    ----------
    points_yx : (n, 2) fractional row and column
    shape_yx : rows and columns of the image

    Returns
    -------
    (n, 2) int64
        Row and column of each voxel.
    """
    rounded = np.round(points_yx)
    if (np.abs(points_yx - rounded) > CENTRE_TOLERANCE).any():
        return None
    if (rounded < 0).any() or (rounded >= np.array(shape_yx)).any():
        return None
    return rounded.astype(np.int64)


@dataclass(frozen=True, slots=True)
class Reorientation:
    """How to turn an array from one set of axis letters to another, and back.

    It only flips and transposes: no voxel changes its value or its place in the animal.
    """

    axes: tuple[int, int, int]
    flipped: tuple[bool, bool, bool]

    @classmethod
    def between(cls, letters: str, wanted: str) -> Reorientation:
        """From array axes ``letters`` (z, y, x) to ``wanted``, e.g. ``IPR`` to ``SPL``."""
        axes, flipped = [], []
        for letter in wanted:
            pair = next(pair for pair in _TOWARDS if letter in pair)
            axis = next(i for i, own in enumerate(letters) if own in pair)
            axes.append(axis)
            flipped.append(letters[axis] != letter)
        return cls(axes=(axes[0], axes[1], axes[2]), flipped=(flipped[0], flipped[1], flipped[2]))

    def apply(self, array_zyx: npt.NDArray[_Scalar]) -> npt.NDArray[_Scalar]:
        """Turn the array; a view, nothing is copied."""
        turned = array_zyx.transpose(self.axes)
        return turned[tuple(slice(None, None, -1 if flip else None) for flip in self.flipped)]

    def undo(self, array_zyx: npt.NDArray[_Scalar]) -> npt.NDArray[_Scalar]:
        """Turn the array back; a view, nothing is copied."""
        unflipped = array_zyx[
            tuple(slice(None, None, -1 if flip else None) for flip in self.flipped)
        ]
        return unflipped.transpose(tuple(int(i) for i in np.argsort(self.axes)))

    def spacing(self, spacing_mm: SpacingMm) -> SpacingMm:
        """The spacing of the turned array."""
        own = spacing_mm.zyx
        return SpacingMm(z=own[self.axes[0]], y=own[self.axes[1]], x=own[self.axes[2]])

    def grid(self, grid: Grid) -> Grid:
        """The grid of the turned array: every voxel stays where it is in the patient.

        Slices must be evenly spaced, because they may become rows or columns.
        """
        directions = (grid._growth(), grid.along_y_xyz, grid.along_x_xyz)
        # Adding 0.0 turns -0.0 to 0.0, so that headers have no "-0".
        along_z, along_y, along_x = (
            (-directions[axis] if flip else directions[axis]) + 0.0
            for axis, flip in zip(self.axes, self.flipped, strict=True)
        )
        first = [0, 0, 0]
        for axis, flip in zip(self.axes, self.flipped, strict=True):
            first[axis] = grid.shape_zyx[axis] - 1 if flip else 0
        corner = np.array([[float(first[1]), float(first[2])]])
        count, rows, columns = (grid.shape_zyx[axis] for axis in self.axes)
        spacing = self.spacing(grid.spacing_mm)
        return Grid(
            slice_origins_xyz_mm=grid.plane_points_xyz_mm(first[0], corner)
            + np.outer(np.arange(count) * spacing.z, along_z),
            rows=rows,
            columns=columns,
            spacing_y_mm=spacing.y,
            spacing_x_mm=spacing.x,
            along_x_xyz=along_x,
            along_y_xyz=along_y,
        )


# Largest distance from an even ladder, as a share of the spacing and in mm; the larger counts.
LADDER_TOLERANCE = 0.01
LADDER_TOLERANCE_MM = 0.005
# Ladders that miss more than this share are not tried: rounded positions fit some by chance.
MOST_MISSING = 0.15


def ladder(positions_mm: FloatArray, rounding_mm: float) -> IntArray | None:
    """Index of every slice on an even ladder, or None if the slices fit none.

    Every number of missing slices is tried, and the best fit is taken: a lost slice must not hide
    in the tolerance for rounded positions.

    Parameters
    ----------
    positions_mm : (n,) ascending positions along the slice normal
    rounding_mm : size of the last decimal of the positions

    Returns
    -------
    (n,) int64
        0, 1, 2 ... for a whole stack; a skipped number is a missing slice.
    """
    count = len(positions_mm)
    if count < 2 or not np.isfinite(positions_mm).all():
        return None
    length_mm = float(positions_mm[-1] - positions_mm[0])
    even_mm = length_mm / (count - 1)
    if even_mm <= LADDER_TOLERANCE_MM:
        return None
    whole = np.arange(count)
    exact_mm = max(LADDER_TOLERANCE * even_mm, LADDER_TOLERANCE_MM)
    if float(np.abs(np.diff(positions_mm) - even_mm).max()) <= exact_mm:
        return whole
    best, best_mm = whole, _misfit_mm(positions_mm, whole)
    for missing in range(1, max(1, round(MOST_MISSING * count)) + 1):
        rungs = np.round((positions_mm - positions_mm[0]) / length_mm * (count - 1 + missing))
        if np.diff(rungs).min() < 1:
            continue
        # Half the misfit, because among many ladders one fits slightly better by chance.
        if (off_mm := _misfit_mm(positions_mm, rungs)) < best_mm / 2:
            best, best_mm = rungs.astype(np.int64), off_mm
    step_mm = length_mm / float(best[-1])
    tolerance_mm = max(LADDER_TOLERANCE * step_mm, LADDER_TOLERANCE_MM) + rounding_mm / 2
    return best if best_mm <= min(tolerance_mm, 0.45 * step_mm) else None


def even_grid(grid: Grid, rungs: IntArray) -> Grid:
    """The grid with every slice; the grid itself if none is missing.

    Parameters
    ----------
    rungs : (n,) index of every slice on the even ladder, see `ladder`
    """
    count = int(rungs[-1]) + 1
    if count == len(rungs):
        return grid
    origins = grid.slice_origins_xyz_mm
    places = np.arange(count)
    return replace(
        grid,
        slice_origins_xyz_mm=np.column_stack(
            [np.interp(places, rungs, origins[:, axis]) for axis in range(3)]
        ),
    )


def _misfit_mm(positions_mm: FloatArray, rungs: npt.NDArray[np.generic]) -> float:
    """Largest distance from the best line through the rungs."""
    places = np.asarray(rungs, dtype=np.float64)
    centred = places - places.mean()
    slope_mm = float(centred @ positions_mm) / float(centred @ centred)
    return float(np.abs(positions_mm - positions_mm.mean() - slope_mm * centred).max())


def axial_grid(
    shape_zyx: tuple[int, int, int], spacing_mm: SpacingMm, first_voxel_xyz_mm: FloatArray
) -> Grid:
    """A uniform stack with array axes S, P, L: slices towards the head, rows towards the back."""
    origins_xyz_mm = np.tile(np.asarray(first_voxel_xyz_mm, dtype=np.float64), (shape_zyx[0], 1))
    origins_xyz_mm[:, 2] += np.arange(shape_zyx[0]) * spacing_mm.z
    return Grid(
        slice_origins_xyz_mm=origins_xyz_mm,
        rows=shape_zyx[1],
        columns=shape_zyx[2],
        spacing_y_mm=spacing_mm.y,
        spacing_x_mm=spacing_mm.x,
        along_x_xyz=np.array([1.0, 0.0, 0.0]),
        along_y_xyz=np.array([0.0, 1.0, 0.0]),
    )
