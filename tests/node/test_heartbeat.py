"""Signs of life: who gives them, who misses them, and what a supervisor makes of silence."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from limn.node import heartbeat
from limn.node.heartbeat import EVERY_S, LIMIT_S, SILENT_S, START_LIMIT_S, Heart, ProcessWatch
from limn.node.serve.child import ChildProcess

BEATING = (
    "import time\nfrom limn.node.heartbeat import HEART\n"
    "HEART.allow({limit})\nwhile True:\n    HEART.beat()\n    time.sleep(0.05)\n"
)


class Clock:
    """Seconds that a test sets."""

    now_s = 100.0

    def __call__(self):
        """Tell the time."""
        return self.now_s


@pytest.fixture
def clock():
    """A clock that stands until a test moves it."""
    return Clock()


@pytest.fixture
def path(tmp_path):
    """The file of a process."""
    return tmp_path / "engine"


def watching(path, clock):
    """A supervisor's watch on a process that has just begun."""
    watch = ProcessWatch(path)
    watch.begin(clock.now_s)
    return watch


def pass_time(watch, clock, seconds, every=lambda: None):
    """The supervisor looks ten times a second meanwhile."""
    for _ in range(round(seconds * 10)):
        clock.now_s += 0.1
        every()
        watch.look(clock.now_s)


def test_a_thread_that_stands_still_silences_its_process(path, clock):
    """The main thread lives on and beats; the stuck thread decides."""
    heart, watch = Heart(path, clock), watching(path, clock)
    thread = threading.Thread(target=heart.register)
    thread.start()
    thread.join()
    heart.register()

    def main_thread():
        heart.moved()
        heart.beat()

    main_thread()
    pass_time(watch, clock, 2.0, main_thread)
    assert not watch.is_silent
    pass_time(watch, clock, SILENT_S + 0.5, main_thread)
    assert watch.is_silent


def test_a_process_that_moves_is_never_silent(path, clock):
    """One beat a second is enough."""
    heart, watch = Heart(path, clock), watching(path, clock)
    pass_time(watch, clock, 3 * SILENT_S, heart.beat)
    assert watch.silent_s <= 2 * EVERY_S
    assert watch.limit_s == LIMIT_S


def test_a_start_is_not_judged_as_work(path, clock):
    """A model loads for minutes before the first beat, also where an earlier run left a file."""
    Heart(path, clock).beat()
    watch = watching(path, clock)
    pass_time(watch, clock, 10 * SILENT_S)
    assert not watch.is_silent
    assert watch.limit_s == START_LIMIT_S


def test_a_job_may_be_silent_until_its_deadline(path, clock):
    """Native code may hold the interpreter lock for as long; afterwards the usual limit counts."""
    heart, watch = Heart(path, clock), watching(path, clock)
    with heart.allowing(600.0):
        watch.look(clock.now_s)
        assert watch.limit_s == 600.0
    watch.look(clock.now_s)
    assert watch.limit_s == LIMIT_S


def test_a_supervisor_that_slept_blames_nobody(path, clock):
    """Both were stopped for an hour, together with the machine."""
    heart, watch = Heart(path, clock), watching(path, clock)
    heart.beat()
    watch.look(clock.now_s)
    clock.now_s += 3600
    watch.look(clock.now_s)
    assert not watch.is_silent


def test_without_a_file_nobody_is_judged(path, clock):
    """No inode was left for it, or a person tidied up."""
    heart, watch = Heart(path, clock), watching(path, clock)
    heart.beat()
    watch.look(clock.now_s)
    path.unlink()
    pass_time(watch, clock, 2 * SILENT_S)
    assert not watch.is_silent
    assert heartbeat.silent_since(path, time.time()) is None


def test_a_full_disk_takes_a_beat(path, clock):
    """A beat changes bytes in their place; the file never grows."""
    heart, watch = Heart(path, clock), watching(path, clock)
    before = path.stat()
    heart.allow(600.0)
    heart.beat()
    after = path.stat()
    assert (after.st_size, after.st_ino) == (before.st_size, before.st_ino)
    watch.look(clock.now_s)
    assert watch.limit_s == 600.0


@pytest.mark.parametrize("takes_it", [True, False])
def test_a_disk_that_takes_no_beat_blames_nobody(path, clock, monkeypatch, takes_it):
    """Full with a file system that copies on writing, or read-only: then silence says nothing."""
    heart, watch = Heart(path, clock), watching(path, clock)
    heart.beat()
    watch.look(clock.now_s)
    if not takes_it:
        monkeypatch.setattr(heartbeat, "_FLAGS", os.O_RDONLY)
    silences = []
    pass_time(watch, clock, LIMIT_S + 0.5, lambda: silences.append(watch.silent_s))
    assert (max(*silences, watch.silent_s) > watch.limit_s) is takes_it


def test_a_silent_thread_is_named_and_its_process_lives(tmp_path, monkeypatch):
    """A courier may take five minutes for a delivery; retention and others move."""
    monkeypatch.setattr(heartbeat, "LOOK_AGAIN_S", 0.01)
    monkeypatch.setattr(heartbeat, "_given", str(tmp_path / "engine"))
    for name, ago_s in (("courier to a/b", 320.0), ("courier to tps", 280.0), ("retention", 1.0)):
        heartbeat.for_thread(name, 300.0).beat()
        path = tmp_path / f"{name.replace('/', '_')}.thread"
        os.utime(path, (time.time() - ago_s,) * 2)
    assert heartbeat.silent_now(tmp_path) == {"courier to a_b": pytest.approx(320, abs=5)}
    heartbeat.for_thread("courier to a/b").end()
    assert heartbeat.silent_now(tmp_path) == {}


def test_a_step_of_the_clock_makes_nobody_silent(tmp_path, monkeypatch):
    """The file is an hour old by the new clock, and written anew before the second look."""
    path = tmp_path / "engine"
    heart = Heart(path)
    heart.beat()
    os.utime(path, (time.time() - 3600,) * 2)
    monkeypatch.setattr(heartbeat.time, "sleep", lambda _: heart.allow(LIMIT_S))
    assert heartbeat.silent_now(tmp_path, ["engine"]) == {}
    monkeypatch.setattr(
        heartbeat.time, "sleep", lambda _: os.utime(path, (time.time() - 3600,) * 2)
    )
    os.utime(path, (time.time() - 3600,) * 2)
    assert [*heartbeat.silent_now(tmp_path, ["engine"])] == ["engine"]


def test_signs_of_an_earlier_run_are_removed(tmp_path):
    """A supervisor that was killed leaves the files of processes that the config had then."""
    for name in ("worker-7", "courier to old.thread", "engine.restarts"):
        (tmp_path / name).write_bytes(b"0000060.0\n")
        os.utime(tmp_path / name, (1.0, 1.0))
    heartbeat.clear(tmp_path)
    heartbeat.clear(tmp_path / "absent")
    assert [*tmp_path.iterdir()] == []


def test_other_processes_read_the_silence_by_the_wall_clock(path, clock):
    """`limn queue` reads the file, whichever way the clock was set."""
    Heart(path, clock).beat()
    written = path.stat().st_mtime
    assert heartbeat.silent_since(path, written + 8) == pytest.approx(8, abs=0.1)
    assert heartbeat.silent_since(path, written - 8) == pytest.approx(8, abs=0.1)


def keep_alive_until(child, reached, within_s=10.0):
    """Keep a child alive until something is so."""
    give_up_s = time.monotonic() + within_s
    while not reached():
        assert time.monotonic() < give_up_s
        child.keep_alive()
        time.sleep(0.02)


def beating_child(path, limit_s):
    """A child that gives signs of life and allows itself this silence."""
    command = [sys.executable, "-c", BEATING.format(limit=limit_s)]
    return ChildProcess("engine", command, watch=ProcessWatch(path))


@pytest.mark.skipif(os.name != "posix", reason="a process can't be stopped like this")
def test_a_stopped_process_is_named_killed_and_started_again(path, monkeypatch, caplog):
    """SIGSTOP: it is alive for the system and does nothing."""
    monkeypatch.setattr(heartbeat, "SILENT_S", 0.5)
    monkeypatch.setattr("limn.node.heartbeat.EVERY_S", 0.2)
    child = beating_child(path, 2.0)
    try:
        keep_alive_until(child, lambda: child.watch.limit_s == 2.0)
        first = child._process
        first.send_signal(signal.SIGSTOP)
        keep_alive_until(child, lambda: child.silence)
        assert "engine has given no sign of life for" in child.silence
        first.send_signal(signal.SIGCONT)
        keep_alive_until(child, lambda: not child.silence)
        assert [line.split(" for ")[0] for line in caplog.messages] == [
            "engine has given no sign of life",
            "engine gives signs of life again",
        ]
        first.send_signal(signal.SIGSTOP)
        assert child.restarts == 0
        keep_alive_until(child, lambda: child.restarts == 1)
        assert first.poll() == -signal.SIGKILL
        keep_alive_until(child, lambda: child.runs)
        assert not child.silence
    finally:
        child.stop(2.0)


def test_a_process_that_may_be_silent_is_not_killed(path, monkeypatch):
    """Its own limit counts, and a stop ends the watch."""
    monkeypatch.setattr(heartbeat, "SILENT_S", 0.1)
    child = ChildProcess(
        "worker",
        [
            sys.executable,
            "-c",
            BEATING.format(limit=600).replace("while True", "while False") + "\ntime.sleep(60)",
        ],
        watch=ProcessWatch(path),
    )
    try:
        keep_alive_until(child, lambda: child.silence)
        assert "after 600 s it is started again" in child.silence
        assert child.restarts == 0
    finally:
        child.stop(2.0)
    assert not path.exists()


@pytest.mark.skipif(os.name != "posix", reason="a process can't be stopped like this")
def test_a_stopped_process_does_not_hold_up_the_stop_of_the_node(path, monkeypatch):
    """An engine may take eleven minutes to end, but not if its work stands still."""
    monkeypatch.setattr(heartbeat, "SILENT_S", 0.2)
    child = beating_child(path, 2.0)
    keep_alive_until(child, lambda: child.watch.limit_s == 2.0)
    child._process.send_signal(signal.SIGSTOP)
    keep_alive_until(child, lambda: child.silence)
    began_s = time.monotonic()
    child.stop(60.0)
    assert time.monotonic() - began_s < 10


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), RuntimeError("no thread")])
def test_a_child_that_cannot_be_started_is_tried_again(monkeypatch, caplog, error):
    """No file descriptor is left: the supervisor goes on and the other children with it."""
    child = ChildProcess("engine", [sys.executable, "-c", "import time; time.sleep(60)"])

    def fails(*_args, **_more):
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(subprocess, "Popen", fails)
        child.keep_alive()
        child.keep_alive()
    assert not child.runs
    assert str(error) in caplog.text
    assert "engine can't be started" in caplog.text
    try:
        keep_alive_until(child, lambda: child.runs)
    finally:
        child.stop(2.0)


def test_a_child_whose_log_nobody_reads_does_not_stay(monkeypatch):
    """It would stand still as soon as the pipe is full."""
    child = ChildProcess("engine", [sys.executable, "-c", "import time; time.sleep(60)"])
    started = []
    popen = subprocess.Popen

    def remember(*args, **more):
        started.append(popen(*args, **more))
        return started[-1]

    def fails(*_args):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(subprocess, "Popen", remember)
        patched.setattr("limn.node.oplog.relay", fails)
        child.keep_alive()
    assert started[0].poll() is not None
    assert not child.runs
