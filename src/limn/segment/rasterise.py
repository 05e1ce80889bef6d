"""Polygons back to voxels: the proof that a structure set says what the labels said."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from skimage import draw

from limn.domain.geometry import Grid
from limn.domain.scan import Contour, Organ


def rasterise(
    contours: Iterable[Contour], grid: Grid, organ: Organ, *, xor: bool = False
) -> npt.NDArray[np.bool_]:
    """Voxels whose centre lies inside a contour of the organ, (z, y, x) bool.

    Contours of one slice are joined by OR, as most planning systems do, or by XOR if they
    were written as CLOSEDPLANAR_XOR.
    """
    mask = np.zeros(grid.shape_zyx, dtype=np.bool_)
    for contour in contours:
        if contour.organ is organ:
            ring_yx = grid.plane_indices_yx(contour.slice_index, contour.points_xyz_mm)
            rows, columns = draw.polygon(ring_yx[:, 0], ring_yx[:, 1], shape=grid.shape_zyx[1:])
            if xor:
                mask[contour.slice_index, rows, columns] ^= True
            else:
                mask[contour.slice_index, rows, columns] = True
    return mask
