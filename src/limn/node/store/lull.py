"""Tells whether live scans leave the host alone: nothing comes in, nothing waits, nothing runs.

Work that may wait begins in a lull and ends with it. The first slice of a series ends it: each
slice that is received changes the spool's folder of slots, so a look costs one call of the system.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from limn.node.config import Config
from limn.node.store.disk.receiving import read_receiving
from limn.node.store.disk.spool import SLOTS
from limn.node.store.journal.reader import JournalReader
from limn.node.store.journal.schema import LIVE

# After the last slice the receiver says within this time that its series still comes in.
QUIET_S = 3.0
# Between two questions to the journal.
ASK_S = 0.2


class Lull:
    """Looks for live scans; used by one thread. The first look counts as if a slice had come.

    Parameters
    ----------
    live_only : whether the scans of a cohort, which nobody waits for, may wait and run
    """

    def __init__(
        self,
        config: Config,
        journal: JournalReader,
        clock: Callable[[], float] = time.monotonic,
        *,
        live_only: bool = False,
    ) -> None:
        self._config = config
        self._journal = journal
        self._clock = clock
        self._live_only = live_only
        self._slots = self._slots_changed()
        self._came_s = clock()
        self._asked_s = float("-inf")
        self._waits = ""

    def broken_by(self) -> str:
        """What there is to do for live scans, in words; empty in a lull."""
        changed = self._slots_changed()
        if changed != self._slots:
            self._slots, self._came_s = changed, self._clock()
        if self._clock() - self._came_s < QUIET_S:
            return "slices come in"
        coming = read_receiving(self._config.receiving_path, time.time())
        for series in coming:
            # An image that waits for a person may do so for days.
            if not series.light:
                return f"a series of animal {series.animal} comes in"
        return self._waiting()

    def _slots_changed(self) -> int:
        try:
            return (self._config.spool_dir / SLOTS).stat().st_mtime_ns
        except OSError:
            return 0

    def _waiting(self) -> str:
        now_s = self._clock()
        if now_s - self._asked_s >= ASK_S:
            self._asked_s = now_s
            # Live scans come first.
            first = next(iter(self._journal.ready()), None)
            counts = first is not None and (first.priority >= LIVE or not self._live_only)
            self._waits = f"{first.name} waits or runs" if first is not None and counts else ""
        return self._waits
