"""What `limn queue` reads of the scans that workers contour."""

import time
from types import SimpleNamespace

import pytest

from limn.node.contour.estimate import how_far
from limn.node.contour.running import Running
from limn.node.contour.work.progress import Told
from limn.node.store.disk.running import BELIEVED_S, RunningScan, read_running, write_running
from limn.node.store.journal.schema import LIVE

UNLIKE = 10
STAGES = {"read_s": 1.0, "preprocess_s": 1.0, "inference_s": 6.0, "picture_s": 2.0}


def test_the_share_of_a_scan_is_that_of_its_stages():
    """By the scans before it: half of the inference is half of the scan."""
    records = [STAGES, STAGES, {name: 3 * value for name, value in STAGES.items()}]
    assert how_far(records, "read_s", 0.0) == (0.0, 10.0)
    assert how_far(records, "inference_s", 0.5) == (0.5, 5.0)
    assert how_far(records, "picture_s", 1.0) == (1.0, 0.0)
    assert how_far([], "read_s", 0.0) is None
    assert how_far(records, "settle_s", 0.0) is None


@pytest.fixture
def running(tmp_path):
    """One job at a worker, of a scan of which the estimate knows that it takes 10 s."""
    jobs = {7: SimpleNamespace(key="a", preview=False)}
    estimator = SimpleNamespace(
        how_far=lambda row, stage, share: how_far([STAGES], stage, share),
        run_s=lambda row: None if row.id == UNLIKE else 10.0,
        forget=lambda: None,
    )
    journal = SimpleNamespace(scan=lambda number: SimpleNamespace(id=number))
    return Running(tmp_path / "running.json", journal, estimator, jobs), jobs


def test_what_a_worker_tells_stands_in_the_file_until_the_job_ends(running, tmp_path):
    """Another node's job is nobody's here."""
    shown, jobs = running
    path = tmp_path / "running.json"
    shown.told("other node", Told(stage="read_s"))
    assert read_running(path, time.time()) == {}
    shown.told("a", Told(stage="inference_s", done=3, of=6))
    (scan,) = read_running(path, time.time()).values()
    assert (scan.scan, scan.stage, scan.share) == (7, "inference_s", 0.5)
    assert scan.ends_at == pytest.approx(time.time() + 5.0, abs=1.0)
    jobs.clear()
    shown.forget()
    assert read_running(path, time.time()) == {}


def waiting(*numbers):
    """Live scans, and the last one of a cohort."""
    *live, cohort = numbers
    return [
        *(SimpleNamespace(id=each, priority=LIVE) for each in live),
        SimpleNamespace(id=cohort, priority=LIVE - 1),
    ]


def test_scans_that_wait_are_expected_one_after_another(running, tmp_path):
    """After the one that runs; from the first of which nothing is known on, none is."""
    shown, jobs = running
    path = tmp_path / "running.json"
    shown.wait(waiting(8, 9, UNLIKE, 11, 12), 1)
    shown.told("a", Told(stage="inference_s", done=3, of=6))
    now = time.time()
    found = read_running(path, now)
    assert [found[each].ends_at - now for each in (8, 9)] == pytest.approx([15.0, 25.0], abs=2.0)
    assert {each: found[each].stage for each in (8, 9)} == {8: "queue_s", 9: "queue_s"}
    assert set(found) == {7, 8, 9}
    # With two workers one is free now.
    shown.wait(waiting(8, 12), 2)
    shown.show()
    assert read_running(path, now)[8].ends_at - now == pytest.approx(10.0, abs=2.0)
    jobs[UNLIKE] = SimpleNamespace(key="b", preview=False)
    shown.show()
    assert set(read_running(path, now)) == {7}


def test_a_scan_unlike_those_before_has_the_share_of_its_stage(running, tmp_path):
    """Which its worker tells."""
    shown, _ = running
    shown._estimator.how_far = lambda *_: None
    shown.told("a", Told(stage="inference_s", done=3, of=6))
    (scan,) = read_running(tmp_path / "running.json", time.time()).values()
    assert (scan.share, scan.ends_at, scan.of_stage) == (None, None, 0.5)


def test_a_preview_has_no_estimate(running, tmp_path):
    """Its folds are fewer."""
    shown, jobs = running
    jobs[7].preview = True
    shown.told("a", Told(stage="inference_s", done=1, of=2))
    (scan,) = read_running(tmp_path / "running.json", time.time()).values()
    assert (scan.preview, scan.share, scan.ends_at) == (True, None, None)


@pytest.mark.parametrize("contents", ["", "[1]", '{"written_at": 1e400}', "[" * 99999, "{}"])
def test_a_file_that_is_damaged_or_old_says_nothing(tmp_path, contents):
    """The engine may have died while it ran."""
    path = tmp_path / "running.json"
    write_running(path, [RunningScan(scan=1, stage="read_s", share=0.1, ends_at=None)], 1000.0)
    assert set(read_running(path, 1000.0 + BELIEVED_S)) == {1}
    assert read_running(path, 1001.0 + BELIEVED_S) == {}
    path.write_text(contents)
    assert read_running(path, 1000.0) == {}
