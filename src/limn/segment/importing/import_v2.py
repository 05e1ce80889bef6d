"""Reads an nnU-Net v2 result folder: what nnunetv2 trains, with everything but weights left out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from limn.domain.errors import BundleUnfit
from limn.segment.engine.weights import Weights, build
from limn.segment.importing.pickles import read_checkpoint
from limn.segment.importing.trained import Trained, configuration_of

CHECKPOINT = "checkpoint_final"
RESAMPLING = ("resample_data_or_seg_to_shape",)
# Splines of the image and of probabilities: nnunetv2's own planner writes no others.
DONE_HERE: Mapping[str, Mapping[str, object]] = {
    "data": {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None},
    "probabilities": {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None},
}


def holds_v2(folder: Path, checkpoint: str = CHECKPOINT) -> bool:
    """Whether a folder is the result of a v2 training."""
    return (folder / "plans.json").is_file() and any(
        True for _ in folder.glob(f"*/{checkpoint}.pth")
    )


def read_v2(folder: Path, checkpoint: str = CHECKPOINT) -> Trained:
    """Read a v2 training.

    Raises
    ------
    BundleUnfit
        If a file is missing, hostile, or says what limn can't take over exactly.
    """
    try:
        return _read(folder, checkpoint)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        msg = f"{folder} is no v2 training that limn can read: {error!r}"
        raise BundleUnfit(msg) from error


def _read(folder: Path, checkpoint: str) -> Trained:
    plans = _json(folder / "plans.json")
    dataset = _json(folder / "dataset.json")
    folds = tuple(sorted(path.parent.name for path in folder.glob(f"fold_*/{checkpoint}.pth")))
    if not folds:
        msg = f"{folder} has no fold_*/{checkpoint}.pth"
        raise BundleUnfit(msg)
    if len(folds) > 1 and "fold_all" in folds:
        folds = tuple(fold for fold in folds if fold != "fold_all")
    first = read_checkpoint(folder / folds[0] / f"{checkpoint}.pth")
    name = str(first["init_args"]["configuration"])
    chosen = _configuration(plans, name)
    labels = _labels(dataset)
    if len(dataset.get("channel_names", dataset.get("modality"))) != 1:
        msg = f"{folder}: the network takes several images of each animal, limn has one"
        raise BundleUnfit(msg)
    previous = str(chosen.get("previous_stage") or "")
    backward = [int(axis) for axis in plans["transpose_backward"]]
    spacing = [float(mm) for mm in chosen["spacing"]]
    if len(spacing) == 2:
        spacing.insert(0, float(plans["original_median_spacing_after_transp"][0]))
    kept = {key: value for key, value in plans.items() if key != "configurations"}
    mirrored = first.get("inference_allowed_mirroring_axes")
    return Trained(
        made_by="nnU-Net v2",
        folder=folder,
        name=str(plans["dataset_name"]),
        configuration=name,
        plans=kept | {"configurations": {name: chosen}},
        channels=1 + (len(labels) if previous else 0),
        labels=labels,
        spacing_mm=(spacing[backward[0]], spacing[backward[1]], spacing[backward[2]]),
        folds=folds,
        weights=lambda fold: _weights(folder / fold / f"{checkpoint}.pth", name),
        profile="stock",
        mirror_axes=_mirror_axes(mirrored, len(chosen["patch_size"])),
        clean=None,
        previous=previous,
        notes=tuple(_notes(folder, first, chosen)),
        files=tuple(
            sorted(
                [folder / "plans.json", folder / "dataset.json"]
                + [folder / fold / f"{checkpoint}.pth" for fold in folds]
            )
        ),
    )


def _configuration(plans: Mapping[str, Any], name: str) -> dict[str, Any]:
    """One configuration with what it inherits, its network described as nnunetv2 does since 2.2."""
    chosen: dict[str, Any] = {}
    heir: Any = name
    met: set[str] = set()
    while heir is not None:
        if heir in met:
            msg = f"plans.json: configuration {heir} inherits from itself"
            raise BundleUnfit(msg)
        met.add(heir)
        own = plans["configurations"][heir]
        chosen = {**own, **chosen}
        heir = own.get("inherits_from")
    chosen.pop("inherits_from", None)
    if "architecture" not in chosen:
        chosen = _of_old(chosen, name)
    for key in ("data", "seg", "probabilities"):
        if (used := chosen.get(f"resampling_fn_{key}")) not in RESAMPLING:
            msg = f"plans.json resamples by {used!r}; limn takes over {', '.join(RESAMPLING)}"
            raise BundleUnfit(msg)
        if key != "seg":
            _refuse_other_splines(key, chosen.get(f"resampling_fn_{key}_kwargs", {}))
    # Named and refused before anything is imported by name.
    build(chosen["architecture"], 1, 2)
    return chosen


def _refuse_other_splines(key: str, told: Mapping[str, Any]) -> None:
    """What limn resamples by is fixed; what nnunetv2 fills in itself need not be said."""
    for name, done in DONE_HERE[key].items():
        if name in told and told[name] != done:
            msg = (
                f"plans.json: resampling_fn_{key}_kwargs has {name} {told[name]!r}, limn "
                f"resamples by {done!r}"
            )
            raise BundleUnfit(msg)


def _of_old(chosen: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Plans of nnunetv2 before 2.2 list the network's numbers one by one."""
    if chosen.get("UNet_class_name") != "PlainConvUNet":
        msg = f"plans.json: network {chosen.get('UNet_class_name')!r} of an old nnunetv2"
        raise BundleUnfit(msg)
    stages = len(chosen["n_conv_per_stage_encoder"])
    dimension = len(chosen["patch_size"])
    features = [
        min(int(chosen["UNet_base_num_features"]) * 2**i, int(chosen["unet_max_num_features"]))
        for i in range(stages)
    ]
    described = {
        "n_stages": stages,
        "features_per_stage": features,
        "conv_op": f"torch.nn.modules.conv.Conv{dimension}d",
        "kernel_sizes": chosen["conv_kernel_sizes"],
        "strides": chosen["pool_op_kernel_sizes"],
        "n_conv_per_stage": chosen["n_conv_per_stage_encoder"],
        "n_conv_per_stage_decoder": chosen["n_conv_per_stage_decoder"],
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dimension}d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    return configuration_of(
        name=name,
        patch=chosen["patch_size"],
        spacing=chosen["spacing"],
        schemes=chosen["normalization_schemes"],
        masked=chosen["use_mask_for_norm"],
        architecture={
            "network_class_name": (
                "dynamic_network_architectures.architectures.unet.PlainConvUNet"
            ),
            "arch_kwargs": described,
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
        batch_size=int(chosen["batch_size"]),
        previous=str(chosen.get("previous_stage") or ""),
    )


def _labels(dataset: Mapping[str, Any]) -> dict[int, str]:
    labels: dict[int, str] = {}
    for name, value in dataset["labels"].items():
        if not isinstance(value, int) or isinstance(value, bool):
            msg = (
                f"dataset.json: label {name!r} is a region of several numbers; limn wants one each"
            )
            raise BundleUnfit(msg)
        if name == "ignore":
            raise BundleUnfit("dataset.json has an ignore label, which limn does not take over")
        if value:
            labels[value] = name
    if sorted(labels) != list(range(1, len(labels) + 1)):
        msg = f"dataset.json: labels {sorted(labels)}, 1 to {len(labels)} expected"
        raise BundleUnfit(msg)
    return labels


def _weights(path: Path, configuration: str) -> Weights:
    held = read_checkpoint(path)
    found = held["init_args"]["configuration"]
    if found != configuration:
        msg = f"{path} is of configuration {found}, {configuration} expected"
        raise BundleUnfit(msg)
    weights = held["network_weights"]
    if not isinstance(weights, Mapping) or not all(
        isinstance(tensor, torch.Tensor) for tensor in weights.values()
    ):
        msg = f"{path} holds no network_weights"
        raise BundleUnfit(msg)
    # A training with torch.compile or on several devices wraps the network.
    return {
        name.removeprefix("module.").removeprefix("_orig_mod."): tensor
        for name, tensor in weights.items()
    }


def _mirror_axes(mirrored: Any, dimension: int) -> tuple[int, ...]:
    """Of the three axes in the plans' order; a 2d patch lacks the first."""
    return tuple(int(axis) + 3 - dimension for axis in mirrored or ())


def _notes(folder: Path, held: Mapping[str, Any], chosen: Mapping[str, Any]) -> list[str]:
    notes = []
    if any((folder / name).exists() for name in ("postprocessing.pkl", "postprocessing.json")):
        notes.append("the training's postprocessing is not taken over; see 'clean' in bundle.toml")
    if list(folder.glob("crossval_results_folds_*/postprocessing.pkl")):
        notes.append(
            "crossval_results_folds_*/postprocessing.pkl is not taken over (it names functions to "
            "run); see 'clean' in bundle.toml"
        )
    trainer = str(held.get("trainer_name", "unknown"))
    if not trainer.startswith("nnUNetTrainer"):
        notes.append(f"trainer {trainer}: its network is built as plans.json describes it")
    if chosen.get("preprocessor_name") != "DefaultPreprocessor":
        own = chosen.get("preprocessor_name")
        notes.append(f"preprocessor_name {own!r}: prepared as DefaultPreprocessor does")
    return notes


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        msg = f"{path}: {error.strerror}"
        raise BundleUnfit(msg) from error
    except ValueError as error:
        msg = f"{path} can't be read: {error}"
        raise BundleUnfit(msg) from error
