"""Says which animals of a field count: one by the site's rule, or each that is whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from limn.domain.errors import RefusedSeries
from limn.domain.scan import MOST_ANIMALS, Volume
from limn.segment.draw.animals.field import Field, survey
from limn.segment.draw.animals.located import Located, Place
from limn.segment.draw.hounsfield import CalibrateRule
from limn.segment.engine.localisation.coarse import COARSE_MM
from limn.segment.engine.localisation.region import Region

# Between the chests of two animals there are a belly and a neck at least.
ONE_CHEST_MM = 8.0
ChoiceRule = Literal["largest", "central", "refuse", "each"]


def keep_one_animal(
    volume: Volume, rule: ChoiceRule, calibrate: CalibrateRule = "never"
) -> Located:
    """Count the animals in the field, and find where all but one are.

    Parameters
    ----------
    rule : "largest" body, the "central" one, or "refuse" the series; "each" is as "largest"
    calibrate : what to do with a scan that is not in HU

    Raises
    ------
    RefusedSeries
        If there are several animals and the site's rule is to refuse, or if the scan is not in HU
        and can't or must not be brought to HU.
    """
    field = survey(volume, calibrate)
    animals = field.side_by_side()
    if len(animals) < 2:
        return field.undivided()
    if rule == "refuse":
        msg = (
            f"{len(animals)} animals in the field; set two_animals to 'each' to contour all, "
            "'largest' or 'central' to contour one, or scan one at a time"
        )
        raise RefusedSeries(msg)
    return field.parted(animals)(_chosen(field, animals, rule))


def _chosen(field: Field, animals: Sequence[int], rule: ChoiceRule) -> int:
    """The core of the animal that counts."""
    if rule != "central":
        return max(animals, key=lambda n: field.sizes[n])
    middle = np.array(field.blocks) / 2 - field.shown.low

    def off_centre(n: int) -> float:
        places: npt.NDArray[np.int64] = np.argwhere(field.cores == n)
        return float(np.linalg.norm(places.mean(axis=0)[1:] - middle[1:]))

    return min(animals, key=off_centre)


class Chest(Protocol):
    """Where the chest of an animal was found."""

    @property
    def coarse(self) -> Region:
        """The organs' box on the coarse grid."""


ChestT = TypeVar("ChestT", bound=Chest)


@dataclass(frozen=True, slots=True, eq=False)
class WithChest(Generic[ChestT]):
    """An animal, and its chest; None if that was not sought or not found."""

    located: Located
    chest: ChestT | None


def whole_animals(
    field: Field, chest_of: Callable[[Located], ChestT | None] | None
) -> list[WithChest[ChestT]]:
    """Every animal whose chest lies in the field as a whole, in the order of `Field.in_order`.

    Animals may lie side by side, one behind the other, or one above the other: an animal is what
    has a chest. A core without one belongs to the animal before or behind which it lies, such as a
    head; beside an animal it is another one that the field cuts off. If the field cuts every chest,
    all that have one count, and without any chest what `keep_one_animal` takes for the largest.

    Parameters
    ----------
    chest_of : finds the chest of an animal; None if nothing can, then animals that lie side by side
        count

    Raises
    ------
    RefusedSeries
        If there are more animals than limn contours.
    """
    candidates = [*field.large(), *field.cut_off()]
    if chest_of is None or len(candidates) < 2:
        return _side_by_side(field, chest_of)
    located = field.parted(candidates)
    chests = {core: chest_of(located(core)) for core in field.large()}
    found = _with_own_chest(chests, field)
    if not found:
        return _side_by_side(field, chest_of)
    strangers = [
        core
        for core in candidates
        if core not in found and not any(field.behind(core, animal) for animal in found)
    ]
    owners = [*found, *strangers]
    if len(owners) < 2:
        one = replace(field.undivided(), place=_place(field, owners[0], 1, 1, 0))
        return [WithChest(one, chest_of(one))]
    if len(owners) < len(candidates):
        located = field.parted(owners)
        chests = {core: chest_of(located(core)) for core in found}
    whole = _uncut({core: chests[core] for core in found}, field.coarse_spl.shape)
    cut = _animals_among([core for core in owners if core not in whole], field)
    return [
        WithChest(
            replace(located(core), place=_place(field, core, number, len(whole), cut)), chests[core]
        )
        for number, core in enumerate(_counted(field, whole), start=1)
    ]


def _side_by_side(
    field: Field, chest_of: Callable[[Located], ChestT | None] | None
) -> list[WithChest[ChestT]]:
    """The animals that lie side by side; none is known to be whole."""
    cores = _counted(field, field.side_by_side())
    located = field.parted(cores) if len(cores) > 1 else lambda core: field.undivided()
    animals = [
        replace(located(core), place=_place(field, core, number, len(cores), 0))
        for number, core in enumerate(cores, start=1)
    ]
    return [WithChest(each, chest_of(each) if chest_of else None) for each in animals]


def _counted(field: Field, cores: Sequence[int]) -> list[int]:
    if len(cores) > MOST_ANIMALS:
        msg = (
            f"{len(cores)} animals in the field, limn contours {MOST_ANIMALS} at most; scan fewer "
            "at a time"
        )
        raise RefusedSeries(msg)
    return field.in_order(cores)


def _with_own_chest(chests: dict[int, ChestT | None], field: Field) -> list[int]:
    """The cores that have a chest, the largest first; of two that part one chest the larger.

    The lungs may part a thin animal's thick tissue in two. Chests of animals that lie one behind
    the other are further apart than `ONE_CHEST_MM`.
    """
    kept: dict[int, ChestT] = {}
    for core, chest in chests.items():
        if chest is None:
            continue
        low, high = chest.coarse.low[0], chest.coarse.high[0]
        gaps_mm = [
            COARSE_MM * (max(low, other.coarse.low[0]) - min(high, other.coarse.high[0]))
            for number, other in kept.items()
            if field.behind(core, number)
        ]
        if min(gaps_mm, default=ONE_CHEST_MM) >= ONE_CHEST_MM:
            kept[core] = chest
    return list(kept)


def _place(field: Field, core: int, number: int, of: int, cut: int) -> Place:
    return Place(number, of, field.middle_xyz_mm(core), cut)


def _animals_among(cores: Sequence[int], field: Field) -> int:
    """How many animals the cores are of: those that lie behind one another are of one."""
    first: list[int] = []
    for core in cores:
        if not any(field.behind(core, other) for other in first):
            first.append(core)
    return len(first)


def _uncut(chests: dict[int, ChestT | None], shape: tuple[int, ...]) -> list[int]:
    """The animals whose chest the field does not cut; all, if it cuts every one the same way."""
    ends = {
        core: [
            low == 0 or high == n
            for low, high, n in zip(chest.coarse.low, chest.coarse.high, shape, strict=True)
        ]
        for core, chest in chests.items()
        if chest is not None
    }
    uncut = [core for core, (z, y, x) in ends.items() if not (z or y or x)]
    within = [core for core, (_, y, x) in ends.items() if not (y or x)]
    return uncut or within or list(ends)
