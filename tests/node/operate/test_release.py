import re
import time
from pathlib import Path

import pytest

from limn.cli import exits, main
from limn.node.store.journal.journal import Journal
from limn.node.store.journal.rows import ScanRow
from tests.support.node.parts import arrived

CONFIG = """
data_dir = "data"
[model]
bundle = "bundle"
[[destination]]
kind = "dicom"
name = "tps"
ae_title = "TPS"
host = "10.0.0.5"
port = 104
[[destination]]
kind = "folder"
name = "export"
folder = "out"
"""
WHY = "mirrored image [x]: no turn of the animal explains it"


class Site:
    """A site's config and journal, and the output of its commands."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder / "a site"
        self.folder.mkdir()
        self.config = self.folder / "limn.toml"
        self.config.write_text(CONFIG)
        self.data = self.folder / "data"
        self._capsys = capsys

    def scan(self, number: int, held: str | None, *also: str, **changes: object) -> ScanRow:
        """A contoured scan in the journal."""
        journal = Journal(self.data / "journal.sqlite")
        values = {"animal": f"M{number}", "series_instance_uid": f"2.25.{number}"} | changes
        row = journal.insert(arrived(**values), ("tps", "export", *also))
        assert row is not None
        journal.contoured(row.id, f"/rs/{number}.dcm", {"contoured_at": 1.8e9}, held)
        journal.close()
        return row

    def release(self, *scans: str) -> str:
        """The output of `limn release`."""
        assert main.main(["release", "--config", str(self.config), *scans]) == 0
        return self._capsys.readouterr().out

    def refused(self, *scans: str) -> str:
        """Why `limn release` does nothing."""
        assert main.main(["release", "--config", str(self.config), *scans]) == 1
        return self._capsys.readouterr().err

    def states(self, row: ScanRow) -> list[str]:
        """The states of a scan's deliveries."""
        journal = Journal(self.data / "journal.sqlite")
        states = [each.state for each in journal.deliveries(row.id)]
        journal.close()
        return states


@pytest.fixture
def site(tmp_path, capsys, monkeypatch):
    """A site with a narrow terminal."""
    monkeypatch.setenv("COLUMNS", "60")
    return Site(tmp_path, capsys)


def test_what_is_held_is_listed_with_the_command_that_sends_it(site):
    """Scan, animal, since when, why, where to look; the command in one line, fit to paste."""
    site.scan(1, None)
    row = site.scan(2, WHY)
    out = site.release()
    assert "scan-00001" not in out
    assert f"scan-00002 animal M2, held since 2027-01-15 08:00:00 UTC: {WHY}\n" in out
    assert f"look at  {site.data}/scans/scan-00002/picture.png\n" in out
    assert f"limn release --config '{site.config}' scan-00002\n" in out
    assert site.states(row) == ["held", "held"]


def test_a_newer_version_is_named(site):
    """An operator who releases an old version of a series reads that there is a newer one."""
    site.scan(1, WHY)
    site.scan(1, WHY, input_digest="d2")
    assert site.release().count("scan-00002 is a newer version") == 1


def test_releasing_says_what_goes_where(site):
    """The file, and every destination with its address; nothing else is released."""
    row, other = site.scan(1, WHY, "gone"), site.scan(2, WHY)
    out = site.release("scan-00001")
    assert f"scan-00001 animal M1 released; it was held: {WHY}\n" in out
    assert "/rs/1.dcm -> tps, TPS@10.0.0.5:104\n" in out
    assert f"/rs/1.dcm -> export, {site.folder}/out\n" in out
    assert "/rs/1.dcm -> gone, which the config no longer names" in out
    assert site.states(row) == ["waiting"] * 3
    assert site.states(other) == ["held", "held"]
    assert "scan-00001" not in site.release()


def test_several_and_the_same_twice(site):
    """All that were named, each once."""
    rows = [site.scan(number, WHY) for number in (1, 2)]
    out = site.release("scan-00002", "scan-00001", "scan-00002")
    assert len(re.findall("released;", out)) == 2
    assert [site.states(row) for row in rows] == [["waiting"] * 2] * 2
    assert site.release() == "nothing is held\n"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("scan-00009", "scan-00009 is unknown; `limn log` lists the scans"),
        ("M1", "M1 is unknown"),
        ("scan-00002", "scan-00002 is not held: it waits for tps, it waits for export"),
        ("scan-00003", "scan-00003 is not held: it is not contoured yet"),
        ("scan-00004", "scan-00004 is not held: it was refused, so there is nothing to send"),
        ("scan-00005", "scan-00005 is not held: it was released at 2025-12-31 16:53:20 UTC"),
        ("scan-00006", "scan-00006 is not held: tps REFUSED it with 0xC000, export has it"),
        (
            "scan-00007",
            "scan-00007 is not held: it was discarded at 2025-12-31 16:53:20 UTC: wrong export",
        ),
    ],
)
def test_what_is_not_held_is_named_and_nothing_is_released(site, name, why):
    """One wrong name among right ones: the error names it and why, and none is released."""
    held = site.scan(1, WHY)
    site.scan(2, None)
    journal = Journal(site.data / "journal.sqlite")
    journal.insert(arrived(series_instance_uid="2.25.3"), ("tps",))
    journal.insert(arrived(series_instance_uid="2.25.4", refused="broke off"), ("tps",))
    journal.release(site.scan(5, WHY).id, 1.7672e9)
    for delivery, outcome in zip(
        journal.deliveries(site.scan(6, None).id), ("0xC000", ""), strict=True
    ):
        if outcome:
            journal.refused(delivery.id, outcome)
        else:
            journal.delivered(delivery.id, "written", time.time())
    journal.discard(site.scan(7, WHY).id, "wrong export", 1.7672e9)
    journal.close()
    for command, become in (([], "released"), (["--discard", "--why", "wrong"], "discarded")):
        said = site.refused("scan-00001", name, *command)
        assert why in said
        assert f"nothing was {become}" in said
        assert "scan-00001" not in said
        assert site.states(held) == ["held", "held"]


def test_a_site_without_scans(site):
    """No scan is held, any name is unknown, and no file is created."""
    assert site.release() == "nothing is held\n"
    assert "scan-00001: unknown" in site.refused("scan-00001")
    assert not site.data.exists()


def test_the_log_says_it_in_one_line(site, capsys):
    """`limn log` shows below its table each held scan, the reason and the command."""
    site.scan(1, WHY)
    assert main.main(["log", "--config", str(site.config)]) == 0
    out = capsys.readouterr().out
    assert (
        f"scan-00001 animal M1: HELD, not sent: {WHY}; look at "
        f"{site.data}/scans/scan-00001/picture.png and, if it is right, run: "
        f"limn release --config '{site.config}' scan-00001\n"
    ) in out
    assert "REFUSED" not in out


def test_discarding_says_where_the_file_stays(site):
    """It is neither held nor released, and is listed with its reason on one line."""
    row, other = site.scan(1, WHY), site.scan(2, WHY)
    assert "scan-00001 --discard --why 'TEXT'\n" in site.release()
    out = site.release("--discard", "scan-00001", "--why", "wrong animal,\nsee [note]")
    assert out == "scan-00001 animal M1 discarded, it is never sent; it stays in /rs/1.dcm\n"
    assert site.states(row) == ["discarded", "discarded"]
    listed = site.release()
    assert "send it" in listed
    assert re.search(
        r"^scan-00001 animal M1, discarded at \S+ \S+ UTC: wrong animal, see \[note\]; "
        rf"it was held: {re.escape(WHY)}; it stays in /rs/1\.dcm$",
        listed,
        re.MULTILINE,
    )
    assert "it was discarded at" in site.refused("scan-00001")
    site.release("scan-00002")
    assert site.states(other) == ["waiting", "waiting"]
    assert site.states(row) == ["discarded", "discarded"]
    assert site.release().startswith("nothing is held\nscan-00001 animal M1, discarded")


def test_the_log_shows_what_was_discarded(site, capsys):
    """One line with the reason; it is neither held nor refused."""
    site.scan(1, WHY)
    site.release("scan-00001", "--discard", "--why", "wrong export")
    assert main.main(["log", "--config", str(site.config)]) == 0
    out = capsys.readouterr().out
    assert re.search(
        r"^scan-00001 animal M1: discarded at \S+ \S+ UTC: wrong export; ", out, re.MULTILINE
    )
    assert "REFUSED" not in out
    assert "HELD" not in out
    journal = Journal(site.data / "journal.sqlite")
    journal.mark_logged(1)
    journal.close()
    main.main(["log", "--config", str(site.config)])
    assert "scan-00001 animal" not in capsys.readouterr().out


def test_discarding_at_a_site_without_scans(site):
    """Any name is unknown, and nothing is made."""
    assert "scan-00001: unknown" in site.refused("scan-00001", "--discard", "--why", "x")
    assert not site.data.exists()


def test_a_reason_has_words(site):
    """Spaces are none."""
    row = site.scan(1, WHY)
    assert "--why is empty" in site.refused("scan-00001", "--discard", "--why", " \n")
    assert site.states(row) == ["held", "held"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["scan-00001", "--discard"],
        ["scan-00001", "--why", "x"],
        ["--discard", "--why", "x"],
    ],
)
def test_discarding_wants_a_scan_and_a_reason(site, capsys, arguments):
    """Half of it is wrong usage, and nothing happens."""
    row = site.scan(1, WHY)
    with pytest.raises(SystemExit) as left:
        main.main(["release", "--config", str(site.config), *arguments])
    assert left.value.code == exits.EXIT_USAGE
    assert "--discard wants SCAN and --why TEXT" in capsys.readouterr().err
    assert site.states(row) == ["held", "held"]
