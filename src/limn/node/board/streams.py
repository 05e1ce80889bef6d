"""How many pages are followed at the same time: in all, by one browser and from one address."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

MOST_STREAMS, MOST_OF_BROWSER, MOST_OF_ADDRESS = 50, 8, 24


@dataclass(slots=True)
class Streams:
    """Counts the streams of events that are open."""

    _open: Counter[tuple[str, str]] = field(default_factory=Counter)

    def enter(self, browser: str, address: str) -> bool:
        """Count one more; false if there are too many, and nothing is counted then."""
        keys = self._keys(browser, address)
        if any(self._open[key] >= most for key, most in keys.items()):
            return False
        self._open.update(keys.keys())
        return True

    def leave(self, browser: str, address: str) -> None:
        """One that was counted has ended."""
        for key in self._keys(browser, address):
            self._open[key] -= 1
            if not self._open[key]:
                del self._open[key]

    def _keys(self, browser: str, address: str) -> dict[tuple[str, str], int]:
        return {
            ("all", ""): MOST_STREAMS,
            ("browser", browser): MOST_OF_BROWSER,
            ("address", address): MOST_OF_ADDRESS,
        }
