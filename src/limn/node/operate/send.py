"""Sends a folder of DICOM to a peer by C-STORE, with a progress bar."""

from __future__ import annotations

from pathlib import Path

from pydicom.errors import InvalidDicomError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from limn.dicom.bounded import DAMAGES, read
from limn.domain.errors import ConfigWrong, PeerUnreachable
from limn.domain.folders import files_below
from limn.domain.one_line import one_line
from limn.node.deliver.destinations import Outcome, judge
from limn.node.dimse.client import Peer, store


def send_folder(folder: Path, to: str, *, called: str, calling: str) -> None:
    """Send every DICOM file below a folder over one association.

    Raises
    ------
    ConfigWrong
        If the address is no HOST:PORT or the folder has no DICOM file.
    PeerUnreachable
        If the peer does not answer, or refused a file.
    """
    host, _, port = to.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        msg = f"--to {to}: HOST:PORT expected, e.g. 127.0.0.1:11112"
        raise ConfigWrong(msg)
    console = Console(emoji=False)
    datasets = []
    for path in files_below(folder):
        try:
            # Files without preamble or file meta are read too.
            ds = read(path)
            # A DICOMDIR, for example, is no instance.
            _ = ds.SOPClassUID, ds.SOPInstanceUID, ds.file_meta.TransferSyntaxUID
            datasets.append(ds)
        except (InvalidDicomError, *DAMAGES) as error:
            left_out = one_line(f"left out {path}: {error}")
            console.print(left_out, highlight=False, markup=False)
    if not datasets:
        msg = f"{folder} has no DICOM file"
        raise ConfigWrong(msg)
    peer = Peer(called, host, int(port), calling)
    refused: dict[int, int] = {}
    with Progress(
        TextColumn("sending"), BarColumn(), MofNCompleteColumn(), console=console
    ) as bars:
        bar = bars.add_task("sending", total=len(datasets))
        for status in store(peer, datasets):
            bars.advance(bar)
            if judge(status) is not Outcome.DELIVERED:
                refused[status] = refused.get(status, 0) + 1
    if refused:
        counted = ", ".join(f"{count} x 0x{status:04X}" for status, count in refused.items())
        msg = f"{peer} refused {sum(refused.values())} of {len(datasets)} files: {counted}"
        raise PeerUnreachable(msg)
    console.print(f"{len(datasets)} files sent to {peer}")
