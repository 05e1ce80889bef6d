"""Carries structure sets to one destination until it has them, and completes the scan's record.

Each destination has its own courier, so that one that is down delays no other and no worker. The
first destination of the config is the planning system: after its final answer the scan's row goes
to the scan log. A phantom that commissions the node has its row after the commissioning has it.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Event

from pydicom.uid import RTStructureSetStorage

from limn.domain.records import ScanRecord
from limn.node import oplog
from limn.node.commissioning import COMMISSIONING
from limn.node.config import DicomDestination, FolderDestination
from limn.node.deliver.clock_history import ClockHistory
from limn.node.deliver.commitment_scu import CommitmentRequester
from limn.node.deliver.companions import Companions
from limn.node.deliver.destinations import DeliveryAnswer, Outcome, backoff_s
from limn.node.deliver.export_place import ExportPlace
from limn.node.deliver.field_file import Offered, Replaced, offer_scan
from limn.node.deliver.preview_courier import PreviewCourier
from limn.node.deliver.scan_record import closed_record, roi_records
from limn.node.dimse.answers import answer_words
from limn.node.dimse.commitment import Item
from limn.node.heartbeat import SILENT_S, for_thread
from limn.node.persist import WriteAbandoned, write_until_done
from limn.node.store.disk import scanlog
from limn.node.store.disk.contacts import DestinationContacts
from limn.node.store.journal.journal import Journal
from limn.node.store.journal.rows import DeliveryRow, ScanRow, StructureSetRow
from limn.node.store.journal.schema import JournalBusy, is_damaged
from limn.node.store.remedies import decision_notice, fault_notice
from limn.node.surprises import LONGEST_PAUSE_S, Surprises, fault

log = logging.getLogger(__name__)

POLL_S = 0.5
# A delivery may take so long before the health page and `limn queue` name the courier.
LONGEST_DELIVERY_S = 300.0
# A file of several animals that waits for one of them is looked at again after this time.
FIELD_POLL_S = 2.0
# After the node was told to stop, no further delivery begins once this time is over.
STOP_S = 10.0


class Courier:
    """The deliveries of one destination."""

    def __init__(
        self,
        destination: DicomDestination | FolderDestination,
        journal: Journal,
        scan_log: Path,
        calling_ae_title: str,
        *,
        keeps_scan_log: bool,
        contacts: DestinationContacts,
    ) -> None:
        self._destination = destination
        self._contacts = contacts
        self._journal = journal
        self._scan_log = scan_log
        self._calling_ae_title = calling_ae_title
        self._keeps_scan_log = keeps_scan_log
        self._commitment = CommitmentRequester(journal, [destination], calling_ae_title)
        self._woken = Event()
        self._stopping = Event()
        self._stop_by_s = math.inf
        self._clock = ClockHistory()
        # A destination that hangs must not end the deliveries to others (D-148).
        self._heart = for_thread(f"courier to {destination.name}", LONGEST_DELIVERY_S)
        # Deliveries that wait here: what the journal has as their next try, and the end of their
        # pause on the monotonic clock.
        self._pauses: dict[int, tuple[float, float]] = {}
        self._place: ExportPlace | None = None
        if isinstance(destination, FolderDestination):
            self._place = ExportPlace(destination.folder, journal.path.parent)
        self._adopted = False
        self._companions = Companions(
            destination, journal, calling_ae_title, beat=self._heart.beat, place=self._place
        )
        self._previews = PreviewCourier(
            destination, journal, calling_ae_title, self._clock, self._companions, contacts
        )
        self._surprises = Surprises()

    def wake(self) -> None:
        """Look at once for a delivery that is due."""
        self._woken.set()

    def run(self, stopping: Event) -> None:
        """Deliver until the node stops; the other deliveries wait in the journal."""
        self._stopping = self._commitment.stopping = stopping
        self._companions.stopping = self._previews.stopping = stopping
        while not stopping.is_set():
            self._woken.wait(POLL_S)
            self._woken.clear()
            if not self._surprises.rests(self):
                self.work()
        self._heart.end()

    def work(self) -> None:
        """Make every delivery that is due now."""
        if not self._adopted and self._place is not None:
            # What fails here is the answer of the first delivery. Not tried again: the share may
            # go meanwhile.
            with suppress(OSError):
                self._place.adopt()
        self._adopted = True
        try:
            self._deliver_due()
        except WriteAbandoned as unwritten:
            log.error("%s; it is offered again after the next start", unwritten)
        except Exception as error:
            if is_damaged(error):
                raise
            if not self._surprises.count(self):
                # No further sign of life: the health page and `limn queue` name this courier soon.
                self._heart.allow(SILENT_S)
            if self._surprises.note(self, error):
                log.error(
                    "the courier to %s stopped in its work; its structure sets wait, and it is "
                    "tried again at least every %g s: %s",
                    self._destination.name,
                    LONGEST_PAUSE_S,
                    fault_notice(error, self._journal.path),
                    exc_info=error,
                )
        else:
            if self._surprises.count(self):
                self._surprises.is_over(self)
                self._heart.allow(LONGEST_DELIVERY_S)
            self._heart.beat()

    def _deliver_due(self) -> None:
        self._clock.look()
        while self._may_begin() and (delivery := self._next()) is not None:
            self._heart.beat()
            delivered = self._deliver_guarded(delivery)
            self._log_ended()
            if not delivered and self._stopping.is_set():
                # The next one would wait for this destination too, while the node wants to end.
                break
        self._log_ended()
        self._send_form()
        self._heart.beat()
        if self._previews.send_one():
            # The next one is sent at the next look, after the structure sets that are due then.
            self.wake()

    def _send_form(self) -> None:
        """Send one form that follows its structure set; the next one at the next look."""
        if not self._stopping.is_set():
            self._heart.beat()
            if self._companions.send_due_form():
                self.wake()

    def _deliver_guarded(self, delivery: DeliveryRow) -> bool:
        """As `_deliver`; an error that nobody expected puts off this delivery and no other."""
        scan = f"the scan of structure set {delivery.structure_set}"
        try:
            structure_set = self._journal.structure_set(delivery.structure_set)
            row = self._journal.scan(structure_set.scan)
            scan = f"{row.name} animal {row.animal}"
            with oplog.about(scan=row.name, animal=row.animal):
                delivered = self._deliver(delivery, structure_set, row)
        except (WriteAbandoned, JournalBusy):
            raise
        except Exception as error:
            if is_damaged(error):
                raise
            self._put_off(delivery, scan, error)
            return False
        self._surprises.is_over(delivery.id)
        return delivered

    def _put_off(self, delivery: DeliveryRow, scan: str, error: Exception) -> None:
        """Offer it again later, and let `limn queue` show why."""
        why = fault(error)
        if self._surprises.note(delivery.id, error):
            log.exception(
                "%s -> %s: %s; it is offered again and again, and others go on. Please report it",
                scan,
                self._destination.name,
                why,
            )
        wait_s = backoff_s(delivery.tries)
        # Also if the journal is what brings the error.
        self._pauses[delivery.id] = delivery.next_at, time.monotonic() + wait_s
        next_at = time.time() + wait_s
        write = partial(
            self._journal.postponed, delivery.id, f"{why}; see limn.log and report it", next_at
        )
        try:
            write_until_done(write, f"{scan}: {why}", self._stopping)
        except WriteAbandoned:
            raise
        except Exception:
            log.exception("%s: its next try can't be written", scan)
            return
        self._pauses[delivery.id] = next_at, time.monotonic() + wait_s

    def _next(self) -> DeliveryRow | None:
        """The next delivery; those that wait here do so on the monotonic clock."""
        now_s = time.monotonic()
        pauses = {number: (at, now_s >= until) for number, (at, until) in self._pauses.items()}
        delivery = self._journal.due(self._destination.name, time.time(), pauses)
        if delivery is not None:
            self._pauses.pop(delivery.id, None)
        return delivery

    def _may_begin(self) -> bool:
        """Whether there is time for another delivery: always, until the node stops."""
        if not self._stopping.is_set():
            return True
        self._stop_by_s = min(self._stop_by_s, time.monotonic() + STOP_S)
        return time.monotonic() < self._stop_by_s

    def _deliver(self, delivery: DeliveryRow, structure_set: StructureSetRow, row: ScanRow) -> bool:
        """Offer a structure set once; False if it must be offered again."""
        if self._keeps_scan_log and not delivery.tries and structure_set.released_at is not None:
            log.info("%s animal %s %s", row.name, row.animal, decision_notice(row, structure_set))
        sent = self._companions.send_series(row)
        offered = (
            Offered(sent)
            if sent is not None
            else offer_scan(
                self._destination,
                self._journal,
                (row, structure_set),
                self._calling_ae_title,
                self._stopping,
                self._place,
            )
        )
        if isinstance(offered, str):
            self._wait_for_animals(delivery, row, offered)
            return False
        if isinstance(offered, Replaced):
            self._end_replaced(row, offered)
            return True
        self._clock.look()
        answer = offered.answer
        answered = [delivery, *(each for each in offered.waiting if each.id != delivery.id)]
        name = self._destination.name
        if answer.outcome is Outcome.RETRY_LATER:
            self._try_later(answered, row, answer)
            return False
        if answer.outcome is Outcome.DELIVERED:
            forms, at = self._companions.forms, answer.answered_at
            deliver, said = self._journal.delivered, answer.status
            writes = [partial(deliver, each.id, said, at, forms) for each in answered]
            self._write_answer(row, answer, writes)
            if self._commitment.wants(name):
                item = Item(RTStructureSetStorage, structure_set.sop_instance_uid)
                self._commitment.ask_soon(name, item)
            if not self._keeps_scan_log:
                log.info("%s delivered to %s (%s)", row.name, name, answer.status)
            return True
        writes = [partial(self._journal.refused, each.id, answer.status) for each in answered]
        self._write_answer(row, answer, writes)
        log.error(
            "%s animal %s: %s REFUSED the structure set with %s; it is kept in %s",
            row.name,
            row.animal,
            name,
            answer_words(answer.status),
            structure_set.path,
        )
        return True

    def _try_later(
        self, answered: Sequence[DeliveryRow], row: ScanRow, answer: DeliveryAnswer
    ) -> None:
        """Offer it again after a pause, which grows."""
        name = self._destination.name
        wait_s = backoff_s(answered[0].tries)
        next_at = time.time() + wait_s
        self._pauses |= {each.id: (next_at, time.monotonic() + wait_s) for each in answered}
        postpone, said = self._journal.postponed, answer.status
        writes = [partial(postpone, each.id, said, next_at) for each in answered]
        self._write_answer(row, answer, writes)
        log.warning(
            "%s -> %s: %s; again in %.0f s, %d waiting",
            row.name,
            name,
            answer.status,
            wait_s,
            self._journal.waiting(name),
        )

    def _wait_for_animals(self, delivery: DeliveryRow, row: ScanRow, why: str) -> None:
        """Look again soon; what the file waits for stands in the journal once."""
        next_at = delivery.next_at
        if delivery.status != why:
            next_at = 0.0
            self._write(row, partial(self._journal.postponed, delivery.id, why, next_at))
            name = self._destination.name
            log.info("%s animal %s: its file for %s %s", row.name, row.animal, name, why)
        self._pauses[delivery.id] = next_at, time.monotonic() + FIELD_POLL_S

    def _end_replaced(self, row: ScanRow, replaced: Replaced) -> None:
        """End the deliveries of an older version of a field: a newer one goes in its place."""
        for each in replaced.waiting:
            self._write(row, partial(self._journal.replaced, each.id, replaced.why))
        name, why = self._destination.name, replaced.why
        log.warning("%s animal %s: its file never goes to %s: %s", row.name, row.animal, name, why)

    def _write_answer(
        self, row: ScanRow, answer: DeliveryAnswer, writes: Iterable[Callable[[], None]]
    ) -> None:
        """Write an answer to the journal for each delivery, and note once what was said."""
        for write in writes:
            self._write(row, write)
        said, at = answer_words(answer.status), answer.answered_at
        name, failure = self._destination.name, answer.failure
        self._contacts.note(name, failure, said, at, is_down=answer.is_down)

    def _write(self, row: ScanRow, write: Callable[[], None]) -> None:
        """Write to the journal, and deliver nothing until the disk takes it."""
        what = f"{row.name} animal {row.animal}: the answer of {self._destination.name}"
        write_until_done(write, what, self._stopping)

    def _log_ended(self) -> None:
        """Log every scan that the journal knows to have ended, so that a crash loses no row."""
        if self._keeps_scan_log:
            for row in self._journal.unlogged_ends(self._destination.name, COMMISSIONING):
                if not self._surprises.rests(row.name):
                    with oplog.about(scan=row.name, animal=row.animal):
                        self._log_row_guarded(row)

    def _log_row_guarded(self, row: ScanRow) -> None:
        """As `_log_row`; an error that nobody expected delays this row and no other."""
        try:
            self._log_row(row)
        except WriteAbandoned:
            raise
        except Exception as error:
            if is_damaged(error):
                raise
            if self._surprises.note(row.name, error):
                log.error(
                    "%s animal %s: its row of the scan log can't be made; it is tried again and "
                    "again: %s",
                    row.name,
                    row.animal,
                    fault_notice(error, self._journal.path),
                    exc_info=error,
                )

    def _log_row(self, row: ScanRow) -> None:
        answered = (
            each
            for each in self._journal.deliveries(row.id)
            if each.destination in (COMMISSIONING, self._destination.name)
            and each.state != "waiting"
        )
        delivery = next(answered, None)
        structure_set = None
        if delivery is not None:
            structure_set = self._journal.structure_set_of(row.id)
        preview_at = self._journal.preview_accepted_at(row.id)
        record = closed_record(row, delivery, structure_set, self._clock, preview_at)

        def write() -> None:
            scanlog.append(scanlog.roi_table(self._scan_log), *roi_records(row, record))
            scanlog.append(self._scan_log, record)
            self._journal.mark_logged(row.id)

        write_until_done(
            write, f"{row.name} animal {row.animal}: its row of the scan log", self._stopping
        )
        _log_end(row, record, delivery, structure_set)


def _log_end(
    row: ScanRow,
    record: ScanRecord,
    delivery: DeliveryRow | None,
    structure_set: StructureSetRow | None,
) -> None:
    """Log that a scan was delivered, or what a person decided about it."""
    if record.outcome == "delivered":
        log.info(
            "%s animal %s delivered to %s (%s), %.2f s after its last slice",
            row.name,
            row.animal,
            record.destination,
            record.destination_status,
            record.door_to_door_s,
        )
    elif (delivery is None or delivery.state == "discarded") and (
        decided := decision_notice(row, structure_set)
    ):
        log.info("%s animal %s %s", row.name, row.animal, decided)
