"""After a restart: series from the files of the spool, and slices that lie in no series yet."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from limn.dicom.instance import ReceivedInstance, Unreadable
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
        gathering.associations = released.associations
        gathering.longest_pause_s = released.longest_pause_s
        gathering.recovered = True
        gathering.instances = instances
        names = {uid: self.spool.file_name(uid) for uid in instances}
        for files in self.journal.inputs(str(folder)):
            # The last version is the newest.
            gathering.newest = {uid for uid, name in names.items() if name in files}
            gathering.handed_over |= gathering.newest
        for uid in {uid for uid, name in names.items() if name in self.spool.replaced(folder)}:
            gathering.replaced(uid)
        if released.instances != len(instances):
            gathering.break_off(gathering.last_s)
        return gathering

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
        if self._has(*uids):
            slot.unlink()
        else:
            self.spool.place(slot, *uids)

    def _has(self, series_instance_uid: str, sop_instance_uid: str) -> bool:
        """Whether the spool has this instance whole; a damaged file is none."""
        try:
            self.read(self.spool.read(series_instance_uid, sop_instance_uid))
        except (OSError, Unreadable):
            return False
        return True


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
