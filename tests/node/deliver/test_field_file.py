"""One file for all animals of a field: it waits for each, and says which is not in it."""

import json
import sqlite3
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pydicom
import pytest

from limn.node.config import DicomDestination, FolderDestination, load_config
from limn.node.deliver import courier as courier_module
from limn.node.deliver.courier import Courier
from limn.node.serve.destinations import destination_states
from limn.node.store.disk import scanlog
from limn.node.store.disk.contacts import DestinationContacts, read_destinations
from limn.node.store.disk.spool import REMOVED
from limn.node.store.journal.journal import Journal
from limn.node.store.journal.rows import ScanRow
from tests.conftest import free_port
from tests.dicom.test_rtstruct import IDENTITY, make
from tests.support.node.parts import Archive, arrived, peer

POLL_S = 0.05


class Field:
    """A series of three animals in a journal, and the courier of a destination."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.journal = Journal(folder / "journal.sqlite")
        self.out = folder / "out"

    def animals(self, **changes: object) -> list[ScanRow]:
        """Three animals that wait for a worker."""
        first = self.journal.insert(arrived(**changes), ("tps",))
        assert first is not None
        self.journal.add_animals(first.id, [2, 3], ("tps",))
        return self.journal.animals_of(first.id)

    def contoured(self, row: ScanRow, held: str | None = None, name: str = "") -> None:
        """Its structure set is on disk."""
        known = self.journal.structure_set_of(row.id)
        identity = replace(
            IDENTITY,
            sop_instance_uid=known.sop_instance_uid,
            label=f"limn {row.animal_number}/3",
            animal=f"animal {row.animal_number} of 3",
        )
        ct = self.folder / "made"
        ct.mkdir(exist_ok=True)
        made = make(ct, identity=identity)
        folder = self.folder / row.name
        folder.mkdir(exist_ok=True)
        path = folder / f"RS.{known.sop_instance_uid}.dcm"
        path.write_bytes(made.contents)
        flags = f"animal-name:{name}" if name else ""
        record = {"contoured_at": 1.0, "runtime_s": 1.0, "device": "cpu", "flags": flags}
        self.journal.contoured(row.id, str(path), record, held)

    def courier(self, **more: object) -> Courier:
        """To a folder that wants one file."""
        to = FolderDestination(
            kind="folder", name="tps", folder=self.out, **({"one_file": True} | more)
        )
        log = self.folder / "scans.csv"
        return Courier(
            to,
            self.journal,
            log,
            "LIMN",
            keeps_scan_log=True,
            contacts=DestinationContacts(log.with_name("destinations.json")),
        )

    def files(self) -> list[pydicom.FileDataset]:
        """What the destination has, the oldest first."""
        found = sorted(self.out.glob("*.dcm"), key=lambda path: path.stat().st_mtime_ns)
        return [pydicom.dcmread(path) for path in found]

    def states(self, *rows: ScanRow) -> list[str]:
        """Of the deliveries."""
        return [each.state for row in rows for each in self.journal.deliveries(row.id)]


@pytest.fixture
def field(tmp_path, monkeypatch):
    """A journal with nothing in it; a courier that looks again at once."""
    monkeypatch.setattr(courier_module, "FIELD_POLL_S", POLL_S)
    made = Field(tmp_path)
    yield made
    made.journal.close()


def names(ds: pydicom.Dataset) -> set[str]:
    """Marks of the animals in a file."""
    return {str(roi.ROIName).partition("^")[2] for roi in ds.StructureSetROISequence}


def test_the_file_goes_once_every_animal_is_there(field):
    """One file; each animal's delivery and row of the scan log names it."""
    rows = field.animals()
    courier = field.courier()
    for row in rows[:2]:
        field.contoured(row)
        courier.work()
    assert field.files() == []
    (waiting,) = field.journal.deliveries(rows[0].id)
    assert (waiting.state, waiting.status) == (
        "waiting",
        "waits for animal 3 (scan-00003), which is not contoured yet",
    )
    field.contoured(rows[2])
    courier.work()
    (ds,) = field.files()
    assert names(ds) == {"1", "2", "3"}
    assert field.states(*rows) == ["delivered"] * 3
    logged = scanlog.rows(field.folder / "scans.csv")
    assert [each["scan_id"] for each in logged] == [row.name for row in rows]
    assert {each["destination_status"] for each in logged} == {f"written as {ds.SOPInstanceUID}"}
    courier.work()
    assert len(field.files()) == 1


def test_it_waits_for_a_held_animal_and_writes_that_once(field, monkeypatch):
    """Nothing of the field leaves until a person has decided; then all of it does."""
    rows = field.animals()
    field.contoured(rows[0], name="M1")
    field.contoured(rows[1], held="mirrored", name="M2")
    field.contoured(rows[2], name="M3")
    courier = field.courier()
    courier.work()
    time.sleep(2 * POLL_S)
    tries = [each.tries for row in rows for each in field.journal.deliveries(row.id)]
    courier.work()
    assert tries == [1, 0, 1]
    assert [e.tries for row in rows for e in field.journal.deliveries(row.id)] == tries
    assert "scan-00002), which is held" in field.journal.deliveries(rows[0].id)[0].status
    assert field.files() == []
    field.journal.release(rows[1].id, 5.0, "Anna")
    courier.work()
    (ds,) = field.files()
    assert names(ds) == {"M1", "M2", "M3"}
    assert "WITHOUT" not in ds.StructureSetDescription


@pytest.mark.parametrize("how", ["discarded", "refused"])
def test_an_animal_that_ended_otherwise_is_not_in_it(field, how):
    """The file says which and why."""
    rows = field.animals()
    field.contoured(rows[0])
    field.contoured(rows[2])
    if how == "discarded":
        field.contoured(rows[1], held="mirrored")
        field.journal.discard(rows[1].id, "blurred", 5.0)
    else:
        field.journal.end(rows[1].id, "refused", "12 mm thick", {})
    field.courier().work()
    (ds,) = field.files()
    assert names(ds) == {"1", "3"}
    assert ds.StructureSetLabel == "limn 2 of 3"
    first = f"2 of 3 animals in one file, WITHOUT animal 2 (scan-00002), which was {how}; "
    assert str(ds.StructureSetDescription).startswith(first)


def test_one_that_is_contoured_later_gives_a_file_that_replaces_the_first(field):
    """With all animals, under a UID of its own."""
    rows = field.animals()
    field.contoured(rows[0])
    field.contoured(rows[1])
    field.journal.end(rows[2].id, "failed", "its worker died", {})
    courier = field.courier()
    courier.work()
    field.journal.retry(rows[2].id, 9.0)
    field.contoured(rows[2])
    courier.work()
    before, after = field.files()
    assert (names(before), names(after)) == ({"1", "2"}, {"1", "2", "3"})
    (replaced,) = after.PredecessorStructureSetSequence
    assert replaced.ReferencedSOPInstanceUID == before.SOPInstanceUID


def test_sent_again_it_has_the_same_bytes(field):
    """Whichever animal the operator names."""
    rows = field.animals()
    for row in rows:
        field.contoured(row)
    courier = field.courier()
    courier.work()
    (path,) = field.out.glob("*.dcm")
    contents = path.read_bytes()
    path.unlink()
    assert field.journal.resend(rows[1].id, ["tps"], 9.0) == ["tps"]
    courier.work()
    assert path.read_bytes() == contents
    assert field.states(*rows) == ["delivered"] * 3
    assert len(field.files()) == 1


def test_a_newer_version_replaces_the_older_file(field):
    """The whole series came after a part of it."""
    olds = field.animals(input_digest="d1", files=("a.dcm",))
    courier = field.courier()
    for row in olds:
        field.contoured(row)
    courier.work()
    news = field.animals(input_digest="d2", files=("a.dcm", "b.dcm"))
    for row in news:
        field.contoured(row)
    courier.work()
    before, after = field.files()
    (replaced,) = after.PredecessorStructureSetSequence
    assert replaced.ReferencedSOPInstanceUID == before.SOPInstanceUID


def test_an_older_half_never_goes_after_the_newer_whole(field):
    """Its held animal is discarded for the newer one; what waited for it ends, with the reason."""
    olds = field.animals(input_digest="d1", files=("a.dcm",))
    courier = field.courier()
    field.contoured(olds[0])
    field.contoured(olds[1], held="cut")
    field.contoured(olds[2], held="cut")
    courier.work()
    news = field.animals(input_digest="d2", files=("a.dcm", "b.dcm"))
    for row in news:
        field.contoured(row)
    # The older one is in its pause.
    courier._pauses = {
        number: (at, time.monotonic() + 60) for number, (at, _) in courier._pauses.items()
    }
    courier.work()
    assert field.states(*news) == ["delivered"] * 3
    courier._pauses = dict.fromkeys(courier._pauses, (0.0, 0.0))
    courier.work()
    (ds,) = field.files()
    assert names(ds) == {"1", "2", "3"}
    (ended,) = field.journal.deliveries(olds[0].id)
    assert (ended.state, ended.status) == (
        "discarded",
        "replaced by scan-00004, of a newer version of its series with all its slices",
    )
    assert field.journal.due("tps", time.time()) is None
    logged = {each["scan_id"]: each for each in scanlog.rows(field.folder / "scans.csv")}
    assert logged["scan-00001"]["outcome"] == "discarded"
    assert logged["scan-00001"]["destination_status"] == ended.status
    # Nor does it go if a person sends it again.
    assert field.journal.resend(olds[0].id, ["tps"], 9.0) == []


@pytest.mark.parametrize("held", [None, "mirrored"])
def test_an_older_version_waits_until_the_newer_one_is_decided(field, held):
    """If that is discarded, or fails, the older one goes after all."""
    olds = field.animals(input_digest="d1", files=("a.dcm",))
    news = field.animals(input_digest="d2", files=("a.dcm", "b.dcm"))
    for row in olds:
        field.contoured(row)
    for row in news if held else ():
        field.contoured(row, held=held)
    courier = field.courier()
    courier.work()
    assert field.files() == []
    said = field.journal.deliveries(olds[0].id)[0].status
    assert said.startswith("waits for scan-00004, of a newer version of its series, which is ")
    for row in news:
        if held:
            field.journal.discard(row.id, "wrong", 5.0)
        else:
            field.journal.end(row.id, "failed", "its worker died", {})
    time.sleep(2 * POLL_S)
    courier.work()
    assert field.states(*olds) == ["delivered"] * 3


def test_another_part_under_the_same_series_replaces_nothing(field):
    """Without the slices of the older one it is no newer version of it."""
    olds = field.animals(input_digest="d1", files=("a.dcm",))
    news = field.animals(input_digest="d2", files=("b.dcm",))
    for row in (*olds, *news):
        field.contoured(row)
    field.courier().work()
    assert field.states(*olds, *news) == ["delivered"] * 6


def removed(field, row):
    """Retention has removed a structure set."""
    path = Path(field.journal.structure_set_of(row.id).path)
    path.unlink()
    (path.parent / REMOVED).write_text("{}")


def test_a_late_animal_goes_without_those_that_retention_removed(field):
    """The file names them; it does not wait for ever."""
    rows = field.animals()
    field.contoured(rows[0])
    field.contoured(rows[1])
    field.journal.end(rows[2].id, "failed", "its worker died", {})
    courier = field.courier()
    courier.work()
    removed(field, rows[0])
    field.journal.retry(rows[2].id, 9.0)
    field.contoured(rows[2])
    courier.work()
    before, after = field.files()
    assert names(after) == {"2", "3"}
    said = "WITHOUT animal 1 (scan-00001), whose structure set was removed from this disk"
    assert said in after.StructureSetDescription
    (replaced,) = after.PredecessorStructureSetSequence
    assert replaced.ReferencedSOPInstanceUID == before.SOPInstanceUID
    assert field.states(*rows) == ["delivered"] * 3


@pytest.mark.parametrize("asked", [0, 1])
def test_a_file_is_not_sent_again_with_less_in_it(field, asked):
    """It would replace the whole one."""
    rows = field.animals()
    for row in rows:
        field.contoured(row)
    courier = field.courier()
    courier.work()
    removed(field, rows[0])
    field.journal.resend(rows[asked].id, ["tps"], 9.0)
    courier.work()
    assert len(field.files()) == 1
    (answer,) = field.journal.deliveries(rows[asked].id)
    assert (answer.state, answer.status[:10]) == ("refused", "can't read")


def test_a_structure_set_that_vanished_is_not_left_out(field):
    """Only what retention removed is: another loss is for a person."""
    rows = field.animals()
    for row in rows:
        field.contoured(row)
    Path(field.journal.structure_set_of(rows[1].id).path).unlink()
    field.courier().work()
    assert field.files() == []
    assert set(field.states(*rows)) == {"refused"}


def test_a_destination_may_want_some_rois_of_all(field):
    """Under a UID that no other destination's file has."""
    rows = field.animals()
    for row in rows:
        field.contoured(row)
    field.courier(rois=("Heart",)).work()
    (ds,) = field.files()
    found = [str(roi.ROIName) for roi in ds.StructureSetROISequence]
    assert found == ["Heart^1", "Heart^2", "Heart^3"]
    assert field.journal.join_animals(1, "tps", "other")[1] == ds.SOPInstanceUID
    assert field.journal.join_animals(1, "archive", "other")[1] == ""


def test_other_destinations_get_a_file_for_each(field):
    """And of a field with one animal there is nothing to join."""
    rows = field.animals()
    for row in rows:
        field.contoured(row)
    field.courier(one_file=False).work()
    assert len(field.files()) == 3
    alone = field.journal.insert(arrived(series_instance_uid="2.25.3", input_digest="d9"), ("tps",))
    field.contoured(alone)
    field.courier().work()
    uid = field.journal.structure_set_of(alone.id).sop_instance_uid
    assert (field.out / f"RS.{uid}.dcm").is_file()


def test_an_animals_file_that_another_program_changed_goes_nowhere(field):
    """As for one animal."""
    rows = field.animals()
    for row in rows:
        field.contoured(row)
    known = field.journal.structure_set_of(rows[1].id)
    field.journal._db.execute("update structure_set set contents_sha256 = 'x' where id = 2")
    field.journal._db.commit()
    field.courier().work()
    assert field.files() == []
    assert set(field.states(*rows)) == {"refused"}
    status = field.journal.deliveries(rows[0].id)[0].status
    assert f"{known.path} is not what limn wrote there" in status


def test_a_planning_system_that_is_down_gets_it_later(field):
    """All deliveries of the file wait together; then one association brings it."""
    rows = field.animals()
    for row in rows:
        field.contoured(row)
    to_planning_system(field, free_port()).work()
    assert set(field.states(*rows)) == {"waiting"}
    archive = Archive()
    with peer(archive) as port:
        field.journal._db.execute("update delivery set next_at = 0")
        field.journal._db.commit()
        to_planning_system(field, port).work()
    assert len(archive.taken) == 1
    assert names(archive.taken[0]) == {"1", "2", "3"}
    assert field.states(*rows) == ["delivered"] * 3
    (status,) = {field.journal.deliveries(row.id)[0].status for row in rows}
    assert status == f"0x0000 as {archive.taken[0].SOPInstanceUID}"


def to_planning_system(field, port):
    """The courier of a planning system that wants one file."""
    to = DicomDestination(
        kind="dicom", name="tps", ae_title="TPS", host="127.0.0.1", port=port, one_file=True
    )
    log = field.folder / "scans.csv"
    contacts = DestinationContacts(log.with_name("destinations.json"))
    return Courier(to, field.journal, log, "LIMN", keeps_scan_log=True, contacts=contacts)


def said(field):
    """What is noted of the destination."""
    return read_destinations(field.folder / "destinations.json")["tps"]


def test_one_offer_of_a_field_is_one_answer_in_the_peers_own_words(field):
    """Off, then it refuses the file: each counts once, and no UID stands behind its words."""
    rows = field.animals()
    for row in rows:
        field.contoured(row)
    to_planning_system(field, free_port()).work()
    assert said(field).failures == {"unanswered": 1}
    (status,) = {field.journal.deliveries(row.id)[0].status for row in rows}
    assert "does not answer" in status
    assert " as 2.25." not in status
    field.journal._db.execute("update delivery set next_at = 0")
    field.journal._db.commit()
    with peer(Archive(0xA900)) as port:
        to_planning_system(field, port).work()
    assert said(field).failures == {"unanswered": 1, "refused": 1}
    assert said(field).said.startswith("0xA900, the file does not match its SOP Class")
    assert {field.journal.deliveries(row.id)[0].status for row in rows} == {"0xA900"}


def test_a_field_that_waits_for_a_person_says_nothing_of_its_destination(field):
    """Another file was refused before, by limn itself: the destination is not down."""
    (field.folder / "limn.toml").write_text(
        'data_dir = "."\nmodel.bundle = "bundle"\nmodel.two_animals = "each"\n'
        '[[destination]]\nkind = "dicom"\nname = "tps"\nae_title = "TPS"\n'
        'host = "h"\nport = 104\none_file = true\n'
    )
    config = load_config(field.folder / "limn.toml")
    courier = to_planning_system(field, free_port())
    spoiled = field.animals(series_instance_uid="2.25.8", input_digest="d8")
    for row in spoiled:
        field.contoured(row)
    Path(field.journal.structure_set_of(spoiled[0].id).path).write_bytes(b"x")
    rows = field.animals()
    field.contoured(rows[0])
    field.contoured(rows[1], held="mirrored")
    field.contoured(rows[2])
    courier.work()
    assert set(field.states(*spoiled)) == {"refused"}
    (state,) = destination_states(config, field.journal)
    assert (state.waiting, state.contact.failures) == (2, {"file": 1})
    now = time.time() + 9000
    assert (state.waiting_s(now), state.contact.failing_s(now), state.down_s(now)) == (0, 0, 0)
    # Once it may go and the planning system is off, it is down.
    field.journal.release(rows[1].id, 5.0)
    time.sleep(2 * POLL_S)
    courier.work()
    (state,) = destination_states(config, field.journal)
    assert state.down_s(now) > 8000


def test_an_export_folder_that_is_away_is_down(field):
    """It takes nothing, whatever it is offered."""
    rows = field.animals()
    for row in rows:
        field.contoured(row)
    field.out.write_text("not a folder")
    field.courier().work()
    assert said(field).failures == {"folder": 1}
    assert said(field).failing_since > 0


def test_contents_name_all_that_is_in_a_file(field):
    """Another name of an animal is another file."""
    rows = field.animals()
    for row in rows:
        field.contoured(row)
    field.courier().work()
    ((contents,),) = field.journal._db.execute("select contents from joined").fetchall()
    uids = [field.journal.structure_set_of(row.id).sop_instance_uid for row in rows]
    assert json.loads(contents) == [*([uid, ""] for uid in uids), [None, ""]]


def test_a_journal_of_before_can_join_animals_too(tmp_path):
    """Version 7 had no table for it."""
    path = tmp_path / "journal.sqlite"
    Journal(path).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("drop table joined")
        db.execute("pragma user_version = 7")
    with closing(Journal(path)) as journal:
        first = journal.insert(arrived(), ("tps",))
        uid, replaced = journal.join_animals(first.id, "tps", "[]")
        assert (journal.join_animals(first.id, "tps", "[]"), replaced) == ((uid, ""), "")
        other, replaced = journal.join_animals(first.id, "tps", "[1]")
        assert (other != uid, replaced) == (True, uid)
