"""The steps of a study: what each does, which steps come before it, and about what it costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from limn.lab.data.dataset import Entry
from limn.lab.data.organs import DatasetOrgans
from limn.lab.study import jobs
from limn.lab.study.bundle import bundle_statement
from limn.lab.study.config import StudyConfig, costs
from limn.lab.study.jobs import Folders
from limn.lab.systems import nnunet
from limn.lab.systems.aimos import AimosPreset
from limn.lab.systems.nnunet_plans import Preset
from limn.lab.words import AIMOS, CASCADE, LIMN, LOWRES, REFERENCE_SYSTEM

PREPARE = "prepare"
# Forward and backward pass, in forward passes.
LEARNING = 3
# Tiles that overlap by half along each axis see every voxel so often.
OVERLAP_3D, OVERLAP_2D = 8, 4


@dataclass(frozen=True, slots=True)
class Step:
    """A piece of work that is done once, in an isolated process.

    Attributes
    ----------
    cost : relative to other steps; to estimate the time that is left
    after : names of the steps that must be done before it
    """

    name: str
    work: Callable[..., None]
    arguments: tuple[Any, ...]
    cost: float
    after: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


def steps(
    config: StudyConfig, entries: Sequence[Entry], organs: DatasetOrgans, folders: Folders
) -> list[Step]:
    """All steps from a data set to ``scores.csv``, each after those that it depends on."""
    study = _Study(config, entries, organs, folders)
    found = [study.prepare()]
    for system, preset in config.nnunet.items():
        found += [study.train_nnunet(system, preset, fold) for fold in study.folds]
        found.append(study.predict_nnunet(system, preset))
        if system == REFERENCE_SYSTEM:
            found.append(study.predict_limn(preset))
    if config.aimos is not None:
        found += [study.train_aimos(config.aimos, fold) for fold in study.folds]
        found.append(study.predict_aimos(config.aimos))
    return [*found, study.score()]


class _Study:
    """Makes the steps of one study.

    Attributes
    ----------
    folds : their numbers
    voxels : of the largest scan
    native_mm : the shortest edge of any scan's voxels
    """

    def __init__(
        self,
        config: StudyConfig,
        entries: Sequence[Entry],
        organs: DatasetOrgans,
        folders: Folders,
    ) -> None:
        self._config, self._folders, self._organs = config, folders, organs
        self._training = [own for own in entries if own.split == "train"]
        self._testing = [own for own in entries if own.split != "train"]
        self._environment = nnunet.environment(folders.nnunet)
        self.folds = sorted({int(own.fold) for own in self._training})
        self.voxels = max(prod(int(n) for n in own.voxels_zyx.split()) for own in entries)
        self.native_mm = min(float(mm) for own in entries for mm in own.spacing_mm.split())

    def prepare(self) -> Step:
        """nnunetv2's data set, plans and preprocessing."""
        root, presets = self._folders.nnunet, dict(self._config.nnunet)
        return Step(
            PREPARE,
            nnunet.prepare,
            (root, self._folders.data, tuple(self._training), presets),
            cost=2e4 * self.voxels * len(self._training),
            environment=self._environment,
        )

    def train_nnunet(self, system: str, preset: Preset, fold: int) -> Step:
        """One fold; a cascade's second stage learns from the labels of all folds of the first."""
        first_stage = tuple(_train(LOWRES, own) for own in self.folds)
        pass_cost = costs(preset.flat, prod(preset.patch) * preset.batch, preset.features)
        return Step(
            _train(system, fold),
            nnunet.train_fold,
            (self._folders.nnunet, system, preset, fold, self._config.short),
            cost=LEARNING * pass_cost * preset.epochs * preset.iterations,
            after=first_stage if system == CASCADE else (PREPARE,),
            environment=self._environment,
        )

    def predict_nnunet(self, system: str, preset: Preset) -> Step:
        """All test scans by nnunetv2's predictor."""
        previous, first_stage = dict[str, Path](), tuple[str, ...]()
        if system == CASCADE:
            previous = {own.scan: self._folders.labels(LOWRES, own.scan) for own in self._testing}
            first_stage = (_predict(LOWRES),)
        root, scans = self._folders.nnunet, self._scans(system)
        return Step(
            _predict(system),
            nnunet.predict,
            (root, system, self.folds, scans, previous, self._config.short),
            cost=self._labels_cost(preset),
            after=(*(_train(system, fold) for fold in self.folds), *first_stage),
            environment=self._environment,
        )

    def predict_limn(self, preset: Preset) -> Step:
        """All test scans by limn's engine, with the folds of the reference system."""
        config, folders = self._config, self._folders
        trained = nnunet.results_of(folders.nnunet, REFERENCE_SYSTEM, short=config.short)
        statement = bundle_statement(config, self._training, self._organs)
        return Step(
            _predict(LIMN),
            jobs.predict_limn,
            (trained, folders.bundle, statement, config.profile, self._scans(LIMN)),
            cost=self._labels_cost(preset) / 4,
            # nnunetv2's predictor copies the plans beside the folds.
            after=(_predict(REFERENCE_SYSTEM),),
        )

    def train_aimos(self, preset: AimosPreset, fold: int) -> Step:
        """One fold, from the scans of all others."""
        data = self._folders.data
        learning = [own for own in self._training if int(own.fold) != fold]
        cases = [(data / own.ct, data / own.observer1) for own in learning]
        slice_cost = costs(True, prod(preset.size), preset.features)
        return Step(
            _train(AIMOS, fold),
            jobs.train_aimos,
            (cases, 1 + len(self._organs.organs), preset, fold, self._folders.aimos(fold)),
            cost=LEARNING * slice_cost * preset.batch * preset.steps,
        )

    def predict_aimos(self, preset: AimosPreset) -> Step:
        """All test scans by the folds' mean."""
        slices = max(int(own.voxels_zyx.split()[1]) for own in self._testing)
        slice_cost = costs(True, prod(preset.size), preset.features)
        return Step(
            _predict(AIMOS),
            jobs.predict_aimos,
            ([self._folders.aimos(fold) for fold in self.folds], self._scans(AIMOS)),
            cost=slice_cost * slices * len(self.folds) * len(self._testing),
            after=tuple(_train(AIMOS, fold) for fold in self.folds),
        )

    def score(self) -> Step:
        """The one long CSV."""
        systems = (*self._config.systems, LIMN)
        return Step(
            "score",
            jobs.score,
            (self._folders, tuple(self._testing), systems, self._folders.scores),
            cost=1e4 * self.voxels * len(self._testing) * len(systems),
            after=tuple(_predict(system) for system in systems),
        )

    def _labels_cost(self, preset: Preset) -> float:
        """The cost of labelling all test scans by all folds."""
        overlap = OVERLAP_2D if preset.flat else OVERLAP_3D
        seen = self.voxels * (self.native_mm / preset.spacing_mm) ** 3 * overlap
        one = costs(preset.flat, seen, preset.features)
        return one * len(self.folds) * len(self._testing)

    def _scans(self, system: str) -> list[tuple[Path, Path, Path]]:
        """For each test scan the paths of the CT, the labels and the times."""
        folders = self._folders
        return [
            (
                folders.data / own.ct,
                folders.labels(system, own.scan),
                folders.times(system, own.scan),
            )
            for own in self._testing
        ]


def _train(system: str, fold: int) -> str:
    return f"train {system} fold {fold}"


def _predict(system: str) -> str:
    return f"predict {system}"
