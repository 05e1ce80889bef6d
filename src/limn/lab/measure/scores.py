"""The one long CSV of a study: a line per measure, organ, scan and system.

Tables and figures are made from it alone. If an organ is missing, its distances have an empty
value and its DSC is 0.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt

from limn.domain.errors import ConfigWrong
from limn.domain.files import write_durably
from limn.domain.scan import Labels, Organ
from limn.domain.spreadsheet import neutral, plain
from limn.lab.measure.accuracy import score_labels
from limn.lab.measure.agreement import conformity_index, consensus, structure_masks
from limn.lab.words import CONFORMITY, MEASURES, OBSERVERS, TIMES
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
    system : one of `limn.lab.words.SYSTEMS`, or any other name
    reference : "observer1", "consensus" or "observers"; "" for times
    cleaned : "yes" after the islands were removed, else "no"
    organ : its name, or "Lungs" where both are one; "" for times
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

# The references of each measure, and its largest value.
ALLOWED: Mapping[str, tuple[tuple[str, ...], float]] = {
    **{name: ((FIRST_OBSERVER,), 1.0 if name == "dsc" else math.inf) for name in MEASURES},
    CONFORMITY: ((CONSENSUS, OBSERVERS), 1.0),
    **dict.fromkeys(TIMES, (("",), math.inf)),
}


@dataclass(frozen=True, slots=True)
class Scan:
    """A scan, its animal and its test set."""

    set: str
    name: str
    animal: str


def system_scores(
    scan: Scan,
    system: str,
    prediction: Labels,
    observers: Mapping[str, npt.NDArray[np.uint8]],
    structures: Mapping[str, Sequence[int]],
    rules: Mapping[Organ, CleanRule],
) -> list[Score]:
    """Every score of a system's labels, before and after the clean-up.

    An organ that observer 1 did not draw has no score in Tables 1 and 2.

    Parameters
    ----------
    prediction : labels of the system on the scan's grid
    observers : name to (z, y, x) labels on the same grid, numbered as `prediction`; "observer1" is
        the reference of Tables 1 and 2, all of them make the consensus of Table 3
    structures : name to labels of what every observer can be compared on
    rules : of the node's clean-up
    """
    manual_zyx = observers[FIRST_OBSERVER]
    # A system can't miss an organ that observer 1 did not draw.
    organs = {
        label: organ for label, organ in prediction.organs.items() if (manual_zyx == label).any()
    }
    manual = Labels(manual_zyx, prediction.grid, organs)
    agreed = {
        name: consensus(masks)
        for name, masks in _masks_of_two(list(observers.values()), structures).items()
    }
    scores = []
    for cleaned, labels in (("no", prediction), ("yes", clean(prediction, rules).labels)):

        def add(reference: str, organ: str, measure: str, value: float, how: str = cleaned) -> None:
            scores.append(
                Score(
                    scan.set, scan.name, scan.animal, system, reference, how, organ, measure, value
                )
            )

        for accuracy in score_labels(labels, manual):
            organ = accuracy.organ
            add(FIRST_OBSERVER, organ, "dsc", accuracy.dsc)
            add(FIRST_OBSERVER, organ, "msd_mm", accuracy.msd_mm)
            add(FIRST_OBSERVER, organ, "hd95_mm", accuracy.hd95_mm)
        masks = structure_masks(labels.labels_zyx, structures)
        for structure, mask in agreed.items():
            nothing = np.zeros(mask.shape, dtype=np.bool_)
            index = conformity_index([masks.get(structure, nothing), mask])
            add(CONSENSUS, structure, CONFORMITY, index)
    return scores


def observer_scores(
    scan: Scan,
    observers: Sequence[npt.NDArray[np.uint8]],
    structures: Mapping[str, Sequence[int]],
) -> list[Score]:
    """The observers' agreement on each structure that at least two of them drew."""
    return [
        Score(
            scan.set,
            scan.name,
            scan.animal,
            OBSERVERS,
            OBSERVERS,
            "no",
            structure,
            CONFORMITY,
            conformity_index(masks),
        )
        for structure, masks in _masks_of_two(observers, structures).items()
    ]


def write_scores(path: Path, scores: Iterable[Score]) -> None:
    """Replace the file; a reader finds the old contents or the new ones."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(COLUMNS)
    for score in scores:
        *names, value = astuple(score)
        lines.writerow([*map(neutral, names), "" if math.isnan(value) else repr(float(value))])
    write_durably(path, text.getvalue().encode())


def read_scores(path: Path) -> tuple[Score, ...]:
    """Read the scores of a file.

    Raises
    ------
    ConfigWrong
        If it can't be read, lacks a column, repeats a score, has a word or a number that no score
        may have, or gives one scan to two animals; the message names the line.
    """
    try:
        # Spreadsheets put a byte order mark before the name of the first column.
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
    line_of: dict[tuple[str, ...], int] = {}
    animal_of: dict[tuple[str, str], str] = {}
    for number, score in enumerate(scores, start=2):
        if fault := _fault(score) or _second_animal(score, animal_of):
            msg = f"{path}: line {number}: {fault}"
            raise ConfigWrong(msg)
        key = tuple(str(part) for part in astuple(score)[:-1])
        if key in line_of:
            msg = f"{path}: line {number} repeats line {line_of[key]}: {' '.join(key)}"
            raise ConfigWrong(msg)
        line_of[key] = number
    return tuple(scores)


def _score(path: Path, line: int, row: Mapping[str, str | None]) -> Score:
    if None in row or None in row.values():
        msg = f"{path}: line {line}: {len(COLUMNS)} columns expected"
        raise ConfigWrong(msg)
    names = {name: plain(row[name] or "") for name in COLUMNS[:-1]}
    text = row["value"] or "nan"
    try:
        return Score(**names, value=float(text))
    except ValueError as error:
        msg = f"{path}: line {line}: value {text!r} is not a number"
        raise ConfigWrong(msg) from error


def _fault(score: Score) -> str:
    """What is wrong with a score; empty if nothing is."""
    allowed = ALLOWED.get(score.measure)
    if not (score.set and score.scan and score.animal and score.system):
        return "set, scan, animal and system must be named"
    if allowed is None:
        return f"measure {score.measure!r}: one of {', '.join(ALLOWED)} expected"
    references, largest = allowed
    if score.reference not in references:
        wanted = " or ".join(repr(each) for each in references)
        return f"reference {score.reference!r} of {score.measure}: {wanted} expected"
    if score.reference and score.cleaned not in ("yes", "no"):
        return f"cleaned {score.cleaned!r} of {score.measure}: no or yes"
    if bool(score.reference) != bool(score.organ):
        wanted = "an organ's name" if score.reference else "none"
        return f"organ {score.organ!r} of {score.measure}: {wanted} expected"
    undefined = math.isnan(score.value) and score.measure != "dsc"
    fits = undefined or 0.0 <= score.value <= largest
    return "" if fits else f"{score.measure} {score.value}: 0 to {largest:g} expected"


def _second_animal(score: Score, animal_of: dict[tuple[str, str], str]) -> str:
    """The fault of a scan that an earlier line gave to another animal; notes the animal."""
    first = animal_of.setdefault((score.set, score.scan), score.animal)
    if first != score.animal:
        return f"scan {score.scan} is animal {score.animal}'s here and {first}'s before"
    return ""


def _masks_of_two(
    observers: Sequence[npt.NDArray[np.uint8]], structures: Mapping[str, Sequence[int]]
) -> dict[str, list[npt.NDArray[np.bool_]]]:
    """The masks of each structure that at least two observers drew."""
    observed = [structure_masks(labels_zyx, structures) for labels_zyx in observers]
    masks_of = {name: [masks[name] for masks in observed if name in masks] for name in structures}
    return {name: masks for name, masks in masks_of.items() if len(masks) > 1}
