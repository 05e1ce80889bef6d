"""What goes to a destination beside a structure set: a CT series before it, a SEG after it.

The CT series is one that limn made of an image of another format: no scanner has sent it there, and
a planning system can't use contours without it. The segmentation has the same contours (D-243).
"""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Event

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID

from limn.dicom.bounded import DAMAGES
from limn.domain.errors import ConfigWrong, PeerUnreachable
from limn.domain.files import may_pass, write_durably
from limn.domain.folders import not_a_folder
from limn.domain.forms import ENDINGS
from limn.domain.one_line import one_line
from limn.node import oplog
from limn.node.config import DicomDestination, FolderDestination
from limn.node.deliver.destinations import (
    FAILURE_OF,
    DeliveryAnswer,
    Failure,
    Outcome,
    backoff_s,
    failure_of,
    judge,
)
from limn.node.deliver.export_place import ExportPlace
from limn.node.dimse.client import ClassNotAccepted, peer_of, store
from limn.node.persist import WriteAbandoned, write_until_done
from limn.node.store.disk.spool import FORMS_DIR, MADE
from limn.node.store.journal.journal import Journal
from limn.node.store.journal.rows import CompanionRow, ScanRow
from limn.node.store.journal.schema import JournalBusy, is_damaged
from limn.node.surprises import LONGEST_PAUSE_S, fault

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Companions:
    """What goes to one destination beside its structure sets; of one courier.

    Attributes
    ----------
    forms : what follows each structure set
    stopping : set when the node stops
    beat : gives a sign of life, slice by slice
    place : of an export folder, as the node remembers it
    """

    destination: DicomDestination | FolderDestination
    journal: Journal
    calling_ae_title: str
    stopping: Event = field(default_factory=Event)
    beat: Callable[[], None] = lambda: None
    place: ExportPlace | None = None
    # Instances of a series that the destination has, until it has all of them.
    _there: dict[str, set[str]] = field(default_factory=dict)
    # Forms that it could not take, and until when they rest (monotonic).
    _rest_s: dict[int, float] = field(default_factory=dict)

    @property
    def forms(self) -> tuple[str, ...]:
        """A folder has them before its structure set."""
        return self.destination.later_forms

    def send_series(self, row: ScanRow) -> DeliveryAnswer | None:
        """Send the CT series of a scan if limn made it; None once the destination has it.

        It goes once to each destination. What a try before a break brought is not sent again.
        """
        uid, name = row.series_instance_uid, self.destination.name
        if (
            not self.destination.send_images
            or not (Path(row.folder) / MADE).is_file()
            or self.journal.has_series(uid, name)
        ):
            return None
        try:
            paths = _in_order([Path(row.folder) / each for each in row.files])
            if isinstance(self.destination, FolderDestination):
                refused = self._copy(paths, self.destination, uid)
            else:
                refused = self._store(paths, uid)
        except (PeerUnreachable, ConfigWrong) as error:
            return _answer(Outcome.RETRY_LATER, f"the CT series: {error}", failure_of(error))
        except OSError as error:
            outcome = Outcome.RETRY_LATER if may_pass(error) else Outcome.REFUSED
            why = f"can't read {error.filename}: {error.strerror}"
            return _answer(outcome, f"the CT series: {why}")
        except (InvalidDicomError, *DAMAGES) as error:
            return _answer(Outcome.REFUSED, f"the CT series is damaged on this disk: {error!r}")
        if refused is not None:
            return refused
        sent = partial(self.journal.series_sent, uid, name, time.time())
        write_until_done(sent, f"{row.name}: its CT series at {name}", self.stopping)
        self._there.pop(uid, None)
        log.info("%s its CT series of %d slices is at %s", row.name, len(row.files), name)
        return None

    def _store(self, paths: list[Path], series: str) -> DeliveryAnswer | None:
        """C-STORE over one association; the answer that ended it, None if all were taken."""
        assert isinstance(self.destination, DicomDestination)  # noqa: S101 - the caller looked
        there = self._there.setdefault(series, set())
        first = pydicom.dcmread(paths[0], stop_before_pixels=True)
        context = (str(first.SOPClassUID), UID(first.file_meta.TransferSyntaxUID))
        sent: list[str] = []

        def missing() -> Iterator[Dataset]:
            for path in paths:
                if path.name not in there:
                    sent.append(path.name)
                    yield pydicom.dcmread(path)

        peer = peer_of(self.destination, self.calling_ae_title)
        answers = store(peer, missing(), self.stopping, [context])
        for status in answers:
            outcome = judge(status)
            if outcome is not Outcome.DELIVERED:
                answers.close()
                what = f"slice {len(there) + 1} of {len(paths)} of the CT series"
                return _answer(outcome, f"0x{status:04X} for {what}", FAILURE_OF[outcome])
            there.add(sent[-1])
            self.beat()
        return None

    def _copy(
        self, paths: list[Path], destination: FolderDestination, series: str
    ) -> DeliveryAnswer | None:
        """Write the slices into a folder of their own; the answer if it can't be written."""
        folder = destination.folder / f"CT.{series}"
        if fault := self.place.fault() if self.place is not None else "":
            return _answer(Outcome.RETRY_LATER, f"{destination.folder}: {one_line(fault)}")
        for number, path in enumerate(paths, start=1):
            if self.stopping.is_set():
                return _answer(Outcome.RETRY_LATER, "the CT series: the node stops")
            self.beat()
            contents = path.read_bytes()
            try:
                folder.mkdir(exist_ok=True)
                write_durably(folder / f"CT.{number:04d}.dcm", contents)
            except OSError as error:
                why = one_line(not_a_folder(destination.folder)) or error.strerror
                return _answer(Outcome.RETRY_LATER, f"{folder}: {why}")
        return None

    def send_due_form(self) -> bool:
        """Send one form that is due; False if none is."""
        now_s = time.monotonic()
        resting = {number for number, until_s in self._rest_s.items() if now_s < until_s}
        companion = self.journal.due_companion(self.destination.name, resting)
        if companion is None:
            return False
        try:
            structure_set = self.journal.structure_set(companion.structure_set)
            row = self.journal.scan(structure_set.scan)
            with oplog.about(scan=row.name, animal=row.animal):
                self._send_form(companion, row, Path(structure_set.path))
        except (WriteAbandoned, JournalBusy):
            raise
        except Exception as error:
            if is_damaged(error):
                raise
            # It puts off this form, and no structure set (D-161).
            self._rest_s[companion.id] = time.monotonic() + LONGEST_PAUSE_S
            log.error(
                "a %s for %s: %s; it is tried again and again. Please report it",
                companion.form.upper(),
                self.destination.name,
                fault(error),
                exc_info=error,
            )
        return True

    def _send_form(self, companion: CompanionRow, row: ScanRow, structure_set: Path) -> None:
        name, form = self.destination.name, companion.form.upper()
        answer = self._offered(companion, structure_set)
        number = companion.id
        if answer.outcome is Outcome.DELIVERED:
            write = partial(
                self.journal.companion_delivered, number, answer.status, answer.answered_at
            )
            log.info("%s its %s is at %s (%s)", row.name, form, name, answer.status)
        elif answer.outcome is Outcome.RETRY_LATER:
            wait_s = backoff_s(companion.tries)
            self._rest_s[number] = time.monotonic() + wait_s
            write = partial(self.journal.companion_postponed, number, answer.status)
            log.warning(
                "%s its %s -> %s: %s; again in %.0f s", row.name, form, name, answer.status, wait_s
            )
        else:
            write = partial(self.journal.companion_refused, number, answer.status)
            log.error(
                "%s animal %s: %s has the structure set, but not its %s: %s",
                row.name,
                row.animal,
                name,
                form,
                answer.status,
            )
        write_until_done(write, f"{row.name}: the answer of {name} to its {form}", self.stopping)

    def _offered(  # noqa: PLR0911 - a ladder
        self, companion: CompanionRow, structure_set: Path
    ) -> DeliveryAnswer:
        name = ENDINGS["seg"][0]
        path = structure_set.parent / FORMS_DIR / name
        if companion.form != "seg" or not isinstance(self.destination, DicomDestination):
            return _answer(Outcome.REFUSED, "it takes no such form any more: see its forms")
        try:
            dataset = pydicom.dcmread(io.BytesIO(path.read_bytes()))
            peer = peer_of(self.destination, self.calling_ae_title)
            answers = store(peer, [dataset], self.stopping)
            status = next(answers)
            answered_at = time.time()
            next(answers, None)
        except FileNotFoundError:
            why = f"{path} is not there: it was not made (limn.log says why), or was removed"
            return _answer(Outcome.REFUSED, why)
        except ClassNotAccepted as error:
            why = f'{error}; let it accept that class there, or leave "seg" out of its forms'
            return _answer(Outcome.REFUSED, why)
        except (PeerUnreachable, ConfigWrong) as error:
            return _answer(Outcome.RETRY_LATER, str(error))
        except OSError as error:
            outcome = Outcome.RETRY_LATER if may_pass(error) else Outcome.REFUSED
            return _answer(outcome, f"can't read {path}: {error.strerror}")
        except (InvalidDicomError, *DAMAGES) as error:
            return _answer(Outcome.REFUSED, f"{path} is damaged on this disk: {error!r}")
        return DeliveryAnswer(judge(status), f"0x{status:04X}", answered_at)


def _answer(outcome: Outcome, status: str, failure: Failure = Failure.FILE) -> DeliveryAnswer:
    return DeliveryAnswer(outcome, status, time.time(), failure)


def _in_order(paths: list[Path]) -> list[Path]:
    """The files by their InstanceNumber; their names say nothing."""
    numbers = {
        path: int(pydicom.dcmread(path, stop_before_pixels=True).InstanceNumber) for path in paths
    }
    return sorted(paths, key=numbers.__getitem__)
