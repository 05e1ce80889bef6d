"""Which animal trains, which tests, and in which fold: split by animal, never by scan.

Malimban 2022, "Dataset" and "Network training": 15 of 20 native animals train and 5 test. In each
of five folds three animals validate; the contrast-enhanced animals only test. Scans of one animal
are nearly alike: a system tested on an animal that it trained on would score too well.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from limn.domain.errors import ConfigWrong
from limn.phantom.cohort import TRAINING_SHARE
from limn.phantom.cohort import CohortSplit as Side

FOLDS = 5
KEYS = ("test1", "test2", "folds")


@dataclass(frozen=True, slots=True)
class Split:
    """Which animals train, by fold, and which test.

    Attributes
    ----------
    test1, test2 : native and contrast-enhanced animals that test
    folds : the animals that train, divided into those that validate each fold

    Raises
    ------
    ConfigWrong
        If an animal stands in two places.
    """

    test1: tuple[str, ...]
    test2: tuple[str, ...]
    folds: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        counts = Counter([*self.test1, *self.test2, *self.training])
        if repeated := [animal for animal, count in counts.items() if count > 1]:
            msg = f"split: animal {repeated[0]} stands in two places; each may stand in one"
            raise ConfigWrong(msg)

    @property
    def training(self) -> tuple[str, ...]:
        """Every animal that trains."""
        return tuple(animal for fold in self.folds for animal in fold)

    def side_of(self, animal: str) -> Side | None:
        """What an animal's scans are for; None if the split does not name it."""
        if animal in self.training:
            return Side.TRAIN
        if animal in self.test1:
            return Side.TEST1
        return Side.TEST2 if animal in self.test2 else None

    def absent(self, here: Container[str]) -> tuple[str, ...]:
        """Animals that the split names and that are not in ``here``."""
        named = (*self.training, *self.test1, *self.test2)
        return tuple(animal for animal in named if animal not in here)

    def fold_of(self, animal: str) -> int | None:
        """The fold that an animal validates, from 0; None for an animal that does not train."""
        return next((k for k, fold in enumerate(self.folds) if animal in fold), None)


def read_split(path: Path) -> Split:
    """Read a split as `as_toml` writes it.

    Raises
    ------
    ConfigWrong
        If it can't be read, or an animal stands in two places.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        msg = f"{path} can't be read as a split: {error}"
        raise ConfigWrong(msg) from error
    if wrong := sorted(set(table) ^ set(KEYS)):
        msg = f"{path}: key {wrong[0]}: exactly {', '.join(KEYS)} expected"
        raise ConfigWrong(msg)
    lists = [table["test1"], table["test2"], *table["folds"]]
    if not all(
        isinstance(animals, list) and all(isinstance(animal, str) for animal in animals)
        for animals in lists
    ):
        msg = f"{path}: lists of animals' names expected; folds is a list of such lists"
        raise ConfigWrong(msg)
    test1, test2, *folds = (tuple(animals) for animals in lists)
    try:
        return Split(test1, test2, tuple(folds))
    except ConfigWrong as error:
        msg = f"{path}: {error}"
        raise ConfigWrong(msg) from error


def draw_split(native: Sequence[str], contrast: Sequence[str], seed: int) -> Split:
    """Three of four native animals train in up to five folds; one seed gives one split."""
    animals = [str(animal) for animal in np.random.default_rng(seed).permutation(sorted(native))]
    training = min(round(TRAINING_SHARE * len(animals)), max(len(animals) - 1, 0))
    return folded(animals[:training], sorted(animals[training:]), sorted(contrast))


def folded(training: Sequence[str], test1: Sequence[str], test2: Sequence[str]) -> Split:
    """A split whose folds follow the order of the animals."""
    count = min(FOLDS, len(training))
    folds = [tuple(sorted(fold.tolist())) for fold in np.array_split(training, count or 1)]
    return Split(tuple(test1), tuple(test2), tuple(fold for fold in folds if fold))


def as_toml(split: Split) -> str:
    """The text of a file for `read_split`."""

    def list_of(animals: Sequence[str]) -> str:
        return "[" + ", ".join(f'"{animal}"' for animal in animals) + "]"

    folds = "".join(f"    {list_of(fold)},\n" for fold in split.folds)
    return f"test1 = {list_of(split.test1)}\ntest2 = {list_of(split.test2)}\nfolds = [\n{folds}]\n"
