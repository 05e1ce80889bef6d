"""nnU-Net's sliding window: a fold's scores, summed over overlapping tiles and mirror images."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional

from limn.segment.bundle.profile import Profile
from limn.segment.engine.networks import Networks
from limn.segment.engine.plans import Plan

PatchZyx = tuple[int, int, int]
TileZyx = tuple[slice, slice, slice]
# Weighted scores (class, z, y, x) of a fold, summed over tiles, and the sums of weights (z, y, x).
Sums: TypeAlias = tuple[torch.Tensor, torch.Tensor]

# A tile in which fewer than this share of the voxels are denser than this is air, with noise.
TISSUE_HU = -400.0
AIR_SHARE = 0.001


@dataclass(frozen=True, slots=True)
class SlidingWindow:
    """How the networks go over an image.

    Attributes
    ----------
    classes : of the networks, with the background
    flips : axes of each mirror image; () is the image itself
    """

    plan: Plan
    profile: Profile
    classes: int
    flips: Sequence[tuple[int, ...]]

    def tiles(self, padded: torch.Tensor, step: float) -> list[TileZyx]:
        """The tiles over a padded image; without those of air, if the profile skips them.

        Parameters
        ----------
        padded : (z, y, x), normalised, at least as large as the patch
        step : largest distance from one tile to the next, as a share of the patch
        """
        tiles = _tiles_over(padded.shape, self.plan.patch, step)
        if not self.profile.skip_air:
            return tiles
        # Hardly any voxel of a tile of air is as dense as tissue. A GPU is waited for once.
        tissue = (TISSUE_HU - self.plan.mean) / self.plan.std
        shares = torch.stack([(padded[where] > tissue).float().mean() for where in tiles])
        is_air = (shares < AIR_SHARE).tolist()
        return [where for where, air in zip(tiles, is_air, strict=True) if not air]

    def summed(
        self,
        networks: Networks,
        padded: torch.Tensor,
        fold: int,
        tiles: Sequence[TileZyx],
        passed: Callable[[], None] = lambda: None,
    ) -> Sums:
        """Weighted sum of one fold's scores over tiles and mirror images, and the weights' sum.

        Nothing here waits for a GPU, so that it has the next pass before this one ends (D-282).

        Parameters
        ----------
        padded, tiles : see `tiles`
        passed : called after every tile
        """
        device, patch = padded.device, self.plan.patch
        scores = torch.zeros((self.classes, *padded.shape), device=device)
        weight = torch.zeros(padded.shape, device=device)
        share = _gaussian(patch, device)
        for axes in self.flips:
            # A generator: overlapping tiles together are many times as large as the image.
            flipped = (padded[where].flip(axes) for where in tiles)
            for where, logits in zip(tiles, networks.passes(fold, flipped), strict=True):
                score = logits.flip([axis + 1 for axis in axes])
                if self.profile.average == "probabilities":
                    score = torch.softmax(score, dim=0)
                scores[(slice(None), *where)].addcmul_(score, share)
                weight[where] += share
                passed()
        # Voxels that no tile covers are air: background.
        empty = weight == 0
        scores[0][empty] = 1.0
        weight[empty] = 1.0
        return scores, weight


def _tiles_over(shape: tuple[int, ...], patch: PatchZyx, step: float) -> list[TileZyx]:
    """Tiles that cover an array at least as large as the patch, in nnU-Net's order.

    Parameters
    ----------
    step : largest distance from one tile to the next, as a share of the patch
    """
    starts = [_starts(n, p, step) for n, p in zip(shape, patch, strict=True)]
    z, y, x = patch
    return [
        (slice(a, a + z), slice(b, b + y), slice(c, c + x))
        for a, b, c in itertools.product(*starts)
    ]


def _starts(size: int, patch: int, step: float) -> list[int]:
    if patch == 1:
        return list(range(size))
    if size <= patch:
        return [0]
    count = int(np.ceil((size - patch) / (patch * step))) + 1
    return [round((size - patch) / (count - 1) * i) for i in range(count)]


@lru_cache(maxsize=4)
def _gaussian(patch: PatchZyx, device: torch.device) -> torch.Tensor:
    """nnU-Net's weights: sigma an eighth of the patch, zeros set to the least positive weight."""
    point = np.zeros(patch)
    point[tuple(n // 2 for n in patch)] = 1
    weight = ndimage.gaussian_filter(point, [n / 8 for n in patch], mode="constant")
    weight /= weight.max()
    weight[weight == 0] = weight[weight > 0].min()
    return torch.from_numpy(weight.astype(np.float32)).to(device)


def padded_to(image: torch.Tensor, patch: PatchZyx) -> torch.Tensor:
    """The image, padded with zeros along axes that are shorter than a patch."""
    padding = [
        v
        for n, p in reversed(list(zip(image.shape, patch, strict=True)))
        for v in (max(0, p - n) // 2, max(0, p - n) - max(0, p - n) // 2)
    ]
    return functional.pad(image, padding)


def inner_of(shape: PatchZyx, patch: PatchZyx) -> tuple[slice, slice, slice]:
    """Where the image lies in the padded image."""
    z, y, x = (
        slice(max(0, p - n) // 2, max(0, p - n) // 2 + n) for n, p in zip(shape, patch, strict=True)
    )
    return (z, y, x)
