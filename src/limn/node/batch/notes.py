"""What became of each series: a note beside its structure set, and the table of all notes."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from limn.domain.errors import RefusedSeries
from limn.domain.files import write_durably
from limn.domain.scan import MOST_ANIMALS, Role
from limn.domain.spreadsheet import neutral_cell
from limn.node.batch.find_series import FoundSeries, read_series
from limn.node.config import Config
from limn.node.store.journal.reader import JournalReader
from limn.node.store.journal.rows import Arrived

NOTE = "limn.json"
TABLE = "cohort.csv"
COLUMNS = (
    *("series", "animal", "series_instance_uid", "outcome", "reason", "flags", "runtime_s"),
    *(f"{role}_mm3" for role in Role),
)
# Beside the table: a row for each ROI, whatever organs the bundle has.
ROI_TABLE = "cohort-rois.csv"
ROI_COLUMNS = (
    *("series", "animal", "organ", "role", "roi", "derived", "volume_mm3", "mean_hu", "light"),
    *("removed_voxels", "fold_dsc", "predicted_dsc"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """What became of a series.

    Attributes
    ----------
    outcome : "begun", "contoured", "refused", "failed" or "quarantined"
    held : why a node would show it to a person before anything is sent; None if it would not
    begun : how often a process began with it and did not end
    two_animals : the site's rule when it was contoured
    """

    series: str
    series_instance_uid: str
    fingerprint: str
    bundle_sha256: str
    outcome: str
    animal: str = ""
    reason: str = ""
    held: str | None = None
    begun: int = 0
    left_out: tuple[str, ...] = ()
    two_animals: str = "largest"
    record: dict[str, Any] = field(default_factory=dict)


class Notes:
    """The notes of one run, below its output folder; those of earlier runs say what is done."""

    def __init__(self, out: Path, config: Config, bundle_sha256: str) -> None:
        self._out = out
        self._config = config
        self._bundle_sha256 = bundle_sha256
        self._notes: dict[str, Note] = {}

    def folder(self, series: str) -> Path:
        """Where the files of the series with this name are written."""
        return self._out / series

    def is_done(self, series: FoundSeries) -> bool:
        """Whether an earlier run contoured it, or gave it up and nobody let it run again."""
        note = self._earlier(series)
        if note is None:
            return False
        if note.outcome == "quarantined":
            done = not self._may_run_again(note)
        else:
            done = note.outcome == "contoured" and (self.folder(series.name) / "RS.dcm").is_file()
        others = {
            name: other
            for name in _animals(series.name)
            if (other := self._earlier(series, name)) is not None
        }
        done = done and all(other.outcome == "contoured" for other in others.values())
        if done:
            self._notes |= {series.name: note, **others}
        return done

    def begin(self, series: FoundSeries) -> tuple[Note, Arrived | None]:
        """Read a series: its note and the scan to contour.

        The scan is None if the series is refused; its note is then written.
        """
        before = self._earlier(series)
        note = Note(
            series=series.name,
            series_instance_uid=series.series_instance_uid,
            fingerprint=series.fingerprint,
            bundle_sha256=self._bundle_sha256,
            outcome="begun",
            begun=before.begun if before is not None and before.outcome == "begun" else 0,
            two_animals=self._config.model.two_animals,
        )
        try:
            contents = read_series(series)
        except RefusedSeries as error:
            note = replace(note, outcome="refused", reason=str(error))
            self.write(note)
            return note, None
        arrived = contents.arrived(self._config.planning_system.profile, self._bundle_sha256)
        return replace(note, animal=arrived.animal, left_out=contents.left_out), arrived

    def of_animal(self, note: Note, number: int) -> Note:
        """The note of another animal in the field, in a folder below that of the first."""
        return replace(note, series=_animals(note.series)[number - 2])

    def write(self, note: Note) -> None:
        """Write a note in the place of the last one of its series."""
        self._notes[note.series] = note
        folder = self.folder(note.series)
        folder.mkdir(parents=True, exist_ok=True)
        write_durably(folder / NOTE, json.dumps(asdict(note), indent=1).encode())

    def of(self, found: Iterable[FoundSeries]) -> list[Note]:
        """The notes of these series and all their animals, as far as there are any."""
        return [
            self._notes[name]
            for each in found
            for name in (each.name, *_animals(each.name))
            if name in self._notes
        ]

    def _earlier(self, series: FoundSeries, name: str = "") -> Note | None:
        """The note of an earlier run on the same files with the same bundle.

        Parameters
        ----------
        name : of another animal's note; that of the series if empty
        """
        path = self.folder(name or series.name) / NOTE
        try:
            note = Note(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        now = (series.series_instance_uid, series.fingerprint, self._bundle_sha256)
        then = (note.series_instance_uid, note.fingerprint, note.bundle_sha256)
        # One animal was contoured then, and each is wanted now.
        more = self._config.model.two_animals == "each" != note.two_animals
        return note if now == then and not more else None

    def _may_run_again(self, note: Note) -> bool:
        """Whether `limn retry` let a scan of the node run again."""
        if "scan" not in note.record or not self._config.journal_path.exists():
            return False
        with closing(JournalReader(self._config.journal_path)) as journal:
            try:
                return journal.scan(int(note.record["scan"])).state != "quarantined"
            except LookupError:
                # The node has begun a new journal since.
                return True


def _animals(series: str) -> list[str]:
    """The names of the notes of further animals in the field of a series."""
    return [f"{series}/animal-{number}" for number in range(2, MOST_ANIMALS + 1)]


def write_tables(folder: Path, notes: Sequence[Note]) -> None:
    """Write a CSV file with a row for each series, and one with a row for each ROI."""
    rows = []
    for note in notes:
        known = {name: note.record[name] for name in COLUMNS if name in note.record}
        values = {name: value for name, value in asdict(note).items() if name in COLUMNS}
        values["reason"] = note.held or note.reason
        rows.append(known | values)
    _write(folder / TABLE, COLUMNS, rows)
    rois = [
        {"series": note.series, "animal": note.animal}
        | {name: value for name, value in roi.items() if name in ROI_COLUMNS}
        for note in notes
        for roi in note.record.get("rois", ())
    ]
    _write(folder / ROI_TABLE, ROI_COLUMNS, rois)


def _write(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: neutral_cell(each) for name, each in row.items()} for row in rows)
    write_durably(path, text.getvalue().encode())
