"""A damaged journal: renamed and replaced, nothing delivered twice and no number given twice."""

import logging
import sqlite3
from contextlib import closing
from pathlib import Path

import pydicom
import pytest

from limn.cli import exits, main
from limn.domain.errors import ConfigWrong
from limn.node.config import Config, load_config
from limn.node.deliver.courier import Courier
from limn.node.store import salvage
from limn.node.store.disk import evidence, scanlog
from limn.node.store.disk.contacts import DestinationContacts
from limn.node.store.journal.journal import Journal
from limn.node.store.journal.reader import JournalReader
from limn.node.store.journal.rows import ScanRow
from limn.node.store.salvage import fault_of, replace_damaged
from tests.support.node.parts import COUNT, SCP, Door, slices, structure_set

BUNDLE = "b" * 64
TEXT = """\
data_dir = "."
model.bundle = "bundle"
[[destination]]
kind = "folder"
name = "tps"
folder = "tps"
[[destination]]
kind = "folder"
name = "archive"
folder = "archive"
"""


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Two folders as destinations; the first is the planning system."""
    (tmp_path / "limn.toml").write_text(TEXT)
    return load_config(tmp_path / "limn.toml")


class Site:
    """A node's disk, with the parts of a node on it; the worker is left out."""

    def __init__(self, config: Config, hold_s: float = 30.0) -> None:
        self.config = config
        self.hold_s = hold_s
        self.door = self._door()

    def _door(self) -> Door:
        return Door(self.config.data_dir, destinations=("tps", "archive"), hold_s=self.hold_s)

    def receive(self, number: str) -> ScanRow:
        """A series through the door."""
        before = len(self.door.journal.scans())
        self.door.send(slices(number))
        self.door.intake.association_ended(SCP.key, aborted=False)
        return self.door.wait_for_scans(before + 1)[-1]

    def contour(self, row: ScanRow, held: str | None = None) -> Path:
        """Files a worker's result as the engine does."""
        known = self.door.journal.structure_set_of(row.id)
        ds = structure_set(known.sop_instance_uid)
        ds.StructureSetDate, ds.StructureSetTime = known.date, known.time
        path = self.config.results_dir / row.name / f"RS.{known.sop_instance_uid}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        ds.save_as(path, enforce_file_format=True)
        self.door.journal.contoured(row.id, str(path), {"contoured_at": row.ready_at}, held)
        return path

    def deliver(self, *names: str) -> None:
        """Let the couriers of these destinations work once."""
        for number, destination in enumerate(self.config.destination):
            if destination.name in names:
                Courier(
                    destination,
                    self.door.journal,
                    self.config.scan_log_path,
                    "LIMN",
                    keeps_scan_log=number == 0,
                    contacts=DestinationContacts(self.config.destinations_path),
                ).work()

    def lose_the_journal(self) -> Path:
        """Damage the file as a failing disk does; the node is stopped and starts again."""
        self.door.journal.close()
        for suffix in ("-wal", "-shm"):
            self.config.journal_path.with_name(f"journal.sqlite{suffix}").unlink(missing_ok=True)
        contents = bytearray(self.config.journal_path.read_bytes())
        contents[100:4000] = b"\xff" * 3900
        self.config.journal_path.write_bytes(contents)
        aside = replace_damaged(self.config, BUNDLE)
        assert aside is not None
        assert aside.read_bytes() == contents
        self.door = self._door()
        self.door.intake.recover()
        self.door.intake.settle()
        return aside

    def keep_a_copy(self) -> None:
        """What a careless backup of a stopped node has."""
        with closing(JournalReader(self.config.journal_path)) as journal:
            journal.copy_to(self.config.data_dir / "yesterday.sqlite")
        with closing(sqlite3.connect(self.config.data_dir / "yesterday.sqlite")) as db:
            db.execute("delete from copied")
            db.commit()

    def start_without_journal(self, *, with_copy: bool = False) -> None:
        """Delete the journal, or put the copy back; the node is stopped and starts again."""
        self.door.journal.close()
        for path in self.config.data_dir.glob("journal.sqlite*"):
            path.unlink()
        if with_copy:
            (self.config.data_dir / "yesterday.sqlite").rename(self.config.journal_path)
        replace_damaged(self.config, BUNDLE)
        self.door = self._door()
        self.door.intake.recover()
        self.door.intake.settle()

    def states(self) -> dict[str, list[tuple[str, str]]]:
        """Every scan of the journal with its deliveries."""
        journal = self.door.journal
        return {
            f"{row.name} {row.state}": [
                (each.destination, each.state) for each in journal.deliveries(row.id)
            ]
            for row in journal.scans()
        }


def test_a_delivered_scan_is_known_and_not_sent_again(config: Config) -> None:
    """Its number, UIDs and deliveries are as before; the couriers have nothing to do."""
    site = Site(config)
    site.contour(site.receive("1"))
    site.deliver("tps", "archive")
    before = site.states()
    assert before == {"scan-00001 contoured": [("tps", "delivered"), ("archive", "delivered")]}
    uid = site.door.journal.structure_set_of(1).sop_instance_uid
    aside = site.lose_the_journal()
    assert aside.name.startswith("journal.sqlite.corrupt-2")
    assert site.states() == before
    assert site.door.journal.structure_set_of(1).sop_instance_uid == uid
    assert site.door.journal.due("tps", 4e9) is None
    assert not site.door.journal.unlogged_ends("tps")
    assert len(scanlog.rows(config.scan_log_path)) == 1


def test_one_that_is_sent_again_all_the_same_changes_nothing(config: Config) -> None:
    """The series comes a second time after the loss: no second structure set."""
    site = Site(config)
    site.contour(site.receive("1"))
    site.deliver("tps", "archive")
    site.lose_the_journal()
    site.door.send(slices("1"))
    site.door.intake.association_ended(SCP.key, aborted=False)
    site.door.intake.settle()
    assert list(site.states()) == ["scan-00001 contoured"]


def test_one_that_waits_runs_again_as_the_same_file(config: Config) -> None:
    """The archive has it already: the planning system must get the same bytes later."""
    site = Site(config)
    row = site.receive("1")
    path = site.contour(row)
    ds = pydicom.dcmread(path)
    ds.StructureSetDate, ds.StructureSetTime = "20260102", "030405"
    ds.save_as(path, enforce_file_format=True)
    site.lose_the_journal()
    known = site.door.journal.structure_set_of(1)
    assert (known.sop_instance_uid, known.date, known.time) == (
        str(ds.SOPInstanceUID),
        "20260102",
        "030405",
    )
    assert site.states() == {"scan-00001 ready": [("tps", "waiting"), ("archive", "waiting")]}


def test_one_that_was_discarded_stays_so(config: Config) -> None:
    """A person discarded it; the loss of the journal does not undo that."""
    site = Site(config)
    row = site.receive("1")
    site.contour(row, held="mirrored")
    site.door.journal.discard(row.id, "wrong animal", 1.8e9)
    site.deliver("tps")
    assert [each["outcome"] for each in scanlog.rows(config.scan_log_path)] == ["discarded"]
    site.lose_the_journal()
    assert site.states() == {
        "scan-00001 contoured": [("tps", "discarded"), ("archive", "discarded")]
    }
    kept = site.door.journal.structure_set_of(1)
    assert "wrong animal" in (kept.discarded or "")
    assert site.door.journal.on_hold() == []


def test_a_destination_that_lacked_it_still_gets_it(config: Config) -> None:
    """Delivered to the planning system, not yet to the archive."""
    site = Site(config)
    site.contour(site.receive("1"))
    site.deliver("tps")
    site.lose_the_journal()
    assert site.states() == {"scan-00001 contoured": [("tps", "delivered"), ("archive", "waiting")]}
    site.deliver("tps", "archive")
    assert len(list((config.data_dir / "archive").iterdir())) == 1


def test_no_number_is_given_twice(config: Config) -> None:
    """A scan whose slices are gone keeps its number: its folder and its row bear it."""
    site = Site(config)
    for number in ("1", "2", "3"):
        site.contour(site.receive(number))
    site.deliver("tps", "archive")
    for row in site.door.journal.scans()[1:]:
        for name in row.files:
            (Path(row.folder) / name).unlink()
    site.lose_the_journal()
    assert [row.name for row in site.door.journal.scans()] == ["scan-00001"]
    assert site.receive("4").name == "scan-00004"


def test_a_series_that_was_not_contoured_is_taken_up_as_new(config: Config) -> None:
    """Whole in the spool, in no log: the receiver hands it to the new journal."""
    site = Site(config)
    site.contour(site.receive("1"))
    site.deliver("tps", "archive")
    site.receive("2")
    site.lose_the_journal()
    site.door.wait_for_scans(2)
    assert list(site.states()) == ["scan-00001 contoured", "scan-00002 ready"]


def test_it_is_said_loudly(config: Config, caplog: pytest.LogCaptureFixture) -> None:
    """The message names the damaged file, its new name and what to compare."""
    site = Site(config)
    site.contour(site.receive("1"))
    site.deliver("tps", "archive")
    with caplog.at_level(logging.CRITICAL):
        aside = site.lose_the_journal()
    assert "THE JOURNAL IS DAMAGED" in caplog.text
    assert aside.name in caplog.text
    assert "1 scans of the spool are known" in caplog.text


def test_a_sound_journal_is_left_alone(config: Config) -> None:
    """Also one that another process has open and has not written back yet."""
    site = Site(config)
    site.receive("1")
    assert fault_of(config.journal_path) == ""
    assert replace_damaged(config, BUNDLE) is None
    assert len(site.door.journal.scans()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["no database", "cut off", "index"])
def test_damage_is_found(config: Config, damage: str) -> None:
    """Another file in its place, half a file, and pages that contradict each other."""
    site = Site(config)
    for number in range(30):
        site.door.journal.number_from(number)
        site.receive(str(number))
    site.door.journal.close()
    path = config.journal_path
    assert fault_of(path) == ""
    if damage == "no database":
        path.write_text("no database " * 100)
    elif damage == "cut off":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 // 4096 * 4096])
    else:
        with sqlite3.connect(path) as db:
            db.execute("pragma writable_schema = on")
            db.execute(
                "update sqlite_schema set rootpage = (select rootpage from sqlite_schema "
                "where name = 'delivery') where name = 'scan'"
            )
    assert fault_of(path)


def test_a_journal_that_may_not_be_read_is_not_thrown_out(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk or missing rights are no damage: the operator mends them, nothing moves."""
    Journal(config.journal_path).close()

    def refuse(*_: object, **__: object) -> sqlite3.Connection:
        error = sqlite3.OperationalError("unable to open database file")
        error.sqlite_errorcode = sqlite3.SQLITE_CANTOPEN
        raise error

    monkeypatch.setattr(sqlite3, "connect", refuse)
    with pytest.raises(ConfigWrong, match=r"unable to open.*look at the disk"):
        replace_damaged(config, BUNDLE)
    assert config.journal_path.exists()


def test_a_damaged_memory_of_the_watched_folder_is_begun_anew(config: Config) -> None:
    """It only spares work; the node starts without it."""
    (config.data_dir / "watched.sqlite").write_text("no database " * 100)
    assert replace_damaged(config, BUNDLE) is None
    (kept,) = config.data_dir.glob("watched.sqlite*")
    assert kept.name.startswith("watched.sqlite.corrupt-")


def test_a_command_says_that_the_journal_is_damaged(
    config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line with the remedy instead of a traceback."""
    config.journal_path.write_text("no database " * 100)
    code = main.main(["release", "--config", str(config.data_dir / "limn.toml")])
    assert code == exits.EXIT_WRONG
    said = capsys.readouterr().err
    assert said.startswith("limn: the journal can't be read (file is not a database)")
    assert said.count("\n") == 1


def test_a_journal_that_was_deleted_is_restored(
    config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    """One scan was delivered, one waited for its worker: each keeps its number, none goes again."""
    site = Site(config)
    site.receive("1")
    site.contour(site.receive("2"))
    site.deliver("tps", "archive")
    site.start_without_journal()
    site.door.wait_for_scans(2)
    assert site.states() == {
        "scan-00001 ready": [("tps", "waiting"), ("archive", "waiting")],
        "scan-00002 contoured": [("tps", "delivered"), ("archive", "delivered")],
    }
    assert [row.animal for row in site.door.journal.scans()] == ["M1", "M2"]
    assert site.receive("3").name == "scan-00003"
    assert "THE JOURNAL HAS LOST SCANS" in caplog.text
    assert "scan-00002" in caplog.text


def test_a_number_without_any_file_is_not_given_to_another_animal(config: Config) -> None:
    """A scan that waited has no row and no result, and its slices were lost with the journal."""
    site = Site(config)
    row = site.receive("1")
    for name in row.files:
        (Path(row.folder) / name).unlink()
    site.start_without_journal()
    assert site.receive("2").name == "scan-00002"


def test_an_older_copy_is_brought_up_to_date(
    config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    """Since the copy one scan was delivered and another came; the copy knows neither."""
    site = Site(config)
    first = site.receive("1")
    site.keep_a_copy()
    site.contour(first)
    site.contour(site.receive("2"))
    site.deliver("tps", "archive")
    before = site.states()
    uids = [site.door.journal.structure_set_of(number).sop_instance_uid for number in (1, 2)]
    site.start_without_journal(with_copy=True)
    assert site.states() == before
    journal = site.door.journal
    assert [journal.structure_set_of(number).sop_instance_uid for number in (1, 2)] == uids
    assert journal.due("tps", 4e9) is None
    assert journal.unlogged_ends("tps") == []
    assert site.receive("3").name == "scan-00003"
    assert "older copy" in caplog.text
    assert len(list(config.data_dir.glob("journal.sqlite.older-*"))) == 1


def test_a_copy_by_which_a_delivered_scan_waits_is_noticed(config: Config) -> None:
    """No scan came since, but one was delivered: it is not sent again."""
    site = Site(config)
    site.contour(site.receive("1"))
    site.keep_a_copy()
    site.deliver("tps", "archive")
    before = site.states()
    site.start_without_journal(with_copy=True)
    assert site.states() == before


@pytest.mark.parametrize("with_copy", [False, True])
def test_each_animal_of_a_field_is_restored_as_what_it_was(
    config: Config, *, with_copy: bool
) -> None:
    """The first was delivered, the second is on disk, the third had a number and no more."""
    site = Site(config)
    first = site.receive("1")
    site.keep_a_copy()
    second, third = site.door.journal.add_animals(first.id, [2, 3], ["tps", "archive"])
    for row in (first, second):
        site.contour(row)
        site.deliver("tps", "archive") if row is first else None
    uids = {
        row.name: site.door.journal.structure_set_of(row.id).sop_instance_uid
        for row in (first, second, third)
    }
    site.start_without_journal(with_copy=with_copy)
    journal = site.door.journal
    found = journal.animals_of(first.id)
    assert [(row.name, row.animal_number, row.state) for row in found] == [
        (first.name, 1, "contoured"),
        (second.name, 2, "ready"),
        (third.name, 3, "ready"),
    ]
    assert {row.field for row in found[1:]} == {first.id}
    assert uids == {row.name: journal.structure_set_of(row.id).sop_instance_uid for row in found}
    assert [row.name for row in journal.ready()] == [second.name, third.name]


@pytest.mark.parametrize("discarded", [False, True])
def test_an_older_version_that_ended_after_the_copy_is_not_contoured_again(
    config: Config, discarded: bool
) -> None:
    """By the copy its worker runs; its slices are now a part of those of the newer version."""
    site = Site(config)
    site.door.send(slices("1"))
    site.door.intake.association_ended(SCP.key, aborted=False)
    (half,) = site.door.wait_for_scans(1)
    site.keep_a_copy()
    site.contour(half, held="mirrored" if discarded else None)
    if discarded:
        site.door.journal.discard(half.id, "bad", 4.0)
    site.door.send(slices("1", COUNT + 5))
    site.door.intake.association_ended(SCP.key, aborted=False)
    whole = site.door.wait_for_scans(2)[-1]
    site.contour(whole)
    for _ in range(2):
        site.deliver("tps", "archive")
    before = site.states()
    site.start_without_journal(with_copy=True)
    assert site.states() == before
    assert site.door.journal.ready() == []


def test_a_structure_set_that_may_be_at_a_peer_keeps_its_contents_or_gets_another_uid(
    config: Config,
) -> None:
    """Its slices are gone with the journal; the series comes again on another day."""
    site = Site(config)
    known = []
    for number in ("1", "2"):
        row = site.receive(number)
        path = site.contour(row)
        ds = pydicom.dcmread(path)
        ds.StructureSetDate, ds.StructureSetTime = "20260102", "030405"
        ds.save_as(path, enforce_file_format=True)
        known.append((str(ds.SOPInstanceUID), path))
        for name in row.files:
            (Path(row.folder) / name).unlink()
    site.deliver("tps", "archive")
    known[1][1].unlink()
    site.start_without_journal()
    site.receive("1")
    site.receive("2")
    first, second = (site.door.journal.structure_set_of(row.id) for row in site.door.scans())
    assert (first.sop_instance_uid, first.date) == (known[0][0], "20260102")
    assert second.sop_instance_uid != known[1][0]


def test_what_a_node_leaves_behind_at_a_kill_is_no_loss(config: Config) -> None:
    """A structure set is on disk and a row is in the log before the journal says so."""
    site = Site(config)
    site.contour(site.receive("1"))
    site.deliver("tps", "archive")
    row = site.receive("2")
    uid = site.door.journal.structure_set_of(row.id).sop_instance_uid
    path = config.results_dir / row.name / f"RS.{uid}.dcm"
    path.parent.mkdir()
    path.write_bytes(b"half")
    with sqlite3.connect(config.journal_path) as db:
        db.execute("update scan set logged = 0")
    assert evidence.loss_of(config) == ""
    assert replace_damaged(config, BUNDLE) is None


def test_a_mended_journal_is_sound_at_the_next_start(config: Config) -> None:
    """The evidence is still there, and says nothing new."""
    site = Site(config)
    site.contour(site.receive("1"))
    site.receive("2")
    site.deliver("tps", "archive")
    site.start_without_journal()
    assert evidence.loss_of(config) == ""


def test_a_number_that_a_kill_left_unused_is_kept_for_its_input(config: Config) -> None:
    """It was noted, and the journal's transaction did not end; another series comes first."""
    site = Site(config)
    row = site.receive("1")
    with sqlite3.connect(config.journal_path) as db:
        for table in ("delivery", "structure_set", "scan_files", "scan"):
            db.execute(f"delete from {table}")  # noqa: S608
    site.door.journal.close()
    for name in row.files:
        (Path(row.folder) / name).unlink()
    assert replace_damaged(config, BUNDLE) is None
    site.door = site._door()
    assert site.receive("2").name == "scan-00002"
    assert sorted(each.name for each in [*site.door.scans()]) == ["scan-00002"]
    site.door.send(slices("1"))
    site.door.intake.association_ended(SCP.key, aborted=False)
    site.door.wait_for_scans(2)
    assert {each.animal: each.name for each in site.door.journal.scans()} == {
        "M1": "scan-00001",
        "M2": "scan-00002",
    }


@pytest.mark.parametrize(
    ("name", "number"),
    [("scan-00012", 12), ("scan-123456", 123456), ("scan-00012-20261129", 0), ("scan-x", 0)],
)
def test_a_folder_that_a_person_copied_is_no_scan(name: str, number: int) -> None:
    """Its date would count as a number, and the journal as an older copy of millions of scans."""
    assert evidence.number_of(name) == number


def test_a_damaged_structure_set_ends_no_start(tmp_path: Path) -> None:
    """A failing disk may take it with the journal: its UID is issued, its date is not known."""
    rotten, cut = tmp_path / "RS.2.25.1.dcm", tmp_path / "RS.2.25.2.dcm"
    rotten.write_bytes(b"rotten")
    cut.write_bytes(bytes(128) + b"DICM")
    written = {"2.25.1": rotten, "2.25.2": cut, "2.25.3": tmp_path / "gone.dcm"}
    assert list(salvage._issued(written, [])) == [(uid, "", "") for uid in written]
