"""Takes instances from any source into the spool, and gives settled series to the hand-over."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

from limn.dicom.elements import has_many_elements
from limn.dicom.instance import ReceivedInstance, Unreadable, inflates, inspect, uids_of_file
from limn.node import oplog
from limn.node.dimse.status import CANNOT_UNDERSTAND, DUPLICATE, OUT_OF_RESOURCES
from limn.node.heartbeat import HEART
from limn.node.receive import returned
from limn.node.receive.awaiting import SeriesFaults, log_once, series_shown
from limn.node.receive.breaks import Feed
from limn.node.receive.completeness import Rules
from limn.node.receive.gathering import Gathering, Source
from limn.node.receive.handover import Handover
from limn.node.receive.open_associations import OpenAssociations
from limn.node.receive.recovery import Recovery, named
from limn.node.receive.settling import Settling
from limn.node.receive.slots import Slots
from limn.node.receive.store_result import StoreResult
from limn.node.store.disk.contacts import SenderContacts
from limn.node.store.disk.receiving import ReceivingSeries
from limn.node.store.disk.spool import SLOTS, Spool, SpoolFull
from limn.node.store.journal.journal import Journal

log = logging.getLogger(__name__)


SETTLE_EVERY_S, LONGEST_LOOK_S = 0.02, 0.05
# So many series that were handed over stay in memory; an older one is read from the spool again
# when an instance of it comes.
MAX_IN_MEMORY = 32
# Of so many series a refused instance is known before the first that was taken.
MAX_AWAITED = 1000
# Each runs for some milliseconds; more would only wait for the interpreter.
READERS = 32


class Intake:
    """Everything that has come in and is not yet in the journal.

    Attributes
    ----------
    associations : the open ones, of which the Storage SCP reports
    senders : what each sender did at the port, for people and the metrics
    """

    def __init__(
        self,
        spool: Spool,
        journal: Journal,
        rules: Rules,
        handover: Handover,
        *,
        max_in_memory: int = MAX_IN_MEMORY,
        read: Callable[[bytes], ReceivedInstance] = inspect,
    ) -> None:
        self._spool = spool
        self._journal = journal
        self._handover = handover
        self._max_in_memory = max_in_memory
        self._read = read
        self._slots = Slots(spool.root / SLOTS)
        self._recovery = Recovery(spool, journal, self._slots, read)
        self._lock = threading.RLock()
        # What is deflated or has very many elements takes a hundred times its bytes and more, which
        # the limit on received bytes does not bound: such instances are read one at a time.
        self._inflating = threading.Lock()
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="reader")
        self._gatherings: dict[str, Gathering] = {}
        self._looked_at = ""
        # Instances that were refused before any of their series was taken.
        self._awaited: dict[str, set[str]] = {}
        self._faults = SeriesFaults(journal.path)
        self.associations = OpenAssociations()
        # Set when a series begins.
        self.begun = threading.Event()
        self.senders = SenderContacts()
        self._settling = Settling(rules, journal.knows, self.associations.openings)

    def accept(
        self,
        contents: bytes,
        source: Source,
        arrived_s: float | None = None,
        replaced_sha256: str = "",
    ) -> StoreResult:
        """Take one instance into the spool.

        Parameters
        ----------
        arrived_s : when it came in (monotonic), if that was before this call
        replaced_sha256 : of the contents that the same file brought before, if it was changed
            since; they give way to the new ones (D-257)
        """
        try:
            full = self._spool.shortage()
        except OSError as error:
            return StoreResult(OUT_OF_RESOURCES, f"the spool can't be reached: {error}")
        if full:
            return StoreResult(OUT_OF_RESOURCES, full)
        # The disk writes while the processor reads, some milliseconds each. The reading goes to
        # another thread, because it holds the interpreter and the writer would wait for it.
        read = (
            partial(self._read_alone, contents)
            if _swells(contents)
            else self._readers.submit(self._read, contents).result
        )
        with self._slots.written(contents) as take:
            return self._take(read, take, source, arrived_s, replaced_sha256)

    def _read_alone(self, contents: bytes) -> ReceivedInstance:
        """In the association's own thread, so that a wait here holds up no other sender."""
        with self._inflating:
            return self._read(contents)

    def _take(
        self,
        read: Callable[[], ReceivedInstance],
        take: Callable[[], Path],
        source: Source,
        arrived_s: float | None,
        replaced_sha256: str,
    ) -> StoreResult:
        try:
            instance = read()
        except Unreadable as error:
            return StoreResult(CANNOT_UNDERSTAND, str(error))
        with self._pinned(instance) as gathering, gathering.writing:
            # One writer per series: two senders of one UID can't both be the first.
            if instance.animal != gathering.animal:
                why = (
                    # Both are shown already as one line: repr would escape the escapes.
                    f"{oplog.series_end(instance.series_instance_uid)}: PatientID "
                    f"'{instance.animal}', but the series came before as '{gathering.animal}'; "
                    "whose scan is it? Export it under a SeriesInstanceUID of its own"
                )
                return StoreResult(CANNOT_UNDERSTAND, why)
            known = gathering.instances.get(instance.sop_instance_uid)
            replaces = known is not None and known.digest != instance.digest
            uids = instance.series_instance_uid, instance.sop_instance_uid
            if replaces and not self._spool.has_file(*uids, replaced_sha256):
                why = (
                    f"{oplog.series_end(instance.series_instance_uid)}, animal {instance.animal}: "
                    f"SOPInstanceUID {instance.sop_instance_uid} came before with other "
                    "content; the first one is kept"
                )
                return StoreResult(DUPLICATE, why)
            if known is None or replaces or not self._is_intact(known):
                try:
                    if replaces:
                        self._spool.note_replaced(gathering.folder, instance.sop_instance_uid)
                    self._spool.place(take(), *uids)
                except (OSError, SpoolFull) as error:
                    end = oplog.series_end(instance.series_instance_uid)
                    why = f"{end}: the spool can't be written: {error}"
                    return StoreResult(OUT_OF_RESOURCES, why)
            with self._lock:
                began_s = self.associations.began_s(source.key)
                now_s = time.monotonic()
                if replaces:
                    _log_replaced(gathering, instance.sop_instance_uid)
                    gathering.replaced(instance.sop_instance_uid)
                gathering.add(instance, source, now_s, arrived_s=arrived_s, began_s=began_s)
                self.associations.named(source.key)
                self._no_longer_missing(instance.sop_instance_uid)
                if awaited := self._awaited.pop(instance.series_instance_uid, None):
                    gathering.lost(now_s, awaited)
        return StoreResult()

    def _is_intact(self, instance: ReceivedInstance) -> bool:
        """Whether the file of an instance that came before is still as it was written."""
        uids = instance.series_instance_uid, instance.sop_instance_uid
        try:
            contents = self._spool.read(*uids)
            read = self._read_alone if _swells(contents) else self._read
            intact = read(contents).digest == instance.digest
        except (OSError, Unreadable):
            intact = False
        if not intact:
            log.error(
                "animal %s: the spool had lost or damaged %s of %s; it came again and is written "
                "again. Does an antivirus program watch this folder?",
                instance.animal,
                self._spool.file_name(uids[1]),
                self._spool.folder(uids[0]),
            )
        return intact

    @contextmanager
    def _pinned(self, instance: ReceivedInstance) -> Iterator[Gathering]:
        """The instance's series, which stays in memory meanwhile."""
        with self._lock:
            gathering = self._gathering_of(instance)
            gathering.pins += 1
        try:
            yield gathering
        finally:
            with self._lock:
                gathering.pins -= 1

    def is_low(self, free_mb: int) -> bool:
        """Whether the spool's disk has less free than that, few inodes, or the spool is full.

        Raises
        ------
        OSError
            If the disk can't be read.
        """
        return self._spool.is_low(free_mb) or self._spool.is_full()

    def keep_structure_set(self, contents: bytes, source: Source) -> StoreResult:
        """Store a structure set and contour nothing; as `accept`."""
        with self._inflating if _swells(contents) else nullcontext():
            return returned.keep(contents, source.sender, self._spool, self._journal)

    def association_opened(self, source_key: str, sender: str) -> None:
        """An association that may bring instances is about to be accepted."""
        self.associations.opened(source_key, sender, time.monotonic())
        with self._lock:
            for gathering in self._gatherings.values():
                if gathering.pending and gathering.sender == sender:
                    # It may bring more of it, and would be cut off if the node ended now.
                    self._recovery.note(gathering, followed=True)

    def association_ended(
        self, source_key: str, *, aborted: bool, missing: Iterable[str] = ()
    ) -> None:
        """No more instances come from this source.

        Parameters
        ----------
        aborted : it broke off, or nobody knows what it brought
        missing : SOP Instance UIDs that it offered and that limn did not take
        """
        now_s, known = time.monotonic(), set(missing)
        of_series = sop_instance_uid = ""
        with self._lock:
            ended = self.associations.ended(source_key)
            if ended is not None and (aborted or known) and (lost := ended.lost()) is not None:
                # It brought so much of a slice that its series is known to be short.
                of_series, sop_instance_uid = lost
                known.add(sop_instance_uid)
                short = self._gatherings.get(of_series)
                if (
                    short is not None
                    and source_key not in short.open_sources
                    and short.lacks(sop_instance_uid, ended.sender)
                ):
                    short.lost(now_s, {sop_instance_uid}, broke_off=aborted)
                    self._recovery.note(short)
            fed = [each for each in self._gatherings.values() if source_key in each.open_sources]
            for gathering in fed:
                # What was lost of another series is none of its slices.
                own = known
                if of_series not in ("", gathering.series_instance_uid):
                    own = known - {sop_instance_uid}
                gathering.end_source(source_key, now_s, aborted=aborted, missing=own)
            # After all have ended: a disk that fails holds up no other series.
            for gathering in fed:
                self._recovery.note(gathering)

    def source_goes_on(self, source: Source) -> None:
        """Let what came from a source wait until `association_ended` is called for it again."""
        now_s = time.monotonic()
        with self._lock:
            for gathering in self._gatherings.values():
                if gathering.pending and gathering.sender == source.sender:
                    gathering.open_sources.setdefault(source.key, Feed(now_s, source.is_folder))

    def not_taken(self, contents: bytes, source: Source) -> bool:
        """Let the series of an instance that was refused wait for it; False if nothing names it.

        Also one of which nothing has come yet.
        """
        uids = uids_of_file(contents)
        if uids is None:
            return False
        series, sop_instance_uid = uids
        with self._lock:
            gathering = self._gatherings.get(series)
            if gathering is not None and gathering.lacks(sop_instance_uid, source.sender):
                gathering.lost(time.monotonic(), {sop_instance_uid})
                self._recovery.note(gathering)
            elif gathering is None or sop_instance_uid not in gathering.instances:
                awaited = self._awaited.setdefault(series, set())
                if len(awaited) < MAX_AWAITED:
                    awaited.add(sop_instance_uid)
                if len(self._awaited) > MAX_AWAITED:
                    del self._awaited[next(iter(self._awaited))]
        return True

    def _no_longer_missing(self, sop_instance_uid: str) -> None:
        """Let no series wait for an instance that is stored now; a refusal names no series."""
        for gathering in self._gatherings.values():
            if gathering.breaks:
                gathering.came_elsewhere(sop_instance_uid)

    def node_stopping(self) -> None:
        """Let a series wait for its resend if it may be cut off here, also after the restart.

        Its sender opens one association after another; between two the series looks whole.
        """
        now_s = time.monotonic()
        with self._lock:
            for gathering in self._gatherings.values():
                if gathering.may_be_cut_off(now_s):
                    gathering.break_off(now_s)
                    self._recovery.note(gathering)

    def recover(self) -> None:
        """After a restart, load the series that lie in the spool and not in the journal."""
        # Before a slice comes: it must find the note of what was removed.
        self._spool.sweep()
        self._recovery.take_up_slots()
        self._settling.several.update(self._spool.senders_of_several())
        for folder in self._recovery.unfinished():
            with named(folder), self._lock:
                self._load(folder)

    def damaged(self, folder: Path, names: Collection[str]) -> set[str]:
        """Which files of a series in the spool are not as they were received."""
        with self._lock:
            of_folder = (each for each in self._gatherings.values() if each.folder == folder)
            digests = {
                self._spool.file_name(uid): instance.digest
                for gathering in of_folder
                for uid, instance in gathering.instances.items()
                if uid not in gathering.handed_over
            }
        return self._recovery.damaged(folder, names, digests)

    def clear(self, folder: Path) -> bool:
        """Remove a series from the spool; False, and it stays, while slices of it come in."""
        with self._lock:
            known = (each for each in self._gatherings.values() if each.folder == folder)
            gathering = next(known, None)
            if gathering is None:
                self._spool.clear(folder)
                return True
            busy = gathering.changed or gathering.open_sources
            if busy or not gathering.writing.acquire(blocking=False):
                return False
            try:
                self._spool.clear(folder)
                # The object stays: a sender may wait to write into it.
                gathering.forget_instances()
            finally:
                gathering.writing.release()
        return True

    def settle(self) -> int:
        """Hand settled series over; returns how many are still coming in.

        Of very many, those that were not looked at within `LONGEST_LOOK_S` have their turn at the
        next call: no association waits longer for the lock.
        """
        with self._lock:
            now_s = time.monotonic()
            pending = [uid for uid, each in self._gatherings.items() if each.pending]
            # After the one at which the last call stopped.
            at = pending.index(self._looked_at) + 1 if self._looked_at in pending else 0
            for uid in (*pending[at:], *pending[:at]):
                if time.monotonic() - now_s > LONGEST_LOOK_S:
                    break
                gathering = self._gatherings[uid]
                self._looked_at = uid
                HEART.moved()
                if self._faults.rests(gathering):
                    continue
                with self._faults.guarded(gathering):
                    settled = self._settling.settled(gathering, now_s)
                    if settled is not None:
                        self._settling.remember(gathering)
                        count = self._single_slices(gathering)
                        self._handover.hand_over(replace(settled, single_slices=count))
                        self._faults.is_over(gathering)
            self._forget()
            return sum(gathering.pending for gathering in self._gatherings.values())

    def _single_slices(self, gathering: Gathering) -> int:
        """How many series of one slice the study of such a series has; 0 if it has more slices."""
        if len(gathering.instances) > 1:
            return 0
        return sum(
            len(each.instances) == 1
            and each.study_instance_uid == gathering.study_instance_uid
            and each.animal == gathering.animal
            for each in self._gatherings.values()
        )

    def receiving(self) -> list[ReceivingSeries]:
        """The series that are coming in; logs what an unusual one waits for, once."""
        found, rules = [], self._settling.rules
        with self._lock:
            now_s, now = time.monotonic(), time.time()
            for gathering in self._gatherings.values():
                if not gathering.pending or gathering.instances.keys() <= gathering.handed_over:
                    continue
                if shown := self._faults.shown(gathering, now_s, now):
                    found.append(shown)
                    continue
                with self._faults.guarded(gathering):
                    decision = self._settling.decision(gathering, now_s)
                    shown = series_shown(gathering, decision, rules, now_s, now)
                    log_once(gathering, decision, shown)
                    found.append(shown)
        return found

    def run(self, stopping: threading.Event) -> None:
        """Settle until the node stops."""
        HEART.register()
        while not stopping.wait(SETTLE_EVERY_S):
            self.settle()
            HEART.moved()

    def _forget(self) -> None:
        """Drop the oldest of the handed-over series from memory; the spool knows as much."""
        too_many = len(self._gatherings) - self._max_in_memory
        if too_many <= 0:
            return
        for series in [uid for uid, each in self._gatherings.items() if each.idle][:too_many]:
            del self._gatherings[series]

    def _gathering_of(self, instance: ReceivedInstance) -> Gathering:
        series = instance.series_instance_uid
        if series not in self._gatherings:
            folder = self._spool.folder(series)
            if not (folder.is_dir() and self._load(folder)):
                self._gatherings[series] = Gathering.begin(instance, folder, time.monotonic())
            self.begun.set()
        return self._gatherings[series]

    def _load(self, folder: Path) -> bool:
        """Take a series from its files into memory; False if none of them can be read."""
        gathering = self._recovery.load(folder)
        if gathering is None:
            return False
        self._gatherings[gathering.series_instance_uid] = gathering
        return True


def _swells(contents: bytes) -> bool:
    return inflates(contents) or has_many_elements(contents)


def _log_replaced(gathering: Gathering, sop_instance_uid: str) -> None:
    handed_over = sop_instance_uid in gathering.handed_over
    log.warning(
        "%s animal %s: the file of SOPInstanceUID %s was changed after limn took it; its "
        "new content replaces the first%s",
        oplog.series_end(gathering.series_instance_uid),
        gathering.animal,
        sop_instance_uid,
        ". A scan was made from the first: use the next version, which follows"
        if handed_over
        else "",
    )
