"""A node's data folder, journal and notes in each state that its health page and alerts know."""

import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from limn.domain.records import ScanRecord
from limn.node.config import Config, load_config
from limn.node.host import certs
from limn.node.serve.health import ProcessState
from limn.node.serve.metrics.prometheus import Metrics
from limn.node.store.disk import scanlog
from limn.node.store.disk.contacts import DestinationContacts, SenderContacts
from limn.node.store.journal.edits.rows import DriftRow
from limn.node.store.journal.journal import Journal
from tests.conftest import free_port
from tests.support.node.parts import arrived


@dataclass
class Scene:
    """A node in a folder, whose state is changed step by step."""

    config: Config
    journal: Journal
    stack: ExitStack
    processes: list[ProcessState] = field(
        default_factory=lambda: [
            ProcessState(name, True, 0, pid=os.getpid())
            for name in ("scheduler", "worker", "engine", "receiver", "board")
        ]
    )
    up: int = 1
    scans: int = 0

    def text(self) -> str:
        """The page as it is now."""
        return Metrics(self.config, lambda: self.processes).text()

    def receive(self, **changes: object) -> int:
        """A scan in the journal; returns its number."""
        self.scans += 1
        values = {"series_instance_uid": f"2.25.{self.scans}", "ready_at": time.time()} | changes
        row = self.journal.insert(arrived(**values), ("tps", "archive"))
        assert row is not None
        return row.id

    def contour(self, contoured_s: float = 5.0, held: str | None = None) -> int:
        """A scan that was contoured so long ago."""
        number = self.receive()
        record = {"contoured_at": time.time() - contoured_s}
        self.journal.contoured(number, "x", record, held)
        return number

    def change(self, name: str, **values: object) -> None:
        """Another state of a process."""
        self.processes = [
            replace(each, **values) if each.name == name else each for each in self.processes
        ]

    def receive_settings(self, **values: object) -> None:
        """Other settings of the receiver."""
        receive = self.config.receive.model_copy(update=values)
        self.config = self.config.model_copy(update={"receive": receive})


@contextmanager
def node(folder: Path) -> Iterator[Scene]:
    """A node that is well: it listens, a worker is warm, one scan was delivered."""
    folder.mkdir(exist_ok=True)
    (folder / "limn.toml").write_text(
        f'data_dir = "."\nmodel.bundle = "b"\nreceive.port = {free_port()}\n'
        f"receive.min_free_mb = 1\nmetrics.port = {free_port()}\n"
        '[[destination]]\nkind = "dicom"\nname = "tps"\nae_title = "TPS"\nhost = "h"\nport = 104\n'
        '[[destination]]\nkind = "folder"\nname = "archive"\nfolder = "a"\n'
    )
    config = load_config(folder / "limn.toml")
    config.ready_path.write_text("1\n")
    with ExitStack() as stack:
        stack.enter_context(socket.create_server(("127.0.0.1", config.receive.port)))
        journal = Journal(config.journal_path)
        stack.callback(journal.close)
        scene = Scene(config, journal, stack)
        number = scene.contour()
        for delivery in journal.deliveries(number):
            journal.delivered(delivery.id, "0x0000", time.time())
            answered(scene, delivery.destination, "", "0x0000, success")
        logged(scene, 20.0)
        yield scene


def answered(scene: Scene, name: str, failure: str, said: str, ago_s: float = 0.0) -> None:
    """What a courier notes."""
    contacts = DestinationContacts(scene.config.destinations_path)
    contacts.note(name, failure, said, time.time() - ago_s)


def logged(scene: Scene, door_to_door_s: float, count: int = 1) -> None:
    """Rows of the scan log."""
    for _ in range(count):
        scene.scans += 1
        record = ScanRecord(
            scan_id=f"scan-{90000 + scene.scans}",
            outcome="delivered",
            last_slice_utc="t",
            accepted_utc="2026-01-01T00:00:00.000+00:00",
            light="green",
            door_to_door_s=door_to_door_s,
            inference_s=door_to_door_s / 2,
        )
        scanlog.append(scene.config.scan_log_path, record)


def unreachable(scene: Scene) -> None:
    """The page does not answer."""
    scene.up = 0


def not_ready(scene: Scene) -> None:
    """The receiver is down."""
    scene.change("receiver", up=False)


def no_worker(scene: Scene) -> None:
    """The engine knows of none."""
    scene.config.ready_path.unlink()


def worker_host(scene: Scene) -> None:
    """A host of workers alone: no receiver, no engine, no list of workers; all is well there."""
    scene.config.ready_path.unlink()
    scene.processes = [ProcessState("worker", True, 0)]


def destination_down(scene: Scene) -> None:
    """The planning system has answered nothing for a quarter of an hour; one set waits."""
    scene.contour(900)
    answered(scene, "tps", "unanswered", "TPS@h:104 does not answer", 890)


def destination_down_with_nothing_to_send(scene: Scene) -> None:
    """It failed, and a person has discarded what waited: nobody need get up."""
    answered(scene, "tps", "unanswered", "TPS@h:104 does not answer", 7000)


def destination_slow(scene: Scene) -> None:
    """It failed for two minutes: too early."""
    scene.contour(130)
    answered(scene, "tps", "no-room", "0xA700", 120)


def refused(scene: Scene) -> None:
    """The planning system refuses a structure set."""
    number = scene.contour()
    scene.journal.refused(scene.journal.deliveries(number)[0].id, "0xC000")
    answered(scene, "tps", "refused", "0xC000, it can't use the file")


def held_long(scene: Scene) -> None:
    """A red scan, and nobody looks."""
    scene.contour(1000, held="mirrored")


def held_lately(scene: Scene) -> None:
    """A person has time to look."""
    scene.contour(600, held="mirrored")


def released_late(scene: Scene) -> None:
    """Held for hours, released now: its destination has not kept it waiting."""
    number = scene.contour(20000, held="mirrored")
    scene.journal.release(number, time.time(), "Anna", "looked at it")
    answered(scene, "tps", "unanswered", "TPS@h:104 does not answer", 7000)


def waits(scene: Scene) -> None:
    """One scan has waited six minutes for a worker."""
    scene.receive(ready_at=time.time() - 360)


def runs_long(scene: Scene) -> None:
    """A scan is contoured for ten minutes: it runs, and does not wait."""
    scene.journal.started(scene.receive(ready_at=time.time() - 600))


def queue_grows(scene: Scene) -> None:
    """One runs, four wait."""
    scene.journal.started(scene.receive())
    for _ in range(4):
        scene.receive()


def slow(scene: Scene) -> None:
    """Four scans took three minutes each."""
    logged(scene, 170.0, 4)


def quick(scene: Scene) -> None:
    """Four scans took a minute each."""
    logged(scene, 60.0, 4)


def restarts(scene: Scene) -> None:
    """The worker died three times."""
    scene.change("worker", restarts=4)


def restarts_over_an_hour(scene: Scene) -> None:
    """The supervisor says that the engine ended often, the counter grew slowly."""
    scene.change("engine", restarts=1, often="engine has ended 3 times or more within 60 minutes")


def silent(scene: Scene) -> None:
    """A courier hangs."""
    scene.config.heartbeats_dir.mkdir()
    sign = scene.config.heartbeats_dir / "courier to tps.thread"
    sign.write_text("000005.0\n")
    long_ago = time.time() - 100
    os.utime(sign, (long_ago, long_ago))


def disk_short(scene: Scene) -> None:
    """Between twice the mark and the mark."""
    free_mb = shutil.disk_usage(scene.config.data_dir).free // 2**20
    scene.receive_settings(min_free_mb=0, refuse_below_mb=int(free_mb / 1.5))


def disk_full(scene: Scene) -> None:
    """Below the mark: no scan is taken."""
    scene.receive_settings(min_free_mb=10**9)


def certificate_ends(scene: Scene) -> None:
    """In 20 days."""
    folder = scene.config.data_dir / "certs"
    made = datetime.now(UTC) - timedelta(days=825 - 20)
    certs.make(folder, [certs.Host.this()], [], made)
    (own,) = (folder / "engine").glob("*/")
    engine = scene.config.engine.model_copy(update={"tls_dir": own})
    scene.config = scene.config.model_copy(update={"engine": engine})


def contours_drift(scene: Scene) -> None:
    """On a scanner the last hearts that came back were corrected more than the first."""
    drift = DriftRow(
        scanner="CT1",
        roi="Heart",
        bundle_sha256="b",
        count=20,
        first_dsc=1.0,
        last_dsc=0.9,
        p=0.001,
        since=time.time() - 60,
    )
    scene.journal.enter_drifts([drift])


def journal_damaged(scene: Scene) -> None:
    """A failing disk."""
    scene.journal.close()
    for suffix in ("-wal", "-shm"):
        scene.config.journal_path.with_name(f"journal.sqlite{suffix}").unlink(missing_ok=True)
    scene.config.journal_path.write_text("no database" * 100)


def senders_refused(scene: Scene) -> None:
    """A scanner calls the node by another name, four times."""
    contacts = SenderContacts()
    for _ in range(4):
        contacts.refused("CT1@10.0.0.1", "called-ae", "it calls 'LIMM', this node is 'LIMN'")
    contacts.write(scene.config.senders_path)


def instance_refused(scene: Scene) -> None:
    """One slice of ten was not taken."""
    contacts = SenderContacts()
    for _ in range(9):
        contacts.stored()
    contacts.not_stored("CT1@10.0.0.1", "0xC000: no PixelData")
    contacts.write(scene.config.senders_path)


def board_down(scene: Scene) -> None:
    """Its port is taken."""
    scene.change("board", up=False, loop="board has ended 9 times in a row")


def shadow_down(scene: Scene) -> None:
    """What a second bundle would draw is not drawn."""
    scene.processes.append(ProcessState("shadow", False, 9, loop="shadow has ended 9 times"))
