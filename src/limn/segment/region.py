"""Where in a scan the organs are: found by one fold at a glance, grown when it cuts one."""

from __future__ import annotations

from dataclasses import dataclass

import cc3d
import numpy as np
import numpy.typing as npt

ShapeZyx = tuple[int, int, int]

# Around the organs as first seen. The cord ends in the middle of nowhere, so that along the body
# more is kept: one stray vertebra at either end.
MARGIN_MM = (4.5, 2.5, 2.5)
# Smaller pieces of what one fold sees at a glance are taken for mistakes.
LEAST_MM3 = 4.0
# How much a side that cuts an organ is moved out.
GROWTH_MM = 6.0


@dataclass(frozen=True, slots=True)
class Region:
    """A part of the network's grid: first voxel and the one after the last, along z, y, x."""

    low: ShapeZyx
    high: ShapeZyx

    @classmethod
    def whole(cls, shape: ShapeZyx) -> Region:
        """All of a grid."""
        return cls((0, 0, 0), shape)

    @property
    def shape(self) -> ShapeZyx:
        """Voxels along z, y, x."""
        z, y, x = (high - low for low, high in zip(self.low, self.high, strict=True))
        return (z, y, x)

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """For indexing an array of the grid."""
        z, y, x = (slice(low, high) for low, high in zip(self.low, self.high, strict=True))
        return (z, y, x)


def region_of_organs(
    labels_zyx: npt.NDArray[np.uint8],
    organs: int,
    spacing_mm: tuple[float, float, float],
    margin_mm: tuple[float, float, float] = MARGIN_MM,
) -> Region | None:
    """The surroundings of everything labelled; None when an organ is missing.

    Parameters
    ----------
    organs : how many labels there are, 1 to `organs`
    """
    voxel_mm3 = float(np.prod(spacing_mm))
    low, high = np.array(labels_zyx.shape), np.zeros(3, dtype=int)
    for label in range(1, organs + 1):
        pieces = cc3d.connected_components(labels_zyx == label, connectivity=26)
        found = cc3d.statistics(pieces)
        large = np.flatnonzero(found["voxel_counts"][1:] * voxel_mm3 >= LEAST_MM3) + 1
        if not len(large):
            return None
        for piece in large:
            spans = found["bounding_boxes"][piece]
            low = np.minimum(low, [span.start for span in spans])
            high = np.maximum(high, [span.stop for span in spans])
    margin = np.round(np.array(margin_mm) / spacing_mm).astype(int)
    return _clipped(low - margin, high + margin, labels_zyx.shape)


def at_least(region: Region, patch: ShapeZyx, shape: ShapeZyx) -> Region:
    """The region, grown to hold a patch wherever the grid does."""
    low, high = np.array(region.low), np.array(region.high)
    lacking = np.maximum(np.array(patch) - (high - low), 0)
    low = low - lacking // 2
    # What a face of the grid cuts off goes to the other side.
    low = np.maximum(np.minimum(low, np.array(shape) - np.maximum(patch, high - low)), 0)
    high = np.maximum(high, low + patch)
    return _clipped(low, high, shape)


def grown(
    region: Region,
    labels_zyx: npt.NDArray[np.uint8],
    shape: ShapeZyx,
    spacing_mm: tuple[float, float, float],
) -> Region:
    """The region with every face moved out that an organ touches; the region itself if none does.

    Parameters
    ----------
    labels_zyx : labels of the region
    shape : of the whole grid; its faces cut nothing
    """
    low, high = np.array(region.low), np.array(region.high)
    for axis in range(3):
        more = max(1, round(GROWTH_MM / spacing_mm[axis]))
        first, last = np.take(labels_zyx, 0, axis), np.take(labels_zyx, -1, axis)
        low[axis] -= more * bool(first.any())
        high[axis] += more * bool(last.any())
    return _clipped(low, high, shape)


def _clipped(low: np.ndarray, high: np.ndarray, shape: tuple[int, ...]) -> Region:
    z0, y0, x0 = (max(0, int(n)) for n in low)
    z1, y1, x1 = (min(int(most), int(n)) for n, most in zip(high, shape, strict=True))
    return Region((z0, y0, x0), (z1, y1, x1))
