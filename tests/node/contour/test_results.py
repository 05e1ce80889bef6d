import errno
import logging
import os
import sqlite3
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from limn.domain import files
from limn.node import persist
from limn.node.config import load_config
from limn.node.contour import dispatch
from limn.node.contour.allocation import AllocationReply
from limn.node.contour.dispatch import Dispatcher
from limn.node.contour.flights import JobInFlight
from limn.node.contour.job import UNFIT, Result
from limn.node.contour.results import DEATHS, REST_S
from limn.node.contour.work import worker
from limn.node.contour.work.progress import Progress
from limn.node.contour.work.worker import run_job
from limn.node.store.journal.journal import Journal
from limn.node.store.journal.schema import COHORT, LIVE
from tests.conftest import free_port
from tests.support.node.parts import arrived
from tests.support.node.site import CONFIG


class Desk:
    """A dispatcher without a scheduler; a test hands in what a worker returned."""

    def __init__(self, folder):
        path = folder / "limn.toml"
        path.write_text(CONFIG.format(wake=free_port(), tps=104))
        self.path = path
        self.journal = Journal(folder / "data" / "journal.sqlite")
        self.config = load_config(path)
        self.stopping = threading.Event()
        bundle = SimpleNamespace(demonstration=False, sha256="b" * 64)
        self.dispatcher = Dispatcher(
            *(self.config, path, self.journal, "tls://x", None, bundle),
            contoured=lambda: None,
            stopping=self.stopping,
        )
        self.results = self.dispatcher._results

    def began(self, **changes):
        """A scan that a worker has begun."""
        row = self.journal.insert(arrived(**changes), ("tps",))
        self.journal.started(row.id)
        return row

    def lands(self, row, status, result=None):
        """File what came back for a scan."""
        flight = JobInFlight("key", "worker", 1.0, 0.0, started=True, result=result)
        flight.future = SimpleNamespace(
            status=status, cancel=lambda: None, exception=lambda: RuntimeError("killed")
        )
        self.results.file(row.id, flight)
        return self.journal.scan(row.id)


@pytest.fixture
def desk(tmp_path):
    """A dispatcher with an empty journal."""
    made = Desk(tmp_path)
    yield made
    made.journal.close()


def product(held=None):
    """A scan that was contoured."""
    record = {"runtime_s": 1.0, "device": "cpu"}
    return Result(
        scan=1,
        started_at=1.0,
        structure_set=b"RS",
        picture=b"PNG",
        labels=b"NPZ",
        record=record,
        held=held,
    )


class Full:
    """A disk that has no room for the first tries, ``times`` of them."""

    def __init__(self, write, times):
        self._write = write
        self.left = times

    def __call__(self, *args):
        """Write, once there is room."""
        self.left -= 1
        if self.left >= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self._write(*args)


def test_the_journal_keeps_when_a_contoured_scan_began(desk):
    """If the worker died the journal forgets the start: no worker has the scan now."""
    after = desk.lands(desk.began(), "finished", product())
    assert after.state == "contoured"
    assert after.started_at is not None
    for status in ("error", "cancelled"):
        died = desk.began(series_instance_uid=f"2.25.{len(status)}")
        after = desk.lands(died, status)
        assert (after.state, after.tries, after.started_at) == ("ready", 1, None)


def test_the_third_death_is_an_alarm(desk, caplog):
    """An ERROR with scan, animal, count and the command; two deaths are not enough."""
    row = desk.began()
    for _ in range(DEATHS - 1):
        assert desk.lands(row, "error").state == "ready"
        desk.journal.started(row.id)
    caplog.clear()
    assert desk.lands(row, "error").state == "quarantined"
    (line,) = [each for each in caplog.records if "QUARANTINED" in each.getMessage()]
    assert line.levelno == logging.ERROR
    message = line.getMessage()
    assert message.startswith(
        "scan-00001 animal M1 QUARANTINED, not contoured: 3 tries gave nothing: "
    )
    assert message.endswith(f"limn retry --config {desk.path} scan-00001")


@pytest.mark.parametrize(("priority", "held"), [(LIVE, 1), (COHORT, 0)])
def test_only_live_scans_are_held(desk, priority, held):
    """A cohort's structure sets go nowhere; the record keeps the reason to look at one."""
    row = desk.lands(desk.began(priority=priority), "finished", product("mirrored image"))
    assert len(desk.journal.on_hold()) == held
    assert row.record.get("held") == (None if held else "mirrored image")


def test_other_forms_are_on_disk_before_a_courier_knows_of_the_scan(desk):
    """Folders get them with the structure set."""
    row = desk.began()
    desk.lands(row, "finished", replace(product(), forms={"SEG.dcm": b"SEG", "Heart.stl": b"STL"}))
    folder = desk.config.results_dir / row.name / "forms"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        "SEG.dcm": b"SEG",
        "Heart.stl": b"STL",
    }


def test_a_result_waits_for_room_on_the_disk(desk, monkeypatch, caplog):
    """All files wait in memory, the log names the cause once, and nothing runs again."""
    monkeypatch.setattr(persist, "PAUSE_S", 0.001)
    full = Full(files.write_durably, 5)
    monkeypatch.setattr("limn.node.contour.results.write_durably", full)
    row = desk.began()
    with caplog.at_level(logging.INFO):
        after = desk.lands(row, "finished", product())
    assert (after.state, after.tries, full.left) == ("contoured", 1, -1)
    folder = desk.config.results_dir / row.name
    assert (folder / "picture.png").read_bytes() == b"PNG"
    assert (folder / "labels.npz").read_bytes() == b"NPZ"
    (line,) = [each.getMessage() for each in caplog.records if each.levelno == logging.ERROR]
    assert line.startswith("scan-00001 animal M1 is contoured; its structure set can't be written")
    assert "No space left on device" in line
    assert "make room on the disk of data_dir" in line


def test_a_node_that_stops_on_a_full_disk_keeps_the_scan(desk, monkeypatch):
    """The result is dropped; the scan waits in the journal as before."""
    monkeypatch.setattr("limn.node.contour.results.write_durably", Full(files.write_durably, 10**9))
    row = desk.began()
    desk.stopping.set()
    with pytest.raises(persist.WriteAbandoned, match="No space left"):
        desk.lands(row, "finished", product())
    assert desk.journal.scan(row.id).state == "ready"


def test_a_journal_on_a_full_disk_goes_on_when_there_is_room(desk, monkeypatch, caplog):
    """The log has SQLite's own message; the failed write leaves no transaction open."""
    monkeypatch.setattr(persist, "PAUSE_S", 0.001)
    row = desk.began()
    db = desk.journal._db
    (pages,) = db.execute("pragma page_count").fetchone()
    db.execute(f"pragma max_page_count = {pages}")
    room = threading.Timer(0.3, db.execute, ("pragma max_page_count = 100000",))
    room.start()
    long = Result(scan=row.id, started_at=1.0, ended="refused", reason="why " * 50000)
    after = desk.lands(row, "finished", long)
    room.join()
    assert (after.state, len(after.reason)) == ("refused", 200000)
    assert not db.in_transaction
    assert [each.getMessage() for each in caplog.records if "disk is full" in each.getMessage()]


def test_an_error_that_is_no_disk_s_is_not_waited_for(desk):
    """A fault of limn must not look like a full disk for ever."""
    with pytest.raises(Exception, match="no such table"):
        persist.write_until_done(
            lambda: desk.journal._db.execute("select * from gone"), "it", threading.Event()
        )


def test_a_scan_that_a_worker_could_not_take_waits_for_another(desk, caplog):
    """The worker's disk is full: the scan stays in the queue and the worker rests."""
    row = desk.began()
    after = desk.lands(
        row, "finished", Result(scan=row.id, started_at=1.0, ended=UNFIT, reason="x")
    )
    assert (after.state, after.tries, after.started_at) == ("ready", 1, None)
    assert "scan-00001 waits: worker worker can't take it: x" in caplog.text
    requests = []
    client = SimpleNamespace(
        id="c", run_on_scheduler=lambda _, request: requests.append(request) or AllocationReply()
    )
    desk.dispatcher._allocate(client, LIVE)
    desk.results.resting_until_s["worker"] -= 2 * REST_S
    desk.dispatcher._allocate(client, LIVE)
    assert [request.resting for request in requests] == [("worker",), ()]


def test_a_result_that_is_lost_with_its_worker_stops_nothing(desk, monkeypatch, caplog):
    """The link was cut when the job was done: Dask calls it finished and never returns it."""
    row = desk.began()
    flight = JobInFlight("key", "worker", 1.0, 0.0, started=True)
    cancelled = []

    def result(timeout):
        assert timeout <= REST_S
        raise TimeoutError

    flight.future = SimpleNamespace(
        status="finished", result=result, cancel=lambda: cancelled.append(True)
    )
    flights = desk.dispatcher._flights
    flights._jobs[row.id] = flight
    flights._fetch(row.id, flight)
    desk.dispatcher._next_event()
    after = desk.journal.scan(row.id)
    assert (after.state, after.started_at, len(flights)) == ("ready", None, 0)
    assert cancelled
    assert "scan-00001: its result is lost: TimeoutError()" in caplog.text
    assert "its result can't be fetched from worker worker" in caplog.text
    for _ in range(DEATHS - 1):
        desk.journal.started(row.id)
        desk.lands(row, "finished")
    after = desk.journal.scan(row.id)
    assert after.state == "quarantined"
    assert "is its port open to this host?" in after.reason


def test_a_worker_without_room_for_a_scan_s_bytes_is_unfit(tmp_path, monkeypatch):
    """The scan has not failed; the files that were written of it are removed."""
    here = SimpleNamespace(local_directory=str(tmp_path))
    monkeypatch.setattr(worker, "get_worker", lambda: here)
    monkeypatch.setattr(Path, "write_bytes", Full(Path.write_bytes, 10**9))
    job = SimpleNamespace(scan=1, paths=("/far/a.dcm",), sizes=(3,))
    result = worker._result_or_failure(
        job, lambda began: worker._contour_sent(job, "", began, b"abc", Progress())
    )
    assert result.ended == UNFIT
    assert "No space left on device" in result.reason
    assert str(tmp_path) in result.reason
    assert list(tmp_path.iterdir()) == []


def test_a_picture_that_can_t_be_written_stops_nothing(desk, monkeypatch, caplog):
    """The structure set is delivered; the picture follows when there is room."""
    row = desk.began()
    with monkeypatch.context() as patched:
        patched.setattr(persist, "write_durably", Full(persist.write_durably, 10**9))
        assert desk.lands(row, "finished", product()).state == "contoured"
        desk.results.flush()
    folder = desk.config.results_dir / row.name
    assert not (folder / "picture.png").exists()
    (line,) = [each.getMessage() for each in caplog.records if "picture.png" in each.getMessage()]
    assert "can't be written (No space left on device) and waits in memory" in line
    desk.results.flush()
    assert (folder / "picture.png").read_bytes() == b"PNG"
    assert (folder / "labels.npz").read_bytes() == b"NPZ"


def test_pictures_that_wait_are_bounded(tmp_path, monkeypatch, caplog):
    """A disk that stays full does not fill the memory."""
    monkeypatch.setattr(persist, "MOST_DEFERRED", 2)
    later = persist.DeferredWriter()
    for k in range(3):
        (tmp_path / str(k) / "picture.png").mkdir(parents=True)
        later.write(tmp_path / str(k) / "picture.png", b"PNG")
    assert f"{tmp_path / '0' / 'picture.png'} is given up" in caplog.text
    assert list(later._waiting) == [tmp_path / str(k) / "picture.png" for k in (1, 2)]


@pytest.mark.skipif(os.name != "posix", reason="POSIX modes")
def test_results_are_for_their_owner_alone(desk):
    """Also in a data folder that others may list: structure set, picture and labels."""
    desk.config.data_dir.chmod(0o755)
    row = desk.began()
    desk.lands(row, "finished", product())
    files = [*(desk.config.results_dir / row.name).iterdir()]
    assert len(files) == 3
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert files[0].parent.stat().st_mode & 0o777 == 0o700


def test_a_locked_journal_is_not_called_a_full_disk(desk, monkeypatch, caplog):
    """The log names the lock; the result waits as it does for a disk."""
    monkeypatch.setattr(persist, "PAUSE_S", 0.01)
    error = sqlite3.OperationalError("database is locked")
    error.sqlite_errorcode = sqlite3.SQLITE_BUSY
    tries = iter([error, error])

    def write():
        if found := next(tries, None):
            raise found

    persist.write_until_done(write, "the journal", threading.Event())
    assert "another program holds a lock on the journal" in caplog.text
    assert "make room" not in caplog.text


def broken(*_, **__):
    """An inner call with an error that nobody thought of."""
    raise LookupError("what")


def test_a_scan_whose_result_can_t_be_filed_ends_with_a_person(desk, caplog, monkeypatch):
    """It runs again, and is quarantined at the third time with a command; others are filed."""
    row, other = desk.began(), desk.began(series_instance_uid="2.25.7")
    contoured = desk.journal.contoured

    def surprised(scan_id, *rest):
        return broken() if scan_id == row.id else contoured(scan_id, *rest)

    monkeypatch.setattr(desk.journal, "contoured", surprised)
    for _ in range(DEATHS - 1):
        after = desk.lands(row, "finished", product())
        assert (after.state, after.started_at) == ("ready", None)
        assert desk.results.rests(row.id)
        assert [each.id for each in desk.dispatcher._waiting()] == [other.id]
        desk.journal.started(row.id)
    assert desk.lands(other, "finished", replace(product(), scan=other.id)).state == "contoured"
    after = desk.lands(row, "finished", product())
    assert (after.state, after.reason) == (
        "quarantined",
        "3 tries ended with a fault of limn (LookupError: what); report it with limn.log",
    )
    assert f"limn retry --config {desk.path} {row.name}" in caplog.text


def test_a_surprise_after_the_structure_set_is_on_disk_takes_nothing_back(desk, monkeypatch):
    """The picture is for people; the scan is contoured."""
    monkeypatch.setattr(desk.results._for_people, "write", broken)
    assert desk.lands(desk.began(), "finished", product()).state == "contoured"


def test_a_scan_that_rests_because_the_journal_fails_makes_no_hot_loop(desk, monkeypatch):
    """Nothing about it can be written; it is tried again after a pause."""
    row = desk.began()
    monkeypatch.setattr(desk.journal, "stopped", broken)
    desk.lands(row, "error")
    assert desk.dispatcher._waiting() == []


def test_a_preview_that_can_t_be_filed_delays_no_structure_set(desk, monkeypatch):
    """The preview is dropped, and the scan waits for a worker as before."""
    row = desk.journal.insert(arrived(), ("tps",))
    desk.journal.begin_preview(row.id)
    monkeypatch.setattr(desk.results, "_offer_preview", broken)
    flight = JobInFlight("key", "worker", 1.0, 0.0, result=product(), preview=True)
    desk.results.file(row.id, flight)
    assert desk.journal.preview_of(row.id).state == "dropped"
    assert desk.journal.scan(row.id).state == "ready"


class FakeClient:
    """A scheduler with one free worker, and jobs that never end."""

    def __init__(self, rounds):
        self.id = "c"
        self.scheduler_comm = object()
        self._rounds = rounds
        self.submitted = []

    @property
    def status(self):
        """Running for so many looks."""
        self._rounds -= 1
        return "running" if self._rounds >= 0 else "closed"

    def run_on_scheduler(self, _, request):
        """The worker takes each scan that waits."""
        worker = "" if request.priority is None else "w"
        return AllocationReply(worker=worker, workers=("w",))

    def submit(self, function, *args, **_):
        """Note the scan of a job."""
        if function is run_job:
            self.submitted.append(args[0].scan)
        return SimpleNamespace(add_done_callback=lambda _: None, cancel=lambda: None)


@pytest.fixture
def quick(monkeypatch):
    """No waiting between two looks of the dispatcher."""
    monkeypatch.setattr(dispatch, "POLL_S", 0.01)
    monkeypatch.setattr(dispatch, "WAITING_POLL_S", 0.01)
    monkeypatch.setattr(dispatch, "SURPRISE_PAUSE_S", 0.01)
    monkeypatch.setattr(dispatch, "fire_and_forget", lambda _: None)


def test_a_scan_that_can_t_be_submitted_stops_no_other(desk, quick, monkeypatch):
    """After three tries, each after a pause, it is quarantined."""
    bad = desk.journal.insert(arrived(), ("tps",))
    good = desk.journal.insert(arrived(series_instance_uid="2.25.7"), ("tps",))
    job_of = desk.dispatcher._flights._job_of
    monkeypatch.setattr(
        desk.dispatcher._flights,
        "_job_of",
        lambda row: broken() if row.id == bad.id else job_of(row),
    )
    client = FakeClient(30)
    for _ in range(DEATHS):
        assert desk.journal.scan(bad.id).state == "ready"
        client._rounds = 5
        desk.dispatcher._serve(client)
        if bad.id in desk.results._faults._noted:
            desk.results._faults._noted[bad.id].until_s = 0.0
    assert client.submitted == [good.id]
    assert desk.journal.scan(bad.id).state == "quarantined"


def test_a_surprise_of_the_dispatcher_is_logged_once_and_passes(desk, quick, caplog, monkeypatch):
    """It gives no sign of life meanwhile, so that the supervisor names the engine and ends it."""
    row = desk.journal.insert(arrived(), ("tps",))
    moved = []
    monkeypatch.setattr(dispatch.HEART, "moved", lambda: moved.append(True))
    client = FakeClient(6)
    with monkeypatch.context() as patched:
        patched.setattr(desk.journal, "ready", broken)
        desk.dispatcher._serve(client)
    assert (client.submitted, moved) == ([], [])
    assert caplog.text.count("no scan is given to a worker") == 1
    client._rounds = 6
    desk.dispatcher._serve(client)
    assert client.submitted == [row.id]
    assert moved


def test_a_fault_of_previews_delays_no_structure_set(desk, quick, caplog, monkeypatch):
    """It is logged once; the scan goes to a worker."""
    row = desk.journal.insert(arrived(), ("tps",))
    monkeypatch.setattr(desk.dispatcher._previews, "begin_next", broken)
    client = FakeClient(3)
    desk.dispatcher._serve(client)
    assert client.submitted == [row.id]
    assert caplog.text.count("no scan gets a PREVIEW: a fault of limn (LookupError") == 1


def test_bytes_that_can_t_be_sent_for_a_fault_make_no_hot_loop(desk, tmp_path):
    """An error that is none of the network on the way to a worker counts as a fault."""
    row = desk.began(folder=str(tmp_path), files=("a.dcm",))
    (tmp_path / "a.dcm").write_bytes(b"x")
    flights, done = desk.dispatcher._flights, []
    flights._on_done = lambda *ended: done.append(ended)
    flight = JobInFlight("key", "worker", 1.0, 0.0)
    flights._send_and_start(SimpleNamespace(scatter=broken), flights._job_of(row), flight, 0)
    assert done == [(row.id, flight)]
    desk.results.file(*done[0])
    assert desk.results.rests(row.id)
    assert desk.journal.scan(row.id).state == "ready"


def test_the_end_of_a_job_is_told_whatever_its_result_brings(desk):
    """Not even an error that passes every handler leaves a scan in flight for ever."""
    row, done = desk.began(), []
    flights = desk.dispatcher._flights
    flights._on_done = lambda *ended: done.append(ended)

    def ends(timeout):
        raise SystemExit

    flight = JobInFlight("key", "worker", 1.0, 0.0)
    flight.future = SimpleNamespace(status="finished", result=ends)
    with pytest.raises(SystemExit):
        flights._fetch(row.id, flight)
    assert done == [(row.id, flight)]


def test_a_connection_that_dask_has_mended_is_given_up(desk, quick):
    """It leads to a new scheduler, which sends it no event of a job."""
    client = FakeClient(9)
    ask = client.run_on_scheduler

    def mended(*given):
        client.scheduler_comm = object()
        return ask(*given)

    client.run_on_scheduler = mended
    desk.dispatcher._serve(client)
    assert client._rounds == 7, "it was left at the second look"


def test_one_uid_stands_for_one_content(desk, caplog):
    """A peer has the structure set; contoured again it differs, and so does its UID."""
    row = desk.began()
    before = desk.journal.structure_set_of(row.id)
    desk.lands(row, "finished", product())
    assert desk.journal.recontour(row.id, arrived(ready_at=9.0), ("tps",))
    desk.journal.started(row.id)
    other = replace(product(), structure_set=b"RS of other rules")
    assert desk.lands(row, "finished", other).state == "ready"
    assert "contoured once more under new ones" in caplog.text
    renewed = desk.journal.structure_set_of(row.id)
    assert renewed.sop_instance_uid != before.sop_instance_uid
    assert renewed.series_instance_uid != before.series_instance_uid
    assert (renewed.path, renewed.contents_sha256) == ("", "")
    assert [each.state for each in desk.journal.deliveries(row.id)] == ["waiting"]
    desk.journal.started(row.id)
    assert desk.lands(row, "finished", other).state == "contoured"
    path = Path(desk.journal.structure_set_of(row.id).path)
    assert path.name == f"RS.{renewed.sop_instance_uid}.dcm"
    assert path.read_bytes() == b"RS of other rules"
    assert (path.parent / f"RS.{before.sop_instance_uid}.dcm").read_bytes() == b"RS"


def test_the_same_content_keeps_its_uid(desk):
    """A structure set that was removed is contoured again, and is what the peer has."""
    row = desk.began()
    before = desk.journal.structure_set_of(row.id)
    desk.lands(row, "finished", product())
    Path(desk.journal.structure_set_of(row.id).path).unlink()
    assert desk.journal.recontour(row.id, arrived(ready_at=9.0), ("tps",))
    desk.journal.started(row.id)
    assert desk.lands(row, "finished", product()).state == "contoured"
    after = desk.journal.structure_set_of(row.id)
    assert after.sop_instance_uid == before.sop_instance_uid
    assert Path(after.path).read_bytes() == b"RS"


@pytest.mark.parametrize("on_disk", [b"RS", b"RS of other rules", None])
def test_what_a_lost_journal_may_have_sent_keeps_its_content(desk, on_disk):
    """Of a restored journal the disk alone says what a peer may have."""
    row = desk.began()
    before = desk.journal.structure_set_of(row.id)
    desk.journal.enter_issued([(before.sop_instance_uid, before.date, before.time)])
    if on_disk is not None:
        folder = desk.config.results_dir / row.name
        folder.mkdir(parents=True)
        (folder / f"RS.{before.sop_instance_uid}.dcm").write_bytes(on_disk)
    after = desk.lands(row, "finished", product())
    renewed = desk.journal.structure_set_of(row.id).sop_instance_uid != before.sop_instance_uid
    assert (after.state, renewed) == (("contoured", False) if on_disk == b"RS" else ("ready", True))


def test_what_a_kill_left_on_disk_is_written_anew(desk):
    """The journal never knew of it, so no courier had it."""
    row = desk.began()
    structure_set = desk.journal.structure_set_of(row.id)
    folder = desk.config.results_dir / row.name
    folder.mkdir(parents=True)
    (folder / f"RS.{structure_set.sop_instance_uid}.dcm").write_bytes(b"half")
    assert desk.lands(row, "finished", product()).state == "contoured"
    assert desk.journal.structure_set_of(row.id).sop_instance_uid == structure_set.sop_instance_uid


def test_the_line_on_a_held_scan_asks_for_the_name_that_its_release_needs(desk, caplog):
    """The command in the log is the one that works."""
    made = product("left and right may be exchanged")
    result = replace(made, record={**made.record, "flags": "sides-unsure:0.1"})
    desk.lands(desk.began(), "finished", result)
    assert "HELD, not sent" in caplog.text
    assert "scan-00001 --by NAME" in caplog.text
