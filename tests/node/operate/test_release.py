import io
import os
import re
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from limn.cli import exits, main
from limn.node.operate import decisions
from limn.node.store.journal.journal import Journal
from limn.node.store.journal.reader import JournalReader
from limn.node.store.journal.rows import ScanRow, StructureSetRow
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

    def scan(
        self, number: int, held: str | None, *also: str, flags: str = "", **changes: object
    ) -> ScanRow:
        """A contoured scan in the journal."""
        journal = Journal(self.data / "journal.sqlite")
        values = {"animal": f"M{number}", "series_instance_uid": f"2.25.{number}"} | changes
        row = journal.insert(arrived(**values), ("tps", "export", *also))
        assert row is not None
        journal.contoured(
            row.id, f"/rs/{number}.dcm", {"contoured_at": 1.8e9, "flags": flags}, held
        )
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

    def structure_set(self, row: ScanRow) -> StructureSetRow:
        """The structure set of a scan, with what a person decided about it."""
        with closing(JournalReader(self.data / "journal.sqlite")) as journal:
            return journal.structure_set_of(row.id)

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
    site.scan(1, WHY, input_digest="d2", files=("b.dcm",))
    assert site.release().count("scan-00002 is a newer version") == 1


def test_what_a_newer_version_with_all_its_slices_replaced_is_not_released(site):
    """Half an animal is held, and the whole one came: nobody need decide on the half."""
    half = site.scan(1, WHY, files=("a.dcm",))
    site.scan(1, None, input_digest="d2", files=("a.dcm", "b.dcm"))
    why = "scan-00002, a newer version of its series with all its slices, is there"
    assert f"scan-00001 is not held: it was discarded at 2027-01-15 08:00:00 UTC: {why}" in (
        site.refused("scan-00001")
    )
    assert site.states(half) == ["discarded", "discarded"]


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
        ("scan-00004", "scan-00004 is not held: it was superseded, so there is nothing to send"),
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
    journal.insert(arrived(series_instance_uid="2.25.4"), ("tps",))
    journal._db.execute("update scan set state = 'superseded' where id = 4")
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
    assert "scan-00001 --discard --why 'TEXT' --by NAME\n" in site.release()
    out = site.release("--discard", "scan-00001", "--why", "wrong animal,\nsee [note]")
    assert out.startswith(f"scan-00001 animal M1, held since 2027-01-15 08:00:00 UTC: {WHY}\n")
    assert out.endswith("scan-00001 animal M1 discarded, it is never sent; it stays in /rs/1.dcm\n")
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
    ("arguments", "said"),
    [
        (["scan-00001", "--discard"], "--discard wants SCAN and --why TEXT"),
        (["scan-00001", "--discard", "--by", "x"], "--discard wants SCAN and --why TEXT"),
        (["--discard", "--why", "x"], "--discard wants SCAN and --why TEXT"),
        (["--by", "x"], "--by, --why and --yes want SCAN"),
        (["--yes"], "--by, --why and --yes want SCAN"),
    ],
)
def test_discarding_wants_a_scan_and_a_reason(site, capsys, arguments, said):
    """Half of it is wrong usage, and nothing happens."""
    row = site.scan(1, WHY)
    with pytest.raises(SystemExit) as left:
        main.main(["release", "--config", str(site.config), *arguments])
    assert left.value.code == exits.EXIT_USAGE
    assert said in capsys.readouterr().err
    assert site.states(row) == ["held", "held"]


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        ("mirrored:SPR", "it is a mirror image"),
        ("DEMO sides-unsure:0.62", "left and right are in doubt"),
        ("lie-unsure:0.83", "left and right are in doubt"),
        ("light:red", "its light is red"),
    ],
)
def test_what_may_harm_an_animal_is_released_by_name(site, flags, why):
    """Without a name none of the named scans goes; the error has the command that does it."""
    row, other = site.scan(1, WHY, flags=flags), site.scan(2, WHY, flags="light:yellow:size")
    command = f"limn release --config '{site.config}' scan-00001 --by NAME"
    said = site.refused("scan-00001", "scan-00002")
    assert said == (
        f"limn: scan-00001 needs the name of the person who releases it, because {why}: {command}; "
        "nothing was released\n"
    )
    assert site.states(row) == site.states(other) == ["held", "held"]
    assert f"  flags    {flags}\n" in site.release()
    assert f"send it  {command}\n" in site.release()
    out = site.release("scan-00001", "scan-00002", "--by", "A. Smith", "--why", "same\nseries")
    assert f"scan-00001 animal M1 released by A. Smith (same series); it was held: {WHY}\n" in out
    structure_set = site.structure_set(row)
    assert (structure_set.released_by, structure_set.release_why) == ("A. Smith", "same series")
    assert site.states(row) == site.states(other) == ["waiting", "waiting"]
    assert "it was released by A. Smith (same series) at" in site.refused("scan-00001")


def test_a_name_is_kept_where_none_is_needed(site, capsys):
    """Also of the person who discards; `limn log` has it before the planning system answers."""
    rows = [site.scan(number, WHY, flags="mirrored:SPR") for number in (1, 2)]
    plain = site.scan(3, WHY)
    site.release("scan-00001", "--discard", "--why", "wrong export", "--by", "B. Lee")
    site.release("scan-00002", "--discard", "--why", "wrong export")
    site.release("scan-00003")
    assert [site.structure_set(row).discarded_by for row in rows] == ["B. Lee", ""]
    assert site.structure_set(plain).released_by == ""
    assert main.main(["log", "--config", str(site.config)]) == 0
    said = re.sub(r" at \S+ \S+ UTC", "", capsys.readouterr().out)
    assert f"scan-00001 animal M1: discarded by B. Lee: wrong export; it was held: {WHY}" in said
    assert f"scan-00002 animal M2: discarded: wrong export; it was held: {WHY}" in said
    assert f"scan-00003 animal M3: released; it was held: {WHY}\n" in said
    assert "scan-00003 animal M3: waits for tps" in said


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (("--by", "NAME"), "--by NAME: write your own words in place of NAME"),
        (("--by", " "), "--by is empty"),
        (("--by", "\u200b"), "--by is empty"),
        (("--by", "A" * 501), "--by has 501 characters, at most 500 fit into the scan log"),
        (("--by", "A", "--why", "TEXT"), "--why TEXT: write your own words in place of TEXT"),
        (("--by", "A", "--why", ""), "--why is empty"),
    ],
)
def test_a_placeholder_is_no_name(site, option, said):
    """A command that was pasted as limn printed it signs nothing."""
    row = site.scan(1, WHY, flags="mirrored:SPR")
    assert said in site.refused("scan-00001", *option)
    assert site.states(row) == ["held", "held"]


def test_a_scan_that_another_person_released_meanwhile_is_said(site, monkeypatch):
    """Between the question and the answer."""
    row = site.scan(1, WHY)

    def agreed(question, *, yes):
        with closing(Journal(site.data / "journal.sqlite")) as journal:
            return journal.release(row.id, 1.8e9, "A. Smith")

    monkeypatch.setattr("limn.node.operate.release.agreed", agreed)
    assert (
        "scan-00001 animal M1 does not wait for a person any more: it was released by A. Smith at"
    ) in site.release("scan-00001", "--by", "B. Lee")
    assert site.structure_set(row).released_by == "A. Smith"


@pytest.mark.parametrize(
    ("answer", "agrees"),
    [("y\n", True), ("Yes \n", True), ("n\n", False), ("\n", False), ("", False)],
)
def test_only_yes_is_yes(monkeypatch, answer, agrees):
    """No answer and a closed terminal are none; without a terminal nobody is asked."""
    terminal = io.StringIO(answer)
    monkeypatch.setattr(sys, "stdin", terminal)
    assert decisions.agreed("release?", yes=False), "a script has no terminal"
    for stream in (terminal, sys.stdout):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    assert decisions.agreed("release?", yes=True)
    assert decisions.agreed("release?", yes=False) is agrees


def test_a_person_at_a_terminal_is_asked(site):
    """The real command on a pseudo-terminal: one scan is released, the other stays held."""
    rows = [site.scan(number, WHY) for number in (1, 2)]
    ours, theirs = pytest.importorskip("pty", reason="no pseudo-terminal on Windows").openpty()
    command = [sys.executable, "-m", "limn.cli", "release", "--config", str(site.config)]
    with subprocess.Popen(
        [*command, "scan-00001", "scan-00002"], stdin=theirs, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        said = b""
        for answer in (b"n\n", b"y\n"):
            while not said.endswith(b"? [y/N] "):
                said += os.read(ours, 1000)
            os.write(ours, answer)
            said += b"|"
        assert process.wait(60) == 0
    os.close(ours)
    assert b"release scan-00001 to tps, export? [y/N] |" in said
    assert b"release scan-00002 to tps, export? [y/N] |" in said
    assert [site.states(row) for row in rows] == [["held"] * 2, ["waiting"] * 2]
