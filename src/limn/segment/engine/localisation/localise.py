"""Labels heart, cord and lungs in a coarse picture of a stretch of the body.

The folds need only the chest, at a fine spacing. A small network finds it at `coarse.COARSE_MM`. It
learnt mirror images too, so the lungs are one organ.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from limn.segment.engine.localisation.coarse import COARSE_MM, dense
from limn.segment.engine.localisation.region import Region, region_of_organs
from limn.segment.engine.weights import with_weights

HEART, CORD, LUNGS = 1, 2, 3
# How far the cord from T1 to T13 reaches beyond the box of heart and lungs, towards I, S and P:
# means of 120 phantoms. The cord itself is thinner than two coarse voxels.
CORD_BEYOND_MM = (6.1, 0.8, 0.8)
CHANNELS = (8, 16, 32, 48)
# Of the coarse grid's axes; the strides of the network.
MULTIPLE = 8
# A field of one voxel at the deepest stage can't be normalised.
LEAST = 16


def _block(before: int, after: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(before, after, 3, stride, padding=1, bias=False),
        nn.InstanceNorm3d(after, affine=True),
        nn.LeakyReLU(inplace=True),
    )


class LocaliserNet(nn.Module):
    """A small U-Net: density in, logits of four classes out."""

    def __init__(self, channels: tuple[int, ...] = CHANNELS) -> None:
        super().__init__()
        self.first = _block(1, channels[0])
        self.downs = nn.ModuleList(
            nn.Sequential(_block(before, after, 2), _block(after, after))
            for before, after in pairwise(channels)
        )
        self.ups = nn.ModuleList(
            nn.ConvTranspose3d(deep, shallow, 2, 2)
            for shallow, deep in zip(channels[-2::-1], channels[:0:-1], strict=True)
        )
        self.joins = nn.ModuleList(_block(2 * own, own) for own in channels[-2::-1])
        self.last = nn.Conv3d(channels[0], 4, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits (n, class, z, y, x) of (n, 1, z, y, x) density; axes are multiples of 8."""
        skips = [self.first(image)]
        for down in self.downs:
            skips.append(down(skips[-1]))
        image = skips.pop()
        for up, join in zip(self.ups, self.joins, strict=True):
            image = join(torch.cat([up(image), skips.pop()], dim=1))
        logits: torch.Tensor = self.last(image)
        return logits


class Localiser:
    """Labels the organs of a chest on the coarse grid, by a network with its weights."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network.eval()

    @classmethod
    def load(cls, weights: Path) -> Localiser:
        """Open the weights of a verified bundle."""
        return cls(with_weights(LocaliserNet(), weights))

    def find(self, field: npt.NDArray[np.float32]) -> Region | None:
        """About the box of one animal's heart, cord and lungs; None if there is no chest.

        Parameters
        ----------
        field : (z, y, x) HU with the animal's own S, P, L along the axes, on voxels of
            `coarse.COARSE_MM`; some 40 mm long
        """
        labels = self.label(field)
        two = np.where(labels == LUNGS, 2, labels == HEART).astype(np.uint8)
        found = region_of_organs(two, 2, (COARSE_MM, COARSE_MM, COARSE_MM), (0.0, 0.0, 0.0))
        if found is None:
            return None
        tail, head, back = (round(mm / COARSE_MM) for mm in CORD_BEYOND_MM)
        z, y, _ = field.shape
        return Region(
            (max(0, found.low[0] - tail), *found.low[1:]),
            (min(z, found.high[0] + head), min(y, found.high[1] + back), found.high[2]),
        )

    def label(self, field: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
        """Labels (z, y, x) of a coarse field: `HEART`, `CORD`, `LUNGS`, or 0."""
        shape = field.shape
        fill = [(0, max(LEAST, n + -n % MULTIPLE) - n) for n in shape]
        image = torch.from_numpy(np.pad(dense(field), fill))[None, None]
        with torch.inference_mode():
            won = self.network(image)[0].argmax(dim=0).to(torch.uint8)
        return np.ascontiguousarray(won.numpy()[: shape[0], : shape[1], : shape[2]])
