import errno
import logging
import os
import sqlite3
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from limn.domain import files
from limn.node import persist
from limn.node.config import load_config
from limn.node.contour import worker
from limn.node.contour.allocation import AllocationReply
from limn.node.contour.dispatch import Dispatcher
from limn.node.contour.flights import JobInFlight
from limn.node.contour.job import UNFIT, Result
from limn.node.contour.results import DEATHS, REST_S
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
        job, lambda began: worker._contour_sent(job, "", began, b"abc")
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
