"""Has each structure set that came back measured while live scans leave the host alone (D-262).

A thread of the engine looks at ``data_dir/returned``, where the receiver keeps them, and starts one
process after the other. The first slice of a live scan ends the process; it is started again when
the scan is done.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from limn.domain.files import OWNER_ONLY_FILE, write_durably
from limn.domain.one_line import one_line
from limn.node import oplog
from limn.node.config import Config
from limn.node.contour.edits.drifts import drifts_of
from limn.node.contour.edits.request import (
    DISK_FULL,
    EditAnswer,
    EditRequest,
    picture_name,
    read_answer,
)
from limn.node.heartbeat import for_thread
from limn.node.permissions import make_private_folder
from limn.node.store.journal.edits.rows import ReturnedRow, ReturnedState
from limn.node.store.journal.edits.words import drift_words, edit_words, picture_of
from limn.node.store.journal.journal import Journal
from limn.node.store.journal.reader import JournalReader
from limn.node.store.journal.schema import JournalError
from limn.node.store.lull import Lull
from limn.node.store.remedies import fault_notice
from limn.node.surprises import Surprises

log = logging.getLogger(__name__)

# Between two looks: while a process measures a live scan must not wait for the next one.
LOOK_S, MEASURING_LOOK_S = 1.0, 0.05
# A process that measures is ended after this time.
LONGEST_S = 600.0
# A journal that is locked, or a full disk, may take so long.
SILENT_S = 60.0
# A file may end so many processes.
DEATHS = 2
# The name of a file that another program writes here is no structure set that came back.
_ENDING = ".dcm"
# So many files are entered at one look.
MOST_NEW = 500
_MODULE = "limn.node.contour.edits.measure"


@dataclass(frozen=True, slots=True)
class _Measuring:
    row: ReturnedRow
    child: subprocess.Popen[bytes]
    until_s: float


class EditWatch:
    """Measures what came back; `run` belongs to a thread of the engine."""

    def __init__(
        self, config: Config, journal: Journal, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = config.returned
        self._folder = config.returned_dir
        self._work_dir = config.edits_dir
        self._results_dir = config.results_dir
        self._journal = journal
        self._clock = clock
        # A process of the lowest priority may run beside a cohort, which takes days.
        self._lull = Lull(config, journal, clock, cohorts=False)
        self._measuring: _Measuring | None = None
        self._seen: tuple[int, int] | None = None
        # Once at a start: the settings may be others. Then after what was measured, when nothing
        # waits: a look reads all edits.
        self._drift_is_due = True
        self._surprises = Surprises()
        self._heart = for_thread("edits", SILENT_S)

    def run(self, stopping: Event) -> None:
        """Look until the node stops; what is being measured then is begun again."""
        while not stopping.wait(MEASURING_LOOK_S if self._measuring else LOOK_S):
            self._heart.beat()
            self._work_guarded()
        self._stop()
        self._heart.end()

    def _stop(self) -> None:
        """End what runs; it is measured after the next start."""
        if (measuring := self._measuring) is not None:
            self._end_child()
            # A journal that can't be written keeps one try too many.
            with suppress(JournalError):
                self._journal.not_measured(measuring.row.id)

    def _work_guarded(self) -> None:
        if self._surprises.rests(self):
            return
        try:
            self.work()
        except Exception as error:
            # Nobody's scan waits for it: neither a full disk nor a fault ends the engine. Nothing
            # runs while it rests, because nobody looks whether a scan comes.
            self._stop()
            if self._surprises.note(self, error):
                is_of_disk = isinstance(error, OSError)
                log.error(
                    "what came back is not measured; it is tried again: %s",
                    one_line(error) if is_of_disk else fault_notice(error, self._journal.path),
                    exc_info=None if is_of_disk else error,
                )
        else:
            # What was begun may still end as it did before.
            if self._measuring is None:
                self._surprises.is_over(self)

    def work(self) -> None:
        """Begin, end or file the measurement of one structure set."""
        if self._settings.keep == "files":
            self._forget_drift()
            return
        busy = bool(self._lull.broken_by())
        if self._measuring is not None:
            self._look_after(self._measuring, busy=busy)
        elif not busy:
            self._enter_new()
            if waiting := self._journal.returned_files(ReturnedState.WAITING, most=1):
                self._begin(waiting[0])
            elif self._drift_is_due:
                self._look_for_drift()

    def _enter_new(self) -> None:
        """Enter files that the journal does not know; the folder tells whether it changed."""
        try:
            state = self._folder.stat()
            seen = (state.st_mtime_ns, state.st_ino)
            # A file that came within the clock's step of the last look would be missed.
            if seen == self._seen and time.time() - state.st_mtime > 2 * LOOK_S:
                return
            with os.scandir(self._folder) as entries:
                names = {each.name for each in entries if each.name.endswith(_ENDING)}
        except FileNotFoundError:
            return
        unknown = names - self._journal.known_returned()
        new: dict[str, float] = {}
        # A transaction of the whole folder would let the receiver wait.
        while unknown and len(new) < MOST_NEW:
            new |= _times_of(self._folder / unknown.pop())
        if new:
            self._journal.enter_returned(new)
        if self._settings.keep == "figures":
            # What came again, or was measured before the site chose this. Nothing else: it may be
            # a planning system's only copy.
            for name in names & self._journal.known_returned(ReturnedState.MEASURED):
                self._remove(name)
        if not unknown:
            self._seen = seen

    def _begin(self, row: ReturnedRow) -> None:
        path = self._folder / row.file
        if not path.is_file():
            reason = "the file was removed before it was measured"
            self._file(row, EditAnswer(state=ReturnedState.FAILED, reason=reason))
            return
        shutil.rmtree(self._work_dir, ignore_errors=True)
        make_private_folder(self._work_dir)
        EditRequest(
            file=str(path),
            journal=str(self._journal.path),
            results_dir=str(self._results_dir),
            picture=self._settings.keep == "all",
            editors=self._settings.editors and self._settings.keep == "all",
        ).write(self._work_dir)
        self._journal.measuring(row.id)
        command = [sys.executable, "-m", _MODULE, str(self._work_dir)]
        child = subprocess.Popen(command, stdin=subprocess.PIPE)  # noqa: S603 - its own
        self._measuring = _Measuring(row, child, self._clock() + LONGEST_S)

    def _look_after(self, measuring: _Measuring, *, busy: bool) -> None:
        row, child = measuring.row, measuring.child
        ended = child.poll() is not None
        late = self._clock() >= measuring.until_s
        if not (ended or late or busy):
            return
        self._end_child()
        if busy and not ended:
            self._journal.not_measured(row.id)
            return
        if ended and child.returncode == DISK_FULL:
            self._journal.not_measured(row.id)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._work_dir.parent))
        answer = read_answer(self._work_dir) if ended and child.returncode == 0 else None
        if answer is None and row.tries + 1 < DEATHS and not late:
            return
        why = f"it took longer than {LONGEST_S:g} s" if late else "the process that read it died"
        self._file(row, answer or EditAnswer(state=ReturnedState.FAILED, reason=why))

    def _end_child(self) -> None:
        if self._measuring is not None:
            child, self._measuring = self._measuring.child, None
            if child.poll() is None:
                child.kill()
            child.wait()
            if child.stdin is not None:
                child.stdin.close()

    def _file(self, row: ReturnedRow, answer: EditAnswer) -> None:
        """Write what was found: pictures first, so that the journal names none that is lost."""
        for scan in answer.edits:
            made = self._work_dir / picture_name(scan)
            folder = self._results_dir / f"scan-{scan:05d}"
            if made.is_file() and folder.is_dir():
                write_durably(folder / picture_of(row.file), made.read_bytes(), OWNER_ONLY_FILE)
        self._journal.measured(
            row.id, answer.state, answer.reason, answer.editor, answer.software, answer.edits
        )
        shutil.rmtree(self._work_dir, ignore_errors=True)
        if self._settings.keep == "figures" and answer.state is ReturnedState.MEASURED:
            self._remove(row.file)
        self._log(row, answer)
        self._drift_is_due |= bool(answer.edits)

    def _remove(self, name: str) -> None:
        (self._folder / name).unlink(missing_ok=True)

    def _log(self, row: ReturnedRow, answer: EditAnswer) -> None:
        if answer.state is ReturnedState.FAILED:
            log.warning("returned/%s can't be measured: %s", row.file, answer.reason)
        elif answer.state is not ReturnedState.MEASURED:
            log.info("returned/%s is not measured: %s", row.file, answer.reason)
        for edit in self._journal.edits(answer.edits):
            if edit.file == row.file:
                with oplog.about(scan=edit.name, animal=edit.animal):
                    log.info("%s animal %s came back: %s", edit.name, edit.animal, edit_words(edit))

    def _forget_drift(self) -> None:
        """A site that measures no more has nothing that could end an alarm."""
        if self._drift_is_due and self._journal.drifts():
            self._journal.enter_drifts(())
        self._drift_is_due = False

    def _look_for_drift(self) -> None:
        known = {(each.scanner, each.roi): each for each in self._journal.drifts()}
        count = self._settings.drift_count
        # A connection of its own: the engine's waits for nobody who reads all edits.
        with closing(JournalReader(self._journal.path)) as journal:
            edits = journal.edits()
        found = drifts_of(edits, count, known, time.time())
        self._journal.enter_drifts(found)
        self._drift_is_due = False
        for each in found:
            before = known.get((each.scanner, each.roi))
            if each.since is not None and (before is None or before.since is None):
                log.warning("%s", drift_words(each))


def _times_of(path: Path) -> dict[str, float]:
    """A file's name and when it came, UTC s; nothing for what is gone by now, or is no file."""
    try:
        found = path.stat()
    except OSError:
        return {}
    return {path.name: found.st_mtime} if stat.S_ISREG(found.st_mode) else {}
