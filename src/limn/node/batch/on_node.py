"""Series contoured by the workers of a running node, behind every live scan."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from limn.domain.files import write_durably
from limn.node.batch.find_series import FoundSeries
from limn.node.batch.notes import Note, Notes
from limn.node.config import Config
from limn.node.host.doorbell import engine_runs, send_wake
from limn.node.store.journal.journal import Journal
from limn.node.store.journal.rows import Arrived, ScanRow
from limn.node.store.remedies import retry_command

# Scans that wait in a node's journal; enough for any host's GPUs, and little to leave behind.
AHEAD = 16
POLL_S = 0.5
# The engine writes the picture after the structure set.
PICTURE_S = 10.0


def contour_series(
    found: Sequence[FoundSeries],
    notes: Notes,
    config: Config,
    config_path: Path,
    report: Callable[..., None],
) -> None:
    """Let the node contour the series; ``report`` as in `here.contour_series`."""
    waiting = list(reversed(found))
    running: dict[int, Note] = {}
    with closing(Journal(config.journal_path)) as journal:
        while waiting or running:
            if waiting and len(running) < AHEAD:
                series = waiting.pop()
                note, arrived = notes.begin(series)
                if arrived is None:
                    report(series.name, 1)
                else:
                    running[_enqueue(journal, arrived).id] = note
                    send_wake(config)
            else:
                time.sleep(POLL_S)
            for scan_id, note in list(running.items()):
                animals = journal.animals_of(scan_id)
                if all(row.state != "ready" for row in animals):
                    del running[scan_id]
                    # The note of the first animal comes last: it says that the series is done.
                    for row in reversed(animals):
                        own = note
                        if row.animal_number > 1:
                            own = notes.of_animal(note, row.animal_number)
                        folder = notes.folder(own.series)
                        notes.write(_collect(journal, row, own, folder, config_path))
                    report(note.series, 1)
            if not engine_runs(config):
                report("the node is stopped; this goes on when it starts")


def _enqueue(journal: Journal, arrived: Arrived) -> ScanRow:
    """The scan of a series in the node's journal; if it was refused or failed it runs again."""
    row = journal.insert(arrived, ()) or journal.find(arrived)
    if row is None:
        msg = f"the journal took no series {arrived.series_instance_uid}"
        raise LookupError(msg)
    for each in journal.animals_of(row.id):
        if each.state in ("refused", "failed"):
            journal.retry(each.id, time.time())
    return row


def _collect(journal: Journal, row: ScanRow, note: Note, folder: Path, config_path: Path) -> Note:
    """Copy what the node made of a scan; the note that says what became of it."""
    record = {**row.record, "scan": row.id}
    if row.state != "contoured":
        reason = row.reason
        if row.state == "quarantined":
            reason += f"; then: {retry_command(row, config_path)}"
        return replace(note, outcome=row.state, reason=reason, record=record)
    folder.mkdir(parents=True, exist_ok=True)
    path = Path(journal.structure_set_of(row.id).path)
    try:
        write_durably(folder / "RS.dcm", path.read_bytes())
        _copy_picture(path.with_name("picture.png"), folder)
    except OSError as error:
        return replace(note, outcome="failed", reason=f"{path}: {error.strerror}")
    held = row.record.get("held")
    return replace(note, outcome="contoured", held=held, record=record)


def _copy_picture(picture: Path, folder: Path) -> None:
    give_up_s = time.monotonic() + PICTURE_S
    while not picture.exists() and time.monotonic() < give_up_s:
        time.sleep(POLL_S / 5)
    if picture.exists():
        write_durably(folder / "picture.png", picture.read_bytes())
