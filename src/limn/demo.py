"""One phantom mouse through the whole node, for a new user's first minute.

Starts ``limn serve`` and a stand-in planning system as a site would have them, sends a
phantom series by C-STORE, waits for the structure set, and compares it with the phantom's truth.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from pydicom.uid import RTStructureSetStorage
from pynetdicom import AE, evt
from pynetdicom.transport import ThreadedAssociationServer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from limn.dicom import rtstruct
from limn.dicom.series import Series, assemble
from limn.dicom.volume import read_headers
from limn.domain.errors import ConfigWrong, StageFailed
from limn.domain.files import write_durably
from limn.domain.folders import writable
from limn.domain.scan import TG263_ROLES, Organ, dice
from limn.domain.shipped import EMBEDDED_BUNDLE
from limn.domain.timing import DOOR_TO_DOOR_STAGES
from limn.lab.phantoms.synthesize import PhantomFiles, PhantomRequest, synthesize
from limn.node.config import Config, load_config
from limn.node.contour.site_bundle import style_of
from limn.node.operate.send import send_folder
from limn.node.store.disk import scanlog
from limn.segment.bundle.bundle import open_bundle
from limn.segment.draw.rasterise import rasterise

# The embedded bundle was not trained on these phantoms; it must reach this on them.
MIN_DSC = 0.85
READY_S = 120.0
_Result = TypeVar("_Result")
CONTOURED_S = 300.0

CONFIG = """\
data_dir = "node"

[receive]
port = {receive}

[model]
bundle = "{bundle}"
allow_demo_bundle = true

[engine]
port = {engine}
wake_port = {wake}

[[destination]]
kind = "dicom"
name = "stand-in planning system"
ae_title = "STANDIN"
host = "127.0.0.1"
port = {standin}

[board]
port = {board}
"""


def demo(out: Path, seed: int, *, board: bool = False) -> bool:
    """Run the demonstration; true when the contours arrived and match the truth.

    Parameters
    ----------
    board : leave the node and its board running afterwards, until Ctrl-C

    Raises
    ------
    ConfigWrong
        If the folder can't be written, or holds something other than a demonstration.
    """
    console = Console(emoji=False, highlight=False)
    out = writable(out.resolve())
    received = out / "planning-system"
    if any(out.iterdir()) and not received.exists():
        msg = f"{out} holds something other than a demonstration; give another folder"
        raise ConfigWrong(msg)
    shutil.rmtree(out, ignore_errors=True)
    writable(received)
    receive, engine, wake, stand_in, board_port = _free_ports(5)
    config_path = out / "node.toml"
    text = CONFIG.format(
        receive=receive,
        engine=engine,
        wake=wake,
        standin=stand_in,
        board=board_port,
        bundle=EMBEDDED_BUNDLE,
    )
    write_durably(config_path, text.encode())
    config = load_config(config_path)
    steps = _Steps(console)
    standin = _stand_in(stand_in, received)
    node = subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", "limn.cli", "serve", "--config", str(config_path)],
        stderr=(out / "node.log").open("x", encoding="utf-8"),
        start_new_session=True,
    )
    try:
        phantom = steps.run(
            f"making phantom mouse {seed}",
            lambda: synthesize(out / "phantom", PhantomRequest(seed, 0.2, (30.0, 26.0, 30.0))),
        )
        steps.run(
            "starting the node, warming five folds",
            lambda: _wait(config.ready_path.exists, READY_S, node, out),
        )
        send_folder(phantom.series_dir, f"127.0.0.1:{receive}", called="LIMN", calling="SCANNER")
        steps.run(
            "contouring and delivering",
            lambda: _wait(lambda: bool(scanlog.rows(config.scan_log_path)), CONTOURED_S, node, out),
        )
        good = _report(console, config, phantom, received)
        _show_board(console, f"http://localhost:{board_port}", config_path, node if board else None)
        return good
    finally:
        node.terminate()
        node.wait()
        standin()


def _show_board(
    console: Console, address: str, config_path: Path, node: subprocess.Popen[bytes] | None
) -> None:
    """Say where the scan is seen in a browser, and wait there if the node is to go on."""
    if node is None:
        console.print("[bold]The node has ended.[/] To see the scan in a browser, start it again:")
        console.print(f"    limn serve --config {config_path}", soft_wrap=True)
        console.print(f"and open {address}; Ctrl-C ends it.", soft_wrap=True)
        return
    console.print(f"The node runs: open {address} in a browser; Ctrl-C ends it.", soft_wrap=True)
    with suppress(KeyboardInterrupt):
        node.wait()


class _Steps:
    """Shows a spinner and the elapsed time for each step."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def run(self, title: str, action: Callable[[], _Result]) -> _Result:
        """Run the action under a spinner; return its result."""
        with Progress(
            SpinnerColumn(), TextColumn(title), TimeElapsedColumn(), console=self._console
        ) as bars:
            bars.add_task(title, total=None)
            return action()


def _wait(
    reached: Callable[[], bool], limit_s: float, node: subprocess.Popen[bytes], out: Path
) -> None:
    deadline = time.monotonic() + limit_s
    while not reached():
        if node.poll() is not None or time.monotonic() > deadline:
            log = out / "node.log"
            tail = "\n".join(log.read_text(encoding="utf-8").splitlines()[-15:])
            msg = f"the node stopped or took longer than {limit_s:.0f} s; {log} ends with\n{tail}"
            raise StageFailed(msg)
        time.sleep(0.1)


def _stand_in(port: int, folder: Path) -> Callable[[], None]:
    """Start a Storage SCP that accepts structure sets; return a function that stops it."""

    def store(event: evt.Event) -> int:
        uid = str(event.file_meta.MediaStorageSOPInstanceUID)
        write_durably(folder / f"RS.{uid}.dcm", event.encoded_dataset())
        return 0x0000

    ae = AE(ae_title="STANDIN")
    ae.add_supported_context(RTStructureSetStorage)
    server: ThreadedAssociationServer | None = ae.start_server(
        ("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, store)]
    )
    assert server is not None  # noqa: S101 - block=False always gives one
    return server.shutdown


def _report(console: Console, config: Config, phantom: PhantomFiles, received: Path) -> bool:
    (row,) = scanlog.rows(config.scan_log_path)
    if row["outcome"] != "delivered":
        console.print(f"[red]{row['outcome']}[/]: {row['reason']}")
        return False
    (path,) = received.glob("*.dcm")
    scores = _scores(path, phantom, config)
    console.print(_stages(row))
    console.print(_organs(row, scores))
    picture = config.results_dir / row["scan_id"] / "picture.png"
    # A path that is broken in two can't be copied.
    console.print(f"structure set  {path}", soft_wrap=True)
    console.print(f"picture        {picture}", soft_wrap=True)
    good = all(score >= MIN_DSC for score in scores.values())
    console.print(
        f"[green]accepted by the planning system; every organ matches the truth "
        f"(DSC >= {MIN_DSC})[/]"
        if good
        else f"[red]an organ is below DSC {MIN_DSC}[/]"
    )
    return good


def _scores(path: Path, phantom: PhantomFiles, config: Config) -> dict[Organ, float]:
    """DSC of the received structure set against the phantom's truth."""
    series: Series = assemble(read_headers(sorted(phantom.series_dir.glob("*.dcm"))))
    style = style_of(config.planning_system, open_bundle(config.model.bundle))
    contours = rtstruct.contours_of(rtstruct.read(path.read_bytes()), series, style)
    return {
        organ: dice(rasterise(contours, series.grid, organ), phantom.truth.mask(organ))
        for organ in phantom.truth.organs.values()
    }


def _stages(row: dict[str, str]) -> Table:
    table = Table(title=f"{row['scan_id']}: last slice in to structure set accepted")
    table.add_column("stage")
    table.add_column("s", justify="right")
    for stage in DOOR_TO_DOOR_STAGES:
        table.add_row(stage, f"{float(row[stage]):.3f}")
    table.add_section()
    table.add_row("[bold]door_to_door_s[/]", f"[bold]{float(row['door_to_door_s']):.3f}[/]")
    table.add_row("receive_s (before)", f"{float(row['receive_s']):.3f}")
    table.add_row("runtime_s (as the paper)", f"{float(row['runtime_s']):.3f}")
    return table


def _organs(row: dict[str, str], scores: dict[Organ, float]) -> Table:
    columns = {organ: role.value for role, organ in TG263_ROLES.items()}
    table = Table()
    for name in ("organ", "mm3", "voxels removed", "DSC to truth"):
        table.add_column(name, justify="left" if name == "organ" else "right")
    for organ, score in scores.items():
        column = columns[organ]
        table.add_row(
            organ,
            f"{float(row[f'{column}_mm3']):.1f}",
            row[f"{column}_removed_voxels"],
            f"{score:.3f}",
        )
    return table


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [int(sock.getsockname()[1]) for sock in sockets]
    finally:
        for sock in sockets:
            sock.close()
