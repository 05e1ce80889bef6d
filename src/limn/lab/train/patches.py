"""Training phantoms, and random patches of them as other scanners show them."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import nn

from limn.domain.files import replacement
from limn.lab.train.recipe import Recipe
from limn.phantom.anatomy import CORD, TRUTH_LABELS, WHOLE_LABELS, conceive
from limn.phantom.scanner import expose, random_scanner

# Standard deviation of a tile's place about the middle of the organs' box, along each axis.
MISPLACED_MM = 1.5
# Towards the tail from the middle of the heart: between heart and kidneys.
BELLY_MM = -10.0
# Natural logarithm of how much a patch is scaled at most: 0.85 to 1.18.
MOST_SCALE = 0.165


@dataclass(frozen=True, slots=True, eq=False)
class TrainingCase:
    """One training phantom.

    Attributes
    ----------
    hu_zyx : (z, y, x) int16
    shares : (organ, z, y, x) uint8, the share of a voxel that each organ fills, 255 for all of it
    """

    hu_zyx: npt.NDArray[np.int16]
    shares: npt.NDArray[np.uint8]


def make_training_case(seed: int, recipe: Recipe) -> TrainingCase:
    """Make the phantom of a seed at the network's own spacing.

    One in eight has a neighbour, and one in three a contrast agent. In one of five the field is
    shifted towards the head, or towards the belly and hind legs. Where organs beyond the chest are
    learnt, every field reaches further towards the belly.
    """
    scanner = random_scanner(seed, recipe.spacing_mm, recipe.shape_zyx)
    aside_mm = {0: -20.0, 1: -12.0, 2: 14.0}.get(seed % 15, 0.0)
    x, y, z = scanner.centre_xyz_mm
    mouse = conceive(seed, neighbour=seed % 8 == 0, contrast=seed % 3 == 1)
    if recipe.beyond_chest:
        aside_mm += BELLY_MM
    painted = recipe.painted
    volume, shares = expose(
        mouse,
        replace(scanner, centre_xyz_mm=(x, y, z + aside_mm)),
        seed,
        organs=len(WHOLE_LABELS if set(painted) - set(TRUTH_LABELS) else TRUTH_LABELS),
    )
    shares = shares[[label - 1 for label in painted]]
    return TrainingCase(np.clip(volume.hu_zyx, -3000, 20000).astype(np.int16), shares)


def make_cases(
    seeds: Sequence[int], recipe: Recipe, folder: Path, report: Callable[[str], None]
) -> list[TrainingCase]:
    """Make the phantoms that the folder lacks, on every core, and read all."""
    keep_cases(seeds, partial(make_training_case, recipe=recipe), folder, report)
    return [read_case(seed, folder) for seed in seeds]


def keep_cases(
    seeds: Sequence[int],
    make: Callable[[int], TrainingCase],
    folder: Path,
    report: Callable[[str], None],
) -> None:
    """Make the phantoms that the folder lacks, on every core."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [seed for seed in seeds if not _place(seed, folder).exists()]
    if not missing:
        return
    started = time.monotonic()
    with multiprocessing.get_context("spawn").Pool() as pool:
        jobs = [pool.apply_async(_keep_case, (seed, make, folder)) for seed in missing]
        for done, job in enumerate(jobs, start=1):
            job.get()
            left_s = (time.monotonic() - started) / done * (len(missing) - done)
            report(f"phantom {done}/{len(missing)}, {left_s:.0f} s left")


def read_case(seed: int, folder: Path) -> TrainingCase:
    """Read a phantom from the folder."""
    with np.load(_place(seed, folder)) as kept:
        return TrainingCase(kept["hu_zyx"], kept["shares"])


def _keep_case(seed: int, make: Callable[[int], TrainingCase], folder: Path) -> None:
    path = _place(seed, folder)
    case = make(seed)
    with replacement(path, ".npz") as part:
        np.savez_compressed(part, hu_zyx=case.hu_zyx, shares=case.shares)


def _place(seed: int, folder: Path) -> Path:
    return folder / f"{seed}.npz"


def intensity_properties(cases: Sequence[TrainingCase]) -> dict[str, float]:
    """nnU-Net's fingerprint of the foreground, for CTNormalization.

    The clipping range is wider than the percentiles: errors of scanners shift HU, and the range
    must still separate tissues.
    """
    inside = np.concatenate(
        [case.hu_zyx[case.shares.max(axis=0) > 127][::10] for case in cases]
    ).astype(np.float64)
    return {
        "mean": float(inside.mean()),
        "std": float(inside.std()),
        "min": float(inside.min()),
        "max": float(inside.max()),
        "median": float(np.median(inside)),
        "percentile_00_5": float(np.percentile(inside, 0.5)) - 200.0,
        "percentile_99_5": float(np.percentile(inside, 99.5)) + 300.0,
    }


def normalise(
    hu: npt.NDArray[np.float32], intensities: Mapping[str, float]
) -> npt.NDArray[np.float32]:
    """nnU-Net's CTNormalization."""
    clipped = np.clip(hu, intensities["percentile_00_5"], intensities["percentile_99_5"])
    return np.asarray(
        (clipped - intensities["mean"]) / max(intensities["std"], 1e-8), dtype=np.float32
    )


def draw_patch(
    rng: np.random.Generator, cases: Sequence[TrainingCase], recipe: Recipe
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """HU (z, y, x) and classes (class, z, y, x) of a random patch, as a random scanner shows it."""
    case = cases[int(rng.integers(len(cases)))]
    around = rng.random() < 0.6 and not recipe.beyond_chest
    low = _chest_corner(rng, case, recipe) if around else _corner(rng, case, recipe)
    where = tuple(slice(a, a + n) for a, n in zip(low, recipe.patch_zyx, strict=True))
    hu = case.hu_zyx[where].astype(np.float32)
    shares = case.shares[(slice(None), *where)].astype(np.float32) / 255.0
    if rng.random() < 0.5:
        both = rotated(np.concatenate([hu[None], shares]), rng, MOST_SCALE)
        hu, shares = both[0], both[1:]
    rest = np.clip(1.0 - shares.sum(axis=0, keepdims=True), 0.0, 1.0)
    return seen_elsewhere(hu, rng), np.concatenate([rest, shares])


def _corner(rng: np.random.Generator, case: TrainingCase, recipe: Recipe) -> list[int]:
    """First voxel (z, y, x) of a patch anywhere, or around some voxel of an organ."""
    shape = case.hu_zyx.shape
    kind = float(rng.random())
    middle = np.array([int(rng.integers(0, n)) for n in shape])
    if kind < 0.7:
        label = int(rng.integers(1, 1 + len(recipe.labels)))
        if kind < 0.25 and CORD in recipe.painted:
            label = 1 + recipe.painted.index(CORD)
        inside = np.flatnonzero(case.shares[label - 1, ::2, ::2, ::2] > 127)
        if len(inside):
            coarse = tuple(-(-n // 2) for n in shape)
            middle = 2 * np.array(np.unravel_index(int(rng.choice(inside)), coarse))
    return [
        int(np.clip(middle[i] - n // 2 + rng.integers(-n // 4, n // 4), 0, shape[i] - n))
        for i, n in enumerate(recipe.patch_zyx)
    ]


def _chest_corner(rng: np.random.Generator, case: TrainingCase, recipe: Recipe) -> list[int]:
    """First voxel (z, y, x) of a patch around the chest, as inference places its one tile."""
    shape = case.hu_zyx.shape
    organs = case.shares[:, ::2, ::2, ::2].max(axis=0) > 127
    corner = []
    for axis, n in enumerate(recipe.patch_zyx):
        others = tuple(i for i in range(3) if i != axis)
        found = np.flatnonzero(organs.max(axis=others))
        middle = int(found[0] + found[-1]) if len(found) else shape[axis] // 2
        moved = middle - n // 2 + round(rng.normal(0.0, MISPLACED_MM / recipe.spacing_mm))
        corner.append(int(np.clip(moved, 0, shape[axis] - n)))
    return corner


def rotated(
    fields: npt.NDArray[np.float32], rng: np.random.Generator, most_scale: float
) -> npt.NDArray[np.float32]:
    """Fields (channel, z, y, x) rotated by up to 20 degrees about each axis, and scaled.

    Parameters
    ----------
    most_scale : natural logarithm of the largest scale; its negative is that of the smallest
    """
    angles = rng.uniform(-0.35, 0.35, 3)
    scale = float(np.exp(rng.uniform(-most_scale, most_scale)))
    turn = np.eye(3)
    for (a, b), angle in zip(((0, 1), (0, 2), (1, 2)), angles, strict=True):
        one = np.eye(3)
        one[a, a] = one[b, b] = np.cos(angle)
        one[a, b], one[b, a] = np.sin(angle), -np.sin(angle)
        turn = turn @ one
    # grid_sample has the order x, y, z and the unit of half a patch.
    half = np.array(fields.shape[:0:-1]) / 2.0
    theta = np.zeros((1, 3, 4), dtype=np.float32)
    theta[0, :, :3] = (turn * half[None, :] / half[:, None]) / scale
    both = torch.from_numpy(fields[None])
    grid = nn.functional.affine_grid(torch.from_numpy(theta), list(both.shape), align_corners=False)
    moved = nn.functional.grid_sample(
        both, grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    return np.asarray(moved[0].numpy())


def seen_elsewhere(
    hu: npt.NDArray[np.float32], rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """The same patch as a scanner with another kVp, calibration, sharpness and dose shows it."""
    if rng.random() < 0.7:
        knots = np.array([-1100.0, -1000.0, -500.0, 0.0, 300.0, 1000.0, 8000.0])
        spread = np.array([30.0, 30.0, 60.0, 50.0, 100.0, 300.0, 1000.0])
        moved = np.maximum.accumulate(knots + rng.normal(0.0, 1.0, len(knots)) * spread)
        hu = np.interp(hu, knots, moved).astype(np.float32)
    hu = (hu + 1000.0) * np.float32(np.exp(rng.normal(0.0, 0.08))) - 1000.0
    hu = hu + np.float32(rng.uniform(-200.0, 200.0) if rng.random() < 0.5 else rng.normal(0, 40.0))
    if rng.random() < 0.25:
        hu = ndimage.gaussian_filter(hu, float(rng.uniform(0.3, 0.9)))
    if rng.random() < 0.4:
        noise = rng.standard_normal(hu.shape, dtype=np.float32)
        if rng.random() < 0.5:
            noise = 2.0 * ndimage.gaussian_filter(noise, 0.6)
        hu = hu + noise * np.float32(rng.uniform(5.0, 70.0))
    return np.asarray(hu, dtype=np.float32)
