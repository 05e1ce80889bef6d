"""What became of a series, beside its structure set, and the table of all of them."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

NOTE = "limn.json"
TABLE = "cohort.csv"
COLUMNS = (
    *("series", "animal", "series_instance_uid", "outcome", "reason", "flags", "runtime_s"),
    *("heart_mm3", "cord_mm3", "lung_r_mm3", "lung_l_mm3"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """What became of a series.

    Attributes
    ----------
    outcome : "begun", "contoured", "refused", "failed" or "quarantined"
    held : why a node would show it to a person before anything is sent; None if it would not
    begun : how often a process began with it and did not end
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
    record: dict[str, Any] = field(default_factory=dict)


def write_table(path: Path, notes: Iterable[Note]) -> None:
    """One row for each series."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        for note in notes:
            known = {name: note.record[name] for name in COLUMNS if name in note.record}
            values = {name: value for name, value in asdict(note).items() if name in COLUMNS}
            values["reason"] = note.held or note.reason
            writer.writerow(known | values)
