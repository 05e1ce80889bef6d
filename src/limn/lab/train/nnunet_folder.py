"""The model folder of nnunetv2: plans, dataset and checkpoints; and the bundle's manifest."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from torch import nn

from limn.domain.errors import ConfigWrong
from limn.domain.shipped import MANIFEST
from limn.lab.train.channels_last import channels_last, with_layout_free_norms
from limn.lab.train.recipe import Recipe, version_after
from limn.phantom.anatomy import (
    BLADDER,
    BONE,
    CORD,
    HEART,
    KIDNEY_L,
    KIDNEY_R,
    LIVER,
    LUNG_L,
    LUNG_R,
    SPLEEN,
    STOMACH,
    TRACHEA,
)
from limn.segment.bundle import plans_json
from limn.segment.bundle.bundle import open_bundle, write_manifest
from limn.segment.bundle.plans_json import configuration, dataset, plain_unet

ONLOOKER = "orient.pth"
LOCALISER = "localiser.pth"
Weights: TypeAlias = dict[str, torch.Tensor]


def architecture(recipe: Recipe) -> dict[str, Any]:
    """The network's entry in the plans."""
    stages = len(recipe.features)
    strides = [[1, 1, 1], *([[2, 2, 2]] * (stages - 1))]
    return plain_unet(recipe.features, [[3, 3, 3]] * stages, strides)


def plans(
    recipe: Recipe, intensities: Mapping[str, float], median_zyx: list[int]
) -> dict[str, Any]:
    """``plans.json`` as nnunetv2 2.8 reads it."""
    spacing_mm = [recipe.spacing_mm] * 3
    own = configuration(
        name="3d_fullres",
        patch=recipe.patch_zyx,
        spacing_mm=spacing_mm,
        architecture=architecture(recipe),
        batch_size=1,
        median_size=median_zyx,
    )
    return plans_json.plans(
        dataset_name="Dataset900_LimnPhantom",
        planner="limn lab train-phantom",
        spacing_mm=spacing_mm,
        size=median_zyx,
        forward=(0, 1, 2),
        intensities={"0": intensities},
        configurations={"3d_fullres": own},
    )


def new_network(recipe: Recipe) -> nn.Module:
    """The network of the plans, untrained, in the layout that trains fast on a CPU."""
    described = architecture(recipe)
    network: nn.Module = get_network_from_plans(
        described["network_class_name"],
        with_layout_free_norms(described["arch_kwargs"]),
        described["_kw_requires_import"],
        1,
        1 + len(recipe.labels),
        deep_supervision=True,
    )
    return channels_last(network)


def intensities_of(bundle: Path, recipe: Recipe) -> dict[str, float]:
    """The numbers by which a bundle normalises HU.

    Raises
    ------
    ConfigWrong
        If the plans can't be read, or their network is not the recipe's.
    """
    path = bundle / "plans.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        described = found["configurations"]["3d_fullres"]["architecture"]
        intensities: dict[str, float] = found["foreground_intensity_properties_per_channel"]["0"]
    except (OSError, ValueError, KeyError) as error:
        msg = f"{path} is no start for a training: {error!r}; give a bundle that train-phantom made"
        raise ConfigWrong(msg) from error
    if described != architecture(recipe):
        msg = f"{path} describes another network than the recipe's {list(recipe.features)} features"
        raise ConfigWrong(msg)
    return intensities


def mean_of_folds(bundle: Path, stem: int, recipe: Recipe) -> Weights:
    """The mean weights of those folds of a bundle that started from one stem.

    Folds of different stems are too far apart: the mean of their weights is no working network.
    """
    folds = [
        torch.load(bundle / f"fold_{fold}" / "checkpoint_final.pth", weights_only=True)
        for fold in range(stem, recipe.folds, recipe.stems)
    ]
    weights = [fold["network_weights"] for fold in folds]
    return {name: sum(each[name].float() for each in weights) / len(weights) for name in weights[0]}


def write_plans(folder: Path, recipe: Recipe, intensities: Mapping[str, float]) -> None:
    """Write ``plans.json`` and ``dataset.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    shape = list(recipe.shape_zyx)
    (folder / "plans.json").write_text(
        json.dumps(plans(recipe, intensities, shape), indent=1), encoding="utf-8"
    )
    described = dataset(recipe.labels, recipe.phantoms)
    (folder / "dataset.json").write_text(json.dumps(described, indent=1), encoding="utf-8")


def save_fold(folder: Path, fold: int, weights: dict[str, torch.Tensor]) -> Path:
    """Write ``fold_k/checkpoint_final.pth`` in half precision, each tensor once."""
    halves: dict[tuple[torch.Size, bytes], torch.Tensor] = {}
    packed = {}
    for name, tensor in weights.items():
        half = tensor.detach().half().contiguous()
        # A network has two names for its encoder, and three for most layers.
        packed[name] = halves.setdefault((half.shape, half.numpy().tobytes()), half)
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


MANIFEST_HEAD = """\
# A limn bundle. Every file below [files] is verified before anything is opened.
name = "{name}"
version = "{version}"
demonstration = true
trained_on = "{trained_on}"
not_for = "not for animals: it has never seen one"
configuration = "3d_fullres"
folds = {folds}
profile = "fast"
# Left is left: training mirrored nothing.
mirror_axes = []
# Tells how the animal lies, whatever the header says.
onlooker = "orient.pth"
# Finds the chest on a coarse grid, so that the folds see nothing else.
localiser = "localiser.pth"
# Array axes (z, y, x) grow towards head (S), back (P), left (L).
orientation = "SPL"
spacing_mm = [{mm}, {mm}, {mm}]
# 5th and 95th percentile of a whole scan should lie between these.
expected_hu = [-1200, 1500]

[labels]
{labels}

{clean}

[protocol]
{protocol}
"""
LARGEST = ('keep = "largest"',)
# The accessory lobe may look separate; a lung further off belongs to another animal.
LUNG = ('keep = "pieces"', "min_mm3 = 10.0", "within_mm = 3.0")
CLEAN: Mapping[int, tuple[str, ...]] = {
    # A cord that a blurred vertebra has cut in two stays whole.
    CORD: ('keep = "pieces"', "min_mm3 = 1.0", "within_mm = 6.0"),
    LUNG_R: LUNG,
    LUNG_L: LUNG,
    BONE: ('keep = "pieces"', "min_mm3 = 0.5"),
}
LUNG_WORDS = "parenchyma with vessels and airways thinner than 0.6 mm; no trachea, no main bronchus"
# What the phantoms' truth of each organ is.
PROTOCOL: Mapping[int, str] = {
    HEART: "muscle, chambers and both atria, up to where the great vessels leave it",
    CORD: "the cord within its canal, from the cranial edge of T1 to the caudal edge of T13",
    LUNG_R: LUNG_WORDS,
    LUNG_L: LUNG_WORDS,
    LIVER: "all lobes with the gall bladder, up to the diaphragm",
    STOMACH: "wall, food and gas",
    KIDNEY_R: "cortex, medulla and pelvis",
    KIDNEY_L: "cortex, medulla and pelvis",
    SPLEEN: "the whole spleen",
    BLADDER: "wall and urine",
    BONE: "skull, spine without the cord, ribs, breastbone, limbs and pelvis, with their marrow",
    TRACHEA: "air and wall, to the main bronchi",
}


def _clean(recipe: Recipe) -> list[tuple[str, ...]]:
    """The table of each organ's rule."""
    return [
        (f"[clean.{organ}]", *CLEAN.get(painted, LARGEST))
        for organ, painted in zip(recipe.labels.values(), recipe.painted, strict=True)
    ]


def seal(folder: Path, recipe: Recipe) -> None:
    """Make the model folder a bundle, by a manifest with the sha256 of every file."""
    start = open_bundle(Path(recipe.start)) if recipe.start else None
    trained_on = f"{recipe.phantoms + recipe.stem_phantoms} digital phantom mice and no animal"
    if start:
        trained_on += f", on from {start.label}: {start.trained_on}"
    write_manifest(
        folder,
        MANIFEST_HEAD.format(
            name="phantom-organs" if recipe.organs else "phantom",
            labels="\n".join(f'{label} = "{organ}"' for label, organ in recipe.labels.items()),
            clean="\n\n".join(map("\n".join, _clean(recipe))),
            protocol="\n".join(
                f'{organ} = "{PROTOCOL[painted]}"'
                for organ, painted in zip(recipe.labels.values(), recipe.painted, strict=True)
            ),
            version=version_after(recipe.start),
            trained_on=trained_on,
            folds=list(range(recipe.folds)),
            mm=recipe.spacing_mm,
        ),
    )


def note_measured(folder: Path, rows: Sequence[Mapping[str, str]], how: str) -> None:
    """Write the measured accuracy into a bundle's manifest, and seal the bundle again.

    The manifest gets mean DSC and mean 95 % Hausdorff distance for each group and organ.

    Parameters
    ----------
    rows : of `limn.lab.measure.evaluate`
    how : the command and the test set
    """
    head = (folder / MANIFEST).read_text(encoding="utf-8").split("\n[files]\n")[0].rstrip()
    head = head.split("\n# Measured: ")[0].rstrip()
    lines = [f"# Measured: {how}"]
    for group in dict.fromkeys(row["group"] for row in rows):
        lines.append(f"\n[measured.{json.dumps(group)}]")
        for organ in dict.fromkeys(row["organ"] for row in rows):
            own = [row for row in rows if (row["group"], row["organ"]) == (group, organ)]
            # Scans that do not show it, and in which none is drawn.
            own = [row for row in own if row["dsc"] != "nan"]
            if not own:
                continue
            dsc = float(np.mean([float(row["dsc"]) for row in own]))
            found = [float(row["hd95_mm"]) for row in own if float(row["dsc"]) > 0]
            hd95 = f", hd95_mm = {np.mean(found):.2f}" if found else ""
            lines.append(f"{organ} = {{ scans = {len(own)}, dsc = {dsc:.3f}{hd95} }}")
    write_manifest(folder, head + "\n\n" + "\n".join(lines))
