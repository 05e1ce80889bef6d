"""A study as steps: what each does, on which others it stands, and about how long it takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from limn.lab.data.dataset import Entry
from limn.lab.study import jobs
from limn.lab.study.bundle import told
from limn.lab.study.config import StudyConfig, costs
from limn.lab.study.jobs import Folders
from limn.lab.systems import nnunet
from limn.lab.words import AIMOS, CASCADE, LIMN, LOWRES, REFERENCE_SYSTEM

# Forward and backward.
LEARNING = 3
# Tiles that half overlap along each axis.
OVERLAP_3D, OVERLAP_2D = 8, 4


@dataclass(frozen=True, slots=True)
class Step:
    """A piece of work that runs in a process of its own and is done once.

    Attributes
    ----------
    cost : relative to the other steps'; for the time that is left
    after : names of the steps that must be done before
    """

    name: str
    work: Callable[..., None]
    arguments: tuple[Any, ...]
    cost: float
    after: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


def steps(config: StudyConfig, entries: Sequence[Entry], folders: Folders) -> list[Step]:
    """Everything between a data set and ``scores.csv``, in an order in which it can be done."""
    training = [own for own in entries if own.split == "train"]
    testing = [own for own in entries if own.split != "train"]
    folds = sorted({int(own.fold) for own in training})
    voxels = max(prod(int(n) for n in own.voxels_zyx.split()) for own in entries)
    native_mm = min(float(mm) for own in entries for mm in own.spacing_mm.split())
    environment = nnunet.environment(folders.nnunet)
    found = [
        Step(
            "prepare",
            nnunet.prepare,
            (folders.nnunet, folders.data, tuple(training), dict(config.nnunet)),
            cost=2e4 * voxels * len(training),
            environment=environment,
        )
    ]
    for system, preset in config.nnunet.items():
        flat = len(preset.patch) == 2
        before = [_train(LOWRES, fold) for fold in folds] if system == CASCADE else ["prepare"]
        pass_cost = costs(flat, prod(preset.patch) * preset.batch, preset.features)
        found += [
            Step(
                _train(system, fold),
                nnunet.train_fold,
                (folders.nnunet, system, preset, fold, config.short),
                cost=LEARNING * pass_cost * preset.epochs * preset.iterations,
                after=tuple(before),
                environment=environment,
            )
            for fold in folds
        ]
        seen = voxels * (native_mm / preset.spacing_mm) ** 3 * (OVERLAP_2D if flat else OVERLAP_3D)
        labels_cost = costs(flat, seen, preset.features) * len(folds) * len(testing)
        first_stage = {own.scan: folders.labels(LOWRES, own.scan) for own in testing}
        found.append(
            Step(
                _predict(system),
                nnunet.predict,
                (
                    folders.nnunet,
                    system,
                    folds,
                    _scans(system, testing, folders),
                    first_stage if system == CASCADE else {},
                    config.short,
                ),
                cost=labels_cost,
                after=(
                    *(_train(system, fold) for fold in folds),
                    *([_predict(LOWRES)] if system == CASCADE else []),
                ),
                environment=environment,
            )
        )
        if system == REFERENCE_SYSTEM:
            trained = nnunet.results_of(folders.nnunet, system, short=config.short)
            found.append(
                Step(
                    _predict(LIMN),
                    jobs.predict_limn,
                    (
                        trained,
                        folders.bundle,
                        told(config, training),
                        config.profile,
                        _scans(LIMN, testing, folders),
                    ),
                    cost=labels_cost / 4,
                    # The predictor leaves the plans beside the folds.
                    after=(_predict(system),),
                )
            )
    if config.aimos:
        found += _aimos(config, training, folds, folders, testing)
    systems = (*config.systems, LIMN)
    found.append(
        Step(
            "score",
            jobs.score,
            (folders, tuple(testing), systems, folders.scores),
            cost=1e4 * voxels * len(testing) * len(systems),
            after=tuple(_predict(system) for system in systems),
        )
    )
    return found


def _aimos(
    config: StudyConfig,
    training: Sequence[Entry],
    folds: Sequence[int],
    folders: Folders,
    testing: Sequence[Entry],
) -> list[Step]:
    preset = config.aimos
    if preset is None:
        return []
    slice_cost = costs(True, prod(preset.size), preset.features)
    found = [
        Step(
            _train(AIMOS, fold),
            jobs.train_aimos,
            (
                [
                    (folders.data / own.ct, folders.data / own.observer1)
                    for own in training
                    if int(own.fold) != fold
                ],
                preset,
                fold,
                folders.aimos(fold),
            ),
            cost=LEARNING * slice_cost * preset.batch * preset.steps,
        )
        for fold in folds
    ]
    slices = max(int(own.voxels_zyx.split()[1]) for own in testing)
    return [
        *found,
        Step(
            _predict(AIMOS),
            jobs.predict_aimos,
            ([folders.aimos(fold) for fold in folds], _scans(AIMOS, testing, folders)),
            cost=slice_cost * slices * len(folds) * len(testing),
            after=tuple(_train(AIMOS, fold) for fold in folds),
        ),
    ]


def _train(system: str, fold: int) -> str:
    return f"train {system} fold {fold}"


def _predict(system: str) -> str:
    return f"predict {system}"


def _scans(
    system: str, testing: Sequence[Entry], folders: Folders
) -> list[tuple[Path, Path, Path]]:
    return [
        (
            folders.data / own.ct,
            folders.labels(system, own.scan),
            folders.times(system, own.scan),
        )
        for own in testing
    ]
