"""The watched folder: files that appear in it go through the same intake as C-STORE.

Notifications make it fast; a rescan makes it reliable, because shares (SMB, NFS) send none. A file
is taken once its size and time have not changed for ``settle_s``. The folder is only read, and
nothing outside it is read: links, pipes and devices are left alone and logged once. Names come
from others: they may be no UTF-8, and a file that brings a surprise is logged and passed over.
"""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

from limn.dicom.folder import counted
from limn.domain.folders import not_a_folder
from limn.domain.one_line import one_line
from limn.node.config import Watch
from limn.node.permissions import make_private_file
from limn.node.receive.gathering import Source
from limn.node.receive.intake import Intake
from limn.node.receive.unlinked import FoundFile, UnlinkedFolder
from limn.node.store.journal.schema import is_damaged
from limn.node.surprises import Surprises, fault

log = logging.getLogger(__name__)

POLL_S = 0.1
# A share may hold any number of links and pipes; so many are logged.
MAX_LOGGED = 1000
# Of more files that are refused at one moment, a line for each reason is logged.
MANY_REFUSED = 5
# A file that can't be read holds its folder up for so long: another program may still have it.
UNREADABLE_S = 10.0
# A longer ending, or one with digits, is part of a name.
LONGEST_SUFFIX = 6


@dataclass(frozen=True, slots=True)
class _SeenFile:
    """A file's size and time, and since when they are the same (monotonic)."""

    size: int
    modified_ns: int
    since_s: float


class _TakenFiles:
    """Which files were taken, across restarts: path, size and time of change."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._db = self._connect()
        except sqlite3.DatabaseError as error:
            self._db = self._anew(error)

    def has(self, path: str, size: int, modified_ns: int) -> bool:
        """Whether this file was taken with this size and time."""
        return bool(
            self._all(
                "select 1 from taken where path = ? and size = ? and modified_ns = ?",
                (_key(path), size, modified_ns),
            )
        )

    def add(self, path: str, size: int, modified_ns: int) -> None:
        """Remember that it was taken."""
        self._all("insert or replace into taken values (?, ?, ?)", (_key(path), size, modified_ns))

    def _all(self, sql: str, values: tuple[object, ...]) -> list[tuple[object, ...]]:
        try:
            return self._db.execute(sql, values).fetchall()
        except sqlite3.DatabaseError as error:
            self._db = self._anew(error)
            return self._db.execute(sql, values).fetchall()

    def _connect(self) -> sqlite3.Connection:
        make_private_file(self._path)
        db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        try:
            db.execute("pragma journal_mode = wal")
            db.execute(
                "create table if not exists taken "
                "(path text primary key, size integer, modified_ns integer)"
            )
        except BaseException:
            db.close()
            raise
        return db

    def _anew(self, error: sqlite3.DatabaseError) -> sqlite3.Connection:
        """Begin with an empty memory if it is damaged: it must not keep the receiver down."""
        if not is_damaged(error):
            raise error
        with suppress(AttributeError):
            self._db.close()
        kept = self._path.with_name(f"{self._path.name}.damaged-{time.time_ns()}")
        self._path.replace(kept)
        for ending in ("-wal", "-shm"):
            self._path.with_name(self._path.name + ending).unlink(missing_ok=True)
        log.error(
            "%s was damaged (%s) and is kept as %s; the files of the watched folder are taken "
            "again, and a series that was delivered is offered again as it was",
            self._path,
            error,
            kept.name,
        )
        return self._connect()


def _key(path: str) -> str | bytes:
    """A path as SQLite takes it: a name that is no UTF-8 as its bytes."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return os.fsencode(path)
    return path


class _UnreadableFiles:
    """The files that can't be read: each holds its folder up for a while, and is logged once.

    Only one that is named as the slices are can be a slice that its series lacks.
    """

    def __init__(self) -> None:
        self._since_s: dict[str, float] = {}
        self._given_up: set[str] = set()
        self._slices: set[str] = set()

    def slice_came(self, path: str) -> None:
        """A slice was read: it can be read, and slices are named so."""
        self.forget(path)
        self._slices.add(_suffix(path))

    def forget(self, path: str) -> None:
        """It can be read now, or it is gone."""
        self._since_s.pop(path, None)
        self._given_up.discard(path)

    def may_be_slice(self, path: str) -> bool:
        """Whether its series may lack it."""
        return _suffix(path) in self._slices

    def may_be_free_soon(self, path: str, now_s: float) -> bool:
        """Note that it can't be read; whether it is so soon after the first time."""
        if path in self._given_up or len(self._since_s) >= MAX_LOGGED:
            return False
        return now_s - self._since_s.setdefault(path, now_s) < UNREADABLE_S

    def give_up(self, path: str) -> bool:
        """Wait for it no longer; whether that is news."""
        news = path not in self._given_up and len(self._given_up) < MAX_LOGGED
        if news:
            self._given_up.add(path)
        return news

    def holds_up(self, path: str) -> bool:
        """Whether its folder waits for it."""
        return path not in self._given_up


def _suffix(path: str) -> str:
    """The ending of a file's name; empty if it is a number or part of a UID."""
    suffix = os.path.splitext(path)[1].lower()  # noqa: PTH122
    return suffix if suffix[1:].isalpha() and len(suffix) <= LONGEST_SUFFIX else ""


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
        self._surprises: dict[str, tuple[int, int]] = {}
        self._refused: list[tuple[str, str]] = []
        self._folder = UnlinkedFolder(settings.folder)
        self._intake = intake
        self._taken = _TakenFiles(memory)
        self._unreadable = _UnreadableFiles()
        self._pending: dict[str, _SeenFile] = {}
        self._notified = threading.Event()
        self._observer: BaseObserver | None = None
        self._next_scan_s = 0.0
        self._reachable = True
        self._logged_silent = False
        self._logged_busy = False

    def run(self, stopping: threading.Event) -> None:
        """Watch until the node stops; survives that the folder vanishes and comes back."""
        surprises = Surprises()
        while not stopping.wait(POLL_S):
            if surprises.rests(self):
                continue
            try:
                self._look(time.monotonic())
            except Exception as error:
                if surprises.note(self, error):
                    log.error(
                        "watched folder %s: %s; it is looked at again and again. Please report it",
                        one_line(self._settings.folder),
                        fault(error),
                        exc_info=error,
                    )
            else:
                surprises.is_over(self)
        self._stop_observer()

    def _look(self, now_s: float) -> None:
        if self._notified.is_set() or now_s >= self._next_scan_s:
            self._notified.clear()
            self._next_scan_s = now_s + self._settings.rescan_s
            self._scan(now_s)
        self._take_settled(time.monotonic())

    def _scan(self, now_s: float) -> None:
        try:
            self._folder.check()
        # Any error of a share counts: a stale one gives ESTALE or EHOSTDOWN.
        except OSError as error:
            if self._reachable:
                what = not_a_folder(self._settings.folder)
                log.error(
                    "watched folder %s can't be reached (%s); waiting for it to come back%s",
                    one_line(self._settings.folder),
                    one_line(what) or error.strerror,
                    "; a link is only followed if it was there when limn started"
                    if error.errno in (errno.ELOOP, errno.ENOTDIR) and not what
                    else "",
                )
            self._reachable = False
            self._stop_observer()
            return
        if not self._reachable:
            log.info("watched folder %s is back", one_line(self._settings.folder))
            self._reachable = True
        self._start_observer()
        for found in self._folder.files():
            with self._guard(found.path, (found.size, found.modified_ns)):
                self._note(found, now_s)

    def _note(self, found: FoundFile, now_s: float) -> None:
        """Wait for a file to settle, if it was not taken before."""
        version = (found.size, found.modified_ns)
        if found.why_left:
            self._leave(found.path, found.why_left)
            return
        if self._surprises.get(found.path) == version or self._taken.has(found.path, *version):
            self._pending.pop(found.path, None)
            return
        seen = self._pending.get(found.path)
        if seen is None or (seen.size, seen.modified_ns) != version:
            self._pending[found.path] = _SeenFile(*version, now_s)

    @contextmanager
    def _guard(self, path: str, version: tuple[int, int]) -> Iterator[None]:
        """Log an error that nobody expected with the file's name; the watch goes on without it."""
        try:
            yield
        except sqlite3.OperationalError as error:
            # A full disk or a lock passes, and the next scan finds the file again.
            if not self._logged_busy:
                log.error(
                    "watched file %s: limn can't write down that it was taken (%s); tried again "
                    "every %g s. Make room on the disk of data_dir",
                    one_line(path),
                    error,
                    self._settings.rescan_s,
                )
            self._logged_busy = True
        except Exception:
            if len(self._surprises) >= MAX_LOGGED:
                return
            self._surprises[path] = version
            log.exception(
                "watched file %s is passed over until it changes or limn starts again: a fault of "
                "limn, please report it",
                one_line(path),
            )

    def _take_settled(self, now_s: float) -> None:
        settled = [
            (path, seen)
            for path, seen in sorted(self._pending.items())
            if now_s - seen.since_s >= self._settings.settle_s
        ]
        incomplete = set()
        self._refused.clear()
        for path, seen in settled:
            del self._pending[path]
            taken = False
            with self._guard(path, (seen.size, seen.modified_ns)):
                taken = self._take(path, seen)
            if not taken:
                incomplete.add(os.path.dirname(path))  # noqa: PTH120
        self._log_refused()
        # A folder with files that are still being written is like an open association.
        busy = {
            os.path.dirname(path)  # noqa: PTH120
            for path in self._pending
            if self._unreadable.holds_up(path)
        }
        for folder in {os.path.dirname(path) for path, _ in settled} - busy:  # noqa: PTH120
            with self._guard(folder, (0, 0)):
                self._intake.association_ended(
                    self._source(folder).key, aborted=folder in incomplete
                )

    def _take(self, path: str, seen: _SeenFile) -> bool:
        """Take a file; False if it must be tried again."""
        shown = one_line(path)
        if seen.size > self._max_bytes:
            log.error(
                "watched file %s refused: %d MB, receive.max_instance_mb is %d",
                shown,
                seen.size // 2**20,
                self._max_bytes // 2**20,
            )
            self._taken.add(path, seen.size, seen.modified_ns)
            return True
        try:
            contents = self._folder.read(path, seen.size, seen.modified_ns)
        except BlockingIOError:
            # It has changed; the next scan finds its size and time. Its folder stays busy.
            self._pending[path] = _SeenFile(-1, 0, time.monotonic())
            self._notified.set()
            return True
        except OSError as error:
            return self._is_no_loss(path, seen, error)
        source = self._source(os.path.dirname(path))  # noqa: PTH120
        result = self._intake.accept(contents, source, seen.since_s)
        if result.retry_later:
            log.error("watched file %s not taken: %s", shown, one_line(result.why))
            return False
        if result.stored:
            self._unreadable.slice_came(path)
        else:
            self._unreadable.forget(path)
            self._refused.append((path, result.why))
        self._taken.add(path, seen.size, seen.modified_ns)
        self._logged_busy = False
        return True

    def _is_no_loss(self, path: str, seen: _SeenFile, error: OSError) -> bool:
        """Whether no series lacks a file that can't be read, or its folder still waits for it."""
        may_be_slice = self._unreadable.may_be_slice(path)
        if isinstance(error, FileNotFoundError):
            self._unreadable.forget(path)
            if may_be_slice:
                self._refused.append((path, "it is gone before it was read"))
            return not may_be_slice
        now_s = time.monotonic()
        if self._unreadable.may_be_free_soon(path, now_s):
            # Its folder stays busy, and it is tried again soon.
            self._pending[path] = _SeenFile(seen.size, seen.modified_ns, now_s)
        elif self._unreadable.give_up(path):
            log.warning(
                "watched file %s can't be read: %s; limn tries at each rescan%s. Let the user of "
                "limn read it, or move it away",
                one_line(path),
                error.strerror,
                ", and a series of this folder that came with it waits for it (settle.hold_s)"
                if may_be_slice
                else "; it is not named as slices are, so no series waits for it",
            )
        return not may_be_slice or self._unreadable.holds_up(path)

    def _log_refused(self) -> None:
        """A line for each file, or for each reason if many files are refused at one moment."""
        many = len(self._refused) > MANY_REFUSED
        lines = counted(self._refused) if many else [(1, *each) for each in self._refused]
        for count, path, why in lines:
            also = f", and {count - 1} more files of this kind" if count > 1 else ""
            log.error("watched file %s refused: %s%s", one_line(path), one_line(why), also)

    def _leave(self, path: str, why: str) -> None:
        if path in self._left_alone or len(self._left_alone) >= MAX_LOGGED:
            return
        self._left_alone.add(path)
        log.warning("watched file %s left alone: %s", one_line(path), why)

    def _source(self, folder: str) -> Source:
        return Source(f"watch-{folder}", f"folder {one_line(folder)}", self._settings.settle_s)

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
