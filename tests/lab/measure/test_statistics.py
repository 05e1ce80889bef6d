"""The signed-rank test on pairs of known p; the bootstrap compared with all resamples."""

import math
from itertools import product

import numpy as np
import pytest
from scipy.stats import wilcoxon

from limn.lab.measure.statistics import animal_interval, compare, signed_rank_p


def exact_p(differences: np.ndarray) -> float:
    """The p of all sign patterns: the share of rank sums at least as extreme as this one."""
    ranks = np.argsort(np.argsort(np.abs(differences))) + 1
    half = ranks.sum() / 2
    observed = abs(ranks[differences > 0].sum() - half)
    sums = [abs(float(np.dot(ranks, signs)) - half) for signs in product((0, 1), repeat=len(ranks))]
    return float(np.mean([extreme >= observed for extreme in sums]))


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        # All of one sign: only that pattern and its mirror image are as extreme.
        (np.arange(1.0, 6.0), 2 / 2**5),
        (np.arange(1.0, 7.0), 2 / 2**6),
        (-np.arange(1.0, 9.0), 2 / 2**8),
        # The smallest against the others: rank sums 0, 1 of 21 and their mirrors.
        (np.array([-1.0, 2, 3, 4, 5, 6]), 4 / 2**6),
        # Table of Wilcoxon 1945 for 8 pairs: a rank sum of 3 has p = 10 / 256.
        (np.array([1.0, 2, -3, 4, 5, 6, 7, 8]), 10 / 2**8),
    ],
)
def test_known_p(differences: np.ndarray, p: float) -> None:
    """The same p by hand, by all sign patterns and by the function."""
    assert exact_p(differences) == pytest.approx(p, abs=1e-12)
    assert signed_rank_p(differences) == pytest.approx(p, abs=1e-12)
    assert signed_rank_p(-differences) == pytest.approx(p, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_random_pairs_by_all_sign_patterns(seed: int) -> None:
    """Eleven random pairs without ties."""
    differences = np.random.default_rng(seed).normal(0.3, 1.0, 11)
    assert signed_rank_p(differences) == pytest.approx(exact_p(differences), abs=1e-12)


def test_the_asterisk_means_p_below_0_05() -> None:
    """Five pairs of one sign do not reach it, six do."""
    zero = np.zeros(6)
    five = compare(np.arange(1.0, 6.0), zero[:5], list("abcde"))
    six = compare(np.arange(1.0, 7.0), zero, list("abcdef"))
    assert (five.p, five.is_significant) == (0.0625, False)
    assert (six.p, six.is_significant) == (0.03125, True)


def test_pairs_without_a_difference_are_dropped() -> None:
    """``zero_method="wilcox"``; if no pair differs p is 1."""
    rest = np.array([-1.0, -2, 3, 4, 5, 6, 7, 8])
    with_zeros = signed_rank_p(np.concatenate([[0.0, 0.0, 0.0], rest]))
    assert with_zeros == pytest.approx(signed_rank_p(rest), abs=1e-12)
    # Pratt's method ranks them too and gives another p.
    pratt = wilcoxon(np.concatenate([[0.0, 0.0, 0.0], rest]), zero_method="pratt").pvalue
    assert with_zeros != pytest.approx(float(pratt), abs=1e-3)
    assert signed_rank_p(np.zeros(7)) == 1.0
    assert math.isnan(signed_rank_p(np.empty(0)))


def test_differences_of_one_voxel_are_ties() -> None:
    """0.42 - 0.28 and 0.28 - 0.14 differ as floats and are one voxel of 0.14 mm."""
    reference = np.array([0.14, 0.28, 0.42, 0.56, 0.70, 0.84, 0.98])
    differences = reference + 0.14 - reference
    differences[1] = -differences[1]
    assert len(set(np.abs(differences))) > 1
    tied = np.array([1.0, -1, 1, 1, 1, 1, 1])
    assert signed_rank_p(differences) == pytest.approx(signed_rank_p(tied), abs=1e-12)
    assert signed_rank_p(np.array([1e-15, -1e-16])) == 1.0


def test_a_system_against_itself_has_no_asterisk() -> None:
    """No pair differs."""
    values = np.array([0.9, 0.8, 0.7])
    same = compare(values, values, ["a", "b", "c"])
    assert (same.p, same.mean_difference, same.low, same.high) == (1.0, 0.0, 0.0, 0.0)
    assert not same.is_significant


def test_an_undefined_distance_drops_the_pair_and_is_counted() -> None:
    """A missing organ has no distance in the system or in the reference."""
    comparison = compare(
        np.array([1.0, np.nan, 3.0, 4.0]), np.array([0.5, 1.0, np.nan, 1.0]), ["a", "a", "b", "c"]
    )
    assert (comparison.pairs, comparison.dropped, comparison.ties, comparison.animals) == (
        2,
        2,
        0,
        2,
    )
    assert comparison.mean_difference == pytest.approx((0.5 + 3.0) / 2)
    nothing = compare(np.array([np.nan]), np.array([1.0]), ["a"])
    assert (nothing.pairs, nothing.is_significant) == (0, False)
    assert math.isnan(nothing.mean_difference)


def test_the_interval_is_that_of_all_resamples_of_animals() -> None:
    """Four animals with 1 to 4 scans: percentiles of all 256 equally likely resamples."""
    rng = np.random.default_rng(5)
    scans = {
        name: rng.normal(shift, 0.1, 1 + k)
        for k, (name, shift) in enumerate({"a": 0.0, "b": 0.4, "c": 0.9, "d": 2.0}.items())
    }
    values = np.concatenate(list(scans.values()))
    animals = [name for name, own in scans.items() for _ in own]
    means = [
        np.concatenate([scans[name] for name in drawn]).mean() for drawn in product(scans, repeat=4)
    ]
    low, high = np.percentile(means, [2.5, 97.5], method="inverted_cdf")
    found = animal_interval(values, animals)
    ordered = np.sort(means)
    # A random sample may put a percentile on one of the next steps.
    for bound, exact in zip(found, (low, high), strict=True):
        place = int(np.searchsorted(ordered, exact))
        assert ordered[max(place - 4, 0)] - 1e-9 <= bound <= ordered[min(place + 5, 255)] + 1e-9


def test_animals_are_resampled_and_not_scans() -> None:
    """Seven equal scans of each of two animals: the interval spans both animals."""
    values = np.repeat([0.0, 1.0], 7)
    assert animal_interval(values, ["a"] * 7 + ["b"] * 7) == (0.0, 1.0)
    as_if_independent = animal_interval(values, [str(k) for k in range(14)])
    assert 0.1 < as_if_independent[0] < as_if_independent[1] < 0.9


def test_the_interval_is_the_same_each_time_and_undefined_for_one_animal() -> None:
    """Equal values give an equal table."""
    values = np.random.default_rng(1).normal(size=10)
    animals = ["a", "b", "c", "d", "e"] * 2
    assert animal_interval(values, animals) == animal_interval(values, animals)
    assert all(math.isnan(end) for end in animal_interval(values, ["a"] * 10))


def test_unequal_lengths_are_refused() -> None:
    """Every value needs its animal and its reference."""
    with pytest.raises(ValueError, match="2 values, 1 of the reference, 2 animals"):
        compare(np.zeros(2), np.zeros(1), ["a", "b"])
