"""The node's running log: text lines and JSON lines, each with its scan.

A log file has one writer, because no system lets several processes rotate one file safely
(Windows can't rename a file that another process has open). The processes of a node write JSON
lines to standard error; the supervisor reads them and alone writes ``limn.log`` and
``limn.jsonl``. So all other output of a child is logged too: warnings of libraries, tracebacks,
and the stacks of a process that its deadline ends. A process without a supervisor writes files of
its own name.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypedDict, cast

from limn.domain.one_line import indented, one_line
from limn.node.permissions import make_private_file, make_private_folder

if TYPE_CHECKING:
    from limn.node.config import Log

TO_SUPERVISOR = "LIMN_LOG_TO_SUPERVISOR"
READABLE, JSON_LINES = "limn.log", "limn.jsonl"
UID_END = 12

# The form of `ScanRow.name`.
_SCAN_NAME = re.compile(r"\bscan-\d{5,}\b")
# Level of a child's line that limn did not write: output of a library or the interpreter.
_OTHERS_LEVEL = logging.WARNING
# Raw in JSON they are allowed, but some readers take them for the end of a line.
_UNSHOWN = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class Line(TypedDict):
    """One object of ``limn.jsonl``.

    Attributes
    ----------
    time : UTC, ISO 8601, milliseconds
    scan : such as scan-00003; empty if the line is about no scan, or the scan has no id yet
    animal : PatientID
    series : "series …" and the end of the SeriesInstanceUID, while the scan has no id
    exception : traceback; empty if there is none
    """

    time: str
    process: str
    level: str
    scan: str
    animal: str
    series: str
    message: str
    exception: str


@dataclass(frozen=True, slots=True)
class _About:
    scan: str = ""
    animal: str = ""
    series: str = ""


_NOBODY = _About()
_about: ContextVar[_About] = ContextVar("about", default=_NOBODY)


@contextmanager
def about(*, scan: str = "", animal: str = "", series_instance_uid: str = "") -> Iterator[None]:
    """Every line that this thread logs inside belongs to this scan, or this series."""
    series = series_end(series_instance_uid) if series_instance_uid else ""
    token = _about.set(_About(scan, animal, series))
    try:
        yield
    finally:
        _about.reset(token)


def series_end(series_instance_uid: str) -> str:
    """The name in log lines of a series whose scan has no id yet."""
    return f"series …{series_instance_uid[-UID_END:]}"


def set_up(data_dir: Path, process: str, settings: Log) -> None:
    """Log to the supervisor if the process has one, else to the terminal and its own files.

    Parameters
    ----------
    process : name of this process; the supervisor is "limn"
    """
    if os.environ.get(TO_SUPERVISOR) and process != "limn":
        to_supervisor(process)
        return
    make_private_folder(data_dir)
    terminal = logging.StreamHandler()
    terminal.setFormatter(_Readable(process))
    handlers: list[logging.Handler] = [terminal]
    for name, formatter in ((READABLE, _Readable(process)), (JSON_LINES, _Json(process))):
        path = data_dir / name.replace("limn", process)
        handler = LineFile(path, settings.max_mb * 2**20, settings.keep)
        handler.setFormatter(formatter)
        handlers.append(handler)
    _install(handlers)


def to_supervisor(process: str) -> None:
    """JSON lines to standard error, which the supervisor reads."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json(process))
    _install([handler])


def relay(stream: IO[bytes], process: str) -> threading.Thread:
    """Log the output of a child until it ends; limn's own lines keep their time and level."""
    thread = threading.Thread(target=_relay, args=(stream, process), name="log", daemon=True)
    thread.start()
    return thread


def _install(handlers: list[logging.Handler]) -> None:
    for handler in handlers:
        handler.addFilter(_know_scan)
    logging.basicConfig(level=logging.INFO, handlers=handlers, force=True)
    # At its import distributed gives its loggers their own handlers.
    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] in ("distributed", "bokeh", "tornado"):
            logger = logging.getLogger(name)
            logger.handlers.clear()
            logger.propagate = True
    for verbose in ("distributed", "asyncio", "tornado"):
        logging.getLogger(verbose).setLevel(logging.WARNING)
    # limn logs the failures of a peer itself, once.
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    # limn says itself what is odd in a header.
    logging.getLogger("pydicom").setLevel(logging.ERROR)
    logging.captureWarnings(True)


def _know_scan(record: logging.LogRecord) -> bool:
    """Add the scan to the record; as a filter it runs in the thread that logs."""
    if not hasattr(record, "scan"):
        known = _about.get()
        record.scan, record.animal, record.series = known.scan, known.animal, known.series
    return True


def _subject(record: logging.LogRecord) -> _About:
    """The subject of a record: its context, else the scan that its message names."""
    scan, animal, series = (getattr(record, name, "") for name in ("scan", "animal", "series"))
    named = None if scan else _SCAN_NAME.search(record.getMessage())
    scan = named.group() if named else scan
    return _About(scan, animal, "" if scan else series)


class _Readable(logging.Formatter):
    """Local time, process, level, scan and animal, message.

    Only the first line of a record begins at the margin: no name in a message forges a record.
    """

    def __init__(self, process: str) -> None:
        super().__init__("%(asctime)s %(speaker)-10s %(levelname)-7s %(subject)s%(message)s")
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        known = _subject(record)
        # A name that is in the message already is left out.
        names = (each for each in (known.scan, known.animal, known.series) if each not in message)
        subject = one_line(" ".join(names))
        record.subject = f"{subject} " if subject else ""
        record.speaker = getattr(record, "speaker", self._process)
        return indented(super().format(record))


class _Json(logging.Formatter):
    """One `Line`."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        exception = record.exc_text or ""
        if record.exc_info and not exception:
            exception = self.formatException(record.exc_info)
        known = _subject(record)
        line = Line(
            time=datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            process=getattr(record, "speaker", self._process),
            level=record.levelname,
            scan=known.scan,
            animal=known.animal,
            series=known.series,
            message=record.getMessage(),
            exception=exception,
        )
        text = json.dumps(line, ensure_ascii=False)
        return _UNSHOWN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


class LineFile(logging.Handler):
    """Writes whole lines to a file, rotates it at a size and keeps some old files.

    A full disk costs lines and never ends the process: the terminal gets one message, and the next
    line for which there is space is written whole.
    """

    def __init__(self, path: Path, largest_bytes: int, keep: int) -> None:
        super().__init__()
        self._path = path
        self._largest_bytes = largest_bytes
        self._keep = keep
        self._file: IO[bytes] | None = None
        self._size = 0
        self._torn = False
        self._lost = False

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        try:
            line = self.format(record).encode(errors="backslashreplace") + b"\n"
            self._write(line)
            self._lost = False
        except OSError as error:
            self._torn = True
            if not self._lost:
                sys.stderr.write(
                    f"limn: {self._path} can't be written ({error.strerror}); lines are lost\n"
                )
            self._lost = True
        except Exception:  # noqa: BLE001 - a line that can't be formatted must not end a thread
            self.handleError(record)

    def close(self) -> None:
        """Close the file."""
        with self.lock or threading.RLock():
            if self._file is not None:
                self._file.close()
                self._file = None
        super().close()

    def _write(self, line: bytes) -> None:
        if self._file is not None and self._size + len(line) > self._largest_bytes:
            self._rotate()
        if self._file is None:
            # Unbuffered: bytes that found no space must not be written later, within another line.
            make_private_file(self._path)
            self._file = self._path.open("ab", buffering=0)
            self._size = self._file.tell()
        if self._torn:
            line = b"\n" + line
        written = self._file.write(line) or 0
        self._size += written
        self._torn = written < len(line)

    def _rotate(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        try:
            for number in range(self._keep - 1, 0, -1):
                older = _numbered(self._path, number)
                if older.exists():
                    older.replace(_numbered(self._path, number + 1))
            self._path.replace(_numbered(self._path, 1))
        except OSError:
            # On Windows a reader has the file open; it grows until the reader closes it.
            return


def lines_about(data_dir: Path, scan: str, most_bytes: int) -> list[Line]:
    """The lines about a scan among the last bytes of the node's log, oldest first.

    Raises
    ------
    OSError
        If the log can't be read.
    """
    path = data_dir / JSON_LINES
    found: list[Line] = []
    for each in (path, _numbered(path, 1)):
        if most_bytes <= 0 or not each.exists():
            break
        contents = _end_of(each, most_bytes)
        most_bytes -= len(contents)
        # To read every line as JSON would take a hundred times as long.
        named = (raw for raw in contents.splitlines() if scan.encode() in raw)
        parsed = (_line(raw.decode(errors="replace")) for raw in named)
        found = [line for line in parsed if line is not None and line["scan"] == scan] + found
    return found


def _end_of(path: Path, most_bytes: int) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - most_bytes))
        return file.read(most_bytes)


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")


def _relay(stream: IO[bytes], process: str) -> None:
    with stream:
        for raw in stream:
            text = raw.decode(errors="backslashreplace").rstrip("\r\n")
            if text.strip():
                logging.getLogger().handle(_record(text, process))


def _record(text: str, process: str) -> logging.LogRecord:
    """A child's line as a record; a line that limn did not write becomes the message."""
    values: dict[str, object] = {
        "msg": text,
        "created": time.time(),
        "levelno": _OTHERS_LEVEL,
        "speaker": process,
    }
    line = _line(text)
    if line is not None:
        values |= {
            "msg": line["message"],
            "created": datetime.fromisoformat(line["time"]).timestamp(),
            "levelno": logging.getLevelNamesMapping().get(line["level"], _OTHERS_LEVEL),
            "speaker": line["process"],
            "exc_text": line["exception"] or None,
        }
        values |= {name: str(line[name]) for name in ("scan", "animal", "series")}
    values["levelname"] = logging.getLevelName(int(str(values["levelno"])))
    values["msecs"] = float(str(values["created"])) % 1 * 1000
    return logging.makeLogRecord(values)


def _line(text: str) -> Line | None:
    if not text.startswith('{"time"'):
        return None
    try:
        found = json.loads(text)
    except ValueError:
        return None
    whole = isinstance(found, dict) and Line.__required_keys__ <= found.keys()
    return cast(Line, found) if whole else None
