"""A node whose processes are killed: scanners with a queue, a killer, and the final counts."""

import logging
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pydicom
from pydicom.dataset import FileDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE

from limn.node.dimse.status import OUT_OF_RESOURCES
from tests.conftest import BUNDLE, REPOSITORY, free_port, require_peer
from tests.support.node.parts import only_sends
from tests.support.node.running import (
    ENVIRONMENT,
    Node,
    children_of,
    kill_with_children,
    wait_for,
)
from tests.support.node.toy import Toy, slices_named_by, slices_referenced_by, toy

# The words that identify a process of a node on its command line.
PROCESSES = {
    "receiver": ("--only", "receiver"),
    "engine": ("--only", "engine"),
    "scheduler": ("dask_scheduler",),
    "worker": ("dask_worker",),
}
SUPERVISOR = "supervisor"
log = logging.getLogger("siege")

DISK_MB = 64
LONGEST_FULL_S = 20.0

Actor = Callable[[threading.Event], None]

CONFIG = """\
data_dir = "{data}"
[receive]
port = {receive}
min_free_mb = {min_free_mb}
idle_s = {idle_s}
[settle]
min_slices = 5
hold_s = 30.0
[model]
bundle = "{bundle}"
allow_demo_bundle = true
int8 = false
[engine]
port = {engine}
wake_port = {wake}
"""


class FakeNode(Node):
    """``limn serve`` with a thresholding function as its network."""

    def __init__(
        self,
        folder: Path,
        destinations: str,
        *,
        data: Path | None = None,
        min_free_mb: int = 1,
        idle_s: float = 60.0,
    ) -> None:
        self.folder = folder
        self.data = data or folder / "data"
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.config = folder / "node.toml"
        self.config.write_text(
            CONFIG.format(
                data=self.data,
                receive=self.port,
                engine=free_port(),
                wake=free_port(),
                bundle=BUNDLE,
                min_free_mb=min_free_mb,
                idle_s=idle_s,
            )
            + destinations
        )
        self.log_path = self.data / "limn.log"
        self.process: subprocess.Popen[bytes] | None = None

    def launch(self) -> None:
        """Start it without waiting."""
        own = (str(REPOSITORY / "src"), str(REPOSITORY), os.environ.get("PYTHONPATH"))
        path = os.pathsep.join(part for part in own if part)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.node.fake_node", str(self.config)],
            env=os.environ | {"PYTHONPATH": path},
            stderr=(self.folder / "stderr.log").open("ab"),
            start_new_session=True,
        )

    def start(self) -> None:
        """Start it and wait until a worker is warm and the port is open."""
        self.launch()
        self.start_waiting()

    def start_waiting(self) -> None:
        """Wait until a worker is warm and the port is open."""
        wait_for((self.data / "ready").exists, 120, self.explain)
        wait_for(lambda: "listening as" in self.log(), 60, self.explain)

    def pid(self, name: str) -> int | None:
        """The process with this name; None while there is none."""
        assert self.process is not None
        if name == SUPERVISOR:
            return self.process.pid if self.process.poll() is None else None
        for pid in children_of(self.process.pid):
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
            except OSError:
                continue
            line = " ".join(command)
            if all(word in line for word in PROCESSES[name]):
                return pid
        return None

    def query(self, statement: str, *values: object) -> list[tuple]:
        """Query the journal."""
        with sqlite3.connect(f"file:{self.data}/journal.sqlite?mode=ro", uri=True) as db:
            return db.execute(statement, values).fetchall()

    def log_rows(self) -> list[dict[str, str]]:
        """Every line of the scan log."""
        from limn.node.store.disk import scanlog  # noqa: PLC0415

        return list(scanlog.rows(self.data / "scans.csv"))

    def end(self) -> None:
        """Kill it in any state, with its children: to stop in order takes seconds of a core."""
        assert self.process is not None
        kill_with_children(self.process)


class Tps:
    """dcmtk's storescp, which keeps every received file byte for byte."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Listen, always at the same port."""
        self.process = subprocess.Popen(
            [
                *(require_peer("/usr/bin/storescp"), "-aet", "TPS", "+B", "+uf"),
                *("-od", str(self.folder), str(self.port)),
            ],
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def kill(self) -> None:
        """End it as a power cut does."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def destination(self) -> str:
        """Its table in a site's config."""
        return (
            '[[destination]]\nkind = "dicom"\nname = "TPS"\nae_title = "TPS"\n'
            f'host = "127.0.0.1"\nport = {self.port}\n'
        )


@dataclass
class Scanner:
    """Sends its queue of series, each until every slice was answered with Success.

    Other slices are sent again over a new association. If an association breaks off between the
    last answer and its release, the scanner's job has failed, and it sends the whole series again.

    Attributes
    ----------
    per_slice : one association for each slice; if one breaks off, its slice is sent again
    """

    port: int
    queue: list[Toy]
    may_send: Callable[[int], bool] = lambda sent: True
    title: str = "SCANNER"
    per_slice: bool = False
    statuses: Counter[int] = field(default_factory=Counter)
    refused: int = 0
    broken: int = 0
    sent: int = 0

    def run(self, stopping: threading.Event) -> None:
        """Send everything."""
        for series in self.queue:
            while not self.may_send(self.sent) and not stopping.wait(0.1):
                pass
            self._send(series, stopping)
            self.sent += 1

    def _send(self, series: Toy, stopping: threading.Event) -> None:
        every = list(series.datasets)
        for part in [[ds] for ds in every] if self.per_slice else [every]:
            self._send_over_one_association(part, stopping)

    def _send_over_one_association(
        self, datasets: list[FileDataset], stopping: threading.Event
    ) -> None:
        left = list(datasets)
        while not stopping.is_set():
            association = self.associate()
            if association is None:
                self.refused += 1
                stopping.wait(0.3)
                continue
            for ds in list(left):
                try:
                    answer = association.send_c_store(ds)
                except (RuntimeError, ValueError):
                    break
                if "Status" not in answer:
                    break
                self.statuses[int(answer.Status)] += 1
                if answer.Status == 0:
                    left.remove(ds)
                elif answer.Status == OUT_OF_RESOURCES:
                    break
            full = bool(left) and association.is_established
            if association.is_established:
                association.release()
            if association.is_released and not left:
                return
            if full:
                stopping.wait(1.0)
                continue
            self.broken += 1
            left = left or list(datasets)

    def associate(self):
        """An association to the node; None while its port is closed."""
        ae = AE(ae_title=self.title)
        ae.connection_timeout = ae.acse_timeout = 5
        ae.dimse_timeout = ae.network_timeout = 20
        ae.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
        association = ae.associate("127.0.0.1", self.port, ae_title="LIMN", max_pdu=131072)
        if not association.is_established:
            return None
        return only_sends(association)


@dataclass
class Killer:
    """``kill -9`` for every process in turn, at moments that a seed decides."""

    node: FakeNode
    kills: int
    seed: int
    longest_pause_s: float = 4.0
    victims: tuple[str, ...] = (*PROCESSES, SUPERVISOR)
    done: list[str] = field(default_factory=list)

    def run(self, stopping: threading.Event) -> None:
        """Kill a process, wait until it runs again, go on with the next."""
        chance = random.Random(self.seed)  # noqa: S311 - no secret
        for number in range(self.kills):
            victim = self.victims[number % len(self.victims)]
            if stopping.wait(chance.uniform(0.2, self.longest_pause_s)):
                return
            wait_for(lambda name=victim: self._kill(name), 120, self.node.explain)
            self.done.append(victim)
            if victim == SUPERVISOR:
                assert self.node.process is not None
                self.node.process.wait()
                self.node.launch()

    def _kill(self, name: str) -> bool:
        """Kill a process, if it runs; starts a node that has ended again, as systemd does."""
        assert self.node.process is not None
        if self.node.process.poll() is not None:
            time.sleep(0.5)
            self.node.launch()
        # A worker may end by itself just now: its scheduler was killed before it.
        pid = self.node.pid(name)
        if pid is None:
            return False
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True


@dataclass(frozen=True)
class Sums:
    """The counts at the end of a siege."""

    scans: int
    delivered: int
    lost: list[str]
    different_bytes: list[str]
    mixed: list[str]
    sent_again: int
    cut_by_their_kill: int
    integrity: str
    states: Counter[str]
    log_lines: Counter[int]

    @property
    def sound(self) -> bool:
        """Whether everything was delivered once, with the same bytes."""
        return (
            self.delivered == self.scans
            and not (self.lost or self.different_bytes or self.mixed)
            and self.integrity == "ok"
        )

    def __str__(self) -> str:
        return (
            f"{self.delivered} of {self.scans} delivered, {len(self.lost)} lost, "
            f"{len(self.different_bytes)} with different bytes, {len(self.mixed)} mixed, "
            f"{self.sent_again} offered more than once, {self.cut_by_their_kill} cut off by the "
            f"receiver's own death; journal integrity_check {self.integrity}; scans "
            f"{dict(self.states)}; lines per scan in scans.csv {dict(self.log_lines)}"
        )


def delivered_animals(node: FakeNode) -> set[str]:
    """Animals whose structure set was accepted by the planning system, according to the journal."""
    try:
        rows = node.query(
            "select animal from scan join structure_set on structure_set.scan = scan.id "
            "join delivery on delivery.structure_set = structure_set.id "
            "where delivery.state = 'delivered'"
        )
    except sqlite3.OperationalError:
        return set()
    return {str(row[0]) for row in rows}


def wait_delivered(node: FakeNode, toys: Iterable[Toy], limit_s: float) -> None:
    """Wait until every animal's structure set was accepted."""
    wanted = {toy.animal for toy in toys}
    deadline_s = time.monotonic() + limit_s
    while wanted - delivered_animals(node) and time.monotonic() < deadline_s:
        time.sleep(0.5)


def sums(node: FakeNode, tps: Tps, toys: Iterable[Toy]) -> Sums:
    """Compare what the scanners sent with what the planning system got."""
    toys = list(toys)
    copies: dict[str, list[bytes]] = {}
    animals: dict[str, str] = {}
    mixed = []
    cut = 0
    by_animal = {toy.animal: toy for toy in toys}
    for path in sorted(tps.folder.iterdir()):
        try:
            ds = pydicom.dcmread(path)
            uid, animal = str(ds.SOPInstanceUID), str(ds.PatientID)
            named = slices_named_by(path)
        except Exception:  # noqa: BLE001 - a killed storescp may leave any bytes
            cut += 1
            continue
        # Only the data set, because storescp writes another file meta.
        group = int(ds.file_meta.FileMetaInformationGroupLength)
        copies.setdefault(uid, []).append(path.read_bytes()[144 + group :])
        animals[uid] = animal
        uids = by_animal[animal].uids
        # Half a series under an animal's name is as bad as another animal's slices.
        if not named or not named <= uids or slices_referenced_by(path) != uids:
            mixed.append(animal)
    different = []
    for uid, bodies in copies.items():
        longest = max(bodies, key=len)
        whole = [body for body in bodies if not longest.startswith(body) or body == longest]
        cut += len(bodies) - len(whole)
        if any(body != longest for body in whole):
            different.append(animals[uid])
    delivered = delivered_animals(node) & set(animals.values())
    lost = sorted(set(by_animal) - delivered)
    more = Counter(animals.values())
    different += [animal for animal, count in more.items() if count > 1]
    with sqlite3.connect(node.data / "journal.sqlite") as db:
        (integrity,) = db.execute("pragma integrity_check").fetchone()
    return Sums(
        scans=len(toys),
        delivered=len(delivered),
        lost=lost,
        different_bytes=sorted(different),
        mixed=sorted(mixed),
        sent_again=sum(len(bodies) > 1 for bodies in copies.values()),
        cut_by_their_kill=cut,
        integrity=str(integrity),
        states=Counter(str(row[0]) for row in node.query("select state from scan")),
        log_lines=Counter(Counter(row["scan_id"] for row in node.log_rows()).values()),
    )


@dataclass
class Siege:
    """Scanners, a killer and other actors, each in its own thread."""

    actors: list[Actor]
    failures: list[BaseException] = field(default_factory=list)

    def run(self, limit_s: float) -> None:
        """Run until every actor is done; raises the first of their failures."""
        stopping = threading.Event()
        threads = [
            threading.Thread(target=self._act, args=(actor, stopping), daemon=True)
            for actor in self.actors
        ]
        for thread in threads:
            thread.start()
        deadline_s = time.monotonic() + limit_s
        for thread in threads:
            thread.join(max(0.0, deadline_s - time.monotonic()))
        late = sum(thread.is_alive() for thread in threads)
        stopping.set()
        if self.failures:
            raise self.failures[0]
        assert not late, f"{late} of {len(threads)} actors were not done within {limit_s:g} s"

    def _act(self, actor: Actor, stopping: threading.Event) -> None:
        try:
            actor(stopping)
        except BaseException as error:  # noqa: BLE001 - `run` raises it again
            self.failures.append(error)
            stopping.set()


def besiege(
    folder: Path,
    scans: int,
    kills: int,
    seed: int,
    *,
    tps_down: bool,
    disk: Path | None,
    per_slice: bool = False,
) -> Sums:
    """Run one siege; all files go below ``folder``, or to ``disk``."""
    tps = Tps(folder / "tps")
    node = FakeNode(folder / "node", tps.destination(), data=disk and disk / "data", min_free_mb=8)
    toys = [toy(number) for number in range(scans)]
    killer = Killer(node, kills, seed)

    def may_send(sent: int) -> bool:
        # So that work is under way at every kill, the last one included.
        return 2 * sent < scans * (len(killer.done) + 1) / kills + 4

    scanners = [
        Scanner(node.port, toys[::2], may_send, "SCANNER1", per_slice),
        Scanner(node.port, toys[1::2], may_send, "SCANNER2", per_slice),
    ]
    actors = [killer.run, *(scanner.run for scanner in scanners)]
    if tps_down:
        actors.append(_down_for_a_third(tps, killer))
    if disk is not None:
        actors.append(_fill_and_free(disk, node, killer))
    tps.start()
    try:
        node.start()
        started_s = time.monotonic()
        Siege(actors).run(limit_s=1800)
        wait_delivered(node, toys, limit_s=300)
        took_s = time.monotonic() - started_s
        found = sums(node, tps, toys)
    finally:
        node.end()
        tps.kill()
    each = {name: killer.done.count(name) for name in killer.victims}
    statuses = {}
    for scanner in scanners:
        for status, count in scanner.statuses.items():
            statuses[f"0x{status:04X}"] = statuses.get(f"0x{status:04X}", 0) + count
    log.info(f"{len(killer.done)} kills {each} in {took_s:.0f} s")
    log.info(
        f"scanners got {statuses}; {sum(s.broken for s in scanners)} associations broke, "
        f"{sum(s.refused for s in scanners)} attempts found the port closed"
    )
    log.info(found)
    return found


def _down_for_a_third(tps: Tps, killer: Killer) -> Actor:
    """The planning system is down from one third to two thirds of the kills."""

    def act(stopping: threading.Event) -> None:
        while len(killer.done) < killer.kills / 3 and not stopping.wait(0.1):
            pass
        tps.kill()
        log.info("planning system killed")
        while len(killer.done) < 2 * killer.kills / 3 and not stopping.wait(0.1):
            pass
        tps.start()
        log.info("planning system started again")

    return act


def _fill_and_free(disk: Path, node: FakeNode, killer: Killer) -> Actor:
    """The disk is full from a quarter to three quarters of the kills."""

    def act(stopping: threading.Event) -> None:
        ballast = disk / "ballast"
        while len(killer.done) < killer.kills / 4 and not stopping.wait(0.1):
            pass
        with ballast.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(2**16))
            except OSError as error:
                log.info(f"disk full: {error}")
        # Full to the last byte for a while, as when a log grows without end.
        before = len(delivered_animals(node))
        # A node that is killed then does not start before there is room, so the killer waits too.
        until_s = time.monotonic() + LONGEST_FULL_S
        while (
            len(killer.done) < 3 * killer.kills / 4
            and time.monotonic() < until_s
            and not stopping.wait(0.1)
        ):
            pass
        free = shutil.disk_usage(disk).free
        log.info(
            f"{free} bytes free, {before} delivered before and {len(delivered_animals(node))} now"
        )
        ballast.unlink()
        log.info("disk freed")

    return act


def mounted(folder: Path, *options: str) -> Path | None:
    """Mount a disk of 64 MB; None if this user may not mount one."""
    folder.mkdir()
    if os.name != "posix" or os.geteuid() != 0:
        return None
    done = subprocess.run(
        [
            "/bin/mount",
            "-t",
            "tmpfs",
            "-o",
            ",".join((f"size={DISK_MB}m", *options)),
            "tmpfs",
            str(folder),
        ],
        check=False,
        capture_output=True,
    )
    return folder if done.returncode == 0 else None
