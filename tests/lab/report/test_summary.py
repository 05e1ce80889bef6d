"""Which scans of a study are shown, by their scores."""

import math

import pytest

from limn.lab.measure.scores import Score
from limn.lab.report.summary import OrganScore, by_organ, cases, mean_dsc
from tests.support.organs import Organ


def dsc(scan, value, **other):
    """A score, by default the DSC of a heart by 3d_fullres."""
    default = {
        "set": "test1",
        "scan": scan,
        "animal": scan,
        "system": "3d_fullres",
        "reference": "observer1",
        "cleaned": "no",
        "organ": "Heart",
        "measure": "dsc",
    }
    return Score(**(default | other), value=value)


def picked(scores, test_set):
    """The cases of 3d_fullres, in the order in which they are shown."""
    return tuple(cases(by_organ(scores, test_set, "3d_fullres")).items())


def test_the_mean_over_organs_decides():
    """A scan with the best heart has the worst mean."""
    scores = [dsc(scan, v) for scan, v in zip("abcde", (0.5, 0.9, 0.7, 0.6, 0.8), strict=True)]
    # The heart of b is the best, its mean the worst.
    scores[1:2] = [dsc("b", 1.0), dsc("b", 0.1, organ="SpinalCord"), dsc("b", 0.1, organ="Lung_L")]
    assert picked(scores, "test1") == (("best", "e"), ("intermediate", "d"), ("worst", "b"))


@pytest.mark.parametrize(
    "other",
    [
        {"set": "test2"},
        {"system": "2d"},
        {"reference": "consensus"},
        {"cleaned": "yes"},
        {"measure": "hd95_mm"},
    ],
)
def test_no_other_score_decides(other):
    """Scores of another set, system, reference, clean-up or measure do not count."""
    scores = [dsc("a", 0.9), dsc("b", 0.8), dsc("c", 0.7)]
    others = [dsc("a", 0.0, **other), dsc("c", 50.0, **other), dsc("z", 99.0, **other)]
    assert picked(others + scores, "test1") == (
        ("best", "a"),
        ("intermediate", "b"),
        ("worst", "c"),
    )


def test_equal_scans_are_ordered_by_name():
    """The order of lines does not matter; sums that differ by rounding are equal."""
    parts = (0.1, 0.2, 0.3, 0.7)
    lines = [
        dsc(scan, value, organ=organ.value)
        for scan, values in (("c", parts), ("a", parts[::-1]), ("b", parts))
        for organ, value in zip(Organ, values, strict=True)
    ]
    expected = (("best", "a"), ("intermediate", "b"), ("worst", "c"))
    assert picked(lines, "test1") == picked(lines[::-1], "test1") == expected


def test_few_scans_have_few_cases():
    """No scan is two cases; the intermediate of four is the better middle one."""
    one, two = dsc("a", 0.5), dsc("b", 0.9)
    assert picked([], "test1") == ()
    assert picked([dsc("a", math.nan)], "test1") == ()
    assert picked([one], "test1") == (("best", "a"),)
    assert picked([one, two], "test1") == (("best", "b"), ("worst", "a"))
    four = [one, two, dsc("c", 0.8), dsc("d", 0.6)]
    assert picked(four, "test1") == (("best", "b"), ("intermediate", "c"), ("worst", "a"))


def test_an_organ_has_both_measures():
    """DSC and distance of one organ; a missed organ has no distance."""
    lines = [dsc("a", 0.5), dsc("a", 0.3, measure="hd95_mm"), dsc("a", 0.0, organ="SpinalCord")]
    scores = by_organ(lines, "test1", "3d_fullres")["a"]
    assert scores[Organ.HEART] == OrganScore(0.5, 0.3)
    assert scores[Organ.CORD].dsc == 0.0
    assert math.isnan(scores[Organ.CORD].hd95_mm)
    assert mean_dsc(scores) == 0.25
    assert math.isnan(mean_dsc({}))
