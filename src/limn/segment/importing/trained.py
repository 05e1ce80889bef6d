"""A trained network as nnU-Net left it, put into nnunetv2's terms; the way into a bundle."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from limn.domain.errors import BundleUnfit
from limn.domain.scan import Organ
from limn.segment.bundle.bundle import Bundle, CleanRule, open_bundle, write_manifest
from limn.segment.bundle.profile import ProfileName
from limn.segment.engine.weights import Weights, build, fill, save_fold
from limn.segment.importing import known_answers

UNSAID = "not said by who exported it"
PLANS_NAME = "nnUNetPlans"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,80}")
# A whole scan's 5th and 95th percentile, as for the embedded bundle; who exports says nothing.
USUAL_HU = (-1200.0, 1500.0)
# What the embedded bundle keeps, where the exporter says nothing.
USUAL_CLEAN = {
    Organ.HEART: CleanRule("largest"),
    Organ.CORD: CleanRule("pieces", 1.0, 6.0),
    Organ.LUNG_R: CleanRule("pieces", 10.0, 3.0),
    Organ.LUNG_L: CleanRule("pieces", 10.0, 3.0),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What the files of a training say.

    Attributes
    ----------
    made_by : "nnU-Net v1" or "nnU-Net v2"
    plans : of nnunetv2, with this one configuration
    channels : that the network takes; a cascade's second stage takes one more per label
    labels : names by number, as far as the files say them
    spacing_mm : in the order of the array, before the plans' transposition
    weights : of a fold, in the names of the plans' network
    clean : by label, None where the files say nothing
    notes : what limn can't take over as it is; one line each
    """

    made_by: str
    folder: Path
    name: str
    configuration: str
    plans: Mapping[str, Any]
    channels: int
    labels: Mapping[int, str]
    spacing_mm: tuple[float, float, float]
    folds: tuple[str, ...]
    weights: Callable[[str], Weights]
    profile: ProfileName
    mirror_axes: tuple[int, ...]
    clean: Mapping[int, CleanRule] | None
    previous: str
    notes: tuple[str, ...]
    files: tuple[Path, ...]

    @property
    def architecture(self) -> dict[str, Any]:
        """The network, as nnunetv2 names it."""
        described: dict[str, Any] = self.plans["configurations"][self.configuration]["architecture"]
        return described

    @property
    def classes(self) -> int:
        """Labels and background."""
        return len(self.labels) + 1

    def network(self, fold: str) -> nn.Module:
        """One fold's network, filled."""
        network = build(self.architecture, self.channels, self.classes)
        return fill(network, self.weights(fold), f"{self.folder}: {fold}")


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleStatement:
    """What the files don't say and a person does.

    Attributes
    ----------
    orientation : three letters that the array's axes z, y, x grow towards, as the training saw it
    source : in words; the files' sha256 are added
    demonstration : delivered only where a site allows it
    """

    name: str
    version: str
    organs: Mapping[int, Organ]
    orientation: str
    trained_on: str = UNSAID
    not_for: str = UNSAID
    expected_hu: tuple[float, float] = USUAL_HU
    source: str = ""
    previous: str = ""
    demonstration: bool = False


def seal(trained: Trained, told: BundleStatement, folder: Path) -> Bundle:
    """Write a bundle into a folder that does not exist yet.

    Raises
    ------
    BundleUnfit
        If plans and weights don't fit together, or what is told does not fit them.
    """
    _agree(trained, told)
    folder.mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(trained.plans, indent=1) + "\n", encoding="utf-8")
    (folder / "dataset.json").write_text(
        json.dumps(_dataset(trained, told), indent=1) + "\n", encoding="utf-8"
    )
    known_answers.record(folder, trained.architecture, trained.channels, _saved(trained, folder))
    write_manifest(folder, _head(trained, told))
    return open_bundle(folder)


def _saved(trained: Trained, folder: Path) -> Iterator[nn.Module]:
    """Every fold's network, once its weights are on disk; one in memory at a time."""
    for k, fold in enumerate(trained.folds):
        network = trained.network(fold)
        path = folder / f"fold_{k}" / "checkpoint_final.pth"
        save_fold(path, network.state_dict(), trained.configuration)
        yield network


def _agree(trained: Trained, told: BundleStatement) -> None:
    if set(told.organs) != set(trained.labels):
        msg = (
            f"{trained.folder} knows the labels {sorted(trained.labels)}, named are "
            f"{sorted(told.organs)}; give every one its organ: "
            f'--labels "{",".join(f"{k}=ORGAN" for k in sorted(trained.labels))}" with '
            f"{', '.join(Organ)}"
        )
        raise BundleUnfit(msg)
    if len(set(told.organs.values())) < len(told.organs):
        msg = "--labels names an organ twice"
        raise BundleUnfit(msg)
    for word in (told.name, told.version):
        if not NAME.fullmatch(word):
            msg = f"{word!r} is no name for a bundle; letters, digits, '.', '_' and '-' are"
            raise BundleUnfit(msg)


def _dataset(trained: Trained, told: BundleStatement) -> dict[str, Any]:
    labels = {"background": 0} | {told.organs[k].value: k for k in sorted(told.organs)}
    return {
        "channel_names": {"0": "CT"},
        "labels": labels,
        "numTraining": 0,
        "file_ending": ".nii.gz",
        "name": trained.plans["dataset_name"],
    }


def _head(trained: Trained, told: BundleStatement) -> str:
    rule = {"stock": "mean of logits over tiles and folds (nnunetv2)"}.get(
        trained.profile, "mean of softmax probabilities over tiles and folds"
    )
    lines = [
        "# A limn bundle. Every file below [files] is verified before anything is opened.",
        f"# Made from the files of {trained.made_by}.",
        f"name = {_toml(told.name)}",
        f"version = {_toml(told.version)}",
        f"demonstration = {str(told.demonstration).lower()}",
        f"trained_on = {_toml(told.trained_on)}",
        f"not_for = {_toml(told.not_for)}",
        f"source = {_toml(_source(trained, told))}",
        f"configuration = {_toml(trained.configuration)}",
        f"folds = {list(range(len(trained.folds)))}",
        f"ensemble_rule = {_toml(rule)}",
        "mirroring = false",
        f"profile = {_toml(trained.profile)}",
        "# Axes, in the plans' order, that the training mirrored.",
        f"mirror_axes = {list(trained.mirror_axes)}",
        *([f"previous = {_toml(told.previous or trained.previous)}"] if trained.previous else []),
        "# What the array's axes grew towards in the training, before the plans' transposition.",
        f"orientation = {_toml(told.orientation)}",
        f"spacing_mm = {[float(mm) for mm in trained.spacing_mm]}",
        f"expected_hu = {[float(hu) for hu in told.expected_hu]}",
        "",
        "[labels]",
        *(f"{k} = {_toml(told.organs[k].value)}" for k in sorted(told.organs)),
    ]
    for label, organ in sorted(told.organs.items()):
        rule_of = USUAL_CLEAN[organ] if trained.clean is None else trained.clean[label]
        lines += ["", f"[clean.{organ.value}]", f"keep = {_toml(rule_of.keep)}"]
        if rule_of.keep == "pieces":
            lines.append(f"min_mm3 = {rule_of.min_mm3}")
            lines += [f"within_mm = {rule_of.within_mm}"] if np.isfinite(rule_of.within_mm) else []
    lines += ["", "[protocol]"]
    lines += [f"{organ.value} = {_toml(UNSAID)}" for organ in told.organs.values()]
    return "\n".join(lines)


def _source(trained: Trained, told: BundleStatement) -> str:
    hashes = [
        f"{path.relative_to(trained.folder)} sha256 {_sha256(path)}" for path in trained.files
    ]
    return "; ".join([told.source or f"{trained.made_by}, {trained.name}", *hashes])


def _toml(text: str) -> str:
    """A TOML basic string; JSON's escapes are TOML's but for the one above U+FFFF."""
    return json.dumps(text, ensure_ascii=False)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def configuration_of(
    *,
    name: str,
    patch: list[int],
    spacing: list[float],
    schemes: list[str],
    masked: list[bool],
    architecture: Mapping[str, Any],
    batch_size: int,
    previous: str = "",
) -> dict[str, Any]:
    """One configuration of ``plans.json`` as nnunetv2 2.8 reads it."""
    resampling = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    described: dict[str, Any] = {
        "data_identifier": f"{PLANS_NAME}_{name}",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": batch_size,
        "patch_size": patch,
        "median_image_size_in_voxels": patch,
        "spacing": spacing,
        "normalization_schemes": schemes,
        "use_mask_for_norm": masked,
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": resampling,
        "resampling_fn_seg_kwargs": resampling | {"is_seg": True, "order": 1},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": resampling | {"order": 1},
        "architecture": dict(architecture),
        "batch_dice": False,
    }
    return described | ({"previous_stage": previous} if previous else {})
