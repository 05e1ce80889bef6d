"""From scores to what a table says: means, medians, asterisks, and who was left out."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from limn.domain.geometry import FloatArray
from limn.domain.scan import Organ
from limn.lab.measure.scores import CONSENSUS, FIRST_OBSERVER, Score
from limn.lab.measure.statistics import Comparison, compare
from limn.lab.words import (
    CONFORMITY,
    LIMN,
    MEASURES,
    OBSERVERS,
    REFERENCE_SYSTEM,
    TIMES,
    ComparedStructure,
    in_order,
)


@dataclass(frozen=True, slots=True)
class Cell:
    """One measure of one organ by one system.

    Attributes
    ----------
    sd : of the sample (n - 1); NaN of one scan
    star : p < 0.05 against nnU-Net 3d_fullres
    cleaned : mean and sd after the clean-up; None where it was not done
    """

    mean: float
    sd: float
    median: float
    star: bool = False
    cleaned: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A line of Table 1 or 2."""

    organ: str
    system: str
    cells: Mapping[str, Cell]


@dataclass(frozen=True, slots=True)
class Held:
    """An organ of one scan against observer 1; the distance is NaN where there is none."""

    dsc: float
    hd95_mm: float


@dataclass(frozen=True, slots=True)
class Conformity:
    """A cell of Table 3; 0 to 1."""

    system: str
    set: str
    organ: str
    mean: float
    sd: float


@dataclass(frozen=True, slots=True)
class Time:
    """A line of Table 4: mean seconds a scan, NaN where nobody measured."""

    system: str
    preprocess_s: float
    inference_s: float
    runtime_s: float


@dataclass(frozen=True, slots=True)
class Overall:
    """A system's DSC over organs and scans: the mean of every scan's organs, then of the scans.

    Attributes
    ----------
    cleaned : mean and sd after the clean-up; None where it was not done
    """

    system: str
    scans: int
    mean: float
    sd: float
    cleaned: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class BlocksAgainstSlices:
    """A system whose networks see blocks against one whose networks see slices, scan by scan.

    Attributes
    ----------
    cleaned : "yes" after the islands were removed, else "no"
    held : of the mean DSC of a scan's organs
    """

    blocks: str
    slices: str
    cleaned: str
    held: Comparison


@dataclass(frozen=True, slots=True)
class Difference:
    """A system against nnU-Net 3d_fullres by one measure of one organ."""

    set: str
    organ: str
    system: str
    measure: str
    held: Comparison


def accuracy(scores: Sequence[Score], test_set: str, without: Collection[str]) -> tuple[Row, ...]:
    """Lines of Table 1 or 2, organ by organ.

    Parameters
    ----------
    without : scans that are left out; see `missed`
    """
    values = _by_scan(scores, test_set, without, "no")
    cleaned = _by_scan(scores, test_set, without, "yes")
    stars = {
        (each.organ, each.system, each.measure): each.held.is_significant
        for each in differences(scores, test_set, without)
    }
    rows = []
    for organ in Organ:
        systems = {key[1] for key in values if key[0] == organ.value}
        for system in in_order(systems):
            cells = {}
            for measure in MEASURES:
                key = (organ.value, system.key, measure)
                own = _defined(values[key].values()) if key in values else np.empty(0)
                after = _defined(cleaned[key].values()) if key in cleaned else None
                cells[measure] = Cell(
                    *_mean_and_sd(own),
                    median=float(np.median(own)) if len(own) else float("nan"),
                    star=stars.get(key, False),
                    cleaned=None if after is None else _mean_and_sd(after),
                )
            rows.append(Row(organ.value, system.key, cells))
    return tuple(rows)


def differences(
    scores: Sequence[Score], test_set: str, without: Collection[str]
) -> tuple[Difference, ...]:
    """Every system but the reference against it, by every measure of every organ."""
    values = _by_scan(scores, test_set, without, "no")
    animals = {own.scan: own.animal for own in scores if own.set == test_set}
    found = []
    for organ in Organ:
        systems = {key[1] for key in values if key[0] == organ.value}
        for system in in_order(systems - {REFERENCE_SYSTEM}):
            for measure in MEASURES:
                own = values.get((organ.value, system.key, measure), {})
                base = values.get((organ.value, REFERENCE_SYSTEM, measure), {})
                scans = sorted(own.keys() & base.keys())
                held = compare(
                    np.array([own[scan] for scan in scans]),
                    np.array([base[scan] for scan in scans]),
                    [animals[scan] for scan in scans],
                )
                found.append(Difference(test_set, organ.value, system.key, measure, held))
    return tuple(found)


def overall(scores: Sequence[Score], test_set: str) -> tuple[Overall, ...]:
    """What every system reached on a test set, in one number."""
    plain, cleaned = (_mean_dsc_of(scores, test_set, how) for how in ("no", "yes"))
    return tuple(
        Overall(
            system.key,
            len(plain[system.key]),
            *_mean_and_sd(_defined(plain[system.key].values())),
            cleaned=(
                _mean_and_sd(_defined(cleaned[system.key].values()))
                if system.key in cleaned
                else None
            ),
        )
        for system in in_order(set(plain))
    )


def blocks_against_slices(
    scores: Sequence[Score], test_set: str
) -> tuple[BlocksAgainstSlices, ...]:
    """Every 3D system against every 2D one: the paper's main question (Discussion)."""
    animals = {own.scan: own.animal for own in scores if own.set == test_set}
    found = []
    for cleaned in ("no", "yes"):
        means = _mean_dsc_of(scores, test_set, cleaned)
        systems = in_order(set(means))
        for blocks in (own for own in systems if own.axes == 3):
            for flat in (own for own in systems if own.axes == 2):
                ours, theirs = means[blocks.key], means[flat.key]
                scans = sorted(ours.keys() & theirs.keys())
                held = compare(
                    np.array([ours[scan] for scan in scans]),
                    np.array([theirs[scan] for scan in scans]),
                    [animals[scan] for scan in scans],
                )
                found.append(BlocksAgainstSlices(blocks.key, flat.key, cleaned, held))
    return tuple(found)


def missed(scores: Sequence[Score], test_set: str) -> tuple[str, ...]:
    """Scans on which a system of the paper did not find some organ: it has a DSC, no distance.

    The paper left such a scan out for every system (Results, "Contrast-enhanced CT"). What limn's
    own engine misses takes no scan from the paper's comparison.
    """
    found = {own.scan for own in _not_found(scores, test_set) if own.system != LIMN}
    return tuple(sorted(found))


def missed_by_limn(scores: Sequence[Score], test_set: str) -> tuple[str, ...]:
    """Scans on which limn's own engine did not find some organ."""
    return tuple(sorted({own.scan for own in _not_found(scores, test_set) if own.system == LIMN}))


def _not_found(scores: Sequence[Score], test_set: str) -> Iterator[Score]:
    for own in scores:
        where = (own.set, own.reference, own.cleaned, own.measure)
        if where == (test_set, FIRST_OBSERVER, "no", "msd_mm") and np.isnan(own.value):
            yield own


def unscored(scores: Sequence[Score], test_set: str) -> dict[str, int]:
    """Of how many scans each system lacks a score that another one has."""
    of_system: dict[str, set[tuple[str, ...]]] = {}
    for own in scores:
        if own.set == test_set and own.reference in {FIRST_OBSERVER, CONSENSUS}:
            said = (own.scan, own.reference, own.cleaned, own.organ, own.measure)
            of_system.setdefault(own.system, set()).add(said)
    every = set().union(*of_system.values())
    found = {}
    for system, there in of_system.items():
        # A measure that a system has of no scan at all makes no row and needs no word.
        columns = {said[1:] for said in there}
        if lacking := {said[0] for said in every - there if said[1:] in columns}:
            found[system] = len(lacking)
    return found


def undrawn(scores: Sequence[Score], test_set: str) -> dict[Organ, int]:
    """On how many scans observer 1 did not draw an organ, which is not scored there."""
    scans = {own.scan for own in scores if own.set == test_set}
    found = {}
    for organ in Organ:
        scored = {
            own.scan
            for own in scores
            if (own.set, own.reference, own.organ) == (test_set, FIRST_OBSERVER, organ.value)
        }
        if without := len(scans - scored):
            found[organ] = without
    return found


def conformity(
    scores: Sequence[Score], without: Collection[tuple[str, str]] = ()
) -> tuple[Conformity, ...]:
    """Cells of Table 3: every system against the consensus, then the observers among themselves.

    Parameters
    ----------
    without : test sets and scans that are left out; see `missed`
    """
    values: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for own in scores:
        is_left_out = (own.set, own.scan) in without
        if own.measure == CONFORMITY and own.cleaned == "no" and not is_left_out:
            values[own.system, own.set, own.organ].append(own.value)
    return tuple(
        Conformity(system.key, test_set, structure.value, *_mean_and_sd(_defined(values[key])))
        for system in in_order({key[0] for key in values})
        for test_set in sorted({key[1] for key in values})
        for structure in ComparedStructure
        if (key := (system.key, test_set, structure.value)) in values
    )


def times(scores: Sequence[Score]) -> tuple[Time, ...]:
    """Lines of Table 4: the mean over scans."""
    values: dict[tuple[str, str], list[float]] = defaultdict(list)
    for own in scores:
        if own.measure in TIMES:
            values[own.system, own.measure].append(own.value)
    return tuple(
        Time(
            system.key,
            *(_mean_and_sd(_defined(values[system.key, measure]))[0] for measure in TIMES),
        )
        for system in in_order({key[0] for key in values})
    )


def by_organ(scores: Sequence[Score], test_set: str, system: str) -> dict[str, dict[Organ, Held]]:
    """Each scan's organs as a system drew them, against observer 1 and before the clean-up.

    An organ without a DSC is left out.
    """
    found = _by_scan(scores, test_set, (), "no")
    scans: dict[str, dict[Organ, Held]] = defaultdict(dict)
    for organ in Organ:
        hd95_mm = found.get((organ.value, system, "hd95_mm"), {})
        for scan, dsc in found.get((organ.value, system, "dsc"), {}).items():
            if not np.isnan(dsc):
                scans[scan][organ] = Held(dsc, hd95_mm.get(scan, float("nan")))
    return dict(scans)


def mean_dsc(held: Mapping[Organ, Held]) -> float:
    """Over the organs of a scan, whatever their order; NaN without any."""
    return math.fsum(own.dsc for own in held.values()) / len(held) if held else float("nan")


def cases(scans: Mapping[str, Mapping[Organ, Held]]) -> dict[str, str]:
    """The best, the intermediate and the worst scan by the mean DSC of its organs (Fig. 4).

    The intermediate one has the median; of an even number, the better of the middle two. Of
    scans of one mean the first by name is the better. Two scans are best and worst, one is best.
    """
    ranked = sorted(scans, key=lambda scan: (-mean_dsc(scans[scan]), scan))
    places = {0: "best"}
    if len(ranked) > 1:
        places[len(ranked) - 1] = "worst"
        places.setdefault((len(ranked) - 1) // 2, "intermediate")
    return {word: ranked[k] for k, word in sorted(places.items()) if k < len(ranked)}


def _mean_dsc_of(
    scores: Sequence[Score], test_set: str, cleaned: str
) -> dict[str, dict[str, float]]:
    """System to the mean DSC of each scan's organs."""
    organs: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for (_, system, measure), scans in _by_scan(scores, test_set, (), cleaned).items():
        if measure == "dsc":
            for scan, dsc in scans.items():
                organs[system][scan].append(dsc)
    return {
        system: {scan: math.fsum(own) / len(own) for scan, own in scans.items()}
        for system, scans in organs.items()
    }


def conformity_values(scores: Sequence[Score], test_set: str) -> dict[tuple[str, str], FloatArray]:
    """(structure, system) to the index of every scan, for box plots."""
    values: dict[tuple[str, str], list[float]] = defaultdict(list)
    for own in scores:
        is_index = own.measure == CONFORMITY and own.cleaned == "no"
        if own.set == test_set and is_index and own.reference in {CONSENSUS, OBSERVERS}:
            values[own.organ, own.system].append(own.value)
    return {key: _defined(own) for key, own in values.items()}


def accuracy_values(
    scores: Sequence[Score], test_set: str
) -> dict[tuple[str, str, str], FloatArray]:
    """(organ, system, measure) to the value of every scan, for box plots."""
    found = _by_scan(scores, test_set, (), "no")
    return {key: _defined(own.values()) for key, own in found.items()}


def _by_scan(
    scores: Sequence[Score], test_set: str, without: Collection[str], cleaned: str
) -> dict[tuple[str, str, str], dict[str, float]]:
    """(organ, system, measure) to the value of each scan, against observer 1."""
    found: dict[tuple[str, str, str], dict[str, float]] = defaultdict(dict)
    for own in scores:
        if (
            own.set == test_set
            and own.reference == FIRST_OBSERVER
            and own.cleaned == cleaned
            and own.measure in MEASURES
            and own.scan not in without
        ):
            found[own.organ, own.system, own.measure][own.scan] = own.value
    return dict(found)


def _defined(values: Collection[float]) -> FloatArray:
    array = np.array(list(values), dtype=np.float64)
    return array[~np.isnan(array)]


def _mean_and_sd(values: FloatArray) -> tuple[float, float]:
    if len(values) == 0:
        return (float("nan"), float("nan"))
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
    return (float(values.mean()), sd)
