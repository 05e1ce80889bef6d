"""What follows from before and after, by the stated rule."""

from pathlib import Path

import pytest

from limn.domain.errors import ConfigWrong
from limn.domain.scan import Organ
from limn.lab.adapt.scoring import AFTER, BEFORE, LEFT_OUT, PHANTOMS, TESTED, AdaptScore
from limn.lab.adapt.settings import AdaptSettings, steps_for
from limn.lab.adapt.site_scans import SiteData, SiteScan
from limn.lab.adapt.verdict import Advice, changes, recommend, too_few_judges
from limn.lab.adapt.watch import Look, Looks

HEART, LIVER = Organ("Heart"), Organ("Liver")


def scores(group, organ, before, after):
    """A scan of each animal by both bundles."""
    return [
        AdaptScore(group, f"s{k}", f"a{k}", when, organ, dsc, 0.5)
        for when, dscs in ((BEFORE, before), (AFTER, after))
        for k, dsc in enumerate(dscs)
    ]


GOOD = scores(TESTED, HEART, [0.80, 0.82, 0.84], [0.92, 0.93, 0.91])
KEPT = scores(PHANTOMS, HEART, [0.95, 0.95], [0.949, 0.948])


def test_a_gain_that_nothing_speaks_against_is_taken():
    """The sentence names the organ with the largest gain, and its interval."""
    advice = recommend(changes(GOOD + KEPT, [HEART]), [HEART])
    assert advice.advice is Advice.USE
    assert "Heart gained 0.100 DSC" in advice.sentence
    assert "3 test animals" in advice.sentence


@pytest.mark.parametrize(
    ("rows", "advice", "words"),
    [
        (GOOD + scores(PHANTOMS, HEART, [0.95, 0.95], [0.944, 0.944]), Advice.DO_NOT_USE, "0.006"),
        (
            GOOD + KEPT + scores(TESTED, LIVER, [0.9, 0.9, 0.9], [0.89, 0.89, 0.9]),
            Advice.DO_NOT_USE,
            "Liver on test animals by 0.007",
        ),
        (
            scores(LEFT_OUT, HEART, [0.8, 0.8], [0.9, 0.9]) + KEPT,
            Advice.MORE_ANIMALS,
            "too few animals judge it (Heart by 2; 3 must)",
        ),
        (
            scores(TESTED, HEART, [0.90, 0.92, 0.91], [0.91, 0.915, 0.908]) + KEPT,
            Advice.MORE_ANIMALS,
            "chance",
        ),
        (
            scores(TESTED, HEART, [0.5, 0.5, 0.5], [0.7, 0.72, 0.71]) + KEPT,
            Advice.MORE_ANIMALS,
            "below 0.80",
        ),
    ],
)
def test_what_speaks_against_it_is_said(rows, advice, words):
    """What fell, which organ is weak, that too few animals judge, or that chance would do."""
    found = recommend(changes(rows, [HEART, LIVER]), [HEART])
    assert found.advice is advice
    assert words in found.sentence


def test_every_organ_that_was_taught_is_judged_by_enough_animals():
    """Neither one that no unseen animal has, nor one of two animals, whatever the others gained."""
    for new in ([], scores(TESTED, LIVER, [0.0, 0.0], [0.9, 0.9])):
        advice = recommend(changes(GOOD + KEPT + new, [HEART]), [HEART, LIVER])
        assert advice.advice is Advice.MORE_ANIMALS
        assert f"Liver by {len(new) // 2}; 3 must" in advice.sentence


def site_of(teaching, testing):
    """A site's animals: those of each group that teach, and those that only test, all hearts."""
    groups = [*enumerate(teaching), *((None, own) for own in testing)]
    scans = [
        SiteScan(name, name, group, Path(), Path(), {1: HEART}, (HEART,), (0.2, 0.2, 0.2), False)
        for group, names in groups
        for name in names
    ]
    return SiteData(Path("data"), tuple(scans))


def test_that_too_few_animals_judge_is_said_before_the_night():
    """Not after it; three that folds leave out are enough, or three that only test."""
    why = too_few_judges(site_of(["a", "b"], ["c"]), {0, 1})
    assert "Heart by 2 that a fold leaves out and 1 that only test; 3 of one kind must" in why
    assert too_few_judges(site_of(["a", "b", "c"], []), {0, 1, 2}) == ""
    assert too_few_judges(site_of(["a", "b"], ["c", "d", "e"]), {0, 1}) == ""
    # A bundle of one fold leaves out one group.
    assert "Heart by 1 that" in too_few_judges(site_of(["a", "b", "c"], []), {0})


def test_a_new_organ_is_named_as_new_and_not_as_a_gain():
    """If no other gained; the old bundle's nothing is no value to gain on."""
    same = scores(TESTED, HEART, [0.9, 0.92, 0.91], [0.91, 0.915, 0.908])
    new = scores(TESTED, LIVER, [0.0, 0.0, 0.0], [0.9, 0.91, 0.92])
    advice = recommend(changes(same + KEPT + new, [HEART]), [HEART, LIVER])
    assert advice.advice is Advice.USE
    assert "Liver is new, with DSC 0.910 on 3 test animals" in advice.sentence
    advice = recommend(changes(GOOD + KEPT + new, [HEART]), [HEART, LIVER])
    assert "Heart gained 0.100 DSC" in advice.sentence


def test_an_organ_that_the_old_bundle_did_not_know_did_not_fall():
    """It has no value before, and its gain is no gain of the old."""
    new = scores(TESTED, LIVER, [0.0, 0.0, 0.0], [0.9, 0.91, 0.92])
    found = changes(GOOD + KEPT + new, [HEART])
    assert next(own for own in found if own.organ == LIVER).before is None


def test_an_animal_counts_once_however_many_scans_it_has():
    """Means are of animals."""
    rows = scores(TESTED, HEART, [0.8, 0.8], [0.9, 0.7])
    rows += [AdaptScore(TESTED, "s0b", "a0", when, HEART, 0.5, 1.0) for when in (BEFORE, AFTER)]
    (found,) = changes(rows, [HEART])
    assert found.animals == 2
    assert found.after == pytest.approx((0.7 + 0.7) / 2)


def test_a_look_that_forgets_is_not_the_best(tmp_path):
    """Beyond half a hundredth, a fall on phantoms costs four times a gain."""
    first = Look(0, {HEART: 0.70}, {HEART: 0.90})
    gain = Look(10, {HEART: 0.75}, {HEART: 0.896})
    greedy = Look(20, {HEART: 0.78}, {HEART: 0.88})
    looks = Looks(tmp_path / "looks.jsonl")
    for look in (first, gain, greedy):
        looks = looks.with_look(look)
    assert looks.best == gain
    assert Looks.read(looks.path) == looks
    assert looks.ended(last_step=20, patience=9)


def test_a_fold_ends_by_its_left_out_animals_and_not_in_its_first_half(tmp_path):
    """What is forgotten at first comes back with smaller steps: it ends no fold."""
    rows = [(0, 0.70, 0.90), (10, 0.75, 0.88), (20, 0.76, 0.88), (30, 0.76, 0.89), (40, 0.76, 0.9)]
    looks = Looks(tmp_path / "looks.jsonl")
    for step, site, phantoms in rows:
        looks = looks.with_look(Look(step, {HEART: site}, {HEART: phantoms}))
    assert not looks.ended(last_step=100, patience=2)
    assert looks.ended(last_step=80, patience=2)
    assert not looks.ended(last_step=80, patience=3)
    assert looks.best.step == 40


def test_the_steps_fill_the_night_and_no_more():
    """Rounds of folds share it; too short a night is refused with the time that is needed."""
    assert steps_for(8.0, 15.0, folds=5, workers=2) == 400
    assert steps_for(1.0, 15.0, folds=5, workers=2) == 60
    assert AdaptSettings(60).looks == (0, *range(5, 60, 5), 60)
    with pytest.raises(ConfigWrong, match=r"0\.1 h are 6 steps.*give --hours 0\.3"):
        steps_for(0.1, 15.0, folds=5, workers=2)
    for hours in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigWrong, match=r"--hours .*a number above 0 expected"):
            steps_for(hours, 15.0, folds=5, workers=2)
