"""A training of nnU-Net in nnunetv2's terms, and how it is sealed as a bundle."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from limn.domain.errors import BundleUnfit
from limn.domain.scan import TG263_ROLES, Organ, Role
from limn.segment.bundle.bundle import (
    Bundle,
    CleanRule,
    open_bundle,
    sha256_of,
    write_manifest,
)
from limn.segment.bundle.plans_json import dataset
from limn.segment.bundle.profile import ProfileName
from limn.segment.engine.weights import Weights, build, fill, save_fold
from limn.segment.importing import known_answers

NOT_STATED = "not said by who exported it"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,80}")
# 5th and 95th percentile of a whole scan, as for the embedded bundle; no training states them.
USUAL_HU = (-1200.0, 1500.0)
# The embedded bundle's rules, for a training that has none.
USUAL_CLEAN = {
    Role.HEART: CleanRule("largest"),
    Role.CORD: CleanRule("pieces", 1.0, 6.0),
    Role.LUNG_R: CleanRule("pieces", 10.0, 3.0),
    Role.LUNG_L: CleanRule("pieces", 10.0, 3.0),
}
# Of any other organ: it may have several parts, such as both kidneys.
OTHER_CLEAN = CleanRule("pieces", 1.0)


def usual_clean(organs: Iterable[Organ], roles: Mapping[Role, Organ]) -> dict[Organ, CleanRule]:
    """The rule of each organ by its role."""
    by_name = {organ: USUAL_CLEAN[role] for role, organ in roles.items()}
    return {organ: by_name.get(organ, OTHER_CLEAN) for organ in organs}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """The contents of a training's files.

    Attributes
    ----------
    made_by : "nnU-Net v1" or "nnU-Net v2"
    plans : of nnunetv2, with this one configuration
    channels : that the network takes; a cascade's second stage takes one more per label
    labels : names by number; "" where the files have none
    spacing_mm : in the order of the array, before the plans' transposition
    weights : of a fold, under the names of the plans' network
    clean : by label; None if the files have no rules
    notes : one line for each thing that limn can't take over as it is
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
        """Class and arguments of the network in the plans."""
        described: dict[str, Any] = self.plans["configurations"][self.configuration]["architecture"]
        return described

    @property
    def classes(self) -> int:
        """How many labels there are, with the background."""
        return len(self.labels) + 1

    def network(self, fold: str) -> nn.Module:
        """One fold's network, filled."""
        network = build(self.architecture, self.channels, self.classes)
        return fill(network, self.weights(fold), f"{self.folder}: {fold}")


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleStatement:
    """What a person states about a bundle because the files of its training do not.

    Attributes
    ----------
    orientation : three letters: what the axes z, y, x of the training's arrays grow towards
    source : where the weights come from; the sha256 of the files are added
    demonstration : delivered only where a site allows it
    roles : the organ of each role that there is
    """

    name: str
    version: str
    organs: Mapping[int, Organ]
    orientation: str
    trained_on: str = NOT_STATED
    not_for: str = NOT_STATED
    expected_hu: tuple[float, float] = USUAL_HU
    source: str = ""
    previous: str = ""
    demonstration: bool = False
    roles: Mapping[Role, Organ] = field(default_factory=lambda: TG263_ROLES)


def seal(trained: Trained, statement: BundleStatement, folder: Path) -> Bundle:
    """Write a bundle into a folder that does not exist yet.

    Raises
    ------
    BundleUnfit
        If plans and weights do not fit together, or the statement does not fit them.
    """
    _check_statement(trained, statement)
    folder.mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(trained.plans, indent=1) + "\n", encoding="utf-8")
    (folder / "dataset.json").write_text(
        json.dumps(_dataset(trained, statement), indent=1) + "\n", encoding="utf-8"
    )
    known_answers.record(folder, trained.architecture, trained.channels, _saved(trained, folder))
    write_manifest(folder, _head(trained, statement))
    return open_bundle(folder)


def _saved(trained: Trained, folder: Path) -> Iterator[nn.Module]:
    """Save every fold and yield its network; only one is in memory at a time."""
    for k, fold in enumerate(trained.folds):
        network = trained.network(fold)
        path = folder / f"fold_{k}" / "checkpoint_final.pth"
        save_fold(path, network.state_dict(), trained.configuration)
        yield network


def _check_statement(trained: Trained, statement: BundleStatement) -> None:
    if set(statement.organs) != set(trained.labels):
        msg = (
            f"{trained.folder} has the labels {sorted(trained.labels)}, the organs are given for "
            f"{sorted(statement.organs)}; give each label its organ: "
            f'--labels "{",".join(f"{k}=ORGAN" for k in sorted(trained.labels))}"'
        )
        raise BundleUnfit(msg)
    if len(set(statement.organs.values())) < len(statement.organs):
        msg = "--labels names an organ twice"
        raise BundleUnfit(msg)
    for word in (statement.name, statement.version):
        if not NAME.fullmatch(word):
            msg = f"{word!r} is no name for a bundle; use letters, digits, '.', '_' and '-'"
            raise BundleUnfit(msg)


def _dataset(trained: Trained, statement: BundleStatement) -> dict[str, Any]:
    labels = {label: statement.organs[label] for label in sorted(statement.organs)}
    return dataset(labels, cases=0) | {"name": trained.plans["dataset_name"]}


def _head(trained: Trained, statement: BundleStatement) -> str:
    rule = {"stock": "mean of logits over tiles and folds (nnunetv2)"}.get(
        trained.profile, "mean of softmax probabilities over tiles and folds"
    )
    lines = [
        "# A limn bundle. Every file below [files] is verified before anything is opened.",
        f"# Made from the files of {trained.made_by}.",
        f"name = {_toml(statement.name)}",
        f"version = {_toml(statement.version)}",
        f"demonstration = {str(statement.demonstration).lower()}",
        f"trained_on = {_toml(statement.trained_on)}",
        f"not_for = {_toml(statement.not_for)}",
        f"source = {_toml(_source(trained, statement))}",
        f"configuration = {_toml(trained.configuration)}",
        f"folds = {list(range(len(trained.folds)))}",
        f"ensemble_rule = {_toml(rule)}",
        "mirroring = false",
        f"profile = {_toml(trained.profile)}",
        "# Axes, in the plans' order, that the training mirrored.",
        f"mirror_axes = {list(trained.mirror_axes)}",
        *(
            [f"previous = {_toml(statement.previous or trained.previous)}"]
            if trained.previous
            else []
        ),
        "# What the array's axes grew towards in the training, before the plans' transposition.",
        f"orientation = {_toml(statement.orientation)}",
        f"spacing_mm = {[float(mm) for mm in trained.spacing_mm]}",
        f"expected_hu = {[float(hu) for hu in statement.expected_hu]}",
        "",
        "[labels]",
        *(f"{k} = {_toml(statement.organs[k])}" for k in sorted(statement.organs)),
    ]
    organs = set(statement.organs.values())
    roles = {role: organ for role, organ in statement.roles.items() if organ in organs}
    lines += ["", "[roles]", *(f"{role} = {_toml(organ)}" for role, organ in roles.items())]
    usual = usual_clean(organs, roles)
    for label, organ in sorted(statement.organs.items()):
        rule_of = (trained.clean or {}).get(label) or usual[organ]
        lines += ["", f"[clean.{_toml(organ)}]", f"keep = {_toml(rule_of.keep)}"]
        if rule_of.keep == "pieces":
            lines.append(f"min_mm3 = {rule_of.min_mm3}")
            lines += [f"within_mm = {rule_of.within_mm}"] if np.isfinite(rule_of.within_mm) else []
    lines += ["", "[protocol]"]
    lines += [f"{_toml(organ)} = {_toml(NOT_STATED)}" for organ in statement.organs.values()]
    return "\n".join(lines)


def _source(trained: Trained, statement: BundleStatement) -> str:
    hashes = [
        f"{path.relative_to(trained.folder)} sha256 {sha256_of(path)}" for path in trained.files
    ]
    return "; ".join([statement.source or f"{trained.made_by}, {trained.name}", *hashes])


def _toml(text: str) -> str:
    """A TOML basic string; below U+10000 the escapes of JSON are those of TOML."""
    return json.dumps(text, ensure_ascii=False)


@contextmanager
def refuse_unreadable(folder: Path, version: str) -> Iterator[None]:
    """Turn what Python raises for files of unexpected content into a refusal.

    Raises
    ------
    BundleUnfit
        Names the folder and the version of nnU-Net.
    """
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        msg = f"{folder} is no {version} training that limn can read: {error!r}"
        raise BundleUnfit(msg) from error
