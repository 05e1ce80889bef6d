"""Five small `3d_fullres` folds trained on phantoms, written as an nnunetv2 model folder.

This is how the embedded bundle is made: ``limn lab train-phantom``. Phantoms are made once, each
for its seed; what a scanner may do to their HU is drawn anew for every patch. Training is in two
parts. A *stem* learns on phantoms that belong to no fold; then each fold learns on those and on its
own four fifths of other phantom animals, starting from a stem. So the folds share what is common to
all mice without having seen their validation animals, in a fifth of the time. The loop is short on
purpose: bf16 (where the CPU has it) and AdamW reach in minutes what nnU-Net's own schedule, made
for days on a GPU, does not (nnU-Net's SGD stays at a loss of -0.3 after 400 steps).
"""

from __future__ import annotations

import csv
import multiprocessing
import queue
import shutil
import time
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
from limn.lab.train.nnunet_folder import (
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
from limn.lab.train.work_folder import begin
from limn.segment.engine.half import autocast


def _loss(outputs: Sequence[torch.Tensor], target: torch.Tensor) -> torch.Tensor:
    """Cross-entropy plus soft Dice, summed over the deep supervision heads (nnU-Net's loss).

    Targets are shares of voxels, so that p = 0.5 lies on the surface, not on a voxel's edge.
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
    """One network's training: what it starts from and how long it learns.

    Attributes
    ----------
    name : "stem 0", "fold 3"
    kept_in : folder of its checkpoint and its loss curve
    """

    name: str
    seed: int
    steps: int
    learning_rate: float
    kept_in: Path


PHANTOMS = "phantoms"
# A killed run loses at most so many steps.
SAVED_EVERY = 200
REPORTED_EVERY = 50


def train(
    course: Course,
    cases: Sequence[TrainingCase],
    intensities: Mapping[str, float],
    recipe: Recipe,
    start: Weights | None,
    report: Callable[[str], None],
) -> Weights:
    """Weights after a course, averaged over its last steps.

    Goes on from the course's own checkpoint if there is one. Same seed and threads, same
    weights, if it was not interrupted.
    """
    torch.manual_seed(course.seed)
    network = new_network(recipe)
    if start is not None:
        network.load_state_dict(start)
    averaged = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    optimizer = torch.optim.AdamW(network.parameters(), course.learning_rate, weight_decay=1e-3)

    def rate(step: int) -> float:
        rising = (step + 1) / recipe.warm_up_steps
        return float(min(rising, max(0.0, 1 - step / course.steps) ** 0.9))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    course.kept_in.mkdir(parents=True, exist_ok=True)
    checkpoint = course.kept_in / f"{course.name.replace(' ', '_')}.pt"
    first, smooth = 0, 0.0
    if checkpoint.exists():
        kept = torch.load(checkpoint, weights_only=True)
        network.load_state_dict(kept["network"])
        optimizer.load_state_dict(kept["optimizer"])
        schedule.load_state_dict(kept["schedule"])
        averaged, first, smooth = kept["averaged"], kept["step"], kept["loss"]
    _forget_loss_after(course, first)
    rng = np.random.default_rng([course.seed, first])
    started = time.monotonic()
    parent = multiprocessing.parent_process()
    for step in range(first, course.steps):
        if parent is not None and not parent.is_alive():
            raise StageFailed("the command that started this training has ended")
        hu, classes = draw_patch(rng, cases, recipe)
        image = torch.from_numpy(normalise(hu, intensities)[None, None])
        with autocast(image.device):
            outputs = network(image)
        loss = _loss(outputs, torch.from_numpy(classes[None]))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 12.0)
        optimizer.step()
        schedule.step()
        follow = 1.0 - min(recipe.average, (step + 1) / (step + 10))
        for name, tensor in network.state_dict().items():
            averaged[name].lerp_(tensor, follow)
        smooth = loss.item() if step == 0 else 0.97 * smooth + 0.03 * loss.item()
        if (step + 1) % REPORTED_EVERY == 0:
            elapsed_s = time.monotonic() - started
            left_s = elapsed_s / (step + 1 - first) * (course.steps - step - 1)
            report(
                f"{course.name} step {step + 1}/{course.steps} loss {smooth:.3f} "
                f"{elapsed_s:.0f} s, {left_s:.0f} s left"
            )
            _note_loss(course, step + 1, smooth, elapsed_s)
        if (step + 1) % SAVED_EVERY == 0 or step + 1 == course.steps:
            kept = {
                "network": network.state_dict(),
                "optimizer": optimizer.state_dict(),
                "schedule": schedule.state_dict(),
                "averaged": averaged,
                "step": step + 1,
                "loss": smooth,
            }
            torch.save(kept, checkpoint.with_suffix(".part"))
            checkpoint.with_suffix(".part").rename(checkpoint)
    return averaged


def _loss_table(course: Course) -> Path:
    return course.kept_in / f"{course.name.replace(' ', '_')}_loss.csv"


def _note_loss(course: Course, step: int, loss: float, elapsed_s: float) -> None:
    with _loss_table(course).open("a", newline="", encoding="utf-8") as file:
        csv.writer(file).writerow([course.name, step, f"{loss:.4f}", f"{elapsed_s:.1f}"])


def _forget_loss_after(course: Course, step: int) -> None:
    """Drop what a killed run noted after its last checkpoint: those steps are done again."""
    table = _loss_table(course)
    if table.exists():
        rows = list(csv.reader(table.read_text(encoding="utf-8").splitlines()))
        with table.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(row for row in rows if int(row[1]) <= step)


def train_phantom_bundle(
    folder: Path, recipe: Recipe, orient: OrientRecipe, report: Callable[[str], None]
) -> Path:
    """Make the phantoms, train stems, folds and the onlooker, write and seal the bundle.

    One process for each stem and the folds that start from it. What is already in
    ``folder/work`` is taken up where it stopped.

    Returns
    -------
    The bundle, ``folder/bundle``.

    Raises
    ------
    ConfigWrong
        For a folder that can't be written, or whose work was begun with other settings.
    """
    work, bundle = folder / "work", folder / "bundle"
    writable(work)
    begin(work, recipe, orient, report)
    seeds = [*_fold_seeds(recipe), *_stem_seeds(recipe)]
    keep_cases(seeds, partial(make_training_case, recipe=recipe), work / PHANTOMS, report)
    intensities = _intensities(recipe, work, report)
    write_plans(bundle, recipe, intensities)
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
    looks = Path(recipe.start) / ONLOOKER if recipe.start else None
    if looks is not None and looks.exists():
        # One that learnt on the newest phantoms alone knew real mice less well (D-037).
        shutil.copyfile(looks, bundle / ONLOOKER)
    elif not (bundle / ONLOOKER).exists():
        _learn_to_look(work, bundle / ONLOOKER, recipe, orient, report)
    seal(bundle, recipe)
    return bundle


def _intensities(recipe: Recipe, work: Path, report: Callable[[str], None]) -> Mapping[str, float]:
    """What HU are normalised with: the start's own, or the folds' phantoms'."""
    if recipe.start:
        return intensities_of(Path(recipe.start), recipe)
    return intensity_properties(make_cases(_fold_seeds(recipe), recipe, work / PHANTOMS, report))


def _learn_to_look(
    work: Path, weights: Path, recipe: Recipe, orient: OrientRecipe, report: Callable[[str], None]
) -> None:
    """Train the onlooker, the last thing that a bundle needs, and say how well it does."""
    seeds = [*_fold_seeds(recipe), *_stem_seeds(recipe)]
    cases = [read_case(seed, work / PHANTOMS) for seed in seeds]
    pictures = coarse_cases(cases, recipe.spacing_mm)
    onlooker = train_onlooker(pictures, orient, work / "onlooker.pt", report)
    found, told = accuracy(onlooker, pictures[: orient.validation])
    report(f"onlooker: way found in {found:.3f}, told from its mirror image in {told:.3f}")
    save_onlooker(onlooker, weights)


def _refuse_dead(chains: Sequence[SpawnProcess]) -> None:
    """A training process that was killed ends the others: they would be waited for in vain."""
    dead = [chain.exitcode for chain in chains if chain.exitcode]
    if dead:
        for chain in chains:
            chain.terminate()
        msg = f"a training process ended with {dead[0]}; start again to go on"
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
    """One stem, then the folds that start from it."""
    try:
        torch.set_num_threads(max(1, (multiprocessing.cpu_count()) // recipe.stems))
        work = folder / "work"
        cases = make_cases(_stem_seeds(recipe), recipe, work / PHANTOMS, lines.put)
        course = Course(f"stem {stem}", 100 + stem, recipe.stem_steps, recipe.learning_rate, work)
        start = mean_of_folds(Path(recipe.start), stem, recipe) if recipe.start else None
        weights = train(course, cases, intensities, recipe, start, lines.put)
        animals = make_cases(_fold_seeds(recipe), recipe, work / PHANTOMS, lines.put)
        for fold in range(stem, recipe.folds, recipe.stems):
            # The stems' phantoms are nobody's validation animals.
            own = [case for i, case in enumerate(animals) if i % recipe.folds != fold]
            kept = [*cases, *own]
            course = Course(f"fold {fold}", fold, recipe.steps, recipe.fold_learning_rate, work)
            learnt = train(course, kept, intensities, recipe, weights, lines.put)
            save_fold(folder / "bundle", fold, learnt)
            lines.put(f"fold {fold} saved")
    finally:
        lines.put(None)
