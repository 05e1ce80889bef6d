"""Received instances on disk: written atomically and durably, under names that no UID chooses."""

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
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from limn.domain.files import OWNER_ONLY_FILE, fsync_folder, write_durably
from limn.node.permissions import make_private_file, make_private_folder
from limn.node.store.disk.space import inodes_of

RELEASED = "released.json"
# After the name of a slice's file: its contents were replaced, and no scan has the new ones yet.
_REPLACED = ".replaced"
# One sector of a disk: written as a whole or not at all.
RELEASED_BYTES = 512
MAX_SENDER = 60
REMOVED = "removed.json"
# In the folder of a CT series that limn made of an image; no peer has it from elsewhere.
MADE = "made-of-an-image"
# Beside a structure set: what folders want of the scan in other forms.
FORMS_DIR = "forms"
# Prefix of a folder that is being removed and counts as no series. After it the name gives the
# folder of the series, its number of instances and the day: a rename is atomic and needs no room.
_TRASH = ".going-"
# A spool at its limit is measured again after this time: retention may have made room.
REMEASURE_S = 5.0
# Folder of instances that are written and not yet placed in a series (`slots`).
SLOTS = ".slots"


# What a note that is not limn's brings.
_NO_NOTE = (
    *(AttributeError, KeyError, OSError, OverflowError, RecursionError, TypeError, ValueError),
)


class SpoolFull(Exception):
    """The disk is below its watermark or full."""


class _Used:
    """The number of bytes in the spool; measured once, then counted."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bytes: int | None = None
        self._measured_s = 0.0

    def reaches(self, limit: int, root: Path) -> bool:
        """Whether the spool is at its limit."""
        with self._lock:
            now_s = time.monotonic()
            if self._bytes is None or (
                self._bytes >= limit and now_s - self._measured_s > REMEASURE_S
            ):
                self._bytes = sum(map(_size, root.rglob("*")))
                self._measured_s = now_s
            return self._bytes >= limit

    def add(self, size_bytes: int) -> None:
        """Count a new file of so many bytes."""
        with self._lock:
            if self._bytes is not None:
                self._bytes += size_bytes


@dataclass(frozen=True, slots=True)
class Removed:
    """How many instances a series had, and the day (UTC) on which they were removed."""

    instances: int
    date: str


@dataclass(frozen=True, slots=True)
class Released:
    """The last moment at which every association of a series had been released.

    Attributes
    ----------
    instances : how many lay in the spool then
    sender : for people
    associations : how many had brought them
    longest_pause_s : between two slices of these
    followed : its sender had opened another association, which may bring more of it
    """

    instances: int = 0
    sender: str = "unknown"
    associations: int = 1
    longest_pause_s: float = 0.0
    followed: bool = False


@dataclass(frozen=True, slots=True)
class Spool:
    """One folder per series, one file per instance.

    Attributes
    ----------
    root : folder of the spool
    min_free_bytes : free space of the disk, below which no instance is taken
    max_bytes : largest size of the spool itself; None for no limit
    """

    root: Path
    min_free_bytes: int
    max_bytes: int | None = None
    _used: _Used = field(default_factory=_Used, compare=False, repr=False)

    def folder(self, series_instance_uid: str) -> Path:
        """Folder of a series; its name is a hash, so that no sender chooses a path."""
        return self.root / _key(series_instance_uid)

    def file_name(self, sop_instance_uid: str) -> str:
        """Name of an instance's file within its series."""
        return f"{_key(sop_instance_uid)}.dcm"

    def is_full(self) -> bool:
        """Whether the disk is below a watermark, or the spool at its limit."""
        return bool(self.shortage())

    def shortage(self) -> str:
        """Why no instance is taken, and the remedy; empty if there is room.

        Raises
        ------
        OSError
            If the spool can't be reached.
        """
        if self.free_bytes() < self.min_free_bytes or (
            self.max_bytes is not None and self._used.reaches(self.max_bytes, self.root)
        ):
            return (
                "the spool is at its limit (receive.min_free_mb, receive.max_spool_mb); make room"
            )
        inodes = inodes_of(self.root)
        if inodes is not None and inodes.free < inodes.least:
            return (
                f"the disk of the spool has {inodes.free} inodes free and keeps {inodes.least}; "
                "delete files there"
            )
        return ""

    def is_low(self, free_mb: int) -> bool:
        """Whether the disk has fewer megabytes or inodes free than a new association needs.

        Raises
        ------
        OSError
            If the spool can't be reached.
        """
        if self.free_bytes() < free_mb * 2**20:
            return True
        inodes = inodes_of(self.root)
        return inodes is not None and inodes.free < inodes.low

    def free_bytes(self) -> int:
        """Free bytes on the spool's disk.

        Raises
        ------
        OSError
            If the spool can't be reached.
        """
        make_private_folder(self.root)
        return shutil.disk_usage(self.root).free

    def place(self, slot: Path, series_instance_uid: str, sop_instance_uid: str) -> Path:
        """Move an instance that was written (`slots`) into its series; returns its path.

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
                # Reserves the room for the note of `mark_released`: the disk may be full by then.
                make_private_file(folder / RELEASED)
                (folder / RELEASED).write_bytes(bytes(RELEASED_BYTES))
            slot.replace(path)
        except OSError as error:
            raise SpoolFull(str(error)) from error
        self._used.add(path.stat().st_size)
        return path

    def mark_made(self, series_instance_uid: str) -> None:
        """Note durably that limn made a series, of which an instance was placed."""
        path = self.folder(series_instance_uid) / MADE
        make_private_file(path)
        fsync_folder(path.parent)

    def note_replaced(self, folder: Path, sop_instance_uid: str) -> None:
        """Note that a slice's contents are about to be replaced; read after a restart."""
        make_private_file(folder / f"{_key(sop_instance_uid)}{_REPLACED}")
        fsync_folder(folder)

    def replaced(self, folder: Path) -> set[str]:
        """File names of the slices that were replaced since the last hand-over."""
        return {f"{path.stem}.dcm" for path in folder.glob(f"*{_REPLACED}")}

    def forget_replaced(self, folder: Path) -> None:
        """The journal has the series with its new contents."""
        for path in folder.glob(f"*{_REPLACED}"):
            path.unlink(missing_ok=True)

    def mark_released(self, series_instance_uid: str, released: Released) -> None:
        """Note that every association of a series was released; read after a restart."""
        text = json.dumps(asdict(replace(released, sender=released.sender[:MAX_SENDER])))
        path = self.folder(series_instance_uid) / RELEASED
        make_private_file(path)
        with path.open("r+b") as file:
            file.write(text.encode().ljust(RELEASED_BYTES))
            file.flush()
            os.fsync(file.fileno())
        fsync_folder(path.parent)

    def released(self, folder: Path) -> Released:
        """The note of the last release; that of no instance if there is none."""
        try:
            note = json.loads((folder / RELEASED).read_text(encoding="utf-8"))
            return Released(
                int(note["instances"]),
                str(note["sender"]),
                int(note.get("associations", 1)),
                float(note.get("longest_pause_s", 0.0)),
                bool(note.get("followed", False)),
            )
        except _NO_NOTE:
            return Released()

    def senders_of_several(self) -> set[str]:
        """Senders whose newest series here came over more than one association, by its note."""
        newest: dict[str, tuple[float, int]] = {}
        for folder in self.folders():
            note = self.released(folder)
            with suppress(OSError):
                at = (folder / RELEASED).stat().st_mtime, note.associations
                newest[note.sender] = max(newest.get(note.sender, at), at)
        return {sender for sender, (_, associations) in newest.items() if associations > 1}

    def read(self, series_instance_uid: str, sop_instance_uid: str) -> bytes:
        """The bytes of an instance.

        Raises
        ------
        OSError
            If its file is gone or can't be read.
        """
        return (self.folder(series_instance_uid) / self.file_name(sop_instance_uid)).read_bytes()

    def has_file(self, series_instance_uid: str, sop_instance_uid: str, sha256: str) -> bool:
        """Whether an instance lies here with this SHA-256 of its whole file."""
        try:
            contents = self.read(series_instance_uid, sop_instance_uid)
        except OSError:
            return False
        return hashlib.sha256(contents).hexdigest() == sha256

    def folders(self) -> Iterator[Path]:
        """Every series in the spool."""
        if self.root.is_dir():
            yield from sorted(
                path
                for path in self.root.iterdir()
                if path.is_dir() and path.name != SLOTS and not path.name.startswith(_TRASH)
            )

    def clear(self, folder: Path) -> None:
        """Remove a series; leave a note of how many instances it had and on which day.

        Raises
        ------
        OSError
            If a process reads it (Windows) or the disk fails; then it stays as it was.
        """
        before = self.removed(folder)
        instances = max(len(list(folder.glob("*.dcm"))), before.instances if before else 0)
        today = datetime.now(UTC).date().isoformat()
        trash = folder.with_name(f"{_TRASH}{folder.name}.{instances}.{today}")
        # Rename first: after a crash in the middle, half a series would look incomplete.
        folder.rename(trash)
        # From here on the series is gone; `sweep` finishes what fails now.
        with suppress(OSError):
            fsync_folder(self.root)
            self._finish(trash)

    def sweep(self) -> None:
        """Finish each `clear` that a crash or a reading process interrupted, as far as possible."""
        for trash in self.root.glob(f"{_TRASH}*"):
            # A ValueError means that limn did not give this name.
            with suppress(OSError, ValueError):
                self._finish(trash)

    def _finish(self, trash: Path) -> None:
        """Remove slices, write the note, remove the folder; a second call goes on after a crash."""
        for path in trash.glob("*.dcm"):
            path.unlink()
        name, _, details = trash.name.removeprefix(_TRASH).partition(".")
        instances, _, date = details.partition(".")
        if details:
            folder = trash.with_name(name)
            make_private_folder(folder)
            note = {"instances": int(instances), "date": date}
            write_durably(folder / REMOVED, json.dumps(note).encode())
            (folder / REMOVED).chmod(OWNER_ONLY_FILE)
        shutil.rmtree(trash)

    def removed(self, folder: Path) -> Removed | None:
        """The note on a series that was removed; None if it was not."""
        try:
            note = json.loads((folder / REMOVED).read_text(encoding="utf-8"))
            return Removed(int(note["instances"]), str(note["date"]))
        except _NO_NOTE:
            return None


def _size(path: Path) -> int:
    """Bytes of a file; 0 if it was removed meanwhile, or is no regular file."""
    try:
        found = path.lstat()
    except OSError:
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) else 0


def _key(uid: str) -> str:
    return hashlib.sha256(uid.encode()).hexdigest()[:32]
