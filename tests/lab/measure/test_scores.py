"""Scores of a system against observers, before and after the clean-up, and their file."""

import math
import re

import numpy as np
import pytest

from limn.domain.errors import ConfigWrong
from limn.domain.geometry import SpacingMm, axial_grid
from limn.domain.scan import TG263_ROLES, Labels
from limn.lab.data.organs import PHANTOM_ORGANS
from limn.lab.measure.accuracy import score
from limn.lab.measure.agreement import conformity_index
from limn.lab.measure.scores import (
    COLUMNS,
    Scan,
    observer_scores,
    read_scores,
    system_scores,
    write_scores,
)
from limn.lab.report.summary import missed_scans, undrawn_organs
from limn.phantom.anatomy import TRUTH_LABELS
from limn.phantom.observers import LUNGS
from limn.segment.importing.trained import usual_clean
from tests.support.organs import Organ

GRID = axial_grid((12, 12, 12), SpacingMm(0.5, 0.5, 0.5), np.zeros(3))
RULES = usual_clean(TRUTH_LABELS.values(), TG263_ROLES)
SCAN = Scan("test1", "native-15-t0", "native-15")


def drawn() -> np.ndarray:
    """Labels of a heart, a cord and two lungs."""
    labels = np.zeros((12, 12, 12), dtype=np.uint8)
    labels[2:6, 2:6, 4:8], labels[1:11, 10, 5:7] = 1, 2
    labels[2:8, 2:6, 0:3], labels[2:8, 2:6, 9:12] = 3, 4
    return labels


def observers() -> dict[str, np.ndarray]:
    """Observer 1 drew the same, observer 2 a smaller heart, observer 3 joined lungs and no cord."""
    one, two, three = drawn(), drawn(), drawn()
    two[2][two[2] == 1] = 0
    three[np.isin(three, (3, 4))] = LUNGS
    three[three == 2] = 0
    return {"observer1": one, "observer2": two, "observer3": three}


def scored(labels: np.ndarray) -> dict[tuple[str, str, str, str], float]:
    """Every score of a system's labels."""
    found = system_scores(
        SCAN,
        "2d",
        Labels(labels, GRID, TRUTH_LABELS),
        observers(),
        PHANTOM_ORGANS.structures,
        RULES,
    )
    assert {(own.set, own.scan, own.animal, own.system) for own in found} == {
        ("test1", "native-15-t0", "native-15", "2d")
    }
    return {(own.reference, own.cleaned, own.organ, own.measure): own.value for own in found}


def test_labels_equal_to_observer_1():
    """DSC 1 and 0 mm against observer 1, index 1 against the consensus."""
    found = scored(drawn())
    assert len(found) == 2 * (4 * 3 + 3)
    for (_, _, _, measure), value in found.items():
        assert value == (1.0 if measure in {"dsc", "ci"} else 0.0)


def test_the_clean_up_removes_an_island():
    """The scores before the clean-up are those with the island, after it those without."""
    labels = drawn()
    labels[11, 0, 0:2] = 1
    found = scored(labels)
    mask, truth = labels == 1, drawn() == 1
    before = score(Organ.HEART, mask, truth, GRID.spacing_mm)
    assert found["observer1", "no", "Heart", "dsc"] == before.dsc < 1.0
    assert found["observer1", "no", "Heart", "msd_mm"] == before.msd_mm > 0.0
    assert found["observer1", "yes", "Heart", "dsc"] == 1.0
    assert found["observer1", "yes", "Heart", "hd95_mm"] == 0.0
    assert found["consensus", "no", "Heart", "ci"] == conformity_index([mask, truth])
    assert found["consensus", "yes", "Heart", "ci"] == 1.0


def test_a_missing_organ_has_dsc_0_and_no_distance():
    """Its index against the consensus is 0."""
    labels = drawn()
    labels[labels == 2] = 0
    found = scored(labels)
    assert found["observer1", "no", "SpinalCord", "dsc"] == 0.0
    assert math.isnan(found["observer1", "no", "SpinalCord", "msd_mm"])
    assert math.isnan(found["observer1", "no", "SpinalCord", "hd95_mm"])
    assert found["consensus", "no", "SpinalCord", "ci"] == 0.0


def test_an_organ_that_observer_1_did_not_draw_is_not_scored():
    """The organ counts neither as missed nor as found."""
    three = observers()
    three["observer1"][three["observer1"] == 2] = 0
    found = system_scores(
        SCAN, "2d", Labels(drawn(), GRID, TRUTH_LABELS), three, PHANTOM_ORGANS.structures, RULES
    )
    assert {own.organ for own in found if own.reference == "observer1"} == {
        "Heart", "Lung_R", "Lung_L",
    }  # fmt: skip
    assert missed_scans(found, "test1") == ()
    assert undrawn_organs(found, "test1") == {Organ.CORD: 1}


def test_observers_among_themselves():
    """Hearts of three observers, joined lungs, and cords of the two observers who drew one."""
    found = observer_scores(SCAN, list(observers().values()), PHANTOM_ORGANS.structures)
    index = {own.organ: own.value for own in found}
    # Layers of the heart: 4, 3 and 4; pairs share 3, 4, 3 of 4, 4, 4.
    assert index == {"Heart": pytest.approx(10 / 12), "Lungs": 1.0, "SpinalCord": 1.0}
    assert {own.system for own in found} == {"observers"}
    single = observer_scores(SCAN, list(observers().values())[:1], PHANTOM_ORGANS.structures)
    assert single == []


def test_the_file_keeps_every_bit(tmp_path):
    """Scores survive the file; an undefined value is empty."""
    labels = drawn()
    labels[labels == 2] = 0
    labels[0, 0, 0] = 1
    found = system_scores(
        SCAN,
        "2d",
        Labels(labels, GRID, TRUTH_LABELS),
        observers(),
        PHANTOM_ORGANS.structures,
        RULES,
    )
    path = tmp_path / "scores.csv"
    write_scores(path, found)
    text = path.read_text()
    assert "SpinalCord,msd_mm,\n" in text
    assert "nan" not in text
    for before, after in zip(found, read_scores(path), strict=True):
        assert repr(before) == repr(after)


GOOD = "test1,a-1,a,2d,observer1,no,Heart,dsc,0.9"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (GOOD.replace("dsc", "DSC"), "measure 'DSC': one of dsc, msd_mm"),
        (GOOD.replace("0.9", "9.0"), "dsc 9.0: 0 to 1 expected"),
        (GOOD.replace("0.9", ""), "dsc nan: 0 to 1 expected"),
        (GOOD.replace("dsc,0.9", "hd95_mm,-1"), "hd95_mm -1.0: 0 to inf expected"),
        (GOOD.replace("observer1", "observer2"), "reference 'observer2' of dsc: 'observer1'"),
        (GOOD.replace("Heart", ""), "organ '' of dsc: an organ's name expected"),
        (GOOD.replace(",no,", ",nein,"), "cleaned 'nein' of dsc: no or yes"),
        (GOOD.replace("a-1,a,", "a-1,b,"), "scan a-1 is animal b's here and a's before"),
        (GOOD.replace("2d", ""), "set, scan, animal and system must be named"),
        ("test1,a-1", "line 3: 9 columns expected"),
        (GOOD + ",more", "line 3: 9 columns expected"),
        (GOOD, "line 3 repeats line 2: test1 a-1"),
    ],
)
def test_a_wrong_score_is_refused_with_its_line(line, message, tmp_path):
    """A table made from it would be silently wrong."""
    path = tmp_path / "scores.csv"
    path.write_text(f"{','.join(COLUMNS)}\n{GOOD}\n{line}\n")
    with pytest.raises(ConfigWrong, match=re.escape(message)):
        read_scores(path)


def test_a_file_saved_by_a_spreadsheet_is_read(tmp_path):
    """It begins with a byte order mark."""
    path = tmp_path / "scores.csv"
    path.write_text(f"{','.join(COLUMNS)}\n{GOOD}\n", encoding="utf-8-sig")
    assert read_scores(path)[0].value == 0.9
