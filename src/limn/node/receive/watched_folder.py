"""The watched folder: files that appear in it go through the same intake as C-STORE.

Notifications make it fast; a rescan makes it reliable, because shares (SMB, NFS) send none. A file
is taken once its size and time have not changed for ``settle_s``. The folder is only read, and
nothing outside it is read: links, pipes and devices are left alone and logged once.
"""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import stat
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

from limn.node.config import Watch
from limn.node.receive.gathering import Source
from limn.node.receive.intake import Intake

log = logging.getLogger(__name__)

POLL_S = 0.1
# A share may hold any number of links and pipes; so many are logged.
MAX_LOGGED = 1000


@dataclass(frozen=True, slots=True)
class _SeenFile:
    """A file's size and time, and since when they are the same (monotonic)."""

    size: int
    modified_ns: int
    since_s: float


class _TakenFiles:
    """Which files were taken, across restarts: path, size and time of change."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.execute("pragma journal_mode = wal")
        self._db.execute(
            "create table if not exists taken "
            "(path text primary key, size integer, modified_ns integer)"
        )

    def has(self, path: str, size: int, modified_ns: int) -> bool:
        """Whether this file was taken with this size and time."""
        return (
            self._db.execute(
                "select 1 from taken where path = ? and size = ? and modified_ns = ?",
                (path, size, modified_ns),
            ).fetchone()
            is not None
        )

    def add(self, path: str, size: int, modified_ns: int) -> None:
        """Remember that it was taken."""
        self._db.execute("insert or replace into taken values (?, ?, ?)", (path, size, modified_ns))


class _ChangeHandler(FileSystemEventHandler):
    def __init__(self, event: threading.Event) -> None:
        self._event = event

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Request a scan at any change."""
        if event.event_type not in ("opened", "closed_no_write"):
            self._event.set()


class FolderWatch:
    """One watched folder."""

    def __init__(
        self, settings: Watch, intake: Intake, memory: Path, max_bytes: int = 2**29
    ) -> None:
        self._settings = settings
        self._max_bytes = max_bytes
        self._left_alone: set[str] = set()
        self._intake = intake
        self._taken = _TakenFiles(memory)
        self._pending: dict[str, _SeenFile] = {}
        self._notified = threading.Event()
        self._observer: BaseObserver | None = None
        self._reachable = True
        self._logged_silent = False

    def run(self, stopping: threading.Event) -> None:
        """Watch until the node stops; survives that the folder vanishes and comes back."""
        next_scan_s = 0.0
        while not stopping.wait(POLL_S):
            now_s = time.monotonic()
            if self._notified.is_set() or now_s >= next_scan_s:
                self._notified.clear()
                next_scan_s = now_s + self._settings.rescan_s
                self._scan(now_s)
            self._take_settled(time.monotonic())
        self._stop_observer()

    def _scan(self, now_s: float) -> None:
        # Not Path.is_dir: it raises for a stale share (ESTALE, EHOSTDOWN).
        if not os.path.isdir(self._settings.folder):  # noqa: PTH112
            if self._reachable:
                log.error(
                    "watched folder %s can't be reached; waiting for it to come back",
                    self._settings.folder,
                )
            self._reachable = False
            self._stop_observer()
            return
        if not self._reachable:
            log.info("watched folder %s is back", self._settings.folder)
            self._reachable = True
        self._start_observer()
        for path, size, modified_ns, why_left in _files(self._settings.folder):
            if why_left:
                self._leave(path, why_left)
                continue
            if self._taken.has(path, size, modified_ns):
                continue
            seen = self._pending.get(path)
            if seen is None or (seen.size, seen.modified_ns) != (size, modified_ns):
                self._pending[path] = _SeenFile(size, modified_ns, now_s)

    def _take_settled(self, now_s: float) -> None:
        settled = [
            (path, seen)
            for path, seen in sorted(self._pending.items())
            if now_s - seen.since_s >= self._settings.settle_s
        ]
        incomplete = set()
        for path, seen in settled:
            del self._pending[path]
            if not self._take(path, seen):
                incomplete.add(os.path.dirname(path))  # noqa: PTH120
        # A folder with files that are still being written is like an open association.
        busy = {os.path.dirname(path) for path in self._pending}  # noqa: PTH120
        for folder in {os.path.dirname(path) for path, _ in settled} - busy:  # noqa: PTH120
            self._intake.association_ended(self._source(folder).key, aborted=folder in incomplete)

    def _take(self, path: str, seen: _SeenFile) -> bool:
        """Take a file; False if it must be tried again."""
        try:
            now = Path(path).lstat()
            if (now.st_size, now.st_mtime_ns) != (seen.size, seen.modified_ns):
                self._pending[path] = _SeenFile(now.st_size, now.st_mtime_ns, time.monotonic())
                return True
            if now.st_size > self._max_bytes:
                log.error(
                    "watched file %s refused: %d MB, receive.max_instance_mb is %d",
                    path,
                    now.st_size // 2**20,
                    self._max_bytes // 2**20,
                )
                self._taken.add(path, seen.size, seen.modified_ns)
                return True
            if not _is_within(os.path.dirname(path), self._settings.folder):  # noqa: PTH120
                self._leave(path, "it leads out of the folder")
                return True
            contents = _read_regular(path, seen.size)
        except OSError as error:
            log.warning("watched file %s: %s; tried again at the next scan", path, error.strerror)
            return False
        source = self._source(os.path.dirname(path))  # noqa: PTH120
        result = self._intake.accept(contents, source, seen.since_s)
        if result.retry_later:
            log.error("watched file %s not taken: %s", path, result.why)
            return False
        if not result.stored:
            log.error("watched file %s refused: %s", path, result.why)
        self._taken.add(path, seen.size, seen.modified_ns)
        return True

    def _leave(self, path: str, why: str) -> None:
        if path in self._left_alone or len(self._left_alone) >= MAX_LOGGED:
            return
        self._left_alone.add(path)
        log.warning("watched file %s left alone: %s", path, why)

    def _source(self, folder: str) -> Source:
        return Source(f"watch-{folder}", f"folder {folder}", self._settings.settle_s)

    def _start_observer(self) -> None:
        if self._observer is not None and self._observer.is_alive():
            return
        observer = Observer()
        try:
            observer.schedule(
                _ChangeHandler(self._notified), str(self._settings.folder), recursive=True
            )
            observer.start()
        except OSError as error:
            if not self._logged_silent:
                log.warning(
                    "no notifications from %s (%s); it is rescanned every %g s",
                    self._settings.folder,
                    error,
                    self._settings.rescan_s,
                )
            self._logged_silent = True
            return
        self._observer = observer

    def _stop_observer(self) -> None:
        if self._observer is not None:
            self._observer.stop()
            self._observer = None


def _files(folder: Path) -> Iterator[tuple[str, int, int, str]]:
    """The files below the folder: path, size, time of change, and why to leave it alone."""
    for root, folders, names in os.walk(folder, followlinks=False):
        # Not is_symlink alone: a Windows junction is no symbolic link, and os.walk enters it.
        for name in [each for each in folders if not _is_own(os.path.join(root, each), folder)]:  # noqa: PTH118
            folders.remove(name)
            yield os.path.join(root, name), 0, 0, "a link to a folder"  # noqa: PTH118
        for name in names:
            path = os.path.join(root, name)  # noqa: PTH118
            try:
                found = Path(path).lstat()
            except OSError:
                continue
            why = ""
            if stat.S_ISLNK(found.st_mode):
                why = "a link"
            elif not stat.S_ISREG(found.st_mode):
                why = "no regular file"
            yield path, found.st_size, found.st_mtime_ns, why


def _is_own(path: str, folder: Path) -> bool:
    return not os.path.islink(path) and _is_within(path, folder)  # noqa: PTH114


def _is_within(path: str, folder: Path) -> bool:
    """Whether a folder lies in the watched one after every link is followed."""
    try:
        return Path(path).resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):
        return False


def _read_regular(path: str, size: int) -> bytes:
    """Read a file if it is still a regular one; never waits for a pipe.

    Raises
    ------
    OSError
        If it has become something else, or has grown.
    """
    flags = os.O_RDONLY
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY", "O_CLOEXEC"):
        flags |= getattr(os, name, 0)
    with open(path, "rb", opener=lambda found, _: os.open(found, flags)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "no regular file any more")
        contents = file.read(size + 1)
    if len(contents) != size:
        raise OSError(errno.EAGAIN, "it changed while it was read")
    return contents
