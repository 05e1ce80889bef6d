"""Tries everything a node needs before an animal is asleep."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

from distributed import Client
from rich.console import Console
from rich.markup import escape

from limn.domain.errors import ConfigWrong, LimnError, PeerUnreachable, StageFailed
from limn.domain.folders import not_a_folder, writable
from limn.node.config import Config, DicomDestination, FolderDestination, load_config
from limn.node.contour.allocation import AllocationReply, AllocationRequest, allocate
from limn.node.contour.site_bundle import deliverable_bundle, kind_of
from limn.node.contour.work.warm import warm_up
from limn.node.deliver.export_place import ExportPlace, mount_point
from limn.node.dimse.client import echo, peer_of
from limn.node.dimse.tls import check_keys, peers_tls
from limn.node.host.certs import CA, CERT, valid_until
from limn.node.host.engine_tls import check_given, security_of
from limn.node.host.processes import Part, name_of, processes
from limn.node.serve import prometheus
from limn.node.serve.lock import only_node
from limn.node.serve.ports import check_ports
from limn.node.store.disk import space
from limn.node.store.disk.evidence import loss_of
from limn.node.store.journal.schema import JournalError
from limn.node.store.salvage import fault_of

ENGINE_S = 10.0
# To renew one takes a signature, and nobody reads a warning of a check that passes.
CERTIFICATE_LEAST = timedelta(days=30)


def check(config_path: Path, only: Part | None = None) -> bool:
    """Print the resolved config, then try bundle, model, disk and peers; true if all work.

    Each try prints one line; that of a failed try gives the cause and the remedy. A try that
    depends on a failed one is left out. With ``only``, only what that part of a node needs on
    this host is tried.
    """
    console = Console(emoji=False, highlight=False)
    config = load_config(config_path)
    console.print(f"[bold]config {config_path}[/]")
    console.print_json(config.model_dump_json())
    receives, computes = only in {None, "receiver"}, only in {None, "worker"}
    tries: list[tuple[bool, str, str, Callable[[], str]]] = [
        (only != "scheduler", "bundle", "", lambda: _bundle(config)),
        (computes, "model", "bundle", lambda: _model(config)),
        (True, "data folder", "", lambda: _data(config)),
        (receives, "disk space", "data folder", lambda: _space(config)),
        (receives, "journal", "", lambda: _journal(config)),
        (receives, "watched folder", "", lambda: _watched(config)),
        (receives, "TLS with DICOM peers", "", lambda: _tls(config)),
        (True, "engine", "bundle", lambda: _engine(config, config_path, only)),
        (True, "ports", "data folder", lambda: _ports(config, only)),
        *(
            (receives, f"destination {each.name}", "", _destination(each, config))
            for each in config.destination
        ),
    ]
    passed: dict[str, bool] = {}
    for wanted, name, needs, action in tries:
        if not wanted:
            continue
        if not passed.get(needs, True):
            console.print(f" --  {name}: not tried; mend {needs} first", soft_wrap=True)
            passed[name] = False
            continue
        passed[name] = _try(console, name, action)
    failed = [name for name, good in passed.items() if not good]
    if failed:
        console.print(f"not ready: {', '.join(failed)}", style="bold red", soft_wrap=True)
    else:
        console.print("ready", style="bold green")
    return not failed


def _try(console: Console, name: str, action: Callable[[], str]) -> bool:
    try:
        text, word, good = action(), "[green] ok [/]", True
    except (LimnError, OSError, JournalError) as error:
        text, word, good = str(error), "[red]FAIL[/]", False
    # On one line, and brackets in a message are text: a program may read it.
    console.print(word, escape(f"{name}: {' '.join(text.split())}"), soft_wrap=True)
    return good


def _bundle(config: Config) -> str:
    bundle = deliverable_bundle(config)
    return f"{bundle.label}, every file matches its sha256; {bundle.not_for}"


def _model(config: Config) -> str:
    started_s = time.perf_counter()
    no_device = (
        "the networks do not run on model.device {} ({}); look at the GPU and its driver, or set "
        "model.device to another"
    )
    try:
        warm = warm_up(config, [config.verdicts_dir])
        loaded_s = time.perf_counter()
        warm.ensemble.warm_up()
    except (RuntimeError, AssertionError) as error:
        # Torch raises these without a driver, or for a GPU that is too small.
        raise StageFailed(no_device.format(config.model.device, error)) from error
    if lost := warm.ensemble.lost_gpu:
        # A node would start all the same, on the CPU.
        raise StageFailed(no_device.format(config.model.device, lost))
    pass_s = time.perf_counter() - loaded_s
    return (
        f"{len(warm.ensemble.bundle.folds)} folds on {warm.ensemble.description}, loaded in "
        f"{loaded_s - started_s:.1f} s, one tile through all folds in {pass_s:.2f} s"
    )


def _data(config: Config) -> str:
    space.try_writing(config)
    return f"{config.data_dir} can be written"


def _space(config: Config) -> str:
    if short := space.shortage(config):
        raise ConfigWrong(short)
    return f"{shutil.disk_usage(config.data_dir).free / 2**30:.0f} GiB free"


def _journal(config: Config) -> str:
    if fault := fault_of(config.journal_path):
        msg = (
            f"{config.journal_path} is damaged ({fault}); limn serve renames it when it starts "
            "and creates a new one. Compare scans.csv with the planning system and look at the disk"
        )
        raise ConfigWrong(msg)
    if loss := loss_of(config):
        msg = (
            f"{config.journal_path} has lost scans: {loss}; limn serve restores it from the disk "
            "when it starts, and sends nothing twice"
        )
        raise ConfigWrong(msg)
    return "sound" if config.journal_path.exists() else "none yet"


def _watched(config: Config) -> str:
    if config.watch is None:
        return "none"
    if not config.watch.folder.is_dir():
        what = not_a_folder(config.watch.folder) or "it can't be reached"
        msg = f"watch.folder {config.watch.folder}: {what}; mount it or mend the path"
        raise ConfigWrong(msg)
    return f"{config.watch.folder} can be read"


def _tls(config: Config) -> str:
    check_keys(config)
    own = config.receive.tls
    given = [*([own] if own is not None else []), *peers_tls(config)]
    ends = [_expiry(path) for tls in given for path in (tls.certificate, tls.ca)]
    if not ends:
        return "none: no tls table is set"
    return f"certificates are valid until {min(ends):%Y-%m-%d}"


def _expiry(certificate: Path) -> datetime:
    """When a certificate expires.

    Raises
    ------
    ConfigWrong
        If it has expired or will soon.
    """
    end = valid_until(certificate)
    left = end - datetime.now(UTC)
    if left < CERTIFICATE_LEAST:
        when = "ended" if left < timedelta(0) else "ends"
        msg = (
            f"certificate {certificate} {when} on {end:%Y-%m-%d}; renew it, or nobody can connect "
            "from that day on"
        )
        raise ConfigWrong(msg)
    return end


def _engine(config: Config, config_path: Path, only: Part | None) -> str:
    processes(config, config_path, only)
    text = f"scheduler {config.engine.address}"
    if only in {None, "worker"}:
        text = f"{text}, {config.engine.workers} workers on this host"
    if config.engine.tls_dir is None:
        return f"{text}, new certificates at every start"
    text = f"{text}, certificates {check_given(config.engine.tls_dir)}"
    for name in (CA, CERT):
        _expiry(config.engine.tls_dir / name)
    if config.engine.scheduler == "local" or only == "scheduler":
        return text
    workers = _count_workers(config)
    if not workers and only == "receiver":
        msg = (
            f"no warm worker at {config.engine.address}: scans would wait; start "
            "limn serve --only worker on a worker's host"
        )
        raise PeerUnreachable(msg)
    return f"{text}, {workers} warm workers connected"


def _count_workers(config: Config) -> int:
    """How many workers at the scheduler compute with this node's limn and bundle.

    Raises
    ------
    PeerUnreachable
        If the scheduler can't be reached, or does not accept our certificate.
    ConfigWrong
        If its workers run another limn or bundle.
    """
    kind = kind_of(deliverable_bundle(config))
    try:
        with Client(
            config.engine.address,
            security=security_of(config),
            timeout=ENGINE_S,
            set_as_default=False,
        ) as client:
            ask = AllocationRequest(
                node="check", client=client.id, kind=kind, priority=None, on_their_way=()
            )
            found: AllocationReply = client.run_on_scheduler(allocate, ask)
    except OSError as error:
        msg = f"no scheduler answers at {config.engine.address}: {error}"
        raise PeerUnreachable(msg) from error
    if found.others and not found.workers:
        msg = f"the workers {', '.join(found.others)} are not {kind}; give every host the same"
        raise ConfigWrong(msg)
    return len(found.workers)


def _ports(config: Config, only: Part | None) -> str:
    name = name_of(only)
    with ExitStack() as held:
        try:
            held.enter_context(only_node(config, name))
        except ConfigWrong:
            return f"in use by the {only or 'node'} that runs on this data folder"
        free = check_ports(config, only)
        with prometheus.serving(config, tuple):
            page = f", {config.metrics.port}" if config.metrics.port else ""
    return f"{free}{page} are free"


def _destination(
    destination: DicomDestination | FolderDestination, config: Config
) -> Callable[[], str]:
    def try_folder(folder: Path) -> str:
        place = ExportPlace(folder, config.data_dir)
        try:
            place.adopt()
        except OSError as error:
            why = not_a_folder(folder) or error.strerror
            msg = f"{folder}: {why}; give a folder that you may write to"
            raise ConfigWrong(msg) from error
        if fault := place.fault():
            msg = f"{folder}: {fault}. Structure sets wait in the journal until then"
            raise ConfigWrong(msg)
        return f"{writable(folder)} can be written, on the disk at {mount_point(folder)}"

    def try_peer(found: DicomDestination) -> str:
        peer = peer_of(found, config.receive.ae_title)
        started_s = time.perf_counter()
        try:
            echo(peer)
        except PeerUnreachable as error:
            msg = (
                f"{error}; start it, or compare host, port and AE titles with its own settings. "
                "Structure sets wait in the journal until it answers"
            )
            raise PeerUnreachable(msg) from error
        return f"{peer} answers C-ECHO in {time.perf_counter() - started_s:.2f} s"

    if isinstance(destination, FolderDestination):
        return lambda: try_folder(destination.folder)
    return lambda: try_peer(destination)
