"""Whether the last values of a course are worse than its first: a permutation test of rank sums.

One-sided, on the sum of ranks as Wilcoxon's and Mann and Whitney's test has it (Ann Math Stat
18:50, 1947), with mid-ranks for ties. Its null distribution is drawn by permutation of the values
that are there, so that it holds for any distribution and for many equal values: contours that
nobody changes have a DSC of 1 each. A course of exchangeable values is called worse at a share
`ALPHA` of the looks at it, at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from limn.domain.geometry import FloatArray

# The share of looks at a stable course that raise an alarm.
ALPHA = 0.005
PERMUTATIONS = 9999
SEED = 2020


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """The first and the last values of a course, compared.

    Attributes
    ----------
    count : of values of each side
    first, last : their medians
    p : of the last being no worse than the first
    """

    count: int
    first: float
    last: float
    p: float

    @property
    def worse(self) -> bool:
        """Whether it is an alarm."""
        return self.p <= ALPHA


def drift_of(values: Sequence[float], count: int) -> Drift | None:
    """Compare the last values of a course with its first; None before there are enough of both.

    Parameters
    ----------
    values : oldest first; a lower one is worse
    count : of values on each side
    """
    if count < 1 or len(values) < 2 * count:
        return None
    first = np.asarray(values[:count], dtype=np.float64)
    last = np.asarray(values[-count:], dtype=np.float64)
    p = lower_p(first, last)
    return Drift(count=count, first=float(np.median(first)), last=float(np.median(last)), p=p)


def lower_p(first: FloatArray, last: FloatArray) -> float:
    """The p of the hypothesis that ``last`` is not lower than ``first``, by permutation."""
    ranks = _mid_ranks(np.concatenate([first, last]))
    found = ranks[len(first) :].sum()
    sums = _chosen(len(ranks), len(last)) @ ranks
    # With the order that was found among them, p is never 0 and the test never too bold.
    return float((1 + (sums <= found + 1e-9).sum()) / (1 + PERMUTATIONS))


@lru_cache(maxsize=8)
def _chosen(of: int, count: int) -> npt.NDArray[np.float64]:
    """(permutations, of) 1 where a value is one of the last in a permutation, else 0."""
    order = np.random.default_rng(SEED).random((PERMUTATIONS, of)).argsort(axis=1)
    return np.asarray(order < count, dtype=np.float64)


def _mid_ranks(values: FloatArray) -> FloatArray:
    """Ranks from 1; equal values share their mean."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts - 1) / 2)[place], dtype=np.float64)
