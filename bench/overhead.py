"""What the node itself costs a scan: complete to worker starts, result to C-STORE begins.

One small scan after the other through a warm node with all its processes; the worker's network
thresholds. Times come from the journal's records, and the last one from the planning system,
which is another process on the same clock.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

WARM_UP = 5


def serve_planning_system(port: int, log: Path) -> None:
    """Take structure sets and note when each began to come (UTC seconds)."""
    from pynetdicom import AE, evt
    from pynetdicom.sop_class import RTStructureSetStorage  # type: ignore[attr-defined]

    asked_at: dict[int, float] = {}

    def asked(event: evt.Event) -> None:
        asked_at[id(event.assoc)] = time.time()

    def store(event: evt.Event) -> int:
        came_at = time.time()
        uid = str(event.request.AffectedSOPInstanceUID)
        with log.open("a") as file:
            file.write(json.dumps([uid, asked_at[id(event.assoc)], came_at]) + "\n")
        return 0

    ae = AE(ae_title="TPS")
    ae.add_supported_context(RTStructureSetStorage)
    handlers = [(evt.EVT_CONN_OPEN, asked), (evt.EVT_C_STORE, store)]
    ae.start_server(("127.0.0.1", port), evt_handlers=handlers)


def bench_overhead(folder: Path, scans: int = 60) -> dict[str, float]:
    """p50 and p95 over the scans, ms."""
    import subprocess

    from tests.conftest import free_port
    from tests.support.node.siege import FakeNode, Scanner, wait_delivered
    from tests.support.node.toy import toy

    folder.mkdir(parents=True, exist_ok=True)
    port, log = free_port(), folder / "came.jsonl"
    tps = subprocess.Popen([sys.executable, __file__, "--tps", str(port), str(log)])
    node = FakeNode(
        folder / "node",
        '[[destination]]\nkind = "dicom"\nname = "TPS"\nae_title = "TPS"\n'
        f'host = "127.0.0.1"\nport = {port}\n',
    )
    toys = [toy(number) for number in range(scans + WARM_UP)]
    try:
        node.start()
        for each in toys:
            Scanner(node.port, [each]).run(threading.Event())
            wait_delivered(node, [each], limit_s=120)
        rows = node.query(
            "select ready_at, record, sop_instance_uid from scan join structure_set "
            "on structure_set.scan = scan.id order by scan.id"
        )
    finally:
        node.end()
        tps.kill()
        tps.wait()
    came = {line[0]: line[1:] for line in map(json.loads, log.read_text().splitlines())}
    spans: dict[str, list[float]] = {}
    for ready_at, text, uid in rows[WARM_UP:]:
        record = json.loads(text)
        asked_at, stored_at = came[uid]
        for name, seconds in (
            ("complete to worker starts", record["started_at"] - ready_at),
            ("result to association opened", asked_at - record["finished_at"]),
            ("result to C-STORE received", stored_at - record["finished_at"]),
        ):
            spans.setdefault(name, []).append(seconds * 1000)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    found = {}
    for name, each in spans.items():
        p50, p95 = np.percentile(each, (50, 95))
        print(f"{name:32} p50 {p50:6.1f} ms, p95 {p95:6.1f} ms ({len(each)} scans)")
        found[f"node: {name}, p95 / 50 ms"] = float(p95) / 50.0
    print(f"{os.cpu_count()} cores, load average of the last minute {load:.1f}")
    return found


def main() -> None:
    """The bench alone, or the planning system that it starts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tps", nargs=2, metavar=("PORT", "LOG"))
    parser.add_argument("--scans", type=int, default=60)
    parsed = parser.parse_args()
    if parsed.tps:
        serve_planning_system(int(parsed.tps[0]), Path(parsed.tps[1]))
        return
    with tempfile.TemporaryDirectory(prefix="limn-overhead-") as name:
        bench_overhead(Path(name), parsed.scans)


if __name__ == "__main__":
    main()
