"""Arrays on a grid as images for NIfTI files."""

from __future__ import annotations

import numpy as np
import SimpleITK

from limn.domain.geometry import Grid


def to_image(array_zyx: np.ndarray, grid: Grid) -> SimpleITK.Image:
    """An image of a (z, y, x) array, with its grid's spacing, origin and directions in mm LPS."""
    image = SimpleITK.GetImageFromArray(array_zyx)
    spacing = grid.spacing_mm
    image.SetSpacing((spacing.x, spacing.y, spacing.z))
    image.SetOrigin([float(v) for v in grid.slice_origins_xyz_mm[0]])
    directions = np.column_stack((grid.along_x_xyz, grid.along_y_xyz, grid.normal_xyz))
    image.SetDirection([float(v) for v in directions.ravel()])
    return image
