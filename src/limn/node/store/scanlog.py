"""One row per scan in an append-only CSV, for the physicist."""

from __future__ import annotations

import csv
import io
import os
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from limn.domain.timing import ScanRecord

DECIMALS = 4
# What a row can't share with another.
ONE_ROW = ("scan_id", "last_slice_utc", "outcome", "reason")


def append(path: Path, record: ScanRecord) -> None:
    """Add a scan's row, once: one that is already in the file is left alone.

    A refused series that came again and was contoured after all has two rows, and so has a scan
    that a person let run or sent again; last slice, outcome and reason tell them apart. Of a row
    that was torn, by a full disk or a kill, nothing stays.

    Raises
    ------
    OSError
        If the disk has no room; the log is then as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _mend_end(path, record)
    _put_aside_other_columns(path)
    values = _values(record)
    if any(all(row[name] == values[name] for name in ONE_ROW) for row in rows(path)):
        return
    whole_bytes = path.stat().st_size if path.exists() else 0
    try:
        with path.open("ab") as file:
            file.write(_text(record, begins=not whole_bytes))
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        with suppress(FileNotFoundError):
            os.truncate(path, whole_bytes)
        raise


def _values(record: ScanRecord) -> dict[str, object]:
    values = {name: _shown(value) for name, value in asdict(record).items()}
    if not record.accepted_utc:
        # Nothing was accepted, so there is no such time; a 0 would spoil every mean.
        values |= dict.fromkeys(("deliver_s", "overhead_s", "door_to_door_s"), "")
    return values


def _text(record: ScanRecord, *, begins: bool) -> bytes:
    """A row, with the names of the columns where it begins the log."""
    text = io.StringIO()
    writer = csv.DictWriter(text, ScanRecord.columns(), lineterminator="\n")
    if begins:
        writer.writeheader()
    writer.writerow(_values(record))
    return text.getvalue().encode()


def _mend_end(path: Path, record: ScanRecord) -> None:
    """Cut off what was begun of this very row; end any other unfinished line, which stays.

    The journal marks a scan as logged after its row, so that a torn row is the next to come.
    """
    found = path.read_bytes() if path.exists() else b""
    for at in range(max(0, len(found) - len(_text(record, begins=True))), len(found)):
        if at and found[at - 1] != ord("\n"):
            continue
        whole, begun = _text(record, begins=not at), found[at:]
        if len(begun) < len(whole) and whole.startswith(begun):
            os.truncate(path, at)
            return
    in_quotes = _in_quotes(found)
    if in_quotes or (found and not found.endswith(b"\n")):
        with path.open("ab") as file:
            file.write(b'"\n' if in_quotes else b"\n")


def _in_quotes(found: bytes) -> bool:
    """Whether a log ends in the middle of a quoted value."""
    text = found.decode(errors="replace")
    *_, last = csv.reader(io.StringIO(f"{text}\nend", newline=""))
    return last != ["end"]


def _put_aside_other_columns(path: Path) -> None:
    """A log that another version of limn began keeps its columns, under another name."""
    if not path.exists() or path.stat().st_size == 0:
        return
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
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
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        return list(csv.DictReader(file))


def _shown(value: object) -> object:
    if isinstance(value, str):
        # csv quotes a line feed, but not a carriage return, at which a reader ends the row.
        return value.replace("\r\n", "\n").replace("\r", "\n")
    return round(value, DECIMALS) if isinstance(value, float) else value
