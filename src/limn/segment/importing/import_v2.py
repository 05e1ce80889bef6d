"""Reads an nnU-Net v2 result folder; of the checkpoints only the weights are kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from limn.domain.errors import BundleUnfit
from limn.segment.bundle.plans_json import configuration, plain_unet
from limn.segment.engine.weights import Weights, build
from limn.segment.importing.pickles import read_checkpoint, weights_in
from limn.segment.importing.trained import Trained, refuse_unreadable

CHECKPOINT = "checkpoint_final"
RESAMPLING = ("resample_data_or_seg_to_shape",)
# How limn resamples the image and the probabilities; nnunetv2's own planner writes nothing else.
OWN_RESAMPLING: Mapping[str, Mapping[str, object]] = {
    "data": {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None},
    "probabilities": {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None},
}


def read_v2(folder: Path, checkpoint: str = CHECKPOINT) -> Trained:
    """Read a v2 training.

    Raises
    ------
    BundleUnfit
        If a file is missing or hostile, or limn can't take over exactly what it describes.
    """
    with refuse_unreadable(folder, "v2"):
        return _read(folder, checkpoint)


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
    """One configuration with all that it inherits, in the form of nnunetv2 2.2 and later."""
    chosen: dict[str, Any] = {}
    ancestor: Any = name
    visited: set[str] = set()
    while ancestor is not None:
        if ancestor in visited:
            msg = f"plans.json: configuration {ancestor} inherits from itself"
            raise BundleUnfit(msg)
        visited.add(ancestor)
        own = plans["configurations"][ancestor]
        chosen = {**own, **chosen}
        ancestor = own.get("inherits_from")
    chosen.pop("inherits_from", None)
    if "architecture" not in chosen:
        chosen = _before_2_2(chosen, name)
    for key in ("data", "seg", "probabilities"):
        if (used := chosen.get(f"resampling_fn_{key}")) not in RESAMPLING:
            msg = f"plans.json resamples by {used!r}; limn takes over {', '.join(RESAMPLING)}"
            raise BundleUnfit(msg)
        if key != "seg":
            _refuse_other_splines(key, chosen.get(f"resampling_fn_{key}_kwargs", {}))
    # Refuses an unknown network before anything is imported by its name.
    build(chosen["architecture"], 1, 2)
    return chosen


def _refuse_other_splines(key: str, arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that differ from limn's; for an absent one nnunetv2 has the same default."""
    for name, own in OWN_RESAMPLING[key].items():
        if name in arguments and arguments[name] != own:
            msg = (
                f"plans.json: resampling_fn_{key}_kwargs has {name} {arguments[name]!r}, limn "
                f"resamples by {own!r}"
            )
            raise BundleUnfit(msg)


def _before_2_2(chosen: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A configuration of nnunetv2 before 2.2, which lists the network's numbers one by one."""
    if chosen.get("UNet_class_name") != "PlainConvUNet":
        msg = f"plans.json: network {chosen.get('UNet_class_name')!r} of an old nnunetv2"
        raise BundleUnfit(msg)
    stages = len(chosen["n_conv_per_stage_encoder"])
    features = [
        min(int(chosen["UNet_base_num_features"]) * 2**i, int(chosen["unet_max_num_features"]))
        for i in range(stages)
    ]
    return configuration(
        name=name,
        patch=chosen["patch_size"],
        spacing_mm=chosen["spacing"],
        schemes=chosen["normalization_schemes"],
        masked=chosen["use_mask_for_norm"],
        architecture=plain_unet(
            features,
            chosen["conv_kernel_sizes"],
            chosen["pool_op_kernel_sizes"],
            chosen["n_conv_per_stage_encoder"],
            chosen["n_conv_per_stage_decoder"],
        ),
        batch_size=int(chosen["batch_size"]),
        previous=str(chosen.get("previous_stage") or ""),
    )


def _labels(dataset: Mapping[str, Any]) -> dict[int, str]:
    labels: dict[int, str] = {}
    for name, value in dataset["labels"].items():
        if not isinstance(value, int) or isinstance(value, bool):
            msg = (
                f"dataset.json: label {name!r} is a region of several numbers; limn takes one each"
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
    checkpoint = read_checkpoint(path)
    found = checkpoint["init_args"]["configuration"]
    if found != configuration:
        msg = f"{path} is of configuration {found}, {configuration} expected"
        raise BundleUnfit(msg)
    # A training with torch.compile or on several devices wraps the network.
    return {
        name.removeprefix("module.").removeprefix("_orig_mod."): tensor
        for name, tensor in weights_in(checkpoint, "network_weights", path).items()
    }


def _mirror_axes(mirrored: Any, dimension: int) -> tuple[int, ...]:
    """The axes as numbers of three, in the plans' order; a 2d patch lacks the first."""
    return tuple(int(axis) + 3 - dimension for axis in mirrored or ())


def _notes(folder: Path, checkpoint: Mapping[str, Any], chosen: Mapping[str, Any]) -> list[str]:
    notes = []
    if any((folder / name).exists() for name in ("postprocessing.pkl", "postprocessing.json")):
        notes.append("the training's postprocessing is not taken over; see 'clean' in bundle.toml")
    if list(folder.glob("crossval_results_folds_*/postprocessing.pkl")):
        notes.append(
            "crossval_results_folds_*/postprocessing.pkl is not taken over (it names functions to "
            "run); see 'clean' in bundle.toml"
        )
    trainer = str(checkpoint.get("trainer_name", "unknown"))
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
