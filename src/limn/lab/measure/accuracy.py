"""How close two delineations of one organ are: DSC, mean surface distance, 95 % Hausdorff.

Malimban 2022, Methods, "Evaluation metrics and statistical analysis", says that MSD and 95p HD
"give the average and maximum distance measured between closest points on the surface of the
contours". It gives no formula and names no program. It defines neither a surface nor how the two
directions are combined. Chosen here, as in Metrics Reloaded (Maier-Hein, Nat Methods 21:195, 2024)
for MASD and HD95 (D-028):

- surface: the centres of the mask's voxels with a face neighbour outside it; everything beyond
  the array is outside;
- MSD: the mean of the two directed means;
- 95 % HD: the larger of the two directed 95th percentiles, interpolated linearly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from limn.domain.geometry import FloatArray, Grid, SpacingMm
from limn.domain.scan import Labels, Organ, dice, occupied_box
from limn.segment.compare.distances import SurfaceDistances

Mask: TypeAlias = npt.NDArray[np.bool_]

# Two files may round one position differently; no voxel is this small.
SAME_GRID_MM = 0.001


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How well one organ was delineated.

    Attributes
    ----------
    dsc : float
        Dice similarity coefficient, 0 to 1; 0 if one mask is empty, NaN if both are.
    msd_mm : float
        Mean surface distance; NaN if either mask is empty. The paper left such a scan out of
        its tables (Results, "Contrast-enhanced CT").
    hd95_mm : float
        95 % Hausdorff distance; NaN if either mask is empty.
    """

    organ: Organ
    dsc: float
    msd_mm: float
    hd95_mm: float


def score(organ: Organ, mask: Mask, truth: Mask, spacing_mm: SpacingMm) -> Accuracy:
    """Score one organ's mask against its truth.

    Parameters
    ----------
    mask, truth : (z, y, x) bool
        Exchanging the two does not change the score.

    Raises
    ------
    ValueError
        If their shapes differ.
    """
    distances = SurfaceDistances.between(mask, truth, spacing_mm)
    # `dice` is 1 for two empty masks; a score is undefined there.
    dsc = dice(mask, truth) if mask.any() or truth.any() else float("nan")
    return Accuracy(organ, dsc, distances.mean_mm, distances.hausdorff_mm())


def score_labels(labels: Labels, truth: Labels) -> tuple[Accuracy, ...]:
    """Score every organ that the truth has a label for, in the order of its labels.

    Organs are matched by name, because the label numbers may differ. An organ without a label in
    ``labels`` counts as missed. Slices are taken as evenly spaced by the grid's spacing.

    Raises
    ------
    ValueError
        If the two lie on different grids.
    """
    _refuse_other_grid(labels.grid, truth.grid)
    # Outside this box both are background, which adds nothing to a score.
    box = occupied_box(np.maximum(labels.labels_zyx, truth.labels_zyx))
    return tuple(
        score(
            organ,
            _mask_zyx(labels, organ, labels.labels_zyx[box]),
            _mask_zyx(truth, organ, truth.labels_zyx[box]),
            truth.grid.spacing_mm,
        )
        for organ in truth.organs.values()
    )


def _mask_zyx(labels: Labels, organ: Organ, labels_zyx: npt.NDArray[np.uint8]) -> Mask:
    """The organ in a part of the labels; empty if they have no label for it."""
    numbers = [label for label, named in labels.organs.items() if named == organ]
    return np.asarray(np.isin(labels_zyx, numbers), dtype=np.bool_)


def _refuse_other_grid(grid: Grid, truth: Grid) -> None:
    """Raise if voxels of one index lie at different positions."""
    if grid.shape_zyx == truth.shape_zyx and np.allclose(
        _corners_xyz_mm(grid), _corners_xyz_mm(truth), rtol=0.0, atol=SAME_GRID_MM
    ):
        return
    msg = f"the labels lie on {_description(grid)}; the truth lies on {_description(truth)}"
    raise ValueError(msg)


def _corners_xyz_mm(grid: Grid) -> FloatArray:
    """The corner voxels of every slice, which determine the grid: (4 n, 3) float64."""
    rows, columns = grid.rows - 1, grid.columns - 1
    corners_yx = np.array([[0, 0], [0, columns], [rows, 0], [rows, columns]], dtype=np.float64)
    slices = range(grid.shape_zyx[0])
    return np.concatenate([grid.plane_points_xyz_mm(k, corners_yx) for k in slices])


def _description(grid: Grid) -> str:
    """A grid in words: voxels, spacing, first and last corner."""
    voxels = " x ".join(str(count) for count in grid.shape_zyx)
    spacing = " x ".join(f"{mm:.4g}" for mm in grid.spacing_mm.zyx)
    corners_xyz_mm = _corners_xyz_mm(grid)
    first, last = (", ".join(f"{mm:.3f}" for mm in corners_xyz_mm[end]) for end in (0, -1))
    return f"{voxels} voxels (z, y, x) of {spacing} mm from ({first}) to ({last})"
