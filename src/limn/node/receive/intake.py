"""What both doors share: an instance into the spool, a settled series into the journal."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from limn.dicom.instance import ReceivedInstance, Unreadable, inflates, input_digest, inspect
from limn.node import oplog
from limn.node.dimse.status import CANNOT_UNDERSTAND, DUPLICATE, OUT_OF_RESOURCES, SUCCESS
from limn.node.receive import returned
from limn.node.receive.completeness import Arrivals, Rules, Verdict, decide, is_uniform
from limn.node.receive.gathering import (
    Gathering,
    Source,
    announced,
    note,
    positions_mm,
    rounding_mm,
)
from limn.node.store.journal import Journal
from limn.node.store.rows import Arrived, ScanRow
from limn.node.store.slots import Slots
from limn.node.store.spool import SLOTS, Spool, SpoolFull

log = logging.getLogger(__name__)


PULSE_S = 0.02
# A series that came over several associations, the last of them so long before the door closed, may
# not have been whole.
AMID_S = 5.0
# So many series that were handed over stay in memory; an earlier one is read from the spool if
# something of it comes again.
KEPT = 32
# Each for some milliseconds; more would only wait for the interpreter.
READERS = 32


class Intake:
    """Everything that has come in and is not yet in the journal."""

    def __init__(
        self,
        spool: Spool,
        journal: Journal,
        rules: Rules,
        *,
        destinations: Sequence[str],
        profile: str,
        bundle_sha256: str,
        wake: Callable[[], None],
    ) -> None:
        self._spool = spool
        self._journal = journal
        self._rules = rules
        self._destinations = tuple(destinations)
        self._profile = profile
        self._bundle_sha256 = bundle_sha256
        self._wake = wake
        self._slots = Slots(spool.root / SLOTS)
        self._lock = threading.RLock()
        # A gigabyte each; what fifty senders inflate at once no bound on what they send can tell.
        self._inflating = threading.Lock()
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="reader")
        self._gathering: dict[str, Gathering] = {}
        self._journal_failed = False

    def accept(
        self, contents: bytes, source: Source, arrived_s: float | None = None
    ) -> tuple[int, str]:
        """Take one instance into the spool.

        Parameters
        ----------
        arrived_s : when it came in (monotonic), if that was before this call

        Returns
        -------
        status : DIMSE status for the sender
        why : for the log; empty on success
        """
        try:
            full = self._spool.is_full()
        except OSError as error:
            return OUT_OF_RESOURCES, f"the spool can't be reached: {error}"
        if full:
            return OUT_OF_RESOURCES, (
                "the spool is at its limit (receive.min_free_mb, receive.max_spool_mb); make room"
            )
        # The disk's work and ours at the same time, each of some milliseconds. The reading is what
        # goes to another thread: it holds the interpreter, and a writer would wait for it.
        read = (
            partial(self._inflate, contents)
            if inflates(contents)
            else self._readers.submit(inspect, contents).result
        )
        with self._slots.offered(contents) as taken:
            return self._take(read, taken, source, arrived_s)

    def _inflate(self, contents: bytes) -> ReceivedInstance:
        """In the association's own thread, so that whoever waits here holds up nobody else."""
        with self._inflating:
            return inspect(contents)

    def _take(
        self,
        read: Callable[[], ReceivedInstance],
        taken: Callable[[], Path],
        source: Source,
        arrived_s: float | None,
    ) -> tuple[int, str]:
        try:
            instance = read()
        except Unreadable as error:
            return CANNOT_UNDERSTAND, str(error)
        with self._held(instance) as gathering, gathering.writing:
            # One writer per series: two senders of one UID can't both be the first.
            if instance.animal != gathering.animal:
                why = (
                    f"{oplog.series_end(instance.series_instance_uid)}: PatientID "
                    f"{instance.animal!r}, but the series came before as {gathering.animal!r}; "
                    "whose scan is it? Export it under a SeriesInstanceUID of its own"
                )
                return CANNOT_UNDERSTAND, why
            known = gathering.instances.get(instance.sop_instance_uid)
            if known is not None and known.digest != instance.digest:
                why = (
                    f"{oplog.series_end(instance.series_instance_uid)}, animal {instance.animal}: "
                    f"SOPInstanceUID {instance.sop_instance_uid} came before with other "
                    "content; the first one is kept"
                )
                return DUPLICATE, why
            if known is None:
                try:
                    self._spool.place(
                        taken(), instance.series_instance_uid, instance.sop_instance_uid
                    )
                except (OSError, SpoolFull) as error:
                    why = oplog.series_end(instance.series_instance_uid)
                    return OUT_OF_RESOURCES, f"{why}: the spool can't be written: {error}"
            with self._lock:
                note(gathering, instance, source, arrived_s)
        return SUCCESS, ""

    @contextmanager
    def _held(self, instance: ReceivedInstance) -> Iterator[Gathering]:
        """The instance's series, which is not forgotten meanwhile."""
        with self._lock:
            gathering = self._gathering_of(instance)
            gathering.takers += 1
        try:
            yield gathering
        finally:
            with self._lock:
                gathering.takers -= 1

    def is_low(self, free_mb: int) -> bool:
        """Whether the spool has less room than that, or none.

        Raises
        ------
        OSError
            If its disk is not there.
        """
        return self._spool.free_bytes() < free_mb * 2**20 or self._spool.is_full()

    def keep_structure_set(self, contents: bytes, source: Source) -> tuple[int, str]:
        """Store a structure set that somebody sends, and contour nothing; as `accept`."""
        return returned.keep(contents, source.sender, self._spool, self._journal)

    def closed(self, source_key: str, *, aborted: bool) -> None:
        """An association ended.

        Parameters
        ----------
        aborted : not everything of it was taken: it broke off, or instances were refused
        """
        now_s = time.monotonic()
        with self._lock:
            for series_instance_uid, gathering in self._gathering.items():
                if source_key not in gathering.open_sources:
                    continue
                began_s = gathering.open_sources.pop(source_key)
                if aborted:
                    gathering.aborted_s = gathering.last_s = now_s
                elif gathering.aborted_s is not None and began_s > gathering.aborted_s:
                    gathering.aborted_s = None
                if gathering.aborted_s is None and not gathering.open_sources:
                    self._spool.mark_released(
                        series_instance_uid, len(gathering.instances), gathering.sender
                    )

    def closing(self) -> None:
        """The door closes: who sends a series over many associations may be in its middle.

        Such a one waits for its resend, also after the restart; nothing tells it from a whole one.
        """
        now_s = time.monotonic()
        with self._lock:
            for series_instance_uid, gathering in self._gathering.items():
                amid = gathering.pending and now_s - gathering.last_s < AMID_S
                if amid and len(gathering.sources) > 1:
                    gathering.aborted_s = now_s
                    self._spool.mark_released(series_instance_uid, 0, gathering.sender)

    def recover(self) -> None:
        """After a restart: pick up series that lie in the spool and not in the journal."""
        # Before a slice can come that must find the note of what was removed.
        self._spool.sweep()
        for slot in self._slots.left_over():
            self._take_up(slot)
        journaled: dict[str, set[str]] = {}
        for row in self._journal.scans():
            journaled.setdefault(row.folder, set()).update(row.files)
        for folder in self._spool.folders():
            files = {path.name for path in folder.glob("*.dcm")}
            if files - journaled.get(str(folder), set()):
                with self._lock:
                    self._load(folder)

    def clear(self, folder: Path) -> bool:
        """Remove a series from the spool; False, and it stays, if slices of it are coming in."""
        with self._lock:
            known = (each for each in self._gathering.values() if each.folder == folder)
            gathering = next(known, None)
            if gathering is None:
                self._spool.clear(folder)
                return True
            busy = gathering.changed or gathering.open_sources
            if busy or not gathering.writing.acquire(blocking=False):
                return False
            try:
                self._spool.clear(folder)
                # The same object stays: a sender may be waiting to write into it.
                gathering.instances.clear()
                gathering.handed.clear()
                gathering.newest.clear()
                gathering.came.clear()
                gathering.aborted_s = None
            finally:
                gathering.writing.release()
        return True

    def _take_up(self, slot: Path) -> None:
        """Name what was answered with Success, perhaps, and lost its name in a power cut."""
        try:
            instance = inspect(slot.read_bytes())
        except Unreadable:
            slot.unlink()
            return
        uids = instance.series_instance_uid, instance.sop_instance_uid
        if (self._spool.folder(uids[0]) / self._spool.file_name(uids[1])).exists():
            slot.unlink()
        else:
            self._spool.place(slot, *uids)

    def settle(self) -> int:
        """Hand every settled series to the journal; returns how many are still coming in."""
        now_s = time.monotonic()
        with self._lock:
            pending = [item for item in self._gathering.items() if item[1].pending]
            for series_instance_uid, gathering in pending:
                if self._is_coming_in(gathering, now_s):
                    continue
                if gathering.instances.keys() <= gathering.handed:
                    self._came_again(series_instance_uid, gathering, now_s)
                    continue
                version = self._version(gathering)
                arrivals = Arrivals(
                    positions_mm=positions_mm(version),
                    rounding_mm=rounding_mm(version),
                    announced_slices=announced(version),
                    open_associations=len(gathering.open_sources),
                    aborted=gathering.aborted_s is not None,
                    last_arrival_s=gathering.last_s,
                )
                rules = Rules(
                    self._rules.min_slices,
                    self._settle_s(gathering),
                    self._rules.hold_s,
                    self._rules.expected_slices,
                )
                verdict = decide(arrivals, rules, now_s)
                if verdict is not Verdict.WAIT:
                    with oplog.about(
                        animal=gathering.animal, series_instance_uid=series_instance_uid
                    ):
                        self._try_to_hand_over(series_instance_uid, gathering, version, verdict)
            self._forget()
            return sum(gathering.pending for gathering in self._gathering.values())

    def _settle_s(self, gathering: Gathering) -> float:
        return gathering.settle_s or self._rules.settle_s

    def _is_coming_in(self, gathering: Gathering, now_s: float) -> bool:
        """Whether `decide` can only say WAIT; told without it, many times while slices come."""
        if not gathering.open_sources and now_s - gathering.last_s >= self._settle_s(gathering):
            return False
        instances = gathering.instances.values()
        announced = (each.announced_slices for each in instances if each.announced_slices)
        expected = self._rules.expected_slices or min(announced, default=None)
        return expected is None or sum(len(each.positions_mm) for each in instances) < expected

    def _forget(self) -> None:
        """Leave the oldest of what was handed over to the spool, which knows as much."""
        if len(self._gathering) <= KEPT:
            return
        idle = [
            series_instance_uid
            for series_instance_uid, gathering in self._gathering.items()
            if not (gathering.pending or gathering.open_sources or gathering.takers)
        ]
        for series_instance_uid in idle[: len(self._gathering) - KEPT]:
            del self._gathering[series_instance_uid]

    def run(self, stopping: threading.Event) -> None:
        """Settle until told to stop."""
        while not stopping.wait(PULSE_S):
            self.settle()

    def _version(self, gathering: Gathering) -> list[ReceivedInstance]:
        """What the next version is made of: the newest one and what came late, or new content.

        A series that was computed anew under its old UID comes as other instances in the same
        places; they replace what was there. Late slices lie beside it.
        """
        new = gathering.instances.keys() - gathering.handed
        both = [i for uid, i in gathering.instances.items() if uid in gathering.newest | new]
        batch = [i for uid, i in gathering.instances.items() if uid in gathering.came | new]
        if (
            len(positions_mm(batch)) >= self._rules.min_slices
            and not is_uniform(positions_mm(both), rounding_mm(both))
            and is_uniform(positions_mm(batch), rounding_mm(batch))
        ):
            return batch
        return both

    def _came_again(self, series_instance_uid: str, gathering: Gathering, now_s: float) -> None:
        """A resend of what is known, once it is over: the same input, the first structure set."""
        if gathering.open_sources or now_s - gathering.last_s < self._settle_s(gathering):
            return
        again = [gathering.instances[uid] for uid in gathering.came]
        if not (again and self._journal.knows(series_instance_uid, input_digest(again))):
            # Of a part that came again nothing follows, until the rest has come as well.
            gathering.changed = False
        else:
            with oplog.about(animal=gathering.animal, series_instance_uid=series_instance_uid):
                self._try_to_hand_over(series_instance_uid, gathering, again, Verdict.COMPLETE)

    def _try_to_hand_over(
        self,
        series_instance_uid: str,
        gathering: Gathering,
        version: Sequence[ReceivedInstance],
        verdict: Verdict,
    ) -> None:
        """Hand over, or leave it for the next pulse if the journal can't be written now."""
        try:
            self._hand_over(series_instance_uid, gathering, version, verdict)
        except (OSError, sqlite3.OperationalError) as error:
            if not self._journal_failed:
                log.error(
                    "animal %s is complete and waits: the journal can't be written (%s); "
                    "make room on its disk",
                    gathering.animal,
                    error,
                )
            self._journal_failed = True
        else:
            self._journal_failed = False

    def _hand_over(
        self,
        series_instance_uid: str,
        gathering: Gathering,
        version: Sequence[ReceivedInstance],
        verdict: Verdict,
    ) -> None:
        count = len(version)
        refused = ""
        if verdict is Verdict.GIVE_UP_ABORTED:
            refused = (
                f"the association broke off after {count} slices, or others were not taken, and "
                f"nothing came within {self._rules.hold_s:g} s; send the series again"
            )
        removed = self._spool.removed(gathering.folder)
        if removed is not None and count < removed.instances:
            refused = (
                f"{count} slices came late: the {removed.instances} of this series were delivered "
                f"and removed on {removed.date} (retention.spool_days); send the whole series again"
            )
        slices = len(positions_mm(version))
        for key, least in (
            ("min_slices", self._rules.min_slices),
            ("expected_slices", self._rules.expected_slices or 0),
        ):
            if not refused and slices < least:
                refused = f"{slices} slices came, settle.{key} is {least}"
        names = sorted(self._spool.file_name(each.sop_instance_uid) for each in version)
        # Local time, as the CT's own dates: DICOM would need an offset for both otherwise.
        now = datetime.now(UTC).astimezone()
        arrived = Arrived(
            series_instance_uid=series_instance_uid,
            input_digest=input_digest(version),
            bundle_sha256=self._bundle_sha256,
            profile=self._profile,
            study_instance_uid=gathering.study_instance_uid,
            animal=gathering.animal,
            sender=gathering.sender,
            folder=str(gathering.folder),
            files=tuple(names),
            receive_s=max(0.0, gathering.last_s - gathering.first_s),
            settle_s=time.monotonic() - gathering.last_s,
            last_slice_at=gathering.last_at,
            ready_at=time.time(),
            date=now.strftime("%Y%m%d"),
            time=now.strftime("%H%M%S"),
            refused=refused,
        )
        row = self._journal.insert(arrived, self._destinations)
        # Before anything is forgotten here: it may fail on a full disk, and is then tried again.
        again = "" if row is not None or refused else self._offer_again(arrived)
        gathering.changed = False
        gathering.came.clear()
        gathering.sources.clear()
        if not refused:
            uids = {each.sop_instance_uid for each in version}
            gathering.handed |= uids
            if row is not None or not gathering.newest:
                gathering.newest = uids
        if row is None:
            log.info(
                "series %s came again, %d slices, nothing new: no second structure set%s",
                series_instance_uid,
                count,
                again,
            )
            return
        if refused:
            log.error("%s animal %s refused: %s", row.name, row.animal, refused)
        else:
            log.info(
                "%s animal %s complete: %d slices from %s%s",
                row.name,
                row.animal,
                count,
                row.sender,
                f", version {row.version}" if row.version > 1 else "",
            )
        self._wake()

    def _offer_again(self, arrived: Arrived) -> str:
        """The first structure set, to every destination that has answered; for the log."""
        row = self._journal.find(arrived)
        if row is None:
            return ""
        if row.state == "ready":
            return f"; {row.name} is still being contoured"
        if row.state != "contoured":
            return f"; {row.name} was {row.state}, `limn retry` runs it again"
        if self._journal.superseded(row.id):
            return f"; {row.name} has a newer version"
        return self._send_again(row, arrived)

    def _send_again(self, row: ScanRow, arrived: Arrived) -> str:
        """Offer a structure set again, or make it anew if it was removed; for the log."""
        path = self._journal.structure_set_of(row.id).path
        gone = not path or not Path(path).is_file()
        if gone and self._journal.anew(row.id, arrived, self._destinations):
            self._wake()
            return (
                f"; the structure set of {row.name} was removed, so it is contoured anew under the "
                "same UIDs"
            )
        answered = [
            delivery.destination
            for delivery in self._journal.deliveries(row.id)
            if delivery.state != "waiting" and delivery.destination in self._destinations
        ]
        if not answered or not self._journal.resend(row.id, answered, time.time()):
            return f"; {row.name} is not offered again: it waits, is held or was discarded"
        self._wake()
        return f"; that of {row.name} is offered again to {', '.join(answered)}"

    def _gathering_of(self, instance: ReceivedInstance) -> Gathering:
        series = instance.series_instance_uid
        if series not in self._gathering:
            folder = self._spool.folder(series)
            if not (folder.is_dir() and self._load(folder)):
                now_s = time.monotonic()
                self._gathering[series] = Gathering(
                    folder=folder,
                    study_instance_uid=instance.study_instance_uid,
                    animal=instance.animal,
                    first_s=now_s,
                    last_s=now_s,
                    last_at=time.time(),
                )
        return self._gathering[series]

    def _load(self, folder: Path) -> bool:
        """Rebuild a series from its files; half-sent ones count as aborted."""
        released, sender = self._spool.released(folder)
        instances = []
        for path in sorted(folder.glob("*.dcm")):
            try:
                instances.append(inspect(path.read_bytes()))
            except Unreadable as error:
                log.error("spool file %s: %s", path, error)
        if not instances:
            return False
        now_s = time.monotonic()
        first = instances[0]
        versions = [set(names) for names in self._journal.inputs(str(folder))] or [set()]
        handed = {
            each.sop_instance_uid: self._spool.file_name(each.sop_instance_uid)
            for each in instances
            if self._spool.file_name(each.sop_instance_uid) in set().union(*versions)
        }
        self._gathering[first.series_instance_uid] = Gathering(
            folder=folder,
            study_instance_uid=first.study_instance_uid,
            animal=first.animal,
            first_s=now_s,
            last_s=now_s,
            last_at=time.time(),
            sender=sender,
            instances={instance.sop_instance_uid: instance for instance in instances},
            handed=set(handed),
            newest={uid for uid, name in handed.items() if name in versions[-1]},
            aborted_s=None if released == len(instances) else now_s,
        )
        return True
