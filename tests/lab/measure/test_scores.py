"""What a drawing scores against observers, before and after the clean-up, and how it is kept."""

import math
import re

import numpy as np
import pytest

from limn.domain.errors import ConfigWrong
from limn.domain.geometry import SpacingMm, axial_grid
from limn.domain.scan import Labels, Organ
from limn.lab.measure.accuracy import score
from limn.lab.measure.agreement import conformity_index
from limn.lab.measure.scores import (
    COLUMNS,
    Scan,
    of_drawing,
    of_observers,
    read_scores,
    write_scores,
)
from limn.lab.report.summary import missed, undrawn
from limn.phantom.anatomy import TRUTH_LABELS
from limn.phantom.observers import LUNGS
from limn.segment.importing.trained import USUAL_CLEAN

GRID = axial_grid((12, 12, 12), SpacingMm(0.5, 0.5, 0.5), np.zeros(3))
SCAN = Scan("test1", "native-15-t0", "native-15")


def drawn() -> np.ndarray:
    """A heart, a cord and two lungs."""
    labels = np.zeros((12, 12, 12), dtype=np.uint8)
    labels[2:6, 2:6, 4:8], labels[1:11, 10, 5:7] = 1, 2
    labels[2:8, 2:6, 0:3], labels[2:8, 2:6, 9:12] = 3, 4
    return labels


def observers() -> dict[str, np.ndarray]:
    """The first drew the same, the second a heart less one layer, the third joined the lungs."""
    one, two, three = drawn(), drawn(), drawn()
    two[2][two[2] == 1] = 0
    three[np.isin(three, (3, 4))] = LUNGS
    three[three == 2] = 0
    return {"observer1": one, "observer2": two, "observer3": three}


def scored(labels: np.ndarray) -> dict[tuple[str, str, str, str], float]:
    """Every score of a drawing."""
    found = of_drawing(
        SCAN, "2d", Labels(labels, GRID, TRUTH_LABELS), observers(), LUNGS, USUAL_CLEAN
    )
    assert {(own.set, own.scan, own.animal, own.system) for own in found} == {
        ("test1", "native-15-t0", "native-15", "2d")
    }
    return {(own.reference, own.cleaned, own.organ, own.measure): own.value for own in found}


def test_a_drawing_like_observer_1():
    """DSC 1 and 0 mm against observer 1, and all of a consensus that two of three drew alike."""
    found = scored(drawn())
    assert len(found) == 2 * (4 * 3 + 3)
    for (_, _, _, measure), value in found.items():
        assert value == (1.0 if measure in {"dsc", "ci"} else 0.0)


def test_an_island_goes_with_the_clean_up():
    """Before: the node's own metrics with the island. After: without."""
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
    """And shares nothing with the consensus."""
    labels = drawn()
    labels[labels == 2] = 0
    found = scored(labels)
    assert found["observer1", "no", "SpinalCord", "dsc"] == 0.0
    assert math.isnan(found["observer1", "no", "SpinalCord", "msd_mm"])
    assert math.isnan(found["observer1", "no", "SpinalCord", "hd95_mm"])
    assert found["consensus", "no", "SpinalCord", "ci"] == 0.0


def test_an_organ_that_observer_1_did_not_draw_is_not_scored():
    """Neither missed nor found, whatever a system draws there."""
    three = observers()
    three["observer1"][three["observer1"] == 2] = 0
    found = of_drawing(SCAN, "2d", Labels(drawn(), GRID, TRUTH_LABELS), three, LUNGS, USUAL_CLEAN)
    assert {own.organ for own in found if own.reference == "observer1"} == {
        "Heart", "Lung_R", "Lung_L",
    }  # fmt: skip
    assert missed(found, "test1") == ()
    assert undrawn(found, "test1") == {Organ.CORD: 1}


def test_observers_among_themselves():
    """Hearts of three, lungs joined, cords of the two who drew one."""
    found = of_observers(SCAN, list(observers().values()), TRUTH_LABELS, LUNGS)
    index = {own.organ: own.value for own in found}
    # Layers of the heart: 4, 3 and 4; pairs share 3, 4, 3 of 4, 4, 4.
    assert index == {"Heart": pytest.approx(10 / 12), "Lungs": 1.0, "SpinalCord": 1.0}
    assert {own.system for own in found} == {"observers"}
    alone = of_observers(SCAN, list(observers().values())[:1], TRUTH_LABELS, LUNGS)
    assert alone == []


def test_the_file_keeps_every_bit(tmp_path):
    """Written and read: the same scores, an undefined one empty."""
    labels = drawn()
    labels[labels == 2] = 0
    labels[0, 0, 0] = 1
    found = of_drawing(
        SCAN, "2d", Labels(labels, GRID, TRUTH_LABELS), observers(), LUNGS, USUAL_CLEAN
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
    ("line", "said"),
    [
        (GOOD.replace("dsc", "DSC"), "measure 'DSC': one of dsc, msd_mm"),
        (GOOD.replace("0.9", "9.0"), "dsc 9.0: 0 to 1 expected"),
        (GOOD.replace("0.9", ""), "dsc nan: 0 to 1 expected"),
        (GOOD.replace("dsc,0.9", "hd95_mm,-1"), "hd95_mm -1.0: 0 to inf expected"),
        (GOOD.replace("observer1", "observer2"), "reference 'observer2' of dsc: 'observer1'"),
        (GOOD.replace("Heart", "heart"), "organ 'heart' of dsc: Heart or"),
        (GOOD.replace(",no,", ",nein,"), "cleaned 'nein' of dsc: no or yes"),
        (GOOD.replace("a-1,a,", "a-1,b,"), "scan a-1 is animal b's here and a's before"),
        (GOOD.replace("2d", ""), "set, scan, animal and system must be named"),
        ("test1,a-1", "line 3 has not 9 columns"),
        (GOOD + ",more", "line 3 has not 9 columns"),
        (GOOD, "line 3 says again what line 2 says"),
    ],
)
def test_what_no_score_says_is_refused_with_its_line(line, said, tmp_path):
    """A table made of it would be wrong without a word."""
    path = tmp_path / "scores.csv"
    path.write_text(f"{','.join(COLUMNS)}\n{GOOD}\n{line}\n")
    with pytest.raises(ConfigWrong, match=re.escape(said)):
        read_scores(path)


def test_what_a_spreadsheet_saved_is_read(tmp_path):
    """With a mark before the first column."""
    path = tmp_path / "scores.csv"
    path.write_text(f"{','.join(COLUMNS)}\n{GOOD}\n", encoding="utf-8-sig")
    assert read_scores(path)[0].value == 0.9
