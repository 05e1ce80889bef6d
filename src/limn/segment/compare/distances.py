"""Distances between the surfaces of two masks: mean, and percentiles of Hausdorff's (D-028).

As in Metrics Reloaded (Maier-Hein, Nat Methods 21:195, 2024) for MASD and HD95:

- surface: the centres of the mask's voxels with a face neighbour outside it; everything beyond
  the array is outside;
- mean: of the two directed means;
- 95 % HD: the larger of the two directed 95th percentiles, interpolated linearly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_erosion
from scipy.spatial import KDTree

from limn.domain.geometry import FloatArray, SpacingMm
from limn.domain.scan import occupied_box

Mask: TypeAlias = npt.NDArray[np.bool_]

# A picometre: below every spacing, above the rounding of float64.
DECIMALS_MM = 9


@dataclass(frozen=True, slots=True, eq=False)
class SurfaceDistances:
    """From every surface voxel of one mask to the nearest surface voxel of the other, mm.

    Attributes
    ----------
    to_truth_mm : (n,) float64
        From the mask to the truth; n = 0 if either mask is empty.
    to_mask_mm : (m,) float64
        From the truth to the mask.
    """

    to_truth_mm: FloatArray
    to_mask_mm: FloatArray

    @classmethod
    def between(cls, mask: Mask, truth: Mask, spacing_mm: SpacingMm) -> SurfaceDistances:
        """The distances between two (z, y, x) masks on one grid.

        Raises
        ------
        ValueError
            If their shapes differ.
        """
        if mask.shape != truth.shape:
            msg = f"a mask of {mask.shape} voxels can't be compared with one of {truth.shape}"
            raise ValueError(msg)
        mask_mm, truth_mm = _surface_mm(mask, spacing_mm), _surface_mm(truth, spacing_mm)
        if len(mask_mm) == 0 or len(truth_mm) == 0:
            return cls(to_truth_mm=np.empty(0), to_mask_mm=np.empty(0))
        return cls(
            to_truth_mm=_nearest_mm(mask_mm, truth_mm), to_mask_mm=_nearest_mm(truth_mm, mask_mm)
        )

    @property
    def mean_mm(self) -> float:
        """Mean surface distance; NaN if a mask is empty."""
        if len(self.to_truth_mm) == 0:
            return float("nan")
        return float(self.to_truth_mm.mean() + self.to_mask_mm.mean()) / 2

    def hausdorff_mm(self, percentile: float = 95.0) -> float:
        """Percentile of the Hausdorff distance (100: the distance itself); NaN if one is empty."""
        if len(self.to_truth_mm) == 0:
            return float("nan")
        directed_mm = (self.to_truth_mm, self.to_mask_mm)
        return max(float(np.percentile(mm, percentile)) for mm in directed_mm)


def _surface_mm(mask: Mask, spacing_mm: SpacingMm) -> FloatArray:
    """Centres of the surface voxels along the array axes: (n, 3) float64, mm."""
    box = occupied_box(mask)
    organ = mask[box]
    # The erosion treats voxels beyond the array as background, so the box needs no margin.
    surface_zyx = np.argwhere(organ & ~binary_erosion(organ))
    # Distances do not depend on the position in the patient: the array's axes suffice.
    return np.asarray(
        (surface_zyx + [span.start for span in box]) * spacing_mm.zyx, dtype=np.float64
    )


def _nearest_mm(from_mm: FloatArray, to_mm: FloatArray) -> FloatArray:
    """Distance from each point to the nearest point of the other set: (n,) float64."""
    # A tree and not a distance map: one stray voxel would extend the map over the whole scan.
    distances_mm, _ = KDTree(to_mm).query(from_mm)
    # Equal distances must be equal numbers anywhere in the scan: rank tests count ties.
    return np.asarray(np.round(distances_mm, DECIMALS_MM), dtype=np.float64)
