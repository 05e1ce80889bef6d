"""Training of the onlooker, which finds the way that an animal lies, on phantoms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import nn

from limn.domain.files import replacement
from limn.domain.geometry import SpacingMm
from limn.lab.train.loop import LoopSettings, TrainingLoop
from limn.lab.train.patches import TrainingCase, seen_elsewhere
from limn.segment.engine.half import autocast
from limn.segment.engine.localisation.coarse import coarse, dense
from limn.segment.engine.localisation.orient import (
    STRAIGHT,
    WAYS,
    Onlooker,
    squared,
    turned_all_ways,
)


@dataclass(frozen=True, slots=True)
class OrientRecipe:
    """The settings of the onlooker's training."""

    steps: int = 2500
    learning_rate: float = 2e-3
    validation: int = 30
    seed: int = 77


def coarse_cases(cases: Sequence[TrainingCase], spacing_mm: float) -> list[npt.NDArray[np.float32]]:
    """The phantoms in HU on the onlooker's coarse grid."""
    spacing = SpacingMm(spacing_mm, spacing_mm, spacing_mm)
    return [coarse(case.hu_zyx.astype(np.float32), spacing) for case in cases]


def draw_picture(
    hu_zyx: npt.NDArray[np.float32], rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Draw a phantom as another scanner shows it, with a cut field of view and a small rotation."""
    hu = seen_elsewhere(hu_zyx, rng)
    keep = int(rng.integers(28, hu.shape[0] + 1))
    # The cut keeps the chest, which is in the middle of most fields.
    slack = hu.shape[0] - keep
    first = int(np.clip(rng.normal(slack / 2, slack / 5), 0, slack))
    hu = hu[first : first + keep]
    if rng.random() < 0.3:
        planes = [(0, 1), (0, 2), (1, 2)]
        angle = float(rng.normal(0.0, 8.0))
        hu = ndimage.rotate(
            hu, angle, axes=planes[int(rng.integers(3))], reshape=False, order=1, mode="nearest"
        )
    return squared(dense(hu))


def train_onlooker(
    pictures: Sequence[npt.NDArray[np.float32]],
    recipe: OrientRecipe,
    checkpoint: Path,
    report: Callable[[str], None],
) -> Onlooker:
    """Train an onlooker to give its highest score to the way of `WAYS` in which a phantom lies.

    Goes on from the checkpoint if there is one. The first `recipe.validation` pictures are not
    used.
    """
    torch.manual_seed(recipe.seed)
    onlooker = Onlooker()
    optimizer = torch.optim.AdamW(onlooker.parameters(), recipe.learning_rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=recipe.steps, pct_start=0.1
    )
    settings = LoopSettings(
        name="onlooker",
        steps=recipe.steps,
        checkpoint=checkpoint,
        clip=5.0,
        average=0.995,
        smoothing=0.98,
    )
    loop = TrainingLoop(settings, onlooker, optimizer, schedule)
    target = torch.tensor([WAYS.index(STRAIGHT)])
    learning = pictures[recipe.validation :]
    rng = np.random.default_rng([recipe.seed, loop.first])

    def loss_of(_: int) -> torch.Tensor:
        picture = draw_picture(learning[int(rng.integers(len(learning)))], rng)
        ways = np.stack(turned_all_ways(picture))[:, None]
        with autocast(target.device):
            scores = onlooker(torch.from_numpy(ways))
        return nn.functional.cross_entropy(scores.float()[None], target)

    onlooker.load_state_dict(loop.run(loss_of, report))
    return onlooker.eval()


def accuracy(
    onlooker: Onlooker, pictures: Sequence[npt.NDArray[np.float32]], rounds: int = 2
) -> tuple[float, float]:
    """Shares of pictures whose way has the highest score, and a higher one than mirror images."""
    rng = np.random.default_rng(1)
    right = not_mirrored = count = 0
    mirror = [i for i, way in enumerate(WAYS) if way in ("SPR", "SAL", "IPL")]
    for picture in pictures:
        for _ in range(rounds):
            ways = np.stack(turned_all_ways(draw_picture(picture, rng)))[:, None]
            with torch.inference_mode():
                scores = onlooker(torch.from_numpy(ways)).numpy()
            straight = WAYS.index(STRAIGHT)
            right += int(np.argmax(scores) == straight)
            not_mirrored += int(scores[straight] > scores[mirror].max())
            count += 1
    return right / count, not_mirrored / count


def save_onlooker(onlooker: Onlooker, path: Path) -> None:
    """Write the weights in half precision."""
    with replacement(path) as part:
        torch.save({name: tensor.half() for name, tensor in onlooker.state_dict().items()}, part)
