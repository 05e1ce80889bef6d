"""A training's folder knows what it belongs to."""

import json
from dataclasses import replace

import pytest

from limn.domain.errors import ConfigWrong
from limn.lab.train import work_folder
from limn.lab.train.onlooker import OrientRecipe
from limn.lab.train.recipe import Recipe
from limn.lab.train.work_folder import begin


def begin_in(folder, recipe=None, orient=None):
    """What is said when a training begins in a folder."""
    lines: list[str] = []
    begin(folder, recipe or Recipe(), orient or OrientRecipe(), lines.append)
    return lines


def test_the_same_settings_go_on(tmp_path):
    """A folder that was begun so is gone on with in silence, and stays as it is."""
    assert begin_in(tmp_path) == []
    written = (tmp_path / "recipe.json").read_bytes()
    assert begin_in(tmp_path) == []
    assert (tmp_path / "recipe.json").read_bytes() == written


@pytest.mark.parametrize(
    ("recipe", "orient", "named"),
    [
        (replace(Recipe(), steps=401), None, "recipe.steps was 400, is 401"),
        (
            replace(Recipe(), patch_zyx=(64, 64, 64)),
            None,
            r"recipe.patch_zyx was \[80, 64, 80\], is \[64, 64, 64\]",
        ),
        (None, replace(OrientRecipe(), seed=78), "orient.seed was 77, is 78"),
    ],
)
def test_other_settings_are_refused(tmp_path, recipe, orient, named):
    """What differs is named, with both values, and what to do about it."""
    begin_in(tmp_path)
    written = (tmp_path / "recipe.json").read_bytes()
    with pytest.raises(ConfigWrong, match=named) as refused:
        begin_in(tmp_path, recipe, orient)
    assert str(tmp_path) in str(refused.value)
    assert "give another folder, or delete this one" in str(refused.value)
    assert (tmp_path / "recipe.json").read_bytes() == written


def test_a_setting_of_another_limn_is_named(tmp_path):
    """One that the folder's limn did not have yet, or that this one has no more."""
    begin_in(tmp_path)
    path = tmp_path / "recipe.json"
    kept = json.loads(path.read_text())
    del kept["recipe"]["stems"]
    kept["recipe"]["halves"] = 3
    path.write_text(json.dumps(kept))
    with pytest.raises(ConfigWrong, match=r"recipe.stems was null, is 2") as refused:
        begin_in(tmp_path)
    assert "recipe.halves was 3, is null" in str(refused.value)


def test_other_phantoms_are_refused(tmp_path, monkeypatch):
    """Same recipe, another mouse: a bone of one slice is enough."""
    begin_in(tmp_path)
    make_training_case = work_folder.make_training_case

    def changed(seed, recipe):
        case = make_training_case(seed, recipe)
        case.hu_zyx[9, 3:6, 3:6] += 300
        return case

    monkeypatch.setattr(work_folder, "make_training_case", changed)
    with pytest.raises(ConfigWrong, match="painted by another version of limn"):
        begin_in(tmp_path)


def test_another_processors_rounding_is_no_other_phantom(tmp_path, monkeypatch):
    """A few voxels that differ by 1 HU are the same mouse."""
    begin_in(tmp_path)
    make_training_case = work_folder.make_training_case

    def rounded(seed, recipe):
        case = make_training_case(seed, recipe)
        case.hu_zyx[9, 3:6, 3:6] += 1
        return case

    monkeypatch.setattr(work_folder, "make_training_case", rounded)
    assert begin_in(tmp_path) == []


def test_a_folder_of_an_earlier_limn_is_taken_over(tmp_path):
    """Phantoms without a word of whose they are: one line of warning, once."""
    (tmp_path / "phantoms").mkdir()
    (tmp_path / "phantoms" / "1000.npz").write_bytes(b"phantom")
    (line,) = begin_in(tmp_path)
    assert line.startswith(f"WARNING: {tmp_path} does not say")
    assert begin_in(tmp_path) == []


def test_a_damaged_recipe_is_named(tmp_path):
    """No guess at what it was."""
    (tmp_path / "recipe.json").write_text("{")
    with pytest.raises(ConfigWrong, match=r"recipe.json can't be read"):
        begin_in(tmp_path)
