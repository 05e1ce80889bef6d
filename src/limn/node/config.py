"""Reads the site's TOML once into a frozen model; the node does not start with a wrong key."""

from __future__ import annotations

import difflib
import ipaddress
import os
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    IPvAnyNetwork,
    ValidationError,
    field_validator,
    model_validator,
)

from limn.domain.errors import ConfigWrong
from limn.domain.forms import BY_C_STORE, FORMS, RTSTRUCT, Form
from limn.domain.roi_rules import RoiRule
from limn.domain.shipped import bundle_named
from limn.formats.axes import checked_lie
from limn.node.commissioning import COMMISSIONING
from limn.node.permissions import check_not_others
from limn.node.promotions import bundle_in_force

# Printable ASCII but the backslash, and not spaces alone (PS3.5, VR AE).
AeTitle = Annotated[str, Field(min_length=1, max_length=16, pattern=r"^ *[!-\[\]-~][ -\[\]-~]*$")]
# An empty host means every interface.
Host = Annotated[str, Field(min_length=1)]
Port = Annotated[int, Field(strict=True, ge=1, le=65535)]
Scheduler = Annotated[str, Field(pattern=r"^(local|tls://[A-Za-z0-9.-]+:[0-9]{1,5})$")]
# Text for any character set of DICOM: no backslash, no control characters, no blank at either
# end.
PlainText = Annotated[str, Field(pattern=r"^[!-\[\]-~]([ -\[\]-~]*[!-\[\]-~])?$")]
Network = IPvAnyNetwork
# A host name or address as a browser has it in its address bar; with a port where one leads here.
BoardName = Annotated[
    str,
    Field(pattern=r"^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?)(:[0-9]{1,5})?$"),
]
RoiName = Annotated[PlainText, Field(max_length=64)]
# Images of other formats than DICOM that a watched folder may take.
ImageFormat = Literal["nifti", "nrrd", "metaimage", "skyscan", "inveon"]
# The letters that an array's axes z, y, x grow towards: one of S and I, P and A, L and R each.
Lie = Annotated[str, AfterValidator(checked_lie)]
# ROIs that a destination gets, by their names in the structure set.
RoiNames = Annotated[tuple[RoiName, ...], Field(min_length=1)]
# By which the node calls `limn commission`.
COMMISSIONING_AE = "LIMNCOMMISSION"
# Characters of a wrong value that a message shows; a whole table would hide the fault.
LONGEST_SHOWN = 80
Colour = tuple[
    Annotated[int, Field(ge=0, le=255)],
    Annotated[int, Field(ge=0, le=255)],
    Annotated[int, Field(ge=0, le=255)],
]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Tls(_Table):
    """The node's own certificate and key, and the CA of its peers: PEM files."""

    certificate: Path
    key: Path
    ca: Path

    def below(self, folder: Path) -> Tls:
        """A copy whose relative paths are taken from ``folder``."""
        return self.model_copy(
            update={name: folder / getattr(self, name) for name in ("certificate", "key", "ca")}
        )


class PeerTls(Tls):
    """TLS to a destination, whose certificate must name ``server_name``."""

    server_name: Host | None = None


class CommitmentPeer(_Table):
    """Where the report goes to a sender that asks for storage commitment."""

    ae_title: AeTitle
    host: Host
    port: Port
    tls: PeerTls | None = None


class Receive(_Table):
    """The Storage SCP."""

    ae_title: AeTitle = "LIMN"
    host: Host = "127.0.0.1"
    port: Port = 11112
    require_called_ae: bool = True
    calling_ae: tuple[AeTitle, ...] = ()
    allow: tuple[Network, ...] = ()
    max_associations: Annotated[int, Field(ge=1)] = 50
    max_pdu: Annotated[int, Field(ge=4096, le=2**20)] = 131072
    max_instance_mb: Annotated[int, Field(ge=1, le=2048)] = 512
    max_incoming_mb: Annotated[int, Field(ge=1)] | None = None
    max_spool_mb: Annotated[int, Field(ge=1)] | None = None
    min_free_mb: Annotated[int, Field(ge=0)] = 1024
    refuse_below_mb: Annotated[int, Field(ge=0)] | None = None
    idle_s: Annotated[float, Field(gt=0, le=3600)] = 60.0
    artim_s: Annotated[float, Field(gt=0, le=3600)] = 30.0
    tls: Tls | None = None
    commitment: tuple[CommitmentPeer, ...] = ()

    @property
    def incoming_mb(self) -> int:
        """Memory for all instances that are being received at the same time."""
        return self.max_incoming_mb or 2 * self.max_instance_mb

    @model_validator(mode="after")
    def _one_instance_fits(self) -> Receive:
        if self.incoming_mb < self.max_instance_mb:
            msg = (
                f"max_incoming_mb {self.max_incoming_mb} is less than max_instance_mb "
                f"{self.max_instance_mb}: the largest instance would never be accepted"
            )
            raise ValueError(msg)
        return self

    @property
    def refuse_free_mb(self) -> int:
        """With less free disk than this no new association may store."""
        return 2 * self.min_free_mb if self.refuse_below_mb is None else self.refuse_below_mb


class Watch(_Table):
    """The watched folder; absent means no folder is watched.

    It takes DICOM, and images of `formats`. What these don't say, a person writes beside each, or
    the site says it here of all: `patient_id` names what each image is called by, `lie` how the
    axes of a format run that has no word for it.
    """

    folder: Path
    settle_s: Annotated[float, Field(gt=0)] = 2.0
    rescan_s: Annotated[float, Field(gt=0)] = 5.0
    formats: tuple[ImageFormat, ...] = ()
    patient_id: Literal["note", "name", "folder"] = "note"
    lie: dict[ImageFormat, Lie] = {}

    @model_validator(mode="after")
    def _lie_of_formats(self) -> Watch:
        if others := sorted(set(self.lie) - set(self.formats)):
            msg = f"lie names {', '.join(others)}, which formats does not"
            raise ValueError(msg)
        return self


class Settle(_Table):
    """When a series counts as complete (P2 in DESIGN.md)."""

    min_slices: Annotated[int, Field(ge=3)] = 20
    settle_s: Annotated[float, Field(gt=0)] = 0.5
    hold_s: Annotated[float, Field(gt=0)] = 30.0
    expected_slices: Annotated[int, Field(ge=3)] | None = None


class Model(_Table):
    """Which bundle contours, and how."""

    bundle: Path
    shadow: Path | None = None
    allow_demo_bundle: bool = False
    device: Literal["auto", "cpu", "cuda"] = "auto"
    profile: Literal["paper", "stock", "fast"] | None = None
    mirroring: bool = False
    int8: bool = True
    two_animals: Literal["largest", "central", "refuse", "each"] = "largest"
    animals: tuple[Annotated[PlainText, Field(min_length=1, max_length=15)], ...] = ()
    animals_from: Literal[
        "", "PatientComments", "StudyDescription", "SeriesDescription", "ProtocolName"
    ] = ""
    assume_hu: bool = False
    calibrate: Literal["auto", "refuse", "never"] = "auto"


class Judging(_Table):
    """Which light holds a structure set until a person releases it.

    Left and right in doubt always hold it.
    """

    hold: Literal["red", "amber", "sides"] = "red"


def _is_loopback(host: str) -> bool:
    name = host.partition(":")[0]
    return name == "localhost" or name.startswith("127.")


class Engine(_Table):
    """Dask's scheduler and workers, on this host or others, and the deadline of one scan.

    If `host` or `scheduler` open a port beyond loopback, the site needs certificates of its own
    (`limn certs`), because everybody who can submit to Dask can run code.
    """

    scheduler: Scheduler = "local"
    host: Host = "127.0.0.1"
    port: Port = 8786
    workers: Annotated[int, Field(ge=0)] = 1
    worker_port: Port | None = None
    gpus: tuple[Annotated[int, Field(ge=0)], ...] = ()
    pixels: Literal["path", "bytes"] = "path"
    tls_dir: Path | None = None
    wake_port: Port = 11113
    deadline_s: Annotated[float, Field(gt=0)] = 600.0
    preview_after_s: Annotated[float, Field(gt=0)] | None = None

    @property
    def address(self) -> str:
        """The address of the scheduler."""
        return f"tls://{self.host}:{self.port}" if self.scheduler == "local" else self.scheduler

    @property
    def worker_ports(self) -> tuple[int, ...]:
        """The port of each worker of this host; 0 means any free port."""
        if self.worker_port is None:
            return (0,) * self.workers
        return tuple(self.worker_port + number for number in range(self.workers))

    @model_validator(mode="after")
    def _one_gpu_each(self) -> Engine:
        if self.gpus and len(self.gpus) != self.workers:
            msg = (
                f"gpus names {len(self.gpus)} GPUs and workers is {self.workers}; each worker "
                "has one GPU"
            )
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _safe_beyond_this_host(self) -> Engine:
        if self.worker_port is not None and self.worker_port + self.workers > 65536:
            msg = f"worker_port {self.worker_port} and {self.workers} workers end beyond 65535"
            raise ValueError(msg)
        if all(map(_is_loopback, (self.host, self.address.removeprefix("tls://")))):
            return self
        if self.tls_dir is None:
            msg = (
                f"{self.address} with host {self.host} leaves this machine: tls_dir must name "
                "this host's folder of engine certificates (limn certs makes them)"
            )
            raise ValueError(msg)
        if self.workers and self.worker_port is None:
            msg = f"worker_port must be given where host is {self.host}, for the firewall"
            raise ValueError(msg)
        return self


class PlanningSystem(_Table):
    """The form of structure sets that the planning system expects."""

    profile: str = "default"
    species: Annotated[PlainText, Field(max_length=64)] | Literal[""] = ""
    strain: Annotated[PlainText, Field(max_length=64)] | Literal[""] = ""
    holes: Literal["keyhole", "xor"] = "keyhole"
    max_points: Annotated[int, Field(ge=32)] | None = None
    structure_set_label: Annotated[PlainText, Field(max_length=11)] = "limn"
    roi_names: dict[str, RoiName] = {}
    colours: dict[str, Colour] = {}

    @model_validator(mode="after")
    def _names_differ(self) -> PlanningSystem:
        if len(set(self.roi_names.values())) < len(self.roi_names):
            msg = "two organs have the same ROI name"
            raise ValueError(msg)
        return self


class Log(_Table):
    """The size of the node's running log."""

    max_mb: Annotated[int, Field(ge=1)] = 20
    keep: Annotated[int, Field(ge=1)] = 10


class MetricsSettings(_Table):
    """Prometheus metrics and health over HTTP; without a port there is no page."""

    host: Host = "127.0.0.1"
    port: Port | None = None


class HealthSettings(_Table):
    """After which time the node counts as degraded although it works."""

    destination_limit_s: Annotated[float, Field(gt=0)] = 600.0
    held_limit_s: Annotated[float, Field(gt=0)] = 900.0


class ReturnedSettings(_Table):
    """Structure sets that come back from planning systems (D-262)."""

    keep: Literal["all", "figures", "files"] = "all"
    editors: bool = True
    drift_count: Annotated[int, Field(ge=5)] = 20


class RetentionSettings(_Table):
    """How long delivered scans stay on disk; absent means for ever."""

    spool_days: Annotated[float, Field(gt=0)] | None = None
    results_days: Annotated[float, Field(gt=0)] | None = None


class BoardTls(_Table):
    """Certificate and key of the board, which browsers must trust: PEM files."""

    certificate: Path
    key: Path

    def below(self, folder: Path) -> BoardTls:
        """A copy whose relative paths are taken from ``folder``."""
        return BoardTls(certificate=folder / self.certificate, key=folder / self.key)


class BoardSettings(_Table):
    """The web pages of the node: at this computer, or with TLS and accounts at others (D-245)."""

    host: Host = "127.0.0.1"
    port: Port = 8114
    names: tuple[BoardName, ...] = ()
    tls: BoardTls | None = None
    animals: Literal["shown", "hidden"] | None = None
    asleep_limit_min: Annotated[float, Field(gt=0)] | None = None

    @property
    def leaves_this_computer(self) -> bool:
        """Whether other computers can reach it."""
        try:
            return not ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host != "localhost"

    @property
    def hides_animals(self) -> bool:
        """Whether scan numbers stand in the place of animals' names."""
        return self.animals == "hidden" or (self.animals is None and self.leaves_this_computer)

    @model_validator(mode="after")
    def _safe_beyond_this_computer(self) -> BoardSettings:
        if not self.leaves_this_computer:
            return self
        if self.tls is None:
            msg = (
                f"host {self.host} lets other computers in: [board.tls] must name certificate and "
                "key, or passwords and names would go over the wire as text"
            )
            raise ValueError(msg)
        if self.host in ("0.0.0.0", "::") and not self.names:  # noqa: S104 - it is refused
            msg = (
                f"host {self.host} is every address of this host: names must list the host names "
                "or addresses by which browsers call the board, as those in the certificate"
            )
            raise ValueError(msg)
        return self


class DicomDestination(_Table):
    """A planning system or archive that takes C-STORE."""

    kind: Literal["dicom"]
    name: Annotated[str, Field(min_length=1)]
    ae_title: AeTitle
    host: Host
    port: Port
    tls: PeerTls | None = None
    commitment: bool = False
    previews: bool = False
    rois: RoiNames | None = None
    one_file: bool = False
    forms: tuple[Form, ...] = RTSTRUCT
    send_images: bool = True

    @property
    def later_forms(self) -> tuple[Form, ...]:
        """What follows the structure set, once that is accepted."""
        return tuple(form for form in self.forms if form == "seg")

    @field_validator("forms")
    @classmethod
    def _forms_by_c_store(cls, forms: tuple[Form, ...]) -> tuple[Form, ...]:
        if others := [form for form in forms if form not in BY_C_STORE]:
            msg = (
                f"{', '.join(others)} can't be sent by DICOM: a DICOM destination takes "
                f"{' and '.join(BY_C_STORE)}; name a folder for the others"
            )
            raise ValueError(msg)
        return forms

    @model_validator(mode="after")
    def _every_organ_in_seg(self) -> DicomDestination:
        if "seg" in self.forms and self.rois is not None:
            msg = "a segmentation (seg) has every organ; leave rois or seg out"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _committed_as_written(self) -> DicomDestination:
        changed = "one_file" if self.one_file else "rois" if self.rois is not None else ""
        if self.commitment and changed:
            msg = f"commitment is asked for whole structure sets; leave {changed} or commitment out"
            raise ValueError(msg)
        return self


class FolderDestination(_Table):
    """A folder into which every structure set is written, and what else the site wants of it."""

    kind: Literal["folder"]
    name: Annotated[str, Field(min_length=1)]
    folder: Path
    previews: bool = False
    rois: RoiNames | None = None
    one_file: bool = False
    forms: tuple[Form, ...] = RTSTRUCT
    send_images: bool = True

    @property
    def later_forms(self) -> tuple[Form, ...]:
        """None: a folder has its forms before the structure set."""
        return ()

    @model_validator(mode="after")
    def _with_a_structure_set(self) -> FolderDestination:
        if "rtstruct" not in self.forms:
            msg = 'forms must have "rtstruct", by which the delivery is known'
            raise ValueError(msg)
        return self


Destination = Annotated[DicomDestination | FolderDestination, Field(discriminator="kind")]


class CommissioningSettings(_Table):
    """Where `limn commission` takes what this node drew of its phantoms: a port of this host."""

    port: Port = 11114


class Config(_Table):
    """All settings of a site. Relative paths are relative to the config file."""

    data_dir: Path
    receive: Receive = Receive()
    watch: Watch | None = None
    settle: Settle = Settle()
    model: Model
    judge: Judging = Judging()
    engine: Engine = Engine()
    planning_system: PlanningSystem = PlanningSystem()
    log: Log = Log()
    metrics: MetricsSettings = MetricsSettings()
    health: HealthSettings = HealthSettings()
    retention: RetentionSettings = RetentionSettings()
    returned: ReturnedSettings = ReturnedSettings()
    board: BoardSettings | None = None
    commissioning: CommissioningSettings = CommissioningSettings()
    roi: tuple[Annotated[RoiRule, Field(discriminator="kind")], ...] = ()
    destination: Annotated[tuple[Destination, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _ports_differ(self) -> Config:
        engine = self.engine
        if self.receive.port == engine.port:
            msg = f"receive.port and engine.port are both {self.receive.port}"
            raise ValueError(msg)
        for key, port in (("receive.port", self.receive.port), ("engine.port", engine.port)):
            if port in engine.worker_ports:
                msg = (
                    f"{key} {port} is one of the workers', {engine.worker_ports[0]} to "
                    f"{engine.worker_ports[-1]} (engine.worker_port)"
                )
                raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _metrics_port_differs(self) -> Config:
        if self.metrics.port in (self.receive.port, self.engine.port):
            msg = f"metrics.port is {self.metrics.port}, as receive.port or engine.port"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _board_port_differs(self) -> Config:
        others = (self.receive.port, self.engine.port, self.metrics.port)
        if self.board is not None and self.board.port in (*others, *self.engine.worker_ports):
            msg = f"board.port {self.board.port} is that of another part of the node"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _destinations_differ(self) -> Config:
        names = [destination.name for destination in self.destination]
        if len(set(names)) < len(names):
            msg = "two destinations have the same name"
            raise ValueError(msg)
        if COMMISSIONING in names:
            msg = f"no destination may be called {COMMISSIONING}: limn commission has that name"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _commissioning_port_differs(self) -> Config:
        board = self.board.port if self.board is not None else None
        others = (self.receive.port, self.engine.port, self.metrics.port, board)
        # A site that does not commission may use limn's own choice elsewhere: its node starts.
        chosen = "port" in self.commissioning.model_fields_set
        if chosen and self.commissioning.port in (*others, *self.engine.worker_ports):
            msg = (
                f"commissioning.port {self.commissioning.port} is that of another part of the node"
            )
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _one_file_of_each(self) -> Config:
        names = [each.name for each in self.destination if each.one_file]
        if names and self.model.two_animals != "each":
            msg = (
                f"destination {names[0]}: one_file is for the animals of a field; it needs "
                'model.two_animals = "each"'
            )
            raise ValueError(msg)
        return self

    @property
    def preview_destinations(self) -> tuple[str, ...]:
        """Names of the destinations that get previews; none if the site makes no previews."""
        if self.engine.preview_after_s is None:
            return ()
        return tuple(each.name for each in self.destination if each.previews)

    @property
    def journal_path(self) -> Path:
        """The register of scans."""
        return self.data_dir / "journal.sqlite"

    @property
    def spool_dir(self) -> Path:
        """The folder of received instances."""
        return self.data_dir / "spool"

    @property
    def scan_log_path(self) -> Path:
        """The physicist's CSV."""
        return self.data_dir / "scans.csv"

    @property
    def results_dir(self) -> Path:
        """Structure sets, pictures and labels, one folder per scan."""
        return self.data_dir / "scans"

    @property
    def viewed_dir(self) -> Path:
        """The voxels of scans that people look at; see `limn.node.board.viewer.viewing`."""
        return self.data_dir / "viewed"

    @property
    def verdicts_dir(self) -> Path:
        """Whether the bundle runs in int8 on this host's processor; see `segment.engine.int8`."""
        return self.data_dir / "int8"

    @property
    def tls_dir(self) -> Path:
        """Key and certificate of the engine's own connections."""
        return self.engine.tls_dir or self.data_dir / "tls"

    @property
    def ready_path(self) -> Path:
        """Exists while a warm worker waits for scans."""
        return self.data_dir / "ready"

    @property
    def forms(self) -> tuple[Form, ...]:
        """What any destination wants beside the structure set."""
        wanted = {form for each in self.destination for form in each.forms}
        return tuple(form for form in FORMS if form in wanted and form != "rtstruct")

    @property
    def receiving_path(self) -> Path:
        """The series that are coming in; see `limn.node.store.disk.receiving`."""
        return self.data_dir / "receiving.json"

    @property
    def images_dir(self) -> Path:
        """Where the receiver makes CT series of images; empty while it makes none."""
        return self.data_dir / "images"

    @property
    def returned_dir(self) -> Path:
        """Structure sets that came in; see `limn.node.receive.returned`."""
        return self.data_dir / "returned"

    @property
    def edits_dir(self) -> Path:
        """Where one structure set after the other is measured; empty while none is."""
        return self.data_dir / "edits"

    @property
    def running_path(self) -> Path:
        """The scans that workers contour; see `limn.node.store.disk.running`."""
        return self.data_dir / "running.json"

    @property
    def reruns_dir(self) -> Path:
        """Orders to run scans again; see `limn.node.store.disk.rerun_notes`."""
        return self.data_dir / "reruns"

    @property
    def shadow_dir(self) -> Path:
        """What the shadow bundle drew; see `limn.node.store.disk.comparisons`."""
        return self.data_dir / "shadow"

    @property
    def destinations_path(self) -> Path:
        """What destinations said last; see `limn.node.store.disk.contacts`."""
        return self.data_dir / "destinations.json"

    @property
    def senders_path(self) -> Path:
        """What senders did at the port; see `limn.node.store.disk.contacts`."""
        return self.data_dir / "senders.json"

    @property
    def heartbeats_dir(self) -> Path:
        """Signs of life of processes and threads; see `heartbeat`."""
        return self.data_dir / "heartbeats"

    @property
    def commissioning_path(self) -> Path:
        """Where phantoms may go; see `limn.node.store.disk.commission`."""
        return self.data_dir / "commissioning.json"

    @property
    def commissioning_destination(self) -> DicomDestination:
        """What `limn commission` opens while it runs, and phantoms alone are sent to."""
        return DicomDestination(
            kind="dicom",
            name=COMMISSIONING,
            ae_title=COMMISSIONING_AE,
            host="127.0.0.1",
            port=self.commissioning.port,
        )

    @property
    def board_accounts_path(self) -> Path:
        """Who may sign in to the board; see `limn.node.store.disk.board_accounts`."""
        return self.data_dir / "board-accounts.json"

    def heartbeat_path(self, process: str) -> Path:
        """Written by a process while its work moves; see `heartbeat`."""
        return self.heartbeats_dir / process

    def restarts_path(self, process: str) -> Path:
        """Written while a process ends again and again; see `restarts`."""
        return self.heartbeats_dir / f"{process}.restarts"

    def paths_resolved(self, folder: Path) -> Config:
        """A copy whose relative paths are taken from ``folder``."""
        watch, tls_dir, board = self.watch, self.engine.tls_dir, self.board
        return self.model_copy(
            update={
                "data_dir": _below(folder, self.data_dir),
                "model": self.model.model_copy(
                    update={
                        "bundle": _bundle_below(folder, self.model.bundle),
                        "shadow": self.model.shadow and _bundle_below(folder, self.model.shadow),
                    }
                ),
                "receive": self.receive.model_copy(
                    update={
                        "tls": self.receive.tls and self.receive.tls.below(folder),
                        "commitment": tuple(
                            peer.model_copy(update={"tls": peer.tls and peer.tls.below(folder)})
                            for peer in self.receive.commitment
                        ),
                    }
                ),
                "engine": self.engine.model_copy(
                    update={"tls_dir": tls_dir and _below(folder, tls_dir)}
                ),
                "board": board
                and board.model_copy(update={"tls": board.tls and board.tls.below(folder)}),
                "watch": watch and watch.model_copy(update={"folder": folder / watch.folder}),
                "destination": tuple(
                    destination.model_copy(update={"folder": folder / destination.folder})
                    if isinstance(destination, FolderDestination)
                    else destination.model_copy(
                        update={"tls": destination.tls and destination.tls.below(folder)}
                    )
                    for destination in self.destination
                ),
            }
        )


def _below(folder: Path, path: Path) -> Path:
    """A path below a folder, with ``..`` resolved so that an operator can read it."""
    return Path(os.path.normpath(folder / path))


def _bundle_below(folder: Path, path: Path) -> Path:
    """A bundle below a folder, or an installed or embedded one of this name."""
    below = _below(folder, path)
    return below if below.exists() else _below(folder, bundle_named(str(path)))


def load_config(path: Path) -> Config:
    """Read and check a site's config; a promoted bundle stands in the place of the one named there.

    Raises
    ------
    ConfigWrong
        Names the file and every wrong key, or says that every user may change the file.
    """
    config = load_written_config(path)
    return with_bundle(config, bundle_in_force(config.data_dir, config.model.bundle))


def load_written_config(path: Path) -> Config:
    """Read and check a site's config as it is written, without a promotion (D-273).

    Raises
    ------
    ConfigWrong
        As `load_config`.
    """
    check_not_others(path, "config")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        msg = f"config {path}: {error.strerror}"
        raise ConfigWrong(msg) from error
    except ValueError as error:
        msg = f"config {path}: not valid TOML: {error}"
        raise ConfigWrong(msg) from error
    try:
        return Config.model_validate(values).paths_resolved(path.resolve().parent)
    except ValidationError as error:
        msg = f"config {path}:\n" + "\n".join(_wrong_keys(error))
        raise ConfigWrong(msg) from error


def with_bundle(config: Config, bundle: Path) -> Config:
    """The config with another bundle that delivers."""
    return config.model_copy(update={"model": config.model.model_copy(update={"bundle": bundle})})


def _wrong_keys(error: ValidationError) -> list[str]:
    """A line for each wrong key, with its value if that is short."""
    found = error.errors()
    lines = []
    for each in found:
        loc = each["loc"]
        if any(len(other["loc"]) > len(loc) and other["loc"][: len(loc)] == loc for other in found):
            # Skip the error of a list that only lacks its wrong items, which have their own lines.
            continue
        key = ".".join(str(part) for part in loc)
        if each["type"] == "missing":
            lines.append(f"  {key} is missing")
        elif each["type"] == "extra_forbidden":
            lines.append(f"  {key} is not a setting of limn{_meant(loc)}")
        else:
            value = repr(each["input"])
            shown = f" (found {value})" if len(value) <= LONGEST_SHOWN else ""
            lines.append(f"  {key}: {each['msg']}{shown}")
    return lines


def _meant(loc: Sequence[str | int]) -> str:
    """The setting whose name is nearest to an unknown one, of its own table if possible."""
    table: type[_Table] = Config
    for part in loc[:-1]:
        field = table.model_fields.get(str(part))
        inner = field.annotation if field else None
        if not (isinstance(inner, type) and issubclass(inner, _Table)):
            break
        table = inner
    for names in (set(table.model_fields), _names(_Table)):
        if near := difflib.get_close_matches(str(loc[-1]), names, n=1):
            return f"; did you mean {near[0]}?"
    return ""


def _names(table: type[_Table]) -> set[str]:
    """The names of the settings of a table and all tables derived from it."""
    return set(table.model_fields).union(*(_names(each) for each in table.__subclasses__()))
