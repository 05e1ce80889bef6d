"""The scan log and the table of ROIs beside it: append-only CSVs, for the physicist."""

from __future__ import annotations

import csv
import io
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Generic, TypeAlias, TypeVar

from limn.domain import spreadsheet
from limn.domain.records import RoiRecord, ScanRecord
from limn.node.permissions import make_private_file, make_private_folder

DECIMALS = 4
Record: TypeAlias = ScanRecord | RoiRecord
# Two rows that agree in these columns are the same row.
ROW_KEY: Mapping[type[Record], tuple[str, ...]] = {
    ScanRecord: ("scan_id", "last_slice_utc", "outcome", "reason"),
    RoiRecord: ("scan_id", "last_slice_utc", "outcome", "bundle", "roi"),
}
# So much of the log is read for a new row, and shown without being asked for more.
TAIL_BYTES = 2**17
_ROW_START = re.compile(rb"\n\d+,scan-\d{5,},")
# As text; a table of scans or of ROIs.
_ROW_BREAK = re.compile(r"(?<=\n)(?=\d+,scan-\d{5,},)")
# A reason has at most so many lines that look like the beginning of a row.
_MOST_PIECES = 8
_TEXTS = {
    each.name
    for record in (ScanRecord, RoiRecord)
    for each in fields(record)
    if each.type in ("str", str)
}


def roi_table(scan_log: Path) -> Path:
    """The table of ROIs beside a scan log."""
    return scan_log.with_name("rois.csv")


def append(path: Path, *records: Record) -> None:
    """Add a scan's row, or those of its ROIs, unless they are among the last rows already.

    A refused series that came again and was contoured then has two rows, and so has a scan that an
    operator let run or sent again; they differ in last slice, outcome or reason. A row that a full
    disk or a kill cut off is removed. Only the end of the file is read: a row that was written and
    not noted in the journal is among the last.

    Raises
    ------
    OSError
        If the disk has no room; the log is then as it was.
    """
    if not records:
        return
    columns = records[0].columns()
    make_private_folder(path.parent)
    make_private_file(path)
    _mend_end(path, records)
    _rename_if_columns_differ(path, columns)
    make_private_file(path)
    if is_logged(path, records[-1]):
        return
    size_bytes = path.stat().st_size
    try:
        with path.open("ab") as file:
            file.write(_text(records, with_header=not size_bytes))
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        with suppress(FileNotFoundError):
            os.truncate(path, size_bytes)
        raise


def is_logged(path: Path, record: Record) -> bool:
    """Whether a row is among the last rows of its table."""
    values = {name: str(value) for name, value in _values(record).items()}
    columns = record.columns()
    for found in _parsed(_last_rows(path, len(columns))):
        row = dict(zip(columns, found, strict=False))
        if all(row.get(name) == values[name] for name in ROW_KEY[type(record)]):
            return True
    return False


def _last_rows(path: Path, columns: int) -> bytes:
    """The end of the log, from the beginning of a row on; all of a short log."""
    with path.open("rb") as file:
        size_bytes = file.seek(0, os.SEEK_END)
        start = max(0, size_bytes - TAIL_BYTES)
        file.seek(start)
        found = file.read()
    if not start:
        return found
    for begin in _ROW_START.finditer(found):
        rest = found[begin.start() + 1 :]
        first = next(iter(_parsed(rest)), [])
        # Such a beginning may also stand inside a reason of several lines.
        if len(first) == columns:
            return rest
    return path.read_bytes()


def _parsed(contents: bytes) -> Iterator[list[str]]:
    yield from csv.reader(io.StringIO(contents.decode(errors="replace"), newline=""))


def _values(record: Record) -> dict[str, object]:
    # What was not measured is empty: a 0 would distort every mean.
    return {name: _csv_value(value) for name, value in asdict(record).items()}


def _text(records: Sequence[Record], *, with_header: bool) -> bytes:
    """Rows as bytes, after a header with the columns' names if that is asked for."""
    text = io.StringIO()
    writer = csv.DictWriter(text, records[0].columns(), lineterminator="\n")
    if with_header:
        writer.writeheader()
    writer.writerows(map(_values, records))
    return text.getvalue().encode()


def _mend_end(path: Path, records: Sequence[Record]) -> None:
    """Remove an unfinished copy of these very rows; end any other unfinished line and keep it.

    The journal marks a scan as logged after its rows are written, so that the next ones to come are
    those that were cut off.
    """
    found = _last_rows(path, len(records[0].columns()))
    before = path.stat().st_size - len(found)
    for at in range(max(0, len(found) - len(_text(records, with_header=True))), len(found)):
        if at and found[at - 1] != ord("\n"):
            continue
        whole, partial = _text(records, with_header=not before + at), found[at:]
        if len(partial) < len(whole) and whole.startswith(partial):
            os.truncate(path, before + at)
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


def _rename_if_columns_differ(path: Path, wanted: tuple[str, ...]) -> None:
    """Rename a log with the columns of another version of limn; a new one is created."""
    if not path.exists() or path.stat().st_size == 0:
        return
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        columns = next(csv.reader(file), [])
    if tuple(columns) == wanted:
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
    # A program that edited it may have put a mark at its beginning; a disk may have added zeros.
    text = path.read_bytes().decode("utf-8-sig", errors="replace").replace("\0", "")
    header, _, rest = text.partition("\n")
    columns = header.rstrip("\r").split(",")
    pieces = _ROW_BREAK.split(rest)
    return [_plain(dict(zip(columns, values, strict=True))) for values in _whole(pieces, columns)]


def _whole(pieces: Sequence[str], columns: Sequence[str]) -> Iterator[list[str]]:
    """The rows that have every column; a row that was cut off costs no other one.

    Parameters
    ----------
    pieces : of the log, each from what looks like the beginning of a row
    """
    at = 0
    while at < len(pieces):
        # What looks like one may also stand inside a reason of several lines.
        for end in range(at + 1, min(at + _MOST_PIECES, len(pieces)) + 1):
            found = _rows_of("".join(pieces[at:end]))
            if all(len(values) == len(columns) for values in found):
                yield from found
                at = end
                break
        else:
            yield from (row for row in _rows_of(pieces[at]) if len(row) == len(columns))
            at += 1


def _rows_of(text: str) -> list[list[str]]:
    """The rows of a text; an empty row stands for one that is no CSV."""
    try:
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        return [values for values in reader if values]
    except csv.Error:
        return [[]]


def as_it_is(row: dict[str, str]) -> dict[str, str]:
    """A row with all its columns."""
    return row


Kept = TypeVar("Kept")


class LogFollower(Generic[Kept]):
    """The rows of a log that grows; each is read once.

    A log that was replaced or cut is read anew. Safe to share between threads.

    Parameters
    ----------
    keep : makes of a row what is kept of it: ten thousand whole rows take 70 MB
    """

    def __init__(self, path: Path, keep: Callable[[dict[str, str]], Kept]) -> None:
        self._path = path
        self._keep = keep
        self._rows: list[Kept] = []
        self._columns: list[str] = []
        self._read_bytes = 0
        self._inode = 0
        self._lock = threading.Lock()

    def rows(self) -> list[Kept]:
        """What is kept of every whole row until now, oldest first.

        Raises
        ------
        OSError
            If there is no log or it can't be read.
        """
        with self._lock:
            return list(self._followed())

    def _followed(self) -> list[Kept]:
        with self._path.open("rb") as file:
            found = os.fstat(file.fileno())
            if found.st_ino != self._inode or found.st_size < self._read_bytes:
                self._rows, self._columns, self._read_bytes = [], [], 0
                self._inode = found.st_ino
            file.seek(self._read_bytes)
            new = file.read()
        # A row that is just being written has fewer columns; the next call has it.
        whole = new[: new.rfind(b"\n") + 1]
        if whole and not _in_quotes(whole[:-1]):
            for values in _parsed(whole):
                if not self._columns:
                    self._columns = values
                elif len(values) == len(self._columns):
                    row = dict(zip(self._columns, values, strict=True))
                    self._rows.append(self._keep(_plain(row)))
            self._read_bytes += len(whole)
        return self._rows


def last_rows(path: Path, count: int) -> list[dict[str, str]]:
    """The last rows of the log, oldest first; at most ``count``, fewer if they are very long."""
    if not path.exists():
        return []
    columns = ScanRecord.columns()
    with path.open("rb") as file:
        header = file.readline()
    if header.decode(errors="replace").rstrip("\r\n") != ",".join(columns):
        return rows(path)[-count:]
    found = [
        _plain(dict(zip(columns, values, strict=True)))
        for values in _parsed(_last_rows(path, len(columns)))
        if len(values) == len(columns) and tuple(values) != columns
    ]
    return found[-count:]


def rows_at_end(path: Path, most_bytes: int) -> list[dict[str, str]]:
    """The whole rows among the last bytes of a table of scans or ROIs, oldest first.

    Raises
    ------
    OSError
        If there is no table or it can't be read.
    """
    with path.open("rb") as file:
        columns = file.readline().decode("utf-8-sig", errors="replace").rstrip("\r\n").split(",")
        begin = file.tell()
        end = file.seek(0, os.SEEK_END)
        start = max(begin, end - most_bytes)
        file.seek(start)
        found = file.read(most_bytes)
    if start > begin:
        first = _ROW_START.search(found)
        found = b"" if first is None else found[first.start() + 1 :]
    return [
        _plain(dict(zip(columns, values, strict=True)))
        for values in _parsed(found)
        if len(values) == len(columns)
    ]


def neutral(row: Mapping[str, str]) -> dict[str, str]:
    """A row for a CSV that people open: a spreadsheet takes no value for a formula."""
    return {
        name: spreadsheet.neutral(text) if name in _TEXTS else text for name, text in row.items()
    }


def _plain(row: dict[str, str]) -> dict[str, str]:
    """The values as they were before `neutral`."""
    for name in _TEXTS & row.keys():
        row[name] = spreadsheet.plain(row[name] or "")
    return row


def utc(seconds: float) -> str:
    """UTC seconds as the scan log has them."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def _csv_value(value: object) -> object:
    if isinstance(value, str):
        return spreadsheet.neutral(value)
    if value is None:
        return ""
    return round(value, DECIMALS) if isinstance(value, float) else value
