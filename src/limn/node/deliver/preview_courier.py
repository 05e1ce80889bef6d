"""Carries previews to one destination: each once at most, and none while a structure set is due."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Event

from limn.node import oplog
from limn.node.config import DicomDestination, FolderDestination
from limn.node.deliver.clock_history import ClockHistory
from limn.node.deliver.companions import Companions
from limn.node.deliver.destinations import DeliveryAnswer, Outcome, backoff_s, deliver
from limn.node.dimse.answers import answer_words
from limn.node.persist import WriteAbandoned, write_until_done
from limn.node.store.disk.contacts import DestinationContacts
from limn.node.store.journal.journal import Journal
from limn.node.store.journal.rows import PreviewDeliveryRow, ScanRow

log = logging.getLogger(__name__)


@dataclass(slots=True)
class PreviewCourier:
    """The previews of one destination; its courier calls it between structure sets.

    Attributes
    ----------
    stopping : set when the node stops
    next_s : no preview goes before this, after one that the destination could not take (monotonic)
    lost_noted : whether the journal knows which previews an earlier engine was sending as it ended
    """

    destination: DicomDestination | FolderDestination
    journal: Journal
    calling_ae_title: str
    clock: ClockHistory
    companions: Companions
    contacts: DestinationContacts
    stopping: Event = field(default_factory=Event)
    next_s: float = 0.0
    lost_noted: bool = False

    def send_one(self) -> bool:
        """Send one preview, if this destination gets them; False if none waits."""
        if (
            not self.destination.previews
            or self.stopping.is_set()
            or time.monotonic() < self.next_s
        ):
            return False
        name = self.destination.name
        if not self.lost_noted:
            lose = partial(self.journal.lose_previews, name)
            write_until_done(lose, f"the previews for {name}", self.stopping)
            self.lost_noted = True
        waiting = self.journal.next_preview(name)
        if waiting is None:
            return False
        row = self.journal.scan(waiting.scan)
        with oplog.about(scan=row.name, animal=row.animal):
            # Before it counts as sent: a series may take long, and an engine that ends meanwhile
            # goes on with it after its start.
            series = self.companions.send_series(row)
        take = partial(self.journal.take_preview, name, waiting.id)
        taken = write_until_done(take, f"a preview for {name}", self.stopping)
        if taken is None:
            # Its structure set was made meanwhile.
            return True
        try:
            with oplog.about(scan=row.name, animal=row.animal):
                self._deliver(taken, row, series)
        except WriteAbandoned:
            raise
        except Exception:
            # It may be at its destination: it is not sent again, and counts as lost.
            self.lost_noted = False
            raise
        return True

    def _deliver(
        self, delivery: PreviewDeliveryRow, row: ScanRow, series: DeliveryAnswer | None
    ) -> None:
        """Send it, unless its CT series met an answer that ended it."""
        preview = self.journal.preview_of(row.id)
        path = Path(preview.path if preview is not None else "")
        name = self.destination.name
        answer = series or deliver(
            self.destination,
            path,
            self.calling_ae_title,
            self.stopping,
            place=self.companions.place,
        )
        write: Callable[[], None]
        if answer.outcome is Outcome.DELIVERED:
            write = partial(
                self.journal.preview_delivered, delivery.id, answer.status, answer.answered_at
            )
            after_s = self.clock.elapsed_s(row.last_slice_at, answer.answered_at)
            log.info(
                "%s animal %s PREVIEW delivered to %s (%s), %.2f s after its last slice; the "
                "contours of all folds follow",
                row.name,
                row.animal,
                name,
                answer.status,
                after_s,
            )
        elif answer.outcome is Outcome.RETRY_LATER:
            wait_s = backoff_s(delivery.tries)
            self.next_s = time.monotonic() + wait_s
            write = partial(self.journal.preview_postponed, delivery.id, answer.status)
            log.info("%s PREVIEW -> %s: %s; again in %.0f s", row.name, name, answer.status, wait_s)
        else:
            write = partial(self.journal.preview_refused, delivery.id, answer.status)
            log.warning(
                "%s animal %s: %s refused the PREVIEW with %s; the contours of all folds follow",
                row.name,
                row.animal,
                name,
                answer.status,
            )
        answered = f"{row.name} animal {row.animal}: the answer of {name}"
        write_until_done(write, answered, self.stopping)
        said = answer_words(answer.status)
        self.contacts.note(name, answer.failure, said, answer.answered_at, is_down=answer.is_down)
