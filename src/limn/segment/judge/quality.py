"""Predicts from the signs how good each contour is: an interval of DSC and of 95 % distance.

A forest of extremely randomised trees (Geurts 2006) predicts each number: the median of its trees.
The interval is the trees' own spread times two factors, which were chosen so that it held 90 % of
the scans that the trees did not learn from (locally weighted conformal prediction, Lei 2018).
`limn.lab.trust` grows the trees with scikit-learn; here they are plain arrays in a file, so that no
pickle is opened and a node needs no scikit-learn.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from limn.domain.errors import BundleUnfit
from limn.domain.scan import Organ
from limn.segment.judge.signs import ORGAN_SIGNS, SCAN_SIGNS, Signs

Measure = Literal["dsc", "hd95_mm"]
MEASURES: tuple[Measure, ...] = get_args(Measure)
# Added to the spread of the trees, for trees may agree by chance: DSC, and mm.
LEAST_SPREAD: Mapping[Measure, float] = {"dsc": 0.01, "hd95_mm": 0.1}
# Stands for a sign that could not be measured; no sign has this value.
ABSENT = -10_000.0
# The largest distance that is told apart; also that of an organ that is missing.
MOST_MM = 15.0
# Names of signs: of the scan, and of an organ.
SignNames: TypeAlias = tuple[tuple[str, ...], tuple[str, ...]]
# The layout of the file. A judge of the one before had the same limits for every organ, and did not
# ask for the signs of other organs.
VERSION, BEFORE = 2, 1


@dataclass(frozen=True, slots=True)
class Interval:
    """A prediction, and the interval that holds the truth in nine of ten scans."""

    low: float
    middle: float
    high: float


@dataclass(frozen=True, slots=True)
class Quality:
    """What is predicted of one organ's contour."""

    dsc: Interval
    hd95_mm: Interval


@dataclass(frozen=True, slots=True, eq=False)
class Forest:
    """Regression trees. Node 0 of each tree is its root.

    Attributes
    ----------
    feature : (tree, node) int, of the node's question; -1 for a leaf
    threshold : (tree, node); features up to it go to the left
    left, right : (tree, node) int, the next node
    value : (tree, node), of a leaf
    """

    feature: npt.NDArray[np.int16]
    threshold: npt.NDArray[np.float32]
    left: npt.NDArray[np.int16]
    right: npt.NDArray[np.int16]
    value: npt.NDArray[np.float32]

    def predict(self, features: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """(row, tree): what every tree says of every row of (row, feature)."""
        rows, trees = len(features), len(self.feature)
        own, row = np.arange(trees)[None, :], np.arange(rows)[:, None]
        # scikit-learn compares in float32.
        asked = features.astype(np.float32)
        node = np.zeros((rows, trees), dtype=np.int16)
        while True:
            question = self.feature[own, node]
            if (question < 0).all():
                return np.asarray(self.value[own, node], dtype=np.float64)
            goes_left = asked[row, np.maximum(question, 0)] <= self.threshold[own, node]
            following = np.where(goes_left, self.left[own, node], self.right[own, node])
            node = np.where(question >= 0, following, node)


@dataclass(frozen=True, slots=True, eq=False)
class Predictor:
    """Predicts one number of one organ.

    Attributes
    ----------
    below, above : how many spreads of the trees the interval reaches below and above the middle
    """

    forest: Forest
    below: float
    above: float

    def interval(self, features: npt.NDArray[np.float64], measure: Measure) -> Interval:
        """The prediction for one scan, (feature,)."""
        (middle,), (spread,) = middle_and_spread(self.forest.predict(features[None]), measure)
        most = 1.0 if measure == "dsc" else MOST_MM
        low, high = np.clip([middle - self.below * spread, middle + self.above * spread], 0.0, most)
        return Interval(float(low), float(middle), float(high))


def middle_and_spread(
    said: npt.NDArray[np.float64], measure: Measure
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Median and standard deviation of what the trees say, (row, tree), with `LEAST_SPREAD`."""
    return np.median(said, axis=1), said.std(axis=1) + LEAST_SPREAD[measure]


@dataclass(frozen=True, slots=True)
class Limits:
    """Below which predicted DSC an organ is red, and amber."""

    red_below: float
    amber_below: float


@dataclass(frozen=True, slots=True, eq=False)
class Judge:
    """Predicts the quality of every organ that it was taught.

    Attributes
    ----------
    predictors : by organ and measure
    limits : by organ: what is usual of a lung is not of a cord
    about : how it was taught and how well it did on scans that did not teach it
    beside : organs whose signs the trees of every other organ ask for too, in their order
    signs : the signs of the scan and of an organ that its trees ask for, in their order; limn may
        measure more
    """

    predictors: Mapping[tuple[Organ, Measure], Predictor]
    limits: Mapping[Organ, Limits]
    about: Mapping[str, Any]
    beside: tuple[Organ, ...] = ()
    signs: SignNames = (SCAN_SIGNS, ORGAN_SIGNS)

    def predict(self, signs: Signs) -> Mapping[Organ, Quality]:
        """The quality of each organ of a scan that this judge was taught."""
        return {
            organ: Quality(*(self._interval(organ, measure, signs) for measure in MEASURES))
            for organ in signs.organs
            if organ in self.limits
        }

    def _interval(self, organ: Organ, measure: Measure, signs: Signs) -> Interval:
        features = features_of(signs, organ, self.beside, self.signs)
        return self.predictors[organ, measure].interval(features, measure)

    def write(self, path: Path) -> None:
        """Write it as a NumPy ``.npz`` file."""
        arrays: dict[str, npt.NDArray[Any]] = {}
        for (organ, measure), predictor in self.predictors.items():
            for name in _ARRAYS:
                arrays[f"{organ}/{measure}/{name}"] = getattr(predictor.forest, name)
        head = {
            "version": VERSION,
            "signs": self.signs,
            "spreads": [[o, m, p.below, p.above] for (o, m), p in self.predictors.items()],
            "limits": [[o, each.red_below, each.amber_below] for o, each in self.limits.items()],
            "beside": self.beside,
            "about": self.about,
        }
        arrays["head"] = np.frombuffer(json.dumps(head).encode(), dtype=np.uint8)
        with path.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)

    @classmethod
    def read(cls, path: Path) -> Judge:
        """Open a file of a verified bundle.

        Raises
        ------
        BundleUnfit
            If it is no judge, or one that asks for a sign that limn does not measure.
        """
        try:
            with np.load(path, allow_pickle=False) as arrays:
                head = json.loads(bytes(arrays["head"]).decode())
                scan, organ = (tuple(map(str, names)) for names in head["signs"])
                if (
                    head["version"] not in (VERSION, BEFORE)
                    or {*scan} - {*SCAN_SIGNS}
                    or {*organ} - {*ORGAN_SIGNS}
                ):
                    msg = f"{path} judges by other signs; teach it again with 'limn lab judge'"
                    raise BundleUnfit(msg)
                predictors = {
                    (Organ(organ), _measure(measure)): Predictor(
                        Forest(*(arrays[f"{organ}/{measure}/{name}"] for name in _ARRAYS)),
                        float(below),
                        float(above),
                    )
                    for organ, measure, below, above in head["spreads"]
                }
            limits, beside = _limits_of(head)
            _check(predictors, limits, beside, (scan, organ))
            return cls(predictors, limits, dict(head["about"]), beside, (scan, organ))
        except (*_UNREADABLE, OSError, ValueError, LookupError, TypeError) as error:
            msg = f"{path} is no judge: {error!r}; teach the bundle again with 'limn lab judge'"
            raise BundleUnfit(msg) from error


_ARRAYS = ("feature", "threshold", "left", "right", "value")
_UNREADABLE = (EOFError, BadZipFile, zlib.error)


def _limits_of(head: Mapping[str, Any]) -> tuple[dict[Organ, Limits], tuple[Organ, ...]]:
    """Each organ's limits, and the organs whose signs are asked for beside."""
    if head["version"] == BEFORE:
        same = Limits(float(head["red_below"]), float(head["amber_below"]))
        return {Organ(organ): same for organ, *_ in head["spreads"]}, ()
    limits = {
        Organ(organ): Limits(float(red), float(amber)) for organ, red, amber in head["limits"]
    }
    return limits, tuple(map(Organ, head["beside"]))


def _check(
    predictors: Mapping[tuple[Organ, Measure], Predictor],
    limits: Mapping[Organ, Limits],
    beside: tuple[Organ, ...],
    names: SignNames,
) -> None:
    """Refuse trees that would fail, or never end, in the middle of a scan."""
    if not limits or set(predictors) != {(organ, each) for organ in limits for each in MEASURES}:
        raise ValueError("an organ lacks a prediction")
    if not all(math.isfinite(v) for each in limits.values() for v in astuple(each)):
        raise ValueError("a limit of it is no number")
    scan, organ = names
    for (judged, _), predictor in predictors.items():
        signs = len(scan) + len(organ) * (1 + len({*beside} - {judged}))
        forest = predictor.forest
        trees, nodes = forest.feature.shape
        ways = (forest.left, forest.right)
        asks = forest.feature >= 0
        sound = (
            all(getattr(forest, name).shape == (trees, nodes) for name in _ARRAYS)
            and all(each.dtype.kind == "i" for each in (forest.feature, *ways))
            and forest.feature.max() < signs
            # Every answer leads on, so that each way down a tree ends.
            and all(((way > np.arange(nodes)) & (way < nodes))[asks].all() for way in ways)
            and bool(np.isfinite(forest.value).all() and np.isfinite(forest.threshold).all())
            and 0 <= predictor.below < math.inf
            and 0 <= predictor.above < math.inf
        )
        if not sound:
            raise ValueError("a tree of it is broken")


def features_of(
    signs: Signs,
    organ: Organ,
    beside: Sequence[Organ] = (),
    names: SignNames = (SCAN_SIGNS, ORGAN_SIGNS),
) -> npt.NDArray[np.float64]:
    """The signs of the scan, of one organ and of others beside it, in the order of their names."""
    asked = (organ, *(each for each in beside if each != organ))
    return np.array(
        [signs.scan.get(name, ABSENT) for name in names[0]]
        + [signs.organs.get(each, {}).get(name, ABSENT) for each in asked for name in names[1]]
    )


def _measure(name: str) -> Measure:
    for measure in MEASURES:
        if measure == name:
            return measure
    raise ValueError(name)
