"""A whole node in a folder of its own, with the peers around it, for end-to-end tests."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from limn.node.store.disk import scanlog
from tests.conftest import free_port, one_fold, require_peer

CONFIG = """\
data_dir = "data"
[receive]
port = {receive}
min_free_mb = 1
[watch]
folder = "watched"
settle_s = 1.0
rescan_s = 1.0
[settle]
hold_s = 3.0
[model]
bundle = "{bundle}"
allow_demo_bundle = true
int8 = false
[engine]
port = {engine}
wake_port = {wake}
"""

READY_S = 90.0
ENVIRONMENT = os.environ | {"TCP_NODELAY": "1"}


class Node:
    """``limn serve`` as a site runs it."""

    def __init__(self, folder: Path, destinations: str) -> None:
        self.folder = folder
        self.port = free_port()
        self.watched = folder / "watched"
        self.watched.mkdir(parents=True)
        self.config = folder / "node.toml"
        self.config.write_text(
            CONFIG.format(
                receive=self.port, engine=free_port(), wake=free_port(), bundle=one_fold()
            )
            + destinations
        )
        self.log_path = folder / "data" / "limn.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until a worker is warm and the port is open."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "limn.cli", "serve", "--config", str(self.config)],
            stderr=(self.folder / "stderr.log").open("ab"),
            start_new_session=True,
        )
        wait_for((self.folder / "data" / "ready").exists, READY_S, self.explain)
        wait_for(lambda: "listening as" in self.log(), READY_S, self.explain)

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """Stop it as Ctrl-C does, or as an init system; returns the exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(60)

    def log(self) -> str:
        """Everything logged so far."""
        return self.log_path.read_text() if self.log_path.exists() else ""

    def explain(self) -> str:
        """The end of both logs, for a failing test."""
        return (self.folder / "stderr.log").read_text()[-3000:]

    def rows(self) -> dict[str, dict[str, str]]:
        """The scan log's rows, by animal."""
        return {row["animal"]: row for row in scanlog.rows(self.folder / "data" / "scans.csv")}

    def wait_row(self, animal: str, limit_s: float = 120.0) -> dict[str, str]:
        """The animal's row, once it is there."""
        wait_for(lambda: animal in self.rows(), limit_s, self.explain)
        return self.rows()[animal]

    def query(self, statement: str, *values: object) -> list[tuple]:
        """Ask the journal."""
        with sqlite3.connect(self.folder / "data" / "journal.sqlite") as db:
            return db.execute(statement, values).fetchall()

    def storescu(self, *paths: Path) -> subprocess.CompletedProcess[str]:
        """Send files or folders with dcmtk."""
        return subprocess.run(
            storescu_command(self.port, *paths),
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def children(self) -> list[int]:
        """Process ids of everything that the supervisor started."""
        assert self.process is not None
        return children_of(self.process.pid)


def storescu_command(port: int, *paths: Path) -> list[str]:
    """Command of dcmtk's storescu, not pynetdicom's script of the same name."""
    return [
        require_peer("/usr/bin/storescu"),
        *("-aet", "SCANNER", "-aec", "LIMN", "--max-send-pdu", "131072"),
        *("127.0.0.1", str(port), "+sd", "+r"),
        *(str(path) for path in paths),
    ]


def children_of(parent: int) -> list[int]:
    """Direct and indirect children, from /proc."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] != "Z":
            parents[int(path.parent.name)] = int(fields[1])
    found = [pid for pid, owner in parents.items() if owner == parent]
    return found + [grandchild for pid in found for grandchild in children_of(pid)]


def kill_with_children(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and everything that it has started."""
    children = children_of(process.pid)
    process.kill()
    process.wait()
    for pid in children:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def wait_for(
    reached: Callable[[], bool], limit_s: float, explain: Callable[[], str] = lambda: ""
) -> None:
    """Wait until something is so; fail with an explanation if it does not come about."""
    deadline = time.monotonic() + limit_s
    while not reached():
        assert time.monotonic() < deadline, f"not within {limit_s} s\n{explain()}"
        time.sleep(0.05)


class StoreScp:
    """dcmtk's storescp as the planning system."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self.port = free_port()
        self.process = subprocess.Popen(
            [require_peer("/usr/bin/storescp"), "-aet", "TPS", "-od", str(folder), str(self.port)],
            env=ENVIRONMENT,
        )

    def received(self) -> list[Path]:
        """The structure sets that it took."""
        return sorted(self.folder.glob("RS*"))

    def destination(self) -> str:
        """How a site names it in its config."""
        return _destination("TPS", "TPS", self.port)


class Orthanc:
    """A real Orthanc as the archive."""

    def __init__(self, folder: Path, **settings: object) -> None:
        program = require_peer("/usr/sbin/Orthanc")
        folder.mkdir(parents=True)
        self.port, self.http = free_port(), free_port()
        (folder / "orthanc.json").write_text(
            json.dumps(
                {
                    "Name": "limn test",
                    "StorageDirectory": str(folder / "db"),
                    "IndexDirectory": str(folder / "db"),
                    "DicomAet": "ORTHANC",
                    "DicomPort": self.port,
                    "HttpPort": self.http,
                    "RemoteAccessAllowed": False,
                    "DicomAlwaysAllowStore": True,
                }
                | settings
            )
        )
        self.process = subprocess.Popen(
            [program, str(folder / "orthanc.json")],
            env=ENVIRONMENT,
            stderr=(folder / "orthanc.log").open("wb"),
        )
        wait_for(self._answers, 30)

    def _answers(self) -> bool:
        try:
            return bool(self.get("/system"))
        except OSError:
            return False

    def get(self, path: str) -> object:
        """One REST answer."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}{path}", timeout=5) as reply:
            return json.load(reply)

    def post(self, path: str, body: object) -> dict:
        """One REST answer to a request with a body."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.http}{path}", json.dumps(body).encode()
        )
        with urllib.request.urlopen(request, timeout=20) as reply:  # noqa: S310 - our own
            return json.load(reply)

    def put(self, path: str, body: object) -> None:
        """Set a resource."""
        url = f"http://127.0.0.1:{self.http}{path}"
        request = urllib.request.Request(url, json.dumps(body).encode(), method="PUT")
        with urllib.request.urlopen(request, timeout=20):  # noqa: S310 - our own
            pass

    def upload(self, path: Path) -> str:
        """Give it a file; returns its number of the instance."""
        url = f"http://127.0.0.1:{self.http}/instances"
        request = urllib.request.Request(url, path.read_bytes())
        with urllib.request.urlopen(request, timeout=20) as reply:  # noqa: S310 - our own
            return json.load(reply)["ID"]

    def structure_sets(self) -> list[dict]:
        """Tags of every RTSTRUCT it holds."""
        found = [self.get(f"/instances/{i}/simplified-tags") for i in self.get("/instances")]
        return [tags for tags in found if tags["Modality"] == "RTSTRUCT"]

    def destination(self) -> str:
        """How a site names it in its config."""
        return _destination("archive", "ORTHANC", self.port)


def _destination(name: str, ae_title: str, port: int) -> str:
    return (
        f'[[destination]]\nkind = "dicom"\nname = "{name}"\nae_title = "{ae_title}"\n'
        f'host = "127.0.0.1"\nport = {port}\n'
    )
