"""Is one system better than another: Wilcoxon's signed-rank test, and a bootstrap over animals.

Malimban 2022, Methods: two-tailed Wilcoxon signed rank test, alpha 0.05, every system against
nnU-Net 3d_fullres, one pair a scan. The paper does not say what became of pairs without a
difference; here they are dropped (``zero_method="wilcox"``, Wilcoxon's own way). SciPy's
``method="auto"`` gives the exact p for up to 50 pairs without ties or zeros, for up to 13 with
them; beyond, the normal approximation.

The test takes scans for independent, and the 35 of a test set are days of five or eight animals.
So beside it stands an interval of the mean difference in which whole animals are drawn anew: what
might have come out with other animals of the same kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.stats import wilcoxon

from limn.domain.geometry import FloatArray

ALPHA = 0.05
ZERO_METHOD: Final = "wilcox"
TIE_DECIMALS: Final = 9
RESAMPLES = 10_000
LEVEL = 0.95
SEED = 1822


@dataclass(frozen=True, slots=True)
class Comparison:
    """One system against the reference by one measure of one organ.

    Attributes
    ----------
    pairs : scans on which both have a value; `dropped` ones lack it on one side
    ties : pairs that do not differ, which the signed-rank test leaves out
    animals : to which those scans belong
    mean_difference : system minus reference; NaN without a pair
    low, high : bootstrap interval of it over animals; NaN for fewer than two animals
    p : of the signed-rank test; 1 where no pair differs, NaN without a pair
    """

    pairs: int
    dropped: int
    ties: int
    animals: int
    mean_difference: float
    low: float
    high: float
    p: float

    @property
    def is_significant(self) -> bool:
        """Whether p < 0.05, which the paper marks by an asterisk."""
        return self.p < ALPHA


def compare(system: FloatArray, reference: FloatArray, animals: Sequence[str]) -> Comparison:
    """Hold a system against the reference, scan by scan.

    Parameters
    ----------
    system, reference : (n,) float64, a value for every scan; NaN where it is undefined, and then
        the pair is dropped
    animals : (n,) whose scan it is

    Raises
    ------
    ValueError
        If the three are not equally long.
    """
    if not len(system) == len(reference) == len(animals):
        msg = f"{len(system)} values, {len(reference)} of the reference, {len(animals)} animals"
        raise ValueError(msg)
    differences = np.asarray(system, dtype=np.float64) - np.asarray(reference, dtype=np.float64)
    paired = ~np.isnan(differences)
    kept = differences[paired]
    owners = [animal for animal, is_pair in zip(animals, paired, strict=True) if is_pair]
    low, high = animal_interval(kept, owners)
    return Comparison(
        pairs=len(kept),
        dropped=int((~paired).sum()),
        ties=int((np.round(kept, TIE_DECIMALS) == 0).sum()),
        animals=len(set(owners)),
        mean_difference=float(kept.mean()) if len(kept) else float("nan"),
        low=low,
        high=high,
        p=signed_rank_p(kept),
    )


def signed_rank_p(differences: FloatArray) -> float:
    """Two-tailed p of Wilcoxon's signed-rank test; 1 where nothing differs, NaN of nothing."""
    if len(differences) == 0:
        return float("nan")
    # Distances are multiples of a voxel: what differs by a rounding error alone is a tie.
    rounded = np.round(differences, TIE_DECIMALS)
    if not np.any(rounded):
        return 1.0
    tested = wilcoxon(rounded, zero_method=ZERO_METHOD, alternative="two-sided", method="auto")
    return float(tested.pvalue)


def animal_interval(values: FloatArray, animals: Sequence[str]) -> tuple[float, float]:
    """95 % percentile interval of the mean, animals drawn with all their scans.

    Parameters
    ----------
    values : (n,) float64, one a scan
    animals : (n,) whose scan it is

    Returns
    -------
    low, high : always the same for the same values; NaN for fewer than two animals
    """
    names, owner = np.unique(np.asarray(animals, dtype=str), return_inverse=True)
    if len(names) < 2:
        return (float("nan"), float("nan"))
    sums = np.bincount(owner, weights=values, minlength=len(names))
    scans = np.bincount(owner, minlength=len(names))
    rng = np.random.default_rng(SEED)
    # (resamples, animals): how often each animal was drawn.
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=RESAMPLES)
    means = (drawn @ sums) / (drawn @ scans)
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    return (float(low), float(high))
