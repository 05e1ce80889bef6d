"""Finds every animal's chest on a coarse grid, whatever way the animals lie.

The folds need only the chest, at a fine spacing. A small network sees the whole scan at
`coarse.COARSE_MM` and labels heart, cord and lungs there. It learnt every way to lie and every
mirror image, so it tells neither left from right nor how the animal lies: the lungs are one organ.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from limn.segment.engine.coarse import COARSE_MM, dense
from limn.segment.engine.region import Region, region_of_organs

HEART, CORD, LUNGS = 1, 2, 3
CHANNELS = (16, 32, 48, 64)
# Of the coarse grid's axes; the strides of the network.
MULTIPLE = 16


def _block(before: int, after: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(before, after, 3, stride, padding=1, bias=False),
        nn.InstanceNorm3d(after, affine=True),
        nn.LeakyReLU(inplace=True),
    )


class LocaliserNet(nn.Module):
    """A U-Net whose first step halves the grid, and whose last doubles it again: it is quick."""

    def __init__(self, channels: tuple[int, ...] = CHANNELS) -> None:
        super().__init__()
        self.downs = nn.ModuleList(
            nn.Sequential(_block(before, after, 2), _block(after, after))
            for before, after in zip((1, *channels), channels, strict=False)
        )
        self.ups = nn.ModuleList(
            nn.ConvTranspose3d(deep, shallow, 2, 2)
            for shallow, deep in zip(channels[-2::-1], channels[:0:-1], strict=True)
        )
        self.joins = nn.ModuleList(_block(2 * own, own) for own in channels[-2::-1])
        self.last = nn.ConvTranspose3d(channels[0], 4, 2, 2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits (n, class, z, y, x) of (n, 1, z, y, x) density; axes are multiples of 16."""
        skips = []
        for down in self.downs:
            image = down(image)
            skips.append(image)
        image = skips.pop()
        for up, join in zip(self.ups, self.joins, strict=True):
            image = join(torch.cat([up(image), skips.pop()], dim=1))
        logits: torch.Tensor = self.last(image)
        return logits


class Localiser:
    """Labels the organs of the chest on the coarse grid, by a network with its weights."""

    def __init__(self, network: LocaliserNet) -> None:
        self.network = network.eval()

    @classmethod
    def load(cls, weights: Path) -> Localiser:
        """Open the weights of a verified bundle."""
        network = LocaliserNet()
        kept = torch.load(weights, map_location="cpu", weights_only=True)
        network.load_state_dict({name: tensor.float() for name, tensor in kept.items()})
        return cls(network)

    def find(self, whole: npt.NDArray[np.float32]) -> Region | None:
        """The box of one animal's heart, cord and lungs; None if it finds no whole chest.

        Parameters
        ----------
        whole : (z, y, x) HU with axes S, P, L by the header, on voxels of `coarse.COARSE_MM`
        """
        mm = (COARSE_MM, COARSE_MM, COARSE_MM)
        return region_of_organs(self.label(whole), LUNGS, mm, (0.0, 0.0, 0.0))

    def label(self, whole: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
        """Labels (z, y, x) of a coarse scan: `HEART`, `CORD`, `LUNGS`, or 0."""
        shape = whole.shape
        fill = [(0, -n % MULTIPLE) for n in shape]
        image = torch.from_numpy(np.pad(dense(whole), fill))[None, None]
        with torch.inference_mode():
            won = self.network(image)[0].argmax(dim=0).to(torch.uint8).numpy()
        return np.ascontiguousarray(won[: shape[0], : shape[1], : shape[2]])
