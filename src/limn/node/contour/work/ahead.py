"""Reads a series while it still comes in, so that its job finds it read (D-274).

What is read here decides nothing. A job uses only what was read of files that are still as they
were then, and reads every other file itself.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import psutil

from limn.domain.buffer import GrowingBuffer
from limn.domain.errors import LimnError

if TYPE_CHECKING:
    from limn.dicom.series import Instance
    from limn.dicom.volume import Stored
    from limn.node.contour.pipeline import OpenScan

log = logging.getLogger(__name__)

# Between two looks into the folder.
LOOK_S = 0.05
# A series of which nothing new comes for so many times its longest pause so far may be whole.
PAUSES = 3.0
# What was read is forgotten once nothing new has come for so long, or nobody has asked for it.
KEPT_S = 10.0
# Of the free memory. A scan for whose HU this is too little is refused: its labels need more.
BUFFER_SHARE = 0.36

# When a file was written or replaced, as the file system tells it.
FileState = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True, eq=False)
class FileRead:
    """A file that was read.

    Attributes
    ----------
    state : just before it was read
    digest : see `limn.dicom.instance.digest_of_file`
    """

    state: FileState
    instance: Instance
    digest: str


@dataclass(frozen=True, slots=True, eq=False)
class ReadAhead:
    """What is known of a job's files before it begins.

    Attributes
    ----------
    files : those that are still as they were when they were read
    pixels : of the compressed ones among them
    opened : the whole scan, if it was opened from these files and no others
    """

    files: Mapping[Path, FileRead] = field(default_factory=dict)
    pixels: dict[Path, Stored] = field(default_factory=dict)
    opened: OpenScan | None = None


class Opening(Protocol):
    """Opens a scan as its job would; it raises as the pipeline does."""

    def __call__(
        self,
        instances: Sequence[Instance],
        *,
        pixels: dict[Path, Stored],
        buffer: GrowingBuffer,
    ) -> OpenScan:
        """The series and its pixels, in the buffer's memory."""


def state_of(path: Path) -> FileState:
    """What changes when a file is written or replaced, even if its time is put back."""
    try:
        found = path.stat()
    except OSError:
        return (0, 0, 0, 0)
    # On Windows st_ctime is the time of creation, which reading does not change either.
    return (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


class Ahead:
    """What a worker reads between its jobs: one series at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reader: _Reader | None = None
        self._at_work = False

    def follow(self, folder: Path, opening: Opening) -> None:
        """Read what lies in a folder and what still comes; to be asked again and again.

        It returns at once. While a job runs nothing is read for the next one.
        """
        with self._lock:
            if self._at_work:
                return
            reader = self._reader
            if reader is not None and reader.folder == folder and reader.is_alive():
                reader.asked_s = time.monotonic()
                return
            if reader is not None:
                reader.stop()
            self._reader = _Reader(folder, opening)
            self._reader.start()

    @contextmanager
    def job(self, paths: Sequence[Path]) -> Iterator[ReadAhead]:
        """What was read of a job's files; nothing else is read until the job has ended."""
        with self._lock:
            self._at_work = True
            reader, self._reader = self._reader, None
        try:
            yield ReadAhead() if reader is None else reader.read_of(paths)
        finally:
            with self._lock:
                self._at_work = False


class _Reader(threading.Thread):
    """Reads the files of one folder until it is stopped.

    Attributes
    ----------
    asked_s : when somebody last wanted it to go on
    """

    def __init__(self, folder: Path, opening: Opening) -> None:
        super().__init__(name="ahead", daemon=True)
        self.folder = folder
        self.asked_s = time.monotonic()
        self._opening = opening
        self._stopping = threading.Event()
        self._seen: set[Path] = set()
        self._files: dict[Path, FileRead] = {}
        self._pixels: dict[Path, Stored] = {}
        self._opened: tuple[list[Path], OpenScan] | None = None
        free_bytes = psutil.virtual_memory().available
        self._buffer = GrowingBuffer(int(free_bytes * BUFFER_SHARE))

    def stop(self) -> None:
        """Read no further file."""
        self._stopping.set()

    def read_of(self, paths: Sequence[Path]) -> ReadAhead:
        """Stop, wait for what is being read, and give what is known of these files."""
        self.stop()
        self.join()
        files = {
            path: self._files[path]
            for path in paths
            if path in self._files and self._files[path].state == state_of(path)
        }
        opened = None
        if self._opened is not None and len(files) == len(paths):
            names, scan = self._opened
            opened = scan if names == list(paths) else None
        pixels = {path: each for path, each in self._pixels.items() if path in files}
        # What the job does not use must not lie in memory beside what it reads itself.
        self._forget()
        return ReadAhead(files, {} if opened else pixels, opened)

    def run(self) -> None:
        """Read until nobody asks any more; a fault is left to the job, which names it."""
        try:
            self._follow()
        except Exception as error:  # noqa: BLE001 - nothing depends on what is read here
            log.debug("%s is not read ahead: %r", self.folder, error)
            self._forget()

    def _follow(self) -> None:
        came_s, longest_s, tried = time.monotonic(), LOOK_S, True
        while not self._stopping.wait(LOOK_S) and time.monotonic() - self.asked_s < KEPT_S:
            new = sorted(set(self.folder.glob("*.dcm")) - self._seen)
            silence_s = time.monotonic() - came_s
            if new:
                longest_s = max(longest_s, silence_s) if self._seen else longest_s
                self._opened, tried = None, False
                self._read(new)
                came_s = time.monotonic()
            elif silence_s >= KEPT_S:
                self._forget()
            elif not tried and silence_s >= PAUSES * longest_s:
                tried = True
                self._open()
        if not self._stopping.is_set():
            self._forget()

    def _read(self, paths: Sequence[Path]) -> None:
        from limn.dicom.instance import digest_of_file  # noqa: PLC0415
        from limn.dicom.volume import compressed_pixels, read_headers  # noqa: PLC0415

        for path in paths:
            if self._stopping.is_set():
                return
            self._seen.add(path)
            state = state_of(path)
            try:
                (instance,) = read_headers([path])
                self._files[path] = FileRead(state, instance, digest_of_file(path))
                pixels = compressed_pixels(instance)
            except (LimnError, OSError) as error:
                log.debug("%s is not read ahead: %r", path, error)
            else:
                header = instance.header
                self._buffer.grow(
                    4 * int(header.get("Rows") or 0) * int(header.get("Columns") or 0)
                )
                if pixels is not None:
                    self._pixels[path] = pixels

    def _open(self) -> None:
        if len(self._files) < len(self._seen):
            return
        paths = sorted(self._files)
        instances = [self._files[path].instance for path in paths]
        with suppress(LimnError):
            # A copy: if more comes after all, the pixels are needed again.
            scan = self._opening(instances, pixels=dict(self._pixels), buffer=self._buffer)
            self._opened = (paths, scan)

    def _forget(self) -> None:
        """Give the memory back; the job reads the files itself."""
        self._files.clear()
        self._pixels.clear()
        self._opened = None
        self._buffer = GrowingBuffer(0)
