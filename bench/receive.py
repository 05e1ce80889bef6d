"""Slices a second from one dcmtk ``storescu`` into limn's receiver and into a bare handler.

The bare handler writes the raw bytes of every C-STORE with fsync and does nothing else. Both are
servers in their own processes and get series in turn in one run; the ratio is the result.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from limn.dicom.ct import CtIdentity, ct_instances
from limn.domain.geometry import SpacingMm, axial_grid
from limn.domain.scan import Volume

ROWS = COLUMNS = 512
STORESCU = "/usr/bin/storescu"
CONFIG = """\
data_dir = "data"
[receive]
port = {port}
min_free_mb = 1
[model]
bundle = "{bundle}"
allow_demo_bundle = true
[[destination]]
kind = "folder"
name = "export"
folder = "export"
"""


def serve_bare(port: int, folder: Path) -> None:
    """A pynetdicom handler that writes raw bytes with fsync."""
    from pynetdicom import AE, evt
    from pynetdicom.sop_class import CTImageStorage  # type: ignore[attr-defined]

    def store(event: evt.Event) -> int:
        path = folder / f"{event.request.AffectedSOPInstanceUID}.dcm"
        with path.open("wb") as file:
            file.write(event.encoded_dataset())
            file.flush()
            os.fsync(file.fileno())
        return 0

    ae = AE(ae_title="LIMN")
    ae.maximum_pdu_size = 131072
    ae.add_supported_context(CTImageStorage)
    ae.start_server(("127.0.0.1", port), evt_handlers=[(evt.EVT_C_STORE, store)])


def write_series(folder: Path, number: int, slices: int) -> Path:
    """A noisy series of 512 x 512 x 16 bit."""
    rng = np.random.default_rng(number)
    grid = axial_grid((1, ROWS, COLUMNS), SpacingMm(0.14, 0.14, 0.14), np.zeros(3))
    noise = rng.normal(0, 60, (1, ROWS, COLUMNS)).astype(np.float32)
    identity = CtIdentity(f"R{number}", f"2.25.71.{number}", ("20260101", "120000"))
    (template,) = ct_instances(Volume(noise, grid), identity)
    folder.mkdir(parents=True)
    pixels = np.frombuffer(template.PixelData, "<u2").reshape(ROWS, COLUMNS)
    for k in range(slices):
        uid = f"2.25.71.{number}.3.{k + 1}"
        template.SOPInstanceUID = template.file_meta.MediaStorageSOPInstanceUID = uid
        template.InstanceNumber = k + 1
        template.ImagePositionPatient = ["0", "0", f"{k * 0.14:.4f}"]
        template.PixelData = np.roll(pixels, k, axis=0).tobytes()
        template.save_as(folder / f"{k:04d}.dcm", enforce_file_format=True)
    return folder


def send(folder: Path, port: int) -> float:
    """Seconds that storescu takes for a folder."""
    started_s = time.perf_counter()
    subprocess.run(
        [
            *(STORESCU, "-aet", "SCANNER", "-aec", "LIMN", "--max-send-pdu", "131072"),
            *("127.0.0.1", str(port), "+sd", str(folder)),
        ],
        env=os.environ | {"TCP_NODELAY": "1"},
        check=True,
    )
    return time.perf_counter() - started_s


def wait_for_port(port: int, limit_s: float = 60.0) -> None:
    """Wait until the port is open."""
    from tests.support.node.running import wait_for

    wait_for(lambda: port_open(port), limit_s)


def port_open(port: int) -> bool:
    """Whether a server listens."""
    import socket

    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def bench_receive(folder: Path, rounds: int = 6, slices: int = 200) -> dict[str, float]:
    """Send a series to both in turn, a new one every round; the ratio of their median rates."""
    from tests.conftest import BUNDLE, free_port

    ours, bare = free_port(), free_port()
    (folder / "bare").mkdir(parents=True)
    (folder / "node.toml").write_text(CONFIG.format(port=ours, bundle=BUNDLE))
    servers = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "limn.cli", "serve", "--only", "receiver", "--child"),
                *("--config", str(folder / "node.toml")),
            ],
            stdin=subprocess.PIPE,
            stderr=(folder / "receiver.log").open("wb"),
        ),
        subprocess.Popen([sys.executable, __file__, "--bare", str(bare), str(folder / "bare")]),
    ]
    seconds: dict[str, list[float]] = {"limn": [], "bare": []}
    try:
        wait_for_port(ours)
        wait_for_port(bare)
        for number in range(rounds + 1):
            series = write_series(folder / "series", number, slices)
            os.sync()
            ports = [("limn", ours), ("bare", bare)]
            for name, port in ports if number % 2 else reversed(ports):
                seconds[name].append(send(series, port))
            shutil.rmtree(series)
            for path in (folder / "bare").iterdir():
                path.unlink()
            os.sync()
    finally:
        for server in servers:
            server.terminate()
            server.wait()
    # The first round pays for the imports of both.
    rates = {name: [slices / s for s in each[1:]] for name, each in seconds.items()}
    for name, each in rates.items():
        print(
            f"receive, {name}: median {statistics.median(each):.0f} slices/s "
            f"({', '.join(f'{rate:.0f}' for rate in each)})"
        )
    ratio = statistics.median(rates["limn"]) / statistics.median(rates["bare"])
    return {"receive 512x512x16 bit: limn / bare handler": ratio}


def main() -> None:
    """The bench alone, or the bare server that it starts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bare", nargs=2, metavar=("PORT", "FOLDER"))
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--slices", type=int, default=200)
    parsed = parser.parse_args()
    if parsed.bare:
        serve_bare(int(parsed.bare[0]), Path(parsed.bare[1]))
        return
    with tempfile.TemporaryDirectory(prefix="limn-receive-") as name:
        for label, ratio in bench_receive(Path(name), parsed.rounds, parsed.slices).items():
            print(f"{label:55} {ratio:8.2f}")


if __name__ == "__main__":
    main()
