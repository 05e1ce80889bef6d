"""Writes a phantom cohort as NIfTI files with a manifest, on every core; resumable.

The manifest is ``cohort.csv`` once every scan is written, ``cohort.part.csv`` until then. A scan's
folder gets its name after its last file is written: a folder with that name is whole, and a run
that was killed resumes where it stopped.
"""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from limn import __version__
from limn.domain.errors import ConfigWrong, StageFailed
from limn.domain.files import new_folder, write_durably
from limn.domain.folders import writable
from limn.domain.timing import in_words
from limn.formats.label_files import image_of, write_image
from limn.lab.process.folder_lock import folder_lock
from limn.lab.process.isolated import cores
from limn.lab.process.pool import in_processes
from limn.phantom.cohort import Cohort, Visit, image, scanner_of
from limn.phantom.observers import observe

MANIFEST = "cohort.csv"
UNFINISHED = "cohort.part.csv"
SCANS = "scans"
FILES = ("ct", "truth", "observer1", "observer2", "observer3")
COLUMNS = (
    "scan",
    "animal",
    "time_point",
    "contrast",
    "split",
    "seed",
    *FILES,
    "spacing_mm",
    "voxels_zyx",
    "centre_xyz_mm",
    "wide",
    "limn",
)


def manifest(cohort: Cohort) -> tuple[dict[str, str], ...]:
    """One row per scan; every value as it stands in the file."""
    return tuple(_row(cohort, visit) for visit in cohort.visits)


def write_cohort(
    folder: Path,
    cohort: Cohort,
    *,
    workers: int | None = None,
    report: Callable[[str, int, int], None] = lambda *_: None,
) -> int:
    """Write every scan that the folder lacks; return how many.

    Parameters
    ----------
    workers : number of processes; by default one per core that this process may use
    report : called with the name of a finished scan, the number of finished scans, and their total

    Raises
    ------
    ConfigWrong
        If the folder holds another cohort, is in use by another run, or can't be written.
    StageFailed
        If a scan could not be written.
    """
    with folder_lock(folder, "run is writing there"):
        writable(folder / SCANS)
        _begin(folder, cohort)
        missing = [visit for visit in cohort.visits if not _scan_folder(folder, visit).exists()]
        total = len(cohort.visits)
        done = total - len(missing)
        for name in _write_scans(folder, cohort, missing, workers or cores()):
            done += 1
            report(name, done, total)
        if missing or not (folder / MANIFEST).exists():
            (folder / UNFINISHED).replace(folder / MANIFEST)
    return len(missing)


def show_cohort(folder: Path, cohort: Cohort, workers: int | None) -> None:
    """`write_cohort` with a progress bar on a terminal, else one line per scan."""
    console = Console(emoji=False, highlight=False, soft_wrap=True)
    started = time.monotonic()
    resumed_at: list[int] = []
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bars:
        task = bars.add_task("phantoms", total=len(cohort.visits))

        def report(name: str, done: int, total: int) -> None:
            if not resumed_at:
                resumed_at.append(done - 1)
            if console.is_terminal:
                bars.update(task, description=name, completed=done)
                return
            left_s = (time.monotonic() - started) / (done - resumed_at[0]) * (total - done)
            console.print(f"{name}  {done}/{total}, {in_words(left_s)} left")

        written = write_cohort(folder, cohort, workers=workers, report=report)
    kept, animals = len(cohort.visits) - written, len(cohort.all_animals)
    console.print(
        f"{written} scans made" + (f", {kept} were there" if kept else "") + f" in "
        f"{in_words(time.monotonic() - started)}; {escape(str(folder / MANIFEST))} names "
        f"{len(cohort.visits)} scans of {animals} animal{'s' * (animals != 1)}"
    )


def _row(cohort: Cohort, visit: Visit) -> dict[str, str]:
    scanner = scanner_of(cohort, visit)
    animal = visit.animal
    values = (
        visit.name,
        animal.name,
        str(visit.time_point),
        "yes" if animal.contrast else "no",
        animal.split.value,
        str(animal.seed),
        *(f"{SCANS}/{visit.name}/{name}.nii.gz" for name in FILES),
        f"{cohort.spacing_mm:g}",
        " ".join(str(n) for n in scanner.shape_zyx),
        " ".join(f"{mm:.3f}" for mm in scanner.centre_xyz_mm),
        "yes" if cohort.wide else "no",
        # A seed gives the same mouse only in the same version.
        __version__,
    )
    return dict(zip(COLUMNS, values, strict=True))


def _scan_folder(folder: Path, visit: Visit) -> Path:
    return folder / SCANS / visit.name


def _begin(folder: Path, cohort: Cohort) -> None:
    """Write the unfinished manifest; refuse a folder that holds something else."""
    rows = manifest(cohort)
    for name in (MANIFEST, UNFINISHED):
        path = folder / name
        if path.exists():
            _refuse_other(path, rows)
            return
    if stray := next((folder / SCANS).iterdir(), None):
        msg = f"{stray} belongs to no manifest; give another folder"
        raise ConfigWrong(msg)
    lines = io.StringIO()
    table = csv.DictWriter(lines, COLUMNS, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_durably(folder / UNFINISHED, lines.getvalue().encode())


def _refuse_other(path: Path, rows: Sequence[dict[str, str]]) -> None:
    with path.open(newline="", encoding="utf-8") as file:
        present = list(csv.DictReader(file))
    for old, new in zip(present, rows, strict=False):
        for column in COLUMNS:
            if old.get(column) != new[column]:
                msg = (
                    f"{path} is of another cohort: {column} of {old.get('scan')} is "
                    f"{old.get(column)}, not {new[column]}; give another folder"
                )
                raise ConfigWrong(msg)
    if len(present) != len(rows):
        msg = f"{path} is of another cohort: {len(present)} scans, not {len(rows)}"
        raise ConfigWrong(msg)


def _write_scans(
    folder: Path, cohort: Cohort, visits: Sequence[Visit], workers: int
) -> Iterator[str]:
    """Write scans; yield the name of each one that is whole."""
    if min(workers, len(visits)) <= 1:
        for visit in visits:
            yield _write_scan(folder, cohort, visit)
        return
    yield from in_processes(partial(_write_scan, folder, cohort), visits, workers, "makes phantoms")


def _write_scan(folder: Path, cohort: Cohort, visit: Visit) -> str:
    """Write one scan, its truth and its three observers; return its name."""
    volume, truth = image(cohort, visit)
    observed = observe(volume, truth, visit.seed)
    span = np.iinfo(np.int16)
    arrays: dict[str, npt.NDArray[Any]] = {
        "ct": np.clip(volume.hu_zyx, span.min, span.max).astype(np.int16),
        "truth": truth.labels_zyx,
        "observer1": observed.observer1,
        "observer2": observed.observer2,
        "observer3": observed.observer3,
    }
    target = _scan_folder(folder, visit)
    try:
        with new_folder(target) as part:
            for name in FILES:
                image_file = part / f"{name}.nii.gz"
                write_image(image_file, image_of(arrays[name], truth.grid))
    # SimpleITK has no error class of its own: a full disk is a RuntimeError.
    except (OSError, RuntimeError) as error:
        msg = f"{target} can't be written: {error}"
        raise StageFailed(msg) from error
    return visit.name
