"""Contours one spoilt scan as a node would, and compares it with the truth."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any

import numpy as np

from limn.domain.errors import LimnError
from limn.domain.scan import Labels, Organ, Role
from limn.domain.timing import Stopwatch
from limn.lab.measure.accuracy import score_labels
from limn.lab.trust.trial_row import TrialRow
from limn.phantom.faults import SpoiltScan
from limn.segment.draw.delineate import Delineated, delineate
from limn.segment.engine.ensemble import Ensemble
from limn.segment.judge.quality import MOST_MM
from limn.segment.judge.signs import measure
from limn.segment.judge.verdict import judge_scan


def try_scan(spoilt: SpoiltScan, ensemble: Ensemble) -> TrialRow:
    """What limn makes of a spoilt scan, and how far that is from the truth."""
    began = time.monotonic()
    row = TrialRow(spoilt.fault, spoilt.seed, spoilt.severity)
    try:
        drawn = delineate(spoilt.volume, ensemble, "central", Stopwatch(), lambda done, total: None)
    except LimnError as error:
        return _timed(row, began, refused=str(error))
    if drawn.contradictions or not drawn.labels.labels_zyx.any():
        refused = "; ".join(drawn.contradictions) or "no organ was found"
        return _timed(row, began, refused=refused)
    signs = measure(drawn, spoilt.volume)
    volumes_mm3 = drawn.labels.volumes_mm3()
    verdict = judge_scan(drawn, signs, None, volumes_mm3, ensemble.bundle.species)
    dsc, hd95_mm = _scores(drawn, spoilt.truth)
    return _timed(
        row,
        began,
        signs=signs,
        dsc=dsc,
        hd95_mm=hd95_mm,
        volumes_mm3=dict(volumes_mm3),
        exchanged=_exchanged(drawn.labels, spoilt.truth),
        concerns=tuple(
            (each.flag, str(each.light), each.always_holds) for each in verdict.concerns
        ),
    )


def _timed(row: TrialRow, began: float, **values: Any) -> TrialRow:
    return replace(row, seconds=round(time.monotonic() - began, 2), **values)


def _scores(drawn: Delineated, truth: Labels | None) -> tuple[dict[str, float], dict[str, float]]:
    """DSC and 95 % distance by organ; an organ that should not be there has a DSC of 0."""
    if truth is None:
        empty = np.zeros(drawn.labels.labels_zyx.shape, dtype=np.uint8)
        truth = Labels(empty, drawn.labels.grid, drawn.labels.organs)
    dsc: dict[str, float] = {}
    hd95_mm: dict[str, float] = {}
    for score in score_labels(drawn.labels, truth):
        if math.isnan(score.dsc):
            continue
        dsc[score.organ] = score.dsc
        far = MOST_MM if math.isnan(score.hd95_mm) else min(score.hd95_mm, MOST_MM)
        hd95_mm[score.organ] = far
    return dsc, hd95_mm


def _exchanged(labels: Labels, truth: Labels | None) -> bool:
    """Whether either lung shares more with the other lung of the truth than with itself."""
    if truth is None:
        return False
    right, left = labels.organ_of(Role.LUNG_R), labels.organ_of(Role.LUNG_L)
    if right is None or left is None or {right, left} - set(truth.organs.values()):
        return False
    return any(
        _shared(labels, own, truth, other) > _shared(labels, own, truth, own)
        for own, other in ((right, left), (left, right))
    )


def _shared(labels: Labels, organ: Organ, truth: Labels, other: Organ) -> int:
    return int((labels.mask(organ) & truth.mask(other)).sum())
