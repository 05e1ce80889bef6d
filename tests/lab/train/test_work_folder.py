"""A training's work folder records its settings."""

import copy
import functools
import json
from dataclasses import replace

import pytest

from limn.domain.errors import ConfigWrong
from limn.lab.train import work_folder
from limn.lab.train.localiser import LocaliserRecipe
from limn.lab.train.onlooker import OrientRecipe
from limn.lab.train.patches import make_training_case
from limn.lab.train.recipe import Recipe
from limn.lab.train.work_folder import claim

painted = functools.cache(make_training_case)


@pytest.fixture(autouse=True)
def _painted_once(monkeypatch):
    """The sample phantoms are the same for all settings, so they are painted once."""
    monkeypatch.setattr(
        work_folder, "make_training_case", lambda *given: copy.deepcopy(painted(*given))
    )


def claim_in(folder, recipe=None, orient=None):
    """The reports of a training that starts in a folder."""
    lines: list[str] = []
    claim(folder, recipe or Recipe(), orient or OrientRecipe(), LocaliserRecipe(), lines.append)
    return lines


def test_the_same_settings_go_on(tmp_path, monkeypatch):
    """A folder with the same settings is used without a report, and its record does not change.

    The sample phantoms are painted again, as in another process.
    """
    monkeypatch.setattr(work_folder, "make_training_case", make_training_case)
    assert claim_in(tmp_path) == []
    written = (tmp_path / "recipe.json").read_bytes()
    assert claim_in(tmp_path) == []
    assert (tmp_path / "recipe.json").read_bytes() == written


@pytest.mark.parametrize(
    ("recipe", "orient", "named"),
    [
        (replace(Recipe(), steps=401), None, "recipe.steps was 400, is 401"),
        (
            replace(Recipe(), patch_zyx=(64, 64, 64)),
            None,
            r"recipe.patch_zyx was \[128, 80, 96\], is \[64, 64, 64\]",
        ),
        (None, replace(OrientRecipe(), seed=78), "orient.seed was 77, is 78"),
    ],
)
def test_other_settings_are_refused(tmp_path, recipe, orient, named):
    """The error names the difference, both values, and the remedy."""
    claim_in(tmp_path)
    written = (tmp_path / "recipe.json").read_bytes()
    with pytest.raises(ConfigWrong, match=named) as refused:
        claim_in(tmp_path, recipe, orient)
    assert str(tmp_path) in str(refused.value)
    assert "give another folder, or delete this one" in str(refused.value)
    assert (tmp_path / "recipe.json").read_bytes() == written


def test_a_setting_of_another_version_is_named(tmp_path):
    """A setting that the older version lacked, and one that this version lacks."""
    claim_in(tmp_path)
    path = tmp_path / "recipe.json"
    kept = json.loads(path.read_text())
    del kept["recipe"]["stems"]
    kept["recipe"]["halves"] = 3
    path.write_text(json.dumps(kept))
    with pytest.raises(ConfigWrong, match=r"recipe.stems was null, is 2") as refused:
        claim_in(tmp_path)
    assert "recipe.halves was 3, is null" in str(refused.value)


def test_other_phantoms_are_refused(tmp_path, monkeypatch):
    """The same recipe and another mouse: one bone in one slice is enough."""
    claim_in(tmp_path)
    make_training_case = work_folder.make_training_case

    def changed(seed, recipe):
        case = make_training_case(seed, recipe)
        case.hu_zyx[9, 3:6, 3:6] += 300
        return case

    monkeypatch.setattr(work_folder, "make_training_case", changed)
    with pytest.raises(ConfigWrong, match="painted by another version of limn"):
        claim_in(tmp_path)


def test_another_processors_rounding_is_no_other_phantom(tmp_path, monkeypatch):
    """A few voxels that differ by 1 HU are the same mouse."""
    claim_in(tmp_path)
    make_training_case = work_folder.make_training_case

    def rounded(seed, recipe):
        case = make_training_case(seed, recipe)
        case.hu_zyx[9, 3:6, 3:6] += 1
        return case

    monkeypatch.setattr(work_folder, "make_training_case", rounded)
    assert claim_in(tmp_path) == []


def test_a_folder_of_an_early_version_is_used(tmp_path):
    """Phantoms without settings: one warning, once."""
    (tmp_path / "phantoms").mkdir()
    (tmp_path / "phantoms" / "1000.npz").write_bytes(b"phantom")
    (line,) = claim_in(tmp_path)
    assert line.startswith(f"WARNING: {tmp_path} does not say")
    assert claim_in(tmp_path) == []


def test_a_damaged_recipe_is_named(tmp_path):
    """A record that can't be read is an error, not a guess."""
    (tmp_path / "recipe.json").write_text("{")
    with pytest.raises(ConfigWrong, match=r"recipe.json can't be read"):
        claim_in(tmp_path)
