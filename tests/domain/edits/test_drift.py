"""The test for drift: against SciPy's, on stable courses and on ones that get worse."""

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from limn.domain.edits.drift import ALPHA, drift_of, lower_p

WEEKS, A_WEEK, ORGANS, COUNT = 200, 8, 4, 20


def dsc(rng, size, mean=0.93, untouched=0.5):
    """DSC as edits have it: half of the contours are sent back as they are."""
    drawn = np.clip(rng.normal(mean, 0.03, size), 0.0, 1.0)
    return np.where(rng.random(size) < untouched, 1.0, drawn)


@pytest.mark.parametrize("shift", [0.0, 0.02, 0.05])
def test_p_is_that_of_mann_and_whitney(shift):
    """Of SciPy's exact test without ties, and near its approximation with many."""
    rng = np.random.default_rng(5)
    first, last = rng.normal(0.93, 0.03, 12), rng.normal(0.93 - shift, 0.03, 12)
    exact = mannwhitneyu(last, first, alternative="less", method="exact").pvalue
    assert lower_p(first, last) == pytest.approx(exact, abs=0.012)
    first, last = dsc(rng, 20), dsc(rng, 20, 0.93 - shift, untouched=0.4)
    near = mannwhitneyu(last, first, alternative="less", method="asymptotic").pvalue
    assert lower_p(first, last) == pytest.approx(near, abs=0.02)


def test_equal_values_are_no_drift():
    """Contours that nobody ever changed, and too few of any."""
    found = drift_of([1.0] * 40, COUNT)
    assert (found.first, found.last, found.p, found.worse) == (1.0, 1.0, 1.0, False)
    assert drift_of([1.0] * 39, COUNT) is None
    assert drift_of([], 0) is None


def alarms(courses):
    """Weeks, from the first look on, in which some organ is called worse at the week's end."""
    found = 0
    for week in range(WEEKS):
        so_far = (week + 1) * A_WEEK
        drifts = [drift_of(course[:so_far], COUNT) for course in courses]
        found += any(drift is not None and drift.worse for drift in drifts)
    return found


def test_two_hundred_stable_weeks_raise_few_alarms():
    """At most in one week of twenty, in four organs together, as the docs promise."""
    rng = np.random.default_rng(26)
    courses = [dsc(rng, WEEKS * A_WEEK) for _ in range(ORGANS)]
    assert alarms(courses) <= WEEKS / 20


def test_the_share_of_false_alarms_is_the_one_that_is_promised():
    """Over many stable courses: each look at one errs with a chance of ALPHA at most."""
    rng = np.random.default_rng(27)
    looks = 2000
    found = sum(drift_of(list(dsc(rng, 2 * COUNT)), COUNT).worse for _ in range(looks))
    # Three standard deviations above the mean of so many.
    assert found <= looks * ALPHA + 3 * (looks * ALPHA) ** 0.5


def test_a_drift_of_known_size_is_noticed():
    """The mean DSC of edits falls from 0.93 to 0.90, and fewer contours are left as they are.

    In nine of ten courses within three weeks of eight scans.
    """
    courses, noticed = 200, 0
    for seed in range(courses):
        rng = np.random.default_rng(seed)
        before, after = dsc(rng, 60), dsc(rng, 3 * A_WEEK, 0.90, untouched=0.1)
        looks = (drift_of([*before, *after[: A_WEEK * week]], COUNT) for week in (1, 2, 3))
        noticed += any(look.worse for look in looks)
    assert noticed >= 0.9 * courses
