"""Training of the localiser, which finds the chest in a coarse field, on whole-body phantoms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from limn.domain.files import replacement
from limn.domain.geometry import Reorientation
from limn.lab.train.loop import LoopSettings, TrainingLoop
from limn.lab.train.patches import TrainingCase, rotated, seen_elsewhere
from limn.phantom.anatomy import CORD, HEART, LUNG_L, LUNG_R, conceive
from limn.phantom.scanner import expose, random_scanner
from limn.segment.engine.localisation.coarse import COARSE_MM, dense
from limn.segment.engine.localisation.localise import MULTIPLE, Localiser, LocaliserNet
from limn.segment.engine.localisation.orient import STRAIGHT, WAYS

# A whole mouse with its tail, its bed and much air beside it.
BODY_ZYX = (144, 56, 80)
BODY_CENTRE_MM = (0.0, 0.0, -14.0)
# A coarse voxel is the mean of some hundred fine ones, so most of their noise is gone.
COARSE_NOISE = 0.25
AIR_HU = -1000.0
# Length and width of the fields, in coarse voxels.
LONG = (24, 56)
WIDE = (20, 56)
# Standard deviation of a field's place about the middle of the chest, as a share of its size; one
# field in ten lies anywhere.
ASIDE = 0.12
ANYWHERE = 0.1
# Natural logarithm of how much an animal is scaled at most: 0.75 to 1.33.
MOST_SCALE = 0.285
# Of background, heart, cord and lungs: the organs fill a tenth of a field.
CLASS_WEIGHTS = (1.0, 3.0, 8.0, 3.0)


@dataclass(frozen=True, slots=True)
class LocaliserRecipe:
    """The settings of the localiser's training."""

    phantoms: int = 240
    first_seed: int = 77_000
    steps: int = 1200
    batch: int = 2
    learning_rate: float = 3e-3
    seed: int = 78


def make_body(seed: int) -> TrainingCase:
    """The whole-body phantom of a seed on the coarse grid; every third has a contrast agent."""
    scanner = random_scanner(seed, COARSE_MM, BODY_ZYX)
    scanner = replace(
        scanner,
        centre_xyz_mm=BODY_CENTRE_MM,
        noise_hu=scanner.noise_hu * COARSE_NOISE,
        truncation_mm=None,
    )
    volume, shares = expose(conceive(seed, contrast=seed % 3 == 1), scanner, seed)
    return TrainingCase(np.clip(volume.hu_zyx, -3000, 20000).astype(np.int16), shares)


def draw_fields(
    rng: np.random.Generator, cases: Sequence[TrainingCase], count: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Density (n, 1, z, y, x) and classes (n, class, z, y, x) of fields cut at random."""
    size = (int(rng.integers(*LONG)), int(rng.integers(*WIDE)), int(rng.integers(*WIDE)))
    shape = [-(-n // MULTIPLE) * MULTIPLE for n in size]
    pictures, targets = [], []
    for _ in range(count):
        hu, classes = _cut(rng, *_one(rng, cases), size)
        fill = [(0, want - have) for want, have in zip(shape, hu.shape, strict=True)]
        pictures.append(np.pad(dense(seen_elsewhere(hu, rng)), fill)[None])
        targets.append(np.pad(classes, [(0, 0), *fill]))
    stacked = np.stack(targets)
    rest = np.clip(1.0 - stacked.sum(axis=1, keepdims=True), 0.0, 1.0)
    return np.stack(pictures), np.concatenate([rest, stacked], axis=1)


def _one(
    rng: np.random.Generator, cases: Sequence[TrainingCase]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """One animal of any size, rotated a little: HU, and shares (heart cord lungs, z, y, x).

    Most lie straight, some are mirrored, and some are turned as if the header were wrong.
    """
    case = cases[int(rng.integers(len(cases)))]
    shares = case.shares.astype(np.float32) / 255.0
    lungs = shares[LUNG_R - 1] + shares[LUNG_L - 1]
    both = np.stack([case.hu_zyx.astype(np.float32), shares[HEART - 1], shares[CORD - 1], lungs])
    if rng.random() < 0.7:
        both = rotated(both, rng, MOST_SCALE)
    if rng.random() < 0.3:
        both = both[..., ::-1]
    if rng.random() < 0.2:
        turn = Reorientation.between(WAYS[int(rng.integers(len(WAYS)))], STRAIGHT)
        both = np.stack([turn.apply(each) for each in both])
    return both[0], both[1:]


def _cut(
    rng: np.random.Generator,
    hu: npt.NDArray[np.float32],
    classes: npt.NDArray[np.float32],
    size: tuple[int, int, int],
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """A field of at most this size; most fields hold the chest, or some of it."""
    middle = np.argwhere(classes.sum(axis=0) > 0.5).mean(axis=0)
    if rng.random() < ANYWHERE:
        middle = np.array([rng.uniform(0, n) for n in hu.shape])
    where = []
    for axis, n in enumerate(size):
        taken = min(n, hu.shape[axis])
        low = middle[axis] - taken / 2 + rng.normal(0.0, ASIDE * taken)
        low = int(np.clip(low, 0, hu.shape[axis] - taken))
        where.append(slice(low, low + taken))
    hu, classes = hu[tuple(where)].copy(), classes[(slice(None), *where)].copy()
    if rng.random() < 0.2:
        # Where another animal lay there is air up to a straight cut.
        axis, share = int(rng.integers(1, 3)), float(rng.uniform(0.75, 0.95))
        beyond = [slice(None)] * 3
        beyond[axis] = slice(round(share * hu.shape[axis]), None)
        hu[tuple(beyond)], classes[(slice(None), *beyond)] = AIR_HU, 0.0
    return hu, classes


def train_localiser(
    cases: Sequence[TrainingCase],
    recipe: LocaliserRecipe,
    checkpoint: Path,
    report: Callable[[str], None],
) -> Localiser:
    """Train a localiser; goes on from the checkpoint if there is one."""
    torch.manual_seed(recipe.seed)
    network = LocaliserNet()
    optimizer = torch.optim.AdamW(network.parameters(), recipe.learning_rate, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=recipe.steps, pct_start=0.1
    )
    settings = LoopSettings(
        name="localiser", steps=recipe.steps, checkpoint=checkpoint, clip=5.0, smoothing=0.98
    )
    loop = TrainingLoop(settings, network, optimizer, schedule)
    rng = np.random.default_rng([recipe.seed, loop.first])

    def loss_of(_: int) -> torch.Tensor:
        pictures, classes = draw_fields(rng, cases, recipe.batch)
        truth = torch.from_numpy(classes)
        log_soft = torch.log_softmax(network(torch.from_numpy(pictures)), dim=1)
        soft = log_soft.exp()
        axes = (0, 2, 3, 4)
        overlap, size = (soft * truth).sum(axes)[1:], (soft + truth).sum(axes)[1:]
        soft_dice = ((2 * overlap + 1.0) / (size + 1.0)).mean()
        weights = torch.tensor(CLASS_WEIGHTS).view(1, -1, 1, 1, 1)
        entropy = -(weights * truth * log_soft).sum() / (weights * truth).sum()
        return entropy - soft_dice

    network.load_state_dict(loop.run(loss_of, report))
    return Localiser(network)


def save_localiser(localiser: Localiser, path: Path) -> None:
    """Write the weights in half precision."""
    kept = {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in localiser.network.state_dict().items()
    }
    with replacement(path) as part:
        torch.save(kept, part)
