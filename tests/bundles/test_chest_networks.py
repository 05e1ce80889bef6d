"""What an imported bundle of the chest gets from the embedded one."""

import re
import shutil

import pytest

from limn.bundles.chest_networks import add_chest_networks
from limn.domain.shipped import EMBEDDED_BUNDLE, MANIFEST
from limn.segment.bundle.bundle import open_bundle, write_manifest
from limn.segment.engine.ensemble import Ensemble
from tests.conftest import one_fold


@pytest.fixture
def without(tmp_path):
    """A bundle's folder as an import leaves it, its manifest changed."""

    def made(*changes):
        folder = tmp_path / "imported"
        small = shutil.ignore_patterns("orient.pth", "localiser.pth")
        shutil.copytree(one_fold(), folder, ignore=small)
        head = (folder / MANIFEST).read_text(encoding="utf-8").split("\n[files]\n")[0]
        head = re.sub(r"(?m)^(onlooker|localiser) = .*\n", "", head)
        for before, after in changes:
            assert before in head
            head = head.replace(before, after)
        write_manifest(folder, head)
        return folder

    return made


def test_a_bundle_of_the_chest_finds_the_chest_and_how_the_animal_lies(without):
    """In profile fast; in the paper's every fold sees the whole scan, as the paper has it."""
    folder = without(('profile = "fast"', 'profile = "paper"'))
    assert open_bundle(folder).localiser is None
    bundle = add_chest_networks(folder)
    for name in (bundle.onlooker, bundle.localiser):
        assert (folder / name).read_bytes() == (EMBEDDED_BUNDLE / name).read_bytes()
    assert bundle.profile == "paper"
    assert bundle == open_bundle(folder)
    paper, fast = (Ensemble.load(bundle, "cpu", name) for name in ("paper", "fast"))
    assert paper.localiser is None
    assert fast.localiser is not None
    assert paper.finder is not None
    # A second time nothing changes.
    assert add_chest_networks(folder).sha256 == bundle.sha256


RAT = """[animal]
species = "rat"
thickness_mm = [20, 80]
usual_thickness_mm = [25, 70]
heart_mm3 = [300, 3000]
lungs_mm3 = [1000, 9000]

[labels]"""


@pytest.mark.parametrize(
    "changes",
    [
        [('3 = "Lung_R"', '3 = "Kidney_R"'), ("[clean.Lung_R]", "[clean.Kidney_R]")],
        [("[labels]", RAT)],
    ],
    ids=["an organ of the belly", "a rat"],
)
def test_other_bundles_stay_as_they_are(without, changes):
    """The localiser learnt the chests of mice."""
    folder = without(*changes)
    if "Kidney_R" in changes[0][1]:
        labels = folder / "dataset.json"
        labels.write_text(labels.read_text().replace("Lung_R", "Kidney_R"))
        write_manifest(folder, (folder / MANIFEST).read_text().split("\n[files]\n")[0])
    before = open_bundle(folder)
    assert add_chest_networks(folder) == before
