"""The one long CSV of a study: a line for each measure of each organ of each scan and system.

Tables and figures are made from it alone. A distance that does not exist, for want of the organ,
has an empty value; the DSC is then 0.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt

from limn.domain.errors import ConfigWrong
from limn.domain.scan import Labels, Organ
from limn.lab.measure.accuracy import score_labels
from limn.lab.measure.agreement import conformity_index, consensus, structures
from limn.lab.words import CONFORMITY, MEASURES, OBSERVERS, TIMES, ComparedStructure
from limn.segment.bundle.bundle import CleanRule
from limn.segment.draw.clean import clean

CONSENSUS = "consensus"
FIRST_OBSERVER = "observer1"


@dataclass(frozen=True, slots=True)
class Score:
    """One number of a study.

    Attributes
    ----------
    set : "test1", "test2"
    system : `study_words.SYSTEMS`, or any other name
    reference : what it was held against: "observer1", "consensus", "observers"; "" for times
    cleaned : "yes" after the islands were removed, else "no"
    organ : an `Organ`, or "Lungs" where both are one; "" for times
    measure : "dsc", "msd_mm", "hd95_mm", "ci", "preprocess_s", "inference_s", "runtime_s"
    value : NaN where it is undefined
    """

    set: str
    scan: str
    animal: str
    system: str
    reference: str
    cleaned: str
    organ: str
    measure: str
    value: float


COLUMNS = tuple(field.name for field in fields(Score))


# What each measure is held against, and the largest value that it can have.
KNOWN: Mapping[str, tuple[tuple[str, ...], float]] = {
    **{name: ((FIRST_OBSERVER,), 1.0 if name == "dsc" else math.inf) for name in MEASURES},
    CONFORMITY: ((CONSENSUS, OBSERVERS), 1.0),
    **dict.fromkeys(TIMES, (("",), math.inf)),
}


@dataclass(frozen=True, slots=True)
class Scan:
    """Which scan of which animal in which test set."""

    set: str
    name: str
    animal: str


def of_drawing(
    scan: Scan,
    system: str,
    drawn: Labels,
    observers: Mapping[str, npt.NDArray[np.uint8]],
    lungs_label: int,
    rules: Mapping[Organ, CleanRule],
) -> list[Score]:
    """Every score of what a system drew, before and after the clean-up.

    An organ that observer 1 did not draw has no score of Tables 1 and 2.

    Parameters
    ----------
    drawn : labels of the system on the scan's grid
    observers : name to (z, y, x) labels on the same grid, numbered as `drawn`; "observer1" is the
        reference of Tables 1 and 2, all of them make the consensus of Table 3
    lungs_label : the label of an observer who drew both lungs as one
    rules : of the node's own clean-up
    """
    manual_zyx = observers[FIRST_OBSERVER]
    # What nobody drew was not missed.
    organs = {label: organ for label, organ in drawn.organs.items() if (manual_zyx == label).any()}
    first = Labels(manual_zyx, drawn.grid, organs)
    agreed = _consensus(list(observers.values()), drawn.organs, lungs_label)
    found = []
    for cleaned, labels in (("no", drawn), ("yes", clean(drawn, rules).labels)):

        def add(reference: str, organ: str, measure: str, value: float, how: str = cleaned) -> None:
            found.append(
                Score(
                    scan.set, scan.name, scan.animal, system, reference, how, organ, measure, value
                )
            )

        for own in score_labels(labels, first):
            add(FIRST_OBSERVER, own.organ.value, "dsc", own.dsc)
            add(FIRST_OBSERVER, own.organ.value, "msd_mm", own.msd_mm)
            add(FIRST_OBSERVER, own.organ.value, "hd95_mm", own.hd95_mm)
        ours = structures(labels.labels_zyx, labels.organs, lungs_label)
        for structure, mask in agreed.items():
            nothing = np.zeros(mask.shape, dtype=np.bool_)
            index = conformity_index([ours.get(structure, nothing), mask])
            add(CONSENSUS, structure.value, CONFORMITY, index)
    return found


def of_observers(
    scan: Scan,
    observers: Sequence[npt.NDArray[np.uint8]],
    organs: Mapping[int, Organ],
    lungs_label: int,
) -> list[Score]:
    """How far the observers of a scan agree, on whatever at least two of them drew."""
    return [
        Score(
            scan.set,
            scan.name,
            scan.animal,
            OBSERVERS,
            OBSERVERS,
            "no",
            structure.value,
            CONFORMITY,
            conformity_index(masks),
        )
        for structure, masks in _drawn_by_two(observers, organs, lungs_label).items()
    ]


def write_scores(path: Path, scores: Iterable[Score]) -> None:
    """Write the file anew; whoever reads it meanwhile finds the old one or the new one."""
    part = path.with_name(f"{path.name}.part")
    with part.open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(COLUMNS)
        for own in scores:
            *said, value = astuple(own)
            lines.writerow([*said, "" if math.isnan(value) else repr(float(value))])
    part.replace(path)


def read_scores(path: Path) -> tuple[Score, ...]:
    """The scores of a file.

    Raises
    ------
    ConfigWrong
        If it can't be read, lacks a column, says one thing twice, a word or a number that no
        score has, or gives a scan to two animals; the text names the line.
    """
    try:
        # Spreadsheets put a mark before the first column's name.
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = csv.DictReader(file)
            missing = [name for name in COLUMNS if name not in (lines.fieldnames or ())]
            if missing:
                msg = f"{path}: column {missing[0]} is missing; {', '.join(COLUMNS)} expected"
                raise ConfigWrong(msg)
            scores = [_score(path, lines.line_num, row) for row in lines]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        msg = f"{path} can't be read: {error}"
        raise ConfigWrong(msg) from error
    seen: dict[tuple[str, ...], int] = {}
    animal_of: dict[tuple[str, str], str] = {}
    for number, own in enumerate(scores, start=2):
        if why := _wrong(own) or _of_another(own, animal_of):
            msg = f"{path}: line {number}: {why}"
            raise ConfigWrong(msg)
        key = tuple(str(part) for part in astuple(own)[:-1])
        if key in seen:
            msg = f"{path}: line {number} says again what line {seen[key]} says: {' '.join(key)}"
            raise ConfigWrong(msg)
        seen[key] = number
    return tuple(scores)


def _score(path: Path, line: int, row: Mapping[str, str | None]) -> Score:
    if None in row or None in row.values():
        msg = f"{path}: line {line} has not {len(COLUMNS)} columns"
        raise ConfigWrong(msg)
    said = {name: row[name] or "" for name in COLUMNS[:-1]}
    text = row["value"] or "nan"
    try:
        return Score(**said, value=float(text))
    except ValueError as error:
        msg = f"{path}: line {line}: value {text!r} is not a number"
        raise ConfigWrong(msg) from error


def _wrong(own: Score) -> str:
    """What no score says; empty for one that may be."""
    known = KNOWN.get(own.measure)
    if not (own.set and own.scan and own.animal and own.system):
        return "set, scan, animal and system must be named"
    if known is None:
        return f"measure {own.measure!r}: one of {', '.join(KNOWN)} expected"
    references, most = known
    if own.reference not in references:
        wanted = " or ".join(repr(each) for each in references)
        return f"reference {own.reference!r} of {own.measure}: {wanted} expected"
    organs = {""} if not own.reference else {*map(str, Organ), *map(str, ComparedStructure)}
    for name, said, words in (
        ("cleaned", own.cleaned, {"yes", "no"} if own.reference else {own.cleaned}),
        ("organ", own.organ, organs),
    ):
        if said not in words:
            return f"{name} {said!r} of {own.measure}: {' or '.join(sorted(words)) or 'none'}"
    undefined = math.isnan(own.value) and own.measure != "dsc"
    fits = undefined or 0.0 <= own.value <= most
    return "" if fits else f"{own.measure} {own.value}: 0 to {most:g} expected"


def _of_another(own: Score, animal_of: dict[tuple[str, str], str]) -> str:
    """Whether an earlier line gave the scan to another animal; who it is, is noted."""
    first = animal_of.setdefault((own.set, own.scan), own.animal)
    if first != own.animal:
        return f"scan {own.scan} is animal {own.animal}'s here and {first}'s before"
    return ""


def _consensus(
    observers: Sequence[npt.NDArray[np.uint8]], organs: Mapping[int, Organ], lungs_label: int
) -> dict[ComparedStructure, npt.NDArray[np.bool_]]:
    return {
        structure: consensus(masks)
        for structure, masks in _drawn_by_two(observers, organs, lungs_label).items()
    }


def _drawn_by_two(
    observers: Sequence[npt.NDArray[np.uint8]], organs: Mapping[int, Organ], lungs_label: int
) -> dict[ComparedStructure, list[npt.NDArray[np.bool_]]]:
    drawn = [structures(labels_zyx, organs, lungs_label) for labels_zyx in observers]
    masks = {
        structure: [own[structure] for own in drawn if structure in own]
        for structure in ComparedStructure
    }
    return {structure: own for structure, own in masks.items() if len(own) > 1}
