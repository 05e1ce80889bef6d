"""The form of structure sets: the site's word, then the bundle's, then what is usual."""

from dataclasses import replace

import pytest

from limn.domain.errors import ConfigWrong
from limn.domain.shipped import EMBEDDED_BUNDLE
from limn.node.config import PlanningSystem
from limn.node.contour.site_bundle import style_of
from limn.segment.bundle.bundle import open_bundle
from tests.support.organs import Organ

USUAL = {
    "Heart": (255, 0, 0),
    "SpinalCord": (255, 255, 0),
    "Lung_R": (0, 200, 0),
    "Lung_L": (0, 128, 255),
}


@pytest.fixture(scope="module")
def bundle():
    """The embedded bundle."""
    return open_bundle(EMBEDDED_BUNDLE)


def test_a_site_that_says_nothing_gets_the_usual_names_colours_and_codes(bundle):
    """TG-263's names, one colour each, SNOMED CT's codes."""
    style = style_of(PlanningSystem(), bundle)
    assert style.roi_names == {organ: organ.value for organ in Organ}
    assert style.colours == USUAL
    assert [code.value for code in style.codes.values()] == [
        "80891009",
        "2748008",
        "3341006",
        "44029006",
    ]


def test_a_site_names_one_organ_and_leaves_the_others_alone(bundle):
    """The same of colours."""
    site = PlanningSystem(roi_names={"Heart": "heart"}, colours={"SpinalCord": (1, 2, 3)})
    style = style_of(site, bundle)
    assert list(style.roi_names.values()) == ["heart", "SpinalCord", "Lung_R", "Lung_L"]
    assert style.colours == USUAL | {"SpinalCord": (1, 2, 3)}


def test_an_organ_that_the_bundle_lacks_is_refused(bundle):
    """A misspelt name must not pass in silence."""
    for key in ({"roi_names": {"Spleen": "spleen"}}, {"colours": {"heart": (1, 2, 3)}}):
        with pytest.raises(ConfigWrong, match="of bundle phantom-7 and of this site are Heart, Sp"):
            style_of(PlanningSystem(**key), bundle)


def test_two_organs_under_one_roi_name_are_refused(bundle):
    """The planning system would merge them; a name given may also clash with a usual one."""
    with pytest.raises(ConfigWrong, match="two organs have the same ROI name"):
        style_of(PlanningSystem(roi_names={"Heart": "Lung_L"}), bundle)


def test_a_bundle_of_other_organs_states_colours_and_codes(bundle):
    """The site's word goes before them; an organ that nobody knows has no code."""
    other = replace(
        bundle,
        organs={1: "Liver", 2: "Xenograft"},
        colours={"Liver": (9, 9, 9), "Xenograft": (8, 8, 8)},
        codes={"Liver": ("1", "99MINE", "my liver")},
    )
    style = style_of(PlanningSystem(colours={"Xenograft": (7, 7, 7)}), other)
    assert style.colours == {"Liver": (9, 9, 9), "Xenograft": (7, 7, 7)}
    assert {organ: code.meaning for organ, code in style.codes.items()} == {"Liver": "my liver"}


@pytest.mark.parametrize(
    ("name", "shown"),
    [("mouse", "Mus musculus"), ("rat", "Rattus norvegicus"), ("Meriones", "Meriones")],
)
def test_the_bundle_says_of_which_species_the_animal_is(bundle, name, shown):
    """Where neither the site nor, in the file, the CT does; a rat is no mouse by default."""
    other = replace(bundle, species=replace(bundle.species, name=name))
    assert style_of(PlanningSystem(), other).species == shown
    assert style_of(PlanningSystem(species="Mus spretus"), other).species == "Mus spretus"
