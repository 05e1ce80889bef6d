"""Scan log, numbers and journal as hands, spreadsheets, power cuts and restores leave them."""

import csv
import io
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest

from limn.domain.errors import ConfigWrong
from limn.domain.records import ScanRecord
from limn.node.config import Config, load_config
from limn.node.serve import journal_watch, supervisor
from limn.node.serve.journal_watch import JournalWatch
from limn.node.store.disk import evidence, scanlog
from limn.node.store.journal.reader import JournalReader
from limn.node.store.salvage import replace_damaged
from tests.node.store.test_salvage import BUNDLE, TEXT, Site
from tests.support.node.parts import SCP, slices

DELIVERED = {"scan-00001 contoured": [("tps", "delivered"), ("archive", "delivered")]}


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Two folders as destinations; the first is the planning system."""
    (tmp_path / "limn.toml").write_text(TEXT)
    return load_config(tmp_path / "limn.toml")


def delivered(config: Config, *numbers: str) -> Site:
    """A node that delivered these animals."""
    site = Site(config)
    for number in numbers:
        site.contour(site.receive(number))
        site.deliver("tps", "archive")
    return site


def with_a_mark(path: Path) -> None:
    """As a spreadsheet saves UTF-8."""
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())


def with_zeros(path: Path) -> None:
    """As a power cut leaves the end of a file."""
    path.write_bytes(path.read_bytes() + bytes(4096))


def with_a_stray_quote(path: Path) -> None:
    """In a row of its own before the others, and in a long one at the end."""
    head, *rows = path.read_text().splitlines()
    stray = rows[0].replace("scan-00001", "scan-99990").replace("M1", '"M1', 1)
    long = stray + "x" * 200_000
    path.write_text("\n".join([head, stray, *rows, long]) + "\n")


def with_a_time_of_a_spreadsheet(path: Path) -> None:
    """The time of acceptance as one writes it there."""
    rows = list(csv.DictReader(io.StringIO(path.read_text())))
    for row in rows:
        row["accepted_utc"] = "24.11.2026 10:00"
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0].keys())
    writer.writeheader()
    writer.writerows(rows)
    path.write_text(text.getvalue())


EDITS = (with_a_mark, with_zeros, with_a_stray_quote, with_a_time_of_a_spreadsheet)


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
@pytest.mark.parametrize("lost", [False, True], ids=["journal sound", "journal lost"])
def test_an_edited_scan_log_ends_no_start_and_loses_no_end(
    config: Config, edit: Callable[[Path], None], lost: bool
) -> None:
    """What was delivered is not sent again."""
    site = delivered(config, "1")
    site.door.journal.close()
    edit(config.scan_log_path)
    if lost:
        site.start_without_journal()
    else:
        replace_damaged(config, BUNDLE)
        site.door = site._door()
    assert site.states() == DELIVERED


@pytest.mark.parametrize("lost", [False, True], ids=["journal sound", "journal lost"])
def test_a_last_row_that_is_torn_anywhere_ends_no_start(config: Config, lost: bool) -> None:
    """A power cut, or a full disk."""
    site = delivered(config, "1", "2")
    site.door.journal.close()
    *first, last = config.scan_log_path.read_bytes().splitlines(keepends=True)
    for size in range(1, len(last), 7):
        config.scan_log_path.write_bytes(b"".join(first) + last[:size])
        if lost:
            for path in config.data_dir.glob("journal.sqlite*"):
                path.unlink()
        replace_damaged(config, BUNDLE)
    site.door = site._door()
    assert site.states().items() >= DELIVERED.items()


def test_a_reason_of_several_lines_that_look_like_rows_is_one_row(config: Config) -> None:
    """Whoever wrote it."""
    reason = '1\n7,scan-00012,1,"delivered\n8,scan-00013,'
    for scan_id in ("scan-00001", "scan-00002"):
        record = ScanRecord(scan_id=scan_id, outcome="failed", animal="M1", reason=reason)
        scanlog.append(config.scan_log_path, record)
    rows = scanlog.rows(config.scan_log_path)
    assert [(row["scan_id"], row["reason"]) for row in rows] == [
        ("scan-00001", reason),
        ("scan-00002", reason),
    ]


def test_a_scan_log_that_is_a_folder_is_named(config: Config) -> None:
    """Without it nobody knows what was sent."""
    delivered(config, "1").door.journal.close()
    config.scan_log_path.unlink()
    config.scan_log_path.mkdir()
    with pytest.raises(ConfigWrong, match=r"scans.csv can't be read"):
        replace_damaged(config, BUNDLE)


@pytest.mark.parametrize("line", [b"99999999999999999999 x", b"9999999999 x", b"\xff\xfe 3", b"12"])
def test_a_line_of_the_numbers_that_is_not_limns_says_nothing(config: Config, line: bytes) -> None:
    """No number of ten digits, no number without an input."""
    site = delivered(config, "1")
    with (config.data_dir / "numbers").open("ab") as file:
        file.write(b"\n" + line)
    assert evidence.loss_of(config) == ""
    assert evidence.highest_noted(config.journal_path) == 1
    assert site.receive("2").name == "scan-00002"


def test_an_older_copy_that_knows_every_number_is_noticed_by_its_uids(config: Config) -> None:
    """By the copy the scan was broken off; it came whole, and was delivered, after it."""
    site = Site(config, hold_s=0.1)
    site.door.send(slices("1"))
    site.door.intake.association_ended(SCP.key, aborted=True)
    assert site.door.wait_for_scans(1)[-1].state == "refused"
    site.deliver("tps", "archive")
    site.keep_a_copy()
    resend(site)
    path = site.contour(site.door.journal.scan(1))
    site.deliver("tps", "archive")
    sent = (config.data_dir / "tps" / path.name).read_bytes()
    site.start_without_journal(with_copy=True)
    assert site.states() == DELIVERED
    assert (config.data_dir / "tps" / path.name).read_bytes() == sent


def test_a_copy_from_before_a_scan_got_other_uids_is_noticed(config: Config) -> None:
    """Nothing goes out under the second UID with other contents."""
    site = delivered(config, "1")
    path = config.results_dir / "scan-00001"
    site.keep_a_copy()
    next(path.glob("RS.*")).unlink()
    resend(site)
    site.door.journal.renew_uids(1, "20261201", "080000")
    site.contour(site.door.journal.scan(1)).unlink()
    second = site.door.journal.structure_set_of(1).sop_instance_uid
    site.door.journal.contoured(1, "", {"contoured_at": time.time()})
    write_row(config, site, second)
    site.start_without_journal(with_copy=True)
    assert site.door.journal.was_issued(second)
    resend(site)
    site.door.journal.renew_uids(1, "20261202", "090000")
    assert site.door.journal.structure_set_of(1).sop_instance_uid != second


def resend(site: Site) -> None:
    """The first series comes again, and its scan runs."""
    site.door.send(slices("1"))
    site.door.intake.association_ended(SCP.key, aborted=False)
    until = time.monotonic() + 5.0
    while site.door.journal.scan(1).state != "ready":
        site.door.intake.settle()
        assert time.monotonic() < until


def write_row(config: Config, site: Site, uid: str) -> None:
    """The row of a delivery under this UID, as the courier writes it."""
    rows = scanlog.rows(config.scan_log_path)
    last = rows[-1] | {"rtstruct_sop_instance_uid": uid, "outcome": "delivered"}
    text = io.StringIO()
    csv.DictWriter(text, last.keys(), lineterminator="\n").writerow(last)
    with config.scan_log_path.open("a") as file:
        file.write(text.getvalue())


def test_a_backup_that_sqlite_restores_into_a_running_node_is_noticed(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own `.restore` writes into the file that is there; no number is given twice meanwhile."""
    monkeypatch.setattr(journal_watch, "LOOK_S", 0.0)
    site = delivered(config, "1")
    with closing(JournalReader(config.journal_path)) as journal:
        journal.copy_to(config.data_dir / "backup.sqlite")
    site.contour(site.receive("2"))
    watch = JournalWatch(config.journal_path)
    assert not watch.is_replaced()
    with (
        closing(sqlite3.connect(config.data_dir / "backup.sqlite")) as backup,
        closing(sqlite3.connect(config.journal_path)) as running,
    ):
        backup.backup(running)
    assert watch.is_replaced()
    assert site.receive("3").name == "scan-00003"
    site.door.journal.close()
    replace_damaged(config, BUNDLE)
    assert not watch.is_replaced()


def test_an_error_that_nobody_expected_does_not_end_the_supervisor(
    config: Config, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It says so, and tries again."""

    def fails(*_: object) -> None:
        raise TypeError("a row without columns")

    monkeypatch.setattr(supervisor, "replace_damaged", fails)
    monkeypatch.setattr(supervisor, "LONGEST_PAUSE_S", 0.0)
    monkeypatch.setattr(supervisor, "deliverable_bundle", lambda _: SimpleNamespace(sha256=BUNDLE))
    site = Site(config)
    node = object.__new__(supervisor.Supervisor)
    node._config = config
    node._restore_journal([], JournalWatch(config.journal_path))
    site.door.journal.close()
    assert "it is tried again" in caplog.text
