"""A bundle names its organs, and says which of them the checks may ask for."""

import re
import shutil

import pytest

from limn.domain.errors import BundleUnfit
from limn.domain.scan import Role, named_organ
from limn.domain.shipped import MANIFEST
from limn.segment.bundle.bundle import open_bundle, write_manifest
from tests.conftest import BUNDLE
from tests.support.organs import Organ

NAMES = {"Heart": "Cor", "SpinalCord": "Medulla", "Lung_R": "Pulmo_D", "Lung_L": "Pulmo_S"}
ROLES = 'heart = "Cor"\ncord = "Medulla"\nlung_r = "Pulmo_D"\nlung_l = "Pulmo_S"'


@pytest.fixture
def renamed(tmp_path):
    """The embedded bundle with other names; a function that seals it with more tables."""
    folder = shutil.copytree(BUNDLE, tmp_path / "bundle")
    head = (folder / MANIFEST).read_text(encoding="utf-8").split("\n[files]\n")[0]
    described = (folder / "dataset.json").read_text(encoding="utf-8")
    for name, other in NAMES.items():
        head = re.sub(rf'(?m)^(\d) = "{name}"$', rf'\1 = "{other}"', head)
        head = head.replace(f"[clean.{name}]", f"[clean.{other}]")
        described = described.replace(f'"{name}"', f'"{other}"')
    (folder / "dataset.json").write_text(described, encoding="utf-8")

    def seal(tables=""):
        write_manifest(folder, f"{head}\n\n{tables}")
        return open_bundle(folder)

    return seal


def test_tg263_names_have_their_role():
    """The embedded bundle needs no table for it."""
    assert open_bundle(BUNDLE).roles == {
        Role.HEART: Organ.HEART,
        Role.CORD: Organ.CORD,
        Role.LUNG_R: Organ.LUNG_R,
        Role.LUNG_L: Organ.LUNG_L,
    }


def test_other_names_have_a_role_only_by_the_bundles_word(renamed):
    """Without the table no check of left and right runs."""
    assert renamed().roles == {}
    bundle = renamed(f"[roles]\n{ROLES}")
    assert list(bundle.organs.values()) == list(NAMES.values())
    assert bundle.roles[Role.LUNG_L] == "Pulmo_S"


def test_colours_and_codes(renamed):
    """Of the organs that state them."""
    code = '["1", "99MINE", "my heart"]'
    bundle = renamed(f"[rois.Cor]\ncolour = [1, 2, 3]\ncode = {code}")
    assert bundle.colours == {"Cor": (1, 2, 3)}
    assert bundle.codes == {"Cor": ("1", "99MINE", "my heart")}


@pytest.mark.parametrize(
    ("tables", "complaint"),
    [
        ('[roles]\nheart = "Heart"', "roles.heart is 'Heart', which no label has"),
        ('[roles]\nliver = "Cor"', "'liver' is not a valid Role"),
        ('[roles]\nheart = "Cor"\ncord = "Cor"', "roles gives one organ two roles"),
        ("[rois.Liver]\ncolour = [1, 2, 3]", "rois.Liver: no label has this name"),
        ("[rois.Cor]\ncolour = [1, 2, 300]", "three numbers from 0 to 255"),
        ("[rois.Cor]\ncolour = [1, 2]", "not enough values"),
        ('[rois.Cor]\ncode = ["1"]', "not enough values"),
    ],
)
def test_what_contradicts_the_labels_is_named(renamed, tables, complaint):
    """In the message of the bundle."""
    with pytest.raises(BundleUnfit, match=re.escape(complaint)):
        renamed(tables)


@pytest.mark.parametrize(
    "name", ["", "left lung", 'a"b', "a\\b", "x" * 65, "a\nb", "\u200b", "K\u00f6rper"]
)
def test_a_name_that_no_file_can_hold_is_refused(name):
    """Flags and tables divide their words by blanks."""
    with pytest.raises(ValueError, match="1 to 64 ASCII letters without blanks"):
        named_organ(name)
