"""Says what a series that is coming in waits for: once in the log, and in a file for the queue."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from limn.node import oplog
from limn.node.receive.completeness import Decision, Rules
from limn.node.receive.gathering import Gathering
from limn.node.store.disk.receiving import REWRITE_S, ReceivingSeries, write_receiving
from limn.node.store.journal.schema import is_damaged
from limn.node.store.remedies import fault_notice
from limn.node.surprises import Surprises, fault

log = logging.getLogger(__name__)

EVERY_S, SOON_S = 1.0, 0.1


def series_shown(
    gathering: Gathering, decision: Decision, rules: Rules, now_s: float, now: float
) -> ReceivingSeries:
    """A series that is coming in, for people; it is ``now_s`` (monotonic) and ``now`` (UTC s)."""
    version = gathering.next_version(rules.min_slices)
    until_s = decision.until_s
    return ReceivingSeries(
        animal=gathering.animal,
        sender=gathering.sender,
        series_instance_uid=gathering.series_instance_uid,
        since_utc=_utc(now - (now_s - gathering.first_s)),
        slices=len(version.positions_mm),
        expected=rules.expected_slices or version.announced_slices,
        waits_for=decision.awaits,
        until_utc="" if until_s is None else _utc(now + until_s - now_s),
    )


def log_once(gathering: Gathering, decision: Decision, shown: ReceivingSeries) -> None:
    """Log what a series waits for although nothing of it comes, when that begins."""
    if not decision.setting or decision.awaits in gathering.reported:
        return
    gathering.reported.add(decision.awaits)
    uid = shown.series_instance_uid
    with oplog.about(animal=shown.animal, series_instance_uid=uid):
        log.info(
            "animal %s from %s: %d %s come; limn waits for %s, until %s if nothing more comes (%s)",
            shown.animal,
            shown.sender,
            shown.slices,
            "slice has" if shown.slices == 1 else "slices have",
            shown.waits_for,
            shown.until_utc[11:19] + " UTC",
            decision.setting,
        )


class SeriesFaults:
    """The series that brought an error that nobody expected; each rests before its next try.

    Parameters
    ----------
    journal_path : for the words of the log
    """

    def __init__(self, journal_path: Path) -> None:
        self._journal_path = journal_path
        self._surprises = Surprises()

    def rests(self, gathering: Gathering) -> bool:
        """Whether it is too early to try to hand this series over again."""
        return self._surprises.rests(gathering.series_instance_uid)

    def is_over(self, gathering: Gathering) -> None:
        """The series was handed over."""
        self._surprises.is_over(gathering.series_instance_uid)

    @contextmanager
    def guarded(self, gathering: Gathering) -> Iterator[None]:
        """Log an error that nobody expected once with its series; the other series go on."""
        uid = gathering.series_instance_uid
        with oplog.about(animal=gathering.animal, series_instance_uid=uid):
            try:
                yield
            except Exception as error:
                if is_damaged(error):
                    # The supervisor must restore the journal.
                    raise
                if self._surprises.note(uid, error):
                    log.error(
                        "animal %s from %s: %d slices lie in the spool and can't be handed over; "
                        "it is tried again and again: %s",
                        gathering.animal,
                        gathering.sender,
                        len(gathering.instances),
                        fault_notice(error, self._journal_path),
                        exc_info=error,
                    )

    def shown(self, gathering: Gathering, now_s: float, now: float) -> ReceivingSeries | None:
        """A series with a fault, for people; None if it has none. Times as `series_shown`."""
        why = self._surprises.why(gathering.series_instance_uid)
        if not why:
            return None
        return ReceivingSeries(
            animal=gathering.animal,
            sender=gathering.sender,
            series_instance_uid=gathering.series_instance_uid,
            since_utc=_utc(now - (now_s - gathering.first_s)),
            slices=len(gathering.instances),
            expected=None,
            waits_for=f"a mend: {why}; see limn.log, report it, and limn tries again by itself",
            until_utc="",
        )


@dataclass(slots=True)
class ReceivingFile:
    """Keeps the file of `limn queue` up to date.

    It is written on a change, and every `REWRITE_S` while any series comes in.

    Attributes
    ----------
    begun : set when the first slice of a series has come
    wake : called when another series is in the file
    """

    path: Path
    begun: threading.Event
    wake: Callable[[], None]
    _last: tuple[ReceivingSeries, ...] | None = None
    _written_s: float = 0.0

    def run(self, look: Callable[[], Sequence[ReceivingSeries]], stopping: threading.Event) -> None:
        """Look until the node stops; then nothing comes in any more.

        Once a second, and soon when a series begins and no other comes in.
        """
        surprises = Surprises()
        looked_s = time.monotonic()
        while not stopping.wait(SOON_S):
            soon = self.begun.is_set() and not self._last
            if not soon and time.monotonic() - looked_s < EVERY_S:
                continue
            self.begun.clear()
            looked_s = time.monotonic()
            try:
                self.update(look())
            except Exception as error:
                # For people alone: no slice must wait for it.
                if is_damaged(error):
                    raise
                if surprises.note(self.path, error):
                    log.error(
                        "`limn queue` can't show what comes in: %s", fault(error), exc_info=error
                    )
        self.update(())

    def update(self, series: Sequence[ReceivingSeries]) -> None:
        """Write what is coming in now, if that is news."""
        now_s, every = time.monotonic(), tuple(series)
        if every != self._last or (every and now_s - self._written_s >= REWRITE_S):
            write_receiving(self.path, every, time.time())
            known = {each.series_instance_uid for each in self._last or ()}
            if any(each.series_instance_uid not in known for each in every):
                self.wake()
            self._last, self._written_s = every, now_s


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(round(seconds), UTC).isoformat(timespec="seconds")
