"""The surface of a mask as triangles in patient millimetres, and as an STL file."""

from __future__ import annotations

import struct

import numpy as np
import numpy.typing as npt
from skimage.measure import marching_cubes

from limn.domain.geometry import Grid

Mask = npt.NDArray[np.bool_]


def surface_of(
    mask_zyx: Mask, grid: Grid, step: int = 1
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """The surface half-way between the voxels of a mask; at the edge of the field it is closed.

    Parameters
    ----------
    step : every n-th voxel along each axis is looked at

    Returns
    -------
    points_xyz_mm : (n, 3) patient coordinates (LPS)
    faces : (m, 3) the corners of each triangle, counter-clockwise seen from outside
    """
    # A coarse step must not overlook the empty rim.
    padded = np.pad(mask_zyx, step).astype(np.float32)
    points, faces, _, _ = marching_cubes(padded, 0.5, step_size=step)
    points = points.astype(np.float64) - step
    xyz_mm = (
        _between_slices(grid, points[:, 0], step)
        + points[:, 1:2] * grid.spacing_y_mm * grid.along_y_xyz
        + points[:, 2:] * grid.spacing_x_mm * grid.along_x_xyz
    )
    if _signed_mm3(xyz_mm[faces]) < 0:
        faces = faces[:, ::-1]
    return xyz_mm, faces.astype(np.int64)


def stl_of(mask_zyx: Mask, grid: Grid) -> bytes:
    """The surface of a mask as a binary STL in patient millimetres (LPS), normals outwards."""
    xyz_mm, faces = surface_of(mask_zyx, grid)
    corners = xyz_mm[faces].astype("<f4")
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    normals = np.divide(normals, lengths, out=np.zeros_like(normals), where=lengths > 0)
    rows = np.zeros(len(corners), dtype=[("vectors", "<f4", (4, 3)), ("bytes", "<u2")])
    rows["vectors"][:, 0], rows["vectors"][:, 1:] = normals, corners
    return (
        b"limn, patient millimetres, LPS".ljust(80) + struct.pack("<I", len(rows)) + rows.tobytes()
    )


def _between_slices(
    grid: Grid, indices: npt.NDArray[np.float64], beyond: int
) -> npt.NDArray[np.float64]:
    """The first voxel's place at fractional slice indices, and some steps beyond both ends."""
    origins = grid.slice_origins_xyz_mm
    step = grid.normal_xyz * np.sign(
        grid.slice_positions_mm[-1] - grid.slice_positions_mm[0] or 1.0
    )
    step_mm = beyond * grid.spacing_mm.z
    places = np.concatenate([origins[:1] - step * step_mm, origins, origins[-1:] + step * step_mm])
    known = np.concatenate([[-beyond], np.arange(len(origins)), [len(origins) - 1 + beyond]])
    return np.column_stack([np.interp(indices, known, places[:, axis]) for axis in range(3)])


def _signed_mm3(corners: npt.NDArray[np.float64]) -> float:
    """The volume within triangles whose normals point outwards; negative if they point inwards."""
    a, b, c = (corners[:, k] for k in range(3))
    return float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6.0)
