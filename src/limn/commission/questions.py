"""Asks the physicist for what only a planning system can show: at a terminal, or by a file.

Nothing is guessed: what nobody answers is missing in the report, and the report is not complete.
"""

from __future__ import annotations

import json
import math
import sys
import tomllib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from limn.commission.measuring import MeasuredOrgan, allowed_mm3
from limn.commission.record import StepResult
from limn.commission.tolerances import Tolerances
from limn.domain.errors import ConfigWrong
from limn.domain.files import write_durably
from limn.domain.scan import Role

Answer: TypeAlias = float | str
Ask: TypeAlias = Callable[[str], str]
TABLES = ("planning_system", "signed", "tolerances", "seen")
SIDES = ("left", "right")
LUNGS = (Role.LUNG_R, Role.LUNG_L)


@dataclass(frozen=True, slots=True)
class Question:
    """One thing to look up in the planning system.

    Attributes
    ----------
    key : table and names in the answers file, joined by dots
    kind : of its answer: a number above 0 or 0, a side of the animal, or words
    """

    key: str
    text: str
    kind: Literal["number", "side", "words"]

    def read(self, given: object) -> Answer:
        """An answer as a value.

        Raises
        ------
        ValueError
            If it is none to this question; the text says what is expected.
        """
        if self.kind == "number":
            try:
                number = float(str(given).replace(",", "."))
            except ValueError:
                number = math.nan
            if isinstance(given, bool) or not math.isfinite(number) or number < 0:
                msg = f"{given!r}: a number, 0 or more, expected"
                raise ValueError(msg)
            return number
        words = " ".join(str(given).split())
        if self.kind == "side":
            words = words.lower()
            if words not in SIDES:
                msg = f"{given!r}: left or right expected"
                raise ValueError(msg)
        if not words:
            msg = "words expected"
            raise ValueError(msg)
        return words


def read_answers(path: Path | None) -> dict[str, Any]:
    """The answers file as nested tables; empty without one.

    Raises
    ------
    ConfigWrong
        If it can't be read, or has a table that nobody asks for.
    """
    if path is None:
        return {}
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        msg = f"answers {path}: {error.strerror}"
        raise ConfigWrong(msg) from error
    except ValueError as error:
        msg = f"answers {path}: not valid TOML: {error}"
        raise ConfigWrong(msg) from error
    if unknown := sorted(set(found) - set(TABLES)):
        msg = f"answers {path}: {', '.join(unknown)}: tables are {', '.join(TABLES)}"
        raise ConfigWrong(msg)
    return found


def questions_on(name: str, result: StepResult) -> list[Question]:
    """What a physicist looks up of one phantom in the planning system."""
    animal = f"COMMISSIONING-{name.upper()}"
    volumes = [
        Question(
            f"seen.{name}.{each.roi}_mm3",
            f"{animal}: volume of {each.roi} as the planning system shows it, mm3",
            "number",
        )
        for each in result.organs
    ]
    lungs = _lungs(result.organs)
    sides = [
        Question(
            f"seen.{name}.larger_lung",
            f"{animal}: on which side of the ANIMAL does the planning system show the larger lung "
            "(left or right)",
            "side",
        )
    ]
    # Of a bundle without lungs, the first organ's edge.
    edge = "the lung" if lungs else ", ".join(each.roi for each in result.organs[:1])
    return [
        *volumes,
        *(sides if len(lungs) == len(LUNGS) else []),
        Question(
            f"seen.{name}.edge_mm",
            f"{animal}: greatest distance of a contour from the edge of {edge} in the image, mm",
            "number",
        ),
    ]


def _lungs(organs: Sequence[MeasuredOrgan]) -> list[MeasuredOrgan]:
    return [each for each in organs if each.role in LUNGS]


def collect(
    questions: Sequence[Question], given: Mapping[str, Any], kept: Path, ask: Ask | None
) -> dict[str, Answer]:
    """The answers: those that an earlier run kept, of the file, or of a person.

    Parameters
    ----------
    given : of `read_answers`
    kept : a file in the run's folder, so that nobody is asked twice
    ask : puts a question to a person; None if nobody is there. An empty answer leaves it open

    Raises
    ------
    ConfigWrong
        If the answers file has an answer that is none.
    """
    answers: dict[str, Answer] = {}
    if kept.exists():
        answers = json.loads(kept.read_text(encoding="utf-8"))
    for question in questions:
        if (value := _looked_up(given, question.key)) is not None:
            try:
                answers[question.key] = question.read(value)
            except ValueError as error:
                msg = f"answers file, {question.key}: {error}"
                raise ConfigWrong(msg) from error
        elif question.key not in answers and ask is not None:
            answer = _asked(question, ask)
            if answer is not None:
                answers[question.key] = answer
        write_durably(kept, json.dumps(answers, indent=1).encode())
    return answers


def forget_seen(kept: Path, names: Collection[str]) -> None:
    """Drop the kept answers on phantoms that are sent again: the planning system gets others."""
    if kept.exists():
        answers = json.loads(kept.read_text(encoding="utf-8"))
        prefixes = tuple(f"seen.{name}." for name in names)
        left = {key: value for key, value in answers.items() if not key.startswith(prefixes)}
        write_durably(kept, json.dumps(left, indent=1).encode())


def _looked_up(given: Mapping[str, Any], key: str) -> object:
    found: Any = given
    for part in key.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return None
        found = found[part]
    return found


def _asked(question: Question, ask: Ask) -> Answer | None:
    while True:
        text = ask(f"{question.text} [Enter: not known]: ").strip()
        if not text:
            return None
        try:
            return question.read(text)
        except ValueError as error:
            sys.stdout.write(f"  {error}\n")


def at_terminal() -> Ask | None:
    """Asks at the terminal; None if there is none."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return None
    return input


@dataclass(frozen=True, slots=True)
class SeenValue:
    """An answer beside what limn sent.

    Attributes
    ----------
    fault : why it does not pass; empty if it does
    """

    text: str
    answer: str
    sent: str
    allowed: str
    fault: str


def seen_values(
    name: str, result: StepResult, answers: Mapping[str, Answer], tolerances: Tolerances
) -> list[SeenValue]:
    """What the physicist saw of a phantom, against what limn sent."""
    found = []
    for question in questions_on(name, result):
        answer = answers.get(question.key)
        words = question.text.partition(": ")[2]
        if answer is None:
            found.append(SeenValue(words, "not answered", "", "", ""))
        elif question.kind == "side":
            found.append(_seen_side(words, str(answer), result.organs))
        elif question.key.endswith("edge_mm"):
            found.append(_seen_edge(words, float(answer), tolerances))
        else:
            roi = question.key.rpartition(".")[2].removesuffix("_mm3")
            sent = next(each for each in result.organs if each.roi == roi)
            found.append(_seen_volume(words, float(answer), sent, tolerances))
    return found


def _seen_side(words: str, answer: str, organs: Sequence[MeasuredOrgan]) -> SeenValue:
    larger = max(_lungs(organs), key=lambda each: each.truth_mm3)
    sent = "right" if larger.role == Role.LUNG_R else "left"
    fault = ""
    if answer != sent:
        fault = (
            f"The planning system shows the larger lung on the animal's {answer}, and the phantom "
            f"has it on the {sent}: left and right are exchanged in the planning system. Do not "
            "treat any animal by it until the cause is found."
        )
    return SeenValue(words, answer, sent, "none", fault)


def _seen_edge(words: str, answer_mm: float, tolerances: Tolerances) -> SeenValue:
    allowed = f"{tolerances.seen_edge_mm:g} mm"
    fault = ""
    if answer_mm > tolerances.seen_edge_mm:
        fault = (
            f"In the planning system a contour lies {answer_mm:g} mm beside the edge in the image; "
            f"{allowed} are allowed. The import moved it."
        )
    return SeenValue(words, f"{answer_mm:g} mm", "0 mm", allowed, fault)


def _seen_volume(
    words: str, answer_mm3: float, sent: MeasuredOrgan, tolerances: Tolerances
) -> SeenValue:
    allowed = allowed_mm3(sent.volume_mm3, tolerances)
    fault = ""
    if abs(answer_mm3 - sent.volume_mm3) > allowed:
        fault = (
            f"The planning system shows {answer_mm3:g} mm3 for {sent.roi}, and limn sent "
            f"{sent.volume_mm3:.1f}; {allowed:.1f} mm3 more or less are allowed."
        )
    return SeenValue(
        words, f"{answer_mm3:g} mm3", f"{sent.volume_mm3:.1f} mm3", f"{allowed:.1f} mm3", fault
    )
