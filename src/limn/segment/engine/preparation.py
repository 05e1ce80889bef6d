"""Brings a scan to the networks' grid and values, and labels back to the scan's own grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from limn.domain.geometry import Grid, Reorientation
from limn.domain.scan import Volume
from limn.segment.engine.localisation.orient import Shares, turned
from limn.segment.engine.plans import Plan
from limn.segment.engine.resample import long_axis, resized

ShapeZyx = tuple[int, int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A scan prepared for the networks.

    Attributes
    ----------
    image_zyx : normalised, on the network's grid
    spacing_mm : of the network's grid
    shape : of the scan in the network's orientation, without the zeros around it
    margins : voxels of exactly zero that were cropped before and after it, along each axis
    across : axis along which voxels are too long to be interpolated, or None
    """

    image_zyx: torch.Tensor
    spacing_mm: tuple[float, float, float]
    grid: Grid
    turn: Reorientation
    shape: ShapeZyx
    margins: tuple[tuple[int, int], ...]
    across: int | None

    def shares(self, organs: Shares) -> Shares:
        """Spans along the scan's S, P, L as shares of the image, from which zeros were cropped."""
        spans = []
        for span, count, (before, after) in zip(
            turned(self.turn, organs), self.shape, self.margins, strict=True
        ):
            first, last = (share * (before + count + after) - before for share in span)
            spans.append((first / count, last / count))
        return tuple(spans)

    def undone(self, array_zyx: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """An array of `shape` on the scan's own grid, with zeros in the margins."""
        return np.ascontiguousarray(self.turn.undo(np.pad(array_zyx, self.margins)))


def prepare(
    volume: Volume,
    plan: Plan,
    letters: str,
    device: torch.device,
    refuse: Callable[[ShapeZyx, ShapeZyx], None],
    *,
    normalise_first: bool,
) -> Prepared:
    """Turn to the networks' orientation, resample (cubic), clip, normalise.

    Parameters
    ----------
    letters : the patient axes along which the networks' axes grow
    refuse : called with the shapes of the image and of the turned scan, before memory is taken
    normalise_first : see `Profile`
    """
    grid = volume.grid
    turn = Reorientation.between(grid.axis_letters, letters)
    straight = turn.apply(volume.hu_zyx)
    within = _nonzero(straight)
    own_mm = turn.spacing(grid.spacing_mm).zyx
    spacing = (plan.spacing_mm[0] or own_mm[0], *plan.spacing_mm[1:])
    shape = shape_of(straight[within])
    z, y, x = (
        max(1, round(n * own / want)) for n, own, want in zip(shape, own_mm, spacing, strict=True)
    )
    target = (z, y, x)
    refuse(target, shape_of(straight))

    def normalised(hu: torch.Tensor) -> torch.Tensor:
        """nnU-Net's CTNormalization, in place."""
        return hu.clamp_(plan.low, plan.high).sub_(plan.mean).div_(plan.std)

    across = long_axis(own_mm, spacing)
    image = resized(
        straight[within],
        target,
        device,
        across,
        normalised if normalise_first else lambda slab: slab,
    )
    margins = tuple(
        (span.start or 0, n - (span.stop or n))
        for span, n in zip(within, straight.shape, strict=True)
    )
    return Prepared(
        image if normalise_first else normalised(image), spacing, grid, turn, shape, margins, across
    )


def _nonzero(hu: npt.NDArray[np.float32]) -> tuple[slice, slice, slice]:
    """The box to which nnU-Net crops: without the outer planes that are exactly zero."""
    spans = []
    for axis in range(3):
        low, high = 0, hu.shape[axis]
        while low < high - 1 and not hu.take(low, axis).any():
            low += 1
        while high > low + 1 and not hu.take(high - 1, axis).any():
            high -= 1
        spans.append(slice(low, high))
    if not hu[spans[0], spans[1], spans[2]].any():
        return (slice(None), slice(None), slice(None))
    return (spans[0], spans[1], spans[2])


def shape_of(array: npt.NDArray[np.float32] | torch.Tensor) -> ShapeZyx:
    """The three sizes of an array."""
    return (array.shape[0], array.shape[1], array.shape[2])
