"""One row per scan in an append-only CSV, for the physicist."""

from __future__ import annotations

import csv
import io
import os
from dataclasses import asdict
from pathlib import Path

from limn.domain.timing import ScanRecord

DECIMALS = 4
# What a row can't share with another.
ONE_ROW = ("scan_id", "last_slice_utc", "outcome", "reason")


def append(path: Path, record: ScanRecord) -> None:
    """Add a scan's row, once: one that is already in the file is left alone.

    A refused series that came again and was contoured after all has two rows, and so has a scan
    that a person let run or sent again; last slice, outcome and reason tell them apart.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _put_aside_other_columns(path)
    values = {name: _shown(value) for name, value in asdict(record).items()}
    if any(all(row[name] == values[name] for name in ONE_ROW) for row in rows(path)):
        return
    text = io.StringIO()
    writer = csv.DictWriter(text, ScanRecord.columns(), lineterminator="\n")
    if not path.exists() or path.stat().st_size == 0:
        writer.writeheader()
    if not record.accepted_utc:
        # Nothing was accepted, so there is no such time; a 0 would spoil every mean.
        values |= dict.fromkeys(("deliver_s", "overhead_s", "door_to_door_s"), "")
    writer.writerow(values)
    with path.open("a", encoding="utf-8", newline="") as file:
        file.write(text.getvalue())
        file.flush()
        os.fsync(file.fileno())


def _put_aside_other_columns(path: Path) -> None:
    """A log that another version of limn began keeps its columns, under another name."""
    if not path.exists() or path.stat().st_size == 0:
        return
    with path.open(encoding="utf-8", newline="") as file:
        columns = next(csv.reader(file), [])
    if tuple(columns) == ScanRecord.columns():
        return
    version = next((row["schema_version"] for row in rows(path)), "none")
    aside = path.with_name(f"{path.stem}-schema-{version}{path.suffix}")
    number = 2
    while aside.exists():
        aside = path.with_name(f"{path.stem}-schema-{version}-{number}{path.suffix}")
        number += 1
    path.rename(aside)


def rows(path: Path) -> list[dict[str, str]]:
    """Every row of the log, oldest first; none if there is no log yet."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _shown(value: object) -> object:
    if isinstance(value, str):
        # csv quotes a line feed, but not a carriage return, at which a reader ends the row.
        return value.replace("\r\n", "\n").replace("\r", "\n")
    return round(value, DECIMALS) if isinstance(value, float) else value
