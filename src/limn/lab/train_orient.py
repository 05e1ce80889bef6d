"""The onlooker's training: which of sixteen ways an animal lies, learnt from phantoms.

It learns on the chests of the ensemble's own phantoms and on whole bodies, in fields of any
length, since nobody says how much of an animal a scan will show.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import nn

from limn.domain.geometry import SpacingMm
from limn.lab.patches import Case, keep_cases, make_whole, read_case, seen_elsewhere
from limn.segment.orient import COARSE_MM, STRAIGHT, WAYS, Onlooker, coarse, shown, turned_all_ways

REPORTED_EVERY = 50
SAVED_EVERY = 100
FLAT_SHARE, FLAT_HU, SOFT_HU = 0.3, (-150.0, 250.0), 40.0
# Ways that only a mirror tells from the true one; nothing is harder.
MIRRORED_WAYS = tuple(WAYS.index(way) for way in ("SPR", "SAL", "IPL"))


@dataclass(frozen=True, slots=True)
class OrientRecipe:
    """What decides the onlooker.

    Attributes
    ----------
    validation : how many chests are held out
    whole_phantoms, whole_validation : whole bodies, and how many of them are held out
    whole_share : of the pictures that are drawn
    shortest_mm : of the fields that are drawn; the longest is the whole phantom
    ways : how many of the sixteen each step compares, the true one and its mirrors among them
    """

    steps: int = 4000
    learning_rate: float = 2e-3
    validation: int = 30
    seed: int = 77
    whole_phantoms: int = 60
    whole_validation: int = 12
    first_whole_seed: int = 3000
    whole_spacing_mm: float = 0.42
    whole_shape_zyx: tuple[int, int, int] = (220, 88, 88)
    whole_share: float = 0.5
    shortest_mm: float = 24.0
    ways: int = 6


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """A phantom as the onlooker sees it.

    Attributes
    ----------
    hu_zyx : on voxels of `orient.COARSE_MM`
    chest : first slice of the chest's middle half and the one after its last
    """

    hu_zyx: npt.NDArray[np.float32]
    chest: tuple[int, int]


def seen(case: Case, spacing_mm: float) -> Seen:
    """A phantom made coarse."""
    spacing = SpacingMm(spacing_mm, spacing_mm, spacing_mm)
    hu = coarse(case.hu_zyx.astype(np.float32), spacing)
    # Heart and lungs; the cord runs past both ends of them.
    filled = case.shares[[0, 2, 3]].sum(axis=(0, 2, 3), dtype=np.int64).cumsum()
    if not filled[-1]:
        return Seen(hu, (len(hu) // 2, len(hu) // 2 + 1))
    low, high = np.searchsorted(filled, (0.25 * filled[-1], 0.75 * filled[-1]))
    scale = len(hu) / len(filled)
    return Seen(hu, (int(low * scale), min(len(hu), int(high * scale) + 1)))


def seen_wholes(recipe: OrientRecipe, folder: Path, report: Callable[[str], None]) -> list[Seen]:
    """The whole bodies, made if they are not in the folder yet."""
    seeds = range(recipe.first_whole_seed, recipe.first_whole_seed + recipe.whole_phantoms)
    make = partial(make_whole, spacing_mm=recipe.whole_spacing_mm, shape_zyx=recipe.whole_shape_zyx)
    keep_cases(seeds, make, folder, lambda line: report(f"whole body: {line}"))
    return [seen(read_case(seed, folder), recipe.whole_spacing_mm) for seed in seeds]


def draw_picture(
    phantom: Seen, shortest_mm: float, rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """A phantom from another scanner, its field of view cut, turned a little."""
    slices, (low, high) = len(phantom.hu_zyx), phantom.chest
    fewest = min(slices, max(round(shortest_mm / COARSE_MM), high - low))
    keep = int(rng.integers(fewest, slices + 1))
    first = int(rng.integers(max(0, high - keep), min(low, slices - keep) + 1))
    hu = phantom.hu_zyx[first : first + keep]
    if rng.random() < FLAT_SHARE:
        # Where soft tissues can't be told apart, chest and bones must do.
        hu = np.where((hu > FLAT_HU[0]) & (hu < FLAT_HU[1]), np.float32(SOFT_HU), hu)
    hu = seen_elsewhere(hu, rng)
    if rng.random() < 0.3:
        planes = [(0, 1), (0, 2), (1, 2)]
        angle = float(rng.normal(0.0, 8.0))
        hu = ndimage.rotate(
            hu, angle, axes=planes[int(rng.integers(3))], reshape=False, order=1, mode="nearest"
        )
    return shown(hu)


def train_onlooker(
    chests: Sequence[Seen],
    wholes: Sequence[Seen],
    recipe: OrientRecipe,
    checkpoint: Path,
    report: Callable[[str], None],
) -> Onlooker:
    """An onlooker for which the way a phantom lies is the likeliest of `WAYS`.

    Goes on from the checkpoint if there is one. The first `recipe.validation` chests and
    `recipe.whole_validation` wholes are left out.
    """
    torch.manual_seed(recipe.seed)
    onlooker = Onlooker()
    optimizer = torch.optim.AdamW(onlooker.parameters(), recipe.learning_rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=recipe.steps, pct_start=0.1
    )
    averaged = {name: tensor.clone() for name, tensor in onlooker.state_dict().items()}
    first, smooth = 0, 0.0
    if checkpoint.exists():
        kept = torch.load(checkpoint, weights_only=True)
        onlooker.load_state_dict(kept["onlooker"])
        optimizer.load_state_dict(kept["optimizer"])
        schedule.load_state_dict(kept["schedule"])
        averaged, first, smooth = kept["averaged"], kept["step"], kept["loss"]
    rng = np.random.default_rng([recipe.seed, first])
    chests, wholes = chests[recipe.validation :], wholes[recipe.whole_validation :]
    started = time.monotonic()
    for step in range(first, recipe.steps):
        of = wholes if rng.random() < recipe.whole_share else chests
        picture = draw_picture(of[int(rng.integers(len(of)))], recipe.shortest_mm, rng)
        turned = turned_all_ways(picture)
        ways = np.stack([turned[way] for way in _compared(recipe.ways, rng)])[:, None]
        with torch.autocast("cpu", torch.bfloat16):
            scores = onlooker(torch.from_numpy(ways))
        # The true way comes first.
        loss = nn.functional.cross_entropy(scores.float()[None], torch.tensor([0]))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(onlooker.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        for name, tensor in onlooker.state_dict().items():
            averaged[name].lerp_(tensor, 1.0 - min(0.995, (step + 1) / (step + 10)))
        smooth = loss.item() if step == 0 else 0.98 * smooth + 0.02 * loss.item()
        done = step + 1
        if done % REPORTED_EVERY == 0:
            elapsed_s = time.monotonic() - started
            left_s = elapsed_s / (done - first) * (recipe.steps - done)
            report(
                f"onlooker step {done}/{recipe.steps} loss {smooth:.3f} "
                f"{elapsed_s:.0f} s, {left_s:.0f} s left"
            )
        if done % SAVED_EVERY == 0 or done == recipe.steps:
            kept = {
                "onlooker": onlooker.state_dict(),
                "optimizer": optimizer.state_dict(),
                "schedule": schedule.state_dict(),
                "averaged": averaged,
                "step": done,
                "loss": smooth,
            }
            torch.save(kept, checkpoint.with_suffix(".part"))
            checkpoint.with_suffix(".part").rename(checkpoint)
    onlooker.load_state_dict(averaged)
    return onlooker.eval()


def _compared(count: int, rng: np.random.Generator) -> list[int]:
    """Indices of ways: the true one, its mirrors, and others drawn by lot."""
    fixed = (WAYS.index(STRAIGHT), *MIRRORED_WAYS)
    others = [way for way in range(len(WAYS)) if way not in fixed]
    drawn = rng.choice(others, max(0, count - len(fixed)), replace=False)
    return [*fixed, *(int(way) for way in drawn)]


def accuracy(
    onlooker: Onlooker, phantoms: Sequence[Seen], shortest_mm: float, rounds: int = 2
) -> tuple[float, float]:
    """Share of pictures whose way is found, and of those told from their mirror image."""
    rng = np.random.default_rng(1)
    found = told = count = 0
    straight = WAYS.index(STRAIGHT)
    for phantom in phantoms:
        for _ in range(rounds):
            picture = draw_picture(phantom, shortest_mm, rng)
            ways = np.stack(turned_all_ways(picture))[:, None]
            with torch.inference_mode():
                scores = onlooker(torch.from_numpy(ways)).numpy()
            found += int(np.argmax(scores) == straight)
            told += int(scores[straight] > scores[list(MIRRORED_WAYS)].max())
            count += 1
    return found / count, told / count


def save_onlooker(onlooker: Onlooker, path: Path) -> None:
    """Weights in half precision."""
    torch.save({name: tensor.half() for name, tensor in onlooker.state_dict().items()}, path)
