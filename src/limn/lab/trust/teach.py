"""Teaches a judge: trees that predict quality from signs, and each organ's limits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from limn.domain.errors import StageFailed
from limn.domain.light import Light
from limn.domain.scan import Organ
from limn.lab.trust.trial_row import BAD_DSC, GOOD_DSC, TrialRow
from limn.segment.judge.quality import (
    MEASURES,
    Forest,
    Judge,
    Limits,
    Measure,
    Predictor,
    features_of,
    middle_and_spread,
)

Floats = npt.NDArray[np.float64]

# Fewer contoured scans teach nothing.
FEWEST_ROWS = 40
FOLDS = 8
# Share of the truths that may lie below an interval, and above it.
OUTSIDE = 0.05
TREES, LEAF, FEATURES = 96, 2, 0.8
# Of good scans, at most this share may be red by the predictions, and this share amber.
MOST_RED, MOST_AMBER = 0.025, 0.04
# Red is nearer to bad (0.80) than to good (0.90), amber is not good: animals are less like phantoms
# than phantoms are, and a scan of theirs that is predicted in between is no error.
LEAST_LIMIT, MOST_RED_LIMIT, MOST_AMBER_LIMIT = BAD_DSC, (BAD_DSC + GOOD_DSC) / 2, GOOD_DSC
# Shares of the good scans that may lie below an organ's own limit, the largest first.
SHARES = np.linspace(0.05, 0.0, 101)


@dataclass(frozen=True, slots=True, eq=False)
class _Lesson:
    """What the trees of one organ and measure learn from: (row, feature), and the truth (row,)."""

    features: Floats
    truth: Floats
    rows: tuple[int, ...]


def teach(
    rows: Sequence[TrialRow],
    organs: Sequence[Organ],
    about: Mapping[str, Any],
    report: Callable[[str], None],
) -> Judge:
    """Teach a judge by scans whose truth is known.

    The intervals and limits come from predictions for rows that the trees did not learn from.

    Parameters
    ----------
    about : where the rows come from, and ``folds``, the number of networks

    Raises
    ------
    StageFailed
        If there are too few rows.
    """
    contoured = [row for row in rows if not row.refused]
    if len(contoured) < FEWEST_ROWS:
        msg = (
            f"{len(contoured)} contoured scans can't teach a judge, {FEWEST_ROWS} can; "
            f"{len(rows) - len(contoured)} more were refused. Give a data set with more scans, or "
            "more --scans of phantoms"
        )
        raise StageFailed(msg)
    predictors: dict[tuple[Organ, Measure], Predictor] = {}
    unseen_dsc = np.full((len(contoured), len(organs)), np.nan)
    figures = {}
    for k, organ in enumerate(organs):
        for measure in MEASURES:
            lesson = _lesson(contoured, organ, organs, measure)
            middle, spread = _out_of_fold(lesson, measure)
            below, above = _reach(middle, spread, lesson.truth)
            predictors[organ, measure] = Predictor(_grow(lesson), below, above)
            found = _figures(middle, middle - below * spread, middle + above * spread, lesson.truth)
            figures[f"{organ} {measure}"] = found
            if measure == "dsc":
                unseen_dsc[list(lesson.rows), k] = middle
            report(f"{organ} {measure}: {found}")
    limits = dict(zip(organs, _limits(contoured, unseen_dsc), strict=True))
    for organ, each in limits.items():
        words = f"red below a predicted DSC of {each.red_below:.3f}, amber below"
        report(f"{organ}: {words} {each.amber_below:.3f}")
    known = {**about, "rows": len(contoured), "out_of_fold": figures}
    return Judge(predictors, limits, known, tuple(organs))


def _lesson(
    rows: Sequence[TrialRow], organ: Organ, organs: Sequence[Organ], measure: Measure
) -> _Lesson:
    truths = [getattr(row, measure).get(organ) for row in rows]
    known = tuple(k for k, truth in enumerate(truths) if truth is not None)
    features = np.array([features_of(rows[k].signs, organ, organs) for k in known])
    return _Lesson(features, np.array([truths[k] for k in known], dtype=np.float64), known)


def _grow(lesson: _Lesson, rows: npt.NDArray[np.int64] | None = None) -> Forest:
    """Trees that learn from some rows; from all of them by default."""
    # scikit-learn takes a second to import.
    from sklearn.ensemble import ExtraTreesRegressor  # noqa: PLC0415

    chosen = slice(None) if rows is None else rows
    grown = ExtraTreesRegressor(
        TREES, min_samples_leaf=LEAF, max_features=FEATURES, random_state=0
    ).fit(lesson.features[chosen], lesson.truth[chosen])
    trees = [each.tree_ for each in grown.estimators_]
    nodes = max(tree.node_count for tree in trees)

    def padded(name: str, fill: float = 0.0) -> Floats:
        found = np.full((len(trees), nodes), fill)
        for k, tree in enumerate(trees):
            found[k, : tree.node_count] = np.asarray(getattr(tree, name)).reshape(
                tree.node_count, -1
            )[:, 0]
        return found

    return Forest(
        feature=np.maximum(padded("feature", -1), -1).astype(np.int16),
        threshold=padded("threshold").astype(np.float32),
        left=np.maximum(padded("children_left"), 0).astype(np.int16),
        right=np.maximum(padded("children_right"), 0).astype(np.int16),
        value=padded("value").astype(np.float32),
    )


def _out_of_fold(lesson: _Lesson, measure: Measure) -> tuple[Floats, Floats]:
    """Middle and spread of every row, by trees that did not learn from it."""
    order = np.random.default_rng(0).permutation(len(lesson.truth))
    middle, spread = np.zeros(len(order)), np.zeros(len(order))
    for held_back in np.array_split(order, FOLDS):
        forest = _grow(lesson, np.setdiff1d(order, held_back))
        said = forest.predict(lesson.features[held_back])
        middle[held_back], spread[held_back] = middle_and_spread(said, measure)
    return middle, spread


def _reach(middle: Floats, spread: Floats, truth: Floats) -> tuple[float, float]:
    """How many spreads the interval must reach below and above the middle."""
    off = (truth - middle) / spread
    level = min(1.0, (1.0 - OUTSIDE) * (1.0 + 1.0 / len(truth)))
    return (
        max(0.0, float(np.quantile(-off, level))),
        max(0.0, float(np.quantile(off, level))),
    )


def _figures(middle: Floats, low: Floats, high: Floats, truth: Floats) -> dict[str, float]:
    return {
        "mean_absolute_error": round(float(np.abs(middle - truth).mean()), 4),
        "within_interval": round(float(((truth >= low) & (truth <= high)).mean()), 3),
        "interval_width": round(float((high - low).mean()), 3),
    }


def _limits(rows: Sequence[TrialRow], dsc: Floats) -> list[Limits]:
    """Limits of each organ: as high as the share of good scans below any of them allows.

    Scans that another concern holds do not count.

    Parameters
    ----------
    dsc : (row, organ), predicted by trees that did not learn from the row; NaN if it is unknown
    """
    free = np.array([not any(light == Light.RED for _, light, _ in row.concerns) for row in rows])
    good = dsc[free & np.array([row.is_good for row in rows])]
    if not len(good):
        return [Limits(LEAST_LIMIT, MOST_AMBER_LIMIT)] * dsc.shape[1]
    red = _highest(good, MOST_RED, MOST_RED_LIMIT)
    amber = _highest(good, MOST_AMBER, MOST_AMBER_LIMIT)
    return [Limits(float(r), float(a)) for r, a in zip(red, np.maximum(red, amber), strict=True)]


def _highest(good: Floats, most: float, limit: float) -> Floats:
    """The highest limits, (organ,), with at most this share of good scans below any of them.

    Parameters
    ----------
    good : (row, organ), predicted DSC of good scans
    limit : that no organ's exceeds
    """
    limits = np.full(good.shape[1], LEAST_LIMIT)
    for share in SHARES:
        limits = np.clip(np.nanquantile(good, share, axis=0), LEAST_LIMIT, limit)
        if (good < limits).any(axis=1).mean() <= most:
            break
    return limits
