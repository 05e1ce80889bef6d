"""After a restart: series from the files of the spool, and slices that lie in no series yet."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from limn.dicom.instance import ReceivedInstance, Unreadable, input_digest
from limn.domain.one_line import one_line
from limn.node import oplog
from limn.node.receive.gathering import Gathering
from limn.node.receive.slots import Slots
from limn.node.store.disk.spool import Spool, SpoolFull
from limn.node.store.journal.journal import Journal
from limn.node.store.journal.schema import JournalError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Recovery:
    """What the spool and the journal say of series that are not in memory.

    Parameters
    ----------
    read : reads one instance; raises `Unreadable`
    """

    spool: Spool
    journal: Journal
    slots: Slots
    read: Callable[[bytes], ReceivedInstance]

    def take_up_slots(self) -> None:
        """Place each instance that may have been answered with Success before a power cut."""
        for slot in self.slots.left_over():
            with named(slot):
                self._take_up(slot)

    def unfinished(self) -> list[Path]:
        """Folders of the spool with files that are in no scan of the journal."""
        journaled: dict[str, set[str]] = {}
        for row in self.journal.scans():
            journaled.setdefault(row.folder, set()).update(row.files)
        return [
            folder
            for folder in self.spool.folders()
            if {path.name for path in folder.glob("*.dcm")}
            - (journaled.get(str(folder), set()) - self.spool.replaced(folder))
        ]

    def load(self, folder: Path) -> Gathering | None:
        """Rebuild a series from its files; an incomplete one counts as broken off.

        None if none of its files can be read.
        """
        released = self.spool.released(folder)
        instances = self._instances(folder)
        if not instances:
            return None
        gathering = Gathering.begin(next(iter(instances.values())), folder, time.monotonic())
        gathering.sender = released.sender
        gathering.associations = max(released.associations, 2 if released.followed else 1)
        gathering.longest_pause_s = released.longest_pause_s
        gathering.recovered = True
        gathering.instances = instances
        names = {uid: self.spool.file_name(uid) for uid in instances}
        for files in self.journal.inputs(str(folder)):
            # The last version is the newest.
            gathering.newest = {uid for uid, name in names.items() if name in files}
            gathering.handed_over |= gathering.newest
        replaced = self.spool.replaced(folder)
        for uid in [uid for uid, name in names.items() if name in replaced]:
            gathering.replaced(uid)
        if released.instances != len(instances):
            gathering.break_off(gathering.last_s)
            gathering.doubt_end(goes_on=True)
        return gathering

    def damaged(self, folder: Path, names: Collection[str], digests: Mapping[str, str]) -> set[str]:
        """Which files of a series are not what was received, as far as anybody knows.

        The journal has one digest for all files of a version: if that differs, each of them is
        in doubt of which nothing else is known.

        Parameters
        ----------
        digests : of files that came since the start and are in no version yet
        """
        read = {name: self._read_file(folder / name) for name in names}
        gone = {name for name, instance in read.items() if instance is None}
        proven, doubtful = set[str](), set[str]()
        for row in self.journal.scans_of_folder(str(folder)):
            if not (read.keys() - proven).intersection(row.files):
                continue
            found = [read.get(name) or self._read_file(folder / name) for name in row.files]
            whole = [each for each in found if each is not None]
            same = len(whole) == len(found) and input_digest(whole) == row.series_digest
            (proven if same else doubtful).update(row.files)
        changed = {
            name
            for name, instance in read.items()
            if instance is not None and digests.get(name, instance.digest) != instance.digest
        }
        return gone | changed | (doubtful - proven).intersection(read)

    def _read_file(self, path: Path) -> ReceivedInstance | None:
        try:
            return self.read(path.read_bytes())
        except (OSError, Unreadable):
            return None

    def note(self, gathering: Gathering, *, followed: bool = False) -> None:
        """Write what a restart must know of a series of which no association is open.

        A note that can't be written costs the series a wait after a restart, and nothing else.

        Parameters
        ----------
        followed : its sender opens an association that may bring more of it
        """
        if gathering.open_sources or not gathering.instances:
            return
        note = gathering.released
        if followed and note.instances and note.associations < 2:
            note = replace(note, followed=True)
        if note == gathering.noted or (followed and not note.followed):
            return
        try:
            self.spool.mark_released(gathering.series_instance_uid, note)
            gathering.noted = note
        except OSError as error:
            log.warning(
                "animal %s: the note in %s can't be written: %s; if limn starts again now, the "
                "series waits for a resend",
                gathering.animal,
                one_line(gathering.folder),
                one_line(error),
            )

    def _instances(self, folder: Path) -> dict[str, ReceivedInstance]:
        instances: dict[str, ReceivedInstance] = {}
        for path in sorted(folder.glob("*.dcm")):
            try:
                instance = self.read(path.read_bytes())
            except (OSError, Unreadable) as error:
                log.error("spool file %s: %s", one_line(path), one_line(error))
                continue
            if self.spool.folder(instance.series_instance_uid) != folder:
                log.error(
                    "spool file %s is of another series, %s: somebody put it there; move it away",
                    one_line(path),
                    oplog.series_end(instance.series_instance_uid),
                )
                continue
            instances[instance.sop_instance_uid] = instance
        return instances

    def _take_up(self, slot: Path) -> None:
        try:
            instance = self.read(slot.read_bytes())
        except Unreadable:
            slot.unlink()
            return
        except OSError as error:
            log.error("spool file %s: %s; it stays there", one_line(slot), one_line(error))
            return
        uids = instance.series_instance_uid, instance.sop_instance_uid
        known = self.load(self.spool.folder(uids[0]))
        if known is not None and known.animal != instance.animal:
            # It was refused, and the node ended before its file was removed.
            log.warning(
                "%s: a slice of animal %s was refused before the restart, for the series is of %s; "
                "it is removed",
                oplog.series_end(uids[0]),
                instance.animal,
                known.animal,
            )
            slot.unlink()
        elif known is not None and uids[1] in known.instances:
            slot.unlink()
        else:
            self.spool.place(slot, *uids)


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Log an error that nobody expected with the path, and go on: a start must not fail for it."""
    try:
        yield
    except (OSError, SpoolFull, JournalError):
        # Of the disk or the journal: the next start tries again.
        raise
    except Exception:
        log.exception(
            "%s in the spool is passed over: a fault of limn, please report it", one_line(path)
        )
