"""Notes that a process ends again and again soon after its start, for the page and `limn queue`."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from limn.domain.files import OWNER_ONLY_FILE, write_durably

# So many ends in a row are a loop: a single one may have any cause.
LOOP = 3
# So many ends within this time are worth a look, though each run was long.
OFTEN, OFTEN_S = 3, 3600.0
# A note is written at each end; an older one was left by a supervisor that was killed.
FRESH_S = 900.0


class RestartLoop:
    """The ends of one process since it last ran for long.

    Parameters
    ----------
    note : file for `limn queue`, which can't ask the supervisor; None for none
    clock : monotonic seconds
    """

    def __init__(
        self, name: str, note: Path | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._name = name
        self._note = note
        self._clock = clock
        self._ends_s: deque[float] = deque(maxlen=OFTEN)
        self._in_a_row = 0
        self._code = 0

    @property
    def line(self) -> str:
        """What happens, in words; empty while there is no loop."""
        if self._in_a_row < LOOP:
            return ""
        return (
            f"{self._name} has ended {self._in_a_row} times in a row soon after its start "
            f"(exit code {self._code}); limn.log says why"
        )

    @property
    def often(self) -> str:
        """What happens if it ended often within the last hour, in words; else empty."""
        if len(self._ends_s) < OFTEN or self._clock() - self._ends_s[0] > OFTEN_S:
            return ""
        return (
            f"{self._name} has ended {OFTEN} times or more within {OFTEN_S / 60:.0f} minutes (exit "
            f"code {self._code}); limn.log says why"
        )

    def ended(self, code: int) -> None:
        """Note that the process ended with this code."""
        self._in_a_row += 1
        self._ends_s.append(self._clock())
        self._code = code
        if self._note is not None and self.line:
            # The note is for people; a full disk must not end the supervisor.
            with suppress(OSError):
                write_durably(self._note, self.line.encode(), OWNER_ONLY_FILE)

    def is_over(self) -> None:
        """Note that the process has run for long, or that nothing starts it any more."""
        self._in_a_row = 0
        if self._note is not None:
            with suppress(OSError):
                self._note.unlink(missing_ok=True)


def loop_noted(note: Path, now: float | None = None) -> str:
    """The line of a process that ends again and again; empty if there is none."""
    try:
        age_s = (time.time() if now is None else now) - note.stat().st_mtime
        return note.read_text(encoding="utf-8") if age_s < FRESH_S else ""
    except (OSError, ValueError):
        return ""
