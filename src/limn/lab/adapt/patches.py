"""Patches that a fold learns from, and the loss that leaves alone what nobody contoured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import nn

from limn.lab.adapt.cases import LearningCase
from limn.lab.train.patches import MISPLACED_MM, MOST_SCALE, rotated, seen_elsewhere
from limn.segment.engine.plans import Plan

# Of the patches; the others lie about a voxel of some organ.
AROUND_ORGANS = 0.6
ROTATED = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class LearningPatch:
    """One patch, as some scanner shows it.

    Attributes
    ----------
    image : (z, y, x), normalised as the plans say
    classes : (class, z, y, x) shares of background and organs; an organ that is not known has none
    """

    image: npt.NDArray[np.float32]
    classes: npt.NDArray[np.float32]
    known: tuple[bool, ...]


def draw_learning_patch(
    rng: np.random.Generator,
    site: Sequence[LearningCase],
    phantoms: Sequence[LearningCase],
    site_share: float,
    plan: Plan,
    spacing_mm: Sequence[float],
) -> LearningPatch:
    """A random patch of one of the site's scans or of a phantom.

    The site's scans keep their look, apart from small errors of its scanner; a phantom is shown by
    any scanner. So the networks can tell the site's contours from those that they knew.
    """
    of_site = bool(rng.random() < site_share) or not phantoms
    cases = site if of_site else phantoms
    case = cases[int(rng.integers(len(cases)))]
    low = _corner_of(rng, case, plan.patch, spacing_mm)
    where = tuple(slice(a, a + n) for a, n in zip(low, plan.patch, strict=True))
    hu = case.hu[where].astype(np.float32)
    shares = case.shares[(slice(None), *where)].astype(np.float32) / 255.0
    if rng.random() < ROTATED:
        both = rotated(np.concatenate([hu[None], shares]), rng, MOST_SCALE)
        hu, shares = both[0], both[1:]
    hu = seen_again(hu, rng) if of_site else seen_elsewhere(hu, rng)
    rest = np.clip(1.0 - shares.sum(axis=0, keepdims=True), 0.0, 1.0)
    return LearningPatch(normalised(hu, plan), np.concatenate([rest, shares]), case.known)


def normalised(hu: npt.NDArray[np.float32], plan: Plan) -> npt.NDArray[np.float32]:
    """nnU-Net's CTNormalization by the bundle's plan."""
    return np.asarray((np.clip(hu, plan.low, plan.high) - plan.mean) / plan.std, dtype=np.float32)


def seen_again(hu: npt.NDArray[np.float32], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """The same patch on another day of the same scanner: calibration, dose, focus."""
    hu = (hu + 1000.0) * np.float32(np.exp(rng.normal(0.0, 0.02))) - 1000.0
    hu = hu + np.float32(rng.normal(0.0, 20.0))
    if rng.random() < 0.15:
        hu = ndimage.gaussian_filter(hu, float(rng.uniform(0.2, 0.5)))
    if rng.random() < 0.3:
        noise = rng.standard_normal(hu.shape, dtype=np.float32)
        hu = hu + noise * np.float32(rng.uniform(5.0, 30.0))
    return np.asarray(hu, dtype=np.float32)


def _corner_of(
    rng: np.random.Generator,
    case: LearningCase,
    patch: Sequence[int],
    spacing_mm: Sequence[float],
) -> list[int]:
    """First voxel of a patch around the known organs, or about some voxel of one of them."""
    there = [points for points in case.points if len(points)]
    if rng.random() < AROUND_ORGANS or not there:
        middle = np.array([(span.start + span.stop) / 2 for span in case.box])
        if case.box[0].stop == 0:
            middle = np.array([rng.uniform(0, n) for n in case.hu.shape])
        aside = rng.normal(0.0, 1.0, 3) * MISPLACED_MM / np.array(spacing_mm)
        # Organs that reach beyond a patch: its place is drawn along them.
        over = [max(0, s.stop - s.start - n) for s, n in zip(case.box, patch, strict=True)]
        aside = aside + rng.uniform(-0.5, 0.5, 3) * np.array(over)
    else:
        points = there[int(rng.integers(len(there)))]
        middle = points[int(rng.integers(len(points)))].astype(np.float64)
        aside = np.array([rng.uniform(-n / 4, n / 4) for n in patch])
    return [
        int(np.clip(round(middle[i] + aside[i] - n / 2), 0, case.hu.shape[i] - n))
        for i, n in enumerate(patch)
    ]


def marginal_loss(
    outputs: Sequence[torch.Tensor], target: torch.Tensor, known: Sequence[bool]
) -> torch.Tensor:
    """Cross-entropy plus soft Dice over the heads, as in `train.folds`, of the known organs alone.

    An organ that nobody contoured counts as background, whatever the network calls it: its
    probability is added to that of the background, so that it is neither rewarded nor punished.

    Parameters
    ----------
    outputs : logits (1, class, z, y, x), the finest first
    target : (1, class, z, y, x) shares; an unknown organ has none
    """
    beside = [0, *(k for k, own in enumerate(known, start=1) if not own)]
    kept = [k for k, own in enumerate(known, start=1) if own]
    weights = [1.0, 0.5, 0.25][: len(outputs)]
    total = torch.zeros((), device=target.device)
    for weight, output in zip(weights, outputs, strict=False):
        step = [a // b for a, b in zip(target.shape[2:], output.shape[2:], strict=True)]
        truth = nn.functional.avg_pool3d(target, step) if max(step) > 1 else target
        log_soft = torch.log_softmax(output.float(), dim=1)
        rest = torch.logsumexp(log_soft[:, beside], dim=1, keepdim=True)
        log_soft = torch.cat([rest, log_soft[:, kept]], dim=1)
        truth = torch.cat([truth[:, beside].sum(1, keepdim=True), truth[:, kept]], dim=1)
        soft = log_soft.exp()
        axes = (0, 2, 3, 4)
        overlap = (soft * truth).sum(axes)[1:]
        size = (soft + truth).sum(axes)[1:]
        soft_dice = ((2 * overlap + 1.0) / (size + 1.0)).mean() if kept else 0.0
        entropy = -(truth * log_soft).sum(1).mean()
        total = total + weight * (entropy - soft_dice)
    return total / sum(weights)
