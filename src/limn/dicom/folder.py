"""One folder of DICOM files as the instances of its one CT series."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from limn.dicom.instance import ReceivedInstance, Unreadable, inspect
from limn.dicom.series import Instance
from limn.dicom.volume import read_headers
from limn.domain.errors import RefusedSeries
from limn.domain.folders import files_below
from limn.domain.one_line import one_line

# Of more series than this the first few are listed, and the rest counted.
LISTED = 4


def one_series(folder: Path, console: Console) -> list[Instance]:
    """The headers of the one CT series in a folder; the console names each file left out.

    Raises
    ------
    RefusedSeries
        If the folder holds no series, or several, or one instance with two contents.
    """
    found: dict[str, list[Path]] = {}
    digests: dict[str, str] = {}
    left_out: list[tuple[Path, str]] = []
    for path in files_below(folder):
        try:
            instance = inspect(path.read_bytes())
        except (OSError, Unreadable) as error:
            left_out.append((path, str(error)))
            continue
        if is_new(instance, path, digests):
            found.setdefault(instance.series_instance_uid, []).append(path)
    reasons = by_reason(left_out)
    for reason in reasons:
        console.print(f"left out {reason}", style="yellow", highlight=False, markup=False)
    if not found:
        msg = f"{folder} holds no CT image"
        if len(reasons) == 1:
            msg = f"{msg}; left out {reasons[0]}"
        raise RefusedSeries(msg)
    if len(found) > 1:
        raise RefusedSeries(_several(folder, found))
    return read_headers(next(iter(found.values())))


def by_reason(left_out: Sequence[tuple[object, str]]) -> list[str]:
    """A line for each reason: one file by its path, several by their count and the first path."""
    return [
        one_line(f"{f'{count} files, first ' if count > 1 else ''}{path}: {reason}")
        for count, path, reason in counted(left_out)
    ]


def counted(left_out: Sequence[tuple[object, str]]) -> list[tuple[int, object, str]]:
    """How many files have each reason, the first of them, and its reason."""
    kinds: dict[str, list[tuple[object, str]]] = {}
    for path, reason in left_out:
        # Sizes and UIDs differ from file to file.
        kinds.setdefault(re.sub(r"[0-9][0-9.]*", "#", reason), []).append((path, reason))
    return [(len(kind), *kind[0]) for kind in kinds.values()]


def _several(folder: Path, found: dict[str, list[Path]]) -> str:
    if all(len(paths) == 1 for paths in found.values()):
        sizes, shown = " of one file each", list(found)
        hint = "; if they are slices of one scan, export it again under one SeriesInstanceUID"
    else:
        sizes, shown = "", [f"{uid} ({len(paths)} files)" for uid, paths in found.items()]
        hint = ""
    listed = "; ".join(shown if len(shown) <= LISTED else [*shown[: LISTED - 1], "..."])
    return f"{folder} holds {len(found)} series{sizes}, one expected: {listed}{hint}"


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
