"""Errors that nobody expected: logged once each; what brought one rests until its next try."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from limn.domain.one_line import one_line

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
# So many are remembered; the oldest is forgotten first.
MOST = 1000


@dataclass(slots=True)
class _Noted:
    """How often something brought an error, and until when it rests (monotonic)."""

    count: int
    until_s: float
    kind: type[BaseException]
    why: str


class Surprises:
    """What brought an error that nobody expected, by keys of the caller; of one thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._noted: dict[Hashable, _Noted] = {}

    def note(self, key: Hashable, error: BaseException) -> bool:
        """Let this rest, longer each time; returns whether the error is news for the log."""
        before = self._noted.pop(key, None)
        count = 1 if before is None else before.count + 1
        pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(count - 1, 10))
        self._noted[key] = _Noted(count, self._clock() + pause_s, type(error), fault(error))
        if len(self._noted) > MOST:
            del self._noted[next(iter(self._noted))]
        return before is None or before.kind is not type(error)

    def rests(self, key: Hashable) -> bool:
        """Whether it is too early to try this again."""
        noted = self._noted.get(key)
        return noted is not None and self._clock() < noted.until_s

    def count(self, key: Hashable) -> int:
        """How often this has brought an error, one after another."""
        noted = self._noted.get(key)
        return 0 if noted is None else noted.count

    def why(self, key: Hashable) -> str:
        """The last error of this in one line; empty if it went well."""
        noted = self._noted.get(key)
        return "" if noted is None else noted.why

    def is_over(self, key: Hashable) -> None:
        """Forget it: this went well."""
        self._noted.pop(key, None)


def fault(error: BaseException) -> str:
    """The error in one line, for a person who can't mend limn."""
    text = one_line(error)[:200]
    return f"a fault of limn ({type(error).__name__}{': ' if text else ''}{text})"
