"""Takes images of other formats from a watched folder: each, once whole, as a CT series (D-242).

One at a time is read, by a process of its own (`convert`). Its slices then go through the intake as
those of an association do. An image is noted as taken once the intake has the whole series, so that
after a kill at any moment it is taken again, and gives the same instances.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from limn.dicom.ct import SLICES
from limn.dicom.instance import uids_of_file
from limn.domain.one_line import one_line
from limn.node.config import Watch
from limn.node.dimse.status import OUT_OF_RESOURCES
from limn.node.permissions import make_private_folder
from limn.node.receive.folder.taken_files import FileState, TakenFiles
from limn.node.receive.folder.unlinked import FoundFile
from limn.node.receive.gathering import Source
from limn.node.receive.images.convert import SERIES, ImageAnswer, ImageRequest, read_answer
from limn.node.receive.images.image_files import ImageFiles, sort_files
from limn.node.receive.intake import Intake
from limn.node.receive.store_result import StoreResult
from limn.node.store.disk.receiving import ReceivingSeries
from limn.node.store.disk.spool import Spool
from limn.node.store.journal.schema import JournalBusy
from limn.node.surprises import fault

log = logging.getLogger(__name__)

# A process that reads an image is ended after this time.
LONGEST_S = 600.0
# So many processes may die of an image.
DEATHS = 2
# What a disk or a right kept from being read is tried again after this time.
LATER_S = 10.0
_MODULE = "limn.node.receive.images.convert"


@dataclass(slots=True)
class _Image:
    """An image that is not taken yet. Times: ``_s`` monotonic.

    Attributes
    ----------
    since_s, since_at : when its files last changed, as far as limn knows
    phase : "new"; "half": it can't be read as it is, and may be half a copy; "asked", "refused"
    not_before_s : it rests until then
    """

    files: ImageFiles
    since_s: float
    since_at: float
    phase: str = "new"
    why: str = ""
    deaths: int = 0
    not_before_s: float = 0.0


@dataclass(frozen=True, slots=True)
class _Conversion:
    image: _Image
    child: subprocess.Popen[bytes]
    until_s: float


class ImageWatch:
    """The images of one watched folder; `look`, `work` and `stop` belong to its thread.

    Parameters
    ----------
    hold_s : how long half a copy is waited for
    work_dir : in which one image after the other is made a CT series
    """

    def __init__(
        self,
        settings: Watch,
        intake: Intake,
        spool: Spool,
        taken: TakenFiles,
        hold_s: float,
        work_dir: Path,
    ) -> None:
        self._settings = settings
        self._intake = intake
        self._spool = spool
        self._taken = taken
        self._hold_s = hold_s
        self._work_dir = work_dir
        self._images: dict[str, _Image] = {}
        self._conversion: _Conversion | None = None
        self._shown: tuple[ReceivingSeries, ...] = ()
        shutil.rmtree(work_dir, ignore_errors=True)

    def look(self, found: Sequence[FoundFile], now_s: float) -> list[FoundFile]:
        """Note the images among the files of the folder; returns the files of none."""
        images, rest = sort_files(found, self._settings.formats)
        there = {each.key for each in images}
        for key in self._images.keys() - there:
            del self._images[key]
        for each in images:
            known = self._images.get(each.key)
            if self._taken.has(_memory(each), _state(each)):
                self._images.pop(each.key, None)
            elif known is None or known.files != each:
                self._images[each.key] = _Image(each, now_s, time.time())
        return rest

    def others(self, found: Sequence[FoundFile]) -> list[FoundFile]:
        """The files of one folder that belong to no image."""
        return sort_files(found, self._settings.formats)[1]

    def work(self, now_s: float, stopping: threading.Event) -> None:
        """Begin or end the reading of one image, and give up halves that nothing completes."""
        if self._conversion is not None:
            conversion = self._conversion
            if conversion.child.poll() is None and now_s < conversion.until_s:
                return
            self._conversion = None
            self._end(conversion, now_s, stopping)
        for image in self._images.values():
            self._wait_or_refuse(image, now_s)
        settled = (
            image
            for image in self._images.values()
            if image.phase == "new"
            and now_s >= max(image.not_before_s, image.since_s + self._settings.settle_s)
        )
        if (first := next(settled, None)) is not None:
            self._begin(first, now_s)
        self._shown = tuple(self._show(each) for each in self._images.values())

    def stop(self) -> None:
        """End the process that reads an image, if one does; it is read again after the start."""
        if self._conversion is not None:
            _end_child(self._conversion.child)
            self._conversion = None

    def shown(self) -> Sequence[ReceivingSeries]:
        """The images that are not taken yet, for people; from any thread."""
        return self._shown

    def _wait_or_refuse(self, image: _Image, now_s: float) -> None:
        if image.phase == "new" and image.files.lacks:
            image.phase, image.why = "half", f"{image.files.lacks} is not there"
        if image.phase == "half" and now_s - image.since_s >= self._hold_s:
            self._refuse(image, f"{image.why}; nothing of it has changed for {self._hold_s:g} s")

    def _refuse(self, image: _Image, why: str) -> None:
        image.phase, image.why = "refused", why
        log.error(
            "watched image %s refused: %s. It is read again once one of its files changes",
            one_line(image.files.key),
            one_line(why),
        )

    def _begin(self, image: _Image, now_s: float) -> None:
        files, settings = image.files, self._settings
        note = next((each for each in files.files if each.path == files.note), None)
        request = ImageRequest(
            folder=str(settings.folder),
            key=files.key,
            format=files.format,
            files=[_listed(each) for each in files.files if each is not note],
            note=[] if note is None else _listed(note),
            note_path=files.note,
            lie=settings.lie.get(files.format, ""),
            patient_id=self._named(image),
        )
        try:
            if short := self._shortage(files):
                self._later(image, short, now_s)
                return
            shutil.rmtree(self._work_dir, ignore_errors=True)
            make_private_folder(self._work_dir)
            request.write(self._work_dir)
            command = [sys.executable, "-m", _MODULE, str(self._work_dir)]
            child = subprocess.Popen(command, stdin=subprocess.PIPE)  # noqa: S603 - its own
        except OSError as error:
            self._later(image, f"{self._work_dir}: {error.strerror}", now_s)
            return
        self._conversion = _Conversion(image, child, now_s + LONGEST_S)

    def _shortage(self, files: ImageFiles) -> str:
        """Why the disk takes neither copies nor slices; empty if it does."""
        # Of a compressed file nobody knows the slices: the intake looks at the disk again.
        needed = 2 * sum(each.state.size for each in files.files)
        if self._spool.free_bytes() < self._spool.min_free_bytes + needed:
            return f"the disk of data_dir has no room for {needed // 2**20} MB; make room"
        return self._spool.shortage()

    def _end(self, conversion: _Conversion, now_s: float, stopping: threading.Event) -> None:
        """Act on what came of a process; whatever it is, other images and files go on."""
        image, child = conversion.image, conversion.child
        _end_child(child)
        answer = read_answer(self._work_dir) if child.returncode == 0 else None
        try:
            if answer is None:
                self._died(image, child.returncode)
            else:
                self._answered(image, answer, now_s, stopping)
        except JournalBusy as error:
            # Of the memory of what was taken: a full disk or a lock passes.
            why = f"limn can't write down that it was taken ({error}); make room on the disk"
            self._later(image, why, now_s)
        except Exception as error:
            log.exception("watched image %s", one_line(image.files.key))
            self._refuse(image, f"{fault(error)}; please report it")
        finally:
            shutil.rmtree(self._work_dir, ignore_errors=True)

    def _died(self, image: _Image, code: int) -> None:
        image.deaths += 1
        if image.deaths >= DEATHS:
            self._refuse(
                image,
                f"{DEATHS} processes that read it ended without an answer, the last with code "
                f"{code}; it is damaged, or needs more memory than is free",
            )

    def _answered(
        self, image: _Image, answer: ImageAnswer, now_s: float, stopping: threading.Event
    ) -> None:
        if self._images.get(image.files.key) is not image or answer.kind == "changed":
            # The next look finds what it is now.
            self._images.pop(image.files.key, None)
        elif answer.kind == "none":
            log.info("watched folder %s has projections, no sections", one_line(image.files.key))
            self._note_taken(image, answer)
        elif answer.kind == "later":
            self._later(image, answer.why, now_s)
        elif answer.kind == "refused":
            image.phase, image.why = "half", answer.why
        elif answer.kind == "asked":
            image.phase, image.why = "asked", answer.why
            log.error("watched image %s waits: %s", one_line(image.files.key), answer.why)
        elif self._taken.is_same(_memory(image.files), _state(image.files), answer.sha256):
            # Its rights or its name were changed.
            self._note_taken(image, answer)
        elif (result := self._take(image, answer, stopping)).stored:
            self._note_taken(image, answer)
        elif result.retry_later:
            self._later(image, result.why, now_s)
        else:
            # Its slices would be refused each time.
            self._refuse(image, result.why)

    def _later(self, image: _Image, why: str, now_s: float) -> None:
        if why != image.why:
            log.error("watched image %s not taken: %s; tried again", one_line(image.files.key), why)
        image.why, image.not_before_s = why, now_s + LATER_S

    def _take(self, image: _Image, answer: ImageAnswer, stopping: threading.Event) -> StoreResult:
        """Give the slices to the intake; what became of the first that it did not take."""
        key = image.files.key
        folder = key if image.files.format == "skyscan" else str(Path(key).parent)
        sender = f"folder {one_line(folder)}"
        source = Source(f"image-{key}", sender, self._settings.settle_s)
        series, result = "", StoreResult()
        try:
            series, result = self._give(source, image.since_s, stopping)
        except OSError as error:
            why = f"{one_line(error.filename or self._work_dir)}: {error.strerror}"
            result = StoreResult(OUT_OF_RESOURCES, why)
        except Exception:
            # The series must not wait for more of it.
            self._intake.association_ended(source.key, aborted=True)
            raise
        self._intake.association_ended(source.key, aborted=not result.stored)
        if result.stored:
            log.info(
                "watched image %s is CT series %s, %d slices, animal %s",
                one_line(key),
                series,
                answer.slices,
                one_line(answer.animal),
            )
        return result

    def _give(
        self, source: Source, arrived_s: float, stopping: threading.Event
    ) -> tuple[str, StoreResult]:
        """UID of the series, and what became of the first slice that was not taken."""
        series = ""
        for path in sorted((self._work_dir / SERIES).glob(SLICES)):
            if stopping.is_set():
                return series, StoreResult(OUT_OF_RESOURCES, "the node stops")
            contents = path.read_bytes()
            result = self._intake.accept(contents, source, arrived_s)
            if not result.stored:
                return series, result
            if not series and (uids := uids_of_file(contents)) is not None:
                # Before it can be complete: then the couriers must know that limn made it.
                series = uids[0]
                self._spool.mark_made(series)
        return series, StoreResult()

    def _note_taken(self, image: _Image, answer: ImageAnswer) -> None:
        self._taken.add(_memory(image.files), _state(image.files), answer.sha256)
        self._images.pop(image.files.key, None)

    def _named(self, image: _Image) -> str:
        """The PatientID that the site's rule gives; empty if a note must say it."""
        files = image.files
        names = {"name": files.name, "folder": files.folder_name, "note": ""}
        return names[self._settings.patient_id]

    def _show(self, image: _Image) -> ReceivingSeries:
        waits_for, until_s = "its last change to be some seconds ago, and to be read", None
        if self._conversion is not None and self._conversion.image is image:
            waits_for = "its CT series, which is being made"
        elif image.phase == "half":
            waits_for = f"the rest of it: {image.why}"
            until_s = image.since_s + self._hold_s
        elif image.why:
            waits_for = image.why if image.phase == "new" else f"{image.phase}: {image.why}"
            if image.phase == "refused":
                waits_for += "; mend it, or move it out of the folder"
        until_at = None if until_s is None else image.since_at + until_s - image.since_s
        return ReceivingSeries(
            animal=self._named(image),
            sender=f"image {one_line(image.files.key)}",
            series_instance_uid="",
            since_utc=_utc(image.since_at),
            slices=0,
            expected=None,
            waits_for=waits_for,
            until_utc="" if until_at is None else _utc(until_at),
            light="red" if image.phase in ("asked", "refused") else "",
        )


def _memory(files: ImageFiles) -> str:
    """By what name an image is remembered: its file may be taken as DICOM under its own."""
    return f"image {files.key}"


def _state(files: ImageFiles) -> FileState:
    """The state of all files of an image as that of one."""
    sizes = [(each.path, each.state.size, each.state.modified_ns) for each in files.files]
    changes = [each.state.changed_ns for each in files.files]
    size = sum(each.state.size for each in files.files)
    return FileState(size, _number(sizes), _number(changes))


def _number(listed: object) -> int:
    """A number of 63 bits, as SQLite takes it."""
    digest = hashlib.sha256(repr(listed).encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _listed(found: FoundFile) -> tuple[str, int, int, int]:
    state = found.state
    return found.path, state.size, state.modified_ns, state.changed_ns


def _end_child(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        child.kill()
    child.wait()
    if child.stdin is not None:
        child.stdin.close()


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(round(seconds), UTC).isoformat(timespec="seconds")
