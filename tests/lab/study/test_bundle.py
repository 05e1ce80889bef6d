"""The statement of a study's bundle, and the sealed bundle."""

import pytest

from limn.lab.data.dataset import Entry
from limn.lab.data.organs import PHANTOM_ORGANS
from limn.lab.study.bundle import NEVER_SEEN, bundle_statement, seal_folds
from limn.lab.study.config import read_study
from limn.segment.bundle.bundle import open_bundle
from limn.segment.importing.trained import NOT_STATED
from tests.support.segment.bundles import architecture, random_bundle

STUDY = """
profile = "fast"
[cohort]
animals = 4
[systems.3d_fullres]
spacing_mm = 0.3
patch = [16, 16, 24]
poolings = [2, 2, 2]
features = [4, 8, 16]
batch = 2
epochs = 2
iterations = 4
"""


def scan(number, fold, *, contrast="no", truth=""):
    """A scan that trains, two of each animal."""
    animal = f"a{number // 2}"
    empty = dict.fromkeys(Entry.__dataclass_fields__, "")
    return Entry(
        **empty
        | {
            "scan": f"{animal}-t{number % 2}",
            "animal": animal,
            "contrast": contrast,
            "split": "train",
            "fold": str(fold),
            "truth": truth,
        }
    )


@pytest.fixture
def study(tmp_path):
    """Reads a study with more lines."""

    def read(more=""):
        path = tmp_path / "study.toml"
        path.write_text(STUDY + more, encoding="utf-8")
        return read_study(path)

    return read


PHANTOMS = [scan(k, k // 2, truth="truth.nii.gz") for k in range(4)]
ANIMALS = [scan(k, k // 2, contrast="yes" if k == 3 else "no") for k in range(4)]


def test_folds_that_learnt_from_phantoms_are_a_demonstration(study):
    """The statement excludes animals, whatever the configuration adds."""
    own = bundle_statement(study(), PHANTOMS, PHANTOM_ORGANS)
    assert own.demonstration
    assert own.not_for == NEVER_SEEN
    assert own.trained_on.startswith("4 scans of 2 digital phantom mice and no animal, by nnU-Net")
    assert "2 folds of 2 epochs of 4 steps, voxels of 0.3 mm" in own.trained_on
    named = bundle_statement(
        study('[bundle]\nname = "mice"\nnot_for = "rats"'), PHANTOMS, PHANTOM_ORGANS
    )
    assert (named.name, named.not_for) == ("mice", f"{NEVER_SEEN}; rats")


def test_folds_that_learnt_from_animals_say_which(study):
    """Counts, contrast agent, the configuration's words; one phantom makes a demonstration."""
    own = bundle_statement(study(), ANIMALS, PHANTOM_ORGANS)
    assert not own.demonstration
    assert own.trained_on.startswith("4 scans of 2 animals, 1 of them contrast-enhanced, by")
    assert (own.name, own.version, own.not_for) == ("study", "1", NOT_STATED)
    assert (
        bundle_statement(study('[bundle]\nnot_for = "rats"'), ANIMALS, PHANTOM_ORGANS).not_for
        == "rats"
    )
    mixed = bundle_statement(study(), [*ANIMALS[:3], PHANTOMS[3]], PHANTOM_ORGANS)
    assert mixed.demonstration
    assert mixed.trained_on.startswith("4 scans of 2 animals, all native, 1 of them digital phant")


def test_words_about_the_bundle_begin_no_other_study(study):
    """A folder belongs to the same study after its bundle got a name."""
    assert study('[bundle]\nname = "mice"').digest() == study().digest()


def test_the_sealed_bundle_says_so(study, tmp_path):
    """Its manifest has the statement and the study's profile, and it is written once."""
    described = architecture(3, [[1, 1, 1], [2, 2, 2], [2, 2, 2]], [[3, 3, 3]] * 3)
    trained = random_bundle(tmp_path / "t", described, [16, 16, 24], [0.3, 0.3, 0.3]).folder
    own = bundle_statement(study(), PHANTOMS, PHANTOM_ORGANS)
    seal_folds(trained, tmp_path / "bundle", own, "fast")
    bundle = open_bundle(tmp_path / "bundle")
    assert (bundle.demonstration, bundle.profile, bundle.label) == (True, "fast", "study-1")
    assert (bundle.trained_on, bundle.not_for) == (own.trained_on, NEVER_SEEN)
    before = (tmp_path / "bundle" / "bundle.toml").stat().st_mtime_ns
    seal_folds(trained, tmp_path / "bundle", own, "fast")
    assert (tmp_path / "bundle" / "bundle.toml").stat().st_mtime_ns == before
