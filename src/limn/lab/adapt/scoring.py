"""Scores the old and the new bundle on animals that their networks never saw, and on phantoms.

An animal that teaches is scored by those folds alone that left it out, before and after: the same
folds of both bundles. An animal that tests, and a phantom, is scored by all folds. Each score is a
file, so that a killed run goes on.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from limn.domain.files import write_durably
from limn.domain.geometry import SpacingMm
from limn.domain.scan import Organ
from limn.lab.adapt.site_scans import SiteData, SiteScan
from limn.lab.measure.accuracy import score_labels
from limn.lab.measure.evaluate import ScanWithTruth, Trial, delineate_or_miss
from limn.phantom.anatomy import TRACHEA, TRUTH_LABELS, WHOLE_LABELS, conceive
from limn.phantom.scanner import random_scanner, scan
from limn.segment.bundle.bundle import Bundle
from limn.segment.engine.ensemble import Ensemble

FIRST_SCORED = 630_000
# Of the phantoms; finer ones say no more.
FINEST_MM = 0.2
FIELD_MM, WHOLE_FIELD_MM = (32.0, 28.0, 30.0), (64.0, 30.0, 32.0)
CENTRE_MM, WHOLE_CENTRE_MM = (0.0, 0.0, -1.0), (0.0, 0.0, -14.0)
BEFORE, AFTER = "before", "after"
# The groups of the page.
LEFT_OUT, TESTED, PHANTOMS = "left-out animals", "test animals", "phantoms"


@dataclass(frozen=True, slots=True)
class AdaptScore:
    """One organ of one scan, contoured by the old or by the new bundle.

    Attributes
    ----------
    when : `BEFORE` or `AFTER`
    dsc : 0 if it was not found
    hd95_mm : NaN if it was not found
    """

    group: str
    scan: str
    animal: str
    when: str
    organ: Organ
    dsc: float
    hd95_mm: float


@dataclass(frozen=True, slots=True)
class ScoredTrial:
    """A scan to score, and the folds that never saw its animal."""

    trial: Trial
    animal: str
    folds: tuple[int, ...]


def trials_of(
    site: SiteData, old: Bundle, organs: Sequence[Organ], phantoms: int
) -> list[ScoredTrial]:
    """All scans to score: left-out animals, test animals, phantoms.

    Parameters
    ----------
    organs : of the new bundle
    """
    trials = []
    for own in site.teaching:
        folds = tuple(fold for fold in old.folds if leaves_out(old, site, fold) == own.group)
        if folds:
            trials.append(
                ScoredTrial(Trial(LEFT_OUT, own.name, partial(_read, own)), own.animal, folds)
            )
    for own in site.testing:
        trials.append(
            ScoredTrial(Trial(TESTED, own.name, partial(_read, own)), own.animal, old.folds)
        )
    beyond = not set(organs) & set(WHOLE_LABELS.values()) <= {
        *TRUTH_LABELS.values(),
        WHOLE_LABELS[TRACHEA],
    }
    voxel_mm = max(FINEST_MM, min(old.spacing_mm.zyx))
    for seed in range(FIRST_SCORED, FIRST_SCORED + phantoms):
        make = partial(_phantom, seed, tuple(organs), voxel_mm, whole=beyond)
        trials.append(ScoredTrial(Trial(PHANTOMS, str(seed), make), str(seed), old.folds))
    return trials


def leaves_out(bundle: Bundle, site: SiteData, fold: int) -> int:
    """The group of animals that a fold leaves out: they take turns."""
    return bundle.folds.index(fold) % site.groups


def score_bundles(
    trials: Sequence[ScoredTrial],
    bundles: Mapping[str, Bundle],
    folder: Path,
    report: Callable[[str], None],
) -> list[AdaptScore]:
    """Score every trial that the folder has no file of.

    Parameters
    ----------
    bundles : the old one as `BEFORE`, the new one as `AFTER`
    """
    waiting = [
        (when, each)
        for when in bundles
        for each in trials
        if not score_file(folder, when, each.trial).exists()
    ]
    loaded: dict[tuple[str, tuple[int, ...]], Ensemble] = {}
    for count, (when, each) in enumerate(waiting, start=1):
        key = (when, each.folds)
        if key not in loaded:
            loaded = {key: ensemble_of(bundles[when], each.folds)}
        scores = list(_scores(when, each, loaded[key]))
        content = json.dumps([asdict(score) for score in scores])
        path = score_file(folder, when, each.trial)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, content.encode())
        shown = " ".join(f"{score.organ} {score.dsc:.3f}" for score in scores)
        report(f"score {count}/{len(waiting)} {when} {each.trial.group} {each.trial.scan}: {shown}")
    return [
        AdaptScore(**score)
        for when in bundles
        for each in trials
        for score in json.loads(score_file(folder, when, each.trial).read_text(encoding="utf-8"))
    ]


def ensemble_of(bundle: Bundle, folds: Sequence[int]) -> Ensemble:
    """Some folds of a bundle, as a node would run them."""
    # int8 is tried on all folds together, and is not what is compared here.
    return Ensemble.load(replace(bundle, folds=tuple(folds)), "cpu", bundle.profile)


def score_file(folder: Path, when: str, trial: Trial) -> Path:
    """Where the scores of one scan by one bundle are."""
    return folder / when / f"{trial.group} {trial.scan}.json"


def _scores(when: str, each: ScoredTrial, ensemble: Ensemble) -> Iterator[AdaptScore]:
    known = each.trial.make()
    found = delineate_or_miss(known, ensemble)
    for score in score_labels(found.labels, known.truth):
        yield AdaptScore(
            each.trial.group,
            each.trial.scan,
            each.animal,
            when,
            score.organ,
            0.0 if math.isnan(score.dsc) else score.dsc,
            score.hd95_mm,
        )


def means_by_animal(scores: Sequence[AdaptScore]) -> dict[str, float]:
    """Mean DSC of each animal's scans."""
    by_animal: dict[str, list[float]] = defaultdict(list)
    for score in scores:
        by_animal[score.animal].append(score.dsc)
    return {animal: sum(dscs) / len(dscs) for animal, dscs in by_animal.items()}


def _read(own: SiteScan) -> ScanWithTruth:
    return ScanWithTruth(*own.read())


def _phantom(
    seed: int, organs: tuple[Organ, ...], voxel_mm: float, *, whole: bool
) -> ScanWithTruth:
    """A phantom by any scanner; a third have a contrast agent."""
    field, (x, y, z) = (WHOLE_FIELD_MM, WHOLE_CENTRE_MM) if whole else (FIELD_MM, CENTRE_MM)
    nz, ny, nx = (round(mm / voxel_mm) for mm in field)
    scanner = replace(
        random_scanner(seed, voxel_mm, (nz, ny, nx)),
        spacing_mm=SpacingMm(voxel_mm, voxel_mm, voxel_mm),
        centre_xyz_mm=(x, y, z),
        truncation_mm=None,
    )
    painted = WHOLE_LABELS if set(organs) - set(TRUTH_LABELS.values()) else TRUTH_LABELS
    mouse = conceive(seed, contrast=seed % 3 == 1)
    volume, labels = scan(mouse, scanner, seed, painted)
    wanted = {label: organ for label, organ in labels.organs.items() if organ in organs}
    labels.labels_zyx[~np.isin(labels.labels_zyx, list(wanted))] = 0
    return ScanWithTruth(volume, replace(labels, organs=wanted))
