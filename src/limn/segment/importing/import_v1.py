"""Reads an nnU-Net v1 result folder without nnU-Net v1.

v1 keeps a training as ``fold_*/model_final_checkpoint.model`` (torch), the same name with
``.pkl`` (the trainer's arguments and plans), ``plans.pkl`` and ``postprocessing.json``. Its
``Generic_UNet`` computes the same as nnunetv2's ``PlainConvUNet`` under other names: the network
is derived from the shapes of the weights and compared with the plans.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from limn.domain.errors import BundleUnfit
from limn.segment.bundle import plans_json
from limn.segment.bundle.bundle import CleanRule
from limn.segment.bundle.plans_json import configuration, plain_unet
from limn.segment.engine.weights import UNEVEN, Weights
from limn.segment.importing.pickles import read_checkpoint, read_pickle, weights_in
from limn.segment.importing.trained import (
    Trained,
    refuse_unreadable,
)

CHECKPOINT = "model_final_checkpoint"
# Index of the stage among the trainer's arguments.
STAGE = 5
_SCHEMES = {
    "CT": "CTNormalization",
    "nonCT": "ZScoreNormalization",
    "noNorm": "NoNormalization",
}
# Trainers of v1 whose networks compute something else with weights of the same names, or that
# prepare or export differently.
_DIFFERENT = re.compile(
    r"ReLU|GeLU|Mish|_GN|_BN|_FRN|Resenc|BraTSRegions|NoNormalization|resample33"
)
# Matches the expression, but is leaky like the usual trainer.
_LEAKY = "nnUNetTrainerV2_lReLU_biasInSegOutput"
_OWN_TRAINER = re.compile(r"nnUNetTrainer(V2)?(CascadeFullRes)?(_.*|CE|NoDA)?")
_PREPROCESSORS = ("GenericPreprocessor", "PreprocessorFor2D")

_BLOCK = r"\.blocks\.(?P<i>\d+)\.(?P<layer>conv|instnorm)\.(?P<what>weight|bias)"
_DOWN = re.compile(r"conv_blocks_context\.(?P<d>\d+)" + _BLOCK)
_BOTTOM = re.compile(r"conv_blocks_context\.(?P<d>\d+)\.(?P<half>[01])" + _BLOCK)
_UP = re.compile(r"conv_blocks_localization\.(?P<u>\d+)\.(?P<half>[01])" + _BLOCK)
_TRANSPOSED = re.compile(r"tu\.(?P<u>\d+)\.weight")
_OUTPUT = re.compile(r"seg_outputs\.(?P<u>\d+)\.(?P<what>weight|bias)")
_LAYERS = {"conv": ("conv", "all_modules.0"), "instnorm": ("norm", "all_modules.1")}


def read_v1(folder: Path, checkpoint: str = CHECKPOINT) -> Trained:
    """Read a v1 training.

    Raises
    ------
    BundleUnfit
        If a file is missing or hostile, or limn can't take over exactly what it describes.
    """
    with refuse_unreadable(folder, "v1"):
        return _read(folder, checkpoint)


def _read(folder: Path, checkpoint: str) -> Trained:
    folds = _folds(folder, checkpoint)
    infos = {fold: read_pickle(folder / fold / f"{checkpoint}.model.pkl") for fold in folds}
    info = infos[folds[0]]
    plans = info["plans"]
    files = [folder / fold / f"{checkpoint}.model{end}" for fold in folds for end in ("", ".pkl")]
    stage = _stage(info)
    for fold in folds[1:]:
        if not _same(infos[fold], info):
            msg = f"{folder}: {fold} was planned otherwise than {folds[0]}; import them apart"
            raise BundleUnfit(msg)
    if (apart := folder / "plans.pkl").is_file():
        files.append(apart)
        if not _same({"plans": read_pickle(apart), "init": info["init"], "name": ""}, info):
            msg = f"{folder}: plans.pkl is of another training than {folds[0]}"
            raise BundleUnfit(msg)
    trainer = str(info["name"])
    notes = _judge(trainer, plans)
    weights = convert(_state(folder, folds[0], checkpoint))
    described = architecture(weights)
    strides = [[int(n) for n in row] for row in _pools(plans["plans_per_stage"][stage])]
    if described["arch_kwargs"]["strides"][1:] != strides:
        msg = (
            f"{folder}: the plans pool by {strides}, the weights by "
            f"{described['arch_kwargs']['strides'][1:]}"
        )
        raise BundleUnfit(msg)
    name = _configuration(trainer, plans, stage)
    clean, left_out = _postprocessing(folder, int(plans["num_classes"]))
    if (folder / "postprocessing.json").is_file():
        files.append(folder / "postprocessing.json")
    labels = {int(label): "" for label in plans["all_classes"]}
    if sorted(labels) != list(range(1, int(plans["num_classes"]) + 1)):
        msg = f"{folder}: labels {sorted(labels)}, 1 to {int(plans['num_classes'])} expected"
        raise BundleUnfit(msg)
    converted = _plans(plans, stage, name, described)
    backward = converted["transpose_backward"]
    spacing = [float(mm) for mm in plans["plans_per_stage"][stage]["current_spacing"]]
    channels = weights["encoder.stages.0.0.convs.0.conv.weight"].shape[1]
    return Trained(
        made_by="nnU-Net v1",
        folder=folder,
        name=_task(info, folder),
        configuration=name,
        plans=converted,
        channels=int(channels),
        labels=labels,
        spacing_mm=(spacing[backward[0]], spacing[backward[1]], spacing[backward[2]]),
        folds=folds,
        weights=lambda fold: convert(_state(folder, fold, checkpoint)),
        profile="paper",
        mirror_axes=_mirrored(trainer, name),
        clean=clean,
        previous="3d_lowres" if name == "3d_cascade_fullres" else "",
        notes=(*notes, *left_out),
        files=tuple(sorted(files)),
    )


def convert(state: Mapping[str, torch.Tensor]) -> Weights:
    """v1's weights under nnunetv2's names; no number changes.

    v1's transposed convolutions and outputs have no bias; nnunetv2's have one, which becomes 0.

    Raises
    ------
    BundleUnfit
        If a weight belongs to no `Generic_UNet` of convolutions and instance norms.
    """
    state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    before_last: dict[str, int] = {}
    for name in state:
        if (found := _BOTTOM.fullmatch(name) or _UP.fullmatch(name)) and found["half"] == "0":
            part = name.partition(".0.blocks")[0]
            before_last[part] = max(before_last.get(part, 0), int(found["i"]) + 1)
    converted: Weights = {}
    for name, tensor in state.items():
        if found := _DOWN.fullmatch(name):
            places = _encoder(found, int(found["i"]))
        elif found := _BOTTOM.fullmatch(name):
            part = f"conv_blocks_context.{found['d']}"
            places = _encoder(found, int(found["i"]) + int(found["half"]) * before_last[part])
        elif found := _UP.fullmatch(name):
            part = f"conv_blocks_localization.{found['u']}"
            i = int(found["i"]) + int(found["half"]) * before_last[part]
            places = [
                f"decoder.stages.{found['u']}.convs.{i}.{layer}.{found['what']}"
                for layer in _LAYERS[found["layer"]]
            ]
        elif found := _TRANSPOSED.fullmatch(name):
            places = [f"decoder.transpconvs.{found['u']}.weight"]
            converted[f"decoder.transpconvs.{found['u']}.bias"] = tensor.new_zeros(tensor.shape[1])
        elif found := _OUTPUT.fullmatch(name):
            places = [f"decoder.seg_layers.{found['u']}.{found['what']}"]
            bias = f"decoder.seg_layers.{found['u']}.bias"
            if found["what"] == "weight" and bias not in converted:
                converted[bias] = tensor.new_zeros(tensor.shape[0])
        else:
            msg = f"{name} has no place in v1's Generic_UNet with instance norm"
            raise BundleUnfit(msg)
        converted.update(dict.fromkeys(places, tensor))
    return converted


def _encoder(found: re.Match[str], i: int) -> list[str]:
    return [
        f"{where}stages.{found['d']}.0.convs.{i}.{layer}.{found['what']}"
        for where in ("encoder.", "decoder.encoder.")
        for layer in _LAYERS[found["layer"]]
    ]


def architecture(weights: Weights) -> dict[str, Any]:
    """The network that converted weights belong to, derived from their shapes."""

    def convs(part: str) -> list[torch.Tensor]:
        found: list[torch.Tensor] = []
        while (name := f"{part}.convs.{len(found)}.conv.weight") in weights:
            found.append(weights[name])
        return found

    def kernel(tensor: torch.Tensor) -> list[int]:
        return [int(n) for n in tensor.shape[2:]]

    down: list[list[torch.Tensor]] = []
    while stage := convs(f"encoder.stages.{len(down)}.0"):
        down.append(stage)
    up = [convs(f"decoder.stages.{u}") for u in range(len(down) - 1)]
    if len(down) < 2 or not all(up):
        raise BundleUnfit("the weights are of no Generic_UNet: stages are missing")
    pools = [kernel(weights[f"decoder.transpconvs.{u}.weight"]) for u in reversed(range(len(up)))]
    kernels = [kernel(stage[0]) for stage in down]
    kernels_up = [kernel(stage[0]) for stage in up]
    if any(n not in (1, 3) for sizes in (*kernels, *kernels_up) for n in sizes):
        raise BundleUnfit("a kernel is neither 1 nor 3 wide, and v1 pads no other")
    described = plain_unet(
        [int(stage[-1].shape[0]) for stage in down],
        kernels,
        [[1] * len(kernels[0]), *pools],
        [len(stage) for stage in down],
        [len(stage) for stage in up],
        {"negative_slope": 0.01, "inplace": True},
    )
    # nnunetv2's decoder takes the kernel of its own resolution, v1's that of the one below.
    if kernels_up != kernels[-2::-1]:
        described["network_class_name"] = UNEVEN
        described["arch_kwargs"]["kernel_sizes_decoder"] = kernels_up
    return described


def _folds(folder: Path, checkpoint: str) -> tuple[str, ...]:
    found = sorted(path.parent.name for path in folder.glob(f"fold_*/{checkpoint}.model"))
    if not found and (folder / "all" / f"{checkpoint}.model").is_file():
        found = ["all"]
    if not found:
        msg = f"{folder} has no fold_*/{checkpoint}.model"
        raise BundleUnfit(msg)
    return tuple(found)


def _state(folder: Path, fold: str, checkpoint: str) -> Mapping[str, torch.Tensor]:
    path = folder / fold / f"{checkpoint}.model"
    return weights_in(read_checkpoint(path), "state_dict", path)


def _stage(info: Mapping[str, Any]) -> Any:
    """The key of the trainer's stage; of the only stage if the trainer names none."""
    stages = info["plans"]["plans_per_stage"]
    stage = info["init"][STAGE] if len(info["init"]) > STAGE else None
    keys = list(stages) if isinstance(stages, Mapping) else list(range(len(stages)))
    if stage is None and len(keys) == 1:
        return keys[0]
    if stage not in keys:
        msg = f"the trainer's stage is {stage!r}, the plans have {keys}"
        raise BundleUnfit(msg)
    return stage


def _same(other: Mapping[str, Any], info: Mapping[str, Any]) -> bool:
    """Whether two folds prepare, tile and compute in the same way."""

    def essence(own: Mapping[str, Any]) -> str:
        plans, stage = own["plans"], _stage(own)
        chosen = plans["plans_per_stage"][stage]
        kept = [
            stage, chosen["patch_size"], chosen["current_spacing"], _pools(chosen),
            plans.get("transpose_forward"), plans["num_classes"], plans["num_modalities"],
            _intensities(plans), plans.get("normalization_schemes"),
        ]  # fmt: skip
        return json.dumps(_plain(kept))

    return essence(other) == essence(info)


def _judge(trainer: str, plans: Mapping[str, Any]) -> list[str]:
    if trainer != _LEAKY and _DIFFERENT.search(trainer):
        msg = (
            f"trainer {trainer} computes or prepares otherwise than nnUNetTrainerV2; limn can't "
            "import it"
        )
        raise BundleUnfit(msg)
    if int(plans["num_modalities"]) != 1:
        msg = f"the network takes {plans['num_modalities']} images of each animal, limn has one"
        raise BundleUnfit(msg)
    preprocessor = plans.get("preprocessor_name")
    if preprocessor not in (None, *_PREPROCESSORS):
        msg = f"preprocessor_name {preprocessor!r}, {' or '.join(_PREPROCESSORS)} expected"
        raise BundleUnfit(msg)
    notes = []
    if not _OWN_TRAINER.fullmatch(trainer):
        notes.append(
            f"trainer {trainer} is none of nnU-Net's own: leaky ReLU 0.01 and v1's preparation "
            "are assumed"
        )
    return notes


def _pools(stage: Mapping[str, Any]) -> list[Sequence[int]]:
    """The poolings of each stage; old plans only count the poolings of each axis."""
    if "pool_op_kernel_sizes" in stage:
        return list(stage["pool_op_kernel_sizes"])
    counts = [int(n) for n in stage["num_pool_per_axis"]]
    deepest = max(counts)
    return [[2 if deepest - n <= i else 1 for n in counts] for i in range(deepest)]


def _configuration(trainer: str, plans: Mapping[str, Any], stage: Any) -> str:
    stages = plans["plans_per_stage"]
    if len(stages[stage]["patch_size"]) == 2:
        return "2d"
    if "Cascade" in trainer:
        return "3d_cascade_fullres"
    keys = list(stages) if isinstance(stages, Mapping) else list(range(len(stages)))
    return "3d_lowres" if len(keys) > 1 and stage != keys[-1] else "3d_fullres"


def _mirrored(trainer: str, configuration: str) -> tuple[int, ...]:
    """v1 mirrors along all axes of the patch unless the trainer's name excludes it."""
    if re.search(r"no_?mirroring", trainer, re.IGNORECASE):
        return ()
    return (1, 2) if configuration == "2d" else (0, 1, 2)


def _intensities(plans: Mapping[str, Any]) -> dict[str, float]:
    """Statistics of the organs' HU under nnunetv2's names; empty if v1 needed none."""
    properties = plans["dataset_properties"]["intensityproperties"]
    if properties is None:
        return {}
    own = properties[0]
    names = {"mean": "mean", "sd": "std", "median": "median", "mn": "min", "mx": "max"}
    names |= {"percentile_00_5": "percentile_00_5", "percentile_99_5": "percentile_99_5"}
    return {new: float(own[old]) for old, new in names.items() if old in own}


def _plans(
    plans: Mapping[str, Any], stage: Any, name: str, described: Mapping[str, Any]
) -> dict[str, Any]:
    chosen = plans["plans_per_stage"][stage]
    scheme = _scheme(plans)
    spacing = [float(mm) for mm in chosen["current_spacing"]]
    forward = [int(axis) for axis in (plans.get("transpose_forward") or (0, 1, 2))]
    backward = [int(axis) for axis in (plans.get("transpose_backward") or (0, 1, 2))]
    if sorted(forward) != [0, 1, 2] or [forward[axis] for axis in backward] != [0, 1, 2]:
        msg = (
            f"transpose_forward {forward} and transpose_backward {backward} do not undo each other"
        )
        raise BundleUnfit(msg)
    size = [int(n) for n in chosen.get("median_patient_size_in_voxels", chosen["patch_size"])]
    masked = plans.get("use_mask_for_norm") or {0: False}
    own = configuration(
        name=name,
        patch=[int(n) for n in chosen["patch_size"]],
        spacing_mm=spacing[1:] if name == "2d" else spacing,
        schemes=[scheme],
        masked=[bool(masked[0])],
        architecture=described,
        batch_size=int(chosen["batch_size"]),
        previous="3d_lowres" if name == "3d_cascade_fullres" else "",
    )
    return plans_json.plans(
        dataset_name="Dataset000_FromV1",
        planner="nnU-Net v1",
        spacing_mm=spacing,
        size=size,
        forward=forward,
        intensities={"0": _intensities(plans)},
        configurations={name: own},
    )


def _scheme(plans: Mapping[str, Any]) -> str:
    schemes = plans.get("normalization_schemes") or plans["modalities"]
    own = str(schemes[0])
    if own not in _SCHEMES:
        msg = f"normalization_schemes {own!r}; limn takes over {', '.join(_SCHEMES)}"
        raise BundleUnfit(msg)
    if own == "CT" and not {"mean", "std", "percentile_00_5", "percentile_99_5"} <= set(
        _intensities(plans)
    ):
        raise BundleUnfit("the plans normalise as CT and lack intensityproperties")
    return _SCHEMES[own]


def _postprocessing(folder: Path, classes: int) -> tuple[dict[int, CleanRule] | None, list[str]]:
    """v1's rule for each label, the largest piece or everything; and notes of what is left out."""
    path = folder / "postprocessing.json"
    if not path.is_file():
        return None, []
    notes = []
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        listed = content["for_which_classes"]
        smallest = ast.literal_eval(content.get("min_valid_object_sizes") or "{}")
        rules = {label: CleanRule("pieces") for label in range(1, classes + 1)}
        for label in listed:
            if isinstance(label, list):
                notes.append(
                    "postprocessing.json keeps the largest of several labels taken together; limn "
                    "has no such rule and leaves it out"
                )
            elif (mm3 := float(smallest.get(int(label), 0.0) if smallest else 0.0)) > 0:
                rules[int(label)] = CleanRule("pieces", mm3)
            else:
                rules[int(label)] = CleanRule("largest")
    except (
        AttributeError,
        KeyError,
        MemoryError,
        OSError,
        OverflowError,
        RecursionError,
        SyntaxError,
        TypeError,
        ValueError,
    ) as error:
        msg = f"{path} can't be read: {repr(error)[:200]}"
        raise BundleUnfit(msg) from error
    if strange := sorted(set(rules) - set(range(1, classes + 1))):
        msg = f"{path}: for_which_classes names {strange}, labels 1 to {classes} expected"
        raise BundleUnfit(msg)
    return rules, notes


def _task(info: Mapping[str, Any], folder: Path) -> str:
    """The task's name, from the folder that the training wrote to."""
    for text in (str(info["init"][2]), str(folder)):
        if found := re.search(r"Task\d+_[A-Za-z0-9_-]+", text):
            return found[0]
    return folder.name


def _plain(value: Any) -> Any:
    """The value with arrays and tuples as lists and keys as text, as JSON has them."""
    if isinstance(value, Mapping):
        return {str(key): _plain(own) for key, own in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(own) for own in value]
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value
