"""Where the cuts of a picture lie: planes, and sheets that are bent along the spinal cord."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from limn.domain.geometry import FloatArray
from limn.domain.scan import Box, Organ, occupied_box

# Body around the organs that a picture shows.
MARGIN_MM = 7.0
# Length of cord at each end whose direction a bent cut keeps beyond that end.
EXTENDED_MM = 3.0
# Standard deviation of the smoothing along the cord: the middle of a slice is sure to a voxel.
SMOOTH_MM = 0.4

_Scalar = TypeVar("_Scalar", bound=np.generic)


@dataclass(frozen=True, slots=True, eq=False)
class Cut:
    """One cut through arrays (z, y, x) with axes S, P and L.

    Attributes
    ----------
    axis : the array axis across the cut: 0 if it is axial, 1 coronal, 2 sagittal
    at : (n,) where it lies on that axis, in voxels: one value for a plane, one for each z for a
        sheet that is bent
    """

    axis: int
    at: FloatArray

    @classmethod
    def plane(cls, axis: int, index: int) -> Cut:
        """The plane through a voxel's middle."""
        return cls(axis, np.array([float(index)]))

    @property
    def bent(self) -> bool:
        """Whether it is no plane."""
        return len(self.at) > 1

    def nearest(self, array_zyx: npt.NDArray[_Scalar]) -> npt.NDArray[_Scalar]:
        """(row, column) the nearest voxels; rows that run along z begin at the head."""
        return self._rows(array_zyx, np.rint(self.at).astype(np.int64))

    def linear(self, array_zyx: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Like `nearest`, with values between the voxels' middles."""
        below = np.floor(self.at).astype(np.int64)
        share = (self.at - below).astype(np.float32)
        low = self._rows(array_zyx, below)
        if not share.any():
            return low
        high = self._rows(array_zyx, np.minimum(below + 1, array_zyx.shape[self.axis] - 1))
        return low + share[::-1, None] * (high - low)

    def _rows(
        self, array_zyx: npt.NDArray[_Scalar], index: npt.NDArray[np.int64]
    ) -> npt.NDArray[_Scalar]:
        rows: npt.NDArray[_Scalar]
        if self.axis == 0:
            rows = array_zyx[index[0]]
            return rows
        z = np.arange(len(index)) if self.bent else slice(None)
        across = index if self.bent else index[0]
        rows = array_zyx[z, across] if self.axis == 1 else array_zyx[z, :, across]
        return rows[::-1]


def box_around(labels_zyx: npt.NDArray[np.uint8], spacing: tuple[float, float, float]) -> Box:
    """The organs with a margin of body; an animal may fill only a fifth of the field of view."""
    box = occupied_box(labels_zyx)
    if box[0].stop == 0:
        box = (
            slice(0, labels_zyx.shape[0]),
            slice(0, labels_zyx.shape[1]),
            slice(0, labels_zyx.shape[2]),
        )
    z, y, x = (
        slice(max(0, span.start - round(MARGIN_MM / mm)), min(n, span.stop + round(MARGIN_MM / mm)))
        for span, mm, n in zip(box, spacing, labels_zyx.shape, strict=True)
    )
    return (z, y, x)


def middle(labels_zyx: npt.NDArray[np.uint8]) -> tuple[int, int, int]:
    """The middle voxel of the organs' box; of the whole array if there are no organs."""
    box = occupied_box(labels_zyx)
    if box[0].stop == 0:
        z, y, x = (n // 2 for n in labels_zyx.shape)
    else:
        z, y, x = ((span.start + span.stop - 1) // 2 for span in box)
    return (z, y, x)


def halves(
    labels_zyx: npt.NDArray[np.uint8], organs: Mapping[int, Organ]
) -> dict[Organ, tuple[int, int, int]]:
    """For each organ that is there, the (z, y, x) with half of its voxels on either side."""
    found = {}
    around = occupied_box(labels_zyx)
    occupied = labels_zyx[around]
    for label, organ in organs.items():
        mask = occupied == label
        box = occupied_box(mask)
        if box[0].stop == 0:
            continue
        z, y, x = (
            outer.start + inner.start + _half(np.count_nonzero(mask[box], axis=others))
            for outer, inner, others in zip(around, box, ((1, 2), (0, 2), (0, 1)), strict=True)
        )
        found[organ] = (z, y, x)
    return found


def cord_cuts(cord_zyx: npt.NDArray[np.bool_], z_mm: float) -> tuple[Cut, Cut]:
    """The coronal and the sagittal cut that pass through the cord's middle at every z.

    Where slices of the cord are missing its middle is interpolated. Beyond its ends the cuts go on
    in its direction there, to the border of the array at most.

    Parameters
    ----------
    cord_zyx : with axes S, P and L; not empty
    z_mm : distance of the slices
    """
    box = occupied_box(cord_zyx)
    cord = cord_zyx[box]
    area = np.count_nonzero(cord, axis=(1, 2))
    there = np.flatnonzero(area)
    known = there + box[0].start
    cuts = []
    for axis, across in ((1, 2), (2, 1)):
        profile = np.count_nonzero(cord, axis=across)[there]
        at = profile @ np.arange(profile.shape[1]) / area[there] + box[axis].start
        path = _extended(known, at, cord_zyx.shape[0], max(2, round(EXTENDED_MM / z_mm)))
        path = ndimage.gaussian_filter1d(path, SMOOTH_MM / z_mm, mode="nearest")
        cuts.append(Cut(axis, np.clip(path, 0, cord_zyx.shape[axis] - 1)))
    return (cuts[0], cuts[1])


def _half(counts: npt.NDArray[np.int64]) -> int:
    """The first index up to which at least half of what is counted lies."""
    return int(np.searchsorted(np.cumsum(counts), counts.sum() / 2))


def _extended(known: npt.NDArray[np.int64], at: FloatArray, length: int, ends: int) -> FloatArray:
    """A value for each index, from those that are known: straight lines beyond their ends."""
    z = np.arange(length, dtype=np.float64)
    path = np.interp(z, known, at)
    if len(known) > 1:
        for part, outside in ((slice(ends), z < known[0]), (slice(-ends, None), z > known[-1])):
            line = np.polynomial.Polynomial.fit(known[part], at[part], 1)
            end = known[part][0 if outside[0] else -1]
            path[outside] += line(z[outside]) - line(end)
    return path
