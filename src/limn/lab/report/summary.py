"""Summarises scores for the tables: means, medians, asterisks, and scans that are left out."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from limn.domain.geometry import FloatArray
from limn.domain.scan import TG263_ROLES, Organ
from limn.lab.measure.scores import CONSENSUS, FIRST_OBSERVER, Score
from limn.lab.measure.statistics import Comparison, compare
from limn.lab.words import (
    CONFORMITY,
    LIMN,
    MEASURES,
    OBSERVERS,
    REFERENCE_SYSTEM,
    TIMES,
    in_order,
    organs_in_order,
    structures_in_order,
)


@dataclass(frozen=True, slots=True)
class Cell:
    """One measure of one organ by one system.

    Attributes
    ----------
    sd : standard deviation of the sample (n - 1); NaN for one scan
    star : p < 0.05 against nnU-Net 3d_fullres
    cleaned : mean and sd after the clean-up; None without one
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
class OrganScore:
    """An organ of one scan against observer 1; the distance is NaN for a missing organ."""

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
    """A line of Table 4: mean seconds per scan, NaN without a measurement."""

    system: str
    preprocess_s: float
    inference_s: float
    runtime_s: float


@dataclass(frozen=True, slots=True)
class Overall:
    """A system's DSC: the mean over the organs of each scan, then over the scans.

    Attributes
    ----------
    cleaned : mean and sd after the clean-up; None without one
    """

    system: str
    scans: int
    mean: float
    sd: float
    cleaned: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class BlocksAgainstSlices:
    """A system with 3D networks compared with one with 2D networks, scan by scan.

    Attributes
    ----------
    cleaned : "yes" after the islands were removed, else "no"
    comparison : of the mean DSC of a scan's organs
    """

    blocks: str
    slices: str
    cleaned: str
    comparison: Comparison


@dataclass(frozen=True, slots=True)
class Difference:
    """A system against nnU-Net 3d_fullres by one measure of one organ."""

    set: str
    organ: str
    system: str
    measure: str
    comparison: Comparison


def accuracy(scores: Sequence[Score], test_set: str, without: Collection[str]) -> tuple[Row, ...]:
    """Lines of Table 1 or 2, organ by organ.

    Parameters
    ----------
    without : scans that are left out; see `missed_scans`
    """
    values = _by_scan(scores, test_set, without, "no")
    cleaned = _by_scan(scores, test_set, without, "yes")
    stars = {
        (each.organ, each.system, each.measure): each.comparison.is_significant
        for each in differences(scores, test_set, without)
    }
    rows = []
    for organ in organs_in_order(key[0] for key in values):
        systems = {key[1] for key in values if key[0] == organ}
        for system in in_order(systems):
            cells = {}
            for measure in MEASURES:
                key = (organ, system.key, measure)
                before = _defined(values[key].values()) if key in values else np.empty(0)
                after = _defined(cleaned[key].values()) if key in cleaned else None
                cells[measure] = Cell(
                    *_mean_and_sd(before),
                    median=float(np.median(before)) if len(before) else float("nan"),
                    star=stars.get(key, False),
                    cleaned=None if after is None else _mean_and_sd(after),
                )
            rows.append(Row(organ, system.key, cells))
    return tuple(rows)


def differences(
    scores: Sequence[Score], test_set: str, without: Collection[str]
) -> tuple[Difference, ...]:
    """Every other system compared with the reference, by every measure of every organ."""
    values = _by_scan(scores, test_set, without, "no")
    animals = {score.scan: score.animal for score in scores if score.set == test_set}
    rows = []
    for organ in organs_in_order(key[0] for key in values):
        systems = {key[1] for key in values if key[0] == organ}
        for system in in_order(systems - {REFERENCE_SYSTEM}):
            for measure in MEASURES:
                tested = values.get((organ, system.key, measure), {})
                base = values.get((organ, REFERENCE_SYSTEM, measure), {})
                scans = sorted(tested.keys() & base.keys())
                comparison = compare(
                    np.array([tested[scan] for scan in scans]),
                    np.array([base[scan] for scan in scans]),
                    [animals[scan] for scan in scans],
                )
                rows.append(Difference(test_set, organ, system.key, measure, comparison))
    return tuple(rows)


def overall(scores: Sequence[Score], test_set: str) -> tuple[Overall, ...]:
    """The mean DSC of every system on a test set."""
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
    """Every 3D system compared with every 2D one: the paper's main question (Discussion)."""
    animals = {score.scan: score.animal for score in scores if score.set == test_set}
    rows = []
    for cleaned in ("no", "yes"):
        means = _mean_dsc_of(scores, test_set, cleaned)
        systems = in_order(set(means))
        for blocks in (system for system in systems if system.axes == 3):
            for slices in (system for system in systems if system.axes == 2):
                of_blocks, of_slices = means[blocks.key], means[slices.key]
                scans = sorted(of_blocks.keys() & of_slices.keys())
                comparison = compare(
                    np.array([of_blocks[scan] for scan in scans]),
                    np.array([of_slices[scan] for scan in scans]),
                    [animals[scan] for scan in scans],
                )
                rows.append(BlocksAgainstSlices(blocks.key, slices.key, cleaned, comparison))
    return tuple(rows)


def missed_scans(scores: Sequence[Score], test_set: str) -> tuple[str, ...]:
    """Scans on which a system of the paper missed an organ, which then has no distance.

    The paper left such a scan out for every system (Results, "Contrast-enhanced CT"). An organ that
    limn's engine misses removes no scan from the paper's comparison.
    """
    missed = _missed_organs(scores, test_set)
    return tuple(sorted({score.scan for score in missed if score.system != LIMN}))


def scans_missed_by_limn(scores: Sequence[Score], test_set: str) -> tuple[str, ...]:
    """Scans on which limn's engine missed an organ."""
    missed = _missed_organs(scores, test_set)
    return tuple(sorted({score.scan for score in missed if score.system == LIMN}))


def _missed_organs(scores: Sequence[Score], test_set: str) -> Iterator[Score]:
    """The scores of organs that a system missed: their surface distance is undefined."""
    for score in scores:
        where = (score.set, score.reference, score.cleaned, score.measure)
        if where == (test_set, FIRST_OBSERVER, "no", "msd_mm") and np.isnan(score.value):
            yield score


def incomplete_systems(scores: Sequence[Score], test_set: str) -> dict[str, int]:
    """System to the number of scans on which it lacks a score that another system has."""
    of_system: dict[str, set[tuple[str, ...]]] = {}
    for score in scores:
        if score.set == test_set and score.reference in {FIRST_OBSERVER, CONSENSUS}:
            key = (score.scan, score.reference, score.cleaned, score.organ, score.measure)
            of_system.setdefault(score.system, set()).add(key)
    every = set().union(*of_system.values())
    counts = {}
    for system, keys in of_system.items():
        # A measure that a system has for no scan at all has no row in a table.
        columns = {key[1:] for key in keys}
        if lacking := {key[0] for key in every - keys if key[1:] in columns}:
            counts[system] = len(lacking)
    return counts


def undrawn_organs(scores: Sequence[Score], test_set: str) -> dict[Organ, int]:
    """Organ to the number of scans on which observer 1 did not draw it; it is not scored there."""
    scans = {score.scan for score in scores if score.set == test_set}
    counts = {}
    drawn = {
        score.organ
        for score in scores
        if (score.set, score.reference) == (test_set, FIRST_OBSERVER)
    }
    known = {score.organ for score in scores if score.reference == FIRST_OBSERVER} | drawn
    # A file of the paper's organs alone is of a set that should have all of them.
    if known <= set(TG263_ROLES.values()):
        known |= set(TG263_ROLES.values())
    for organ in organs_in_order(known):
        scored = {
            score.scan
            for score in scores
            if (score.set, score.reference, score.organ) == (test_set, FIRST_OBSERVER, organ)
        }
        if without := len(scans - scored):
            counts[organ] = without
    return counts


def conformity(
    scores: Sequence[Score], without: Collection[tuple[str, str]] = ()
) -> tuple[Conformity, ...]:
    """Cells of Table 3: every system against the consensus, and the observers among themselves.

    Parameters
    ----------
    without : test sets and scans that are left out; see `missed_scans`
    """
    values: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for score in scores:
        is_left_out = (score.set, score.scan) in without
        if score.measure == CONFORMITY and score.cleaned == "no" and not is_left_out:
            values[score.system, score.set, score.organ].append(score.value)
    return tuple(
        Conformity(system.key, test_set, structure, *_mean_and_sd(_defined(values[key])))
        for system in in_order({key[0] for key in values})
        for test_set in sorted({key[1] for key in values})
        for structure in structures_in_order(key[2] for key in values)
        if (key := (system.key, test_set, structure)) in values
    )


def times(scores: Sequence[Score]) -> tuple[Time, ...]:
    """Lines of Table 4: the mean over scans."""
    values: dict[tuple[str, str], list[float]] = defaultdict(list)
    for score in scores:
        if score.measure in TIMES:
            values[score.system, score.measure].append(score.value)
    return tuple(
        Time(
            system.key,
            *(_mean_and_sd(_defined(values[system.key, measure]))[0] for measure in TIMES),
        )
        for system in in_order({key[0] for key in values})
    )


def by_organ(
    scores: Sequence[Score], test_set: str, system: str
) -> dict[str, dict[Organ, OrganScore]]:
    """Scan to the scores of a system's organs, against observer 1 and before the clean-up.

    An organ without a DSC is left out.
    """
    values = _by_scan(scores, test_set, (), "no")
    scans: dict[str, dict[Organ, OrganScore]] = defaultdict(dict)
    for organ in organs_in_order(key[0] for key in values):
        hd95_mm = values.get((organ, system, "hd95_mm"), {})
        for scan, dsc in values.get((organ, system, "dsc"), {}).items():
            if not np.isnan(dsc):
                scans[scan][organ] = OrganScore(dsc, hd95_mm.get(scan, float("nan")))
    return dict(scans)


def mean_dsc(scores: Mapping[Organ, OrganScore]) -> float:
    """Mean over the organs of a scan, independent of their order; NaN without an organ."""
    if not scores:
        return float("nan")
    return math.fsum(score.dsc for score in scores.values()) / len(scores)


def cases(scans: Mapping[str, Mapping[Organ, OrganScore]]) -> dict[str, str]:
    """The best, the intermediate and the worst scan by the mean DSC of its organs (Fig. 4).

    The intermediate scan has the median; of two middle scans it is the better one. Of scans with
    equal means the first by name counts as better. Two scans are best and worst, one is best.
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
        system: {scan: math.fsum(dscs) / len(dscs) for scan, dscs in scans.items()}
        for system, scans in organs.items()
    }


def conformity_values(scores: Sequence[Score], test_set: str) -> dict[tuple[str, str], FloatArray]:
    """(structure, system) to the index of every scan, for box plots."""
    values: dict[tuple[str, str], list[float]] = defaultdict(list)
    for score in scores:
        is_index = score.measure == CONFORMITY and score.cleaned == "no"
        if score.set == test_set and is_index and score.reference in {CONSENSUS, OBSERVERS}:
            values[score.organ, score.system].append(score.value)
    return {key: _defined(indices) for key, indices in values.items()}


def accuracy_values(
    scores: Sequence[Score], test_set: str
) -> dict[tuple[str, str, str], FloatArray]:
    """(organ, system, measure) to the value of every scan, for box plots."""
    values = _by_scan(scores, test_set, (), "no")
    return {key: _defined(of_scan.values()) for key, of_scan in values.items()}


def _by_scan(
    scores: Sequence[Score], test_set: str, without: Collection[str], cleaned: str
) -> dict[tuple[str, str, str], dict[str, float]]:
    """(organ, system, measure) to the value of each scan, against observer 1."""
    values: dict[tuple[str, str, str], dict[str, float]] = defaultdict(dict)
    for score in scores:
        if (
            score.set == test_set
            and score.reference == FIRST_OBSERVER
            and score.cleaned == cleaned
            and score.measure in MEASURES
            and score.scan not in without
        ):
            values[score.organ, score.system, score.measure][score.scan] = score.value
    return dict(values)


def _defined(values: Collection[float]) -> FloatArray:
    array = np.array(list(values), dtype=np.float64)
    return array[~np.isnan(array)]


def _mean_and_sd(values: FloatArray) -> tuple[float, float]:
    if len(values) == 0:
        return (float("nan"), float("nan"))
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
    return (float(values.mean()), sd)
