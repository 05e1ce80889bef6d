"""A series through a whole node, as often as is asked for: where the time between the doors goes.

python bench/door.py SERIES_FOLDER --scans 3

Each scan is the same series under UIDs of its own. With ``PYTHONPATH`` of another checkout the same
script measures that limn, so that two can be compared in turn. Labels are named by a hash: two
limns that contour the same voxels show the same.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pydicom

from limn.demo import _free_ports
from limn.domain.scan import unpack_labels
from limn.domain.shipped import EMBEDDED_BUNDLE
from limn.domain.timing import DOOR_TO_DOOR_STAGES
from limn.node.config import Config, load_config
from limn.node.operate.send import send_folder
from limn.node.store.disk import scanlog

WAIT_S = 600.0
SHOWN = ("door_to_door_s", "receive_s", *DOOR_TO_DOOR_STAGES)
CONFIG = """\
data_dir = "node"
[receive]
port = {receive}
[model]
bundle = "{bundle}"
allow_demo_bundle = true
[engine]
port = {engine}
wake_port = {wake}
[[destination]]
kind = "folder"
name = "out"
folder = "out"
[board]
port = {board}
"""


def renamed(source: Path, folder: Path, number: int) -> Path:
    """The series as one of another animal."""
    folder.mkdir()
    for k, path in enumerate(sorted(source.iterdir())):
        ds = pydicom.dcmread(path)
        ds.PatientID = f"DOOR{number}"
        ds.SeriesInstanceUID, ds.StudyInstanceUID = f"2.25.91.{number}", f"2.25.92.{number}"
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"2.25.93.{number}.{k + 1}"
        ds.save_as(folder / path.name, enforce_file_format=True)
    return folder


def until(reached: Callable[[], bool], node: subprocess.Popen[bytes]) -> None:
    """Wait for it as long as the node runs."""
    deadline = time.monotonic() + WAIT_S
    while not reached():
        if node.poll() is not None or time.monotonic() > deadline:
            raise SystemExit("the node stopped or took too long")
        time.sleep(0.1)


def peak_mb(worker: str = "limn.node.contour.work.worker") -> float:
    """The most memory that the node's worker held; Linux alone tells it."""
    peaks = [0.0]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if worker in (process / "cmdline").read_text():
                status = (process / "status").read_text()
                peaks.append(int(status.split("VmHWM:")[1].split()[0]) / 1024)
        except (OSError, IndexError):
            continue
    return max(peaks)


def measure(source: Path, scans: int, folder: Path) -> list[dict[str, float]]:
    """The stages of each scan."""
    receive, engine, wake, board = _free_ports(4)
    path = folder / "node.toml"
    ports = {"receive": receive, "engine": engine, "wake": wake, "board": board}
    path.write_text(CONFIG.format(bundle=EMBEDDED_BUNDLE, **ports))
    config: Config = load_config(path)
    command = [sys.executable, "-m", "limn.cli", "serve", "--config", str(path)]
    with (folder / "node.log").open("wb") as log:
        node = subprocess.Popen(command, stderr=log, start_new_session=True)
    found = []
    try:
        until(config.ready_path.exists, node)
        for number in range(1, scans + 1):
            series = renamed(source, folder / f"series-{number}", number)
            time.sleep(3.0)
            send_folder(series, f"127.0.0.1:{receive}", called="LIMN", calling="DOOR")
            until(lambda n=number: len(scanlog.rows(config.scan_log_path)) == n, node)
            row = scanlog.rows(config.scan_log_path)[-1]
            print(row["outcome"], row["reason"] or hash_of(config, row), end="; ")
            found.append({stage: float(row[stage]) for stage in SHOWN})
            print(" ".join(f"{stage[:-2]} {s:.3f}" for stage, s in found[-1].items()), flush=True)
        print(f"the worker held {peak_mb():.0f} MB at most, load {os.getloadavg()[0]:.1f}")
    finally:
        node.terminate()
        node.wait()
    return found


def hash_of(config: Config, row: dict[str, str]) -> str:
    """What tells these labels from others."""
    packed = (config.results_dir / row["scan_id"] / "labels.npz").read_bytes()
    return hashlib.sha256(unpack_labels(packed)).hexdigest()[:12]


def main() -> None:
    """Print every scan, then the medians of all but the first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("series", type=Path)
    parser.add_argument("--scans", type=int, default=3)
    parsed = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="limn-door-") as folder:
        found = measure(parsed.series.resolve(), parsed.scans, Path(folder))
    later = found[1:] or found
    print("median", {s: round(statistics.median(each[s] for each in later), 3) for s in SHOWN})


if __name__ == "__main__":
    main()
