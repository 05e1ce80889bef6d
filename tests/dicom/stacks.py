"""The same mouse lying and sliced in every way, for tests of geometry."""

from pathlib import Path

import numpy as np

from limn.dicom.ct import CtIdentity, ct_instances
from limn.dicom.series import AXIAL_ORIENTATIONS
from limn.domain.geometry import Grid, Reorientation, SpacingMm
from limn.domain.scan import Labels, Volume

STACKS = ("axial", "coronal", "sagittal")
LETTERS = {"L": (1, 0, 0), "R": (-1, 0, 0), "P": (0, 1, 0), "A": (0, -1, 0)} | {
    "S": (0, 0, 1),
    "I": (0, 0, -1),
}


def axes_of(position: str, stack: str) -> tuple[np.ndarray, np.ndarray]:
    """Directions of rows and columns of a stack, cut along the scanner's own axes."""
    across, down = np.reshape(np.array(AXIAL_ORIENTATIONS[position], dtype=float), (2, 3))
    along = np.cross(across, down)
    return {"axial": (across, down), "coronal": (across, -along), "sagittal": (down, -along)}[stack]


def restack(volume: Volume, labels: Labels, position: str, stack: str) -> tuple[Volume, Labels]:
    """The same animal, every voxel where it was, as another stack of slices."""
    along_x, along_y = axes_of(position, stack)
    along_z = np.cross(along_x, along_y)
    wanted = "".join(
        next(letter for letter, axis in LETTERS.items() if np.allclose(axis, direction))
        for direction in (along_z, along_y, along_x)
    )
    turn = Reorientation.between(volume.grid.axis_letters, wanted)
    spacing = turn.spacing(volume.grid.spacing_mm)
    hu_zyx = np.ascontiguousarray(turn.apply(volume.hu_zyx))
    labels_zyx = np.ascontiguousarray(turn.apply(labels.labels_zyx))
    grid = Grid(
        slice_origins_xyz_mm=_first_voxel(volume.grid, turn, volume.hu_zyx.shape)
        + np.outer(np.arange(len(hu_zyx)) * spacing.z, along_z),
        rows=hu_zyx.shape[1],
        columns=hu_zyx.shape[2],
        spacing_y_mm=spacing.y,
        spacing_x_mm=spacing.x,
        along_x_xyz=along_x,
        along_y_xyz=along_y,
    )
    return Volume(hu_zyx, grid), Labels(labels_zyx, grid, labels.organs)


def _first_voxel(grid: Grid, turn: Reorientation, shape: tuple[int, ...]) -> np.ndarray:
    """Where the first voxel of the turned array lies, mm."""
    indices = np.arange(np.prod(shape)).reshape(shape)
    z, y, x = np.unravel_index(turn.apply(indices)[0, 0, 0], shape)
    return grid.plane_points_xyz_mm(int(z), np.array([[float(y), float(x)]]))[0]


def write(volume: Volume, folder: Path, position: str, number: str) -> Path:
    """The stack as a DICOM series."""
    folder.mkdir(parents=True)
    identity = CtIdentity(
        "M1", f"2.25.88.{number}", ("20260101", "120000"), patient_position=position
    )
    for k, ds in enumerate(ct_instances(volume, identity)):
        ds.save_as(folder / f"{k:04d}.dcm", enforce_file_format=True)
    return folder


def squeezed(volume: Volume, labels: Labels, spacing_mm: SpacingMm) -> tuple[Volume, Labels]:
    """The same voxels with another spacing: an anisotropic mouse."""
    grid = volume.grid
    origins = grid.slice_origins_xyz_mm.copy()
    origins[:, 2] = origins[0, 2] + np.arange(len(origins)) * spacing_mm.z
    other = Grid(
        slice_origins_xyz_mm=origins,
        rows=grid.rows,
        columns=grid.columns,
        spacing_y_mm=spacing_mm.y,
        spacing_x_mm=spacing_mm.x,
        along_x_xyz=grid.along_x_xyz,
        along_y_xyz=grid.along_y_xyz,
    )
    return Volume(volume.hu_zyx, other), Labels(labels.labels_zyx, other, labels.organs)
