"""A node on five hosts: Linux network namespaces on one switch, certificates from ``limn certs``.

Two hosts receive, two contour, one runs the scheduler; a planning system listens on a sixth.
Every process is the real one; only the network is replaced by thresholds (`fake_worker`).
"""

import contextlib
import logging
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pydicom
import pytest

from limn.node.host import certs
from limn.node.store.disk import scanlog
from tests.conftest import BUNDLE, REPOSITORY, require_peer
from tests.support.node.running import ENVIRONMENT, children_of, kill_with_children, wait_for
from tests.support.node.toy import Toy, slices_named_by, toy, write_toy

RECEIVERS, WORKERS = ("ct-1", "ct-2"), ("gpu-1", "gpu-2")
SCHEDULER, PLANNING = "control", "tps"
ADDRESSES = {
    name: f"10.77.0.{number}"
    for number, name in enumerate((*RECEIVERS, *WORKERS, SCHEDULER, PLANNING), start=1)
}
DICOM_PORT, SCHEDULER_PORT, WORKER_PORT, TPS_PORT = 11112, 8786, 8788, 104
INFERENCE_S = 1.0
BATCH = 3
START_S = 240.0
log = logging.getLogger("hosts")

CONFIG = """\
data_dir = "data"
[receive]
host = "{address}"
min_free_mb = 1
[settle]
min_slices = 5
[model]
bundle = "{bundle}"
allow_demo_bundle = true
int8 = false
[engine]
scheduler = "tls://{scheduler}:8786"
host = "{address}"
worker_port = 8788
tls_dir = "{tls_dir}"
pixels = "{pixels}"
[[destination]]
kind = "dicom"
name = "TPS"
ae_title = "TPS"
host = "{tps}"
port = 104
"""


def ip(*words: str) -> None:
    """Call iproute2's ip."""
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


class Network:
    """One namespace per host and one for the switch between them."""

    def __init__(self) -> None:
        self._prefix = f"limn{os.getpid()}"
        self._made: list[str] = []

    def make(self) -> None:
        """Make them; where this can't be done, skip the test, or fail it if peers are required."""
        try:
            require_peer("ip")
            self._namespace("switch")
            ip("-n", self.name("switch"), "link", "add", "br0", "type", "bridge")
            ip("-n", self.name("switch"), "link", "set", "br0", "up")
            for host, address in ADDRESSES.items():
                self._plug_in(host, address)
        except subprocess.CalledProcessError as error:
            self.remove()
            reason = f"no network namespaces can be made here: {error.stderr.strip()}"
            if os.environ.get("LIMN_PEERS") == "required":
                pytest.fail(reason)
            pytest.skip(reason)

    def name(self, host: str) -> str:
        """The host's namespace."""
        return f"{self._prefix}-{host}"

    def cut(self, host: str) -> None:
        """Unplug the host from the switch."""
        ip("-n", self.name("switch"), "link", "set", host, "down")

    def mend(self, host: str) -> None:
        """Plug it in again."""
        ip("-n", self.name("switch"), "link", "set", host, "up")

    def remove(self) -> None:
        """Delete every namespace, and with it its links."""
        for name in self._made:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
        self._made.clear()

    def _namespace(self, host: str) -> None:
        ip("netns", "add", self.name(host))
        self._made.append(self.name(host))
        ip("-n", self.name(host), "link", "set", "lo", "up")

    def _plug_in(self, host: str, address: str) -> None:
        self._namespace(host)
        switch, inside = self.name("switch"), self.name(host)
        ip(
            *("link", "add", "name", host, "netns", switch),
            *("type", "veth", "peer", "name", "eth0", "netns", inside),
        )
        ip("-n", switch, "link", "set", host, "master", "br0", "up")
        ip("-n", inside, "addr", "add", f"{address}/24", "dev", "eth0")
        ip("-n", inside, "link", "set", "eth0", "up")


class Host:
    """One host with its part of the node."""

    def __init__(self, network: Network, folder: Path, name: str, pixels: str = "path") -> None:
        self.name = name
        self.folder = folder / name
        self.folder.mkdir(parents=True)
        self._network = network
        self.config = self.folder / "node.toml"
        self.config.write_text(
            CONFIG.format(
                address=ADDRESSES[name],
                scheduler=ADDRESSES[SCHEDULER],
                tps=ADDRESSES[PLANNING],
                bundle=BUNDLE,
                tls_dir=folder / "certs" / certs.ENGINE / name,
                pixels=pixels,
            )
        )
        self.process: subprocess.Popen[bytes] | None = None
        self.started: tuple[str, ...] = ()

    def command(self, *words: str) -> list[str]:
        """A command on this host."""
        return ["ip", "netns", "exec", self._network.name(self.name), *words]

    def start(self, module: str, *words: str) -> None:
        """Run this host's part."""
        if self.process is not None:
            self.process.wait(180)
        self.started = (module, *words)
        path = os.pathsep.join((str(REPOSITORY / "src"), str(REPOSITORY)))
        self.process = subprocess.Popen(
            self.command(sys.executable, "-m", module, *words),
            env=ENVIRONMENT | {"PYTHONPATH": path, "FAKE_INFERENCE_S": str(INFERENCE_S)},
            stdout=subprocess.DEVNULL,
            stderr=(self.folder / "stderr.log").open("ab"),
            start_new_session=True,
        )

    def kill(self, *words: str) -> None:
        """``kill -9`` for the process of this host whose command line has these words."""
        assert self.process is not None
        for pid in children_of(self.process.pid):
            with contextlib.suppress(OSError):
                if all(w in Path(f"/proc/{pid}/cmdline").read_text() for w in words):
                    os.kill(pid, signal.SIGKILL)
                    return
        raise AssertionError(words)

    def shut_down(self) -> None:
        """Let it finish and stop."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)

    def log_text(self) -> str:
        """Its log."""
        return (self.folder / "stderr.log").read_text()

    def end(self) -> None:
        """Kill it and its children in any case."""
        if self.process is not None:
            kill_with_children(self.process)

    # For a host that receives:

    def send(self, folder: Path) -> None:
        """Send all files below a folder by dcmtk's storescu over one association."""
        done = subprocess.run(
            self.command(
                *(require_peer("/usr/bin/storescu"), "-aet", "SCANNER", "-aec", "LIMN"),
                *(ADDRESSES[self.name], str(DICOM_PORT), "+sd", "+r", str(folder)),
            ),
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr

    def rows(self) -> list[dict[str, str]]:
        """The lines of its scan log."""
        path = self.folder / "data" / "scans.csv"
        return list(scanlog.rows(path)) if path.exists() else []

    def workers_seen(self) -> int:
        """How many warm workers its engine has last logged."""
        lines = re.findall(r"ready: (\d+) warm worker|(no worker) is ready", self.log_text())
        return int(lines[-1][0] or 0) if lines else 0

    def runs(self) -> int:
        """How many of its scans run on a worker, or ran on one that died."""
        path = self.folder / "data" / "journal.sqlite"
        if not path.exists():
            return 0
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
            started = "select count(*) from scan where state = 'ready' and tries > 0"
            return int(db.execute(started).fetchone()[0])


@dataclass(frozen=True)
class DeliveryCheck:
    """What the receivers logged for every scan, compared with what the planning system has."""

    sent: int
    delivered: int
    at_planning_system: Counter[str]
    wrong: list[str]
    seconds: float

    @property
    def sound(self) -> bool:
        """Every animal delivered, once, on its own slices."""
        return (
            self.delivered == self.sent == len(self.at_planning_system)
            and set(self.at_planning_system.values()) == {1}
            and not self.wrong
        )

    def __str__(self) -> str:
        twice = [animal for animal, count in self.at_planning_system.items() if count > 1]
        return (
            f"{self.delivered} of {self.sent} delivered, {len(self.at_planning_system)} animals "
            f"at the planning system, {len(twice)} of them more than once, {len(self.wrong)} on "
            f"slices that are not theirs; {self.seconds:.0f} s"
        )


class Site:
    """All hosts, the planning system, and what is sent."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.network = Network()
        names = [certs.Host.parse(f"{n},{a}") for n, a in ADDRESSES.items() if n != PLANNING]
        planning = [certs.Host.parse(f"{PLANNING},{ADDRESSES[PLANNING]}")]
        certs.make(folder / "certs", names, planning, datetime.now(UTC))
        # One receiver sends pixels over the wire, the other shares its files with every host.
        self.receivers = [
            Host(self.network, folder, name, pixels)
            for name, pixels in zip(RECEIVERS, ("bytes", "path"), strict=True)
        ]
        self.workers = [Host(self.network, folder, name) for name in WORKERS]
        self.scheduler = Host(self.network, folder, SCHEDULER)
        self.planning = Host(self.network, folder, PLANNING)
        self.toys: dict[str, Toy] = {}
        self.sent = 0

    @property
    def hosts(self) -> list[Host]:
        """The hosts that run a part of the node."""
        return [self.scheduler, *self.workers, *self.receivers]

    def start(self) -> None:
        """Start every host and wait until each receiver sees both workers."""
        self.network.make()
        taken = self.folder / "taken"
        taken.mkdir()
        self.planning.process = subprocess.Popen(
            self.planning.command(
                *(require_peer("/usr/bin/storescp"), "-aet", "TPS", "+B", "+uf"),
                *("-od", str(taken), str(TPS_PORT)),
            ),
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        limn = ("limn.cli", "serve", "--config")
        self.scheduler.start(*limn, str(self.scheduler.config), "--only", "scheduler")
        for host in self.workers:
            host.start("tests.support.node.fake_node", str(host.config), "worker")
        for host in self.receivers:
            host.start(*limn, str(host.config), "--only", "receiver")
        for host in self.receivers:
            self.wait(lambda h=host: h.workers_seen() == len(WORKERS), START_S)
            self.wait(lambda h=host: "listening as" in h.log_text(), START_S)

    def send(self) -> None:
        """Send each receiver enough series to keep the workers busy during a fault."""
        for place, host in enumerate(self.receivers):
            folder = self.folder / "sent" / f"{host.name}-{self.sent}"
            for _ in range(BATCH):
                # No two receivers have an animal in common.
                each = toy(self.sent, root=f"2.25.9{place}")
                self.toys[each.animal] = each
                write_toy(each, folder)
                self.sent += 1
            host.send(folder)

    def delivered(self) -> int:
        """How many scans are delivered by the receivers' scan logs."""
        rows = [row for host in self.receivers for row in host.rows()]
        return sum(row["outcome"] == "delivered" for row in rows)

    def kill_worker(self, number: int) -> None:
        """``kill -9`` for one of the two workers."""
        self.workers[number].kill("dask_worker")

    def survive(self, what: str, fault) -> None:
        """Cause a fault while a scan runs; wait until another scan is delivered all the same."""
        self.send()
        self.wait(lambda: any(host.runs() for host in self.receivers), START_S)
        before = self.delivered()
        log.info("%s, %d of %d delivered", what, before, self.sent)
        fault()
        self.wait(lambda: self.delivered() > before, START_S)

    def cut(self) -> None:
        """Unplug a worker and wait until both receivers have noticed."""
        self.network.cut(WORKERS[1])
        for host in self.receivers:
            self.wait(lambda h=host: h.workers_seen() < len(WORKERS), START_S)

    def mend(self) -> None:
        """Plug it in again and wait until both receivers see both workers."""
        self.network.mend(WORKERS[1])
        for host in self.receivers:
            self.wait(lambda h=host: h.workers_seen() == len(WORKERS), START_S)

    def wait(self, reached, limit_s: float) -> None:
        """As `wait_for`, with the end of every host's log on failure."""
        wait_for(reached, limit_s, self.explain)

    def explain(self) -> str:
        """The end of every host's log."""
        return "\n".join(f"== {host.name}\n{host.log_text()[-2500:]}" for host in self.hosts)

    def check_deliveries(self, seconds: float) -> DeliveryCheck:
        """Compare what was sent with what the planning system got."""
        toys = self.toys
        taken: Counter[str] = Counter()
        wrong = []
        for path in (self.folder / "taken").iterdir():
            animal = str(pydicom.dcmread(path).PatientID)
            taken[animal] += 1
            if not slices_named_by(path) <= toys[animal].uids:
                wrong.append(animal)
        return DeliveryCheck(len(toys), self.delivered(), taken, wrong, seconds)

    def end(self) -> None:
        """Stop everything."""
        for host in (*reversed(self.hosts), self.planning):
            host.end()
        self.network.remove()


def endure(folder: Path, rounds: int = 1) -> tuple[DeliveryCheck, Site]:
    """While scans run, kill a worker and the scheduler, cut and mend a link; ``rounds`` times."""
    site = Site(folder)
    try:
        site.start()
        began_s = time.monotonic()
        for number in range(rounds):
            site.survive("a worker is killed", lambda n=number: site.kill_worker(n % 2))
            site.survive("the scheduler is killed", lambda: site.scheduler.kill("dask_scheduler"))
            site.survive("a link is cut", site.cut)
            site.mend()
            if number < rounds - 1:
                site.survive("a host of a worker is shut down", site.workers[0].shut_down)
                site.workers[0].start(*site.workers[0].started)
        site.wait(lambda: site.delivered() == site.sent, START_S)
        log.info("all %d delivered", site.sent)
        found = site.check_deliveries(time.monotonic() - began_s)
        return found, site
    finally:
        site.end()
