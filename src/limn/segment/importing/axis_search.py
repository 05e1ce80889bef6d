"""Finds the orientation that a network expects, by trying every one on one scan.

To save time one fold segments one patch around the chest in each of the 48 orders and flips of
the axes, and the other folds only the best few. The organs are compared with what is known of
mice, which also shows labels that are named wrongly; among the plausible orientations the one
with the least doubt is the best. Networks draw organs in turned mice too, so the best orientation
is evidence and no proof.
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
from limn.domain.scan import Labels, Organ, Role, Volume, by_role
from limn.segment.bundle.bundle import Bundle
from limn.segment.engine.half import autocast
from limn.segment.engine.localisation.coarse import COARSE_MM, coarse, dense
from limn.segment.engine.localisation.orient import (
    MIN_RIGHT_SHARE,
    STRAIGHT,
    contradictions,
    right_lung_share,
)
from limn.segment.engine.weights import build, fill
from limn.segment.importing.pickles import read_checkpoint

AXIS_ORDERS = tuple(
    "".join(letters)
    for axes in itertools.permutations(("SI", "PA", "LR"))
    for letters in itertools.product(*axes)
)
# Organs of real mice, with a margin on both sides: heart 138-264 mm3, both lungs 360-688, the
# right one 0.64 of them, a cord 1.3-1.7 mm across and as long as the patch.
PLAUSIBLE_MM3 = {
    Role.HEART: (80.0, 500.0),
    Role.CORD: (8.0, 150.0),
    Role.LUNG_R: (80.0, 700.0),
    Role.LUNG_L: (40.0, 500.0),
}
# Lungs hold air: they are this much darker than heart and cord, whatever the calibration.
DARKER_HU = 100.0
# The largest piece of an organ has at least this share of it.
WHOLE = 0.7
# Density, water 1: muscle is denser than this, lung and foam are not.
TISSUE = 0.75
# Length of a chest, and the most slices of it that a 2d network segments.
CHEST_MM = 24.0
MOST_SLICES = 40
# Orientations that the other folds try too.
SECOND_LOOKS = 4


@dataclass(frozen=True, slots=True)
class AxisTrial:
    """The result of one orientation.

    Attributes
    ----------
    letters : what the array axes grow towards, before the plans' transposition
    objections : what makes the organs implausible; empty if they are plausible
    doubt : probability of all labels but the winner, summed over the patch, per voxel drawn
    """

    letters: str
    volumes_mm3: dict[Organ, float]
    objections: tuple[str, ...]
    doubt: float

    @property
    def plausible(self) -> bool:
        """Whether there are no objections."""
        return not self.objections

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
    """The scan, the middle voxel of its chest, and the patches cut from it so far."""

    volume: Volume
    middle: tuple[int, int, int]
    patches: dict[str, tuple[npt.NDArray[np.float32], list[float]]]


def search_axes(
    bundle: Bundle, volume: Volume, progress: Callable[[int, int], None]
) -> list[AxisTrial]:
    """Try every orientation; the best comes first.

    Parameters
    ----------
    volume : of one animal that lies straight: array axes grow towards its S, P, L

    Raises
    ------
    BundleUnfit
        If the bundle can't be tried: a cascade's second stage, or an unknown normalisation.
    """
    if bundle.previous:
        msg = f"{bundle.label}: a cascade's second stage can't be tried without the first"
        raise BundleUnfit(msg)
    if volume.grid.axis_letters != STRAIGHT:
        msg = f"a volume of axes {volume.grid.axis_letters}, {STRAIGHT} expected"
        raise ValueError(msg)
    plan, first = _load(bundle, bundle.folds[0])
    others = bundle.folds[1:]
    total = len(AXIS_ORDERS) + SECOND_LOOKS * len(others)
    found: list[AxisTrial] = []
    seen = _SearchedScan(volume, _middle(volume), {})
    with torch.inference_mode():
        for letters in AXIS_ORDERS:
            found.append(_try(letters, plan, first, seen, bundle))
            progress(len(found), total)
        found.sort(key=_rank)
        looks = {trial.letters: [trial] for trial in found[:SECOND_LOOKS]}
        for k, fold in enumerate(others):
            _, network = _load(bundle, fold)
            for i, (letters, looked) in enumerate(looks.items()):
                looked.append(_try(letters, plan, network, seen, bundle))
                progress(len(AXIS_ORDERS) + k * SECOND_LOOKS + i + 1, total)
    best = [_combined(looked) for looked in looks.values()]
    return sorted(best, key=_rank) + found[SECOND_LOOKS:]


def _rank(trial: AxisTrial) -> tuple[int, float]:
    return (len(trial.objections), trial.doubt)


def _combined(seen: list[AxisTrial]) -> AxisTrial:
    """One trial of several folds: the objections if most folds have any, and the mean doubt."""
    first = seen[0]
    agreed = tuple(
        objection
        for objection in first.objections
        if sum(bool(own.objections) for own in seen) > len(seen) / 2
    )
    return replace(first, objections=agreed, doubt=float(np.mean([own.doubt for own in seen])))


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
    """Turn the patch, let the network draw in it, turn it back and judge the organs."""
    # Flipping before or after resampling is the same, so six patches serve 48 orientations.
    unflipped = "".join(_straight(letter) for letter in letters)
    if unflipped not in seen.patches:
        seen.patches[unflipped] = _patch(unflipped, plan, seen)
    image, steps = seen.patches[unflipped]
    flips = [slice(None, None, 1 if letter in STRAIGHT else -1) for letter in letters]
    image = image[tuple(flips[axis] for axis in plan.forward)]
    with autocast(torch.device("cpu")):
        logits = network(_normalised(image, plan))
    best, label = torch.softmax(logits.float(), dim=1).max(dim=1)
    # A 2d network's batch holds the slices, a 3d network's batch one patch.
    drawn = label.reshape(image.shape).numpy().astype(np.uint8)
    doubt = float((1 - best).sum()) / max(int((drawn > 0).sum()), 1)
    back = Reorientation.between(letters, STRAIGHT)
    labels_zyx = np.ascontiguousarray(back.apply(drawn.transpose(plan.backward)))
    hu_zyx = back.apply(image.transpose(plan.backward))
    z, y, x = labels_zyx.shape
    spacing = back.spacing(SpacingMm(*(steps[axis] for axis in plan.backward)))
    grid = axial_grid((z, y, x), spacing, np.zeros(3))
    labels = Labels(labels_zyx, grid, bundle.organs, bundle.roles)
    volumes = labels.volumes_mm3()
    return AxisTrial(letters, volumes, tuple(_objections(labels, hu_zyx, volumes)), doubt)


def _straight(letter: str) -> str:
    """The letter of the same axis in an animal that lies straight."""
    return letter if letter in STRAIGHT else {"I": "S", "A": "P", "R": "L"}[letter]


def _middle(volume: Volume) -> tuple[int, int, int]:
    """The voxel in the middle of the chest: between the lungs, dark within the largest body.

    A bed of foam is dark too, and larger, but no tissue surrounds it.
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
        # The other lung too, if the two do not touch.
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
    """One patch of HU around the middle, and its spacing; padded with the training's mean."""
    turn = Reorientation.between(STRAIGHT, letters)
    array = turn.apply(seen.volume.hu_zyx).transpose(plan.forward)
    own = [turn.spacing(seen.volume.grid.spacing_mm).zyx[axis] for axis in plan.forward]
    centre = [seen.middle[turn.axes[axis]] for axis in plan.forward]
    patch, spacing = list(plan.patch), list(plan.spacing)
    stride = 1
    if len(patch) == 2:
        # A 2d network takes slices as they are; some of them are enough.
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


def _objections(
    labels: Labels, hu_zyx: npt.NDArray[np.float32], volumes: dict[Organ, float]
) -> list[str]:
    """What is implausible; only of organs that have a role is it known."""
    found = []
    mean_hu = {}
    for role, mm3 in by_role(volumes, labels.roles).items():
        organ = labels.roles[role]
        low, high = PLAUSIBLE_MM3[role]
        if not low <= mm3 <= high:
            found.append(f"{organ} {mm3:.0f} mm3, {low:.0f} to {high:.0f} expected")
            continue
        mask = labels.mask(organ)
        mean_hu[role] = float(hu_zyx[mask].mean())
        pieces, _ = ndimage.label(mask)
        if (whole := np.bincount(pieces.ravel())[1:].max() / mask.sum()) < WHOLE:
            found.append(f"{organ} in pieces, the largest {whole:.2f} of it")
    for lung in (Role.LUNG_R, Role.LUNG_L):
        for solid in (Role.HEART, Role.CORD):
            if {lung, solid} <= set(mean_hu) and mean_hu[lung] > mean_hu[solid] - DARKER_HU:
                found.append(f"{labels.roles[lung]} is not darker than {labels.roles[solid]}")
    share = right_lung_share(by_role(volumes, labels.roles))
    if share is not None and share < MIN_RIGHT_SHARE:
        found.append(f"the right lung is the smaller: {share:.2f} of both")
    return found + contradictions(labels)


def handedness(letters: str) -> int:
    """1 for the axes of an animal, -1 for those of its mirror image."""
    matrix = np.zeros((3, 3))
    for axis, letter in enumerate(letters):
        place = next(i for i, pair in enumerate(("SI", "PA", "LR")) if letter in pair)
        matrix[axis, place] = 1.0 if letter in STRAIGHT else -1.0
    return round(float(np.linalg.det(matrix)))


def table(trials: list[AxisTrial]) -> list[list[Any]]:
    """One row of a table for each trial: letters, handedness, volumes, doubt, verdict."""
    return [
        [
            trial.letters,
            "mirrored" if trial.mirrored else "",
            *(f"{mm3:.0f}" for mm3 in trial.volumes_mm3.values()),
            f"{trial.doubt:.3f}",
            "plausible" if trial.plausible else "; ".join(trial.objections),
        ]
        for trial in trials
    ]
