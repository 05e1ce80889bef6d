"""A study's TOML: the shipped ones follow the paper, and errors are named."""

import re
import tomllib

import pytest

from limn.domain.errors import ConfigWrong
from limn.lab.study.config import read_study
from limn.lab.systems.nnunet_plans import plans
from tests.conftest import REPOSITORY

CONFIG = REPOSITORY / "config"
GOOD = """
[cohort]
animals = 4
[systems.3d_fullres]
spacing_mm = 0.7
patch = [32, 32, 32]
poolings = [2, 2, 2]
features = [4, 8, 16]
batch = 2
epochs = 2
iterations = 4
"""
WRONG = {
    'trainer = "fast"': "trainer 'fast': nnunet or short expected",
    'profile = "quick"': "profile 'quick'",
    "colour = 1": "colour is not known here",
    "[systems.unet]": "systems.unet is not known here",
    "[systems]\n2d = 1": "systems.2d = 1: a table [systems.2d] is expected",
    "[systems.2d]\npatch = [32, 32, 32]": "systems.2d.patch = [32, 32, 32]: 2 numbers expected",
    "[systems.aimos]\nsize = [64]": "systems.aimos.size = [64]: 2 numbers expected",
    "[systems.3d_cascade]": "systems.3d_cascade needs systems.3d_lowres",
    '[data]\nsource = "x"': "both given",
    '[bundle]\nname = "two words"': "[bundle] name = 'two words': letters, digits",
    "[bundle]\nname = 1": "bundle.name = 1: str expected",
}
SWAPPED = {
    ("batch = 2", "batch = 0"): r"\[systems.3d_fullres\] batch, epochs",
    ("batch = 2", "batch = 2.5"): "systems.3d_fullres.batch = 2.5: int expected",
    ("batch = 2", "batch = true"): "systems.3d_fullres.batch = True: int expected",
    ("batch = 2\n", ""): "missing 1 required .*'batch'",
    ("[32, 32, 32]", "[32, 30, 32]"): "30 can't be halved so often",
    ("[4, 8, 16]", "[4, 8]"): "3 stages expected",
    ("[32, 32, 32]", "[32, 32]"): r"systems.3d_fullres.patch = \[32, 32\]: 3 numbers expected",
    ("[systems.3d_fullres]", "[systems.3d_lowres]"): "systems.3d_fullres is missing",
    ("[cohort]\nanimals = 4", ""): "neither given",
    ("animals = 4", "mice = 4"): "cohort.mice is not known here",
    ("spacing_mm = 0.7", 'spacing_mm = "0.7"'): "spacing_mm = '0.7': float expected",
}


def written(tmp_path, text):
    """A study's TOML on disk."""
    path = tmp_path / "study.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_paper_study_has_the_paper_plans():
    """Malimban 2022, Methods: spacing, patch, batch, features; 2d on coronal slices."""
    study = read_study(CONFIG / "paper.toml")
    full, low, flat = (study.nnunet[name] for name in ("3d_fullres", "3d_lowres", "2d"))
    assert not study.short
    assert sorted(full.patch) == [96, 128, 192]
    assert (full.spacing_mm, low.spacing_mm, full.batch, full.features[0]) == (0.14, 0.19, 2, 32)
    assert (flat.patch, flat.batch, flat.features[-1]) == ((320, 224), 44, 480)
    assert study.nnunet["3d_cascade"] == full
    assert (study.aimos.features[0], study.aimos.features[-1], study.aimos.batch) == (32, 768, 32)
    assert study.layout == CONFIG / "rosenhain-zenodo.toml"


def test_data_given_on_the_command_line_count(tmp_path):
    """The folder of the command line replaces that of the TOML."""
    assert read_study(CONFIG / "paper.toml", tmp_path).source == tmp_path


def test_data_for_a_study_that_makes_its_own_are_refused(tmp_path):
    """Both sources are refused, with a table [data] or without."""
    for text in (GOOD, '[data]\nsplit = ""\n' + GOOD):
        with pytest.raises(ConfigWrong, match=r"--data FOLDER\) .* both given"):
            read_study(written(tmp_path, text), tmp_path)


def test_data_for_a_study_that_names_none(tmp_path):
    """The folder of the command line is enough without a table [data]."""
    text = GOOD.replace("[cohort]\nanimals = 4", "")
    assert read_study(written(tmp_path, text), tmp_path / "scans").source == tmp_path / "scans"


def test_plans_of_the_paper_study_build_the_networks_of_nnunetv2():
    """nnunetv2's PlansManager reads strides and stages that fit the patches."""
    handler = pytest.importorskip("nnunetv2.utilities.plans_handling.plans_handler")
    study = read_study(CONFIG / "paper.toml")
    fingerprint = {
        "spacings": [[0.14, 0.14, 0.14]],
        "shapes_after_crop": [[220, 180, 200]],
        "foreground_intensity_properties_per_channel": {},
    }
    manager = handler.PlansManager(plans("Dataset901_limn", study.nnunet, fingerprint))
    for system in ("3d_fullres", "3d_lowres", "3d_cascade_fullres", "2d"):
        own = manager.get_configuration(system)
        assert len(own.pool_op_kernel_sizes) == len(own.network_arch_init_kwargs["strides"])
        halved = [1] * len(own.patch_size)
        for strides in own.pool_op_kernel_sizes:
            halved = [n * k for n, k in zip(halved, strides, strict=True)]
        assert [n % k for n, k in zip(own.patch_size, halved, strict=True)] == [0] * len(halved)
    assert manager.get_configuration("3d_cascade_fullres").previous_stage_name == "3d_lowres"
    assert manager.get_configuration("3d_lowres").next_stage_names == ["3d_cascade_fullres"]
    assert manager.transpose_forward == [1, 0, 2]


def test_the_phantom_study_is_whole():
    """All five systems, phantoms of its own, and a split with both test sets."""
    study = read_study(CONFIG / "phantom-study.toml")
    assert len(study.systems) == 5
    assert study.short
    split = tomllib.loads(study.split.read_text(encoding="utf-8"))
    names = {animal.name for animal in study.cohort.all_animals}
    training = [animal for fold in split["folds"] for animal in fold]
    assert {*split["test1"], *split["test2"], *training} == names


@pytest.mark.parametrize("line", WRONG)
def test_what_is_wrong_is_named(tmp_path, line):
    """The message names the file, the key, the value and what is expected."""
    text = GOOD + line if line.startswith("[") else line + GOOD
    with pytest.raises(ConfigWrong, match=re.escape(WRONG[line])) as raised:
        read_study(written(tmp_path, text))
    assert "study.toml" in str(raised.value)


@pytest.mark.parametrize("swapped", SWAPPED)
def test_wrong_presets_are_named(tmp_path, swapped):
    """A good study with one word changed."""
    assert swapped[0] in GOOD
    with pytest.raises(ConfigWrong, match=SWAPPED[swapped]):
        read_study(written(tmp_path, GOOD.replace(*swapped)))


def test_a_file_that_is_not_toml(tmp_path):
    """The error names the file."""
    with pytest.raises(ConfigWrong, match="can't be read as a study"):
        read_study(written(tmp_path, "a = "))
