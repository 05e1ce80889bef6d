"""The watched folder: files that appear in it go through the same intake as C-STORE.

Notifications make it fast; a rescan makes it reliable, because shares (SMB, NFS) send none. A file
is taken once its size and time have not changed for ``settle_s``. A folder ends as an association
does once it was listed again and nothing new lay there (D-257). The folder is only read, and
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
from functools import partial
from pathlib import Path

from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

from limn.dicom.folder import counted
from limn.dicom.instance import may_be_cut_off
from limn.domain.folders import not_a_folder
from limn.domain.one_line import one_line
from limn.node.config import Watch
from limn.node.receive.folder.changes import Changes
from limn.node.receive.folder.fed_folders import FedFolders
from limn.node.receive.folder.missed_files import MAX_LOGGED, MissedFiles, folders_of
from limn.node.receive.folder.taken_files import FileState, TakenFiles
from limn.node.receive.folder.unlinked import FoundFile, UnlinkedFolder, not_listed
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
        self._fed = FedFolders(settings.settle_s)
        self._pending: dict[str, _SeenFile] = {}
        # Files that could not be taken: the next scan of the whole tree tries them again.
        self._put_off: set[str] = set()
        # Slices that were gone before they were read, of those that had settled.
        self._gone: set[str] = set()
        self._changes = Changes(str(settings.folder))
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
        changed = self._changes.take()
        # Which files are one image only the whole tree shows.
        whole = changed is None or (changed and self._images is not None)
        if whole or now_s >= self._next_scan_s:
            self._scan(now_s)
            ended_s = time.monotonic()
            # A tree that takes longer than rescan_s to list is not listed all the time.
            self._next_scan_s = max(now_s + self._settings.rescan_s, 2 * ended_s - now_s)
        else:
            for folder, deep in (changed or {}).items():
                self._list(folder, deep=deep)
        self._take_settled(time.monotonic())
        self._end_quiet(time.monotonic())

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
                # Its folders are like open associations until it is back.
                for folder in self._fed.hold():
                    self._intake.source_goes_on(self._source(folder))
            self._reachable = False
            self._stop_observer()
            return
        if not self._reachable:
            log.info("watched folder %s is back", one_line(self._settings.folder))
            self._reachable = True
            self._fed.go_on(now_s)
        self._start_observer()
        self._put_off.clear()
        self._taken.whole_scan_begins()
        files: Iterable[FoundFile] = self._folder.files()
        if self._images is not None:
            files = self._images.look(list(files), now_s)
        for found in files:
            self._note_guarded(found)

    def _list(self, folder: str, *, deep: bool = False) -> bool:
        """Look for new files in one folder; False if the share is gone, which the scan says."""
        try:
            files: Iterable[FoundFile] = self._folder.files_of(folder, deep=deep)
            if self._images is not None:
                files = self._images.others(list(files))
            for found in files:
                self._note_guarded(found)
        except OSError as error:
            try:
                self._folder.check()
            except OSError:
                self._next_scan_s = 0.0
                return False
            if not isinstance(error, FileNotFoundError | NotADirectoryError):
                self._leave(folder, not_listed(error), time.monotonic())
                self._fed.fed(folder)
                self._fed.lacks(folder, folder)
        return True

    def _note_guarded(self, found: FoundFile) -> None:
        with self._guard(found.path, found.state):
            # Not when the listing began: that of a large share takes longer than settle_s.
            self._note(found, time.monotonic())

    def _note(self, found: FoundFile, now_s: float) -> None:
        """Wait for a file to settle, if it was not taken before."""
        if found.why_left:
            self._leave(found.path, found.why_left, now_s)
            return
        if found.path in self._put_off:
            return
        if self._surprises.get(found.path) == found.state or self._taken.has(
            found.path, found.state
        ):
            self._pending.pop(found.path, None)
            return
        seen = self._pending.get(found.path)
        if seen is None or seen.state != found.state:
            self._pending[found.path] = _SeenFile(found.state, now_s)
            folder = os.path.dirname(found.path)  # noqa: PTH120 - names that are no UTF-8
            if self._missed.holds_up(found.path):
                self._fed.changed(folder, now_s)
            if seen is None and self._taken.sha256_of(found.path):
                # Its series has the first content: it waits for what comes of this file.
                self._intake.source_goes_on(self._source(folder))
                self._fed.fed(folder)

    @contextmanager
    def _guard(self, path: str, state: FileState) -> Iterator[None]:
        """Log an error that nobody expected with the file's name; the watch goes on without it."""
        try:
            yield
        except sqlite3.OperationalError as error:
            # A full disk or a lock passes, and the next scan finds the file again.
            self._put_off.add(path)
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
        self._refused.clear()
        self._gone.clear()
        for path, seen in settled:
            del self._pending[path]
            taken = False
            with self._guard(path, seen.state):
                taken = self._take(path, seen)
            folder = os.path.dirname(path)  # noqa: PTH120 - names that are no UTF-8
            self._fed.fed(folder)
            if taken:
                self._fed.lacks_no_more(folder, path)
            elif path not in self._gone:
                self._put_off.add(path)
                self._fed.lacks(folder, path)
        # While others come, a file that is gone may be one of them under its new name.
        for folder in folders_of(self._gone) - self._busy():
            self._fed.lacks(folder)
        self._log_refused()

    def _busy(self) -> set[str]:
        """Folders with files that are still being written: each is like an open association."""
        return folders_of(path for path in self._pending if self._missed.holds_up(path))

    def _end_quiet(self, now_s: float) -> None:
        """End the folders in which nothing is new, as another listing of each shows."""
        if not self._reachable:
            return
        for folder in self._fed.quiet(self._busy(), now_s):
            began_s = time.monotonic()
            if not self._list(folder) or self._fed.has_changed(folder, began_s):
                continue
            lacking = self._fed.end(folder)
            aborted = (
                folder in self._missed.folders_that_lack(now_s)
                or "" in lacking
                or any(map(os.path.lexists, lacking))
            )
            with self._guard(folder, FileState(0, 0)):
                self._intake.association_ended(self._source(folder).key, aborted=aborted)

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
            self._changes.note(os.path.dirname(path))  # noqa: PTH120
            return True
        except OSError as error:
            return self._is_no_loss(path, seen, error)
        sha256 = hashlib.sha256(contents).hexdigest()
        if self._taken.is_same(path, state, sha256) or self._taken.was_moved(path, state, sha256):
            # Its rights or its name were changed.
            self._taken.add(path, state, sha256)
            return True
        source = self._source(os.path.dirname(path))  # noqa: PTH120
        accept = partial(self._intake.accept, contents, source, seen.since_s)
        before = self._taken.sha256_of(path)
        result = accept(replaced_sha256=before) if before else accept()
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
            # Some shares list what they can't open.
            self._put_off.add(path)
            if may_be_slice:
                self._gone.add(path)
                self._refused.append((path, "it is gone before it was read"))
            return not may_be_slice
        now_s = time.monotonic()
        if self._missed.may_be_free_soon(path, now_s):
            # Its folder stays busy, and it is tried again soon.
            self._pending[path] = _SeenFile(seen.state, now_s)
            return True
        self._put_off.add(path)
        if self._missed.give_up(path):
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
            observer.schedule(self._changes, str(self._settings.folder), recursive=True)
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
