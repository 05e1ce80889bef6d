"""Every CT series below some folders, each file read once."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom.errors import InvalidDicomError
from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn

from limn.dicom.bounded import DAMAGES, read
from limn.dicom.instance import ReceivedInstance, Unreadable, inspect
from limn.dicom.series import CT_CLASSES
from limn.domain.errors import RefusedSeries


@dataclass(frozen=True, slots=True)
class FoundSeries:
    """The files of one series, wherever they lie, and its folder below the output folder."""

    series_instance_uid: str
    paths: tuple[Path, ...]
    name: str

    @property
    def fingerprint(self) -> str:
        """Changes when a file is added, taken away or written; costs no reading."""
        lines = []
        for path in self.paths:
            try:
                found = path.stat()
            except OSError:
                continue
            lines.append(f"{path} {found.st_size} {found.st_mtime_ns}")
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def find_series(folders: Sequence[Path], out: Path, console: Console) -> list[FoundSeries]:
    """Every CT series below some folders, in the order of their names; ``out`` is passed over."""
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
        for path in sorted(root.rglob("*")):
            if path not in seen and out not in path.parents and path.is_file():
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
    """The series' own folder, told from where it was found first."""
    folder = Path(os.path.commonpath([p.parent for p in paths if p.is_relative_to(root)]))
    below = folder.relative_to(root)
    name = Path(root.name) / below if several or below == Path() else below
    return name.as_posix()


def _distinct_name(name: str, uid: str, taken: Sequence[str]) -> str:
    if taken.count(name) == 1:
        return name
    return f"{name}-{hashlib.sha256(uid.encode()).hexdigest()[:8]}"


@dataclass(frozen=True, slots=True)
class ReadSeries:
    """A series whose every byte was read. ``instances`` maps a path to what it holds."""

    instances: dict[Path, ReceivedInstance]
    left_out: tuple[str, ...]


def read_series(series: FoundSeries) -> ReadSeries:
    """Read every file of a series.

    Raises
    ------
    RefusedSeries
        If two files hold the same instance with different content, or none can be read.
    """
    seen: dict[str, str] = {}
    instances: dict[Path, ReceivedInstance] = {}
    left_out = []
    for path in series.paths:
        try:
            instance = inspect(path.read_bytes())
        except (OSError, Unreadable) as error:
            left_out.append(f"{path}: {error}")
            continue
        if instance.sop_instance_uid not in seen:
            instances[path] = instance
        known = seen.setdefault(instance.sop_instance_uid, instance.digest)
        if known != instance.digest:
            msg = (
                f"SOPInstanceUID {instance.sop_instance_uid} stands in two files with different "
                f"content, one of them {path}"
            )
            raise RefusedSeries(msg)
    if not instances:
        raise RefusedSeries(left_out[0])
    return ReadSeries(instances, tuple(left_out))
