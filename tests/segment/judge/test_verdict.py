"""One rule: which light a scan and its organs get, and what holds a scan."""

from dataclasses import replace

import numpy as np
import pytest

from limn.domain.geometry import SpacingMm, axial_grid
from limn.domain.light import Light
from limn.domain.scan import Labels
from limn.segment.bundle.species import MOUSE
from limn.segment.draw.delineate import Delineated
from limn.segment.draw.hounsfield import Calibration
from limn.segment.draw.sides import Sides
from limn.segment.engine.localisation.orient import AS_IN_HEADER, Lie
from limn.segment.judge.quality import Interval, Judge, Limits, Quality
from limn.segment.judge.signs import Signs
from limn.segment.judge.verdict import judge_scan
from tests.support.organs import Organ

VOLUMES = {Organ.HEART: 210.0, Organ.CORD: 40.0, Organ.LUNG_R: 310.0, Organ.LUNG_L: 190.0}
NO_MEASURES = Signs({}, {})
SURE = Sides(9.0, 0.6, 1.6, 1.2, believed_mirrored=False)
UNSURE = Sides(-3.0, 0.5, -0.1, 0.0, believed_mirrored=False)


def drawn(**changed):
    """A scan against which nothing speaks."""
    nothing = np.zeros((2, 2, 2), np.uint8)
    grid = axial_grid((2, 2, 2), SpacingMm(1.0, 1.0, 1.0), np.zeros(3))
    labels = Labels(nothing, grid, dict(enumerate(Organ, start=1)))
    alike = dict.fromkeys(Organ, 0.95)
    plain = Delineated(labels, {}, 1, AS_IN_HEADER, (), alike, nothing, (), SURE)
    return replace(plain, **changed)


def judged(scan, volumes=VOLUMES, judge=None, signs=NO_MEASURES):
    """The verdict on a scan."""
    return judge_scan(scan, signs, judge, volumes, MOUSE)


class Foresees(Judge):
    """A judge that predicts the same DSC of each organ, whatever the signs are."""

    def __init__(self, dsc, low=None):
        object.__setattr__(self, "dsc", dsc)
        object.__setattr__(self, "low", low)
        object.__setattr__(self, "limits", dict.fromkeys(dsc, Limits(0.82, 0.88)))

    def predict(self, signs):
        """Of every organ of the signs."""
        del signs
        far = Interval(0.1, 0.5, 1.0)
        return {
            organ: Quality(Interval(self.low or dsc - 0.1, dsc, min(1.0, dsc + 0.05)), far)
            for organ, dsc in self.dsc.items()
        }


def test_nothing_speaks_against_a_plain_scan():
    """Green, not held; without a judge no organ has a light of its own."""
    verdict = judged(drawn())
    assert (verdict.light, verdict.notes(())) == (Light.GREEN, ())
    assert verdict.flags == ("light:green", "not-judged")
    assert verdict.hold_reason("amber") is None
    assert verdict.light_of(Organ.HEART) is None


@pytest.mark.parametrize("rule", ["red", "amber", "sides"])
@pytest.mark.parametrize(
    ("changed", "flag", "words"),
    [
        ({"lie": Lie("SPR", 0.97)}, "mirrored:SPR", "mirror image: left and right are exchanged"),
        ({"lie": Lie("SPL", 0.55)}, "lie-unsure:0.55", "hardly tells how the animal lies"),
        ({"sides": UNSURE}, "sides-unsure:", "left and right are in doubt"),
    ],
)
def test_sides_in_doubt_always_hold(rule, changed, flag, words):
    """Whatever a site decides: nobody sees exchanged lungs in a planning system."""
    verdict = judged(drawn(**changed))
    assert verdict.flags[0].startswith(flag)
    assert verdict.light is Light.RED
    assert words in verdict.hold_reason(rule)


def test_a_turned_animal_goes_out_in_amber():
    """It is contoured as it lies, and the structure set says so first."""
    verdict = judged(drawn(lie=Lie("SAR", 0.99)))
    assert verdict.light is Light.AMBER
    assert verdict.notes(())[0].startswith("header and anatomy disagree: turned by 180 degrees")
    assert verdict.hold_reason("red") is None
    assert "mend the position that the operator chose" in verdict.hold_reason("amber")


@pytest.mark.parametrize(
    ("dsc", "light", "rule_that_holds"), [(0.79, Light.AMBER, "amber"), (0.5, Light.RED, "red")]
)
def test_folds_that_disagree(dsc, light, rule_that_holds):
    """A little is amber, different organs are red: for the organ, and for the scan."""
    verdict = judged(drawn(fold_dsc=dict.fromkeys(Organ, 0.95) | {Organ.CORD: dsc}))
    assert verdict.light is light
    assert verdict.light_of(Organ.CORD) is light
    assert verdict.light_of(Organ.HEART) is None
    assert "SpinalCord" in verdict.hold_reason(rule_that_holds)
    assert verdict.hold_reason("sides") is None


def test_a_structure_set_says_that_it_was_held_only_if_it_was():
    """A site may decide that red lights go out; in doubt about left and right it may not."""
    torn = judged(drawn(fold_dsc=dict.fromkeys(Organ, 0.95) | {Organ.CORD: 0.5}))
    assert torn.notes(torn.holding("red")) == ("the folds disagree: held for release",)
    assert torn.notes(torn.holding("sides")) == ("the folds disagree",)
    assert "held" in torn.organ_words(torn.holding("red"))[Organ.CORD]
    assert "held" not in torn.organ_words(torn.holding("sides"))[Organ.CORD]
    unsure = judged(drawn(sides=UNSURE))
    assert unsure.notes(unsure.holding("sides")) == ("left and right unsure: held for release",)


@pytest.mark.parametrize(
    ("dsc", "light"), [(0.93, Light.GREEN), (0.85, Light.AMBER), (0.7, Light.RED)]
)
def test_the_judge_s_limits(dsc, light):
    """A predicted DSC below a limit, with its interval in words and in the ROI's description."""
    verdict = judged(drawn(), judge=Foresees({Organ.HEART: dsc, Organ.LUNG_L: 0.97}))
    assert verdict.light is light
    assert verdict.light_of(Organ.HEART) is light
    assert verdict.light_of(Organ.LUNG_L) is Light.GREEN
    assert f"predicted DSC {dsc:.2f} ({dsc - 0.1:.2f} to " in verdict.organ_words(())[Organ.HEART]
    assert (verdict.hold_reason("red") is not None) == (light is Light.RED)


def test_a_missing_organ_is_red():
    """It may be outside the field; a person must say so."""
    verdict = judged(drawn(), VOLUMES | {Organ.LUNG_L: 0.0})
    assert verdict.light_of(Organ.LUNG_L) is Light.RED
    assert "empty:Lung_L" in verdict.flags
    assert "Lung_L was not found" in verdict.hold_reason("red")


def test_an_organ_that_the_field_cuts_is_amber_and_the_cord_is_not():
    """The cord goes on beyond every field."""
    cut = {"field_edge_share": 0.3}
    signs = Signs({}, {Organ.LUNG_R: cut, Organ.CORD: cut})
    verdict = judged(drawn(), signs=signs)
    assert [each.flag for each in verdict.concerns] == ["cut:Lung_R"]
    assert verdict.light is Light.AMBER


def test_mended_hu_are_amber():
    """The note of the calibration reaches the structure set."""
    mended = Calibration(2.0, 5.0, -502.0, 17.0)
    verdict = judged(drawn(calibration=mended))
    assert (verdict.light, verdict.notes(())) == (Light.AMBER, (mended.note,))


def test_a_mouse_of_a_rare_size_is_red():
    """Its reason names the figure and what to compare."""
    verdict = judged(drawn(), {organ: 8 * mm3 for organ, mm3 in VOLUMES.items()})
    assert verdict.light is Light.RED
    assert "this size is rare for a mouse" in verdict.hold_reason("red")


def test_what_always_holds_comes_first():
    """The first sentence of the hold is the one that a planner can't see."""
    verdict = judged(drawn(sides=UNSURE, fold_dsc=dict.fromkeys(Organ, 0.3)))
    assert verdict.hold_reason("red").startswith("left and right are in doubt")
    assert "light:red" in verdict.flags


def test_a_prediction_that_knows_nothing_is_not_green():
    """Its middle is good, and its interval begins below a half."""
    verdict = judged(drawn(), judge=Foresees({Organ.CORD: 0.9}, low=0.3))
    assert verdict.light_of(Organ.CORD) is Light.AMBER
