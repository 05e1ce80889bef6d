"""Hundreds of series to an output folder, resumable: what is done is not done again.

They run on the workers of a running node, behind every live scan, or in this process on one warm
ensemble. What became of a series stands beside its structure set, in ``limn.json``, and nowhere
else, so that a run may begin with a node and go on without one. Nothing of it is ever sent.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from limn.dicom.instance import input_digest
from limn.domain.errors import ConfigWrong, RefusedSeries
from limn.domain.files import write_durably
from limn.domain.folders import writable
from limn.node.batch.find_series import (
    FoundSeries,
    ReadSeries,
    find_series,
    holds_only_folders,
    read_series,
)
from limn.node.batch.notes import NOTE, TABLE, Note, write_table
from limn.node.batch.one_folder import contour_folder, site_config
from limn.node.config import Config
from limn.node.contour.job import Job, Result
from limn.node.contour.site_bundle import label_of
from limn.node.contour.worker import contour_here, warm_up
from limn.node.host.doorbell import engine_runs, send_wake
from limn.node.store.journal import Journal
from limn.node.store.remedies import retry_command
from limn.node.store.rows import Arrived, ScanRow
from limn.node.store.schema import COHORT
from limn.segment.bundle.bundle import Bundle, open_bundle

# Scans that wait in a node's journal; enough for any host's GPUs, and little to leave behind.
AHEAD = 16
POLL_S = 0.5
# The engine writes the picture after the structure set.
PICTURE_S = 10.0
# A process that died so often over one series leaves it out from then on.
DEATHS = 3


def contour_folders(
    folders: Sequence[Path], out: Path, bundle: Path | None, config_path: Path | None
) -> bool:
    """Contour one folder as `contour_folder` does, or every series of many into ``out``.

    Returns
    -------
    Whether every series was contoured, now or before.

    Raises
    ------
    ConfigWrong
        If a folder is none, or ``out`` can't be written.
    RefusedSeries
        If there is one folder and its one series can't be contoured, or there is no series.
    """
    for folder in folders:
        if not folder.is_dir():
            msg = f"{folder} is no folder"
            raise ConfigWrong(msg)
    writable(out)
    config = site_config(out, bundle, config_path)
    # What a file is named is text, never markup.
    console = Console(markup=False, highlight=False)
    if len(folders) == 1 and not holds_only_folders(folders[0]):
        contour_folder(folders[0], out, bundle, config_path)
        return True
    found = find_series(folders, out, console)
    if len(folders) == 1 and len(found) < 2:
        contour_folder(folders[0], out, bundle, config_path)
        return True
    if not found:
        msg = f"no CT image below {', '.join(map(str, folders))}"
        raise RefusedSeries(msg)
    try:
        return _Run(found, out, config, config_path, console).run()
    except OSError as error:
        msg = (
            f"{error.filename or out}: {error.strerror}; mend that and give the same command "
            "again, it goes on where it was"
        )
        raise ConfigWrong(msg) from error


class _Run:
    """One call of ``limn contour DIR...``."""

    def __init__(
        self,
        found: Sequence[FoundSeries],
        out: Path,
        config: Config,
        config_path: Path | None,
        console: Console,
    ) -> None:
        self._found = found
        self._out = out
        self._config = config
        self._config_path = config_path
        self._console = console
        self._bundle: Bundle = open_bundle(config.model.bundle)
        self._notes: dict[str, Note] = {}
        self._skipped = 0

    def run(self) -> bool:
        """Contour what is not done, then say what became of everything."""
        open_series = [each for each in self._found if not self._is_done(each)]
        self._skipped = len(self._found) - len(open_series)
        node = self._config_path is not None and engine_runs(self._config)
        if node:
            self._console.print("the node contours them, behind every live scan")
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
        ) as bars:
            bar = bars.add_task("contouring", total=len(self._found), completed=self._skipped)

            def say(text: str, done: int = 0) -> None:
                bars.update(bar, description=text, advance=done)

            if open_series and node:
                self._on_the_node(open_series, say)
            elif open_series:
                self._here(open_series, say)
        return self._summary()

    def _is_done(self, series: FoundSeries) -> bool:
        note = self._note_of(series)
        if note is None:
            return False
        if note.outcome == "quarantined" and not self._lifted(note):
            self._notes[series.name] = note
            return True
        done = note.outcome == "contoured" and (self._out / series.name / "RS.dcm").is_file()
        if done:
            self._notes[series.name] = note
        return done

    def _lifted(self, note: Note) -> bool:
        """Whether `limn retry` let a scan of the node run again."""
        if "scan" not in note.record or not self._config.journal_path.exists():
            return False
        with closing(Journal(self._config.journal_path)) as journal:
            try:
                return journal.scan(int(note.record["scan"])).state != "quarantined"
            except LookupError:
                return True

    def _note_of(self, series: FoundSeries) -> Note | None:
        """What an earlier run says of these very files and this bundle."""
        try:
            note = Note(**json.loads((self._out / series.name / NOTE).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        now = (series.series_instance_uid, series.fingerprint, self._bundle.sha256)
        then = (note.series_instance_uid, note.fingerprint, note.bundle_sha256)
        return note if now == then else None

    def _begin(self, series: FoundSeries) -> Note:
        before = self._note_of(series)
        return Note(
            series=series.name,
            series_instance_uid=series.series_instance_uid,
            fingerprint=series.fingerprint,
            bundle_sha256=self._bundle.sha256,
            outcome="begun",
            begun=before.begun if before is not None and before.outcome == "begun" else 0,
        )

    def _write(self, note: Note) -> None:
        self._notes[note.series] = note
        folder = self._out / note.series
        folder.mkdir(parents=True, exist_ok=True)
        write_durably(folder / NOTE, json.dumps(asdict(note), indent=1).encode())

    def _arrived(self, series: FoundSeries, what: ReadSeries) -> Arrived:
        first = next(iter(what.instances.values()))
        folder = Path(os.path.commonpath([path.parent for path in what.instances]))
        now = datetime.now(UTC).astimezone()
        return Arrived(
            series_instance_uid=series.series_instance_uid,
            input_digest=input_digest(what.instances.values()),
            bundle_sha256=self._bundle.sha256,
            # Of its own, so that the same series sent to the node is a scan of its own.
            profile=f"{self._config.planning_system.profile} cohort",
            study_instance_uid=first.study_instance_uid,
            animal=first.animal,
            sender=f"folder {folder}",
            folder=str(folder),
            files=tuple(path.relative_to(folder).as_posix() for path in what.instances),
            receive_s=0.0,
            settle_s=0.0,
            last_slice_at=time.time(),
            ready_at=time.time(),
            date=now.strftime("%Y%m%d"),
            time=now.strftime("%H%M%S"),
            priority=COHORT,
        )

    def _prepare(self, series: FoundSeries) -> tuple[Note, Arrived | None]:
        """Its note and what is to be contoured; None, and the note is written, if nothing is."""
        note = self._begin(series)
        try:
            what = read_series(series)
        except RefusedSeries as error:
            note = replace(note, outcome="refused", reason=str(error))
            self._write(note)
            return note, None
        arrived = self._arrived(series, what)
        return replace(note, animal=arrived.animal, left_out=what.left_out), arrived

    def _here(self, open_series: Sequence[FoundSeries], say: Callable[..., None]) -> None:
        """In this process, on one warm ensemble."""
        say("loading the ensemble")
        warm = warm_up(self._config)
        label = label_of(self._config, self._bundle)
        for series in open_series:
            say(series.name)
            note, arrived = self._prepare(series)
            if arrived is not None and note.begun >= DEATHS:
                reason = (
                    f"limn died {note.begun} times while it ran this series; to try it once more "
                    f"remove {self._out / series.name / NOTE}"
                )
                self._write(replace(note, outcome="quarantined", reason=reason))
            elif arrived is not None:
                self._write(replace(note, begun=note.begun + 1))
                sop_uid, series_uid = arrived.structure_set_uids
                job = Job(
                    scan=0,
                    animal=arrived.animal,
                    paths=tuple(str(Path(arrived.folder) / name) for name in arrived.files),
                    model=self._config.model,
                    planning_system=self._config.planning_system,
                    sop_instance_uid=sop_uid,
                    series_instance_uid=series_uid,
                    date=arrived.date,
                    time=arrived.time,
                    predecessor_uid="",
                    deadline_s=self._config.engine.deadline_s,
                )
                try:
                    self._file(note, contour_here(job, label, warm))
                except KeyboardInterrupt:
                    # It did not die of this series.
                    self._write(note)
                    raise
            say(series.name, 1)

    def _file(self, note: Note, result: Result) -> None:
        if result.ended:
            self._write(replace(note, outcome=result.ended, reason=result.reason))
            return
        folder = self._out / note.series
        write_durably(folder / "RS.dcm", result.structure_set)
        (folder / "picture.png").write_bytes(result.picture)
        self._write(replace(note, outcome="contoured", held=result.held, record=result.record))

    def _on_the_node(self, open_series: Sequence[FoundSeries], say: Callable[..., None]) -> None:
        """On the node's workers; a few wait there at a time, and any live scan goes before them."""
        waiting = list(reversed(open_series))
        running: dict[int, Note] = {}
        with closing(Journal(self._config.journal_path)) as journal:
            while waiting or running:
                if waiting and len(running) < AHEAD:
                    series = waiting.pop()
                    note, arrived = self._prepare(series)
                    if arrived is None:
                        say(series.name, 1)
                    else:
                        running[_enqueue(journal, arrived).id] = note
                        send_wake(self._config)
                else:
                    time.sleep(POLL_S)
                for scan_id, note in list(running.items()):
                    row = journal.scan(scan_id)
                    if row.state != "ready":
                        del running[scan_id]
                        self._collect(journal, note, row)
                        say(note.series, 1)
                if not engine_runs(self._config):
                    say("the node is stopped; this goes on when it starts")

    def _collect(self, journal: Journal, note: Note, row: ScanRow) -> None:
        record = {**row.record, "scan": row.id}
        if row.state != "contoured":
            reason = row.reason
            if row.state == "quarantined" and self._config_path is not None:
                reason += f"; then: {retry_command(row, self._config_path)}"
            self._write(replace(note, outcome=row.state, reason=reason, record=record))
            return
        folder = self._out / note.series
        folder.mkdir(parents=True, exist_ok=True)
        path = Path(journal.structure_set_of(row.id).path)
        try:
            write_durably(folder / "RS.dcm", path.read_bytes())
            _copy_picture(path.with_name("picture.png"), folder)
        except OSError as error:
            self._write(replace(note, outcome="failed", reason=f"{path}: {error.strerror}"))
            return
        held = row.record.get("held")
        self._write(replace(note, outcome="contoured", held=held, record=record))

    def _summary(self) -> bool:
        """The table of everything, and what somebody should look at."""
        notes = [self._notes[each.name] for each in self._found if each.name in self._notes]
        write_table(self._out / TABLE, notes)
        contoured = [note for note in notes if note.outcome == "contoured"]
        bad = [note for note in notes if note.outcome != "contoured"]
        say = self._console.print
        for note in notes:
            for line in note.left_out:
                say(f"{note.series}: left out {line}", soft_wrap=True)
            if note.held is not None:
                say(f"{note.series}: LOOK at picture.png: {note.held}", soft_wrap=True)
        for note in bad:
            why = next(reversed(note.reason.strip().splitlines()), "")
            say(f"{note.series}: {note.outcome.upper()}: {why}", soft_wrap=True)
        say(
            f"{len(contoured)} of {len(self._found)} series contoured"
            f"{f', {self._skipped} of them before' if self._skipped else ''}"
            f"{f', {len(bad)} not' if bad else ''}; table in {self._out / TABLE}",
            soft_wrap=True,
        )
        return not bad


def _enqueue(journal: Journal, arrived: Arrived) -> ScanRow:
    """The scan of a series in the node's journal; what was refused or failed runs again."""
    row = journal.insert(arrived, ()) or journal.find(arrived)
    if row is None:
        msg = f"the journal took no series {arrived.series_instance_uid}"
        raise LookupError(msg)
    if row.state in ("refused", "failed"):
        journal.retry(row.id, time.time())
    return row


def _copy_picture(picture: Path, folder: Path) -> None:
    give_up_s = time.monotonic() + PICTURE_S
    while not picture.exists() and time.monotonic() < give_up_s:
        time.sleep(POLL_S / 5)
    if picture.exists():
        shutil.copyfile(picture, folder / "picture.png")
