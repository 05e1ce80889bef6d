"""A dispatcher with previews: which scan gets one, and what becomes of both structure sets."""

import logging
import threading
import time
from types import SimpleNamespace

import pytest

from limn.node.config import load_config
from limn.node.contour.allocation import AllocationReply
from limn.node.contour.dispatch import Dispatcher
from limn.node.contour.job import UNFIT, Result
from limn.node.store.journal.journal import Journal
from limn.node.store.journal.schema import COHORT
from tests.conftest import free_port
from tests.support.node.parts import arrived, slices, write_slices
from tests.support.node.site import CONFIG

GRID = "8x6x20 0.2x0.2x0.2 mm"
RECORD = {"runtime_s": 100.0, "picture_s": 0.0, "device": "cpu", "grid": GRID}


class Desk:
    """A dispatcher whose scheduler is this object: it grants its workers and keeps the jobs."""

    def __init__(self, folder, *, after_s=60.0, previews=True, folds=5, workers=1):
        self.folder = folder
        path = folder / "limn.toml"
        text = CONFIG.format(wake=free_port(), tps=104)
        if after_s is not None:
            text = text.replace("[engine]\n", f"[engine]\npreview_after_s = {after_s}\n")
        if previews:
            text = text.replace("port = 104\n", "port = 104\npreviews = true\n")
        path.write_text(text)
        self.journal = Journal(folder / "data" / "journal.sqlite")
        self.config = load_config(path)
        bundle = SimpleNamespace(
            demonstration=False, sha256="b" * 64, folds=tuple(range(folds)), label="toy-1"
        )
        self.dispatcher = Dispatcher(
            *(self.config, path, self.journal, "tls://x", None, bundle),
            contoured=lambda: None,
            stopping=threading.Event(),
        )
        self.names = tuple(f"w{number}" for number in range(workers))
        self.dispatcher._workers = set(self.names)
        self.idle = list(self.names)
        # What each worker has: the job and its key, oldest first.
        self.jobs = []
        self.id = "client"
        self._numbers = 0

    def run_on_scheduler(self, _, request):
        """Grant an idle worker to a scan that waits."""
        worker = self.idle.pop(0) if self.idle and request.priority is not None else ""
        return AllocationReply(worker=worker, workers=self.names)

    def submit(self, _, job, label, pixels, **options):
        """Keep a job as a worker would get it."""
        self.jobs.append((job, label, options["key"], options["workers"][0]))
        return SimpleNamespace(status="pending", add_done_callback=lambda _: None)

    def scan(self, ready_ago_s=0.0, **changes):
        """A series that is complete, its files in the spool."""
        self._numbers += 1
        folder = self.folder / "data" / "spool" / str(self._numbers)
        paths = write_slices(folder, slices(str(self._numbers), 20))
        values = {
            "series_instance_uid": f"2.25.{self._numbers}",
            "animal": f"M{self._numbers}",
            "folder": str(folder),
            "files": tuple(path.name for path in paths),
            "ready_at": time.time() - ready_ago_s,
        }
        return self.journal.insert(arrived(**(values | changes)), ("tps", "export"))

    def contoured_before(self, **changes):
        """A scan of the same size that this node has contoured."""
        row = self.scan(series_instance_uid="2.25.999")
        self.journal.contoured(row.id, "/rs.dcm", RECORD | changes)

    def fill(self):
        """Give every idle worker a job; returns what was given: scan and whether a preview."""
        before = len(self.jobs)
        self.dispatcher._fill(self, self.dispatcher._waiting())
        return [(job.scan, job.preview) for job, *_ in self.jobs[before:]]

    def lands(self, result=None, status="finished", *, started=True):
        """The last job comes back."""
        job, _, key, worker = self.jobs[-1]
        if started:
            self.dispatcher._flights.started(key)
        flight = self.dispatcher._flights.jobs[job.scan]
        flight.result = result
        flight.future = SimpleNamespace(
            status=status, cancel=lambda: None, exception=lambda: RuntimeError("killed")
        )
        self.dispatcher._on_job_done(job.scan, flight)
        self.dispatcher._next_event()
        while self.dispatcher._flights.jobs.get(job.scan) is flight:
            self.dispatcher._next_event()
        self.idle.append(worker)
        return self.journal.scan(job.scan)


def product(**changes):
    """A scan that was contoured."""
    values = {"scan": 1, "started_at": 1.0, "structure_set": b"RS", "record": dict(RECORD)}
    return Result(**(values | {"picture": b"PNG", "labels": b"NPZ"} | changes))


@pytest.fixture
def desk(tmp_path):
    """A desk of a site with previews, where a scan like the next one took 100 s."""
    made = Desk(tmp_path)
    made.contoured_before()
    yield made
    made.journal.close()


@pytest.mark.parametrize(
    ("settings", "runtime_s"),
    [
        ({"after_s": None}, 100.0),
        ({"previews": False}, 100.0),
        ({"folds": 1}, 100.0),
        ({}, 50.0),
        ({}, None),
    ],
    ids=["off", "no destination takes one", "one fold", "in time", "nothing known"],
)
def test_no_preview(tmp_path, settings, runtime_s):
    """The first job is that of the scan's structure set."""
    desk = Desk(tmp_path, **settings)
    if runtime_s is not None:
        desk.contoured_before(runtime_s=runtime_s)
    row = desk.scan()
    assert desk.fill() == [(row.id, False)]
    assert desk.journal.preview_of(row.id) is None
    assert desk.lands(product()).state == "contoured"
    assert desk.fill() == []
    desk.journal.close()


def test_previews_are_off_unless_the_site_sets_them(tmp_path):
    """Neither key has a value that makes one."""
    config = Desk(tmp_path, after_s=None, previews=False).config
    assert config.engine.preview_after_s is None
    assert [each.previews for each in config.destination] == [False, False]
    assert config.preview_destinations == ()


def test_a_preview_goes_first_and_the_structure_set_names_it(desk, caplog):
    """Both are offered under UIDs of their own; only the destination that takes previews has one.

    The time of the preview counts as time in the queue.
    """
    row = desk.scan(ready_ago_s=30.0)
    with caplog.at_level(logging.INFO):
        assert desk.fill() == [(row.id, True)]
    assert "expected 130 s after the scan was complete" in caplog.text
    first, *_ = desk.jobs[-1]
    after = desk.lands(product())
    assert (after.state, after.tries, after.started_at) == ("ready", 0, None)
    preview = desk.journal.preview_of(row.id)
    assert first.sop_instance_uid == preview.sop_instance_uid
    assert first.series_instance_uid == preview.series_instance_uid
    assert first.predecessor_uid == ""
    folder = desk.config.results_dir / row.name
    assert (folder / f"PREVIEW.{preview.sop_instance_uid}.dcm").read_bytes() == b"RS"
    assert (folder / "preview.png").read_bytes() == b"PNG"
    assert [p.name for p in folder.glob("RS.*")] == []
    waiting = desk.journal.preview_deliveries(row.id)
    assert [(each.destination, each.state) for each in waiting] == [("tps", "waiting")]

    assert desk.fill() == [(row.id, False)]
    second, *_ = desk.jobs[-1]
    own = desk.journal.structure_set_of(row.id)
    assert second.sop_instance_uid == own.sop_instance_uid != preview.sop_instance_uid
    assert second.predecessor_uid == preview.sop_instance_uid
    assert (second.date, second.time) == (first.date, first.time)
    after = desk.lands(product())
    assert (after.state, after.tries) == ("contoured", 1)
    assert after.record["queue_s"] == pytest.approx(30.0, abs=5.0)
    assert desk.fill() == []


def test_who_waits_in_the_queue_gets_a_preview_before_others_get_their_answer(tmp_path):
    """40 s each and one worker: the second is expected after 80 s, the third after 120 s."""
    desk = Desk(tmp_path)
    desk.contoured_before(runtime_s=40.0)
    rows = [desk.scan().id for _ in range(3)]
    order = []
    while given := desk.fill():
        order += given
        desk.lands(product(record=RECORD | {"runtime_s": 40.0}))
    previews, answers = order[:2], order[2:]
    assert previews == [(rows[1], True), (rows[2], True)]
    assert answers == [(number, False) for number in rows]
    desk.journal.close()


def test_two_workers_halve_the_wait(tmp_path):
    """The second scan has a worker of its own."""
    desk = Desk(tmp_path, workers=2)
    desk.contoured_before(runtime_s=40.0)
    rows = [desk.scan().id for _ in range(2)]
    assert desk.fill() == [(number, False) for number in rows]
    desk.journal.close()


def test_a_cohort_gets_no_preview(desk):
    """Nobody waits for it, and no destination gets it."""
    row = desk.scan(priority=COHORT)
    assert desk.fill() == [(row.id, False)]


@pytest.mark.parametrize(
    ("result", "status", "why"),
    [
        (product(held="mirror image"), "finished", "held: mirror image"),
        (Result(scan=1, started_at=1.0, ended="refused", reason="two"), "finished", "refused: two"),
        (Result(scan=1, started_at=1.0, ended="failed", reason="a\nb"), "finished", "failed: b"),
        (Result(scan=1, started_at=1.0, ended=UNFIT, reason="disk"), "finished", "unfit: disk"),
        (None, "error", "gave no result"),
        (None, "cancelled", "gave no result"),
    ],
    ids=["held", "refused", "failed", "unfit", "death", "lost"],
)
def test_a_preview_that_comes_to_nothing_costs_the_scan_nothing(desk, caplog, result, status, why):
    """It goes nowhere, and the structure set is made as if there had been none."""
    row = desk.scan()
    desk.fill()
    with caplog.at_level(logging.INFO):
        after = desk.lands(result, status)
    assert (after.state, after.tries, after.started_at) == ("ready", 0, None)
    preview = desk.journal.preview_of(row.id)
    assert preview.state == "dropped"
    assert why in preview.reason
    assert f"{row.name} animal {row.animal} gets no PREVIEW: " in caplog.text
    assert not [each for each in caplog.records if each.levelno >= logging.ERROR]
    assert desk.journal.preview_deliveries(row.id) == []
    assert not list(desk.config.results_dir.glob("*/PREVIEW*"))
    assert desk.fill() == [(row.id, False)]
    assert desk.jobs[-1][0].predecessor_uid == ""
    after = desk.lands(product())
    assert (after.state, after.tries) == ("contoured", 1)


def test_a_full_disk_drops_the_preview(desk, monkeypatch):
    """Only the structure set is worth a wait."""

    def full(*_):
        raise OSError(28, "No space left on device")

    row = desk.scan()
    desk.fill()
    with monkeypatch.context() as patched:
        patched.setattr("limn.node.contour.results.write_durably", full)
        desk.lands(product())
    assert desk.journal.preview_of(row.id).state == "dropped"
    assert desk.fill() == [(row.id, False)]


def test_a_scan_that_was_begun_gets_no_preview(desk):
    """Its worker died: the next try is for the structure set."""
    row = desk.scan()
    desk.journal.started(row.id)
    desk.journal.stopped(row.id)
    assert desk.fill() == [(row.id, False)]


def test_an_engine_that_died_with_a_preview_makes_none_again(desk):
    """The structure set is made once, and names no preview that was not on disk."""
    row = desk.scan()
    assert desk.fill() == [(row.id, True)]
    desk.dispatcher._flights.clear()
    desk.dispatcher._none_runs()
    desk.idle = list(desk.names)
    assert desk.journal.preview_of(row.id).state == "dropped"
    assert desk.fill() == [(row.id, False)]
    assert desk.jobs[-1][0].predecessor_uid == ""


def test_an_engine_that_died_after_the_preview_names_it(desk):
    """The second try of the structure set gives the same bytes as the first."""
    row = desk.scan()
    desk.fill()
    desk.lands(product())
    desk.fill()
    first, *_ = desk.jobs[-1]
    desk.dispatcher._flights.clear()
    desk.dispatcher._none_runs()
    desk.idle = list(desk.names)
    assert desk.fill() == [(row.id, False)]
    assert desk.jobs[-1][0] == first
    assert first.predecessor_uid == desk.journal.preview_of(row.id).sop_instance_uid


def test_a_preview_on_disk_is_known_to_a_journal_that_was_restored(desk):
    """It may be at the planning system: it is named, and neither made nor sent again."""
    row = desk.scan()
    desk.fill()
    desk.lands(product())
    uid = desk.journal.preview_of(row.id).sop_instance_uid
    desk.journal._db.execute("delete from preview_delivery")
    desk.journal._db.execute("delete from preview")
    desk.journal._db.execute("update scan set record = '{}' where state = 'contoured'")
    assert desk.fill() == [(row.id, False)]
    assert desk.jobs[-1][0].predecessor_uid == uid
    assert desk.journal.preview_deliveries(row.id) == []


def test_a_preview_without_a_structure_set_is_named_to_the_operator(desk, caplog):
    """The planning system has contours that nothing follows."""
    row = desk.scan()
    desk.fill()
    desk.lands(product())
    desk.journal.preview_delivered(desk.journal.take_preview("tps").id, "0x0000", time.time())
    desk.fill()
    desk.lands(Result(scan=row.id, started_at=1.0, ended="failed", reason="no organ"))
    (line,) = [each for each in caplog.messages if "PREVIEW went to" in each]
    assert line == (
        f"{row.name} animal {row.animal}: its PREVIEW went to tps, and the scan is failed; have "
        "it removed there"
    )


def test_the_next_version_names_the_preview_of_one_that_was_replaced(desk):
    """The preview is at the planning system; its own structure set never comes."""
    row = desk.scan()
    desk.fill()
    desk.lands(product())
    uid = desk.journal.preview_of(row.id).sop_instance_uid
    newer = desk.scan(
        series_instance_uid=row.series_instance_uid,
        input_digest="d2",
        files=row.files,
        folder=row.folder,
        supersedes=True,
    )
    assert desk.journal.scan(row.id).state == "superseded"
    assert [each.state for each in desk.journal.preview_deliveries(row.id)] == ["withdrawn"]
    desk.fill()
    job, *_ = desk.jobs[-1]
    assert (job.scan, job.preview, job.predecessor_uid) == (newer.id, True, uid)
