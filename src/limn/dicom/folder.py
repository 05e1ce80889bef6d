"""One folder of DICOM files as the instances of its one CT series."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markup import escape

from limn.dicom.instance import ReceivedInstance, Unreadable, inspect
from limn.dicom.series import Instance
from limn.dicom.volume import read_headers
from limn.domain.errors import RefusedSeries
from limn.domain.folders import files_below
from limn.domain.one_line import one_line


def one_series(folder: Path, console: Console) -> list[Instance]:
    """The headers of the one CT series in a folder; the console names each file left out.

    Raises
    ------
    RefusedSeries
        If the folder holds no series, or several, or one instance with two contents.
    """
    found: dict[str, list[Path]] = {}
    digests: dict[str, str] = {}
    for path in files_below(folder):
        try:
            instance = inspect(path.read_bytes())
        except (OSError, Unreadable) as error:
            left_out = escape(one_line(f"{path}: {error}"))
            console.print(f"[yellow]left out[/] {left_out}", highlight=False)
            continue
        if is_new(instance, path, digests):
            found.setdefault(instance.series_instance_uid, []).append(path)
    if not found:
        msg = f"{folder} holds no CT image"
        raise RefusedSeries(msg)
    if len(found) > 1:
        listed = "; ".join(f"{uid} ({len(paths)} files)" for uid, paths in found.items())
        msg = f"{folder} holds {len(found)} series, one expected: {listed}"
        raise RefusedSeries(msg)
    return read_headers(next(iter(found.values())))


def is_new(instance: ReceivedInstance, path: Path, digests: dict[str, str]) -> bool:
    """Whether no earlier file holds this instance; ``digests`` by SOPInstanceUID is kept up.

    Raises
    ------
    RefusedSeries
        If an earlier file holds it with different content.
    """
    uid = instance.sop_instance_uid
    if uid not in digests:
        digests[uid] = instance.digest
        return True
    if digests[uid] != instance.digest:
        msg = f"SOPInstanceUID {uid} stands in two files with different content, one of them "
        msg += one_line(path)
        raise RefusedSeries(msg)
    return False
