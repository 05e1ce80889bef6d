"""Carries written structure sets to one destination until it has them, and closes the record.

Each destination has its own courier, so that one which is down holds up no other, nor the
worker. The first destination of the config is the planning system: when it has answered for
good, the scan's row goes to the scan log.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

from pydicom.uid import RTStructureSetStorage

from limn import __version__
from limn.domain.timing import DOOR_TO_DOOR_STAGES, ScanRecord
from limn.node import oplog, scanlog
from limn.node.commit import Item, Requester
from limn.node.config import DicomDestination, FolderDestination
from limn.node.deliver import Outcome, backoff_s, deliver
from limn.node.disk import GivenUp, insist
from limn.node.journal import DeliveryRow, Journal, ScanRow, StructureSetRow

log = logging.getLogger(__name__)

POLL_S = 0.5


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
    ) -> None:
        self._destination = destination
        self._journal = journal
        self._scan_log = scan_log
        self._calling_ae_title = calling_ae_title
        self._keeps_scan_log = keeps_scan_log
        self._commitment = Requester(journal, [destination], calling_ae_title)
        self._woken = Event()
        self._stopping = Event()

    def wake(self) -> None:
        """A structure set may be waiting."""
        self._woken.set()

    def run(self, stopping: Event) -> None:
        """Deliver until told to stop; what is left then waits in the journal."""
        self._stopping = stopping
        while not stopping.is_set():
            self._woken.wait(POLL_S)
            self._woken.clear()
            self.work()

    def work(self) -> None:
        """Everything that is due now."""
        try:
            self._work()
        except GivenUp as unwritten:
            log.error("%s; it is offered again after the next start", unwritten)

    def _work(self) -> None:
        while (delivery := self._journal.due(self._destination.name, time.time())) is not None:
            structure_set = self._journal.structure_set(delivery.structure_set)
            row = self._journal.scan(structure_set.scan)
            with oplog.about(scan=row.name, animal=row.animal):
                self._carry(delivery, structure_set, row)
            self._log_ends()
        self._log_ends()

    def _carry(self, delivery: DeliveryRow, structure_set: StructureSetRow, row: ScanRow) -> None:
        answer = deliver(self._destination, Path(structure_set.path), self._calling_ae_title)
        accepted_at = answer.answered_at
        name = self._destination.name
        if answer.outcome is Outcome.AGAIN:
            wait_s = backoff_s(delivery.tries)
            again_at = accepted_at + wait_s
            self._note(row, partial(self._journal.postponed, delivery.id, answer.status, again_at))
            log.warning(
                "%s -> %s: %s; again in %.0f s, %d waiting",
                row.name,
                name,
                answer.status,
                wait_s,
                self._journal.waiting(name),
            )
            return
        if answer.outcome is Outcome.DELIVERED:
            self._note(
                row, partial(self._journal.delivered, delivery.id, answer.status, accepted_at)
            )
            if self._commitment.wants(name):
                item = Item(RTStructureSetStorage, structure_set.sop_instance_uid)
                self._commitment.ask_soon(name, item)
        else:
            self._note(row, partial(self._journal.held, delivery.id, answer.status))
            log.error(
                "%s animal %s: %s REFUSED the structure set with %s; it is held in %s",
                row.name,
                row.animal,
                name,
                answer.status,
                structure_set.path,
            )
        if answer.outcome is Outcome.DELIVERED and not self._keeps_scan_log:
            log.info("%s delivered to %s (%s)", row.name, name, answer.status)

    def _note(self, row: ScanRow, write: Callable[[], None]) -> None:
        """Until the disk takes the answer nothing else is offered, nor the same again."""
        name = self._destination.name
        insist(write, f"{row.name} animal {row.animal}: the answer of {name}", self._stopping)

    def _log_ends(self) -> None:
        """Rows of scans that ended; asked of the journal, so that a crash loses none."""
        if self._keeps_scan_log:
            for row in self._journal.unlogged_ends(self._destination.name):
                with oplog.about(scan=row.name, animal=row.animal):
                    self._log(row)

    def _log(self, row: ScanRow) -> None:
        answered = (
            each
            for each in self._journal.deliveries(row.id)
            if each.destination == self._destination.name and each.state != "waiting"
        )
        delivery = next(answered, None)
        structure_set = None
        if delivery is not None:
            structure_set = self._journal.structure_set_of(row.id)
        record = closed_record(row, delivery, structure_set)

        def write() -> None:
            scanlog.append(self._scan_log, record)
            self._journal.mark_logged(row.id)

        insist(write, f"{row.name} animal {row.animal}: its row of the scan log", self._stopping)
        if record.outcome == "delivered":
            log.info(
                "%s animal %s delivered to %s (%s), %.2f s after its last slice",
                row.name,
                row.animal,
                record.destination,
                record.destination_status,
                record.door_to_door_s,
            )


def closed_record(
    row: ScanRow, delivery: DeliveryRow | None, structure_set: StructureSetRow | None
) -> ScanRecord:
    """The scan's final record; ``overhead_s`` is what no stage claims."""
    held_s = _held_s(row, structure_set)
    resent_s = structure_set.again_s if structure_set is not None else 0.0
    known: dict[str, Any] = {
        name: value for name, value in row.record.items() if name in ScanRecord.columns()
    }
    known |= {
        "scan_id": row.name,
        "version": row.version,
        "outcome": row.state if delivery is None else delivery.state,
        "animal": row.animal,
        "study_instance_uid": row.study_instance_uid,
        "series_instance_uid": row.series_instance_uid,
        "rtstruct_sop_instance_uid": structure_set.sop_instance_uid if structure_set else "",
        "sender": row.sender,
        "last_slice_utc": _utc(row.last_slice_at),
        "profile": row.profile,
        "tries": row.tries,
        "receive_s": row.receive_s,
        "settle_s": row.settle_s,
        "reason": row.reason,
    }
    known.setdefault("limn_version", __version__)
    known.setdefault("bundle_sha256", row.bundle_sha256)
    if delivery is not None:
        known |= {"destination": delivery.destination, "destination_status": delivery.status}
        if delivery.accepted_at is not None:
            known |= _door_to_door(row, known, delivery.accepted_at, held_s + resent_s)
    if again_s := row.again_s + resent_s:
        known["flags"] = f"{known.get('flags', '')} again:{again_s:.0f}s".strip()
    if structure_set is not None and structure_set.released_at is not None:
        known["flags"] = f"{known.get('flags', '')} held:{held_s:.0f}s".strip()
        known["reason"] = f"held until {_utc(structure_set.released_at)}: {structure_set.held}"
    if structure_set is not None and structure_set.discarded_at is not None:
        known |= {
            "outcome": "discarded",
            # Nothing was offered to anybody.
            "destination": "",
            "destination_status": "",
            "reason": f"discarded at {_utc(structure_set.discarded_at)}: "
            f"{structure_set.discarded}; it was held: {structure_set.held}",
        }
    return ScanRecord(**known)


def _held_s(row: ScanRow, structure_set: StructureSetRow | None) -> float:
    """How long a person let the structure set wait."""
    if structure_set is None or structure_set.released_at is None:
        return 0.0
    return structure_set.released_at - float(row.record["contoured_at"])


def _door_to_door(
    row: ScanRow, known: dict[str, Any], accepted_at: float, left_out_s: float
) -> dict[str, Any]:
    """``left_out_s`` is how long the structure set lay until a person acted."""
    door_to_door_s = accepted_at - row.last_slice_at - row.again_s - left_out_s
    deliver_s = accepted_at - float(row.record["contoured_at"]) - left_out_s
    claimed_s = deliver_s + sum(float(known.get(stage, 0.0)) for stage in DOOR_TO_DOOR_STAGES)
    return {
        "accepted_utc": _utc(accepted_at),
        "deliver_s": deliver_s,
        "door_to_door_s": door_to_door_s,
        "overhead_s": door_to_door_s - claimed_s,
    }


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
