"""Which scans a person asks for: one choice for `limn log` and the board (D-250)."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import date
from typing import TypeVar

from limn.domain.errors import ConfigWrong
from limn.domain.light import Light
from limn.domain.records import ScanRecord
from limn.node.operate.history.scans import LoggedScan, logged_scan
from limn.node.store.disk import scanlog

# Of each text of a choice; a PatientID has 64 (PS3.5 6.2).
MOST_LETTERS = 300
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
Test = Callable[[LoggedScan], bool]
_Chosen = TypeVar("_Chosen")


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which scans are meant, as a person wrote it; an empty text means all.

    Attributes
    ----------
    since, until : first and last day of the last slice, UTC, as YYYY-MM-DD
    scanner : AE title, or the whole sender as ``AE@ADDRESS``
    animal, bundle : the whole name. In these and in ``scanner`` a ``*`` stands for any text
    light : green, amber or red
    flag, without : the whole flag, or what stands before its first colon; with it, or not
    slower_s : seconds from door to door, so many and more
    """

    since: str = ""
    until: str = ""
    scanner: str = ""
    animal: str = ""
    light: str = ""
    flag: str = ""
    without: str = ""
    bundle: str = ""
    slower_s: str = ""

    @property
    def everything(self) -> bool:
        """Whether it leaves no scan out."""
        return not any(getattr(self, each.name) for each in fields(self))

    def wrong(self, mark: str = "") -> str:
        """What can't be read of it; empty if all can.

        Parameters
        ----------
        mark : before the name of what is wrong, such as ``--``
        """
        for each in fields(self):
            letters = len(getattr(self, each.name))
            if letters > MOST_LETTERS:
                name = each.name.replace("slower_s", "slower-than")
                return f"{mark}{name} has {letters} letters: {MOST_LETTERS} at most expected"
        for name, text in (("since", self.since), ("until", self.until)):
            if text and not _is_day(text):
                return f"{mark}{name} {text}: a day as YYYY-MM-DD expected"
        if self.since and self.until and self.until < self.since:
            return f"{mark}until {self.until} lies before {mark}since {self.since}: swap them"
        if self.light and self.light not in set(Light):
            return f"{mark}light {self.light}: {', '.join(Light)} expected"
        if self.slower_s and _seconds(self.slower_s) is None:
            return f"{mark}slower-than {self.slower_s}: seconds expected, such as 12.5"
        return ""

    def of(self, scans: Iterable[LoggedScan]) -> list[LoggedScan]:
        """The chosen scans, the oldest last slice first; equal ones by their number."""
        return self._chosen((scan, scan) for scan in scans)

    def rows_of(self, rows: Iterable[Mapping[str, str]]) -> list[Mapping[str, str]]:
        """The chosen rows of the scan log, in the same order."""
        if self.everything:
            return sorted(rows, key=_order)
        return self._chosen((logged_scan(row), row) for row in rows)

    def takes_animal(self, animal: str) -> bool:
        """Whether it leaves out no scan of an animal for its PatientID."""
        return not self.animal or _pattern(self.animal)(animal)

    def _chosen(self, pairs: Iterable[tuple[LoggedScan, _Chosen]]) -> list[_Chosen]:
        tests = list(self._tests())
        found = [pair for pair in pairs if all(test(pair[0]) for test in tests)]
        # Two rows of one scan with one time keep the order of the log.
        found.sort(key=lambda pair: (pair[0].last_slice_utc, pair[0].name))
        return [chosen for _, chosen in found]

    def _tests(self) -> Iterable[Test]:
        if self.since:
            yield lambda scan: scan.day >= self.since
        if self.until:
            yield lambda scan: scan.day <= self.until
        if self.light:
            yield lambda scan: scan.light == self.light
        if self.flag:
            yield lambda scan: _has_flag(scan, self.flag)
        if self.without:
            yield lambda scan: not _has_flag(scan, self.without)
        if self.animal:
            animal = _pattern(self.animal)
            yield lambda scan: animal(scan.animal)
        if self.bundle:
            bundle = _pattern(self.bundle)
            yield lambda scan: bundle(scan.bundle)
        if self.scanner:
            scanner = _pattern(self.scanner)
            yield lambda scan: scanner(scan.sender) or scanner(scan.scanner)
        if self.slower_s:
            least_s = float(self.slower_s)
            yield lambda scan: scan.door_to_door_s is not None and scan.door_to_door_s >= least_s


def given_choice(mark: str, **given: str | None) -> Choice:
    """The choice of a command's options; None for an option that was not given.

    Raises
    ------
    ConfigWrong
        If an option is empty or can't be read.
    """
    texts = {name: text.strip() for name, text in given.items() if text is not None}
    for name, text in texts.items():
        if not text:
            day = ": a day as YYYY-MM-DD expected" if name in ("since", "until") else ""
            msg = f"{mark}{name.replace('slower_s', 'slower-than')} is empty{day}"
            raise ConfigWrong(msg)
    choice = Choice(**texts)
    if why := choice.wrong(mark):
        raise ConfigWrong(why)
    return choice


def csv_of(rows: Iterable[Mapping[str, str]]) -> str:
    """Rows of the scan log as CSV for people, under every column of today's log."""
    text = io.StringIO()
    writer = csv.DictWriter(
        text, ScanRecord.columns(), restval="", extrasaction="ignore", lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(scanlog.neutral(row) for row in rows)
    return text.getvalue()


def names_in(scans: Sequence[LoggedScan], most: int) -> dict[str, list[str]]:
    """Scanners, animals, bundles and flags that there are, for a form; at most so many of each."""
    found = {
        "scanner": {scan.scanner for scan in scans},
        "animal": {scan.animal for scan in scans},
        "bundle": {scan.bundle for scan in scans},
        "flag": {
            flag.partition(":")[0] for flags in {scan.flags for scan in scans} for flag in flags
        },
    }
    return {name: sorted(values - {""})[:most] for name, values in found.items()}


def _has_flag(scan: LoggedScan, name: str) -> bool:
    return any(flag == name or flag.startswith(f"{name}:") for flag in scan.flags)


def _order(row: Mapping[str, str]) -> tuple[str, str]:
    return row.get("last_slice_utc", ""), row.get("scan_id", "")


def _is_day(text: str) -> bool:
    try:
        return bool(_DAY.fullmatch(text) and date.fromisoformat(text))
    except ValueError:
        return False


def _seconds(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0.0 else None


def _pattern(text: str) -> Callable[[str], bool]:
    """Whether a whole name is meant, where ``*`` stands for any text.

    The parts between the stars are found from left to right, each at its first place: a regular
    expression would try all places of all of them, and stop the process for hours.
    """
    first, *others = text.split("*")
    if not others:
        return lambda name: name == text
    last = others.pop()
    parts = [part for part in others if part]

    def fits(name: str) -> bool:
        at, end = len(first), len(name) - len(last)
        if at > end or not (name.startswith(first) and name.endswith(last)):
            return False
        for part in parts:
            found = name.find(part, at, end)
            if found < 0:
                return False
            at = found + len(part)
        return True

    return fits
