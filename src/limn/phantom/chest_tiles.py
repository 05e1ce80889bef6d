"""Tiles of phantoms that show as much of heart, cord and lungs as fits, for any patch and axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from limn.domain.geometry import Reorientation, SpacingMm, axial_grid
from limn.domain.scan import Organ
from limn.phantom.anatomy import TRUTH_LABELS, WHOLE_LABELS, conceive
from limn.phantom.body import labels_of, paint
from limn.phantom.scanner import expose, random_scanner

# No training, test set or cohort has these seeds. One animal has a contrast agent.
SEEDS = (8001, 8002)
# Tiles of more voxels in all than this would make a large file.
MOST_VOXELS = 2_400_000
# HU are rounded to these steps, far below the noise: the file has half the size.
STEP_HU = 16
# The grid on which the tile's place is looked for.
COARSE_MM = 0.6
CHEST_MM = (34.0, 26.0, 28.0)
PHANTOM_LETTERS = "SPL"

ShapeZyx = tuple[int, int, int]


def chest_tiles(
    patch: ShapeZyx, spacing_mm: tuple[float, float, float], letters: str
) -> list[tuple[npt.NDArray[np.int16], dict[Organ, npt.NDArray[np.bool_]]]]:
    """HU and the voxels of each organ: of a native animal, and of one with a contrast agent.

    There is one tile only if the patch is large.

    Parameters
    ----------
    patch : voxels of a tile
    spacing_mm : along the same axes
    letters : that these axes grow towards, such as "SPL"
    """
    count = max(1, min(len(SEEDS), MOST_VOXELS // math.prod(patch)))
    turn = Reorientation.between(PHANTOM_LETTERS, letters)
    # Undoing the turn of an array with one axis of each length gives the phantom's own axes.
    own = [turn.axes.index(axis) for axis in range(3)]
    shape = (patch[own[0]], patch[own[1]], patch[own[2]])
    spacing = SpacingMm(*(spacing_mm[axis] for axis in own))
    tiles = []
    for seed in SEEDS[:count]:
        mouse = conceive(seed, contrast=seed % 2 == 0)
        size_mm = tuple(n * mm for n, mm in zip(shape, spacing.zyx, strict=True))
        plain = random_scanner(seed, COARSE_MM, shape)
        z, y, x = _centre_mm(seed, contrast=seed % 2 == 0, size_mm=size_mm)
        scanner = replace(plain, spacing_mm=spacing, centre_xyz_mm=(x, y, z), truncation_mm=None)
        volume, shares = expose(mouse, scanner, seed, organs=len(WHOLE_LABELS))
        hu = np.round(np.clip(volume.hu_zyx, -3000, 20000) / STEP_HU) * STEP_HU
        labels = turn.apply(labels_of(shares))
        organs = {organ: labels == label for label, organ in WHOLE_LABELS.items()}
        tiles.append((np.ascontiguousarray(turn.apply(hu.astype(np.int16))), organs))
    return tiles


def _centre_mm(
    seed: int, *, contrast: bool, size_mm: Sequence[float]
) -> tuple[float, float, float]:
    """The middle (z, y, x) of the box that holds the largest share of its worst organ."""
    shape = tuple(round(mm / COARSE_MM) for mm in CHEST_MM)
    coarse = SpacingMm(COARSE_MM, COARSE_MM, COARSE_MM)
    first_mm = [-(n - 1) * COARSE_MM / 2 for n in shape]
    grid = axial_grid((shape[0], shape[1], shape[2]), coarse, np.array(first_mm[::-1]))
    _, shares = paint(conceive(seed, contrast=contrast), grid)
    box = [min(n, max(1, round(mm / COARSE_MM))) for n, mm in zip(shape, size_mm, strict=True)]
    worst = np.full([n - b + 1 for n, b in zip(shape, box, strict=True)], np.inf)
    for organ in shares[: len(TRUTH_LABELS)].astype(np.float64):
        worst = np.minimum(worst, _box_sums(organ, box) / max(organ.sum(), 1.0))
    at = np.argwhere(worst >= worst.max() - 1e-9).mean(axis=0)
    z, y, x = (
        first + (start + (b - 1) / 2) * COARSE_MM
        for first, start, b in zip(first_mm, at, box, strict=True)
    )
    return float(z), float(y), float(x)


def _box_sums(values: npt.NDArray[np.float64], box: Sequence[int]) -> npt.NDArray[np.float64]:
    """The sum of every box of this shape."""
    for axis, n in enumerate(box):
        sums = np.cumsum(values, axis=axis)
        sums = np.insert(sums, 0, 0.0, axis=axis)
        high = np.take(sums, range(n, sums.shape[axis]), axis=axis)
        values = high - np.take(sums, range(sums.shape[axis] - n), axis=axis)
    return values
