"""Teaches a judge: boosted trees that predict quality from signs, and the limits of the lights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from limn.domain.errors import StageFailed
from limn.domain.light import Light
from limn.domain.scan import Organ
from limn.lab.trust.trial_row import TrialRow
from limn.segment.judge.quality import MEASURES, PERCENTILES, Judge, Measure, Trees, features_of

Floats = npt.NDArray[np.float64]

# Fewer contoured scans teach nothing.
FEWEST_ROWS = 40
FOLDS = 5
COVERAGE = 0.90
TREES, DEPTH, RATE, LEAF, SUBSAMPLE = 200, 3, 0.05, 4, 0.7
# Of good scans, at most this share may be red by the predictions, and this share amber.
MOST_RED, MOST_AMBER = 0.01, 0.02
# A limit lies between bad and good.
LEAST_LIMIT, MOST_LIMIT = 0.80, 0.90


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
        msg = f"{len(contoured)} contoured scans can't teach a judge; give {FEWEST_ROWS} or more"
        raise StageFailed(msg)
    trees: dict[tuple[Organ, Measure, int], Trees] = {}
    widening: dict[tuple[Organ, Measure], float] = {}
    unseen_dsc = np.full((len(contoured), len(organs)), np.nan)
    figures = {}
    for k, organ in enumerate(organs):
        for measure in MEASURES:
            lesson = _lesson(contoured, organ, measure)
            ends = _out_of_fold(lesson)
            wider = _widening(ends, lesson.truth)
            widening[organ, measure] = wider
            for percentile, own in zip(PERCENTILES, _fit_all(lesson), strict=True):
                trees[organ, measure, percentile] = own
            figures[f"{organ.value} {measure}"] = _figures(ends, lesson.truth, wider)
            if measure == "dsc":
                unseen_dsc[list(lesson.rows), k] = ends[:, 1]
            report(f"{organ.value} {measure}: {figures[f'{organ.value} {measure}']}")
    red, amber = _limits(contoured, np.nanmin(unseen_dsc, axis=1))
    report(f"red below a predicted DSC of {red:.3f}, amber below {amber:.3f}")
    known = {**about, "rows": len(contoured), "out_of_fold": figures}
    return Judge(trees, widening, red, amber, known)


def _lesson(rows: Sequence[TrialRow], organ: Organ, measure: Measure) -> _Lesson:
    name = organ.value
    truths = [getattr(row, measure).get(name) for row in rows]
    known = tuple(k for k, truth in enumerate(truths) if truth is not None)
    features = np.array([features_of(rows[k].signs, organ) for k in known])
    return _Lesson(features, np.array([truths[k] for k in known], dtype=np.float64), known)


def _fit(features: Floats, truth: Floats, percentile: int) -> Trees:
    # scikit-learn takes a second to import.
    from sklearn.ensemble import GradientBoostingRegressor  # noqa: PLC0415

    model = GradientBoostingRegressor(
        loss="quantile",
        alpha=percentile / 100,
        n_estimators=TREES,
        max_depth=DEPTH,
        learning_rate=RATE,
        min_samples_leaf=LEAF,
        subsample=SUBSAMPLE,
        random_state=0,
    ).fit(features, truth)
    return _exported(model, features[:1])


def _exported(model: Any, row: Floats) -> Trees:
    """The trees of a fitted model as arrays.

    Parameters
    ----------
    row : (1, feature), any; what the trees do not explain of its prediction comes before them
    """
    own = [each.tree_ for each in model.estimators_[:, 0]]
    nodes = max(tree.node_count for tree in own)

    def padded(name: str, fill: float) -> npt.NDArray[Any]:
        found = np.full((len(own), nodes), fill)
        for k, tree in enumerate(own):
            found[k, : tree.node_count] = np.asarray(getattr(tree, name)).reshape(
                tree.node_count, -1
            )[:, 0]
        return found

    plain = Trees(
        feature=np.maximum(padded("feature", -1), -1).astype(np.int32),
        threshold=padded("threshold", 0.0),
        left=np.maximum(padded("children_left", 0), 0).astype(np.int32),
        right=np.maximum(padded("children_right", 0), 0).astype(np.int32),
        value=padded("value", 0.0) * model.learning_rate,
        first=0.0,
    )
    first = float(model.predict(row)[0] - plain.predict(row)[0])
    return Trees(plain.feature, plain.threshold, plain.left, plain.right, plain.value, first)


def _fit_all(lesson: _Lesson) -> list[Trees]:
    return [_fit(lesson.features, lesson.truth, percentile) for percentile in PERCENTILES]


def _out_of_fold(lesson: _Lesson) -> Floats:
    """(row, percentile): what trees predict that did not learn from the row."""
    order = np.random.default_rng(0).permutation(len(lesson.truth))
    predicted = np.zeros((len(order), len(PERCENTILES)))
    for held_back in np.array_split(order, FOLDS):
        learnt = np.setdiff1d(order, held_back)
        for k, percentile in enumerate(PERCENTILES):
            trees = _fit(lesson.features[learnt], lesson.truth[learnt], percentile)
            predicted[held_back, k] = trees.predict(lesson.features[held_back])
    return predicted


def _widening(predicted: Floats, truth: Floats) -> float:
    """What both ends of every interval are moved by, so that `COVERAGE` of the truths are in it."""
    low, middle, high = predicted.T
    outside = np.maximum(np.minimum(low, middle) - truth, truth - np.maximum(high, middle))
    level = min(1.0, COVERAGE * (1.0 + 1.0 / len(truth)))
    return float(np.quantile(outside, level))


def _figures(predicted: Floats, truth: Floats, wider: float) -> dict[str, float]:
    low, middle, high = predicted.T
    low, high = np.minimum(low, middle) - wider, np.maximum(high, middle) + wider
    return {
        "mean_absolute_error": round(float(np.abs(middle - truth).mean()), 4),
        "within_interval": round(float(((truth >= low) & (truth <= high)).mean()), 3),
        "interval_width": round(float((high - low).mean()), 3),
    }


def _limits(rows: Sequence[TrialRow], least_dsc: Floats) -> tuple[float, float]:
    """Limits of the predicted DSC for red and amber.

    As few bad scans as possible may lie above the red limit, and few good ones below it. Scans that
    another concern holds do not count.
    """
    free = np.array([not any(light == Light.RED for _, light, _ in row.concerns) for row in rows])
    bad = least_dsc[free & np.array([row.is_bad for row in rows])]
    good = least_dsc[free & np.array([row.is_good for row in rows])]
    if not len(good):
        return LEAST_LIMIT, MOST_LIMIT
    highest = min(MOST_LIMIT, max(LEAST_LIMIT, float(np.quantile(good, MOST_RED))))
    wanted = float(bad.max()) + 0.005 if len(bad) else LEAST_LIMIT
    red = float(np.clip(wanted, LEAST_LIMIT, highest))
    return red, max(red, min(MOST_LIMIT, float(np.quantile(good, MOST_AMBER))))
