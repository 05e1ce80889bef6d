"""Bundles of other organs than the embedded one's four, learnt from the phantoms' whole bodies."""

import dataclasses

import numpy as np
import pytest

from limn.cli.main import main
from limn.domain.errors import ConfigWrong
from limn.domain.scan import Role
from limn.lab.train.folds import train_phantom_bundle
from limn.lab.train.localiser import LocaliserRecipe
from limn.lab.train.onlooker import OrientRecipe
from limn.lab.train.patches import make_training_case
from limn.lab.train.recipe import Recipe, quick
from limn.phantom.anatomy import BODY_LABELS, TRUTH_LABELS, WHOLE_LABELS
from limn.segment.bundle.bundle import open_bundle
from limn.segment.engine.ensemble import Ensemble
from tests.conftest import BUNDLE
from tests.lab.train.test_folds import TINY
from tests.support.lab import forking

ORGANS = ("Liver", "Heart", "Bone")
SMALL = dataclasses.replace(
    TINY,
    spacing_mm=0.9,
    shape_zyx=(70, 32, 36),
    folds=1,
    stems=1,
    stem_phantoms=1,
    stem_steps=2,
    phantoms=2,
    steps=2,
    organs=ORGANS,
    small_networks=str(BUNDLE),
)


def test_a_training_case_has_the_organs_of_the_recipe_in_its_order():
    """Each has the share that the painter gave it; the image is that of any other recipe."""
    case = make_training_case(1100, SMALL)
    every = make_training_case(
        1100, dataclasses.replace(SMALL, organs=tuple(WHOLE_LABELS.values()))
    )
    assert np.array_equal(case.hu_zyx, every.hu_zyx)
    names = list(WHOLE_LABELS.values())
    for own, name in zip(case.shares, ORGANS, strict=True):
        assert own.any()
        assert np.array_equal(own, every.shares[names.index(name)])


def test_the_embedded_recipe_has_the_four():
    """And its phantoms are painted without the others."""
    assert Recipe().labels == TRUTH_LABELS
    assert Recipe().painted == list(TRUTH_LABELS)
    assert not Recipe().beyond_chest
    assert dataclasses.replace(Recipe(), organs=("Heart", "Trachea")).beyond_chest is False
    assert all(
        dataclasses.replace(Recipe(), organs=(organ,)).beyond_chest
        for organ in BODY_LABELS.values()
        if organ != "Trachea"
    )


@pytest.mark.parametrize(
    ("organs", "message"),
    [
        (("Liver", "Brain"), "the phantoms have no Brain; they have Heart, SpinalCord, Lung_R"),
        (("Liver", "Liver"), "an organ is given twice"),
    ],
)
def test_organs_that_the_phantoms_lack_are_named(organs, message):
    """Before anything is painted."""
    with pytest.raises(ConfigWrong, match=message):
        quick(organs, BUNDLE)


def test_a_bundle_is_continued_with_its_own_organs(tmp_path, capsys):
    """`--organs` and `--from` exclude each other."""
    command = ["lab", "train-phantom", str(tmp_path), "--organs", "Liver", "--from", str(BUNDLE)]
    assert main(command) == 1
    assert "a bundle is continued with its own organs" in capsys.readouterr().err


@pytest.mark.trains
def test_the_bundle_says_what_its_organs_are(tmp_path):
    """Labels, rules, protocol and the one role that it has; it opens, and its network runs."""
    with forking.forking(["limn.lab.train.folds"]):
        folder = train_phantom_bundle(
            tmp_path, SMALL, OrientRecipe(), LocaliserRecipe(), lambda _: None
        )
    bundle = open_bundle(folder)
    assert bundle.label == "phantom-organs-1"
    assert tuple(bundle.organs.values()) == ORGANS
    assert bundle.roles == {Role.HEART: "Heart"}
    assert set(bundle.clean) == set(bundle.protocol) == set(ORGANS)
    assert not bundle.within_chest
    assert bundle.sample is not None
    for name in ("orient.pth", "localiser.pth"):
        assert (folder / name).read_bytes() == (BUNDLE / name).read_bytes()
    ensemble = Ensemble.load(bundle, "cpu", bundle.profile)
    ensemble.warm_up()
