"""Tries everything a node needs before an animal is asleep."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from distributed import Client
from rich.console import Console
from rich.markup import escape

from limn.domain.errors import ConfigWrong, LimnError, PeerUnreachable, StageFailed
from limn.domain.folders import not_a_folder
from limn.node.config import Config, DicomDestination, FolderDestination, load_config
from limn.node.contour.allocation import AllocationReply, AllocationRequest, allocate
from limn.node.contour.site_bundle import deliverable_bundle, kind_of, verified
from limn.node.contour.work.warm import warm_up
from limn.node.dimse.tls import check_keys, peers_tls
from limn.node.host.certs import CA, CERT
from limn.node.host.engine_tls import check_given, security_of
from limn.node.host.expiry import expiry
from limn.node.host.processes import Part, name_of, processes
from limn.node.operate.try_destination import try_destination
from limn.node.promotions import promotion_in_force
from limn.node.serve.board_check import check_board
from limn.node.serve.lock import only_node
from limn.node.serve.ports import check_ports
from limn.node.store.disk import space
from limn.node.store.disk.evidence import loss_of
from limn.node.store.journal.schema import JournalError, check_not_newer
from limn.node.store.salvage import fault_of

ENGINE_S = 10.0
# Words of a try in the output, and how they are shown.
OK, FAILED, NOT_TRIED = "ok", "FAIL", "--"
STYLED = {OK: "[green] ok [/]", FAILED: "[red]FAIL[/]", NOT_TRIED: " -- "}


@dataclass(frozen=True, slots=True)
class TryResult:
    """What one try found."""

    name: str
    word: str
    text: str


def check(config_path: Path, only: Part | None = None) -> bool:
    """Try bundle, model, disk and peers; print the verdict, the resolved config and the tries.

    Each try has one line; that of a failed try gives the cause and the remedy. A try that depends
    on a failed one is left out. With ``only``, only what that part of a node needs on this host is
    tried. True if all work.
    """
    config = load_config(config_path)
    receives, computes = only in {None, "receiver"}, only in {None, "worker"}
    tries: list[tuple[bool, str, str, Callable[[], str]]] = [
        (only != "scheduler", "bundle", "", lambda: _bundle(config)),
        (computes, "model", "bundle", lambda: _model(config)),
        (receives and config.model.shadow is not None, "shadow", "", lambda: _shadow(config)),
        (True, "data folder", "", lambda: _data(config)),
        (receives, "disk space", "data folder", lambda: _space(config)),
        (receives, "journal", "", lambda: _journal(config)),
        (receives, "watched folder", "", lambda: _watched(config)),
        (receives, "TLS with DICOM peers", "", lambda: _tls(config)),
        (receives and config.board is not None, "board", "", lambda: _board(config)),
        (True, "engine", "bundle", lambda: _engine(config, config_path, only)),
        (True, "ports", "data folder", lambda: _ports(config, only)),
        *(
            (receives, f"destination {each.name}", "", partial(_destination, each, config))
            for each in config.destination
        ),
    ]
    results = _results([each[1:] for each in tries if each[0]])
    _print(results, config, config_path)
    return all(each.word == OK for each in results)


def _results(tries: Sequence[tuple[str, str, Callable[[], str]]]) -> list[TryResult]:
    """Make every try; a person at a terminal sees which one runs."""
    results: dict[str, TryResult] = {}
    waiting = Console(stderr=True)
    with waiting.status("") as status:
        for name, needs, action in tries:
            status.update(escape(f"trying {name}"))
            if needs in results and results[needs].word != OK:
                why = f"not tried; mend {needs} first"
                results[name] = TryResult(name, NOT_TRIED, why)
            else:
                results[name] = _try(name, action)
    return list(results.values())


def _try(name: str, action: Callable[[], str]) -> TryResult:
    try:
        text, word = action(), OK
    except (LimnError, OSError, JournalError) as error:
        text, word = str(error), FAILED
    # On one line: a program may read it.
    return TryResult(name, word, " ".join(text.split()))


def _print(results: Sequence[TryResult], config: Config, config_path: Path) -> None:
    """The verdict, the config, a line for each try, and the names of what is not ready."""
    console = Console(emoji=False, highlight=False, soft_wrap=True)
    failed = [each.name for each in results if each.word != OK]
    faults = sum(each.word == FAILED for each in results)
    ready, style = "ready", "bold green"
    if failed:
        ready = f"not ready: {faults} fault{'' if faults == 1 else 's'}"
        style = "bold red"
    console.print(ready, style=style)
    console.print(f"[bold]config {config_path}[/]")
    console.print_json(config.model_dump_json())
    for each in results:
        # Brackets in a message are text.
        console.print(STYLED[each.word], escape(f"{each.name}: {each.text}"))
    console.print(f"not ready: {', '.join(failed)}" if failed else ready, style=style)


def _bundle(config: Config) -> str:
    bundle = deliverable_bundle(config)
    promoted = promotion_in_force(config.data_dir)
    source = ""
    if promoted is not None and promoted.sha256 == bundle.sha256:
        source = f"promoted by {promoted.by}: {promoted.why}; "
    return f"{bundle.label}, every file matches its sha256; {source}{bundle.not_for}"


def _shadow(config: Config) -> str:
    bundle = verified(config.model.shadow or config.model.bundle)
    if bundle.sha256 == verified(config.model.bundle).sha256:
        return f"{bundle.label} delivers itself: there is nothing to compare; take model.shadow out"
    return f"{bundle.label}, every file matches its sha256; it draws delivered scans too"


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
    check_not_newer(config.journal_path)
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
    images = f", images too: {', '.join(config.watch.formats)}" if config.watch.formats else ""
    return f"{config.watch.folder} can be read{images}"


def _tls(config: Config) -> str:
    check_keys(config)
    own = config.receive.tls
    given = [*([own] if own is not None else []), *peers_tls(config)]
    ends = [expiry(path) for tls in given for path in (tls.certificate, tls.ca)]
    if not ends:
        return "none: no tls table is set"
    return f"certificates are valid until {min(ends):%Y-%m-%d}"


def _board(config: Config) -> str:
    text = check_board(config)
    if config.board is None or config.board.tls is None:
        return text
    return f"{text}; certificate valid until {expiry(config.board.tls.certificate):%Y-%m-%d}"


def _engine(config: Config, config_path: Path, only: Part | None) -> str:
    processes(config, config_path, only)
    text = f"scheduler {config.engine.address}"
    if only in {None, "worker"}:
        count = config.engine.workers
        text = f"{text}, {count} worker{'s' * (count != 1)} on this host"
    if config.engine.tls_dir is None:
        return f"{text}, new certificates at every start"
    text = f"{text}, certificates {check_given(config.engine.tls_dir)}"
    for name in (CA, CERT):
        expiry(config.engine.tls_dir / name)
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
        return f"{check_ports(config, only)} are free"


def _destination(destination: DicomDestination | FolderDestination, config: Config) -> str:
    return try_destination(destination, config.receive.ae_title, config.data_dir)
