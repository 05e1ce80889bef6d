"""The CT series below some folders, and the scan that each of them is."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydicom.errors import InvalidDicomError
from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn

from limn.dicom.bounded import DAMAGES, read
from limn.dicom.folder import by_reason, is_new
from limn.dicom.instance import ReceivedInstance, Unreadable, input_digest, inspect
from limn.dicom.series import CT_CLASSES
from limn.domain.errors import RefusedSeries
from limn.domain.folders import files_below
from limn.domain.one_line import name_from, one_line
from limn.node.store.journal.rows import Arrived
from limn.node.store.journal.schema import COHORT


@dataclass(frozen=True, slots=True)
class FoundSeries:
    """The files of one series, wherever they lie, and its folder below the output folder."""

    series_instance_uid: str
    paths: tuple[Path, ...]
    name: str

    @property
    def fingerprint(self) -> str:
        """Changes when a file is added, removed or written; reads no file."""
        lines = []
        for path in self.paths:
            try:
                found = path.stat()
            except OSError:
                continue
            lines.append(f"{path} {found.st_size} {found.st_mtime_ns}")
        return hashlib.sha256("\n".join(lines).encode(errors="backslashreplace")).hexdigest()


def find_series(folders: Sequence[Path], out: Path, console: Console) -> list[FoundSeries]:
    """Find every CT series below some folders, sorted by name; files below ``out`` don't count."""
    files: dict[str, list[Path]] = {}
    roots: dict[str, Path] = {}
    with Progress(TextColumn("{task.description}"), TimeElapsedColumn(), console=console) as bars:
        bar = bars.add_task("looking for series", total=None)
        for count, (root, path) in enumerate(_files(folders, out.resolve()), 1):
            if count % 100 == 0:
                bars.update(bar, description=f"looking for series: {count} files")
            uid = _series_of(path)
            if uid:
                files.setdefault(uid, []).append(path)
                roots.setdefault(uid, root)
    several = len(folders) > 1
    names = {uid: _name(paths, roots[uid], several=several) for uid, paths in files.items()}
    taken = list(names.values())
    series = [
        FoundSeries(uid, tuple(sorted(paths)), _distinct_name(names[uid], uid, taken))
        for uid, paths in files.items()
    ]
    return sorted(series, key=lambda each: each.name)


def holds_only_folders(folder: Path) -> bool:
    """Whether a folder holds folders and no file."""
    with os.scandir(folder) as entries:
        kinds = [entry.is_dir() for entry in entries if not entry.name.startswith(".")]
    return bool(kinds) and all(kinds)


def _files(folders: Sequence[Path], out: Path) -> Iterator[tuple[Path, Path]]:
    seen: set[Path] = set()
    for folder in folders:
        root = folder.resolve()
        for path in files_below(root):
            if path not in seen and out not in path.parents:
                seen.add(path)
                yield root, path


def _series_of(path: Path) -> str:
    """SeriesInstanceUID of a CT image; empty for anything else."""
    try:
        ds = read(path, stop_before_pixels=True)
        is_ct = ds.get("SOPClassUID") in CT_CLASSES
        return str(ds.get("SeriesInstanceUID", "")) if is_ct else ""
    except (InvalidDicomError, OSError, *DAMAGES):
        return ""


def _name(paths: Sequence[Path], root: Path, *, several: bool) -> str:
    """The folder of a series, relative to the folder in which it was found first."""
    folder = Path(os.path.commonpath([p.parent for p in paths if p.is_relative_to(root)]))
    below = folder.relative_to(root)
    name = Path(root.name) / below if several or below == Path() else below
    return "/".join(map(name_from, name.parts)) or "."


def _distinct_name(name: str, uid: str, taken: Sequence[str]) -> str:
    if taken.count(name) == 1:
        return name
    return f"{name}-{hashlib.sha256(uid.encode()).hexdigest()[:8]}"


@dataclass(frozen=True, slots=True)
class ReadSeries:
    """A series whose every byte was read. ``instances`` maps a path to what it holds."""

    series_instance_uid: str
    instances: dict[Path, ReceivedInstance]
    left_out: tuple[str, ...]

    def arrived(self, profile: str, bundle_sha256: str) -> Arrived:
        """The series as a scan of a cohort, with a planning-system profile of its own.

        The node then takes the same series from a sender as another scan.
        """
        first = next(iter(self.instances.values()))
        folder = _in_utf8(Path(os.path.commonpath([path.parent for path in self.instances])))
        now = datetime.now(UTC).astimezone()
        return Arrived(
            series_instance_uid=self.series_instance_uid,
            input_digest=input_digest(self.instances.values()),
            bundle_sha256=bundle_sha256,
            profile=f"{profile} cohort",
            study_instance_uid=first.study_instance_uid,
            animal=first.animal,
            sender=f"folder {one_line(folder)}",
            folder=str(folder),
            files=tuple(path.relative_to(folder).as_posix() for path in self.instances),
            receive_s=0.0,
            settle_s=0.0,
            last_slice_at=time.time(),
            ready_at=time.time(),
            date=now.strftime("%Y%m%d"),
            time=now.strftime("%H%M%S"),
            priority=COHORT,
        )


def _in_utf8(folder: Path) -> Path:
    """The folder, or the nearest one above it whose name a database takes as text."""
    for each in (folder, *folder.parents):
        try:
            str(each).encode()
        except UnicodeEncodeError:
            continue
        return each
    return folder


def read_series(series: FoundSeries) -> ReadSeries:
    """Read every file of a series.

    Raises
    ------
    RefusedSeries
        If two files hold the same instance with different content, or none can be read.
    """
    digests: dict[str, str] = {}
    instances: dict[Path, ReceivedInstance] = {}
    left_out: list[tuple[Path, str]] = []
    for path in series.paths:
        try:
            instance = inspect(path.read_bytes())
        except (OSError, Unreadable) as error:
            left_out.append((path, str(error)))
            continue
        if is_new(instance, path, digests):
            instances[path] = instance
    reasons = tuple(by_reason(left_out))
    if not instances:
        raise RefusedSeries(reasons[0])
    return ReadSeries(series.series_instance_uid, instances, reasons)
