"""Is one system better than another: Wilcoxon's signed-rank test, and a bootstrap over animals.

Malimban 2022, Methods: two-tailed Wilcoxon signed rank test, alpha 0.05, every system against
nnU-Net 3d_fullres, one pair per scan. The paper does not state how pairs without a difference were
treated; here they are dropped (``zero_method="wilcox"``, Wilcoxon's original method). SciPy's
``method="auto"`` gives the exact p for up to 50 pairs without ties or zeros and for up to 13 with
them; for more pairs, the normal approximation.

The test assumes independent scans, but the 35 scans of a test set come from five or eight animals.
Therefore a bootstrap interval of the mean difference resamples whole animals: it shows the
variation to expect with other animals of the same kind.
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
    pairs : number of scans on which both have a value
    dropped : number of scans on which either has none
    ties : number of pairs that do not differ, which the signed-rank test leaves out
    animals : number of animals of the pairs
    mean_difference : system minus reference; NaN without a pair
    low, high : its bootstrap interval over animals; NaN for fewer than two animals
    p : of the signed-rank test; 1 if no pair differs, NaN without a pair
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
    """Compare a system with the reference, scan by scan.

    Parameters
    ----------
    system, reference : (n,) float64, a value per scan; a pair with an undefined value (NaN) is
        dropped
    animals : (n,) the animal of each scan

    Raises
    ------
    ValueError
        If the three differ in length.
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
    """Two-tailed p of Wilcoxon's signed-rank test; 1 if no pair differs, NaN without a pair."""
    if len(differences) == 0:
        return float("nan")
    # Distances are multiples of a voxel: a difference of rounding errors is a tie.
    rounded = np.round(differences, TIE_DECIMALS)
    if not np.any(rounded):
        return 1.0
    tested = wilcoxon(rounded, zero_method=ZERO_METHOD, alternative="two-sided", method="auto")
    return float(tested.pvalue)


def animal_interval(values: FloatArray, animals: Sequence[str]) -> tuple[float, float]:
    """95 % bootstrap percentile interval of the mean; resamples animals with all their scans.

    Parameters
    ----------
    values : (n,) float64, one per scan
    animals : (n,) the animal of each scan

    Returns
    -------
    low, high : equal for equal values (fixed seed); NaN for fewer than two animals
    """
    names, owner = np.unique(np.asarray(animals, dtype=str), return_inverse=True)
    if len(names) < 2:
        return (float("nan"), float("nan"))
    sums = np.bincount(owner, weights=values, minlength=len(names))
    scans = np.bincount(owner, minlength=len(names))
    rng = np.random.default_rng(SEED)
    # (resamples, animals): how often each animal was drawn.
    counts = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=RESAMPLES)
    means = (counts @ sums) / (counts @ scans)
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    return (float(low), float(high))
