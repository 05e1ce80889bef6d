"""Test sets: no animal of the training, and every condition that is hard for a node."""

import re
from types import SimpleNamespace

import numpy as np
import pytest

from limn.domain.errors import ConfigWrong
from limn.lab.train import testsets as module
from limn.lab.train.recipe import Recipe
from limn.lab.train.testsets import cohort_trials, stress_trials
from limn.phantom.cohort import Cohort, CohortSplit
from limn.segment.bundle.bundle import open_bundle
from tests.support.lab.tiny_site import tiny_bundle
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


def test_a_bundle_is_tried_on_its_own_organs(small, monkeypatch, tmp_path):
    """The same scans, with the truth of these alone; without one that phantoms have, none."""
    asked = {5: "Liver", 1: "Heart"}
    monkeypatch.setattr(module, "PLAIN_MM", 0.5)
    (own,) = (each for each in stress_trials(1, asked) if each.group == "+200 HU")
    made, usual = own.make(), small["+200 HU"].make()
    assert own.organs == 2
    np.testing.assert_array_equal(made.volume.hu_zyx, usual.volume.hu_zyx)
    assert made.truth.organs == asked
    assert set(np.unique(made.truth.labels_zyx)) == {0, 1, 5}
    tiny = tiny_bundle(tmp_path / "bundle", ("Kidney_L", "Liver"), folds=1)
    assert module._taught(open_bundle(tiny)) == {5: "Liver", 8: "Kidney_L"}
    odd = SimpleNamespace(label="odd-1", organs={1: "Tumour"})
    with pytest.raises(ConfigWrong, match="odd-1 draws Tumour; the phantoms have Heart, SpinalC"):
        module._taught(odd)


def test_organs_lie_inside_the_body(small):
    """The body has every organ and no neighbour in it; labels must not leave it."""
    known = small["tubes, wires, neighbour"].make()
    assert known.body is not None
    assert known.body[known.truth.labels_zyx > 0].all()
    tissue = known.volume.hu_zyx > 200
    assert (tissue & ~known.body).sum() > 100
