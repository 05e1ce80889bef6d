"""No animal is on two sides: in the committed splits, in a drawn split, in a file."""

import re
import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limn.domain.errors import ConfigWrong
from limn.lab.data.split import Split, as_toml, draw_split, folded, read_split
from limn.phantom.cohort import Cohort
from limn.phantom.cohort import CohortSplit as Side
from tests.conftest import REPOSITORY

COMMITTED = sorted((REPOSITORY / "config").glob("split-*.toml"))
animals = st.lists(st.from_regex(r"[a-z]\d{1,3}", fullmatch=True), unique=True, max_size=30)


def test_there_are_committed_splits():
    """One for the database, one for the phantom cohort, one for the small study."""
    names = {path.stem for path in COMMITTED}
    assert names == {"split-phantom", "split-phantom-study", "split-rosenhain"}


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_no_animal_is_on_both_sides_of_a_committed_split(path):
    """Each animal stands once; contrast-enhanced animals only test."""
    table = tomllib.loads(path.read_text())
    sides = [table["test1"], table["test2"], *table["folds"]]
    animals_named = [animal for side in sides for animal in side]
    assert animals_named
    assert len(animals_named) == len(set(animals_named))
    natives = [*table["test1"], *(animal for fold in table["folds"] for animal in fold)]
    assert all(animal.startswith("native-") for animal in natives)
    assert all(animal.startswith("contrast-") for animal in table["test2"])
    assert as_toml(read_split(path)) in path.read_text()


@pytest.mark.parametrize("name", ["split-phantom", "split-rosenhain"])
def test_the_full_studies_split_as_the_paper(name):
    """15 animals train in five folds of three, 5 test."""
    split = read_split(REPOSITORY / "config" / f"{name}.toml")
    assert [len(fold) for fold in split.folds] == [3] * 5
    assert len(split.test1) == 5


def test_the_small_study_splits_its_own_cohort():
    """The split names the animals that the configuration makes, on the same sides."""
    table = tomllib.loads((REPOSITORY / "config" / "phantom-study.toml").read_text())
    cohort = Cohort(**table["cohort"])
    split = read_split(REPOSITORY / "config" / table["data"]["split"])
    names = {animal.name for animal in cohort.all_animals}
    assert names == {*split.training, *split.test1, *split.test2}
    assert {animal.name for animal in cohort.all_animals if animal.contrast} == {*split.test2}


def test_the_phantom_split_is_the_cohorts_own():
    """The cohort and the committed file agree on every animal."""
    split = read_split(REPOSITORY / "config" / "split-phantom.toml")
    for animal in Cohort().all_animals:
        assert split.side_of(animal.name) == animal.split
        assert (split.fold_of(animal.name) is None) == (animal.split is not Side.TRAIN)


def test_the_database_split_is_drawn_by_the_seed_of_the_code():
    """The committed file can be drawn again."""
    native = [f"native-M{k:02d}" for k in range(1, 21)]
    contrast = [f"contrast-M{k:02d}" for k in range(1, 11)]
    path = REPOSITORY / "config" / "split-rosenhain.toml"
    assert read_split(path) == draw_split(native[::-1], contrast, 1822)
    assert draw_split(native, contrast, 1) != draw_split(native, contrast, 2)


@settings(max_examples=50)
@given(native=animals, contrast=animals, seed=st.integers(0, 1000))
def test_any_drawn_split_keeps_animals_apart(native, contrast, seed):
    """Every animal stands in one place, and three of four native animals train."""
    contrast = [f"c{name}" for name in contrast]
    split = draw_split(native, contrast, seed)
    sides = [split.test1, split.test2, *split.folds]
    animals_named = [animal for side in sides for animal in side]
    assert sorted(animals_named) == sorted(native + contrast)
    assert len(set(animals_named)) == len(animals_named)
    assert split.test2 == tuple(sorted(contrast))
    if len(native) > 1:
        assert split.test1
        assert abs(len(split.training) - 0.75 * len(native)) < 1
    assert max(map(len, split.folds), default=0) - min(map(len, split.folds), default=0) <= 1


def test_a_split_is_read_as_it_was_written(tmp_path):
    """Folds and sides survive the file."""
    split = folded(["a", "b", "c", "d", "e", "f"], ["g"], ["h"])
    assert [len(fold) for fold in split.folds] == [2, 1, 1, 1, 1]
    path = tmp_path / "split.toml"
    path.write_text(as_toml(split))
    assert read_split(path) == split
    assert (split.side_of("a"), split.fold_of("a")) == (Side.TRAIN, 0)
    assert (split.side_of("g"), split.fold_of("g")) == (Side.TEST1, None)
    assert split.side_of("nobody") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('test1 = ["a"]\ntest2 = []\nfolds = [["b"], ["c", "a"]]\n', "animal a stands in two"),
        ('test1 = []\ntest2 = []\nfolds = [["b"], ["b"]]\n', "animal b stands in two"),
        ('test1 = ["a"]\nfolds = []\n', "key test2"),
        ('test1 = "a"\ntest2 = []\nfolds = []\n', "lists of animals"),
        ("test1 = [", "can't be read as a split"),
    ],
)
def test_a_wrong_split_is_refused(text, message, tmp_path):
    """The message names the file and the fault."""
    path = tmp_path / "split.toml"
    path.write_text(text)
    with pytest.raises(ConfigWrong, match=re.escape(message)) as refused:
        read_split(path)
    assert str(path) in str(refused.value)


def test_two_places_are_refused_in_code_too():
    """A split with an animal in two places can not be constructed."""
    with pytest.raises(ConfigWrong, match="animal a stands in two places"):
        Split(("a",), (), (("a", "b"),))
