"""Predicts from the signs how good each contour is: an interval of DSC and of 95 % distance.

Boosted regression trees (Friedman 2001) predict the 5th, 50th and 95th percentile; the interval is
then widened so that it held 90 % of the scans that its trees did not learn from (conformalized
quantile regression, Romano 2019). `limn.lab.trust` makes the trees with scikit-learn; here they are
plain arrays in a file, so that no pickle is opened and a node needs no scikit-learn.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from limn.domain.errors import BundleUnfit
from limn.domain.scan import Organ
from limn.segment.judge.signs import ORGAN_SIGNS, SCAN_SIGNS, Signs

Measure = Literal["dsc", "hd95_mm"]
MEASURES: tuple[Measure, ...] = get_args(Measure)
# Percentiles of an interval that holds 90 %, and its middle.
PERCENTILES = (5, 50, 95)
# Stands for a sign that could not be measured; no sign has this value.
ABSENT = -10_000.0
# The largest distance that is told apart; also that of an organ that is missing.
MOST_MM = 15.0
# The layout of the file.
VERSION = 1


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
class Trees:
    """Regression trees, whose leaves are added up. Node 0 of each tree is its root.

    Attributes
    ----------
    feature : (tree, node) int, of the node's question; -1 for a leaf
    threshold : (tree, node); features up to it go to the left
    left, right : (tree, node) int, the next node
    value : (tree, node), of a leaf, times the learning rate
    first : value before all trees
    """

    feature: npt.NDArray[np.int32]
    threshold: npt.NDArray[np.float64]
    left: npt.NDArray[np.int32]
    right: npt.NDArray[np.int32]
    value: npt.NDArray[np.float64]
    first: float

    def predict(self, features: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """The sum over all trees, of every row of (row, feature)."""
        rows, trees = len(features), len(self.feature)
        own = np.arange(trees)[None, :]
        node = np.zeros((rows, trees), dtype=np.int32)
        while True:
            asked = self.feature[own, node]
            inner = asked >= 0
            if not inner.any():
                return np.asarray(self.first + self.value[own, node].sum(axis=1))
            # scikit-learn compares in float32.
            seen = features[np.arange(rows)[:, None], np.maximum(asked, 0)].astype(np.float32)
            goes_left = seen <= self.threshold[own, node]
            following = np.where(goes_left, self.left[own, node], self.right[own, node])
            node = np.where(inner, following, node)


@dataclass(frozen=True, slots=True, eq=False)
class Judge:
    """Predicts the quality of every organ that it was taught.

    Attributes
    ----------
    trees : by organ, measure and percentile
    widening : by organ and measure, added on both sides of the interval
    red_below, amber_below : limits of the predicted DSC
    about : how it was taught and how well it did on scans that did not teach it
    """

    trees: Mapping[tuple[Organ, Measure, int], Trees]
    widening: Mapping[tuple[Organ, Measure], float]
    red_below: float
    amber_below: float
    about: Mapping[str, Any]

    def predict(self, signs: Signs) -> Mapping[Organ, Quality]:
        """The quality of each organ of a scan that this judge was taught."""
        taught = {organ for organ, _ in self.widening}
        return {
            organ: Quality(
                self._interval(organ, "dsc", signs), self._interval(organ, "hd95_mm", signs)
            )
            for organ in signs.organs
            if organ in taught
        }

    def _interval(self, organ: Organ, measure: Measure, signs: Signs) -> Interval:
        features = features_of(signs, organ)[None]
        low, middle, high = (
            float(self.trees[organ, measure, percentile].predict(features)[0])
            for percentile in PERCENTILES
        )
        wider = self.widening[organ, measure]
        least, most = (0.0, 1.0) if measure == "dsc" else (0.0, MOST_MM)
        ends = np.clip([min(low, middle) - wider, middle, max(high, middle) + wider], least, most)
        return Interval(float(ends[0]), float(ends[1]), float(ends[2]))

    def write(self, path: Path) -> None:
        """Write it as a NumPy ``.npz`` file."""
        arrays: dict[str, npt.NDArray[Any]] = {}
        for (organ, measure, percentile), trees in self.trees.items():
            stem = f"{organ.value}/{measure}/{percentile}/"
            for name in ("feature", "threshold", "left", "right", "value"):
                arrays[stem + name] = getattr(trees, name)
            arrays[stem + "first"] = np.array(trees.first)
        head = {
            "version": VERSION,
            "signs": [list(SCAN_SIGNS), list(ORGAN_SIGNS)],
            "widening": [[o.value, m, mm] for (o, m), mm in self.widening.items()],
            "red_below": self.red_below,
            "amber_below": self.amber_below,
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
            If it is no judge, or one that was taught by other signs.
        """
        try:
            with np.load(path, allow_pickle=False) as arrays:
                head = json.loads(bytes(arrays["head"]).decode())
                if (head["version"], head["signs"]) != (
                    VERSION,
                    [list(SCAN_SIGNS), list(ORGAN_SIGNS)],
                ):
                    msg = f"{path} judges by other signs; teach it again with 'limn lab judge'"
                    raise BundleUnfit(msg)
                widening = {(Organ(o), _measure(m)): float(mm) for o, m, mm in head["widening"]}
                trees = {
                    (organ, measure, percentile): _trees(
                        arrays, f"{organ.value}/{measure}/{percentile}/"
                    )
                    for organ, measure in widening
                    for percentile in PERCENTILES
                }
            return cls(
                trees,
                widening,
                float(head["red_below"]),
                float(head["amber_below"]),
                dict(head["about"]),
            )
        except (OSError, EOFError, ValueError, LookupError, TypeError, BadZipFile) as error:
            msg = f"{path} is no judge: {error!r}"
            raise BundleUnfit(msg) from error


def features_of(signs: Signs, organ: Organ) -> npt.NDArray[np.float64]:
    """The signs of the scan and of one organ, in the order of their names."""
    own = signs.organs[organ]
    return np.array(
        [signs.scan.get(name, ABSENT) for name in SCAN_SIGNS]
        + [own.get(name, ABSENT) for name in ORGAN_SIGNS]
    )


def feature_names() -> Sequence[str]:
    """Names of the columns of `features_of`."""
    return (*SCAN_SIGNS, *ORGAN_SIGNS)


def _measure(name: str) -> Measure:
    for measure in MEASURES:
        if measure == name:
            return measure
    raise ValueError(name)


def _trees(arrays: Any, stem: str) -> Trees:
    return Trees(
        feature=arrays[stem + "feature"],
        threshold=arrays[stem + "threshold"],
        left=arrays[stem + "left"],
        right=arrays[stem + "right"],
        value=arrays[stem + "value"],
        first=float(arrays[stem + "first"]),
    )
