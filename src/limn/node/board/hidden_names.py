"""Puts scan numbers in the place of animals' names, in whatever a page shows (D-246)."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from limn.node.board.names_in_text import NO_NUMBER, OTHER, Names
from limn.node.config import Config
from limn.node.operate.journal_access import journal_to_read
from limn.node.store.disk import scanlog
from limn.node.store.disk.receiving import read_receiving
from limn.node.store.journal.schema import JournalError

log = logging.getLogger(__name__)

_NAME_FIELDS = ("animal", "animal_name")
_NUMBER_FIELDS = ("scan", "scan_id", "name")
# Columns of the scan log with words; the others are numbers, times, UIDs and hashes.
_WORDS = ("destination", "destination_status", "bundle", "profile", "device", "flags")
# A scanner, as the node has it; a watched folder and an image are named by their path.
_SCANNER = re.compile(r"[^@/\\]{1,16}@[^\s@/\\]+")
_ON_DISK = re.compile(r"(folder|image) .*", re.DOTALL)
# What is asked of journal and log at most so often.
KNOWN_S = 2.0


class Typed(str):
    """What the visitor typed: shown as it is, so that it tells nobody which names there are."""

    __slots__ = ()


class HiddenNames:
    """Replaces the names of animals in values and texts; leaves them where they are shown.

    Reads the journal, and takes its time: not for the event loop.
    """

    def __init__(self, config: Config, *, hides: bool) -> None:
        self._config = config
        self.hides = hides
        self._log = scanlog.LogFollower(config.scan_log_path, _names_of_row)
        self._lock = threading.Lock()
        self._known = Names.of({})
        self._known_at_s = -KNOWN_S
        watched = config.watch and re.escape(str(config.watch.folder))
        self._watched = re.compile(rf"({watched}[/\\]).*?(?=: |; |['\"]|$)") if watched else None

    def over(self, value: Any) -> Any:
        """The same value without names: texts, and texts in dataclasses, mappings and sequences.

        A scan's own name becomes its number, another animal's the number of its newest scan. What
        is `Typed` stays.
        """
        return self._over(value, self._names()) if self.hides else value

    def rows(self, rows: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
        """Rows of the scan log without names."""
        if not self.hides:
            return [dict(row) for row in rows]
        names = self._names()
        words: dict[str, str] = {}
        return [self._row(row, names, words) for row in rows]

    def _row(self, row: Mapping[str, str], names: Names, words: dict[str, str]) -> dict[str, str]:
        shown = {**row, "animal": row.get("scan_id", "")}
        if "sender" in row:
            shown["sender"] = shown_sender(row["sender"])
        for column in _WORDS:
            if text := row.get(column, ""):
                if text not in words:
                    words[text] = self._text(text, names)
                shown[column] = words[text]
        if reason := row.get("reason", ""):
            own = names.also(_own(row))
            shown["reason"] = OTHER if names.blind else self._text(reason, own)
        return shown

    def _names(self) -> Names:
        """What stands for each name that the node knows."""
        with self._lock:
            now_s = time.monotonic()
            if now_s - self._known_at_s >= KNOWN_S:
                found, blind = self._found()
                if (found, blind) != (self._known.known, self._known.blind):
                    self._known = Names.of(found, blind=blind)
                self._known_at_s = time.monotonic()
            return self._known

    def _found(self) -> tuple[dict[str, str], bool]:
        found: dict[str, str] = {}
        for series in read_receiving(self._config.receiving_path, time.time()):
            found[series.animal] = NO_NUMBER
            found |= _own_sender(series.sender)
        try:
            for animal, scan, sender in self._log.rows():
                found[animal] = scan
                found |= _own_sender(sender)
        except OSError:
            # No scan has ended yet.
            pass
        blind = False
        try:
            with journal_to_read(self._config) as journal:
                found |= journal.newest_of_animals() if journal is not None else {}
        except JournalError as error:
            blind = True
            if not self._known.blind:
                log.error("the journal can't be read, so names in reasons are hidden: %s", error)
        return {name: number for name, number in found.items() if name.strip()}, blind

    def _text(self, text: str, names: Names) -> str:
        if self._watched is not None:
            text = self._watched.sub(rf"\g<1>{OTHER}", text)
        return names.out_of(text)

    def _over(self, value: Any, names: Names) -> Any:
        found = value
        # Not what was typed, nor a text that is HTML already, whose parts went through here.
        if type(value) is str:
            found = self._text(value, names)
        elif isinstance(value, Path):
            found = Path(self._text(str(value), names))
        elif isinstance(value, Mapping):
            own = names.also(_own(value))
            found = {key: self._field(key, each, own) for key, each in value.items()}
        elif isinstance(value, tuple | list):
            # A fact of a scan: its number is no PatientID.
            what = value[0] if value and isinstance(value[0], str) else ""
            found = type(value)(
                OTHER
                if what == "PatientID" and k
                else shown_sender(str(each))
                if what == "scanner" and k
                else self._over(each, names)
                for k, each in enumerate(value)
            )
        elif is_dataclass(value) and not isinstance(value, type):
            found = self._over_dataclass(value, names)
        return found

    def _over_dataclass(self, value: Any, names: Names) -> Any:
        inner = {each.name: getattr(value, each.name) for each in fields(value) if each.init}
        own: dict[str, str] = {}
        for part in inner.values():
            # A page of one scan has its row as a part, and its name in other parts.
            own |= _own(_values(part))
        own |= _own(_values(value))
        known = names.also(own)
        return replace(value, **{key: self._field(key, each, known) for key, each in inner.items()})

    def _field(self, key: object, value: Any, names: Names) -> Any:
        """A value by the name under which it stands."""
        if type(value) is str and value:
            if key in _NAME_FIELDS:
                return names.stands_for(value) or OTHER
            if key == "sender":
                return shown_sender(value)
        return self._over(value, names)


def shown_sender(sender: str) -> str:
    """A scanner as it is; of a watched folder or an image, whose paths have names, the kind."""
    if found := _ON_DISK.fullmatch(sender):
        return found[1]
    return sender if not sender or _SCANNER.fullmatch(sender) else OTHER


def _own_sender(sender: str) -> dict[str, str]:
    found = _ON_DISK.fullmatch(sender)
    return {sender: found[1]} if found else {}


def _names_of_row(row: Mapping[str, str]) -> tuple[str, str, str]:
    return row.get("animal", ""), row.get("scan_id", ""), row.get("sender", "")


def _values(value: Any) -> dict[str, Any]:
    """The names in a dataclass, and by which number its scan goes."""
    if not is_dataclass(value) or not hasattr(value, "animal"):
        return {}
    wanted = (*_NAME_FIELDS, *_NUMBER_FIELDS, "sender")
    return {key: getattr(value, key) for key in wanted if hasattr(value, key)}


def _own(values: Mapping[Any, Any]) -> dict[str, str]:
    number = next((str(values[key]) for key in _NUMBER_FIELDS if values.get(key)), NO_NUMBER)
    found = {name: number for key in _NAME_FIELDS if type(name := values.get(key)) is str and name}
    sender = values.get("sender")
    return (found | _own_sender(sender)) if found and type(sender) is str else found
