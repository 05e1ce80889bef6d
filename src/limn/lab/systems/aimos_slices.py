"""Scans as coronal slices for `aimos`, and its scores for slices as a volume again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from limn.domain.errors import RefusedSeries
from limn.lab.data.readers import AXES, read_ct
from limn.segment.engine.resample import ShapeZyx, nearest, resized

# One voxel in so many is enough to find the range of HU of a data set.
SAMPLED_EVERY = 31
LARGEST_HU = 32000.0


@dataclass(frozen=True, slots=True)
class Window:
    """The range of HU in a fold's animals: clipped at both ends, then mean 0 and deviation 1."""

    low: float
    high: float
    mean: float
    deviation: float

    @classmethod
    def of(cls, volumes: Sequence[torch.Tensor]) -> Window:
        """The window from the 0.5th to the 99.5th percentile of all volumes together."""
        hu = np.concatenate([own.flatten()[::SAMPLED_EVERY].float().numpy() for own in volumes])
        low, high = (float(v) for v in np.percentile(hu, (0.5, 99.5)))
        clipped = np.clip(hu, low, high)
        return cls(low, high, float(clipped.mean()), max(float(clipped.std()), 1e-3))

    def slices(self, volume: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """(z, y, x) HU as (y, 1, rows, columns), padded with air."""
        seen = (volume.clamp(self.low, self.high) - self.mean) / self.deviation
        return _framed(seen, size, (self.low - self.mean) / self.deviation)[:, None]


def read_slices(
    cases: Sequence[tuple[Path, Path]], spacing_mm: float, size: tuple[int, int], classes: int
) -> tuple[Window, torch.Tensor, torch.Tensor]:
    """All coronal slices of scans, with the labels that an observer drew on them.

    Returns
    -------
    window : of all scans together
    images : (n, 1, rows, columns) fp16
    labels : (n, rows, columns) uint8

    Raises
    ------
    RefusedSeries
        If a file can't be read, or labels don't fit their scan.
    """
    volumes, drawn = [], []
    for ct, contours in cases:
        volume, truth = read_ct(ct, AXES), read_ct(contours, AXES).hu_zyx
        if truth.shape != volume.hu_zyx.shape or not 0 <= truth.min() <= truth.max() < classes:
            msg = (
                f"{contours}: voxels {truth.shape}, labels to {truth.max():g}; "
                f"{volume.hu_zyx.shape} and labels 0 to {classes - 1} expected, as in {ct}"
            )
            raise RefusedSeries(msg)
        shape = resampled_shape(truth, volume.grid.spacing_mm.zyx, spacing_mm)
        volumes.append(resampled(volume.hu_zyx, shape, torch.device("cpu")).half())
        # `nearest` finds the source voxel under each voxel of the new grid.
        own = nearest(truth.astype(np.uint8), (0, 0, 0), shape_of(truth), shape)
        drawn.append(_framed(torch.from_numpy(own), size, 0))
    window, count = Window.of(volumes), sum(len(own) for own in drawn)
    images = torch.empty((count, 1, *size), dtype=torch.float16)
    labels = torch.empty((count, *size), dtype=torch.uint8)
    at = 0
    # Volumes are freed one by one, for the paper's data set does not fit into memory twice.
    while volumes:
        organs = drawn.pop(0)
        here = slice(at, at + len(organs))
        images[here] = window.slices(volumes.pop(0).float(), size).half()
        labels[here] = organs
        at += len(organs)
    return window, images, labels


def resampled(
    hu_zyx: npt.NDArray[np.float32], shape: ShapeZyx, device: torch.device
) -> torch.Tensor:
    """HU on another grid over the same field, by splines; metal is clipped to the range of fp16."""
    return resized(hu_zyx, shape, device, None, lambda hu: hu.clamp(-LARGEST_HU, LARGEST_HU))


def shape_of(array: npt.NDArray[Any]) -> ShapeZyx:
    """The shape of an array with three axes."""
    z, y, x = array.shape
    return z, y, x


def resampled_shape(
    array: npt.NDArray[Any], spacing_zyx: tuple[float, float, float], wanted_mm: float
) -> ShapeZyx:
    """The shape whose voxels, of the wanted length, cover the field best."""
    z, y, x = (
        max(1, round(n * mm / wanted_mm)) for n, mm in zip(array.shape, spacing_zyx, strict=True)
    )
    return z, y, x


def _framed(volume: torch.Tensor, size: tuple[int, int], air: float) -> torch.Tensor:
    """(z, y, x) as coronal slices (y, rows, columns), with the same centre."""
    out = volume.new_full((volume.shape[1], *size), air)
    (to_z, from_z), (to_x, from_x) = (
        _common(volume.shape[0], size[0]),
        _common(volume.shape[2], size[1]),
    )
    out[:, to_z, to_x] = volume.transpose(0, 1)[:, from_z, from_x]
    return out


def unframed(scores: torch.Tensor, shape: ShapeZyx) -> torch.Tensor:
    """(class, y, rows, columns) as (class, z, y, x); background outside the slices."""
    out = scores.new_zeros((len(scores), *shape))
    out[0] = 1.0
    to_z, from_z = _common(scores.shape[2], shape[0])
    to_x, from_x = _common(scores.shape[3], shape[2])
    out[:, to_z, :, to_x] = scores.transpose(1, 2)[:, from_z, :, from_x]
    return out


def _common(length: int, wanted: int) -> tuple[slice, slice]:
    """Target and source slices that copy the middle of an axis into one of another length."""
    take = min(length, wanted)
    to, source = (wanted - take) // 2, (length - take) // 2
    return slice(to, to + take), slice(source, source + take)


def picked_at(step: int, batch: int, count: int, seed: int) -> torch.Tensor:
    """The slices of a step: all slices in a random order, then all of them in another order."""
    places = np.arange(step * batch, (step + 1) * batch)
    rounds = {
        int(n): np.random.default_rng([seed, 0, int(n)]).permutation(count)
        for n in np.unique(places // count)
    }
    return torch.tensor([int(rounds[int(p // count)][p % count]) for p in places])


def varied(
    slices: torch.Tensor, truth: torch.Tensor, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Slices with small random rotation, scale, shift and brightness; never mirrored."""
    count, _, rows, columns = slices.shape
    maps = np.empty((count, 2, 3), dtype=np.float32)
    for own in maps:
        angle, scale = math.radians(rng.uniform(-10, 10)), rng.uniform(0.9, 1.1)
        cosine, sine = math.cos(angle) * scale, math.sin(angle) * scale
        own[0] = cosine, -sine * rows / columns, rng.uniform(-0.1, 0.1)
        own[1] = sine * columns / rows, cosine, rng.uniform(-0.1, 0.1)
    device = slices.device
    where = nn.functional.affine_grid(
        torch.from_numpy(maps).to(device), list(slices.shape), align_corners=False
    )
    gain, bias = (
        torch.tensor(rng.normal(middle, 0.1, (count, 1, 1, 1)), dtype=torch.float32, device=device)
        for middle in (1.0, 0.0)
    )
    turned = nn.functional.grid_sample(
        slices, where, mode="bilinear", padding_mode="border", align_corners=False
    )
    drawn = nn.functional.grid_sample(
        truth[:, None].float(), where, mode="nearest", padding_mode="border", align_corners=False
    )
    return turned * gain + bias, drawn[:, 0].long()
