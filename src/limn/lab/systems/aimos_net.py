"""The two-dimensional U-Net of `aimos`: six stages, one grey slice in, a score per class out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

STAGES = 6
# Each of the five steps between stages halves the sides.
SIDE_MULTIPLE = 2 ** (STAGES - 1)


class UNet2d(nn.Module):
    """Two 3 x 3 convolutions in each stage, with pooling on the way down and skips on the way up.

    Attributes
    ----------
    down : blocks of the encoder, from the highest layer to the bottleneck
    up : blocks of the decoder, from the bottleneck to the highest layer
    """

    def __init__(self, features: Sequence[int], classes: int) -> None:
        super().__init__()
        if len(features) != STAGES:
            msg = f"{STAGES} numbers of features expected, not {len(features)}"
            raise ValueError(msg)
        self.down = nn.ModuleList(_block(a, b) for a, b in pairwise((1, *features)))
        steps = list(pairwise(reversed(features)))
        self.widen = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, stride=2) for a, b in steps)
        self.up = nn.ModuleList(_block(2 * b, b) for _, b in steps)
        self.head = nn.Conv2d(features[0], classes, 1)

    def forward(self, slices: torch.Tensor) -> torch.Tensor:
        """(n, 1, rows, columns) to (n, class, rows, columns); sides multiples of 32."""
        seen: list[torch.Tensor] = []
        out = slices
        for stage, block in enumerate(self.down):
            out = block(nn.functional.max_pool2d(out, 2) if stage else out)
            seen.append(out)
        for widen, block, own in zip(self.widen, self.up, reversed(seen[:-1]), strict=True):
            out = block(torch.cat((own, widen(out)), dim=1))
        scores: torch.Tensor = self.head(out)
        return scores


def _block(into: int, out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(into, out, 3, padding=1, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU(inplace=True),
        nn.Conv2d(out, out, 3, padding=1, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU(inplace=True),
    )
