import csv
import errno
import io
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limn.domain.records import ScanRecord
from limn.node.store.disk import scanlog

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
    assert next(csv.DictReader(io.StringIO(path.read_text())))["schema_version"] == "3"


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


def test_a_row_that_was_torn_anywhere_is_made_whole(path, monkeypatch):
    """A kill or a power cut after any byte, in the first row with its header or in a later one."""
    # What is torn is torn here by hand; a thousand times the disk would be waited for.
    monkeypatch.setattr("os.fsync", lambda file: None)
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


FORMULAS = ["=cmd|'/C calc'!A0", "@SUM(1+1)*2", "+1", "-2+3", "\t=1", " =1", "'=1", "＝1"]


@pytest.mark.parametrize("text", FORMULAS)
def test_a_spreadsheet_takes_no_name_for_a_formula(path, text):
    """A PatientID is what a stranger typed; the file shows it as text, limn reads it unchanged."""
    scanlog.append(path, ScanRecord(scan_id="scan-00001", animal=text, reason=text))
    with path.open(newline="") as file:
        (raw,) = csv.DictReader(file)
    assert raw["animal"] == raw["reason"] == f"'{text}"
    (row,) = scanlog.rows(path)
    assert row["animal"] == row["reason"] == text
    assert scanlog.last_rows(path, 1) == [row]
    before = path.read_bytes()
    scanlog.append(path, ScanRecord(scan_id="scan-00001", animal=text, reason=text))
    assert path.read_bytes() == before


def test_a_negative_duration_stays_a_number(path):
    """Only what a person or a device typed gets an apostrophe."""
    scanlog.append(path, ScanRecord(scan_id="scan-00001", queue_s=-0.5))
    with path.open(newline="") as file:
        (raw,) = csv.DictReader(file)
    assert raw["queue_s"] == "-0.5"


def test_a_long_log_is_never_read_whole(path, monkeypatch):
    """Nor for a new row, nor for the last ones; a row that is there already is still found."""
    records = [ScanRecord(scan_id=f"scan-{k:05d}", reason="two\nlines") for k in range(1, 200)]
    for record in records[:3]:
        scanlog.append(path, record)
    with path.open("ab") as file:
        for record in records[3:]:
            file.write(scanlog._text([record], with_header=False))
    monkeypatch.setattr(scanlog, "TAIL_BYTES", 4000)

    def whole(*_):
        pytest.fail("the whole log was read")

    with monkeypatch.context() as patched:
        patched.setattr(scanlog, "rows", whole)
        patched.setattr(type(path), "read_bytes", whole)
        before = path.stat().st_size
        scanlog.append(path, records[-1])
        assert path.stat().st_size == before
        scanlog.append(path, ScanRecord(scan_id="scan-00200"))
        names = [row["scan_id"] for row in scanlog.last_rows(path, 3)]
        assert names == ["scan-00198", "scan-00199", "scan-00200"]
    assert len(scanlog.rows(path)) == 200


def test_a_row_that_was_torn_at_the_end_of_a_long_log_is_made_whole(path, monkeypatch):
    """The end alone says where the last whole row ends."""
    monkeypatch.setattr(scanlog, "TAIL_BYTES", 2000)
    for k in range(20):
        scanlog.append(path, ScanRecord(scan_id=f"scan-{k:05d}", reason="two\nlines"))
    before = path.stat().st_size
    scanlog.append(path, TORN)
    whole = path.read_bytes()
    for count in range(before, len(whole), 7):
        path.write_bytes(whole[:count])
        scanlog.append(path, TORN)
        assert path.read_bytes() == whole


def test_a_follower_reads_each_row_once(path):
    """The metrics page sees a log that grows, is replaced and has a row that is half written."""
    scanlog.append(path, ScanRecord(scan_id="scan-00001", reason="two\nlines"))
    follower = scanlog.LogFollower(path, scanlog.as_it_is)
    assert [row["scan_id"] for row in follower.rows()] == ["scan-00001"]
    whole = path.read_bytes()
    scanlog.append(path, ScanRecord(scan_id="scan-00002", animal="=1"))
    grown = path.read_bytes()
    path.write_bytes(grown[:-5])
    assert len(follower.rows()) == 1
    path.write_bytes(grown)
    assert [row["animal"] for row in follower.rows()] == ["", "=1"]
    path.write_bytes(whole)
    assert len(follower.rows()) == 1


@pytest.mark.skipif(os.name != "posix", reason="POSIX modes")
def test_a_new_log_is_for_its_owner_alone(path):
    """As journal and spool are; the mode that a site gave to its log stays."""
    path.parent.mkdir(mode=0o755)
    scanlog.append(path, ScanRecord(scan_id="scan-00001"))
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o640)
    scanlog.append(path, ScanRecord(scan_id="scan-00002"))
    assert path.stat().st_mode & 0o777 == 0o640
