"""The judge's trees as arrays: what scikit-learn predicts, kept in a file, with intervals."""

import numpy as np
import pytest

from limn.domain.errors import BundleUnfit
from limn.domain.scan import Organ
from limn.segment.judge import quality
from limn.segment.judge.quality import ABSENT, MEASURES, PERCENTILES, Judge, Trees, features_of
from limn.segment.judge.signs import ORGAN_SIGNS, SCAN_SIGNS, Signs

N = len(SCAN_SIGNS) + len(ORGAN_SIGNS)


def stump(feature, threshold, below, above, first=0.0):
    """One question and two answers."""
    return Trees(
        np.array([[feature, -1, -1]], np.int32),
        np.array([[threshold, 0.0, 0.0]]),
        np.array([[1, 0, 0]], np.int32),
        np.array([[2, 0, 0]], np.int32),
        np.array([[0.0, below, above]]),
        first,
    )


def judge(widening=0.01):
    """It asks for the agreement of the folds."""
    asked = len(SCAN_SIGNS) + ORGAN_SIGNS.index("fold_dsc")
    answers = {5: (0.3, 0.85), 50: (0.5, 0.93), 95: (0.7, 0.96)}
    trees = {
        (Organ.HEART, measure, percentile): stump(asked, 0.8, *answers[percentile])
        for measure in MEASURES
        for percentile in PERCENTILES
    }
    wider = {(Organ.HEART, measure): widening for measure in MEASURES}
    return Judge(trees, wider, 0.8, 0.9, {"folds": 5})


def signs(fold_dsc):
    """Of a heart on which the folds agree so much."""
    return Signs({}, {Organ.HEART: {"fold_dsc": fold_dsc}, Organ.CORD: {}})


def test_an_interval_around_the_middle():
    """Both ends are moved; an organ that was not taught has no prediction."""
    predicted = judge().predict(signs(0.9))
    assert list(predicted) == [Organ.HEART]
    dsc = predicted[Organ.HEART].dsc
    assert (dsc.low, dsc.middle, dsc.high) == pytest.approx((0.84, 0.93, 0.97))
    assert judge().predict(signs(0.7))[Organ.HEART].dsc.middle == pytest.approx(0.5)


def test_no_end_leaves_the_measure_s_range():
    """A DSC is at most 1."""
    assert judge(0.5).predict(signs(0.9))[Organ.HEART].dsc.high == 1.0


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
    assert (again.red_below, again.amber_below, again.about) == (0.8, 0.9, {"folds": 5})


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
