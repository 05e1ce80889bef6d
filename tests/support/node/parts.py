"""Parts of a node in a temporary folder, and peers with given answers."""

import io
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RTStructureSetStorage,
)
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.transport import ThreadedAssociationServer

from limn.dicom.ct import CtIdentity, ct_instances
from limn.domain.geometry import Grid
from limn.domain.scan import Volume
from limn.node.dimse import routing
from limn.node.receive.completeness import Rules
from limn.node.receive.gathering import Source
from limn.node.receive.handover import Handover
from limn.node.receive.intake import Intake
from limn.node.store.disk.spool import Spool
from limn.node.store.journal.journal import Journal
from limn.node.store.journal.rows import Arrived, ScanRow

COUNT = 20
SCP = Source("association-1", "SCANNER@127.0.0.1", 0.05)


def only_sends(association: Association) -> Association:
    """Set up a sender's association: no delayed acknowledgement, no lost response."""
    opened = association.dul.socket
    if association.is_established and opened is not None and opened.socket is not None:
        routing.install(association, lambda why: None)
        # Without it every C-STORE waits 40 ms. A node that was just killed has closed it already.
        with suppress(OSError):
            opened.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return association


def slices(number: str = "1", count: int = COUNT) -> list[FileDataset]:
    """A series of small CT slices, 0.2 mm apart."""
    rng = np.random.default_rng(count)
    grid = Grid(
        slice_origins_xyz_mm=np.array([(1.0, 2.0, 0.2 * k) for k in range(count)]),
        rows=6,
        columns=8,
        spacing_y_mm=0.2,
        spacing_x_mm=0.2,
        along_x_xyz=np.array([1.0, 0.0, 0.0]),
        along_y_xyz=np.array([0.0, 1.0, 0.0]),
    )
    hu_zyx = rng.normal(0, 200, grid.shape_zyx).astype(np.float32)
    identity = CtIdentity(f"M{number}", f"2.25.88.{number}", ("20260101", "120000"))
    return ct_instances(Volume(hu_zyx, grid), identity)


def encoded(ds: Dataset) -> bytes:
    """A dataset as the bytes of a DICOM file."""
    file = io.BytesIO()
    ds.save_as(file, enforce_file_format=True)
    return file.getvalue()


def write_slices(folder: Path, datasets: Sequence[Dataset]) -> list[Path]:
    """One file per slice."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"ct_{k:03d}.dcm" for k in range(len(datasets))]
    for path, ds in zip(paths, datasets, strict=True):
        path.write_bytes(encoded(ds))
    return paths


def other_modality(sop_class: UID, modality: str) -> Dataset:
    """An instance with pixels that is no CT image."""
    ds = slices("9", 3)[0]
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = sop_class
    ds.Modality = modality
    return ds


def structure_set(sop_instance_uid: str = "2.25.99.1") -> Dataset:
    """A minimal RTSTRUCT that can be sent."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = RTStructureSetStorage
    meta.MediaStorageSOPInstanceUID = UID(sop_instance_uid)
    meta.TransferSyntaxUID = ImplicitVRLittleEndian
    ds = FileDataset("", Dataset(), file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID, ds.SOPInstanceUID = RTStructureSetStorage, UID(sop_instance_uid)
    ds.SeriesInstanceUID, ds.StudyInstanceUID = "2.25.99.2", "2.25.99.3"
    ds.PatientID, ds.Modality, ds.StructureSetLabel = "M1", "RTSTRUCT", "limn"
    return ds


class Door:
    """An intake with its spool and journal, as in the receiver process."""

    def __init__(
        self,
        data_dir: Path,
        *,
        hold_s: float = 30.0,
        settle_s: float = 0.05,
        min_slices: int = COUNT,
        min_free_bytes: int = 0,
        destinations: Sequence[str] = ("tps",),
        unwelcome: Callable[[str, str], str] = lambda _animal, _series: "",
        **intake: Any,
    ) -> None:
        self.spool = Spool(data_dir / "spool", min_free_bytes)
        self.journal = Journal(data_dir / "journal.sqlite")
        self.woken = threading.Event()
        handover = Handover(
            self.spool,
            self.journal,
            destinations=lambda _: destinations,
            unwelcome=unwelcome,
            profile="default",
            bundle_sha256="b" * 64,
            wake=self.woken.set,
        )
        rules = Rules(min_slices, settle_s, hold_s)
        self.intake = Intake(self.spool, self.journal, rules, handover, **intake)

    def fill_up(self) -> None:
        """Put the disk below its watermark from now on."""
        # The spool is a frozen dataclass.
        object.__setattr__(self.spool, "min_free_bytes", 2**62)

    def send(self, datasets: Sequence[Dataset], source: Source = SCP) -> list[int]:
        """Give every instance to the intake; returns the statuses."""
        return [self.intake.accept(encoded(ds), source).status for ds in datasets]

    def scans(self) -> list[ScanRow]:
        """Settle once; returns the scans in the journal."""
        self.intake.settle()
        return self.journal.scans()

    def wait_for_scans(self, count: int = 1) -> list[ScanRow]:
        """Settle until the journal holds so many scans."""
        until(lambda: len(self.scans()) >= count)
        return self.journal.scans()

    def files(self) -> list[Path]:
        """Every instance in the spool."""
        return sorted(self.spool.root.rglob("*.dcm"))


@contextmanager
def running(target: Callable[[threading.Event], None]) -> Iterator[None]:
    """Run a loop of the node in a thread until the block is left."""
    stopping = threading.Event()
    thread = threading.Thread(target=target, args=(stopping,))
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join(10)
        assert not thread.is_alive()


def until(condition: Callable[[], object], timeout_s: float = 15.0) -> None:
    """Wait until a condition is true; fail after the timeout."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "waited in vain"
        time.sleep(0.01)


class Archive:
    """A C-STORE peer that answers with the given statuses, and repeats the last one."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses) or [0x0000]
        self.taken: list[Dataset] = []

    def store(self, event: evt.Event) -> int:
        """Keep the dataset and answer."""
        ds = event.dataset
        ds.file_meta = event.file_meta
        self.taken.append(ds)
        return self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]


@contextmanager
def peer(
    archive: Archive | None = None,
    *,
    classes: Sequence[UID] = (RTStructureSetStorage, CTImageStorage),
    handlers: Sequence[tuple[evt.EventType, Callable[[evt.Event], object]]] = (),
    port: int = 0,
    ae_title: str = "TPS",
    only_this_title: bool = False,
) -> Iterator[int]:
    """A DICOM peer on loopback; yields its port."""
    ae = AE(ae_title=ae_title)
    ae.require_called_aet = only_this_title
    for sop_class in classes:
        ae.add_supported_context(sop_class, [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
    every = list(handlers)
    if archive is not None:
        every.append((evt.EVT_C_STORE, archive.store))
    server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=every)
    assert server is not None
    try:
        yield int(server.server_address[1])
    finally:
        stop(server)


def stop(server: ThreadedAssociationServer) -> None:
    """Close a server without waiting half a second for its end."""
    threading.Thread(target=server.shutdown).start()


def arrived(**changes: object) -> Arrived:
    """A settled series, as the intake hands it to the journal."""
    values: dict[str, object] = {
        "series_instance_uid": "2.25.1",
        "input_digest": "d1",
        "bundle_sha256": "b" * 64,
        "profile": "default",
        "study_instance_uid": "2.25.2",
        "animal": "M1",
        "sender": "SCANNER@10.0.0.1",
        "folder": "/spool/1",
        "files": ("a.dcm", "b.dcm"),
        "receive_s": 1.5,
        "settle_s": 0.5,
        "last_slice_at": time.time() - 20.0,
        "ready_at": time.time() - 19.5,
        "date": "20260101",
        "time": "120000",
    }
    return Arrived(**(values | changes))  # type: ignore[arg-type]
