"""Received instances on disk: atomic, durable, under names that come from no UID."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from limn.domain.files import fsync_folder, write_durably
from limn.node.permissions import make_private_folder

RELEASED = "released.json"
# One sector of a disk: written as a whole or not at all.
RELEASED_BYTES = 512
MAX_SENDER = 60
REMOVED = "removed.json"
# A folder on its way out; no series lies in it. Its name goes on with the series' folder, how many
# instances there were and the day: a rename needs no room on a full disk, and can't be half done.
_GOING = ".going-"
# A spool at its limit is measured again after so long: retention may have made room.
MEASURE_AGAIN_S = 5.0
# Beside the series: written and not yet named (`slots`).
SLOTS = ".slots"


class SpoolFull(Exception):
    """The disk is below its watermark or full."""


class _Used:
    """How many bytes lie in the spool; measured once, counted from then on."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bytes: int | None = None
        self._measured_s = 0.0

    def reaches(self, limit: int, root: Path) -> bool:
        """Whether the spool is at its limit."""
        with self._lock:
            now_s = time.monotonic()
            if self._bytes is None or (
                self._bytes >= limit and now_s - self._measured_s > MEASURE_AGAIN_S
            ):
                self._bytes = sum(map(_size, root.rglob("*")))
                self._measured_s = now_s
            return self._bytes >= limit

    def add(self, count: int) -> None:
        """A file more."""
        with self._lock:
            if self._bytes is not None:
                self._bytes += count


@dataclass(frozen=True, slots=True)
class Removed:
    """How many instances a series had, and the day (UTC) on which they went."""

    instances: int
    date: str


@dataclass(frozen=True, slots=True)
class Spool:
    """One folder per series, one file per instance.

    Attributes
    ----------
    root : folder of the spool
    min_free_bytes : of the disk; below this nothing more is taken
    max_bytes : of the spool itself; None for no limit
    """

    root: Path
    min_free_bytes: int
    max_bytes: int | None = None
    _used: _Used = field(default_factory=_Used, compare=False, repr=False)

    def folder(self, series_instance_uid: str) -> Path:
        """Where a series lies; a hash, so that no sender chooses a path."""
        return self.root / _key(series_instance_uid)

    def file_name(self, sop_instance_uid: str) -> str:
        """Name of an instance's file within its series."""
        return f"{_key(sop_instance_uid)}.dcm"

    def is_full(self) -> bool:
        """Whether the disk is below its watermark, or the spool at its limit."""
        if self.free_bytes() < self.min_free_bytes:
            return True
        return self.max_bytes is not None and self._used.reaches(self.max_bytes, self.root)

    def free_bytes(self) -> int:
        """What the spool's disk has left.

        Raises
        ------
        OSError
            If it is not there.
        """
        make_private_folder(self.root)
        return shutil.disk_usage(self.root).free

    def place(self, slot: Path, series_instance_uid: str, sop_instance_uid: str) -> Path:
        """Give an instance that was written (`slots`) its name.

        Raises
        ------
        SpoolFull
            If the disk has no room.
        """
        folder = self.folder(series_instance_uid)
        path = folder / self.file_name(sop_instance_uid)
        try:
            make_private_folder(self.root)
            if not folder.is_dir():
                make_private_folder(folder)
                # Room for the note at the end, when the disk may be full.
                (folder / RELEASED).write_bytes(bytes(RELEASED_BYTES))
            slot.replace(path)
        except OSError as error:
            raise SpoolFull(str(error)) from error
        self._used.add(path.stat().st_size)
        return path

    def mark_released(self, series_instance_uid: str, instances: int, sender: str) -> None:
        """Note that every association of a series ended well; read after a restart."""
        text = json.dumps({"instances": instances, "sender": sender[:MAX_SENDER]})
        path = self.folder(series_instance_uid) / RELEASED
        with path.open("r+b") if path.exists() else path.open("wb") as file:
            file.write(text.encode().ljust(RELEASED_BYTES))
            file.flush()
            os.fsync(file.fileno())
        fsync_folder(path.parent)

    def released(self, folder: Path) -> tuple[int, str]:
        """How many instances were there at the last good release, and who sent them."""
        try:
            note = json.loads((folder / RELEASED).read_text(encoding="utf-8"))
            return int(note["instances"]), str(note["sender"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0, "unknown"

    def folders(self) -> Iterator[Path]:
        """Every series in the spool."""
        if self.root.is_dir():
            yield from sorted(
                path
                for path in self.root.iterdir()
                if path.is_dir() and path.name != SLOTS and not path.name.startswith(_GOING)
            )

    def clear(self, folder: Path) -> None:
        """Remove a series; a note stays, of how many instances there were and when they went.

        Raises
        ------
        OSError
            If somebody reads it (Windows) or the disk fails; then it stays as it was.
        """
        before = self.removed(folder)
        instances = max(len(list(folder.glob("*.dcm"))), before.instances if before else 0)
        today = datetime.now(UTC).date().isoformat()
        going = folder.with_name(f"{_GOING}{folder.name}.{instances}.{today}")
        # Renamed first: a crash in the middle must not leave half a series that looks late.
        folder.rename(going)
        # From here on it is gone; what fails now is done by `sweep`.
        with suppress(OSError):
            fsync_folder(self.root)
            self._finish(going)

    def sweep(self) -> None:
        """Finish what a crash left of `clear`; what somebody still reads waits for another time."""
        for going in self.root.glob(f"{_GOING}*"):
            # Of a name that is not ours (ValueError) nothing is known.
            with suppress(OSError, ValueError):
                self._finish(going)

    def _finish(self, going: Path) -> None:
        """Slices, note, folder: whenever it ends, the same again goes on from there."""
        for path in going.glob("*.dcm"):
            path.unlink()
        name, _, told = going.name.removeprefix(_GOING).partition(".")
        instances, _, date = told.partition(".")
        if told:
            folder = going.with_name(name)
            make_private_folder(folder)
            note = {"instances": int(instances), "date": date}
            write_durably(folder / REMOVED, json.dumps(note).encode())
        shutil.rmtree(going)

    def removed(self, folder: Path) -> Removed | None:
        """What was removed of a series; None if nothing was."""
        try:
            note = json.loads((folder / REMOVED).read_text(encoding="utf-8"))
            return Removed(int(note["instances"]), str(note["date"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None


def _size(path: Path) -> int:
    """Bytes of a file; nothing if it has just gone."""
    try:
        found = path.lstat()
    except OSError:
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) else 0


def _key(uid: str) -> str:
    return hashlib.sha256(uid.encode()).hexdigest()[:32]
