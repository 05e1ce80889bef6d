"""A judge learns from rows whose truth follows from a sign, and its intervals hold."""

import numpy as np
import pytest

from limn.domain.errors import StageFailed
from limn.lab.trust.outcome import Fate, outcome_of, tally
from limn.lab.trust.teach import teach
from limn.lab.trust.trial_row import TrialRow, append, read_rows
from limn.segment.judge.quality import Judge
from limn.segment.judge.signs import Signs
from tests.support.organs import Organ

ORGANS = (Organ.HEART, Organ.LUNG_R)


def row(seed, fault="none", **changed):
    """A scan whose DSC is near the agreement of the folds."""
    rng = np.random.default_rng(seed)
    dsc = float(rng.choice([rng.uniform(0.92, 0.98), rng.uniform(0.3, 0.98)]))
    sign = {"fold_dsc": dsc + float(rng.normal(0.0, 0.01))}
    signs = Signs({"noise_hu": float(rng.uniform(10, 50))}, dict.fromkeys(ORGANS, sign))
    truth = {organ.value: dsc for organ in ORGANS}
    values = {
        "signs": signs,
        "dsc": truth,
        "hd95_mm": {organ.value: 10 * (1 - dsc) for organ in ORGANS},
        "volumes_mm3": {organ.value: 100.0 for organ in ORGANS},
    }
    return TrialRow(fault, seed, 1.0, **(values | changed))


@pytest.fixture(scope="module")
def judge():
    """Taught by 160 scans."""
    rows = [row(seed) for seed in range(160)]
    return teach(rows, ORGANS, {"folds": 5}, lambda line: None)


def test_predictions_for_scans_that_did_not_teach(judge):
    """Near the truth, and nine of ten within the interval."""
    found = tally(outcome_of(row(seed), judge) for seed in range(1000, 1200))
    assert found.error < 0.02
    assert 0.84 <= found.within <= 0.97


def test_bad_scans_are_stopped_and_good_ones_are_not_held(judge):
    """The limits lie between 0.80 and 0.90."""
    found = tally(outcome_of(row(seed), judge) for seed in range(1000, 1200))
    assert found.bad > 50
    assert found.bad_stopped >= 0.97 * found.bad
    assert found.good_held == 0
    assert list(judge.limits) == list(ORGANS)
    for limits in judge.limits.values():
        assert 0.80 <= limits.red_below <= limits.amber_below <= 0.90


def test_a_judge_in_a_file_predicts_as_the_one_that_was_taught(judge, tmp_path):
    """The trees travel as arrays."""
    judge.write(tmp_path / "judge.npz")
    signs = row(7).signs
    assert Judge.read(tmp_path / "judge.npz").predict(signs) == judge.predict(signs)


def test_a_refused_scan_and_one_whose_sides_are_in_doubt_don_t_leave(judge):
    """Whatever is predicted."""
    good = next(row(seed) for seed in range(99) if row(seed).is_good)
    assert outcome_of(good, judge).fate is Fate.GREEN
    refused = TrialRow("empty", 1, 1.0, refused="no animal")
    assert outcome_of(refused, judge).fate is Fate.REFUSED
    doubtful = row(good.seed, concerns=(("sides-unsure:0.60", "red", True),))
    assert outcome_of(doubtful, judge).fate is Fate.HELD


def test_exchanged_lungs_that_leave_are_a_miss(judge):
    """However good the overlap is."""
    good = next(row(seed) for seed in range(99) if row(seed).is_good)
    exchanged = row(good.seed, exchanged=True)
    assert outcome_of(exchanged, judge).is_miss


def test_too_few_rows_teach_nothing():
    """Refused scans do not count."""
    rows = [TrialRow("empty", k, 1.0, refused="no animal") for k in range(100)]
    with pytest.raises(StageFailed, match=r"0 contoured .* 40 can; 100 more were refused"):
        teach(rows, ORGANS, {}, lambda line: None)


def test_rows_in_a_file_and_half_a_line_at_its_end(tmp_path):
    """A run that was killed goes on behind its last whole row."""
    path = tmp_path / "teach.jsonl"
    first, second = row(1), row(2, concerns=(("cut:Lung_R", "amber", False),))
    for each in (first, second):
        append(path, each)
    path.write_text(path.read_text() + '{"fault": "none", "se')
    assert read_rows(path) == [first, second]
