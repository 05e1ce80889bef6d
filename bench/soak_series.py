"""Small series through a node by the thousand: memory and handles of every process.

Flat means: over the second half of the series a straight line through a process' resident memory
rises by less than 5 % of it and 8 MB, and no process holds more handles at the end than in the
middle, give or take 4 of connections that come and go.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from tests.support.node.siege import PROCESSES, SUPERVISOR, FakeNode, Tps
from tests.support.node.toy import toy, write_toy

EVERY_S = 2.0
LONGEST_S = 3600.0
COLUMNS = ("seconds", "delivered", "process", "rss_mb", "handles", "threads")
MOST_MB, MOST_SHARE, MOST_HANDLES = 8.0, 0.05, 4


def sample(node: FakeNode, started_s: float, delivered: int) -> Iterable[dict[str, object]]:
    """One row for each process of the node."""
    for name in (*PROCESSES, SUPERVISOR):
        pid = node.pid(name)
        try:
            status = Path(f"/proc/{pid}/status").read_text()
            handles = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
        except OSError:
            continue
        fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        yield {
            "seconds": round(time.monotonic() - started_s, 1),
            "delivered": delivered,
            "process": name,
            "rss_mb": round(int(fields["VmRSS"].split()[0]) / 1024, 2),
            "handles": handles,
            "threads": int(fields["Threads"]),
        }


def send_all(node: FakeNode, folder: Path, series: int, at_once: int) -> None:
    """Scanners that share the series, each sending one after the other with dcmtk."""

    def send(first: int) -> None:
        for number in range(first, series, at_once):
            made = toy(number)
            paths = write_toy(made, folder / str(first))
            command = [
                *("/usr/bin/storescu", "-aet", f"SCANNER{first}", "-aec", "LIMN"),
                *("127.0.0.1", str(node.port), *map(str, paths)),
            ]
            subprocess.run(command, env=os.environ | {"TCP_NODELAY": "1"}, check=True)
            for path in paths:
                path.unlink()

    for k in range(at_once):
        threading.Thread(target=send, args=(k,), daemon=True).start()


def soak(folder: Path, series: int) -> list[dict[str, object]]:
    """Run them all; the samples."""
    tps = Tps(folder / "tps")
    node = FakeNode(folder / "node", tps.destination())
    tps.start()
    rows: list[dict[str, object]] = []
    try:
        node.start()
        started_s = time.monotonic()
        send_all(node, folder / "sent", series, at_once=2)
        delivered = 0
        while delivered < series and time.monotonic() - started_s < LONGEST_S:
            time.sleep(EVERY_S)
            delivered = int(
                node.query("select count(*) from delivery where state = 'delivered'")[0][0]
            )
            rows += sample(node, started_s, delivered)
        states = node.query("select state, count(*) from scan group by state")
        took_s = time.monotonic() - started_s
        received = sum(1 for _ in tps.folder.iterdir())
        print(
            f"{delivered} of {series} series delivered in {took_s:.0f} s: scans {states}, "
            f"{received} files received"
        )
    finally:
        node.end()
        tps.kill()
    return rows


def judge(rows: list[dict[str, object]], series: int) -> bool:
    """Print a table of the second half; whether all of it is flat."""
    print("process     rss MB at a quarter, half, three quarters, end; rise of the line; handles")
    flat = True
    for name in (*PROCESSES, SUPERVISOR):
        own = [row for row in rows if row["process"] == name]
        done = np.array([float(str(row["delivered"])) for row in own])
        rss = np.array([float(str(row["rss_mb"])) for row in own])
        handles = np.array([int(str(row["handles"])) for row in own])
        half = done >= series / 2
        slope = np.polyfit(done[half], rss[half], 1)[0]
        rise_mb = float(slope * series / 2)
        marks = [float(rss[np.argmin(abs(done - series * part))]) for part in (0.25, 0.5, 0.75, 1)]
        early = handles[half & (done < 0.75 * series)]
        late = handles[done >= 0.75 * series]
        steady = late.max() <= early.max() + MOST_HANDLES
        ok = rise_mb < MOST_MB and rise_mb < MOST_SHARE * rss[half].mean() and bool(steady)
        flat &= ok
        told = " ".join(f"{mb:7.1f}" for mb in marks)
        print(
            f"{name:11} {told}   {rise_mb:+6.2f} MB   {early.max():3d} -> {late.max():3d}   "
            f"{'flat' if ok else 'NOT FLAT'}"
        )
    return flat


def draw(rows: list[dict[str, object]], path: Path) -> None:
    """Memory and handles over the series delivered."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    for axis, column, label in zip(
        axes, ("rss_mb", "handles"), ("resident memory, MB", "handles"), strict=True
    ):
        for name in (*PROCESSES, SUPERVISOR):
            own = [row for row in rows if row["process"] == name]
            axis.plot([r["delivered"] for r in own], [r[column] for r in own], label=name, lw=1)
        axis.set_xlabel("series delivered")
        axis.set_ylabel(label)
        axis.set_ylim(bottom=0)
        axis.spines[["top", "right"]].set_visible(False)
    axes[1].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> int:
    """Soak, judge, leave the samples and the picture; 1 if something was not flat."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, default=1000)
    parser.add_argument("--csv", type=Path, default=Path("soak-series.csv"))
    parser.add_argument("--picture", type=Path)
    parsed = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="limn-soak-") as name:
        rows = soak(Path(name), parsed.series)
    with parsed.csv.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    if parsed.picture is not None:
        draw(rows, parsed.picture)
    whole = bool(rows) and rows[-1]["delivered"] == parsed.series
    return 0 if judge(rows, parsed.series) and whole else 1


if __name__ == "__main__":
    sys.exit(main())
