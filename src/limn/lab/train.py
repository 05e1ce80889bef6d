"""Five small `3d_fullres` folds trained on phantoms, written as an nnunetv2 model folder.

This is how the embedded demonstration bundle is made: ``limn lab train-phantom``. The loop is
short on purpose: bf16 on the CPU and AdamW reach in minutes what nnU-Net's own schedule, made
for days on a GPU, does not (nnU-Net's SGD stays at a loss of -0.3 after 400 steps).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from torch import nn

from limn.domain.scan import Organ, dice
from limn.phantom.anatomy import TRUTH_LABELS, conceive
from limn.phantom.scanner import random_scanner, scan
from limn.segment.bundle import write_manifest

CLASSES = 1 + len(TRUTH_LABELS)
CORD_LABEL = next(label for label, organ in TRUTH_LABELS.items() if organ is Organ.CORD)


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides what comes out."""

    spacing_mm: float = 0.28
    shape_zyx: tuple[int, int, int] = (112, 104, 112)
    patch_zyx: tuple[int, int, int] = (56, 64, 80)
    features: tuple[int, ...] = (8, 16, 32, 64)
    folds: int = 5
    phantoms: int = 30
    first_seed: int = 1000
    steps: int = 1000
    batch: int = 1
    learning_rate: float = 3e-3
    warm_up_steps: int = 60


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
                "batch_size": recipe.batch,
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
    """One training phantom."""

    hu_zyx: npt.NDArray[np.float32]
    labels_zyx: npt.NDArray[np.uint8]


def make_case(seed: int, recipe: Recipe) -> Case:
    """The phantom of a seed at the network's own spacing; one in eight has a neighbour."""
    mouse = conceive(seed, neighbour=seed % 8 == 0)
    volume, labels = scan(mouse, random_scanner(seed, recipe.spacing_mm, recipe.shape_zyx), seed)
    return Case(volume.hu_zyx, labels.labels_zyx)


def intensity_properties(cases: Sequence[Case]) -> dict[str, float]:
    """nnU-Net's fingerprint of the foreground, for CTNormalization."""
    inside = np.concatenate([case.hu_zyx[case.labels_zyx > 0][::10] for case in cases])
    return {
        "mean": float(inside.mean()),
        "std": float(inside.std()),
        "min": float(inside.min()),
        "max": float(inside.max()),
        "median": float(np.median(inside)),
        "percentile_00_5": float(np.percentile(inside, 0.5)),
        "percentile_99_5": float(np.percentile(inside, 99.5)),
    }


def normalise(
    hu: npt.NDArray[np.float32], intensities: dict[str, float]
) -> npt.NDArray[np.float32]:
    """nnU-Net's CTNormalization."""
    clipped = np.clip(hu, intensities["percentile_00_5"], intensities["percentile_99_5"])
    return np.asarray(
        (clipped - intensities["mean"]) / max(intensities["std"], 1e-8), dtype=np.float32
    )


def _draw_patch(
    rng: np.random.Generator, cases: Sequence[Case], recipe: Recipe
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """A patch around the cord, around any organ, or anywhere, a third each; HU jittered."""
    case = cases[int(rng.integers(len(cases)))]
    kind = int(rng.integers(3))
    shape = case.hu_zyx.shape
    if kind == 2:
        middle = rng.integers(0, shape)
    else:
        label = CORD_LABEL if kind == 0 else int(rng.integers(1, CLASSES))
        inside = np.flatnonzero(case.labels_zyx == label)
        middle = np.array(np.unravel_index(int(rng.choice(inside)), shape))
    low = [
        int(
            np.clip(middle[i] - size // 2 + rng.integers(-size // 4, size // 4), 0, shape[i] - size)
        )
        for i, size in enumerate(recipe.patch_zyx)
    ]
    where = tuple(slice(a, a + size) for a, size in zip(low, recipe.patch_zyx, strict=True))
    hu = (case.hu_zyx[where] + 1000.0) * float(rng.uniform(0.93, 1.07)) - 1000.0
    hu = hu + float(rng.uniform(-40.0, 40.0))
    if rng.random() < 0.3:
        hu = hu + rng.normal(0.0, float(rng.uniform(5.0, 60.0)), hu.shape)
    return np.asarray(hu, dtype=np.float32), case.labels_zyx[where]


def _loss(outputs: Sequence[torch.Tensor], target: torch.Tensor) -> torch.Tensor:
    """Cross-entropy plus soft Dice, summed over the deep supervision heads (nnU-Net's loss)."""
    total = torch.zeros(())
    weights = [1.0, 0.5, 0.25][: len(outputs)]
    for weight, output in zip(weights, outputs, strict=False):
        step = target.shape[-1] // output.shape[-1]
        truth = target[..., ::step, ::step, ::step]
        logits = output.float()
        soft = torch.softmax(logits, dim=1)
        onehot = nn.functional.one_hot(truth, CLASSES).movedim(-1, 1).float()
        axes = (0, 2, 3, 4)
        overlap = (soft * onehot).sum(axes)[1:]
        size = (soft + onehot).sum(axes)[1:]
        soft_dice = ((2 * overlap + 1.0) / (size + 1.0)).mean()
        total = total + weight * (nn.functional.cross_entropy(logits, truth) - soft_dice)
    return total / sum(weights)


def train_fold(
    fold: int,
    cases: Sequence[Case],
    intensities: dict[str, float],
    recipe: Recipe,
    report: Callable[[str], None],
) -> dict[str, torch.Tensor]:
    """Weights of one fold, trained without the cases that are its validation set."""
    kept = [case for i, case in enumerate(cases) if i % recipe.folds != fold]
    torch.manual_seed(fold)
    rng = np.random.default_rng([fold, 4])
    described = architecture(recipe)
    network = get_network_from_plans(
        described["network_class_name"],
        described["arch_kwargs"],
        described["_kw_requires_import"],
        1,
        CLASSES,
        deep_supervision=True,
    )
    optimizer = torch.optim.AdamW(network.parameters(), recipe.learning_rate, weight_decay=1e-3)

    def rate(step: int) -> float:
        rising = (step + 1) / recipe.warm_up_steps
        return float(min(rising, (1 - step / recipe.steps) ** 0.9))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    started, smooth = time.monotonic(), 0.0
    for step in range(recipe.steps):
        patches = [_draw_patch(rng, kept, recipe) for _ in range(recipe.batch)]
        image = torch.from_numpy(np.stack([normalise(hu, intensities)[None] for hu, _ in patches]))
        truth = torch.from_numpy(np.stack([labels for _, labels in patches]).astype(np.int64))
        with torch.autocast("cpu", torch.bfloat16):
            outputs = network(image)
        loss = _loss(outputs, truth)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 12.0)
        optimizer.step()
        schedule.step()
        smooth = loss.item() if step == 0 else 0.97 * smooth + 0.03 * loss.item()
        if step % 50 == 49:
            elapsed_s = time.monotonic() - started
            report(
                f"fold {fold} step {step + 1}/{recipe.steps} loss {smooth:.3f} {elapsed_s:.0f} s"
            )
    return dict(network.state_dict())


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


def train_phantom_folds(
    folder: Path, recipe: Recipe, folds: Sequence[int], report: Callable[[str], None]
) -> None:
    """Make the phantoms, train the folds, write the nnunetv2 model folder."""
    cases = []
    for i in range(recipe.phantoms):
        cases.append(make_case(recipe.first_seed + i, recipe))
        report(f"phantom {i + 1}/{recipe.phantoms}")
    intensities = intensity_properties(cases)
    folder.mkdir(parents=True, exist_ok=True)
    shape = list(recipe.shape_zyx)
    (folder / "plans.json").write_text(json.dumps(plans(recipe, intensities, shape), indent=1))
    (folder / "dataset.json").write_text(json.dumps(dataset(recipe), indent=1))
    for fold in folds:
        save_fold(folder, fold, train_fold(fold, cases, intensities, recipe, report))
        report(f"fold {fold} saved")


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
