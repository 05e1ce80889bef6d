"""AIMOS, the 2D system that the paper compares with, rebuilt: a U-Net on coronal slices.

Sources:

- Malimban 2022, Methods, "AIMOS": the default architecture UNet-768 with six encoder-decoder
  stages, 32 feature channels at the highest layer and 768 at the bottleneck; trained on all
  slices with a batch of 32. "Network training and inference": native scans by observer 1, five
  folds, "the average of the predicted probabilities" of the five networks. Discussion: trained
  on individual coronal slices.
- Schoppe et al. 2020, "Deep learning-enabled multi-organ segmentation in whole-body mouse scans",
  Nature Communications 11:5626, doi 10.1038/s41467-020-19449-7: that the backbone is a U-Net-like
  network in PyTorch. None of its code is used, and its methods section was not available to us.
- Our own choice, where Malimban is silent: the channels between 32 and 768, batch
  normalisation, the spacing, the window of HU, cross-entropy plus soft Dice, AdamW (its
  rates are known from `limn.lab.train`, and it needs no long schedule), the falling rate, the
  augmentation (a little rotation, scale, shift, brightness). Slices are never mirrored left to
  right, for the right and the left lung are two labels. We do not know whether AIMOS mirrors.
  AIMOS has a post-processing module (Malimban); here the network's labels are final.

So this is a system like AIMOS, and not AIMOS. Tables and figures say so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from limn.domain.errors import BundleUnfit, ConfigWrong
from limn.domain.files import replacement
from limn.domain.geometry import Reorientation
from limn.domain.scan import Volume
from limn.lab.data.readers import AXES
from limn.lab.systems.aimos_net import SIDE_MULTIPLE, STAGES, UNet2d
from limn.lab.systems.aimos_slices import (
    Window,
    picked_at,
    read_slices,
    resampled,
    resampled_shape,
    shape_of,
    unframed,
    varied,
)
from limn.lab.train.loop import LoopSettings, LossTable, TrainingLoop
from limn.segment.engine.half import autocast
from limn.segment.engine.resample import most_probable

FINAL, LATEST, LOSSES = "final.pt", "latest.pt", "loss.csv"


@dataclass(frozen=True, slots=True)
class AimosPreset:
    """The settings of a fold, without its animals and its seed.

    Attributes
    ----------
    spacing_mm : voxel size after resampling, along all three axes
    size : rows (S) and columns (L) that the network sees, multiples of 32; a smaller field is
        padded with air on all sides, and a larger one is background outside its middle
    features : channels of the six stages, from the highest layer to the bottleneck
    batch : slices in a step
    """

    spacing_mm: float
    size: tuple[int, int]
    features: tuple[int, ...]
    batch: int
    steps: int
    learning_rate: float

    def __post_init__(self) -> None:
        if any(n <= 0 or n % SIDE_MULTIPLE for n in self.size):
            msg = f"AIMOS: size {self.size}; multiples of {SIDE_MULTIPLE} expected"
            raise ConfigWrong(msg)
        for name in ("spacing_mm", "batch", "steps", "learning_rate"):
            if not getattr(self, name) > 0:
                msg = f"AIMOS: {name} {getattr(self, name)}; more than 0 expected"
                raise ConfigWrong(msg)
        if len(self.features) != STAGES:
            msg = f"AIMOS: {len(self.features)} numbers of features; {STAGES} expected"
            raise ConfigWrong(msg)


@dataclass(frozen=True, slots=True)
class Folds:
    """Trained networks on their device, each with the window of HU of its training.

    Attributes
    ----------
    classes : how many labels they know, with the background
    """

    preset: AimosPreset
    classes: int
    networks: tuple[tuple[UNet2d, Window], ...]
    device: torch.device


def train_fold(
    cases: Sequence[tuple[Path, Path]],
    classes: int,
    preset: AimosPreset,
    seed: int,
    folder: Path,
    report: Callable[[str], None],
) -> None:
    """Train one network on all coronal slices, and write ``final.pt`` and ``loss.csv``.

    Goes on from ``latest.pt`` if there is one, with the slices and the augmentation of an
    uninterrupted run. Does nothing if ``final.pt`` is there.

    Parameters
    ----------
    cases : CT and observer 1's labels of each scan, NIfTI with array axes S, P, L
    classes : how many labels there are, with the background

    Raises
    ------
    RefusedSeries
        If a file can't be read, or labels don't fit their scan.
    ConfigWrong
        If the folder belongs to other settings or scans.
    """
    folder.mkdir(parents=True, exist_ok=True)
    latest, final = folder / LATEST, folder / FINAL
    if final.exists():
        latest.unlink(missing_ok=True)
        return
    device = _device()
    settings = _settings(cases, preset, seed, folder)
    torch.manual_seed(seed)
    network = UNet2d(preset.features, classes).to(device)
    optimizer = torch.optim.AdamW(network.parameters(), preset.learning_rate, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: (1 - step / preset.steps) ** 0.9
    )
    loop = TrainingLoop(settings, network, optimizer, schedule)
    window, images, labels = read_slices(cases, preset.spacing_mm, preset.size, classes)
    report(f"aimos: {len(images)} slices of {len(cases)} scans")

    def loss_of(step: int) -> torch.Tensor:
        picked = picked_at(step, preset.batch, len(images), seed)
        slices, truth = varied(
            images[picked].to(device).float(),
            labels[picked].to(device),
            np.random.default_rng([seed, 1, step]),
        )
        with autocast(device):
            scores = network(slices)
        return _loss(scores.float(), truth)

    weights = loop.run(loss_of, report)
    with replacement(final) as part:
        kept = {"network": weights, "window": asdict(window), "begun": dict(settings.belongs_to)}
        torch.save(kept, part)
    latest.unlink(missing_ok=True)


def _settings(
    cases: Sequence[tuple[Path, Path]], preset: AimosPreset, seed: int, folder: Path
) -> LoopSettings:
    # Names within the data set, for its folder may be moved.
    names = [f"{ct.parent.name}/{ct.name}" for ct, _ in cases]
    return LoopSettings(
        name="aimos",
        steps=preset.steps,
        checkpoint=folder / LATEST,
        losses=LossTable(folder / LOSSES),
        clip=12.0,
        belongs_to={"preset": asdict(preset), "seed": seed, "cases": names},
    )


def read_folds(folders: Sequence[Path]) -> Folds:
    """The networks that `train_fold` wrote into these folders.

    Raises
    ------
    BundleUnfit
        If a fold is missing or unfinished, or the folds have different settings.
    """
    device, presets, networks, classes = _device(), list[AimosPreset](), [], 0
    for folder in folders:
        path = folder / FINAL
        if not path.exists():
            msg = f"{folder} holds no {FINAL}; train the fold to its end"
            raise BundleUnfit(msg)
        kept = torch.load(path, map_location=device, weights_only=True)
        presets.append(AimosPreset(**kept["begun"]["preset"]))
        own = len(kept["network"]["head.bias"])
        classes = classes or own
        if own != classes or presets[-1] != presets[0]:
            msg = f"{path}: {presets[-1]}, {own} classes; {presets[0]}, {classes} expected"
            raise BundleUnfit(msg)
        network = UNet2d(presets[-1].features, own).to(device).eval()
        network.load_state_dict(kept["network"])
        networks.append((network, Window(**kept["window"])))
    if not networks:
        raise BundleUnfit("AIMOS: no fold given; name the folder of one at least")
    return Folds(presets[0], classes, tuple(networks), device)


def predict(folds: Folds, volume: Volume) -> tuple[npt.NDArray[np.uint8], dict[str, float]]:
    """Label every voxel with the likeliest class by the mean probability of the folds.

    Parameters
    ----------
    volume : of any size, spacing and order of axes

    Returns
    -------
    labels : (z, y, x) uint8 on the volume's own grid
    times : ``preprocess_s``; and ``inference_s``, which ends when the labels are ready
    """
    preset, device = folds.preset, folds.device
    started = time.perf_counter()
    turn = Reorientation.between(volume.grid.axis_letters, AXES)
    hu = turn.apply(volume.hu_zyx)
    shape = resampled_shape(hu, turn.spacing(volume.grid.spacing_mm).zyx, preset.spacing_mm)
    seen = resampled(hu, shape, device)
    stacks = [window.slices(seen, preset.size) for _, window in folds.networks]
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    prepared = time.perf_counter()
    total = torch.zeros((folds.classes, shape[1], *preset.size), device=device)
    with torch.inference_mode(), autocast(device):
        for (network, _), stack in zip(folds.networks, stacks, strict=True):
            for at in range(0, len(stack), preset.batch):
                scores = network(stack[at : at + preset.batch]).float()
                total[:, at : at + preset.batch] += scores.softmax(dim=1).transpose(0, 1)
    mean = unframed(total / len(folds.networks), shape)
    labels = most_probable(mean, (0, 0, 0), shape, shape_of(hu), None)
    own = np.ascontiguousarray(turn.undo(labels))
    ended = time.perf_counter()
    return own, {"preprocess_s": prepared - started, "inference_s": ended - prepared}


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _loss(scores: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Cross-entropy minus the organs' mean soft Dice over the batch."""
    soft = scores.softmax(dim=1)
    one_hot = nn.functional.one_hot(truth, scores.shape[1]).movedim(-1, 1).float()
    axes = (0, 2, 3)
    overlap, size = (soft * one_hot).sum(axes)[1:], (soft + one_hot).sum(axes)[1:]
    soft_dice = ((2 * overlap + 1.0) / (size + 1.0)).mean()
    return nn.functional.cross_entropy(scores, truth) - soft_dice
