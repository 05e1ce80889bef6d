"""The watched folder: files that appear in it go through the same intake as C-STORE.

Notifications make it fast; a rescan makes it reliable, because shares (SMB, NFS) send none. A file
is taken once its size and time have not changed for ``settle_s``. The folder is only read, and
nothing outside it is read: links, pipes and devices are left alone and logged once. Names come
from others: they may be no UTF-8, and a file that brings a surprise is logged and passed over.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

from limn.dicom.folder import counted
from limn.dicom.instance import may_be_cut_off
from limn.domain.folders import not_a_folder
from limn.domain.one_line import one_line
from limn.node.config import Watch
from limn.node.receive.folder.missed_files import MAX_LOGGED, MissedFiles, folders_of
from limn.node.receive.folder.taken_files import FileState, TakenFiles
from limn.node.receive.folder.unlinked import FoundFile, UnlinkedFolder
from limn.node.receive.gathering import Source
from limn.node.receive.images.image_watch import ImageWatch
from limn.node.receive.intake import Intake
from limn.node.surprises import Surprises, fault

log = logging.getLogger(__name__)

POLL_S = 0.1
# Of more files that are refused at one moment, a line for each reason is logged.
MANY_REFUSED = 5


@dataclass(frozen=True, slots=True)
class _SeenFile:
    """A file's state, and since when it is the same (monotonic)."""

    state: FileState
    since_s: float


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
        self,
        settings: Watch,
        intake: Intake,
        memory: TakenFiles | Path,
        max_bytes: int = 2**29,
        images: ImageWatch | None = None,
    ) -> None:
        self._settings = settings
        self._max_bytes = max_bytes
        self._images = images
        self._left_alone: set[str] = set()
        self._surprises: dict[str, FileState] = {}
        self._refused: list[tuple[str, str]] = []
        self._folder = UnlinkedFolder(settings.folder)
        self._intake = intake
        self._taken = memory if isinstance(memory, TakenFiles) else TakenFiles(memory)
        self._missed = MissedFiles()
        # Folders of which files were taken, and those that the share's absence keeps open.
        self._fed: set[str] = set()
        self._held: set[str] = set()
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
                if self._images is not None and self._reachable:
                    self._images.work(time.monotonic(), stopping)
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
        if self._images is not None:
            self._images.stop()

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
                self._hold_fed()
            self._reachable = False
            self._stop_observer()
            return
        if not self._reachable:
            log.info("watched folder %s is back", one_line(self._settings.folder))
            self._reachable = True
        self._start_observer()
        files: Iterable[FoundFile] = self._folder.files()
        if self._images is not None:
            files = self._images.look(list(files), now_s)
        for found in files:
            with self._guard(found.path, found.state):
                self._note(found, now_s)

    def _note(self, found: FoundFile, now_s: float) -> None:
        """Wait for a file to settle, if it was not taken before."""
        if found.why_left:
            self._leave(found.path, found.why_left, now_s)
            return
        if self._surprises.get(found.path) == found.state or self._taken.has(
            found.path, found.state
        ):
            self._pending.pop(found.path, None)
            return
        seen = self._pending.get(found.path)
        if seen is None or seen.state != found.state:
            self._pending[found.path] = _SeenFile(found.state, now_s)

    def _hold_fed(self) -> None:
        """Let the series that came so far wait: the share is gone in the middle of them, or after.

        Their folders are like open associations until the share is back.
        """
        self._held |= self._fed
        for folder in self._fed:
            self._intake.source_goes_on(self._source(folder))

    @contextmanager
    def _guard(self, path: str, state: FileState) -> Iterator[None]:
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
            self._missed.not_taken(path, time.monotonic())
            if len(self._surprises) >= MAX_LOGGED:
                return
            self._surprises[path] = state
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
            with self._guard(path, seen.state):
                taken = self._take(path, seen)
            if not taken:
                incomplete |= folders_of([path])
        self._log_refused()
        # A folder with files that are still being written is like an open association.
        busy = folders_of(path for path in self._pending if self._missed.holds_up(path))
        ended = folders_of(path for path, _ in settled)
        self._fed |= ended
        if self._reachable:
            ended |= self._held
        incomplete |= self._missed.folders_that_lack(now_s) if ended else set()
        for folder in ended - busy:
            self._held.discard(folder)
            with self._guard(folder, FileState(0, 0)):
                self._intake.association_ended(
                    self._source(folder).key, aborted=folder in incomplete
                )

    def _take(self, path: str, seen: _SeenFile) -> bool:
        """Take a file; False if it must be tried again."""
        shown, state = one_line(path), seen.state
        if state.size > self._max_bytes:
            log.error(
                "watched file %s refused: %d MB, receive.max_instance_mb is %d",
                shown,
                state.size // 2**20,
                self._max_bytes // 2**20,
            )
            self._taken.add(path, state)
            self._missed.not_taken(path, time.monotonic())
            return True
        try:
            contents = self._folder.read(path, state.size, state.modified_ns)
        except BlockingIOError:
            # It has changed; the next scan finds its size and time. Its folder stays busy.
            self._pending[path] = _SeenFile(FileState(-1, 0), time.monotonic())
            self._notified.set()
            return True
        except OSError as error:
            return self._is_no_loss(path, seen, error)
        sha256 = hashlib.sha256(contents).hexdigest()
        if self._taken.is_same(path, state, sha256):
            # Its rights or its name were changed.
            self._taken.add(path, state, sha256)
            return True
        source = self._source(os.path.dirname(path))  # noqa: PTH120
        result = self._intake.accept(contents, source, seen.since_s)
        if result.retry_later:
            log.error("watched file %s not taken: %s", shown, one_line(result.why))
            return False
        if result.stored:
            self._missed.slice_came(path)
        else:
            self._missed.forget(path)
            self._refused.append((path, result.why))
            unnamed = result.missing and not self._intake.not_taken(contents, source)
            if unnamed and may_be_cut_off(contents):
                self._missed.not_taken(path, time.monotonic())
        with self._guard(path, state):
            # If it can't be written down, the next scan finds the file again.
            self._taken.add(path, state, sha256)
            self._logged_busy = False
        return True

    def _is_no_loss(self, path: str, seen: _SeenFile, error: OSError) -> bool:
        """Whether no series lacks a file that can't be read, or its folder still waits for it."""
        may_be_slice = self._missed.may_be_slice(path)
        if isinstance(error, FileNotFoundError):
            self._missed.forget(path)
            if may_be_slice:
                self._refused.append((path, "it is gone before it was read"))
            return not may_be_slice
        now_s = time.monotonic()
        if self._missed.may_be_free_soon(path, now_s):
            # Its folder stays busy, and it is tried again soon.
            self._pending[path] = _SeenFile(seen.state, now_s)
        elif self._missed.give_up(path):
            log.warning(
                "watched file %s can't be read: %s; limn tries at each rescan%s. Let the user of "
                "limn read it, or move it away",
                one_line(path),
                error.strerror,
                ", and a series of this folder that came with it waits for it (settle.hold_s)"
                if may_be_slice
                else "; it is not named as slices are, so no series waits for it",
            )
        return not may_be_slice or self._missed.holds_up(path)

    def _log_refused(self) -> None:
        """A line for each file, or for each reason if many files are refused at one moment."""
        many = len(self._refused) > MANY_REFUSED
        lines = counted(self._refused) if many else [(1, *each) for each in self._refused]
        for count, path, why in lines:
            also = f", and {count - 1} more files of this kind" if count > 1 else ""
            log.error("watched file %s refused: %s%s", one_line(path), one_line(why), also)

    def _leave(self, path: str, why: str, now_s: float) -> None:
        if path in self._left_alone or len(self._left_alone) >= MAX_LOGGED:
            return
        self._left_alone.add(path)
        self._missed.not_taken(path, now_s)
        log.warning("watched file %s left alone: %s", one_line(path), why)

    def _source(self, folder: str) -> Source:
        sender = f"folder {one_line(folder)}"
        return Source(f"watch-{folder}", sender, self._settings.settle_s, is_folder=True)

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
