"""Five small `3d_fullres` folds trained on phantoms, written as an nnunetv2 model folder.

This is how the embedded bundle is made: ``limn lab train-phantom``. Phantoms are made once, each
for its seed; what a scanner may do to their HU is drawn anew for every patch. Training is in two
parts. A *stem* learns on phantoms that belong to no fold; then each fold learns on its own four
fifths of other phantom animals, starting from a stem. So the folds share what is common to all
mice without having seen their validation animals, in a fifth of the time. The loop is short on
purpose: bf16 on the CPU and AdamW reach in minutes what nnU-Net's own schedule, made for days on
a GPU, does not (nnU-Net's SGD stays at a loss of -0.3 after 400 steps).
"""

from __future__ import annotations

import csv
import json
import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from scipy import ndimage
from torch import nn

from limn.domain.errors import StageFailed
from limn.domain.scan import Organ, dice
from limn.phantom.anatomy import CORD, TRUTH_LABELS, conceive
from limn.phantom.scanner import expose, random_scanner
from limn.segment.bundle import write_manifest

CLASSES = 1 + len(TRUTH_LABELS)
Weights = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides what comes out.

    Attributes
    ----------
    stems : networks trained first, on `stem_phantoms`; fold k starts from stem k % stems
    phantoms : animals of the folds, a fifth of them held out by each
    average : how slowly the weights that are kept follow those that learn
    """

    spacing_mm: float = 0.28
    shape_zyx: tuple[int, int, int] = (144, 104, 112)
    patch_zyx: tuple[int, int, int] = (64, 64, 80)
    features: tuple[int, ...] = (8, 16, 32, 64, 128)
    folds: int = 5
    stems: int = 2
    stem_phantoms: int = 120
    stem_steps: int = 4000
    phantoms: int = 50
    steps: int = 500
    first_seed: int = 1000
    first_stem_seed: int = 2000
    learning_rate: float = 3e-3
    fold_learning_rate: float = 8e-4
    warm_up_steps: int = 60
    average: float = 0.997


def architecture(recipe: Recipe) -> dict[str, Any]:
    """The network of the plans, as nnunetv2 names it."""
    stages = len(recipe.features)
    return {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": stages,
            "features_per_stage": list(recipe.features),
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [[3, 3, 3]] * stages,
            "strides": [[1, 1, 1], *([[2, 2, 2]] * (stages - 1))],
            "n_conv_per_stage": [2] * stages,
            "n_conv_per_stage_decoder": [2] * (stages - 1),
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def plans(recipe: Recipe, intensities: dict[str, float], median_zyx: list[int]) -> dict[str, Any]:
    """``plans.json`` as nnunetv2 2.8 reads it."""
    resampling = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    name = "nnUNetPlans"
    return {
        "dataset_name": "Dataset900_LimnPhantom",
        "plans_name": name,
        "original_median_spacing_after_transp": [recipe.spacing_mm] * 3,
        "original_median_shape_after_transp": median_zyx,
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "experiment_planner_used": "limn lab train-phantom",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": intensities},
        "configurations": {
            "3d_fullres": {
                "data_identifier": f"{name}_3d_fullres",
                "preprocessor_name": "DefaultPreprocessor",
                "batch_size": 1,
                "patch_size": list(recipe.patch_zyx),
                "median_image_size_in_voxels": median_zyx,
                "spacing": [recipe.spacing_mm] * 3,
                "normalization_schemes": ["CTNormalization"],
                "use_mask_for_norm": [False],
                "resampling_fn_data": "resample_data_or_seg_to_shape",
                "resampling_fn_seg": "resample_data_or_seg_to_shape",
                "resampling_fn_data_kwargs": resampling,
                "resampling_fn_seg_kwargs": resampling | {"is_seg": True, "order": 1},
                "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
                "resampling_fn_probabilities_kwargs": resampling | {"order": 1},
                "architecture": architecture(recipe),
                "batch_dice": False,
            }
        },
    }


def dataset(recipe: Recipe) -> dict[str, Any]:
    """``dataset.json`` as nnunetv2 reads it."""
    labels = {"background": 0} | {organ.value: label for label, organ in TRUTH_LABELS.items()}
    return {
        "channel_names": {"0": "CT"},
        "labels": labels,
        "numTraining": recipe.phantoms,
        "file_ending": ".nii.gz",
    }


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One training phantom.

    Attributes
    ----------
    hu_zyx : (z, y, x) int16
    shares : (organ, z, y, x) uint8, how much of a voxel each organ fills, 255 for all of it
    """

    hu_zyx: npt.NDArray[np.int16]
    shares: npt.NDArray[np.uint8]


def make_case(seed: int, recipe: Recipe) -> Case:
    """The phantom of a seed at the network's own spacing.

    One in eight has a neighbour, one in four a contrast agent; one in five shows more of the
    belly and hind legs or of the head than of the chest.
    """
    mouse = conceive(seed, neighbour=seed % 8 == 0, contrast=seed % 4 == 1)
    scanner = random_scanner(seed, recipe.spacing_mm, recipe.shape_zyx)
    aside_mm = {0: -20.0, 1: -12.0, 2: 14.0}.get(seed % 15, 0.0)
    x, y, z = scanner.centre_xyz_mm
    scanner = replace(scanner, centre_xyz_mm=(x, y, z + aside_mm))
    volume, shares = expose(mouse, scanner, seed)
    return Case(np.clip(volume.hu_zyx, -3000, 20000).astype(np.int16), shares)


def _kept_case(seed: int, recipe: Recipe, folder: Path) -> None:
    path = folder / f"{seed}.npz"
    if path.exists():
        return
    case = make_case(seed, recipe)
    part = path.with_suffix(".part.npz")
    np.savez_compressed(part, hu_zyx=case.hu_zyx, shares=case.shares)
    part.rename(path)


def make_cases(
    seeds: Sequence[int], recipe: Recipe, folder: Path, report: Callable[[str], None]
) -> list[Case]:
    """Make the phantoms that are not in the folder yet, on every core, and read them all."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [seed for seed in seeds if not (folder / f"{seed}.npz").exists()]
    if missing:
        with multiprocessing.get_context("spawn").Pool() as pool:
            jobs = [pool.apply_async(_kept_case, (seed, recipe, folder)) for seed in missing]
            for done, job in enumerate(jobs):
                job.get()
                report(f"phantom {done + 1}/{len(missing)}")
    cases = []
    for seed in seeds:
        with np.load(folder / f"{seed}.npz") as kept:
            cases.append(Case(kept["hu_zyx"], kept["shares"]))
    return cases


def intensity_properties(cases: Sequence[Case]) -> dict[str, float]:
    """nnU-Net's fingerprint of the foreground, for CTNormalization.

    Widened by what the scanners' own errors may add, so that nothing is clipped that tells
    tissues apart.
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


def _draw_patch(
    rng: np.random.Generator, cases: Sequence[Case], recipe: Recipe
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """HU (z, y, x) and classes (class, z, y, x) of a patch, its appearance drawn anew."""
    case = cases[int(rng.integers(len(cases)))]
    shape = case.hu_zyx.shape
    kind = float(rng.random())
    middle = np.array([int(rng.integers(0, n)) for n in shape])
    if kind < 0.7:
        label = CORD if kind < 0.25 else int(rng.integers(1, CLASSES))
        inside = np.flatnonzero(case.shares[label - 1, ::2, ::2, ::2] > 127)
        if len(inside):
            coarse = tuple(-(-n // 2) for n in shape)
            middle = 2 * np.array(np.unravel_index(int(rng.choice(inside)), coarse))
    low = [
        int(np.clip(middle[i] - n // 2 + rng.integers(-n // 4, n // 4), 0, shape[i] - n))
        for i, n in enumerate(recipe.patch_zyx)
    ]
    where = tuple(slice(a, a + n) for a, n in zip(low, recipe.patch_zyx, strict=True))
    hu = case.hu_zyx[where].astype(np.float32)
    shares = case.shares[(slice(None), *where)].astype(np.float32) / 255.0
    if rng.random() < 0.5:
        hu, shares = _turned(hu, shares, rng)
    rest = np.clip(1.0 - shares.sum(axis=0, keepdims=True), 0.0, 1.0)
    return seen_elsewhere(hu, rng), np.concatenate([rest, shares])


def _turned(
    hu: npt.NDArray[np.float32], shares: npt.NDArray[np.float32], rng: np.random.Generator
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """A patch rotated by up to 20 degrees about any axis and 0.85 to 1.18 times as large."""
    angles = rng.uniform(-0.35, 0.35, 3)
    scale = float(np.exp(rng.uniform(-0.165, 0.165)))
    turn = np.eye(3)
    for (a, b), angle in zip(((0, 1), (0, 2), (1, 2)), angles, strict=True):
        one = np.eye(3)
        one[a, a] = one[b, b] = np.cos(angle)
        one[a, b], one[b, a] = np.sin(angle), -np.sin(angle)
        turn = turn @ one
    # grid_sample counts x y z in units of half the patch.
    half = np.array(hu.shape[::-1]) / 2.0
    theta = np.zeros((1, 3, 4), dtype=np.float32)
    theta[0, :, :3] = (turn * half[None, :] / half[:, None]) / scale
    both = torch.from_numpy(np.concatenate([hu[None], shares])[None])
    grid = nn.functional.affine_grid(torch.from_numpy(theta), list(both.shape), align_corners=False)
    moved = nn.functional.grid_sample(
        both, grid, mode="bilinear", padding_mode="border", align_corners=False
    )[0].numpy()
    return moved[0], moved[1:]


def seen_elsewhere(
    hu: npt.NDArray[np.float32], rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """The same patch from a scanner with another kVp, calibration, sharpness and dose."""
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


def new_network(recipe: Recipe) -> nn.Module:
    """The network of the plans, untrained."""
    described = architecture(recipe)
    network: nn.Module = get_network_from_plans(
        described["network_class_name"],
        described["arch_kwargs"],
        described["_kw_requires_import"],
        1,
        CLASSES,
        deep_supervision=True,
    )
    return network


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


# A killed run loses at most so many steps.
SAVED_EVERY = 200
REPORTED_EVERY = 50


def train(
    course: Course,
    cases: Sequence[Case],
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
    rng = np.random.default_rng([course.seed, first])
    started = time.monotonic()
    parent = multiprocessing.parent_process()
    for step in range(first, course.steps):
        if parent is not None and not parent.is_alive():
            raise StageFailed("the command that started this training has ended")
        hu, classes = _draw_patch(rng, cases, recipe)
        image = torch.from_numpy(normalise(hu, intensities)[None, None])
        with torch.autocast("cpu", torch.bfloat16):
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


def _note_loss(course: Course, step: int, loss: float, elapsed_s: float) -> None:
    with (course.kept_in / "loss.csv").open("a", newline="") as file:
        csv.writer(file).writerow([course.name, step, f"{loss:.4f}", f"{elapsed_s:.1f}"])


def save_fold(folder: Path, fold: int, weights: dict[str, torch.Tensor]) -> Path:
    """``fold_k/checkpoint_final.pth`` in half precision, each tensor stored once."""
    halves: dict[int, torch.Tensor] = {}
    packed = {}
    for name, tensor in weights.items():
        key = tensor.data_ptr()
        if key not in halves:
            halves[key] = tensor.detach().half()
        packed[name] = halves[key]
    path = folder / f"fold_{fold}" / "checkpoint_final.pth"
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(
        {
            "network_weights": packed,
            "trainer_name": "nnUNetTrainer",
            "init_args": {"configuration": "3d_fullres"},
            "inference_allowed_mirroring_axes": None,
        },
        path,
    )
    return path


def train_phantom_folds(folder: Path, recipe: Recipe, report: Callable[[str], None]) -> None:
    """Make the phantoms, train stems and folds, write the nnunetv2 model folder and seal it.

    One process for each stem and the folds that start from it. What is already in
    ``folder/work`` is taken up where it stopped.
    """
    work = folder / "work"
    cases = make_cases(_fold_seeds(recipe), recipe, work / "phantoms", report)
    make_cases(_stem_seeds(recipe), recipe, work / "phantoms", report)
    intensities = intensity_properties(cases)
    shape = list(recipe.shape_zyx)
    (folder / "plans.json").write_text(json.dumps(plans(recipe, intensities, shape), indent=1))
    (folder / "dataset.json").write_text(json.dumps(dataset(recipe), indent=1))
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
        line = lines.get()
        running -= line is None
        if line is not None:
            report(line)
    for chain in chains:
        chain.join()
        if chain.exitcode:
            msg = f"a training process ended with {chain.exitcode}; start again to go on"
            raise StageFailed(msg)
    seal(folder, recipe)


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
        cases = make_cases(_stem_seeds(recipe), recipe, work / "phantoms", lines.put)
        course = Course(f"stem {stem}", 100 + stem, recipe.stem_steps, recipe.learning_rate, work)
        weights = train(course, cases, intensities, recipe, None, lines.put)
        animals = make_cases(_fold_seeds(recipe), recipe, work / "phantoms", lines.put)
        for fold in range(stem, recipe.folds, recipe.stems):
            kept = [case for i, case in enumerate(animals) if i % recipe.folds != fold]
            course = Course(f"fold {fold}", fold, recipe.steps, recipe.fold_learning_rate, work)
            learnt = train(course, kept, intensities, recipe, weights, lines.put)
            save_fold(folder, fold, learnt)
            lines.put(f"fold {fold} saved")
    finally:
        lines.put(None)


def score(
    labels_zyx: npt.NDArray[np.uint8], truth_zyx: npt.NDArray[np.uint8]
) -> dict[Organ, float]:
    """DSC of every organ."""
    return {
        organ: dice(labels_zyx == label, truth_zyx == label)
        for label, organ in TRUTH_LABELS.items()
    }


MANIFEST_HEAD = """\
# A limn bundle. Every file below [files] is verified before anything is opened.
name = "phantom"
version = "1"
demonstration = true
trained_on = "{phantoms} digital phantom mice (limn lab train-phantom), no animal"
not_for = "not for animals: it has never seen one"
configuration = "3d_fullres"
folds = {folds}
ensemble_rule = "mean of softmax probabilities over tiles and folds"
mirroring = false
profile = "paper"
# Array axes (z, y, x) grow towards head (S), back (P), left (L).
orientation = "SPL"
spacing_mm = [{mm}, {mm}, {mm}]
# 5th and 95th percentile of a whole scan should lie between these.
expected_hu = [-1200, 1500]

[labels]
1 = "Heart"
2 = "SpinalCord"
3 = "Lung_R"
4 = "Lung_L"

[clean.Heart]
keep = "largest"

# A cord that a blurred vertebra has cut in two stays whole.
[clean.SpinalCord]
keep = "pieces"
min_mm3 = 1.0
within_mm = 6.0

# The accessory lobe may look separate; a lung further off belongs to another animal.
[clean.Lung_R]
keep = "pieces"
min_mm3 = 10.0
within_mm = 3.0

[clean.Lung_L]
keep = "pieces"
min_mm3 = 10.0
within_mm = 3.0

[protocol]
SpinalCord = "the cord within its canal, over the whole field of view"
Lung_R = "vessels inside the lung belong to it; trachea and main bronchi do not"
Lung_L = "vessels inside the lung belong to it; trachea and main bronchi do not"
Heart = "muscle and chambers; the great vessels do not belong to it"
"""


def seal(folder: Path, recipe: Recipe) -> None:
    """Make the model folder a bundle: manifest with the sha256 of every file."""
    write_manifest(
        folder,
        MANIFEST_HEAD.format(
            phantoms=recipe.phantoms, folds=list(range(recipe.folds)), mm=recipe.spacing_mm
        ),
    )
