"""Files of a watched folder that were not taken, and whether a series may lack them.

Only a file that is named as the slices are can be a slice that its series lacks.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

# A share may hold any number of links and pipes; so many are logged.
MAX_LOGGED = 1000
# A file of no known series that was not taken is missed by the series that come so soon after it.
MISSED_S = 60.0
# A file that can't be read holds its folder up for so long: another program may still have it.
UNREADABLE_S = 10.0
# A longer ending, or one with digits, is part of a name.
LONGEST_SUFFIX = 6


class MissedFiles:
    """What a folder's series may lack; each file that can't be read is logged once."""

    def __init__(self) -> None:
        self._since_s: dict[str, float] = {}
        self._given_up: set[str] = set()
        self._slices: set[str] = set()
        self._not_taken_s: dict[str, float] = {}

    def slice_came(self, path: str) -> None:
        """A slice was taken: it can be read, and slices are named so."""
        self.forget(path)
        self._slices.add(_suffix(path))

    def forget(self, path: str) -> None:
        """It can be read now, or it is gone."""
        self._since_s.pop(path, None)
        self._given_up.discard(path)
        self._not_taken_s.pop(path, None)

    def not_taken(self, path: str, now_s: float) -> None:
        """It was read or looked at, and nobody knows of which series it is."""
        # Programs keep notes of their own under hidden names.
        hidden = os.path.basename(path).startswith(".")  # noqa: PTH119
        if not hidden and len(self._not_taken_s) < MAX_LOGGED:
            self._not_taken_s[path] = now_s

    def folders_that_lack(self, now_s: float) -> set[str]:
        """The folders in which a file that may be a slice was not taken within `MISSED_S`."""
        self._not_taken_s = {
            path: at_s for path, at_s in self._not_taken_s.items() if now_s - at_s < MISSED_S
        }
        return folders_of(path for path in self._not_taken_s if self.may_be_slice(path))

    def may_be_slice(self, path: str) -> bool:
        """Whether its series may lack it."""
        return _suffix(path) in self._slices

    def may_be_free_soon(self, path: str, now_s: float) -> bool:
        """Note that it can't be read; whether it is so soon after the first time."""
        if path in self._given_up or len(self._since_s) >= MAX_LOGGED:
            return False
        return now_s - self._since_s.setdefault(path, now_s) < UNREADABLE_S

    def give_up(self, path: str) -> bool:
        """Wait for it no longer; whether that is news."""
        news = path not in self._given_up and len(self._given_up) < MAX_LOGGED
        if news:
            self._given_up.add(path)
        return news

    def holds_up(self, path: str) -> bool:
        """Whether its folder waits for it."""
        return path not in self._given_up


def folders_of(paths: Iterable[str]) -> set[str]:
    """The folders in which some files lie."""
    return {os.path.dirname(path) for path in paths}  # noqa: PTH120 - names that are no UTF-8


def _suffix(path: str) -> str:
    """The ending of a file's name; empty if it is a number or part of a UID."""
    suffix = os.path.splitext(path)[1].lower()  # noqa: PTH122
    return suffix if suffix[1:].isalpha() and len(suffix) <= LONGEST_SUFFIX else ""
