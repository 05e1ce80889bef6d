import csv
import errno
import io
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limn.domain.timing import ScanRecord
from limn.node.store import scanlog

HARD = 'a, "b"\nc; d\t\ne \\ é'


@pytest.fixture
def path(tmp_path):
    """Where the scan log of a test lies."""
    return tmp_path / "data" / "scans.csv"


def test_the_header_comes_once(path):
    """One line of names, then one line per scan, in the order of ScanRecord."""
    for number in range(3):
        scanlog.append(path, ScanRecord(scan_id=f"scan-{number}"))
    lines = path.read_text().splitlines()
    assert lines[0] == ",".join(ScanRecord.columns())
    assert len(lines) == 4
    assert [row["scan_id"] for row in scanlog.rows(path)] == ["scan-0", "scan-1", "scan-2"]


def test_a_file_that_is_empty_gets_its_header(path):
    """An empty file that a user created becomes a CSV."""
    path.parent.mkdir()
    path.touch()
    scanlog.append(path, ScanRecord(scan_id="scan-1"))
    assert path.read_text().startswith("schema_version,scan_id,")


def test_rows_are_only_ever_appended(path):
    """Existing rows stay byte for byte, also those that a physicist added by hand."""
    scanlog.append(path, ScanRecord(scan_id="scan-1"))
    with path.open("a") as file:
        file.write("1,by-hand\n")
    before = path.read_bytes()
    scanlog.append(path, ScanRecord(scan_id="scan-2"))
    assert path.read_bytes().startswith(before)
    assert path.read_bytes().count(b"\n") == before.count(b"\n") + 1


def test_a_scan_is_logged_once(path):
    """A second copy of a row changes nothing, not even after other rows."""
    record = ScanRecord(scan_id="scan-1", last_slice_utc="2026-01-01T12:00:00.000+00:00")
    scanlog.append(path, record)
    scanlog.append(path, ScanRecord(scan_id="scan-2"))
    before = path.read_bytes()
    scanlog.append(path, record)
    assert path.read_bytes() == before


def test_commas_quotes_and_lines_stay_in_their_column(path):
    """A reason may have any text that a DICOM header may have."""
    scanlog.append(path, ScanRecord(scan_id="scan-1", animal=HARD, reason=HARD, flags="last"))
    (row,) = scanlog.rows(path)
    assert (row["animal"], row["reason"], row["flags"]) == (HARD, HARD, "last")


@pytest.mark.slow
@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40))
def test_any_text_can_be_read_back(tmp_path_factory, text):
    """Whatever a PatientID holds, the row after it is still a row."""
    path = tmp_path_factory.mktemp("log") / "scans.csv"
    scanlog.append(path, ScanRecord(scan_id="scan-1", animal=text))
    scanlog.append(path, ScanRecord(scan_id="scan-2"))
    assert [row["scan_id"] for row in scanlog.rows(path)] == ["scan-1", "scan-2"]
    assert scanlog.rows(path)[0]["animal"] == text.replace("\r\n", "\n").replace("\r", "\n")


def test_durations_have_four_decimals(path):
    """A tenth of a millisecond is enough, and 0.1 + 0.2 reads as 0.3."""
    scanlog.append(path, ScanRecord(scan_id="scan-1", read_s=0.1 + 0.2, runtime_s=1 / 3))
    (row,) = scanlog.rows(path)
    assert (row["read_s"], row["runtime_s"]) == ("0.3", "0.3333")


def test_every_row_names_its_schema(path):
    """A column says which version of the columns this is."""
    scanlog.append(path, ScanRecord(scan_id="scan-1"))
    assert next(csv.DictReader(io.StringIO(path.read_text())))["schema_version"] == "2"


def test_a_log_of_another_schema_is_put_aside(path):
    """Rows never stand under columns that they don't have; the old log keeps its own name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("schema_version,scan_id\n1,scan-1\n")
    scanlog.append(path, ScanRecord(scan_id="scan-2"))
    assert [row["scan_id"] for row in scanlog.rows(path)] == ["scan-2"]
    aside = path.with_name(f"{path.stem}-schema-1{path.suffix}")
    assert aside.read_text() == "schema_version,scan_id\n1,scan-1\n"
    path.write_text("schema_version,scan_id\n1,scan-3\n")
    scanlog.append(path, ScanRecord(scan_id="scan-4"))
    assert path.with_name(f"{path.stem}-schema-1-2{path.suffix}").exists()
    assert aside.read_text() == "schema_version,scan_id\n1,scan-1\n"


TORN = ScanRecord(scan_id="scan-2", animal="Mäuse", reason='of "two\nlines"', flags="last")


def test_a_row_that_was_torn_anywhere_is_made_whole(path):
    """A kill or a power cut after any byte, in the first row with its header or in a later one."""
    for first in ([], [ScanRecord(scan_id="scan-1")]):
        path.unlink(missing_ok=True)
        for record in first:
            scanlog.append(path, record)
        before = path.stat().st_size if first else 0
        scanlog.append(path, TORN)
        whole = path.read_bytes()
        for count in range(before, len(whole)):
            path.write_bytes(whole[:count])
            scanlog.append(path, TORN)
            assert path.read_bytes() == whole


@pytest.mark.parametrize("count", [-1, -5, 230, 260, 300])
def test_what_is_not_known_is_ended_and_kept(path, count):
    """A line that a user left unfinished stays, and the next row is on a line of its own."""
    scanlog.append(path, ScanRecord(scan_id="scan-1"))
    header = path.read_bytes().splitlines(keepends=True)[0]
    scanlog.append(path, TORN)
    torn = path.read_bytes()[: count if count < 0 else len(header) + count]
    path.write_bytes(torn)
    scanlog.append(path, ScanRecord(scan_id="scan-3"))
    assert path.read_bytes().startswith(torn)
    assert scanlog.rows(path)[-1]["scan_id"] == "scan-3"
    assert scanlog.rows(path)[0]["scan_id"] == "scan-1"


@pytest.mark.parametrize("first", [True, False])
def test_of_a_row_that_no_disk_takes_nothing_stays(path, monkeypatch, first):
    """The bytes may be there and their fsync fail; the log is as it was."""
    if not first:
        scanlog.append(path, ScanRecord(scan_id="scan-1"))
    before = path.read_bytes() if path.exists() else b""

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            scanlog.append(path, TORN)
    assert path.read_bytes() == before
    scanlog.append(path, TORN)
    assert scanlog.rows(path)[-1]["scan_id"] == "scan-2"


def test_no_log_has_no_rows(path):
    """Before the first scan there is nothing, and nothing is made."""
    assert scanlog.rows(path) == []
    assert not path.exists()
