"""Resamples from the scan's grid to the network's and back, as nnU-Net does but faster.

Scikit-image's resize with splines of order 3, edges repeated and no anti-aliasing is linear and
separable, so one matrix per axis computes it. Labels need only the largest of the network's
probabilities on the scan's grid, so they are interpolated and compared a few slices at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from limn.domain.scan import occupied_box

ShapeZyx = tuple[int, int, int]

# nnU-Net's limit: voxels longer than this many times their width are not interpolated lengthwise.
LONG_VOXELS = 3.0

# Voxels that are interpolated at a time, in both directions; it bounds the memory.
SLAB_VOXELS = 4_000_000


def resized(
    hu: npt.NDArray[np.float32],
    shape: ShapeZyx,
    device: torch.device,
    across: int | None,
    before: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """An array on another grid over the same field: (z, y, x) fp32 on the device.

    Parameters
    ----------
    hu : (z, y, x) with any strides: only one slab at a time is copied
    across : axis along which voxels are so long that nnU-Net takes the nearest, or None
    before : applied to the values before they are interpolated
    """
    planes, rows, columns = (
        None
        if hu.shape[axis] == shape[axis]
        else torch.from_numpy(
            (_nearest_matrix if axis == across else _cubic_matrix)(hu.shape[axis], shape[axis])
        ).to(device)
        for axis in range(3)
    )
    out = torch.empty((hu.shape[0], *shape[1:]), device=device)
    slab = max(1, SLAB_VOXELS // (hu.shape[1] * hu.shape[2]))
    low = torch.full((), float("inf"), device=device)
    high = -low
    for first in range(0, hu.shape[0], slab):
        part = torch.from_numpy(np.array(hu[first : first + slab], dtype=np.float32)).to(device)
        part = before(part)
        least, most = torch.aminmax(part)
        low, high = torch.minimum(low, least), torch.maximum(high, most)
        if columns is not None:
            part = part @ columns.T
        if rows is not None:
            part = rows @ part
        out[first : first + slab] = part
    if planes is not None:
        out = (planes @ out.flatten(1)).reshape(shape)
    # Splines overshoot; skimage clips to the range of the input.
    return out.clamp_(low, high)


def most_probable(
    scores: torch.Tensor, low: ShapeZyx, whole: ShapeZyx, shape: ShapeZyx, across: int | None
) -> npt.NDArray[np.uint8]:
    """The class with the highest interpolated score in every voxel of the scan: uint8.

    Only the box around the voxels that a class other than 0 wins is interpolated, because linear
    interpolation can't let a class win where background wins at all eight corners.

    Parameters
    ----------
    scores : (class, z, y, x) of a part of the network's grid
    low : where that part begins in the grid; outside of the part is background
    whole : shape of the network's grid
    shape : of the scan, over the same field
    across : axis along which the nearest voxel is taken, or None
    """
    labels = np.zeros(shape, dtype=np.uint8)
    occupied = occupied_box(winners(scores))
    if occupied[0].stop == 0:
        return labels
    first = [max(0, span.start - 1) for span in occupied]
    last = [span.stop for span in occupied]
    sides = []
    for axis in range(3):
        size = scores.shape[axis + 1]
        positions = _linear_positions(shape[axis], whole[axis]) - low[axis]
        if axis == across:
            positions = np.floor(positions + 0.5)
        inside = (positions >= first[axis]) & (positions <= min(last[axis], size - 1))
        span = np.flatnonzero(inside)
        if not len(span):
            return labels
        sides.append((int(span[0]), int(span[-1]) + 1, positions[span], size))
    (z_first, z_last, z_at, depth), (y0, y1, y_at, rows), (x0, x1, x_at, columns) = sides
    device = scores.device
    y_low, y_part, y_high = _corners(y_at, rows, device)
    x_low, x_part, x_high = _corners(x_at, columns, device)
    step = max(1, SLAB_VOXELS // (len(y_at) * len(x_at) * scores.shape[0]))
    for start in range(0, z_last - z_first, step):
        z_low, z_part, z_high = _corners(z_at[start : start + step], depth, device)
        slab = torch.lerp(scores[:, z_low], scores[:, z_high], z_part[:, None, None])
        slab = torch.lerp(slab[:, :, y_low], slab[:, :, y_high], y_part[:, None])
        slab = torch.lerp(slab[..., x_low], slab[..., x_high], x_part)
        won = winners(slab)
        begin = z_first + start
        labels[begin : begin + len(won), y0:y1, x0:x1] = won
    return labels


def winners(scores: torch.Tensor) -> npt.NDArray[np.uint8]:
    """The class with the highest score, the first of equal ones: (z, y, x).

    Class by class, because PyTorch's argmax over so few classes takes six times as long on a CPU.
    """
    best = scores[0].clone()
    won = torch.zeros(best.shape, dtype=torch.uint8, device=best.device)
    for label in range(1, len(scores)):
        won.masked_fill_(scores[label] > best, label)
        torch.maximum(best, scores[label], out=best)
    return np.asarray(won.cpu())


def nearest(
    values: npt.NDArray[np.uint8], low: ShapeZyx, whole: ShapeZyx, shape: ShapeZyx
) -> npt.NDArray[np.uint8]:
    """A map of a part of the network's grid on the scan's voxels; 0 outside the part."""
    out = np.zeros(shape, dtype=values.dtype)
    picks, spans = [], []
    for axis in range(3):
        at = np.rint(_linear_positions(shape[axis], whole[axis])).astype(int) - low[axis]
        span = np.flatnonzero((at >= 0) & (at < values.shape[axis]))
        if not len(span):
            return out
        picks.append(at[span])
        spans.append(slice(int(span[0]), int(span[-1]) + 1))
    out[tuple(spans)] = values[np.ix_(*picks)]
    return out


def long_axis(*spacings_mm: tuple[float, ...]) -> int | None:
    """The axis along which nnU-Net takes the nearest voxel: that of the first uneven grid."""
    for spacing in spacings_mm:
        if max(spacing) / min(spacing) > LONG_VOXELS:
            longest = [axis for axis, mm in enumerate(spacing) if mm == max(spacing)]
            return longest[0] if len(longest) == 1 else None
    return None


@lru_cache(maxsize=16)
def _cubic_matrix(n_in: int, n_out: int) -> npt.NDArray[np.float32]:
    """The matrix (n_out, n_in) of skimage's cubic resize of one axis."""
    return np.asarray(
        ndimage.zoom(np.eye(n_in), (n_out / n_in, 1), order=3, mode="nearest", grid_mode=True),
        dtype=np.float32,
    )


def _nearest_matrix(n_in: int, n_out: int) -> npt.NDArray[np.float32]:
    """The matrix (n_out, n_in) that takes the nearest of n_in voxels over the same length."""
    matrix = np.zeros((n_out, n_in), dtype=np.float32)
    picked = np.floor(_linear_positions(n_out, n_in) + 0.5).astype(int)
    matrix[np.arange(n_out), picked] = 1.0
    return matrix


def _linear_positions(n_out: int, n_in: int) -> npt.NDArray[np.float64]:
    """Positions of n_out voxel centres among n_in over the same length, clamped at the edges."""
    positions = (np.arange(n_out) + 0.5) * (n_in / n_out) - 0.5
    return np.asarray(np.clip(positions, 0.0, n_in - 1.0), dtype=np.float64)


def _corners(
    positions: npt.NDArray[np.float64], size: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    below = np.floor(positions).astype(np.int64)
    above = np.minimum(below + 1, size - 1)
    part = (positions - below).astype(np.float32)
    return (
        torch.from_numpy(below).to(device),
        torch.from_numpy(part).to(device),
        torch.from_numpy(above).to(device),
    )
