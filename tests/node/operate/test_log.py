import csv
import io
from pathlib import Path

import pytest

from limn.cli import main
from limn.domain.records import ScanRecord
from limn.node.store.disk import scanlog
from limn.node.store.journal.journal import Journal
from tests.support.node.parts import arrived

CONFIG = """
data_dir = "data"
[model]
bundle = "bundle"
[[destination]]
kind = "folder"
name = "export"
folder = "out"
"""


class Site:
    """A site's config, scan log and journal."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.config = folder / "limn.toml"
        self.config.write_text(CONFIG)
        self.data = folder / "data"
        self._capsys = capsys

    def logged(self, number: int, **changes: object) -> None:
        """A scan of the log, on day ``number`` of 2026."""
        values = {
            "scan_id": f"scan-{number:05d}",
            "animal": f"M{number}",
            "outcome": "delivered",
            "last_slice_utc": f"2026-01-{number:02d}T23:30:00.000+00:00",
            "accepted_utc": "2026-01-01T23:30:12.346+00:00",
            "door_to_door_s": 12.3456,
        }
        scanlog.append(self.data / "scans.csv", ScanRecord(**(values | changes)))

    def log(self, *options: str) -> str:
        """The output of `limn log`."""
        assert main.main(["log", "--config", str(self.config), *options]) == 0
        return self._capsys.readouterr().out

    def ids(self, *options: str) -> list[str]:
        """The scans that `limn log --csv` prints."""
        return [row["scan_id"] for row in csv.DictReader(io.StringIO(self.log("--csv", *options)))]


@pytest.fixture
def site(tmp_path, capsys, monkeypatch):
    """A site with three scans, on a wide terminal."""
    monkeypatch.setenv("COLUMNS", "200")
    made = Site(tmp_path, capsys)
    for number in (1, 2, 3):
        made.logged(number)
    return made


def test_the_table_shows_every_scan(site):
    """Id, time, animal, outcome and the seconds from door to door."""
    out = site.log()
    assert "3 scans" in out
    for number in (1, 2, 3):
        assert f"scan-{number:05d}" in out
        assert f"2026-01-{number:02d} 23:30:00" in out
        assert f" M{number} " in out
    assert "door to door s" in out
    assert out.count("12.35") == 3


def test_a_light_has_a_column_of_its_own(site):
    """The flags beside it don't repeat it."""
    site.logged(4, light="amber", flags="cut:Lung_L light:amber")
    (line,) = [line for line in site.log().splitlines() if "scan-00004" in line]
    assert line.split()[-2:] == ["amber", "cut:Lung_L"]


def test_the_reason_of_a_refusal_is_shown(site):
    """Why a scan was not contoured, as it was written."""
    site.logged(4, outcome="refused", reason="RescaleSlope absent")
    assert "RescaleSlope absent" in site.log()


def test_brackets_are_text(site):
    """An animal or a reason with brackets is shown as it is and breaks nothing."""
    site.logged(4, animal="[/b]", reason="ImageType ['A'] [bold]x")
    out = site.log()
    assert "[/b]" in out
    assert "ImageType ['A'] [bold]x" in out


def test_csv_has_every_column(site):
    """The CSV output is the log itself."""
    assert site.log("--csv") == (site.data / "scans.csv").read_text()


@pytest.mark.parametrize(
    ("since", "expected"),
    [
        ("2025-12-31", ["scan-00001", "scan-00002", "scan-00003"]),
        ("2026-01-02", ["scan-00002", "scan-00003"]),
        ("2026-01-04", []),
    ],
)
def test_since_a_day(site, since, expected):
    """Scans of this day and later, by UTC."""
    assert site.ids("--since", since) == expected
    assert f"{len(expected)} scans" in site.log("--since", since)


def test_one_animal(site):
    """Only this PatientID, not those that begin alike."""
    site.logged(10)
    assert site.ids("--animal", "M1") == ["scan-00001"]
    assert site.ids("--animal", "M1", "--since", "2026-01-02") == []


@pytest.mark.parametrize("since", ["yesterday", "2026-13-01", "01.02.2026", ""])
def test_a_day_that_is_none(site, since, capsys):
    """Exit code 1 and the form that is expected."""
    assert main.main(["log", "--config", str(site.config), "--since", since]) == 1
    assert "YYYY-MM-DD expected" in capsys.readouterr().err


def test_a_site_without_scans(tmp_path, capsys):
    """Before the first scan the log is empty, no error, and nothing is made."""
    site = Site(tmp_path, capsys)
    assert "0 scans" in site.log()
    assert site.ids() == []
    assert not site.data.exists()


def test_what_waits_is_listed(site):
    """Scans without a worker and structure sets without a destination, below the table."""
    journal = Journal(site.data / "journal.sqlite")
    journal.insert(arrived(animal="M8"), ("export",))
    row = journal.insert(arrived(animal="M9", series_instance_uid="2.25.9"), ("export", "tps"))
    journal.contoured(row.id, "/rs.dcm", {})
    export, tps = journal.deliveries(row.id)
    journal.delivered(export.id, "written", 1.0)
    journal.postponed(tps.id, "TPS does not answer", 2.0)
    journal.close()
    out = site.log()
    assert "scan-00001 animal M8: waits for a worker" in out
    assert "scan-00002 animal M9: waits for tps, 1 tries, last answer TPS does not answer" in out
    assert "waits for export" not in out


def test_a_summary(site):
    """Counts, times of each stage, each scanner and bundle, and the slowest scan and why."""
    usual = {"settle_s": 2.0, "queue_s": 0.1, "inference_s": 8.0, "sender": "CT@10.0.0.1"}
    for number in range(4, 20):
        site.logged(number, bundle="phantom-7", light="green", **usual)
    slow = usual | {"queue_s": 60.0, "door_to_door_s": 72.0, "flags": "light:amber held:90s"}
    site.logged(20, bundle="phantom-7", light="amber", **slow)
    site.logged(21, outcome="refused", accepted_utc="", door_to_door_s=None)
    out = site.log("--summary", "--since", "2026-01-04")
    assert "18 scans" in out
    assert "outcomes: delivered 17, refused 1" in out
    assert "lights:   green 16, amber 1" in out
    assert "flags:    held 1" in out
    lines = {line.strip().split("  ")[0]: line.split()[-3:] for line in out.splitlines()}
    assert lines["door to door"] == ["12.35", "72.00", "72.00"]
    assert lines["waiting: queue_s, in the queue"] == ["0.10", "60.00", "60.00"]
    assert lines["computing: inference_s, networks"] == ["8.00", "8.00", "8.00"]
    assert lines["waiting: for a person, 1 scans, in no other time"] == ["90.00"] * 3
    assert "slowest: scan-00020, animal M20, last slice 2026-01-20 23:30:00 UTC, 72.0 s" in out
    assert "in the queue 60.0 s, usually 0.10 s; waited 90 s for a person" in out
    assert "none of them was delivered" in site.log("--summary", "--light", "red")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--until", "2026-01-02"), ["scan-00001", "scan-00002"]),
        (("--light", "red"), ["scan-00004"]),
        (("--flag", "cut"), ["scan-00004"]),
        (("--slower-than", "20"), ["scan-00004"]),
        (("--scanner", "CT*", "--bundle", "phantom-*"), ["scan-00004"]),
    ],
)
def test_what_else_chooses(site, options, expected):
    """The table has the same scans as the CSV."""
    more = {"light": "red", "flags": "cut:Lung_L", "sender": "CT@1", "bundle": "phantom-7"}
    site.logged(4, door_to_door_s=21.5, **more)
    assert site.ids(*options) == expected
    table = site.log(*options)
    assert [name for name in table.split() if name.startswith("scan-0")] == expected


@pytest.mark.parametrize(
    "options", [("--until", "soon"), ("--light", "blue"), ("--slower-than", "slow"), ("--flag", "")]
)
def test_an_option_that_can_not_be_read(site, options, capsys):
    """Exit code 1; the option and its value are named."""
    assert main.main(["log", "--config", str(site.config), *options]) == 1
    assert f"{options[0]} {options[1] or 'is empty'}" in capsys.readouterr().err
