"""One folder of DICOM files as the instances of its one CT series."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from limn.dicom.instance import ReceivedInstance, Unreadable, inspect
from limn.dicom.series import Instance
from limn.dicom.volume import read_headers
from limn.domain.errors import RefusedSeries


def one_series(folder: Path, console: Console) -> list[Instance]:
    """The headers of the one CT series in a folder; what is left out is said.

    Raises
    ------
    RefusedSeries
        If the folder holds no series, or several.
    """
    found: dict[str, list[Path]] = {}
    seen: dict[str, ReceivedInstance] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            instance = inspect(path.read_bytes())
        except Unreadable as error:
            console.print(f"[yellow]left out[/] {path}: {error}", highlight=False)
            continue
        first = seen.setdefault(instance.sop_instance_uid, instance)
        if first.digest != instance.digest:
            msg = (
                f"SOPInstanceUID {instance.sop_instance_uid} stands in two files with "
                f"different content, one of them {path}"
            )
            raise RefusedSeries(msg)
        if first is instance:
            found.setdefault(instance.series_instance_uid, []).append(path)
    if not found:
        msg = f"{folder} holds no CT image"
        raise RefusedSeries(msg)
    if len(found) > 1:
        listed = "; ".join(f"{uid} ({len(paths)} files)" for uid, paths in found.items())
        msg = f"{folder} holds {len(found)} series, one expected: {listed}"
        raise RefusedSeries(msg)
    return read_headers(next(iter(found.values())))
