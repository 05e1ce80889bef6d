"""Which way a network expects its axes: every way tried on one scan, the best first.

Frugal: one fold looks at one patch around the chest, in every one of the 48 orders and flips of
the axes; the other folds look at the best few. What they draw is judged by what is known of mice,
so that labels named wrongly show too; among plausible ways the least doubtful is the best. Networks
draw organs in turned mice, too, so that the best way is evidence and no proof.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import nn

from limn.domain.errors import BundleUnfit
from limn.domain.geometry import Reorientation, SpacingMm, axial_grid
from limn.domain.scan import Labels, Organ, Volume
from limn.segment.bundle.bundle import Bundle
from limn.segment.engine.half import autocast
from limn.segment.engine.orient import (
    COARSE_MM,
    MIN_RIGHT_SHARE,
    STRAIGHT,
    coarse,
    contradictions,
    dense,
    right_lung_share,
)
from limn.segment.engine.weights import build, fill
from limn.segment.importing.pickles import read_checkpoint

WAYS = tuple(
    "".join(letters)
    for axes in itertools.permutations(("SI", "PA", "LR"))
    for letters in itertools.product(*axes)
)
# Real organs of mice with room on both sides: heart 138-264 mm3, both lungs 360-688, the right
# 0.64 of them, a cord 1.3-1.7 mm across and as long as the patch.
PLAUSIBLE_MM3 = {
    Organ.HEART: (80.0, 500.0),
    Organ.CORD: (8.0, 150.0),
    Organ.LUNG_R: (80.0, 700.0),
    Organ.LUNG_L: (40.0, 500.0),
}
# Lungs hold air, whatever the calibration.
DARKER_HU = 100.0
# The largest piece of an organ has this share of it, or the network does not see one organ.
WHOLE = 0.7
# Density, water 1: muscle has it, lung and foam have not.
TISSUE = 0.75
# A chest is this long; a 2d network sees no more than so many of its slices.
CHEST_MM = 24.0
MOST_SLICES = 40
# So many ways are shown to the other folds.
SECOND_LOOK = 4


@dataclass(frozen=True, slots=True)
class AxisTrial:
    """What one way gave.

    Attributes
    ----------
    letters : what the array axes grow towards, before the plans' transposition
    against : what speaks against it; empty when plausible
    doubt : what the network leaves to other labels, summed over the patch, per voxel drawn
    """

    letters: str
    volumes_mm3: dict[Organ, float]
    against: tuple[str, ...]
    doubt: float

    @property
    def plausible(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.against

    @property
    def mirrored(self) -> bool:
        """Whether the network would have been trained on mirror images."""
        return handedness(self.letters) < 0


@dataclass(frozen=True, slots=True, eq=False)
class _Plan:
    patch: tuple[int, ...]
    spacing: tuple[float, ...]
    forward: tuple[int, int, int]
    backward: tuple[int, int, int]
    scheme: str
    intensities: dict[str, float]


@dataclass(frozen=True, slots=True, eq=False)
class _SearchedScan:
    """The scan, the middle of its chest, and the patches cut of it so far."""

    volume: Volume
    middle: tuple[int, int, int]
    patches: dict[str, tuple[npt.NDArray[np.float32], list[float]]]


def try_ways(
    bundle: Bundle, volume: Volume, progress: Callable[[int, int], None]
) -> list[AxisTrial]:
    """Every way, the best first.

    Parameters
    ----------
    volume : of one animal that lies straight: array axes grow towards its S, P, L

    Raises
    ------
    BundleUnfit
        If the bundle can't be asked: a cascade's second stage, or a scheme of its own.
    """
    if bundle.previous:
        msg = f"{bundle.label}: a cascade's second stage can't be tried without the first"
        raise BundleUnfit(msg)
    if volume.grid.axis_letters != STRAIGHT:
        msg = f"a volume of axes {volume.grid.axis_letters}, {STRAIGHT} expected"
        raise ValueError(msg)
    plan, first = _load(bundle, bundle.folds[0])
    others = bundle.folds[1:]
    total = len(WAYS) + SECOND_LOOK * len(others)
    found: list[AxisTrial] = []
    seen = _SearchedScan(volume, _middle(volume), {})
    with torch.inference_mode():
        for letters in WAYS:
            found.append(_try(letters, plan, first, seen, bundle))
            progress(len(found), total)
        found.sort(key=_rank)
        looks = {tried.letters: [tried] for tried in found[:SECOND_LOOK]}
        for k, fold in enumerate(others):
            _, network = _load(bundle, fold)
            for i, (letters, looked) in enumerate(looks.items()):
                looked.append(_try(letters, plan, network, seen, bundle))
                progress(len(WAYS) + k * SECOND_LOOK + i + 1, total)
    best = [_together(looked) for looked in looks.values()]
    return sorted(best, key=_rank) + found[SECOND_LOOK:]


def _rank(tried: AxisTrial) -> tuple[int, float]:
    return (len(tried.against), tried.doubt)


def _together(seen: list[AxisTrial]) -> AxisTrial:
    """Several folds' looks at one way: what most of them say against it, and their mean doubt."""
    first = seen[0]
    agreed = tuple(
        said for said in first.against if sum(bool(own.against) for own in seen) > len(seen) / 2
    )
    return replace(first, against=agreed, doubt=float(np.mean([own.doubt for own in seen])))


def _load(bundle: Bundle, fold: int) -> tuple[_Plan, nn.Module]:
    try:
        plans = json.loads((bundle.folder / "plans.json").read_text(encoding="utf-8"))
        chosen = plans["configurations"][bundle.configuration]
        forward, backward = plans["transpose_forward"], plans["transpose_backward"]
        spacing = tuple(bundle.spacing_mm.zyx[axis] for axis in forward)
        plan = _Plan(
            patch=tuple(chosen["patch_size"]),
            spacing=spacing,
            forward=(forward[0], forward[1], forward[2]),
            backward=(backward[0], backward[1], backward[2]),
            scheme=chosen["normalization_schemes"][0],
            intensities=plans["foreground_intensity_properties_per_channel"]["0"],
        )
        network = build(chosen["architecture"], 1, len(bundle.organs) + 1)
    except (LookupError, TypeError, ValueError) as error:
        msg = f"bundle {bundle.label}: plans.json is not usable: {error!r}"
        raise BundleUnfit(msg) from error
    path = bundle.checkpoint(fold)
    return plan, fill(network, read_checkpoint(path)["network_weights"], path)


def _try(
    letters: str, plan: _Plan, network: nn.Module, seen: _SearchedScan, bundle: Bundle
) -> AxisTrial:
    """One way: the patch turned, drawn by the network, turned back, judged."""
    # Resampling and flipping may be exchanged, so that six patches serve 48 ways.
    unflipped = "".join(_straight(letter) for letter in letters)
    if unflipped not in seen.patches:
        seen.patches[unflipped] = _patch(unflipped, plan, seen)
    image, steps = seen.patches[unflipped]
    flips = [slice(None, None, 1 if letter in STRAIGHT else -1) for letter in letters]
    image = image[tuple(flips[axis] for axis in plan.forward)]
    with autocast(torch.device("cpu")):
        logits = network(_normalised(image, plan))
    best, label = torch.softmax(logits.float(), dim=1).max(dim=1)
    # A 2d network's slices lie in the batch, a 3d network's batch is one patch.
    drawn = label.reshape(image.shape).numpy().astype(np.uint8)
    doubt = float((1 - best).sum()) / max(int((drawn > 0).sum()), 1)
    back = Reorientation.between(letters, STRAIGHT)
    labels_zyx = np.ascontiguousarray(back.apply(drawn.transpose(plan.backward)))
    hu_zyx = back.apply(image.transpose(plan.backward))
    z, y, x = labels_zyx.shape
    spacing = back.spacing(SpacingMm(*(steps[axis] for axis in plan.backward)))
    labels = Labels(labels_zyx, axial_grid((z, y, x), spacing, np.zeros(3)), bundle.organs)
    volumes = labels.volumes_mm3()
    return AxisTrial(letters, volumes, tuple(_against(labels, hu_zyx, volumes)), doubt)


def _straight(letter: str) -> str:
    """The letter of the same axis in an animal that lies straight."""
    return letter if letter in STRAIGHT else {"I": "S", "A": "P", "R": "L"}[letter]


def _middle(volume: Volume) -> tuple[int, int, int]:
    """The voxel in the middle of the chest: between the lungs, dark within the largest body.

    A bed of foam is dark as well, and larger; no tissue is around it.
    """
    spacing = volume.grid.spacing_mm
    picture = dense(coarse(volume.hu_zyx, spacing))
    bodies, count = ndimage.label(ndimage.binary_opening(picture > TISSUE))
    body = ndimage.binary_closing(bodies == _largest(bodies), iterations=2) if count else bodies > 0
    inside = np.stack([ndimage.binary_fill_holes(layer) for layer in body])
    dark = ndimage.binary_opening(inside & (picture < TISSUE) & (picture > 0.1))
    pieces, count = ndimage.label(dark)
    middle = np.array(picture.shape) / 2
    if count:
        sizes = np.bincount(pieces.ravel())[1:]
        lung = np.argwhere(pieces == _largest(pieces)).mean(axis=0)
        # The other lung, where the two do not touch.
        both = [
            k
            for k in 1 + np.flatnonzero(sizes >= sizes.max() / 3)
            if np.linalg.norm(np.argwhere(pieces == k).mean(axis=0) - lung) * COARSE_MM
            < CHEST_MM / 2
        ]
        middle = np.argwhere(np.isin(pieces, both)).mean(axis=0)
    voxels = [
        min(n - 1, round(float(m) * COARSE_MM / mm))
        for m, n, mm in zip(middle, volume.hu_zyx.shape, spacing.zyx, strict=True)
    ]
    return (voxels[0], voxels[1], voxels[2])


def _largest(pieces: npt.NDArray[Any]) -> int:
    return int(np.bincount(pieces.ravel())[1:].argmax()) + 1


def _patch(
    letters: str, plan: _Plan, seen: _SearchedScan
) -> tuple[npt.NDArray[np.float32], list[float]]:
    """One patch of HU around the middle, and its spacing; padded with the mean where it ends."""
    turn = Reorientation.between(STRAIGHT, letters)
    array = turn.apply(seen.volume.hu_zyx).transpose(plan.forward)
    own = [turn.spacing(seen.volume.grid.spacing_mm).zyx[axis] for axis in plan.forward]
    centre = [seen.middle[turn.axes[axis]] for axis in plan.forward]
    patch, spacing = list(plan.patch), list(plan.spacing)
    stride = 1
    if len(patch) == 2:
        # A 2d network looks at slices as they are; some are enough.
        thick = round(CHEST_MM / own[0])
        stride = max(1, -(-thick // MOST_SLICES))
        patch.insert(0, min(-(-thick // stride), -(-array.shape[0] // stride)))
        spacing[0] = own[0] * stride
    box = []
    for n, c, mm, p, want in zip(array.shape, centre, own, patch, spacing, strict=True):
        half = int(np.ceil(p * want / mm / 2)) + 2
        low = max(0, min(c - half, n - 2 * half))
        box.append(slice(low, min(n, low + 2 * half)))
    cropped = array[tuple(box)][::stride]
    zoom = [
        1.0 if i == 0 and len(plan.patch) == 2 else mm / want
        for i, (mm, want) in enumerate(zip(own, spacing, strict=True))
    ]
    image = np.asarray(
        ndimage.zoom(cropped, zoom, order=3, mode="nearest", grid_mode=True), dtype=np.float32
    )
    fitted = np.full(patch, np.float32(plan.intensities.get("mean", -1000.0)), dtype=np.float32)
    source, target = [], []
    for n, p in zip(image.shape, patch, strict=True):
        taken = min(n, p)
        source.append(slice((n - taken) // 2, (n - taken) // 2 + taken))
        target.append(slice((p - taken) // 2, (p - taken) // 2 + taken))
    fitted[tuple(target)] = image[tuple(source)]
    return fitted, spacing


def _normalised(image: npt.NDArray[np.float32], plan: _Plan) -> torch.Tensor:
    kept = plan.intensities
    if plan.scheme == "CTNormalization":
        clipped = np.clip(image, kept["percentile_00_5"], kept["percentile_99_5"])
        image = np.asarray((clipped - kept["mean"]) / max(kept["std"], 1e-8), dtype=np.float32)
    elif plan.scheme == "ZScoreNormalization":
        image = (image - image.mean()) / max(float(image.std()), 1e-8)
    elif plan.scheme != "NoNormalization":
        msg = f"normalization_schemes {plan.scheme!r} can't be tried"
        raise BundleUnfit(msg)
    tensor = torch.from_numpy(np.ascontiguousarray(image))
    return tensor[:, None] if len(plan.patch) == 2 else tensor[None, None]


def _against(
    labels: Labels, hu_zyx: npt.NDArray[np.float32], volumes: dict[Organ, float]
) -> list[str]:
    said = []
    mean_hu = {}
    for organ, mm3 in volumes.items():
        low, high = PLAUSIBLE_MM3[organ]
        if not low <= mm3 <= high:
            said.append(f"{organ.value} {mm3:.0f} mm3, {low:.0f} to {high:.0f} expected")
            continue
        mask = labels.mask(organ)
        mean_hu[organ] = float(hu_zyx[mask].mean())
        pieces, _ = ndimage.label(mask)
        if (whole := np.bincount(pieces.ravel())[1:].max() / mask.sum()) < WHOLE:
            said.append(f"{organ.value} in pieces, the largest {whole:.2f} of it")
    for lung in (Organ.LUNG_R, Organ.LUNG_L):
        for solid in (Organ.HEART, Organ.CORD):
            if {lung, solid} <= set(mean_hu) and mean_hu[lung] > mean_hu[solid] - DARKER_HU:
                said.append(f"{lung.value} is not darker than {solid.value}")
    share = right_lung_share(volumes)
    if share is not None and share < MIN_RIGHT_SHARE:
        said.append(f"the right lung is the smaller: {share:.2f} of both")
    return said + contradictions(labels)


def handedness(letters: str) -> int:
    """1 where the axes are those of an animal, -1 where they are of its mirror image."""
    matrix = np.zeros((3, 3))
    for axis, letter in enumerate(letters):
        place = next(i for i, pair in enumerate(("SI", "PA", "LR")) if letter in pair)
        matrix[axis, place] = 1.0 if letter in STRAIGHT else -1.0
    return round(float(np.linalg.det(matrix)))


def table(tried: list[AxisTrial], most: int) -> list[list[Any]]:
    """Rows for people: letters, handedness, volumes, doubt, verdict."""
    return [
        [
            way.letters,
            "mirrored" if way.mirrored else "",
            *(f"{way.volumes_mm3.get(organ, 0.0):.0f}" for organ in Organ),
            f"{way.doubt:.3f}",
            "plausible" if way.plausible else "; ".join(way.against),
        ]
        for way in tried[:most]
    ]
