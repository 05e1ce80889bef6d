"""Puts scan numbers in the place of animals' names, in whatever a page shows (D-246)."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from limn.node.config import Config
from limn.node.operate.journal_access import journal_to_read
from limn.node.store.disk.receiving import read_receiving

# Of a series that comes in, which is no scan yet.
NO_NUMBER = "not numbered yet"
# Of an animal that is in no scan: a slice of another one in the series, say.
OTHER = "(name hidden)"
_NAME_FIELDS = ("animal", "animal_name")
# As a reason of limn has them: PatientID 'M7', but 'M8' in the series.
_ABOUT_NAMES = re.compile(r"Patient|\banimal\b")
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
# UIDs, times and counts, which no name is part of.
_NUMBERS = re.compile(r"[\d.:]*")
# What is asked of the journal at most so often.
KNOWN_S = 2.0


class HiddenNames:
    """Replaces the names of animals in values and texts; leaves them where they are shown."""

    def __init__(self, config: Config, *, hides: bool) -> None:
        self._config = config
        self.hides = hides
        self._known: tuple[float, dict[str, str]] = (-KNOWN_S, {})

    def over(self, value: Any) -> Any:
        """The same value without names: texts, and texts in dataclasses, mappings and sequences.

        A scan's own name becomes its number, another animal's the number of its newest scan.
        """
        return _over(value, self._names()) if self.hides else value

    def rows(self, rows: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
        """Rows of the scan log without names."""
        if not self.hides:
            return [dict(row) for row in rows]
        names = self._names()
        return [
            {**row, "animal": row["scan_id"], "reason": _text(row.get("reason", ""), names)}
            for row in rows
        ]

    def _names(self) -> dict[str, str]:
        """What stands for each name that the node knows."""
        now_s = time.monotonic()
        if now_s - self._known[0] >= KNOWN_S:
            found = {
                series.animal: NO_NUMBER
                for series in read_receiving(self._config.receiving_path, time.time())
                if series.animal
            }
            with journal_to_read(self._config) as journal:
                found |= journal.newest_of_animals() if journal is not None else {}
            self._known = now_s, found
        return self._known[1]


def _over(value: Any, names: Mapping[str, str]) -> Any:
    found = value
    # Not a text that is HTML already, whose parts went through here.
    if type(value) is str:
        found = _text(value, names)
    elif isinstance(value, Path):
        found = Path(_text(str(value), names))
    elif isinstance(value, Mapping):
        own = {**names, **_own(value)}
        found = {key: _over(each, own) for key, each in value.items()}
    elif isinstance(value, tuple | list):
        # A fact of a scan: its number is no PatientID.
        is_id = tuple(value[:1]) == ("PatientID",)
        found = type(value)(
            OTHER if is_id and k else _over(each, names) for k, each in enumerate(value)
        )
    elif is_dataclass(value) and not isinstance(value, type):
        found = _over_dataclass(value, names)
    return found


def _over_dataclass(value: Any, names: Mapping[str, str]) -> Any:
    inner = {each.name: getattr(value, each.name) for each in fields(value) if each.init}
    own = dict(names)
    for part in inner.values():
        # A page of one scan has its row as a part, and its name in other parts.
        own |= _own(_values(part))
    own |= _own(_values(value))
    return replace(value, **{key: _over(each, own) for key, each in inner.items()})


def _values(value: Any) -> dict[str, Any]:
    """The names in a dataclass, and by which number its scan goes."""
    if not is_dataclass(value) or not hasattr(value, "animal"):
        return {}
    wanted = (*_NAME_FIELDS, "scan", "scan_id", "name")
    return {key: getattr(value, key) for key in wanted if hasattr(value, key)}


def _own(values: Mapping[Any, Any]) -> dict[str, str]:
    number = next(
        (str(values[key]) for key in ("scan", "scan_id", "name") if values.get(key)), NO_NUMBER
    )
    return {name: number for key in _NAME_FIELDS if type(name := values.get(key)) is str and name}


def _text(text: str, names: Mapping[str, str]) -> str:
    if text in names:
        return names[text]
    if _NUMBERS.fullmatch(text):
        return text
    if _ABOUT_NAMES.search(text):
        text = _QUOTED.sub(lambda found: names.get(found[0][1:-1], OTHER), text)
    return _without(text, names)


def _without(text: str, names: Mapping[str, str]) -> str:
    """A text without these names, but where they are part of a word or a number."""
    found = sorted((each for each in names if each in text), key=len, reverse=True)
    if not found:
        return text
    # In one pass: what stands for a name is no name.
    names_in_it = "|".join(re.escape(each) for each in found)
    pattern = rf"(?<!\w)(?<!\d[.,])({names_in_it})(?!\w)(?![.,]\d)"
    return re.sub(pattern, lambda match: names[match[1]], text)
