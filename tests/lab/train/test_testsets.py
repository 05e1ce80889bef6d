"""Test sets: no animal of the training, and every condition that is hard for a node."""

import re

import numpy as np
import pytest

from limn.lab.train import testsets as module
from limn.lab.train.recipe import Recipe
from limn.lab.train.testsets import cohort_trials, stress_trials
from limn.phantom.cohort import Cohort, CohortSplit
from tests.support.organs import Organ


def test_the_papers_two_test_sets():
    """35 native scans of 5 animals and 35 contrast-enhanced ones of 8."""
    trials = cohort_trials(wide=False)
    assert [sum(t.group == group for t in trials) for group in ("native", "contrast")] == [35, 35]
    animals = {re.sub(r"-t\d+$", "", t.scan) for t in trials}
    assert sum(name.startswith("native") for name in animals) == 5
    assert len(animals) == 13


def test_no_tested_animal_was_trained_on():
    """No seed of a test animal trains."""
    recipe = Recipe()
    trained = set(range(recipe.first_seed, recipe.first_seed + recipe.phantoms))
    trained |= set(range(recipe.first_stem_seed, recipe.first_stem_seed + recipe.stem_phantoms))
    tested = {a.seed for a in Cohort().all_animals if a.split is not CohortSplit.TRAIN}
    tested |= {int(trial.scan) for trial in stress_trials(3)}
    assert not trained & tested


def test_every_condition_is_there():
    """Voxel sizes, HU errors, objects beside the mouse and six wrong headers, on every mouse."""
    trials = stress_trials(2)
    groups = [trial.group for trial in trials]
    assert len(set(groups)) == 14
    assert all(groups.count(group) == 2 for group in groups)
    assert {"0.08 mm", "0.28 mm", "-200 HU", "+200 HU", "turned y", "mirrored x"} <= set(groups)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch):
    """Coarse scans, quick to make."""
    monkeypatch.setattr(module, "PLAIN_MM", 0.5)
    return {trial.group: trial for trial in stress_trials(1)}


def test_hu_are_off_by_what_the_set_says(small):
    """The same animal with an offset of 400 HU between the two sets."""
    low, high = small["-200 HU"].make().volume.hu_zyx, small["+200 HU"].make().volume.hu_zyx
    assert np.median(high - low) == pytest.approx(400.0, abs=2.0)


def test_turned_pixels_turn_their_truth(small):
    """A wrong header moves image and truth together: the heart stays in tissue."""
    plain, lying = small["+200 HU"].make(), small["turned x"].make()
    np.testing.assert_array_equal(lying.truth.labels_zyx[::-1, ::-1], plain.truth.labels_zyx)
    assert np.median(lying.volume.hu_zyx[lying.truth.mask(Organ.HEART)]) > -100


def test_organs_lie_inside_the_body(small):
    """The body has every organ and no neighbour in it; labels must not leave it."""
    known = small["tubes, wires, neighbour"].make()
    assert known.body is not None
    assert known.body[known.truth.labels_zyx > 0].all()
    tissue = known.volume.hu_zyx > 200
    assert (tissue & ~known.body).sum() > 100
