"""What the workers returned, filed: the structure set for delivery, or why there is none."""

from __future__ import annotations

import hashlib
import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

from limn import __version__
from limn.domain.files import OWNER_ONLY_FILE, write_durably
from limn.node import oplog
from limn.node.commissioning import COMMISSIONING
from limn.node.config import Config
from limn.node.contour.flights import JobInFlight
from limn.node.contour.job import UNFIT, Result
from limn.node.contour.previews import preview_path
from limn.node.permissions import make_private_folder
from limn.node.persist import DeferredWriter, WriteAbandoned, Written, write_until_done
from limn.node.store.disk.spool import FORMS_DIR
from limn.node.store.journal.journal import Journal
from limn.node.store.journal.rows import ScanRow, StructureSetRow
from limn.node.store.journal.schema import LIVE, is_damaged, is_locked
from limn.node.store.journal.states import PREVIEW_GONE
from limn.node.store.remedies import hold_notice, quarantine_notice
from limn.node.surprises import Surprises, fault

log = logging.getLogger(__name__)

# A worker that could not take a scan gets none for this long.
REST_S = 30.0
# Deaths of a worker while it ran a scan, or faults of limn with the scan, after which it is
# quarantined.
DEATHS = 3


class Results:
    """Files what the workers returned, in the journal and on disk.

    Parameters
    ----------
    contoured : called when a scan has ended, well or not

    Attributes
    ----------
    resting_until_s : workers that could not take a scan, and until when they get none (monotonic s)
    """

    def __init__(
        self,
        config: Config,
        config_path: Path,
        journal: Journal,
        contoured: Callable[[], None],
        stopping: Event,
    ) -> None:
        self._config = config
        self._config_path = config_path
        self._journal = journal
        self._contoured = contoured
        self._stopping = stopping
        self._deaths: Counter[int] = Counter()
        self._faults = Surprises()
        self._for_people = DeferredWriter()
        self.resting_until_s: dict[str, float] = {}

    def file(self, scan_id: int, flight: JobInFlight) -> None:
        """File what became of a job; a scan that has no result yet is ready again.

        Raises
        ------
        WriteAbandoned
            If the disk takes nothing until the node is stopped.
        """
        try:
            self._file_job(scan_id, flight)
        except WriteAbandoned:
            raise
        except Exception as error:
            if is_damaged(error):
                raise
            self.note_fault(scan_id, error, preview=flight.preview)
        else:
            self._faults.is_over(scan_id)

    def rests(self, scan_id: int) -> bool:
        """Whether a fault of limn with this scan is so new that it is not tried again yet."""
        return self._faults.rests(scan_id)

    def note_fault(self, scan_id: int, error: Exception, *, preview: bool = False) -> None:
        """After an error that nobody expected the scan runs again, and at last is quarantined.

        Without its preview, if that brought the error. Other scans go on.
        """
        why = fault(error)
        self._faults.note(scan_id, error)
        name = f"scan-{scan_id:05d}"
        log.error("%s: %s; please report it", name, why, exc_info=error)
        try:
            if preview:
                self._write(partial(self._journal.drop_previews, why, scan_id), f"{name}: {why}")
                return
            self._write(partial(self._journal.stopped, scan_id), "the journal")
            row = self._journal.scan(scan_id)
            quarantined = self._faults.count(scan_id) >= DEATHS and not is_locked(error)
            if row.state == "ready" and quarantined:
                self._faults.is_over(scan_id)
                self._quarantine(row, f"{DEATHS} tries ended with {why}; report it with limn.log")
        except WriteAbandoned:
            raise
        except Exception:
            log.exception("%s: this can't be written in the journal; it is tried again", name)

    def _file_job(self, scan_id: int, flight: JobInFlight) -> None:
        if flight.surprise is not None:
            raise flight.surprise
        row = self._journal.scan(scan_id)
        future = flight.future
        if flight.preview:
            with oplog.about(scan=row.name, animal=row.animal):
                self._file_preview(row, flight)
            return
        with oplog.about(scan=row.name, animal=row.animal):
            if flight.unreadable:
                failed = Result(scan=scan_id, started_at=0.0, ended="failed")
                self._file(row, flight, replace(failed, reason=flight.unreadable))
            elif future is None:
                log.warning("%s never reached its worker; it is submitted again", row.name)
            elif flight.result is not None and flight.result.others and row.state == "ready":
                self._file_each(row, flight, flight.result)
            elif flight.result is not None:
                self._file(row, flight, flight.result)
            elif future.status == "error":
                self._after_death(row, flight, f"its worker died ({future.exception()!r})")
            elif future.status == "finished":
                # A link may have been cut just then; three times is no accident.
                future.cancel()
                why = f"its result can't be fetched from worker {flight.worker}"
                self._after_death(row, flight, f"{why}; is its port open to this host?")
            else:
                log.warning("%s: the scheduler lost the job; it is submitted again", row.name)
        # For a scan that has ended in this call, the journal keeps the time of its start.
        self._write(partial(self._journal.stopped, scan_id), "the journal")

    def flush(self) -> None:
        """Try to write the pictures and labels that the disk has not taken yet."""
        self._for_people.flush()

    def _file_preview(self, row: ScanRow, flight: JobInFlight) -> None:
        """File a preview for its couriers, or drop it; the scan itself runs in either case."""
        result = flight.result
        if result is not None and result.ended == UNFIT:
            self.resting_until_s[flight.worker] = time.monotonic() + REST_S
        why = _why_no_preview(row, flight)
        if not why and result is not None:
            why = self._offer_preview(row, result)
        if why:
            log.info("%s animal %s gets no PREVIEW: %s", row.name, row.animal, why)
            drop = partial(self._journal.drop_previews, why, row.id)
            self._write(drop, f"{row.name} animal {row.animal}: the end of its preview")

    def _offer_preview(self, row: ScanRow, result: Result) -> str:
        """Write a preview and offer it; returns why it can't be, and empty if it is."""
        preview = self._journal.preview_of(row.id)
        if preview is None:
            return "it is not in the journal"
        path = preview_path(self._config, row, preview.sop_instance_uid)
        try:
            make_private_folder(path.parent)
            write_durably(path, result.structure_set, OWNER_ONLY_FILE)
        except OSError as error:
            return f"{path} can't be written ({error.strerror or error})"
        destinations = self._config.preview_destinations
        offer = partial(self._journal.preview_contoured, row.id, str(path), destinations)
        if not self._write(offer, f"{row.name} animal {row.animal}: its preview"):
            return "it came late"
        self._contoured()
        self._for_people.write(path.with_name("preview.png"), result.picture)
        log.info(
            "%s animal %s PREVIEW contoured in %.1f s on %s, for %s; the contours of all folds "
            "follow",
            row.name,
            row.animal,
            result.record["runtime_s"],
            result.record["device"],
            ", ".join(destinations),
        )
        return ""

    def _warn_of_preview(self, row: ScanRow, what: str) -> None:
        """Name the destinations that have a preview which no structure set follows."""
        names = [
            each.destination
            for each in self._journal.preview_deliveries(row.id)
            if each.state in PREVIEW_GONE
        ]
        if names:
            log.error(
                "%s animal %s: its PREVIEW went to %s, and the scan is %s; have it removed there",
                row.name,
                row.animal,
                ", ".join(names),
                what,
            )

    def _write(self, write: Callable[[], Written], what: str) -> Written:
        """Nothing else is done until the disk takes it; scans wait, their results in memory."""
        return write_until_done(write, what, self._stopping)

    def _end(self, row: ScanRow, state: str, reason: str, record: dict[str, Any]) -> None:
        end = partial(self._journal.end, row.id, state, reason, record)
        self._write(end, f"{row.name} animal {row.animal}, {state},")
        self._warn_of_preview(row, state)

    def _after_death(self, row: ScanRow, flight: JobInFlight, why: str) -> None:
        # The scan is not to blame for a try that ended with the scheduler or with this engine.
        self._deaths[row.id] += flight.started
        deaths = min(row.tries, self._deaths[row.id])
        if deaths >= DEATHS:
            reason = f"{deaths} tries gave nothing: {why}; look at the worker's log"
            self._quarantine(row, reason)
        else:
            log.error("%s: %s; it runs again", row.name, why)

    def _quarantine(self, row: ScanRow, reason: str) -> None:
        self._end(row, "quarantined", reason, {})
        line = quarantine_notice(self._journal.scan(row.id), self._config_path)
        log.error("%s animal %s %s", row.name, row.animal, line)
        self._contoured()

    def _file(self, row: ScanRow, flight: JobInFlight, result: Result) -> None:
        if result.animal_number != row.animal_number and not result.ended:
            # Nothing of one animal may stand under the number of another.
            msg = f"a result of animal {result.animal_number} came for animal {row.animal_number}"
            raise ValueError(msg)
        if row.state != "ready":
            # A structure set is written once; the first may be at the planning system already.
            why = "a newer version came" if row.state == "superseded" else "it is a second one"
            log.warning("%s: a result came late and is dropped: %s", row.name, why)
        elif result.ended == UNFIT:
            log.error(
                "%s waits: worker %s can't take it: %s. That worker is asked again in %g s",
                row.name,
                flight.worker,
                result.reason,
                REST_S,
            )
            self.resting_until_s[flight.worker] = time.monotonic() + REST_S
        elif result.ended:
            record = {"limn_version": __version__, "queue_s": flight.queue_s}
            self._end(row, result.ended, result.reason, record)
            log.error("%s animal %s %s: %s", row.name, row.animal, result.ended, result.reason)
            self._contoured()
        else:
            self._hand_over(row, flight, result)

    def _file_each(self, first: ScanRow, flight: JobInFlight, result: Result) -> None:
        """File what came of each animal in the field, each as a scan of its own.

        All are in the journal before the first is filed, so that a kill loses none. One whose UIDs
        may be at a peer with other contents is left for a worker.
        """
        numbers = [each.animal_number for each in result.others]
        configured = {COMMISSIONING, *(each.name for each in self._config.destination)}
        given = (each.destination for each in self._journal.deliveries(first.id))
        names = [name for name in given if name in configured]
        add = partial(self._journal.add_animals, first.id, numbers, names)
        rows = self._write(add, f"{first.name} animal {first.animal}: the other animals")
        by_number = {row.animal_number: row for row in rows}
        self._file(first, flight, result)
        for other in result.others:
            row = by_number[other.animal_number]
            with oplog.about(scan=row.name, animal=row.animal):
                known = self._journal.structure_set_of(row.id)
                same = other.ended or other.sop_instance_uid == known.sop_instance_uid
                if row.state == "ready" and same:
                    self._file(row, flight, replace(other, scan=row.id))

    def _hand_over(self, row: ScanRow, flight: JobInFlight, result: Result) -> None:
        folder = self._config.results_dir / row.name
        structure_set = self._journal.structure_set_of(row.id)
        path = folder / f"RS.{structure_set.sop_instance_uid}.dcm"
        contents_sha256 = hashlib.sha256(result.structure_set).hexdigest()
        if _was_other(self._journal, structure_set, path, contents_sha256):
            self._run_under_other_uids(row)
            return
        record = {
            **result.record,
            "queue_s": flight.queue_s,
            "transfer_s": flight.transfer_s + result.record.get("transfer_s", 0.0),
            "contoured_at": time.time(),
        }
        # A cohort's structure sets are sent nowhere: nothing to hold, but the warning is kept.
        live = row.priority >= LIVE
        if not live and result.held is not None:
            record["held"] = result.held

        def write() -> None:
            write_contours(path, result)
            held = result.held if live else None
            self._journal.contoured(row.id, str(path), record, held, contents_sha256)

        self._write(write, f"{row.name} animal {row.animal} is contoured; its structure set")
        self._contoured()
        # After the hand-over: people look at these, the planning system does not wait for them.
        self._for_people.write(folder / "picture.png", result.picture)
        self._for_people.write(folder / "labels.npz", result.labels)
        log.info(
            "%s animal %s contoured in %.1f s on %s",
            row.name,
            row.animal,
            record["runtime_s"],
            record["device"],
        )
        if live and self._journal.structure_set_of(row.id).on_hold:
            contoured = self._journal.scan(row.id)
            line = hold_notice(self._journal, contoured, self._config, self._config_path)
            log.error("%s animal %s %s", row.name, row.animal, line)
            self._warn_of_preview(row, "held")

    def _run_under_other_uids(self, row: ScanRow) -> None:
        """Have a scan contoured once more: its UIDs may be at a peer with other contents."""
        now = datetime.now(UTC).astimezone()
        renew = partial(
            self._journal.renew_uids, row.id, now.strftime("%Y%m%d"), now.strftime("%H%M%S")
        )
        self._write(renew, f"{row.name} animal {row.animal}: its new UIDs")
        log.warning(
            "%s animal %s: a structure set with other contents may be at a destination under the "
            "same UIDs; it is contoured once more under new ones",
            row.name,
            row.animal,
        )


def write_contours(path: Path, result: Result) -> None:
    """Write a structure set, and beside it its other forms in place of earlier ones.

    Raises
    ------
    OSError
        If the disk does not take them.
    """
    folder = path.parent
    make_private_folder(folder)
    write_durably(path, result.structure_set, OWNER_ONLY_FILE)
    for earlier in (folder / FORMS_DIR).glob("*"):
        earlier.unlink()
    for name, contents in result.forms.items():
        make_private_folder(folder / FORMS_DIR)
        write_durably(folder / FORMS_DIR / name, contents, OWNER_ONLY_FILE)


def _was_other(journal: Journal, known: StructureSetRow, path: Path, contents_sha256: str) -> bool:
    """Whether a destination may have other contents under the UIDs of a structure set."""
    if known.contents_sha256:
        return known.contents_sha256 != contents_sha256
    if not known.path and not journal.was_issued(known.sop_instance_uid):
        # A file that lies there was written before a kill, and no courier knew of it.
        return False
    # The journal of an earlier limn, or one that was restored, knows the file alone.
    return not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != contents_sha256


def _why_no_preview(row: ScanRow, flight: JobInFlight) -> str:
    """Why a preview must not go out, in one line; empty if it may."""
    result = flight.result
    if row.state != "ready":
        return f"the scan is {row.state}"
    if flight.unreadable:
        return flight.unreadable
    if result is None:
        status = "sent" if flight.future is None else flight.future.status
        return f"worker {flight.worker} gave no result (its job is {status!r})"
    if result.ended:
        last_line = next(reversed(result.reason.strip().splitlines()), "")
        return f"{result.ended}: {last_line}"
    # A person must look at such a scan before anything of it goes out.
    return f"held: {result.held}" if result.held is not None else ""
