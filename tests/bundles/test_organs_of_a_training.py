"""Which organ each label of a training is: by its own names, or by what a person says."""

import re
from types import SimpleNamespace

import pytest

from limn.bundles import importing
from limn.bundles.importing import ImportOptions, parse_labels, parse_roles
from limn.domain.errors import ConfigWrong
from limn.domain.scan import Role


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch):
    """Nobody can be asked."""
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: False))


def organs(*names, **options):
    """The organs of a training with labels of these names."""
    trained = SimpleNamespace(labels=dict(enumerate(names, start=1)))
    return importing._organs(trained, ImportOptions(**options))


def test_a_training_names_its_organs():
    """TG-263's names may have other capitals; blanks become underscores."""
    assert organs("liver", "left kidney", "heart", "SPINALCORD") == {
        1: "liver",
        2: "left_kidney",
        3: "Heart",
        4: "SpinalCord",
    }


@pytest.mark.parametrize("names", [("left lung", "liver"), ("", ""), ("spine",), ("myHeart",)])
def test_an_organ_that_sides_are_checked_by_must_be_named(names):
    """Else left and right would go unchecked because of a name."""
    with pytest.raises(ConfigWrong, match="limn checks left and right by heart, cord and lungs"):
        organs(*names)


def test_a_slip_in_a_name_is_not_taken_for_another_organ():
    """Lung_r is the right lung; what only sounds like one must be said to be none."""
    assert organs("", "", labels="1=Lung_r,2=HEART") == {1: "Lung_R", 2: "Heart"}
    with pytest.raises(ConfigWrong, match="--labels names LungRight; limn checks left and right"):
        organs("", labels="1=LungRight")
    assert organs("", labels="1=LungRight", roles="lung_r=LungRight") == {1: "LungRight"}


def test_a_person_names_them_or_says_which_is_which():
    """`--labels` gives other names; `--roles` keeps those of the training."""
    assert organs("left lung", labels="1=Lung_L") == {1: "Lung_L"}
    assert organs("left lung", "liver", roles="lung_l=left_lung") == {1: "left_lung", 2: "liver"}
    assert organs("heartburn", roles="") == {1: "heartburn"}


def test_roles_are_parsed():
    """Each names an organ that there is."""
    assert parse_roles("heart=Cor, lung_r=Pulmo_D", ["Cor", "Pulmo_D"]) == {
        Role.HEART: "Cor",
        Role.LUNG_R: "Pulmo_D",
    }
    assert parse_roles("", ["Cor"]) == {}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("liver=Cor", "one each of heart, cord, lung_r, lung_l expected"),
        ("heart=Cor,heart=Cor", "one each of heart"),
        ("heart=Liver", "no label is 'Liver'; the organs are Cor"),
        ("heart", "no label is ''"),
    ],
)
def test_wrong_roles_are_named(text, complaint):
    """With what is expected."""
    with pytest.raises(ConfigWrong, match=re.escape(complaint)):
        parse_roles(text, ["Cor"])


def test_wrong_labels_are_named():
    """Twice a number, a name with a blank, no number."""
    assert parse_labels("1=Liver, 2=Kidney_L") == {1: "Liver", 2: "Kidney_L"}
    for text in ("1=Liver,1=Heart", "1=left lung", "x=Heart"):
        with pytest.raises(ConfigWrong, match="--labels"):
            parse_labels(text)
