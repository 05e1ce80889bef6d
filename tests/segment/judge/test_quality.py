"""The judge's trees as arrays: what scikit-learn predicts, kept in a file, with intervals."""

import json
from dataclasses import replace

import numpy as np
import pytest

from limn.domain.errors import BundleUnfit
from limn.segment.judge import quality
from limn.segment.judge.quality import (
    ABSENT,
    LEAST_SPREAD,
    MEASURES,
    Forest,
    Judge,
    Limits,
    Predictor,
    features_of,
)
from limn.segment.judge.signs import ORGAN_SIGNS, SCAN_SIGNS, Signs
from tests.support.organs import Organ

N = len(SCAN_SIGNS) + len(ORGAN_SIGNS)


def forest(feature, threshold, below, above):
    """Trees of one question; each has two answers of its own."""
    n = len(below)
    return Forest(
        np.tile(np.array([feature, -1, -1], np.int16), (n, 1)),
        np.tile(np.array([threshold, 0, 0], np.float32), (n, 1)),
        np.tile(np.array([1, 0, 0], np.int16), (n, 1)),
        np.tile(np.array([2, 0, 0], np.int16), (n, 1)),
        np.array([[0.0, low, high] for low, high in zip(below, above, strict=True)], np.float32),
    )


def judge(reach=2.0):
    """Three trees that ask for the agreement of the folds."""
    asked = len(SCAN_SIGNS) + ORGAN_SIGNS.index("fold_dsc")
    trees = forest(asked, 0.8, (0.4, 0.5, 0.6), (0.93, 0.93, 0.93))
    predictors = {(Organ.HEART, measure): Predictor(trees, reach, 1.0) for measure in MEASURES}
    return Judge(predictors, {Organ.HEART: Limits(0.8, 0.9)}, {"folds": 5})


def signs(fold_dsc):
    """Of a heart on which the folds agree so much."""
    return Signs({}, {Organ.HEART: {"fold_dsc": fold_dsc}, Organ.CORD: {}})


def test_an_interval_around_the_middle():
    """It is as wide as the trees differ; an organ that was not taught has no prediction."""
    predicted = judge().predict(signs(0.7))
    assert list(predicted) == [Organ.HEART]
    dsc = predicted[Organ.HEART].dsc
    spread = np.std([0.4, 0.5, 0.6]) + LEAST_SPREAD["dsc"]
    expected = (0.5 - 2 * spread, 0.5, 0.5 + spread)
    assert (dsc.low, dsc.middle, dsc.high) == pytest.approx(expected)
    agreed = judge().predict(signs(0.9))[Organ.HEART].dsc
    assert (agreed.low, agreed.middle, agreed.high) == pytest.approx((0.91, 0.93, 0.94))


def test_no_end_leaves_the_measure_s_range():
    """A DSC is at least 0 and at most 1."""
    assert judge(99.0).predict(signs(0.7))[Organ.HEART].dsc.low == 0.0


def test_an_absent_sign_has_its_own_value():
    """It is none that a sign can have, so that a tree can ask for it."""
    features = features_of(Signs({"air_hu": -990.0}, {Organ.HEART: {}}), Organ.HEART)
    assert len(features) == N
    assert features[SCAN_SIGNS.index("air_hu")] == -990.0
    assert (features == ABSENT).sum() == N - 1


def test_kept_in_a_file_and_read_again(tmp_path):
    """Predictions, limits and history are the same."""
    judge().write(tmp_path / "judge.npz")
    again = Judge.read(tmp_path / "judge.npz")
    assert again.predict(signs(0.9)) == judge().predict(signs(0.9))
    assert (again.limits, again.about) == ({Organ.HEART: Limits(0.8, 0.9)}, {"folds": 5})


def test_a_judge_that_was_taught_by_fewer_signs_goes_on(tmp_path):
    """A bundle of today serves a limn that measures more."""
    trees = forest(0, 0.8, (0.4, 0.5, 0.6), (0.93, 0.93, 0.93))
    predictors = {(Organ.HEART, measure): Predictor(trees, 2.0, 1.0) for measure in MEASURES}
    limits = {Organ.HEART: Limits(0.8, 0.9)}
    Judge(predictors, limits, {}, (), ((), ("fold_dsc",))).write(tmp_path / "judge.npz")
    kept = Judge.read(tmp_path / "judge.npz")
    assert kept.predict(signs(0.7)) == judge().predict(signs(0.7))


def test_the_signs_of_other_organs_stand_beside(tmp_path):
    """A tree may ask for them; an organ that the scan lacks has none."""
    asked = len(SCAN_SIGNS) + len(ORGAN_SIGNS) + ORGAN_SIGNS.index("fold_dsc")
    trees = forest(asked, 0.8, (0.4, 0.5, 0.6), (0.93, 0.93, 0.93))
    predictors = {(Organ.HEART, measure): Predictor(trees, 2.0, 1.0) for measure in MEASURES}
    limits = {Organ.HEART: Limits(0.8, 0.9)}
    taught = Judge(predictors, limits, {}, (Organ.HEART, Organ.CORD))
    taught.write(tmp_path / "judge.npz")
    kept = Judge.read(tmp_path / "judge.npz")
    for cord, dsc in (({"fold_dsc": 0.9}, 0.93), ({"fold_dsc": 0.7}, 0.5), ({}, 0.5)):
        seen = Signs({}, {Organ.HEART: {"fold_dsc": 0.1}, Organ.CORD: cord})
        assert kept.predict(seen)[Organ.HEART].dsc.middle == pytest.approx(dsc)
    alone = replace(taught, beside=())
    alone.write(tmp_path / "judge.npz")
    with pytest.raises(BundleUnfit, match="a tree of it is broken"):
        Judge.read(tmp_path / "judge.npz")


def test_a_judge_of_the_layout_before_goes_on(tmp_path):
    """Its limits are those of every organ: a site's bundle stays whole after an upgrade."""
    judge().write(tmp_path / "judge.npz")
    with np.load(tmp_path / "judge.npz") as arrays:
        kept = dict(arrays)
    head = json.loads(bytes(kept["head"]).decode())
    del head["limits"], head["beside"]
    head |= {"version": 1, "red_below": 0.81, "amber_below": 0.85}
    kept["head"] = np.frombuffer(json.dumps(head).encode(), dtype=np.uint8)
    np.savez(tmp_path / "judge.npz", **kept)
    again = Judge.read(tmp_path / "judge.npz")
    assert again.limits == {Organ.HEART: Limits(0.81, 0.85)}
    assert again.predict(signs(0.9)) == judge().predict(signs(0.9))


def test_a_judge_by_other_signs_is_refused(tmp_path, monkeypatch):
    """Its trees would ask the wrong columns."""
    judge().write(tmp_path / "judge.npz")
    monkeypatch.setattr(quality, "ORGAN_SIGNS", ORGAN_SIGNS[1:])
    with pytest.raises(BundleUnfit, match="limn lab judge"):
        Judge.read(tmp_path / "judge.npz")


@pytest.mark.parametrize("content", [b"", b"no judge", b"PK\x03\x04"])
def test_a_file_that_is_no_judge_is_refused(tmp_path, content):
    """It names the file."""
    (tmp_path / "judge.npz").write_bytes(content)
    with pytest.raises(BundleUnfit, match=r"judge\.npz is no judge"):
        Judge.read(tmp_path / "judge.npz")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("left", lambda way: way * 0),
        ("right", lambda way: way + 99),
        ("feature", lambda feature: np.where(feature >= 0, np.int16(5000), feature)),
        ("feature", lambda feature: feature.astype(np.float32)),
        ("value", lambda value: value * np.float32(np.nan)),
        ("value", lambda value: value[:, :2]),
    ],
)
def test_broken_trees_are_refused_before_a_scan_meets_them(tmp_path, name, change):
    """A tree that leads back to itself would never end."""
    sound = judge()
    predictors = {
        key: replace(
            each, forest=replace(each.forest, **{name: change(getattr(each.forest, name))})
        )
        for key, each in sound.predictors.items()
    }
    replace(sound, predictors=predictors).write(tmp_path / "judge.npz")
    with pytest.raises(BundleUnfit, match=r"a tree of it is broken.*teach the bundle again"):
        Judge.read(tmp_path / "judge.npz")


def test_a_judge_of_half_the_measures_is_refused(tmp_path):
    """Every organ has a DSC and a distance."""
    sound = judge()
    key, one = next(iter(sound.predictors.items()))
    replace(sound, predictors={key: one}).write(tmp_path / "judge.npz")
    with pytest.raises(BundleUnfit, match="lacks a prediction"):
        Judge.read(tmp_path / "judge.npz")
