"""How fast the board answers after years, and what twenty browsers cost a scan that runs.

A made-up past of ten thousand scans, written by the store's own writers, and the real process of
the board beside it. Then twenty clients follow the live page and load the history again and again,
while a worker tells twice a second how far it is; what counts is the board's time on the processor.
With ``--scan`` a phantom is contoured in turn with and without the clients, each run timed;
``--every 0`` leaves their live pages alone (event streams), ``--alone`` leaves all but that out.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psutil

from limn.node.config import Config, load_config
from limn.node.store.disk.running import RunningScan, write_running
from limn.node.store.journal.journal import Journal
from tests.conftest import free_port
from tests.support.node.long_life import Life, live_long
from tests.support.node.parts import arrived

CONFIG = """\
data_dir = "data"
[model]
bundle = "{bundle}"
allow_demo_bundle = true
[engine]
wake_port = {wake}
[board]
port = {port}
[[destination]]
kind = "folder"
name = "tps"
folder = "tps"
"""
PAGES = {
    "live page": "/",
    "history, all": "/history",
    "history, the last 30 days": "/history?since={since}",
    "history apart by scanner": "/history?by=scanner",
    "history, one cohort, slowest first": "/history?animal=C57-*&sort=slowest",
    "an animal": "/animal?id=C57-A-09",
    "60 pictures, the page alone": "/contacts",
    "CSV of all": "/history.csv",
}


def get(port: int, page: str) -> float:
    """Load a page; returns seconds."""
    began_s = time.perf_counter()
    with urllib.request.urlopen(f"http://localhost:{port}{page}", timeout=60) as answer:
        answer.read()
    return time.perf_counter() - began_s


def rested(port: int, page: str) -> float:
    """The same, once what the live page has made has to be made anew."""
    time.sleep(0.6)
    return get(port, page)


@contextmanager
def board(config_path: Path, port: int) -> Iterator[psutil.Process]:
    """The board's real process."""
    command = [sys.executable, "-m", "limn.cli", "serve", "--config", str(config_path)]
    process = subprocess.Popen([*command, "--only", "board", "--child"], stdin=subprocess.PIPE)
    try:
        for _ in range(600):
            try:
                get(port, "/static/board.css")
                break
            except OSError:
                time.sleep(0.1)
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def follow(
    port: int, stopping: threading.Event, every_s: float, followed: threading.Semaphore
) -> None:
    """One browser: the live page's stream, and the history every so often (0: never).

    With a cookie of its own: the board counts the streams of each browser.
    """
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    browser.open(f"http://localhost:{port}/", timeout=60).read()

    def stream() -> None:
        with browser.open(f"http://localhost:{port}/events", timeout=60) as lines:
            lines.readline()
            followed.release()
            while not stopping.is_set():
                lines.readline()

    reader = threading.Thread(target=stream, daemon=True)
    reader.start()
    if not every_s:
        stopping.wait()
        return
    while not stopping.wait(every_s):
        get(port, "/history?since=2026-01-01")


@contextmanager
def clients(config: Config, port: int, running: int, count: int, every_s: float) -> Iterator[None]:
    """So many browsers, and a worker that says twice a second how far it is with a scan."""
    stopping = threading.Event()
    followed = threading.Semaphore(0)

    def work() -> None:
        share = 0.0
        while not stopping.wait(0.5):
            share = (share + 0.01) % 1.0
            now = time.time()
            scan = RunningScan(scan=running, stage="inference_s", share=share, ends_at=now + 9)
            write_running(config.running_path, [scan], now)

    threads = [threading.Thread(target=work)]
    for number in range(count):
        # They don't all ask at the same moment.
        wait_s = every_s * (1 + number / count)
        arguments = (port, stopping, wait_s, followed)
        threads.append(threading.Thread(target=follow, args=arguments))
    for thread in threads:
        thread.start()
    try:
        for number in range(count):
            if not followed.acquire(timeout=60):
                msg = f"the board follows {number} of {count} pages"
                raise SystemExit(msg)
        yield
    finally:
        stopping.set()
        for thread in threads:
            thread.join()


def contour_seconds(runs: int) -> list[float]:
    """Seconds of a phantom's labels by the embedded bundle, in this process, warm."""
    from limn.domain.geometry import SpacingMm
    from limn.domain.shipped import EMBEDDED_BUNDLE
    from limn.domain.timing import Stopwatch
    from limn.phantom.anatomy import conceive
    from limn.phantom.scanner import Scanner, scan
    from limn.segment.bundle.bundle import open_bundle
    from limn.segment.draw.delineate import delineate
    from limn.segment.engine.ensemble import Ensemble

    scanner = Scanner(SpacingMm(0.3, 0.3, 0.3), (96, 84, 92), (0.0, 1.0, -2.0))
    volume, _ = scan(conceive(7), scanner, 7)
    bundle = open_bundle(EMBEDDED_BUNDLE)
    ensemble = Ensemble.load(bundle, "cpu", bundle.profile)
    seconds = []
    for _ in range(runs + 1):
        began_s = time.perf_counter()
        delineate(volume, ensemble, "largest", Stopwatch(), lambda *_: None)
        seconds.append(time.perf_counter() - began_s)
    return seconds[1:]


def scan_seconds(runs: int) -> list[float]:
    """The same in a process of its own."""
    command = [sys.executable, __file__, "--contour", str(runs)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [float(each) for each in done.stdout.splitlines()[-1].split()]


def fill(folder: Path, count: int) -> Path:
    """A site with a past; returns its config."""
    folder.mkdir(parents=True, exist_ok=True)
    config_path = folder / "limn.toml"
    bundle = Path("models/phantom-7").resolve()
    config_path.write_text(CONFIG.format(bundle=bundle, wake=free_port(), port=free_port()))
    config = load_config(config_path)
    if not config.journal_path.exists():
        config.data_dir.mkdir()
        began_s = time.perf_counter()
        live_long(config, Life(count, 700.0, time.time()), Path("docs/contours.png").resolve())
        print(f"{count} scans written in {time.perf_counter() - began_s:.0f} s")
    return config_path


def pages(port: int, times: int) -> None:
    """Print how fast each page comes, the first time and then."""
    since = time.strftime("%Y-%m-%d", time.gmtime(time.time() - 30 * 86400))
    # Another choice each time, so that nothing of it is known.
    others = [get(port, f"/history?slower_s={k / 100:.2f}&by=scanner") for k in range(1, times + 1)]
    print(f"another choice each time: median {1000 * statistics.median(others):.0f} ms")
    print("| page | first, ms | median, ms | slowest, ms |\n|---|---|---|---|")
    for name, page in PAGES.items():
        first, *others = (rested(port, page.format(since=since)) for _ in range(times))
        known = (first, statistics.median(others), max(others))
        print(f"| {name} | " + " | ".join(f"{1000 * each:.0f}" for each in known) + " |")


def cost(
    process: psutil.Process, config: Config, arguments: argparse.Namespace, running: int
) -> None:
    """Print the board's share of a core with nobody and with all clients."""
    port = config.board.port if config.board else 0
    for count in (0, 1, arguments.clients):
        with clients(config, port, running, count, arguments.every):
            time.sleep(2.0)
            before, began_s = process.cpu_times(), time.perf_counter()
            time.sleep(arguments.seconds)
            after, taken_s = process.cpu_times(), time.perf_counter() - began_s
        used_s = after.user + after.system - before.user - before.system
        memory = process.memory_info().rss / 2**20
        print(f"{count} clients: {used_s / taken_s:.3f} of a core, {memory:.0f} MB")


def main() -> None:
    """Fill, ask, count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="a folder to keep, or one that was kept")
    parser.add_argument("--scans", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--every", type=float, default=10.0, help="s between two histories")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--scan", type=int, default=0, help="pairs of runs of a scan")
    parser.add_argument("--alone", action="store_true", help="time the scan and nothing else")
    parser.add_argument("--contour", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contour:
        print(*contour_seconds(arguments.contour))
        return
    folder = arguments.data or Path(tempfile.mkdtemp(prefix="limn-board-"))
    config_path = fill(folder, arguments.scans)
    config = load_config(config_path)
    port = config.board.port if config.board else 0
    print(f"load average {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores, {platform.machine()}")
    with closing(Journal(config.journal_path)) as journal:
        uid = f"2.25.7.{time.time_ns()}"
        row = journal.insert(arrived(series_instance_uid=uid, input_digest=uid), ("tps",))
        running = row.id if row is not None else 0
        journal.started(running)
    with board(config_path, port) as process:
        if not arguments.alone:
            pages(port, arguments.times)
            cost(process, config, arguments, running)
        if arguments.scan:
            time_scan(config, arguments, running)


def time_scan(config: Config, arguments: argparse.Namespace, running: int) -> None:
    """Print how long a scan takes without and with the clients, in turn."""
    port = config.board.port if config.board else 0
    alone, beside = [], []
    for _ in range(arguments.scan):
        alone += scan_seconds(4)
        with clients(config, port, running, arguments.clients, arguments.every):
            beside += scan_seconds(4)
    for name, seconds in (("alone", alone), (f"with {arguments.clients} clients", beside)):
        shown = " ".join(f"{each:.2f}" for each in sorted(seconds))
        print(f"a scan {name}: median {statistics.median(seconds):.3f} s of {shown}")
    share = statistics.median(beside) / statistics.median(alone) - 1.0
    print(f"they cost it {100 * share:.1f} %; load average now {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
