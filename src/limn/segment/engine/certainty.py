"""Says how certain the networks are of each organ, from their mean probabilities."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from limn.domain.scan import occupied_box

# Voxels around an organ's box in which it may also lie.
MARGIN = 4


@dataclass(frozen=True, slots=True)
class Certainty:
    """How certain the networks are of one organ.

    Attributes
    ----------
    expected_dsc : of the organ's voxels with a truth that is drawn voxel by voxel with the
        probabilities; 0 if the organ has no voxel
    entropy_nats : mean entropy of the probabilities in the organ and beside it
    surface_entropy_nats : mean entropy at its surface alone
    """

    expected_dsc: float
    entropy_nats: float
    surface_entropy_nats: float


# Of an organ without a voxel.
NOTHING = Certainty(0.0, 0.0, 0.0)


def certainties(
    scores: torch.Tensor,
    winners_zyx: npt.NDArray[np.uint8],
    labels: Iterable[int],
    *,
    logits: bool,
) -> Mapping[int, Certainty]:
    """The certainty of every organ.

    Parameters
    ----------
    scores : (class, z, y, x) mean probabilities of a region, or logits
    winners_zyx : (z, y, x) class with the highest score
    labels : the organs' classes
    """
    return {label: _of(scores, winners_zyx == label, label, logits=logits) for label in labels}


def _of(
    scores: torch.Tensor, mask_zyx: npt.NDArray[np.bool_], label: int, *, logits: bool
) -> Certainty:
    spans = occupied_box(mask_zyx)
    if spans[0].stop == 0:
        return NOTHING
    box = tuple(slice(max(0, span.start - MARGIN), span.stop + MARGIN) for span in spans)
    mask = torch.from_numpy(mask_zyx[box]).to(scores.device, torch.float32)
    shares = scores[(slice(None), *box)]
    shares = torch.softmax(shares, dim=0) if logits else shares
    near = _grown(mask) > 0
    surface = near & (_grown(1.0 - mask) > 0)
    entropy = -(shares * shares.clamp_min(1e-6).log()).sum(dim=0)
    expected = 2.0 * (shares[label] * mask).sum() / (mask.sum() + shares[label].sum())
    return Certainty(float(expected), float(entropy[near].mean()), float(entropy[surface].mean()))


def _grown(mask: torch.Tensor) -> torch.Tensor:
    """A mask with every voxel's neighbours."""
    return functional.max_pool3d(mask[None, None], 3, 1, 1)[0, 0]
