"""Five small `3d_fullres` folds trained on phantoms, written as an nnunetv2 model folder.

``limn lab train-phantom`` makes the embedded bundle so. A phantom is made once from its seed; the
effects of a scanner on its HU are drawn again for every patch. Training has two parts. A *stem*
learns from phantoms that belong to no fold. Then each fold starts from a stem, and learns from the
stem's phantoms and from four fifths of the other animals. So the folds share the anatomy of all
mice, need a fifth of the time, and have not seen their validation animals. AdamW, and bf16 if the
CPU has it, suit a training of minutes. nnU-Net's own schedule is made for days on a GPU: its SGD is
still at a loss of -0.3 after 400 steps.
"""

from __future__ import annotations

import multiprocessing
import queue
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.context import SpawnProcess
from pathlib import Path

import numpy as np
import torch
from torch import nn

from limn.domain.errors import StageFailed
from limn.domain.folders import writable
from limn.lab.train.localiser import (
    LocaliserRecipe,
    make_body,
    save_localiser,
    train_localiser,
)
from limn.lab.train.loop import LoopSettings, LossTable, TrainingLoop
from limn.lab.train.nnunet_folder import (
    LOCALISER,
    ONLOOKER,
    Weights,
    intensities_of,
    mean_of_folds,
    new_network,
    save_fold,
    seal,
    write_plans,
)
from limn.lab.train.onlooker import (
    OrientRecipe,
    accuracy,
    coarse_cases,
    save_onlooker,
    train_onlooker,
)
from limn.lab.train.patches import (
    TrainingCase,
    draw_patch,
    intensity_properties,
    keep_cases,
    make_cases,
    make_training_case,
    normalise,
    read_case,
)
from limn.lab.train.recipe import Recipe
from limn.lab.train.work_folder import claim
from limn.phantom.chest_tiles import chest_tiles
from limn.segment.engine.half import autocast
from limn.segment.importing.sampled import sampled


def _loss(outputs: Sequence[torch.Tensor], target: torch.Tensor) -> torch.Tensor:
    """Cross-entropy plus soft Dice, summed over the deep supervision heads (nnU-Net's loss).

    Targets are shares of voxels, so that p = 0.5 lies on an organ's surface, not on a voxel's edge.
    """
    total = torch.zeros(())
    weights = [1.0, 0.5, 0.25][: len(outputs)]
    for weight, output in zip(weights, outputs, strict=False):
        step = target.shape[-1] // output.shape[-1]
        truth = nn.functional.avg_pool3d(target, step) if step > 1 else target
        log_soft = torch.log_softmax(output.float(), dim=1)
        soft = log_soft.exp()
        axes = (0, 2, 3, 4)
        overlap = (soft * truth).sum(axes)[1:]
        size = (soft + truth).sum(axes)[1:]
        soft_dice = ((2 * overlap + 1.0) / (size + 1.0)).mean()
        entropy = -(truth * log_soft).sum(1).mean()
        total = total + weight * (entropy - soft_dice)
    return total / sum(weights)


@dataclass(frozen=True, slots=True)
class Course:
    """The training of one network.

    Attributes
    ----------
    name : "stem 0", "fold 3"
    kept_in : folder of its checkpoint and its table of losses
    """

    name: str
    seed: int
    steps: int
    learning_rate: float
    kept_in: Path


PHANTOMS = "phantoms"
BODIES = "bodies"


def train(
    course: Course,
    cases: Sequence[TrainingCase],
    intensities: Mapping[str, float],
    recipe: Recipe,
    start: Weights | None,
    report: Callable[[str], None],
) -> Weights:
    """Train one network; its weights are averaged over the last steps.

    Goes on from the course's own checkpoint if there is one. An uninterrupted course with the same
    seed and number of threads gives the same weights.

    Parameters
    ----------
    intensities : nnU-Net's fingerprint for CTNormalization
    start : weights to start from; None for new ones
    """
    torch.manual_seed(course.seed)
    network = new_network(recipe)
    if start is not None:
        network.load_state_dict(start)
    optimizer = torch.optim.AdamW(network.parameters(), course.learning_rate, weight_decay=1e-3)

    def rate(step: int) -> float:
        rising = (step + 1) / recipe.warm_up_steps
        return float(min(rising, max(0.0, 1 - step / course.steps) ** 0.9))

    course.kept_in.mkdir(parents=True, exist_ok=True)
    file_name = course.name.replace(" ", "_")
    settings = LoopSettings(
        name=course.name,
        steps=course.steps,
        checkpoint=course.kept_in / f"{file_name}.pt",
        losses=LossTable(course.kept_in / f"{file_name}_loss.csv", course.name),
        clip=12.0,
        average=recipe.average,
        smoothing=0.97,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    loop = TrainingLoop(settings, network, optimizer, schedule)
    rng = np.random.default_rng([course.seed, loop.first])

    def loss_of(_: int) -> torch.Tensor:
        hu, classes = draw_patch(rng, cases, recipe)
        image = torch.from_numpy(normalise(hu, intensities)[None, None])
        with autocast(image.device):
            outputs = network(image)
        return _loss(outputs, torch.from_numpy(classes[None]))

    return loop.run(loss_of, report)


def train_phantom_bundle(
    folder: Path,
    recipe: Recipe,
    orient: OrientRecipe,
    locate: LocaliserRecipe,
    report: Callable[[str], None],
) -> Path:
    """Make phantoms, train stems, folds, onlooker and localiser, and seal them as a bundle.

    Each stem and the folds that start from it have a process. Goes on from the phantoms and
    checkpoints in ``folder/work``.

    Returns
    -------
    The bundle, ``folder/bundle``.

    Raises
    ------
    ConfigWrong
        If the folder can't be written, or its work belongs to other settings.
    StageFailed
        If a training process was killed.
    """
    work, bundle = folder / "work", folder / "bundle"
    writable(work)
    claim(work, recipe, orient, locate, report)
    seeds = [*_fold_seeds(recipe), *_stem_seeds(recipe)]
    keep_cases(seeds, partial(make_training_case, recipe=recipe), work / PHANTOMS, report)
    intensities = _intensities(recipe, work, report)
    write_plans(bundle, recipe, intensities)
    _train_chains(folder, recipe, intensities, report)
    _add_small_networks(work, bundle, recipe, orient, locate, report)
    seal(bundle, recipe)
    sampled(bundle, chest_tiles)
    return bundle


def _train_chains(
    folder: Path, recipe: Recipe, intensities: Mapping[str, float], report: Callable[[str], None]
) -> None:
    """Train each stem and the folds that start from it, in a process for each stem."""
    spawn = multiprocessing.get_context("spawn")
    lines: multiprocessing.Queue[str | None] = spawn.Queue()
    chains = [
        spawn.Process(target=_train_chain, args=(stem, folder, recipe, intensities, lines))
        for stem in range(recipe.stems)
    ]
    for chain in chains:
        chain.start()
    running = len(chains)
    while running:
        try:
            line = lines.get(timeout=5)
        except queue.Empty:
            _refuse_dead(chains)
            continue
        running -= line is None
        if line is not None:
            report(line)
    for chain in chains:
        chain.join()
    _refuse_dead(chains)


def _add_small_networks(
    work: Path,
    bundle: Path,
    recipe: Recipe,
    orient: OrientRecipe,
    locate: LocaliserRecipe,
    report: Callable[[str], None],
) -> None:
    """Onlooker and localiser: those of the recipe's bundle, or trained ones."""
    source = recipe.small_networks or recipe.start
    onlooker = Path(source) / ONLOOKER if source else None
    if onlooker is not None and onlooker.exists():
        # An onlooker that learnt from the newest phantoms only was worse on real mice (D-037).
        shutil.copyfile(onlooker, bundle / ONLOOKER)
    elif not (bundle / ONLOOKER).exists():
        _train_onlooker(work, bundle / ONLOOKER, recipe, orient, report)
    localiser = Path(source) / LOCALISER if source else None
    if localiser is not None and localiser.exists():
        shutil.copyfile(localiser, bundle / LOCALISER)
    elif not (bundle / LOCALISER).exists():
        _train_localiser(work, bundle / LOCALISER, locate, report)


def _intensities(recipe: Recipe, work: Path, report: Callable[[str], None]) -> Mapping[str, float]:
    """The numbers that normalise HU: those of the starting bundle, or of the folds' phantoms."""
    if recipe.start:
        return intensities_of(Path(recipe.start), recipe)
    return intensity_properties(make_cases(_fold_seeds(recipe), recipe, work / PHANTOMS, report))


def _train_onlooker(
    work: Path, weights: Path, recipe: Recipe, orient: OrientRecipe, report: Callable[[str], None]
) -> None:
    """Train the onlooker, and report its accuracy."""
    seeds = [*_fold_seeds(recipe), *_stem_seeds(recipe)]
    cases = [read_case(seed, work / PHANTOMS) for seed in seeds]
    pictures = coarse_cases(cases, recipe.spacing_mm)
    onlooker = train_onlooker(pictures, orient, work / "onlooker.pt", report)
    right, not_mirrored = accuracy(onlooker, pictures[: orient.validation])
    report(f"onlooker: way found in {right:.3f}, above its mirror images in {not_mirrored:.3f}")
    save_onlooker(onlooker, weights)


def _train_localiser(
    work: Path, weights: Path, recipe: LocaliserRecipe, report: Callable[[str], None]
) -> None:
    """Make whole bodies on the coarse grid, and train the localiser on them."""
    seeds = [recipe.first_seed + i for i in range(recipe.phantoms)]
    keep_cases(seeds, make_body, work / BODIES, report)
    cases = [read_case(seed, work / BODIES) for seed in seeds]
    save_localiser(train_localiser(cases, recipe, work / "localiser.pt", report), weights)


def _refuse_dead(chains: Sequence[SpawnProcess]) -> None:
    """If a training process was killed, end the others and raise, instead of waiting for ever."""
    dead = [chain.exitcode for chain in chains if chain.exitcode]
    if dead:
        for chain in chains:
            chain.terminate()
        msg = f"a training process ended with exit code {dead[0]}; start again to go on"
        raise StageFailed(msg)


def _fold_seeds(recipe: Recipe) -> list[int]:
    return [recipe.first_seed + i for i in range(recipe.phantoms)]


def _stem_seeds(recipe: Recipe) -> list[int]:
    return [recipe.first_stem_seed + i for i in range(recipe.stem_phantoms)]


def _train_chain(
    stem: int,
    folder: Path,
    recipe: Recipe,
    intensities: Mapping[str, float],
    lines: multiprocessing.Queue[str | None],
) -> None:
    """Train one stem, then the folds that start from it; None in the queue marks the end."""
    try:
        torch.set_num_threads(max(1, (multiprocessing.cpu_count()) // recipe.stems))
        work = folder / "work"
        cases = make_cases(_stem_seeds(recipe), recipe, work / PHANTOMS, lines.put)
        course = Course(f"stem {stem}", 100 + stem, recipe.stem_steps, recipe.learning_rate, work)
        start = mean_of_folds(Path(recipe.start), stem, recipe) if recipe.start else None
        weights = train(course, cases, intensities, recipe, start, lines.put)
        animals = make_cases(_fold_seeds(recipe), recipe, work / PHANTOMS, lines.put)
        for fold in range(stem, recipe.folds, recipe.stems):
            # No phantom of a stem is a validation animal of a fold.
            own = [case for i, case in enumerate(animals) if i % recipe.folds != fold]
            kept = [*cases, *own]
            course = Course(f"fold {fold}", fold, recipe.steps, recipe.fold_learning_rate, work)
            learnt = train(course, kept, intensities, recipe, weights, lines.put)
            save_fold(folder / "bundle", fold, learnt)
            lines.put(f"fold {fold} saved")
    finally:
        lines.put(None)
