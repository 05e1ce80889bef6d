"""Tries everything a node needs before an animal is asleep."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from distributed import Client
from rich.console import Console

from limn import __version__
from limn.domain.errors import ConfigWrong, LimnError, PeerUnreachable
from limn.node.config import Config, DicomDestination, FolderDestination, load_config
from limn.node.deliver import echo, peer_of
from limn.node.engine_tls import check_given, security_of
from limn.node.modes import make_private_folder
from limn.node.peer_tls import check_keys
from limn.node.service import check_ports, deliverable_bundle
from limn.node.window import Answer, Ask, answer, kind_of
from limn.node.worker import warm_up

ENGINE_S = 10.0


def check(config_path: Path) -> bool:
    """Print the resolved config, then try bundle, model, disk and peers; true if all is well."""
    console = Console(highlight=False)
    config = load_config(config_path)
    console.print(f"[bold]config {config_path}[/]")
    console.print_json(config.model_dump_json())
    tries: list[tuple[str, Callable[[], str]]] = [
        ("bundle", lambda: _bundle(config)),
        ("model", lambda: _model(config)),
        ("data folder", lambda: _disk(config)),
        ("watched folder", lambda: _watched(config)),
        ("TLS with DICOM peers", lambda: _tls(config)),
        ("engine", lambda: _engine(config)),
        ("ports", lambda: _ports(config)),
        *((f"destination {d.name}", _destination(d, config)) for d in config.destination),
    ]
    results = [_try(console, name, action) for name, action in tries]
    return all(results)


def _try(console: Console, name: str, action: Callable[[], str]) -> bool:
    try:
        said = action()
    except (LimnError, OSError) as error:
        console.print(f"[red]FAIL[/] {name}: {error}")
        return False
    console.print(f"[green] ok [/] {name}: {said}")
    return True


def _bundle(config: Config) -> str:
    bundle = deliverable_bundle(config)
    return f"{bundle.label}, every file matches its sha256; {bundle.not_for}"


def _model(config: Config) -> str:
    started_s = time.perf_counter()
    warm = warm_up(config)
    loaded_s = time.perf_counter()
    warm.ensemble.warm_up()
    pass_s = time.perf_counter() - loaded_s
    return (
        f"{len(warm.ensemble.bundle.folds)} folds on {warm.ensemble.description}, loaded in "
        f"{loaded_s - started_s:.1f} s, one tile through all folds in {pass_s:.2f} s"
    )


def _disk(config: Config) -> str:
    make_private_folder(config.data_dir)
    probe = config.data_dir / ".check"
    probe.write_bytes(b"limn")
    probe.unlink()
    free_mb = shutil.disk_usage(config.data_dir).free // 2**20
    if free_mb < config.receive.min_free_mb:
        msg = (
            f"{config.data_dir} has {free_mb} MB free, receive.min_free_mb is "
            f"{config.receive.min_free_mb}: every scan would be answered 0xA700"
        )
        raise ConfigWrong(msg)
    return f"{config.data_dir}, {shutil.disk_usage(config.data_dir).free / 2**30:.0f} GiB free"


def _watched(config: Config) -> str:
    if config.watch is None:
        return "none"
    if not config.watch.folder.is_dir():
        msg = f"watch.folder {config.watch.folder} can't be reached"
        raise ConfigWrong(msg)
    return f"{config.watch.folder} can be read"


def _tls(config: Config) -> str:
    check_keys(config)
    return "as configured" if config.receive.tls is not None else "none: receive.tls is not set"


def _engine(config: Config) -> str:
    said = f"scheduler {config.engine.address}, {config.engine.workers} workers on this host"
    if config.engine.tls_dir is None:
        return f"{said}, certificates made anew at every start"
    said = f"{said}, certificates {check_given(config.engine.tls_dir)}"
    if config.engine.scheduler == "local":
        return said
    return f"{said}, {_workers_there(config)} warm workers there"


def _workers_there(config: Config) -> int:
    """How many workers at the scheduler compute with this node's limn and bundle.

    Raises
    ------
    PeerUnreachable
        If the scheduler can't be reached, or takes no certificate of ours.
    ConfigWrong
        If its workers run another limn or bundle.
    """
    kind = kind_of(__version__, deliverable_bundle(config).sha256)
    try:
        with Client(
            config.engine.address,
            security=security_of(config),
            timeout=ENGINE_S,
            set_as_default=False,
        ) as client:
            ask = Ask(node="check", client=client.id, kind=kind, priority=None, holding=())
            found: Answer = client.run_on_scheduler(answer, ask)
    except OSError as error:
        msg = f"no scheduler answers at {config.engine.address}: {error}"
        raise PeerUnreachable(msg) from error
    if found.others and not found.workers:
        msg = f"the workers {', '.join(found.others)} are not {kind}; give every host the same"
        raise ConfigWrong(msg)
    return len(found.workers)


def _ports(config: Config) -> str:
    if config.ready_path.exists():
        return "in use by the node that runs on this data folder"
    return f"{check_ports(config)} are free"


def _destination(
    destination: DicomDestination | FolderDestination, config: Config
) -> Callable[[], str]:
    def try_folder(folder: Path) -> str:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".check"
        probe.write_bytes(b"limn")
        probe.unlink()
        return f"{folder} can be written"

    def try_peer(found: DicomDestination) -> str:
        peer = peer_of(found, config.receive.ae_title)
        started_s = time.perf_counter()
        echo(peer)
        return f"{peer} answers C-ECHO in {time.perf_counter() - started_s:.2f} s"

    if isinstance(destination, FolderDestination):
        return lambda: try_folder(destination.folder)
    return lambda: try_peer(destination)
