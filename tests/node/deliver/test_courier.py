import logging
import re
import sqlite3
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from limn.domain.timing import DOOR_TO_DOOR_STAGES
from limn.node import heartbeat, persist, surprises
from limn.node.config import DicomDestination, FolderDestination
from limn.node.deliver import courier as courier_module
from limn.node.deliver import field_file
from limn.node.deliver.clock_history import ClockHistory
from limn.node.deliver.courier import Courier
from limn.node.deliver.destinations import backoff_s
from limn.node.deliver.preview_courier import PreviewCourier
from limn.node.deliver.scan_record import closed_record
from limn.node.store.disk import scanlog
from limn.node.store.disk.contacts import DestinationContacts
from limn.node.store.journal.journal import Journal
from limn.node.store.journal.reader import LONGEST_PAUSE_S
from limn.node.store.journal.rows import ScanRow
from tests.conftest import free_port
from tests.support.node.parts import Archive, arrived, encoded, peer, running, structure_set, until

STAGES = {
    "queue_s": 0.25,
    "transfer_s": 0.01,
    "read_s": 0.5,
    "preprocess_s": 0.75,
    "inference_s": 9.5,
    "clean_s": 0.2,
    "trace_s": 0.3,
    "rtstruct_s": 0.1,
    "prove_s": 0.4,
    "picture_s": 0.05,
}


class Desk:
    """A journal with contoured scans, and the couriers of its destinations."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.journal = Journal(folder / "journal.sqlite")
        self.log = folder / "scans.csv"

    def contoured(
        self,
        *destinations: str,
        held: str | None = None,
        contoured_ago_s: float = 0.1,
        last_slice_ago_s: float = 20.0,
        **changes: object,
    ) -> ScanRow:
        """A scan whose structure set is on disk."""
        changes = {"last_slice_at": time.time() - last_slice_ago_s} | changes
        row = self.journal.insert(arrived(**changes), destinations or ("tps",))
        assert row is not None
        uid = self.journal.structure_set_of(row.id).sop_instance_uid
        path = self.folder / f"RS.{uid}.dcm"
        path.write_bytes(encoded(structure_set(uid)))
        record = STAGES | {
            "contoured_at": time.time() - contoured_ago_s,
            "runtime_s": 11.75,
            "flags": "DEMO",
        }
        self.journal.contoured(row.id, str(path), record, held)
        return self.journal.scan(row.id)

    def previewed(self, *destinations: str, **changes: object) -> ScanRow:
        """A scan whose preview is on disk, and whose structure set is not."""
        row = self.journal.insert(arrived(**changes), ("tps", "archive"))
        assert row is not None
        preview = self.journal.begin_preview(row.id)
        path = self.folder / f"PREVIEW.{preview.sop_instance_uid}.dcm"
        path.write_bytes(encoded(structure_set(preview.sop_instance_uid)))
        assert self.journal.preview_contoured(row.id, str(path), destinations or ("tps",))
        return row

    def answer(self, row: ScanRow) -> None:
        """Its structure set is on disk now."""
        uid = self.journal.structure_set_of(row.id).sop_instance_uid
        path = self.folder / f"RS.{uid}.dcm"
        path.write_bytes(encoded(structure_set(uid)))
        record = STAGES | {"contoured_at": time.time() - 0.1, "flags": "DEMO"}
        self.journal.contoured(row.id, str(path), record)

    def preview_states(self, row: ScanRow) -> list[str]:
        """How far the deliveries of a scan's preview are."""
        return [each.state for each in self.journal.preview_deliveries(row.id)]

    def courier(
        self, port: int, name: str = "tps", *, keeps_scan_log: bool = True, previews: bool = False
    ) -> Courier:
        """A courier to a planning system."""
        destination = DicomDestination(
            kind="dicom", name=name, ae_title="TPS", host="127.0.0.1", port=port, previews=previews
        )
        return Courier(
            destination,
            self.journal,
            self.log,
            "LIMN",
            keeps_scan_log=keeps_scan_log,
            contacts=DestinationContacts(self.log.with_name("destinations.json")),
        )

    def exporter(self, *, keeps_scan_log: bool = True) -> Courier:
        """A courier to a folder."""
        destination = FolderDestination(kind="folder", name="export", folder=self.folder / "out")
        return Courier(
            destination,
            self.journal,
            self.log,
            "LIMN",
            keeps_scan_log=keeps_scan_log,
            contacts=DestinationContacts(self.log.with_name("destinations.json")),
        )

    def rows(self) -> list[dict[str, str]]:
        """The rows of the scan log."""
        return scanlog.rows(self.log)


@pytest.fixture
def desk(tmp_path):
    """An empty journal."""
    return Desk(tmp_path)


def test_a_structure_set_is_delivered_and_logged(desk):
    """The planning system has it, the journal knows, the scan log has its one row."""
    scan = desk.contoured()
    archive = Archive()
    with peer(archive) as port:
        courier = desk.courier(port)
        courier.work()
        courier.work()
    uid = desk.journal.structure_set_of(scan.id).sop_instance_uid
    assert [ds.SOPInstanceUID for ds in archive.taken] == [uid]
    (delivery,) = desk.journal.deliveries(scan.id)
    assert (delivery.state, delivery.status, delivery.tries) == ("delivered", "0x0000", 1)
    (row,) = desk.rows()
    assert row["scan_id"] == scan.name
    assert row["outcome"] == "delivered"
    assert row["rtstruct_sop_instance_uid"] == uid
    assert (row["destination"], row["destination_status"]) == ("tps", "0x0000")
    assert (row["animal"], row["sender"], row["flags"]) == ("M1", "SCANNER@10.0.0.1", "DEMO")
    assert (row["version"], row["profile"], row["bundle_sha256"]) == ("1", "default", "b" * 64)
    assert desk.journal.scan(scan.id).logged


def test_the_stages_sum_to_door_to_door(desk):
    """P8: settle to deliver, with overhead as the rest, is last slice to acceptance."""
    scan = desk.contoured(last_slice_at=time.time() - 20.0, settle_s=0.5)
    with peer(Archive()) as port:
        desk.courier(port).work()
    (row,) = desk.rows()
    (delivery,) = desk.journal.deliveries(scan.id)
    total_s = sum(float(row[stage]) for stage in DOOR_TO_DOOR_STAGES)
    assert total_s == pytest.approx(float(row["door_to_door_s"]), abs=0.002)
    assert float(row["door_to_door_s"]) == pytest.approx(
        delivery.accepted_at - scan.last_slice_at, abs=0.001
    )
    assert float(row["deliver_s"]) == pytest.approx(
        delivery.accepted_at - scan.record["contoured_at"], abs=0.001
    )
    assert float(row["overhead_s"]) == pytest.approx(20 - 0.5 - 12.06 - 0.1, abs=2.0)
    assert {name: float(row[name]) for name in STAGES} == STAGES
    assert float(row["settle_s"]) == 0.5
    assert float(row["receive_s"]) == 1.5


def test_out_of_resources_is_tried_again_until_it_succeeds(desk, caplog):
    """0xA700, a pause, then Success: one row in the log, two tries in the journal."""
    scan = desk.contoured()
    archive = Archive(0xA700, 0x0000)
    with peer(archive) as port:
        courier = desk.courier(port)
        courier.work()
        assert desk.rows() == []
        assert "0xA700; again in" in caplog.text
        (delivery,) = desk.journal.deliveries(scan.id)
        assert (delivery.state, delivery.status) == ("waiting", "0xA700")
        assert 0.5 < delivery.next_at - time.time() < 1.3
        courier.work()
        assert len(archive.taken) == 1
        with running(courier.run):
            until(desk.rows)
    (delivery,) = desk.journal.deliveries(scan.id)
    assert (delivery.state, delivery.tries) == ("delivered", 2)
    assert [row["outcome"] for row in desk.rows()] == ["delivered"]
    assert archive.taken[0] == archive.taken[1]


def test_a_peer_that_comes_up_late_gets_everything(desk):
    """Down at first; when it is there, every structure set that waits goes out."""
    for number in range(3):
        desk.contoured(series_instance_uid=f"2.25.5.{number}")
    port = free_port()
    courier = desk.courier(port)
    courier.work()
    assert desk.journal.waiting("tps") == 3
    archive = Archive()
    with peer(archive, port=port), running(courier.run):
        until(lambda: desk.journal.waiting("tps") == 0)
        until(lambda: len(desk.rows()) == 3)
    assert len(archive.taken) == 3


@pytest.mark.parametrize("status", [0xC001, 0xA900, 0x0122])
def test_a_refused_structure_set_is_kept_and_logged(desk, caplog, status):
    """The node's log has its path, the scan log its status; it is not sent again."""
    scan = desk.contoured()
    archive = Archive(status)
    with peer(archive) as port:
        courier = desk.courier(port)
        courier.work()
        courier.work()
    assert len(archive.taken) == 1
    path = desk.journal.structure_set_of(scan.id).path
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    (said,) = [each for each in errors if "REFUSED" in each]
    assert scan.name in said
    assert f"0x{status:04X}" in said
    assert path in said
    (row,) = desk.rows()
    assert (row["outcome"], row["destination_status"]) == ("refused by peer", f"0x{status:04X}")
    assert (row["accepted_utc"], row["door_to_door_s"]) == ("", "")


@pytest.mark.parametrize("state", ["refused", "failed", "quarantined"])
def test_a_scan_that_ended_without_structure_set_gets_its_row(desk, state):
    """The physicist reads why, though nothing was delivered."""
    row = desk.journal.insert(arrived(), ("tps",))
    desk.journal.end(row.id, state, "RescaleSlope absent, really", {"queue_s": 0.5})
    courier = desk.courier(free_port())
    courier.work()
    courier.work()
    (logged,) = desk.rows()
    assert (logged["outcome"], logged["reason"]) == (state, "RescaleSlope absent, really")
    assert logged["queue_s"] == "0.5"
    assert logged["destination"] == ""


def test_an_aborted_series_gets_its_row(desk):
    """A series that the intake refused is in the scan log too."""
    desk.journal.insert(arrived(refused="the association broke off"), ("tps",))
    desk.courier(free_port()).work()
    (logged,) = desk.rows()
    assert (logged["outcome"], logged["reason"]) == ("refused", "the association broke off")


def test_a_refused_series_that_came_again_has_both_rows(desk):
    """Refused at first, delivered after the resend: its timings are in the log as well."""
    desk.journal.insert(arrived(refused="broke off", last_slice_at=time.time() - 90), ("export",))
    courier = desk.exporter()
    courier.work()
    desk.contoured("export")
    courier.work()
    assert [row["outcome"] for row in desk.rows()] == ["refused", "delivered"]
    assert [row["scan_id"] for row in desk.rows()] == ["scan-00001"] * 2


def test_a_crash_before_the_row_loses_no_row(desk):
    """Delivered, then killed before the scan log was written: the restart writes it."""
    scan = desk.contoured("export")
    (delivery,) = desk.journal.deliveries(scan.id)
    desk.journal.delivered(delivery.id, "written", time.time())
    desk.exporter().work()
    assert [row["outcome"] for row in desk.rows()] == ["delivered"]


def test_a_crash_after_the_row_writes_no_second(desk):
    """In the scan log, but not yet marked in the journal."""
    scan = desk.contoured("export")
    desk.exporter().work()
    before = desk.log.read_bytes()
    desk.journal._db.execute("update scan set logged = 0")
    desk.exporter().work()
    assert desk.log.read_bytes() == before
    assert desk.journal.scan(scan.id).logged


def test_only_the_first_destination_writes_the_scan_log(desk, caplog):
    """One row per scan, whichever courier is first; the node's log has the other delivery."""
    caplog.set_level(logging.INFO)
    scan = desk.contoured("tps", "export")
    desk.exporter(keeps_scan_log=False).work()
    assert desk.rows() == []
    assert f"{scan.name} delivered to export (written)" in caplog.text
    with peer(Archive()) as port:
        desk.courier(port).work()
    assert [row["destination"] for row in desk.rows()] == ["tps"]


def test_a_dead_destination_holds_up_no_other(desk):
    """The archive is down: the planning system has its structure sets all the same."""
    for number in range(3):
        desk.contoured("tps", "archive", series_instance_uid=f"2.25.5.{number}")
    archive = Archive()
    with peer(archive) as port:
        alive = desk.courier(port)
        dead = desk.courier(free_port(), "archive", keeps_scan_log=False)
        with running(dead.run), running(alive.run):
            until(lambda: len(desk.rows()) == 3)
            until(lambda: desk.journal.deliveries(3)[1].tries > 0)
    assert len(archive.taken) == 3
    assert desk.journal.waiting("archive") == 3
    assert [d.state for d in desk.journal.deliveries(1)] == ["delivered", "waiting"]


def test_waking_is_quicker_than_polling(desk):
    """A courier that was woken delivers at once."""
    courier = desk.exporter()
    with running(courier.run):
        time.sleep(0.1)
        desk.contoured("export")
        started_s = time.monotonic()
        courier.wake()
        until(desk.rows)
        assert time.monotonic() - started_s < 0.45


def test_a_courier_without_wake_delivers_soon(desk):
    """A lost wake-up costs half a second, not the scan."""
    with running(desk.exporter().run):
        desk.contoured("export")
        until(desk.rows)


def test_stopping_leaves_the_rest_in_the_journal(desk):
    """A structure set that was not delivered before the stop waits for the next start."""
    desk.contoured()
    stopping = threading.Event()
    stopping.set()
    desk.courier(free_port()).run(stopping)
    assert desk.journal.waiting("tps") == 1


def test_a_held_structure_set_goes_nowhere_until_it_is_released(desk):
    """Neither to the planning system nor into the folder; then to both, with no restart."""
    scan = desk.contoured("tps", "export", held="mirrored image", contoured_ago_s=3600.1)
    archive = Archive()
    with peer(archive) as port:
        couriers = [desk.courier(port), desk.exporter(keeps_scan_log=False)]
        for courier in couriers:
            courier.work()
        assert (archive.taken, desk.rows()) == ([], [])
        assert list((desk.folder / "out").iterdir()) == []
        with running(couriers[0].run), running(couriers[1].run):
            assert desk.journal.release(scan.id, time.time())
            until(desk.rows)
            until(lambda: (desk.folder / "out").exists() and any((desk.folder / "out").iterdir()))
    assert len(archive.taken) == 1
    assert [row["outcome"] for row in desk.rows()] == ["delivered"]


def test_the_time_that_a_person_took_is_flagged_and_left_out(desk):
    """An hour on hold: flagged with its seconds, and the stages still add up."""
    scan = desk.contoured(held="mirrored image", contoured_ago_s=3600.1, last_slice_ago_s=3620.0)
    released_at = scan.record["contoured_at"] + 3600.0
    desk.journal.release(scan.id, released_at)
    with peer(Archive()) as port:
        desk.courier(port).work()
    (row,) = desk.rows()
    assert row["flags"] == "DEMO held:3600s"
    assert re.fullmatch(r"held until \S+\+00:00: mirrored image", row["reason"])
    assert float(row["door_to_door_s"]) == pytest.approx(20.0, abs=2.0)
    assert float(row["deliver_s"]) < 2.0
    total_s = sum(float(row[stage]) for stage in DOOR_TO_DOOR_STAGES)
    assert total_s == pytest.approx(float(row["door_to_door_s"]), abs=0.002)


@pytest.mark.parametrize(
    ("by", "why", "words"),
    [
        ("A. Smith", "same series", "released by A. Smith (same series)"),
        ("A. Smith", "", "released by A. Smith"),
        ("", "same series", "released (same series)"),
    ],
)
def test_the_row_and_the_log_say_who_released_it(desk, caplog, by, why, words):
    """Name and reason, in the reason of the row and, once, in the node's log."""
    scan = desk.contoured("tps", "export", held="mirrored image")
    desk.journal.release(scan.id, time.time(), by, why)
    with caplog.at_level("INFO"), peer(Archive(0xA700, 0)) as port:
        couriers = [desk.courier(port), desk.exporter(keeps_scan_log=False)]
        for courier in couriers:
            courier.work()
        desk.journal._db.execute("update delivery set next_at = 1")
        couriers[0].work()
    (row,) = desk.rows()
    assert re.fullmatch(
        rf"held until \S+\+00:00, {re.escape(words)}: mirrored image", row["reason"]
    )
    (line,) = (each for each in caplog.messages if "released" in each)
    assert line.startswith(f"{scan.name} animal M1 {words} at ")
    assert line.endswith("; it was held: mirrored image")


def test_a_released_structure_set_may_still_be_refused(desk):
    """The planning system's refusal ends it; the row has the release and the refusal."""
    scan = desk.contoured(held="mirrored image")
    desk.journal.release(scan.id, time.time())
    with peer(Archive(0xC000)) as port:
        desk.courier(port).work()
    (row,) = desk.rows()
    assert (row["outcome"], row["destination_status"]) == ("refused by peer", "0xC000")
    assert "held:0s" in row["flags"]
    assert "mirrored image" in row["reason"]


def test_a_discarded_structure_set_is_logged_and_goes_nowhere(desk, caplog):
    """Its one row has the reason, and neither a destination nor a time of acceptance."""
    scan = desk.contoured("tps", "export", held="mirrored image")
    desk.journal.discard(scan.id, "wrong export", 1.8e9, "B. Lee")
    archive = Archive()
    with caplog.at_level("INFO"), peer(archive) as port:
        couriers = [desk.courier(port), desk.exporter(keeps_scan_log=False)]
        for courier in (*couriers, *couriers):
            courier.work()
    assert archive.taken == []
    assert list((desk.folder / "out").iterdir()) == []
    (row,) = desk.rows()
    assert row["outcome"] == "discarded"
    assert row["reason"] == (
        "discarded at 2027-01-15T08:00:00.000+00:00 by B. Lee: wrong export; it was held: mirrored "
        "image"
    )
    (line,) = (each for each in caplog.messages if "discarded" in each)
    assert "discarded at 2027-01-15 08:00:00 UTC by B. Lee: wrong export; it was held" in line
    assert (row["destination"], row["destination_status"], row["accepted_utc"]) == ("", "", "")
    assert row["door_to_door_s"] == ""
    assert row["runtime_s"] == "11.75"


def test_an_answer_that_no_disk_takes_is_kept_and_nothing_sent_twice(desk, monkeypatch, caplog):
    """The planning system has it; the journal hears of it when there is room."""
    monkeypatch.setattr(persist, "PAUSE_S", 0.001)
    row = desk.contoured()
    write, tries = desk.journal.delivered, []

    def full(*args):
        tries.append(args)
        if len(tries) < 4:
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error
        write(*args)

    monkeypatch.setattr(desk.journal, "delivered", full)
    archive = Archive()
    with peer(archive) as port:
        desk.courier(port).work()
    assert len(archive.taken) == 1
    assert [each["outcome"] for each in desk.rows()] == ["delivered"]
    said = [each.getMessage() for each in caplog.records if each.levelno == logging.ERROR]
    assert len(said) == 1
    assert said[0].startswith(f"{row.name} animal M1: the answer of tps can't be written (database")


class Shifted:
    """The wall clock, put forward or back by hand; the monotonic clock goes on."""

    def __init__(self, monkeypatch) -> None:
        self.by_s = 0.0
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() + self.by_s)


@pytest.fixture
def clock(monkeypatch):
    """A clock that steps when the test says so."""
    return Shifted(monkeypatch)


@pytest.mark.parametrize("step_s", [-86400.0, 86400.0])
def test_a_step_of_the_clock_changes_no_pause(desk, clock, monkeypatch, step_s):
    """A delivery waits its second or two, whether the clock goes back or forward by a day."""
    monkeypatch.setattr("limn.node.deliver.courier.backoff_s", lambda tries: 0.4)
    desk.contoured()
    archive = Archive(0xA700, 0x0000)
    with peer(archive) as port:
        courier = desk.courier(port)
        courier.work()
        clock.by_s = step_s
        courier.work()
        assert len(archive.taken) == 1
        time.sleep(0.45)
        courier.work()
    assert len(archive.taken) == 2


def test_a_pause_that_another_process_ends_is_over(desk):
    """``limn resend`` changes the next try, and the courier does not wait for its own pause."""
    scan = desk.contoured()
    archive = Archive(0xA700, 0x0000)
    with peer(archive) as port:
        courier = desk.courier(port)
        courier.work()
        desk.journal.resend(scan.id, ["tps"], time.time())
        courier.work()
    assert len(archive.taken) == 2


def test_a_start_after_the_clock_went_back_waits_no_day(desk):
    """The next try that the journal has lies a day ahead: the new process tries at once."""
    scan = desk.contoured()
    (delivery,) = desk.journal.deliveries(scan.id)
    desk.journal.postponed(delivery.id, "0xA700", time.time() + 86400)
    archive = Archive()
    with peer(archive) as port:
        desk.courier(port).work()
    assert len(archive.taken) == 1


@pytest.mark.parametrize("tries", range(12))
def test_the_longest_pause_is_known_to_the_journal(tries):
    """A next try further away is one that the clock has moved."""
    assert max(backoff_s(tries) for _ in range(200)) <= LONGEST_PAUSE_S


@pytest.mark.parametrize("step_s", [-86400, 172800])
def test_a_step_of_the_clock_is_no_time_of_the_scan(desk, clock, step_s):
    """Between the last slice and the acceptance: the durations are true, and a flag says it."""
    desk.contoured(last_slice_ago_s=20.0, settle_s=0.5)
    with peer(Archive()) as port:
        courier = desk.courier(port)
        clock.by_s = step_s
        courier.work()
    (row,) = desk.rows()
    assert float(row["door_to_door_s"]) == pytest.approx(20, abs=2.0)
    assert 0 <= float(row["deliver_s"]) < 2.5
    total_s = sum(float(row[stage]) for stage in DOOR_TO_DOOR_STAGES)
    assert total_s == pytest.approx(float(row["door_to_door_s"]), abs=0.002)
    assert row["flags"] == f"DEMO clock-stepped:{step_s}s"


def test_a_step_back_before_the_engine_began_gives_no_negative_time(desk, clock):
    """Only the wall clock tells here: the measured stages are the least that it can have been."""
    clock.by_s = 86400.0
    desk.contoured(last_slice_ago_s=20.0, settle_s=0.5)
    clock.by_s = 0.0
    with peer(Archive()) as port:
        desk.courier(port).work()
    (row,) = desk.rows()
    assert float(row["door_to_door_s"]) == pytest.approx(0.5 + 12.06, abs=0.01)
    assert (float(row["deliver_s"]), float(row["overhead_s"])) == (0, 0)
    assert re.fullmatch(r"DEMO clock-stepped:-86\d{3}s", row["flags"])


def test_a_stop_begins_no_delivery_to_a_destination_that_is_down(desk):
    """One try of the first, and the others wait for the next start."""
    scans = [desk.contoured(series_instance_uid=f"2.25.{n}", input_digest=f"d{n}") for n in "123"]
    courier = desk.courier(free_port())
    stopping = threading.Event()
    stopping.set()
    courier.run(stopping)
    courier.work()
    tries = [desk.journal.deliveries(scan.id)[0].tries for scan in scans]
    assert sum(tries) == 1


@pytest.mark.parametrize("step_s", [-86400.0, 172800.0])
def test_a_step_of_the_clock_is_no_time_in_the_queue(desk, clock, step_s):
    """The scan waited 3 s for a worker, and the clock stepped meanwhile."""
    history = ClockHistory()
    row = desk.contoured(ready_at=time.time() - 3.0)
    clock.by_s = step_s
    row = replace(row, record=row.record | {"queue_s": 3.0 + step_s})
    assert closed_record(row, None, None, history).queue_s == pytest.approx(3.0, abs=0.5)


def test_a_queue_is_never_negative(desk):
    """The clock went back before this engine began: how long the scan waited is not known."""
    row = desk.contoured()
    row = replace(row, record=row.record | {"queue_s": -86390.0})
    assert closed_record(row, None, None).queue_s == 0


def test_a_courier_gives_signs_of_life_of_its_own(desk, tmp_path, monkeypatch):
    """Not those of its process, which a hanging destination must not end."""
    monkeypatch.setattr(heartbeat, "_given", str(tmp_path / "engine"))
    courier = desk.exporter()
    signs = tmp_path / "courier to export.thread"
    with running(courier.run):
        until(signs.exists)
    assert not signs.exists()


def test_a_preview_goes_out_and_closes_nothing(desk, caplog):
    """The structure set follows; the row of the scan log is its own, with the preview's time."""
    caplog.set_level(logging.INFO)
    row = desk.previewed(last_slice_at=time.time() - 20.0)
    preview = desk.journal.preview_of(row.id).sop_instance_uid
    archive = Archive()
    with peer(archive) as port:
        courier = desk.courier(port, previews=True)
        courier.work()
        courier.work()
        assert [ds.SOPInstanceUID for ds in archive.taken] == [preview]
        assert desk.preview_states(row) == ["delivered"]
        assert desk.rows() == []
        assert desk.journal.scan(row.id).state == "ready"
        assert f"{row.name} animal M1 PREVIEW delivered to tps (0x0000), 20." in caplog.text
        time.sleep(1.0)
        desk.answer(row)
        courier.work()
        courier.work()
    own = desk.journal.structure_set_of(row.id).sop_instance_uid
    assert [ds.SOPInstanceUID for ds in archive.taken] == [preview, own]
    (logged,) = desk.rows()
    assert logged["rtstruct_sop_instance_uid"] == own
    assert logged["flags"] == "DEMO preview:20s"
    (delivery, _) = desk.journal.deliveries(row.id)
    assert float(logged["door_to_door_s"]) == pytest.approx(
        delivery.accepted_at - row.last_slice_at, abs=0.01
    )
    assert float(logged["door_to_door_s"]) > 21


def test_a_destination_without_previews_gets_none(desk):
    """Nor one that is offered no preview, though it takes them."""
    row = desk.previewed("tps", "archive")
    archive = Archive()
    with peer(archive) as port:
        desk.courier(port, "tps").work()
        desk.courier(port, "other", keeps_scan_log=False, previews=True).work()
    assert archive.taken == []
    assert desk.preview_states(row) == ["waiting", "waiting"]


def test_structure_sets_go_before_previews(desk):
    """All that are due, whatever came first; then one preview at each look."""
    rows = [desk.previewed(series_instance_uid=f"2.25.{n}") for n in (1, 2)]
    done = desk.contoured(series_instance_uid="2.25.3")
    archive = Archive()
    with peer(archive) as port:
        courier = desk.courier(port, previews=True)
        courier.work()
        later = desk.contoured(series_instance_uid="2.25.4")
        courier.work()
    wanted = [
        desk.journal.structure_set_of(done.id),
        desk.journal.preview_of(rows[0].id),
        desk.journal.structure_set_of(later.id),
        desk.journal.preview_of(rows[1].id),
    ]
    sent = [ds.SOPInstanceUID for ds in archive.taken]
    assert sent == [each.sop_instance_uid for each in wanted]


def test_no_preview_goes_after_the_structure_set(desk):
    """The courier was late: only the structure set is sent."""
    row = desk.previewed()
    desk.answer(row)
    archive = Archive()
    with peer(archive) as port:
        courier = desk.courier(port, previews=True)
        courier.work()
        courier.work()
    own = desk.journal.structure_set_of(row.id).sop_instance_uid
    assert [ds.SOPInstanceUID for ds in archive.taken] == [own]
    assert desk.preview_states(row) == ["withdrawn"]
    assert "preview" not in desk.rows()[0]["flags"]


def test_an_engine_that_died_while_it_sent_a_preview_sends_it_once(desk, caplog):
    """The destination may have it; the structure set comes in any case."""
    row = desk.previewed()
    desk.journal.take_preview("tps")
    archive = Archive()
    with peer(archive) as port:
        courier = desk.courier(port, previews=True)
        courier.work()
        assert archive.taken == []
        assert desk.preview_states(row) == ["lost"]
        desk.answer(row)
        courier.work()
    own = desk.journal.structure_set_of(row.id).sop_instance_uid
    assert [ds.SOPInstanceUID for ds in archive.taken] == [own]
    assert "is refused" not in caplog.text


def test_a_preview_that_a_destination_can_t_take_now_waits(desk):
    """Out of resources: again after a pause on the monotonic clock. A refusal is final."""
    row = desk.previewed()
    archive = Archive(0xA700, 0xC000)
    with peer(archive) as port:
        courier = desk.courier(port, previews=True)
        courier.work()
        assert desk.preview_states(row) == ["waiting"]
        courier.work()
        assert len(archive.taken) == 1
        courier._previews.next_s = 0.0
        courier.work()
    assert desk.preview_states(row) == ["refused"]
    assert len(archive.taken) == 2
    (delivery, _) = desk.journal.deliveries(row.id)
    assert (delivery.state, delivery.tries) == ("waiting", 0)


def test_a_node_that_stops_begins_no_preview(desk):
    """It waits in the journal."""
    row = desk.previewed()
    archive = Archive()
    with peer(archive) as port:
        courier = desk.courier(port, previews=True)
        stopping = threading.Event()
        stopping.set()
        courier.run(stopping)
        courier.work()
    assert archive.taken == []
    assert desk.preview_states(row) == ["waiting"]


def broken(*_, **__):
    """An inner call with an error that nobody thought of."""
    raise LookupError("what\nis this")


def test_a_surprise_with_one_delivery_delays_no_other(desk, caplog, monkeypatch):
    """It is logged once with the scan, `limn queue` shows it, and it is offered again."""
    first, second = desk.contoured(), desk.contoured(series_instance_uid="2.25.7")
    archive, deliver = Archive(), field_file.deliver
    path = desk.journal.structure_set_of(first.id).path

    def surprised(destination, contents, *rest):
        return broken() if str(contents) == path else deliver(destination, contents, *rest)

    with peer(archive) as port:
        courier = desk.courier(port)
        with monkeypatch.context() as patched:
            patched.setattr(field_file, "deliver", surprised)
            courier.work()
            (waits,) = desk.journal.deliveries(first.id)
            courier._pauses.clear()
            desk.journal.postponed(waits.id, waits.status, 0.0)
            courier.work()
        assert [each.state for each in desk.journal.deliveries(second.id)] == ["delivered"]
        (waits,) = desk.journal.deliveries(first.id)
        assert waits.state == "waiting"
        assert waits.next_at > time.time()
        assert waits.status == (
            r"a fault of limn (LookupError: what\nis this); see limn.log and report it"
        )
        (record,) = [each for each in caplog.records if each.exc_info]
        assert record.getMessage().startswith(f"{first.name} animal M1 -> tps: a fault of limn")
        desk.journal.postponed(waits.id, waits.status, 0.0)
        courier._pauses.clear()
        courier.work()
    assert [each.state for each in desk.journal.deliveries(first.id)] == ["delivered"]
    assert [row["scan_id"] for row in desk.rows()] == [second.name, first.name]


def test_a_surprise_of_the_journal_with_one_delivery_makes_no_hot_loop(desk, monkeypatch):
    """Even if its next try can't be written, it waits, and others go."""
    desk.contoured()
    other = desk.contoured(series_instance_uid="2.25.7")
    monkeypatch.setattr(desk.journal, "postponed", broken)
    monkeypatch.setattr(courier_module, "backoff_s", lambda _: 60.0)
    structure_set, asked = desk.journal.structure_set, []

    def surprised(number):
        asked.append(number)
        return structure_set(number) if number == other.id else broken()

    monkeypatch.setattr(desk.journal, "structure_set", surprised)
    with peer(Archive()) as port:
        courier = desk.courier(port)
        for _ in range(5):
            courier.work()
    assert [each.state for each in desk.journal.deliveries(other.id)] == ["delivered"]
    assert asked.count(other.id - 1) == 1


@pytest.mark.parametrize("call", ["due", "unlogged_ends"])
def test_a_surprise_of_a_courier_is_named_and_passes(desk, caplog, monkeypatch, tmp_path, call):
    """The thread goes on after a pause; meanwhile the health page and `limn queue` name it."""
    desk.contoured()
    monkeypatch.setattr(heartbeat, "_given", str(tmp_path / "engine"))
    monkeypatch.setattr(surprises, "FIRST_PAUSE_S", 0.1)
    with peer(Archive()) as port:
        courier = desk.courier(port)
        signs = tmp_path / "courier to tps.thread"
        works = getattr(desk.journal, call)
        monkeypatch.setattr(desk.journal, call, broken)
        with running(courier.run):
            until(lambda: "the courier to tps stopped in its work" in caplog.text)
            until(lambda: heartbeat.allowed_s(signs.read_bytes()) == heartbeat.SILENT_S)
            monkeypatch.setattr(desk.journal, call, works)
            until(desk.rows)
            until(lambda: heartbeat.allowed_s(signs.read_bytes()) != heartbeat.SILENT_S)
    assert len([each for each in caplog.records if each.exc_info]) == 1


def test_a_surprise_with_one_row_of_the_scan_log_delays_no_other(desk, caplog, monkeypatch):
    """The row is made later; the scan is delivered all the same."""
    first = desk.contoured()
    desk.contoured(series_instance_uid="2.25.7")

    def surprised(row, *rest):
        return broken() if row.id == first.id else closed_record(row, *rest)

    with peer(Archive()) as port:
        courier = desk.courier(port)
        with monkeypatch.context() as patched:
            patched.setattr(courier_module, "closed_record", surprised)
            courier.work()
        assert [row["scan_id"] for row in desk.rows()] == ["scan-00002"]
        courier._surprises.is_over(first.name)
        courier.work()
    assert [row["scan_id"] for row in desk.rows()] == ["scan-00002", "scan-00001"]
    assert "scan-00001 animal M1: its row of the scan log can't be made" in caplog.text


def test_a_surprise_with_a_preview_sends_it_no_second_time(desk, monkeypatch):
    """It may be at the planning system; the structure set goes its own way."""
    scan = desk.previewed()
    with peer(Archive()) as port:
        courier = desk.courier(port, previews=True)
        with monkeypatch.context() as patched:
            patched.setattr(PreviewCourier, "_deliver", broken)
            courier.work()
        courier.work()
        assert desk.preview_states(scan) == ["lost"]
        desk.answer(scan)
        courier.work()
    assert "delivered" in [each.state for each in desk.journal.deliveries(scan.id)]
