"""Received instances on disk: atomic, durable, under names that come from no UID."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

RELEASED = "released.json"
REMOVED = "removed.json"
# A folder on its way out; no series lies in it.
_GOING = ".going-"


class SpoolFull(Exception):
    """The disk is below its watermark or full."""


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
    min_free_bytes : below this nothing more is taken
    """

    root: Path
    min_free_bytes: int

    def folder(self, series_instance_uid: str) -> Path:
        """Where a series lies; a hash, so that no sender chooses a path."""
        return self.root / _key(series_instance_uid)

    def file_name(self, sop_instance_uid: str) -> str:
        """Name of an instance's file within its series."""
        return f"{_key(sop_instance_uid)}.dcm"

    def is_full(self) -> bool:
        """Whether the disk is below its watermark."""
        self.root.mkdir(parents=True, exist_ok=True)
        return shutil.disk_usage(self.root).free < self.min_free_bytes

    def store(self, series_instance_uid: str, sop_instance_uid: str, contents: bytes) -> Path:
        """Write an instance so that it survives a power cut once this returns.

        Raises
        ------
        SpoolFull
            If the disk has no room.
        """
        folder = self.folder(series_instance_uid)
        path = folder / self.file_name(sop_instance_uid)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_durably(path, contents)
        except OSError as error:
            raise SpoolFull(str(error)) from error
        return path

    def mark_released(self, series_instance_uid: str, instances: int, sender: str) -> None:
        """Note that every association of a series ended well; read after a restart."""
        text = json.dumps({"instances": instances, "sender": sender})
        write_durably(self.folder(series_instance_uid) / RELEASED, text.encode())

    def released(self, folder: Path) -> tuple[int, str]:
        """How many instances were there at the last good release, and who sent them."""
        try:
            note = json.loads((folder / RELEASED).read_text())
            return int(note["instances"]), str(note["sender"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0, "unknown"

    def folders(self) -> Iterator[Path]:
        """Every series in the spool."""
        if self.root.is_dir():
            yield from sorted(
                path
                for path in self.root.iterdir()
                if path.is_dir() and not path.name.startswith(_GOING)
            )

    def clear(self, folder: Path) -> None:
        """Remove a series; a note stays, of how many instances there were and when they went.

        Raises
        ------
        OSError
            If somebody reads it (Windows) or the disk fails; then it stays as it was, or is gone.
        """
        before = self.removed(folder)
        instances = max(len(list(folder.glob("*.dcm"))), before.instances if before else 0)
        going = folder.with_name(f"{_GOING}{folder.name}")
        shutil.rmtree(going, ignore_errors=True)
        # Renamed first: a crash in the middle must not leave half a series that looks late.
        folder.rename(going)
        folder.mkdir()
        note = {"instances": instances, "date": datetime.now(UTC).date().isoformat()}
        write_durably(folder / REMOVED, json.dumps(note).encode())
        shutil.rmtree(going)

    def sweep(self) -> None:
        """Finish what a crash left of `clear`."""
        for going in self.root.glob(f"{_GOING}*"):
            shutil.rmtree(going, ignore_errors=True)

    def removed(self, folder: Path) -> Removed | None:
        """What was removed of a series; None if nothing was."""
        try:
            note = json.loads((folder / REMOVED).read_text())
            return Removed(int(note["instances"]), str(note["date"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None


def write_durably(path: Path, contents: bytes) -> None:
    """Temp file, fsync, rename, fsync of the folder."""
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        file.write(contents)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _key(uid: str) -> str:
    return hashlib.sha256(uid.encode()).hexdigest()[:32]
