"""Folders that files were taken from, and when each may end, as an association ends."""

from __future__ import annotations

import math


class FedFolders:
    """What was taken from the folders of a watch, and what they wait for. Times are monotonic.

    A folder ends after a listing of it that began ``settle_s`` after its last new or changed file
    was seen, and that found nothing new there (D-257): what was listed before tells nothing of
    the files that came since.

    Attributes
    ----------
    held : those that the share's absence keeps open
    """

    def __init__(self, settle_s: float) -> None:
        self._settle_s = settle_s
        self._ever: set[str] = set()
        self._open: set[str] = set()
        self._lacking: dict[str, set[str]] = {}
        self._changed_s: dict[str, float] = {}
        self.held: set[str] = set()

    def changed(self, folder: str, at_s: float) -> None:
        """A new or changed file was seen in it."""
        self._changed_s[folder] = at_s

    def has_changed(self, folder: str, since_s: float) -> bool:
        """Whether a new or changed file was seen in it since then."""
        return self._changed_s.get(folder, -math.inf) >= since_s

    def fed(self, folder: str) -> None:
        """A file of it was taken, or will be."""
        self._ever.add(folder)
        self._open.add(folder)

    def lacks(self, folder: str, path: str = "") -> None:
        """A file of it had to be left for now, or is gone (no path): its series may lack it."""
        self._lacking.setdefault(folder, set()).add(path)

    def lacks_no_more(self, folder: str, path: str) -> None:
        """The file was taken after all, or no series lacks it."""
        self._lacking.get(folder, set()).discard(path)

    def hold(self) -> set[str]:
        """Keep all open while the share is gone: it went in the middle of them, or after."""
        self.held |= self._ever
        return self.held

    def go_on(self, now_s: float) -> None:
        """The share is back: what was held is open, and whoever writes there goes on now."""
        for folder in self.held:
            self._changed_s[folder] = now_s
        self._open |= self.held
        self.held = set()

    def quiet(self, busy: set[str], now_s: float) -> list[str]:
        """The open ones in which nothing has changed for ``settle_s`` and nothing waits."""
        return sorted(
            folder
            for folder in self._open - busy
            if now_s - self._changed_s.get(folder, -math.inf) >= self._settle_s
        )

    def end(self, folder: str) -> set[str]:
        """It has ended; returns what its series may lack, as `lacks` was told."""
        self._open.discard(folder)
        self._changed_s.pop(folder, None)
        return self._lacking.pop(folder, set())
