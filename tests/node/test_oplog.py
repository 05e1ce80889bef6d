"""The running log: its writer, its lines, a full disk, rotation."""

import io
import json
import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from limn.node import oplog
from limn.node.config import Log

KEYS = ["time", "process", "level", "scan", "animal", "series", "message", "exception"]


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Leave the root logger as pytest set it up."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    root.handlers.clear()  # pytest's own must not be closed by the set-up
    yield
    for handler in root.handlers:
        handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


def lines(data_dir: Path, name: str = "limn.jsonl") -> list[dict[str, str]]:
    """Every object of a JSON log."""
    return [json.loads(line) for line in (data_dir / name).read_text().splitlines()]


def readable(data_dir: Path) -> list[str]:
    """Every readable line."""
    return (data_dir / "limn.log").read_text().splitlines()


def test_a_line_about_a_scan_carries_it_in_both_logs(tmp_path: Path) -> None:
    """Scan and animal come with the context, not with every message."""
    oplog.set_up(tmp_path, "limn", Log())
    with oplog.about(scan="scan-00003", animal="M 7"):
        logging.getLogger("limn.x").warning("the fold is %s", "odd")
    logging.getLogger("limn.x").info("nobody's")
    first, second = lines(tmp_path)
    assert list(first) == KEYS
    assert first | {"time": ""} == {
        **dict.fromkeys(KEYS, ""),
        "process": "limn",
        "level": "WARNING",
        "scan": "scan-00003",
        "animal": "M 7",
        "message": "the fold is odd",
    }
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", first["time"])
    assert second["scan"] == second["animal"] == ""
    text_lines = readable(tmp_path)
    assert text_lines[0].endswith("limn       WARNING scan-00003 M 7 the fold is odd")
    assert text_lines[1].endswith("limn       INFO    nobody's")


def test_a_message_that_names_its_scan_is_found_and_not_repeated(tmp_path: Path) -> None:
    """Lines written without a context have the scan in JSON all the same."""
    oplog.set_up(tmp_path, "limn", Log())
    logging.getLogger().info("scan-00012 animal M7 delivered")
    with oplog.about(scan="scan-00012", animal="M7"):
        logging.getLogger().info("scan-00012 animal M7 delivered")
    assert [line["scan"] for line in lines(tmp_path)] == ["scan-00012"] * 2
    assert [line.count("scan-00012") for line in readable(tmp_path)] == [1, 1]


def test_a_series_without_a_scan_is_named_by_its_end(tmp_path: Path) -> None:
    """The receiver logs about a series before the journal has numbered its scan."""
    oplog.set_up(tmp_path, "limn", Log())
    with oplog.about(animal="M7", series_instance_uid="1.2.826.0.1.123456789012"):
        logging.getLogger().info("held")
        logging.getLogger().info("scan-00004 complete")
    held, complete = lines(tmp_path)
    assert held["series"] == "series …123456789012"
    assert (complete["scan"], complete["series"]) == ("scan-00004", "")


def test_the_context_ends_and_belongs_to_its_thread(tmp_path: Path) -> None:
    """Two couriers at once never mix their scans."""
    oplog.set_up(tmp_path, "limn", Log())
    both = threading.Barrier(2)

    def speak(scan: str) -> None:
        with oplog.about(scan=scan):
            both.wait(5)
            logging.getLogger().info("of %s", scan[-1])
            both.wait(5)
        logging.getLogger().info("after")

    threads = [threading.Thread(target=speak, args=(f"scan-0000{n}",)) for n in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    scans = {(line["message"], line["scan"]) for line in lines(tmp_path)}
    assert scans == {("of 1", "scan-00001"), ("of 2", "scan-00002"), ("after", "")}


def test_an_exception_is_one_object(tmp_path: Path) -> None:
    """The traceback stays inside its line of JSON and below its readable one."""
    oplog.set_up(tmp_path, "limn", Log())
    try:
        int("broken\nin two")
    except ValueError:
        logging.getLogger().exception("it broke")
    (line,) = lines(tmp_path)
    assert line["exception"].count("\n") > 1
    assert "ValueError: invalid literal" in line["exception"]
    assert "Traceback" in readable(tmp_path)[1]


def test_a_child_s_lines_keep_their_time_level_scan_and_traceback(tmp_path: Path) -> None:
    """A child's lines reach the one writer unchanged; other output is kept too."""
    code = (
        "import logging, sys, warnings\n"
        "from limn.node import oplog\n"
        "oplog.to_supervisor('worker')\n"
        "with oplog.about(scan='scan-00005', animal='Mä'):\n"
        "    try:\n        1 / 0\n"
        "    except ZeroDivisionError:\n        logging.getLogger('a').exception('odd')\n"
        "print('a library speaks', flush=True)\n"
        "warnings.warn('old', stacklevel=1)\n"
        'print(\'{"time": "no line of ours"}\', flush=True)\n'
        "sys.stderr.write('Fatal Python error')\n"
    )
    oplog.set_up(tmp_path, "limn", Log())
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert child.stdout is not None
    oplog.relay(child.stdout, "worker").join(30)
    child.wait()
    found = lines(tmp_path)
    assert {line["process"] for line in found} == {"worker"}
    assert (found[0]["level"], found[0]["scan"], found[0]["animal"]) == (
        "ERROR",
        "scan-00005",
        "Mä",
    )
    assert "ZeroDivisionError" in found[0]["exception"]
    messages = [line["message"] for line in found]
    assert messages[1] == "a library speaks"
    assert "UserWarning: old" in messages[2]
    assert messages[-2:] == ['{"time": "no line of ours"}', "Fatal Python error"]
    assert any("worker     ERROR   scan-00005 Mä odd" in line for line in readable(tmp_path))


def test_dask_s_own_lines_go_the_same_way(tmp_path: Path) -> None:
    """Its loggers have handlers of their own once it is imported; they are taken away."""
    code = (
        "import distributed, logging\n"
        "from limn.node import oplog\n"
        "oplog.to_supervisor('scheduler')\n"
        "logging.getLogger('distributed.scheduler').warning('Worker lost')\n"
        "logging.getLogger('distributed.core').info('chatter')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    (line,) = [json.loads(each) for each in done.stderr.splitlines()]
    assert (line["process"], line["message"]) == ("scheduler", "Worker lost")


def test_without_a_supervisor_a_process_has_files_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two units on one data folder never write, nor rotate, the same file."""
    monkeypatch.delenv(oplog.TO_SUPERVISOR, raising=False)
    oplog.set_up(tmp_path, "engine", Log())
    logging.getLogger().info("alone")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["engine.jsonl", "engine.log"]


def test_below_a_supervisor_a_process_writes_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It writes JSON to standard error, and the supervisor writes the files."""
    monkeypatch.setenv(oplog.TO_SUPERVISOR, "1")
    oplog.set_up(tmp_path, "engine", Log())
    logging.getLogger().info("logged")
    assert not list(tmp_path.iterdir())
    assert json.loads(capsys.readouterr().err)["message"] == "logged"


def handler_of(path: Path, largest_bytes: int = 200, keep: int = 3) -> oplog.LineFile:
    """A small file that rotates."""
    handler = oplog.LineFile(path, largest_bytes, keep)
    handler.setFormatter(logging.Formatter("%(message)s"))
    return handler


def record_of(message: str) -> logging.LogRecord:
    """A record."""
    return logging.makeLogRecord({"msg": message})


def test_a_file_is_begun_anew_and_so_many_old_ones_are_kept(tmp_path: Path) -> None:
    """No line is lost on the way, none is split, and no file outgrows its size."""
    handler = handler_of(tmp_path / "a.log")
    for number in range(25):
        handler.emit(record_of(f"{number:03d} " + "x" * 35))
    handler.close()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["a.log", "a.log.1", "a.log.2", "a.log.3"]
    assert all(path.stat().st_size <= 200 for path in tmp_path.iterdir())
    kept = "".join((tmp_path / name).read_text() for name in [*reversed(names[1:]), names[0]])
    numbers = [int(line[:3]) for line in kept.splitlines()]
    assert numbers == list(range(numbers[0], 25))


def test_a_file_that_can_t_be_renamed_grows_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows can't rename a file that a viewer has open; new lines go on in it."""
    monkeypatch.setattr(Path, "replace", _refuse)
    handler = handler_of(tmp_path / "a.log")
    for number in range(10):
        handler.emit(record_of(f"{number:03d} " + "x" * 35))
    handler.close()
    assert len((tmp_path / "a.log").read_text().splitlines()) == 10


def test_a_full_disk_is_reported_once_and_the_log_goes_on_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line that was written in part does not spoil the next one."""
    terminal = io.StringIO()
    monkeypatch.setattr(sys, "stderr", terminal)
    handler = handler_of(tmp_path / "a.log", 10000)
    handler.emit(record_of("before"))
    file = handler._file
    handler._file = _Full(file, 3)  # type: ignore[assignment]
    for _ in range(3):
        handler.emit(record_of("lost"))
    handler._file = file
    handler.emit(record_of("after"))
    handler.close()
    assert (tmp_path / "a.log").read_text().split("\n") == ["before", "los", "after", ""]
    assert terminal.getvalue().count("can't be written") == 1


class _Full:
    """A file that takes a number of bytes and then no more."""

    def __init__(self, file: object, room: int) -> None:
        self._file, self._room = file, room

    def write(self, line: bytes) -> int:
        """Write what fits."""
        if self._room == 0:
            raise OSError(28, "No space left on device")
        fits, self._room = line.lstrip(b"\n")[: self._room], 0
        return int(self._file.write(fits))  # type: ignore[attr-defined]


def _refuse(*_: object) -> None:
    raise PermissionError(13, "another process holds it")


def test_a_message_that_can_t_be_formatted_ends_nothing(tmp_path: Path) -> None:
    """A wrong log call is reported on the terminal and costs one line."""
    oplog.set_up(tmp_path, "limn", Log())
    logging.raiseExceptions, before = False, logging.raiseExceptions
    try:
        logging.getLogger().info("%d", "no number")
    finally:
        logging.raiseExceptions = before
    logging.getLogger().info("next")
    assert [line["message"] for line in lines(tmp_path)] == ["next"]


def test_a_message_forges_no_line(tmp_path: Path) -> None:
    """A name with line ends or escape sequences, in a message, an error or the scan's animal."""
    oplog.set_up(tmp_path, "limn", Log())
    forged = "x\n2026-11-29 10:00:00,000 receiver   ERROR forged\x1b[2J\u2028forged\udce4.dcm"
    logging.getLogger().warning("file %s refused", forged)
    with oplog.about(animal=forged):
        logging.getLogger().warning("it waits")
    try:
        int(forged)
    except ValueError:
        logging.getLogger().exception("it broke")
    text_lines = readable(tmp_path)
    at_the_margin = [line for line in text_lines if not line.startswith("    ")]
    assert [" ".join(line.split()[2:4]) for line in at_the_margin] == [
        "limn WARNING",
        "limn WARNING",
        "limn ERROR",
    ]
    assert all(line.isprintable() for line in text_lines)
    assert "\\u2028" in (tmp_path / "limn.jsonl").read_text()
    assert [line["message"] for line in lines(tmp_path)] == [
        f"file {forged} refused",
        "it waits",
        "it broke",
    ]


@pytest.mark.skipif(os.name != "posix", reason="POSIX modes")
def test_log_files_are_for_their_owner_alone(tmp_path):
    """They name animals; a rotated file too."""
    handler = oplog.LineFile(tmp_path / "limn.log", 10, 2)
    for _ in range(3):
        handler.emit(logging.makeLogRecord({"msg": "a line that is long enough"}))
    handler.close()
    found = sorted(tmp_path.iterdir())
    assert len(found) == 3
    assert {path.stat().st_mode & 0o777 for path in found} == {0o600}


def test_the_lines_about_a_scan_are_read_from_the_end(tmp_path: Path) -> None:
    """From the file before a rotation too, within a number of bytes; a cut line is left out."""

    def write(name: str, *messages: str) -> None:
        rest = {"process": "engine", "level": "INFO", "animal": "M1", "series": "", "exception": ""}
        made = (
            {"time": "2026-11-30T10:00:00.000+00:00", "scan": "scan-00001", "message": text} | rest
            for text in messages
        )
        text = "".join(json.dumps(line) + "\n" for line in made)
        other = json.dumps({"time": "x", "scan": "scan-00002", "message": "of scan-00001"} | rest)
        (tmp_path / name).write_text(text + other + "\n")

    write("limn.jsonl.1", "first", "second")
    write("limn.jsonl", "third")
    (tmp_path / "limn.jsonl").open("a").write('{"time": "x", "scan": "scan-00001", "mess')

    def found(most_bytes: int) -> list[str]:
        return [line["message"] for line in oplog.lines_about(tmp_path, "scan-00001", most_bytes)]

    assert found(10**6) == ["first", "second", "third"]
    newest = (tmp_path / "limn.jsonl").stat().st_size
    assert found(newest) == ["third"]
    assert found(newest + 350) == ["second", "third"]
    assert found(30) == []
    assert oplog.lines_about(tmp_path / "nowhere", "scan-00001", 10) == []
