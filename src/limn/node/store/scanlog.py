"""The scan log: one row per scan in an append-only CSV, for the physicist."""

from __future__ import annotations

import csv
import io
import os
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from limn.domain.timing import ScanRecord

DECIMALS = 4
# Two rows that agree in these columns are the same row.
ROW_KEY = ("scan_id", "last_slice_utc", "outcome", "reason")


def append(path: Path, record: ScanRecord) -> None:
    """Add a scan's row, unless it is in the file already.

    A refused series that came again and was contoured then has two rows, and so has a scan that an
    operator let run or sent again; they differ in last slice, outcome or reason. A row that a full
    disk or a kill cut off is removed.

    Raises
    ------
    OSError
        If the disk has no room; the log is then as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _mend_end(path, record)
    _rename_if_columns_differ(path)
    values = _values(record)
    if any(all(row[name] == values[name] for name in ROW_KEY) for row in rows(path)):
        return
    size_bytes = path.stat().st_size if path.exists() else 0
    try:
        with path.open("ab") as file:
            file.write(_text(record, with_header=not size_bytes))
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        with suppress(FileNotFoundError):
            os.truncate(path, size_bytes)
        raise


def _values(record: ScanRecord) -> dict[str, object]:
    values = {name: _csv_value(value) for name, value in asdict(record).items()}
    if not record.accepted_utc:
        # No destination accepted it, so there is no such time; a 0 would distort every mean.
        values |= dict.fromkeys(("deliver_s", "overhead_s", "door_to_door_s"), "")
    return values


def _text(record: ScanRecord, *, with_header: bool) -> bytes:
    """A scan's row as bytes, after a header with the columns' names if that is asked for."""
    text = io.StringIO()
    writer = csv.DictWriter(text, ScanRecord.columns(), lineterminator="\n")
    if with_header:
        writer.writeheader()
    writer.writerow(_values(record))
    return text.getvalue().encode()


def _mend_end(path: Path, record: ScanRecord) -> None:
    """Remove an unfinished copy of this very row; end any other unfinished line and keep it.

    The journal marks a scan as logged after its row is written, so that the next row to come is the
    one that was cut off.
    """
    found = path.read_bytes() if path.exists() else b""
    for at in range(max(0, len(found) - len(_text(record, with_header=True))), len(found)):
        if at and found[at - 1] != ord("\n"):
            continue
        whole, partial = _text(record, with_header=not at), found[at:]
        if len(partial) < len(whole) and whole.startswith(partial):
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


def _rename_if_columns_differ(path: Path) -> None:
    """Rename a log with the columns of another version of limn; a new one is created."""
    if not path.exists() or path.stat().st_size == 0:
        return
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        columns = next(csv.reader(file), [])
    if tuple(columns) == ScanRecord.columns():
        return
    version = next((row["schema_version"] for row in rows(path)), "none")
    renamed = path.with_name(f"{path.stem}-schema-{version}{path.suffix}")
    number = 2
    while renamed.exists():
        renamed = path.with_name(f"{path.stem}-schema-{version}-{number}{path.suffix}")
        number += 1
    path.rename(renamed)


def rows(path: Path) -> list[dict[str, str]]:
    """Every row of the log, oldest first; none if there is no log yet."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        return list(csv.DictReader(file))


def _csv_value(value: object) -> object:
    if isinstance(value, str):
        # csv quotes a line feed but not a carriage return, and a reader ends the row at either.
        return value.replace("\r\n", "\n").replace("\r", "\n")
    return round(value, DECIMALS) if isinstance(value, float) else value
