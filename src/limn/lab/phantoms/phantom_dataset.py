"""A phantom cohort on disk: a data set of NIfTI files with a manifest, made on every core.

``cohort.csv`` stands in the folder when everything is made, ``cohort.part.csv`` until then. Each
scan is a folder of its own that gets its name when its last file is written, so that what bears
the name is whole, and a run that was killed goes on where it stopped.
"""

from __future__ import annotations

import csv
import io
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK
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
from limn.domain.folders import writable
from limn.domain.timing import in_words
from limn.lab.nifti import to_image
from limn.lab.process.folder_lock import sole
from limn.lab.process.isolated import cores, end_with_parent
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
    """One row a scan; every value as it stands in the file."""
    return tuple(_row(cohort, visit) for visit in cohort.visits)


def write_cohort(
    folder: Path,
    cohort: Cohort,
    *,
    workers: int | None = None,
    report: Callable[[str, int, int], None] = lambda *_: None,
) -> int:
    """Write every scan that the folder does not have yet; how many that were.

    Parameters
    ----------
    workers : processes; by default one for every core that this one may use
    report : called with a finished scan's name, how many are finished, and how many there are

    Raises
    ------
    ConfigWrong
        For a folder that holds another cohort, belongs to a run that is not over, or can't be
        written to.
    StageFailed
        For a scan that could not be made.
    """
    with sole(folder, "run is writing there"):
        writable(folder / SCANS)
        _begin(folder, cohort)
        missing = [visit for visit in cohort.visits if not _place(folder, visit).exists()]
        total = len(cohort.visits)
        done = total - len(missing)
        for name in _made(folder, cohort, missing, workers or cores()):
            done += 1
            report(name, done, total)
        if missing or not (folder / MANIFEST).exists():
            (folder / UNFINISHED).replace(folder / MANIFEST)
    return len(missing)


def show_cohort(folder: Path, cohort: Cohort, workers: int | None) -> None:
    """`write_cohort` with a bar and the time that is left, or a line a scan where no one looks."""
    console = Console(highlight=False, soft_wrap=True)
    started = time.monotonic()
    before: list[int] = []
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
            if not before:
                before.append(done - 1)
            if console.is_terminal:
                bars.update(task, description=name, completed=done)
                return
            left_s = (time.monotonic() - started) / (done - before[0]) * (total - done)
            console.print(f"{name}  {done}/{total}, {in_words(left_s)} left")

        made = write_cohort(folder, cohort, workers=workers, report=report)
    kept, animals = len(cohort.visits) - made, len(cohort.all_animals)
    console.print(
        f"{made} scans made" + (f", {kept} were there" if kept else "") + f" in "
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
        # A seed is a mouse only as long as the phantom stays the same.
        __version__,
    )
    return dict(zip(COLUMNS, values, strict=True))


def _place(folder: Path, visit: Visit) -> Path:
    return folder / SCANS / visit.name


def _begin(folder: Path, cohort: Cohort) -> None:
    """Write down what the folder is to hold; refuse one that holds something else."""
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
    part = folder / f"{UNFINISHED}.part"
    _write(part, lines.getvalue().encode())
    part.replace(folder / UNFINISHED)


def _refuse_other(path: Path, rows: Sequence[dict[str, str]]) -> None:
    with path.open(newline="", encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    for own, row in zip(found, rows, strict=False):
        for column in COLUMNS:
            if own.get(column) != row[column]:
                msg = (
                    f"{path} is of another cohort: {column} of {own.get('scan')} is "
                    f"{own.get(column)}, not {row[column]}; give another folder"
                )
                raise ConfigWrong(msg)
    if len(found) != len(rows):
        msg = f"{path} is of another cohort: {len(found)} scans, not {len(rows)}"
        raise ConfigWrong(msg)


def _made(folder: Path, cohort: Cohort, visits: Sequence[Visit], workers: int) -> Iterator[str]:
    """Make scans, and say each one's name when it is whole."""
    if min(workers, len(visits)) <= 1:
        for visit in visits:
            yield _make(folder, cohort, visit)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(visits)), context, end_with_parent)
    try:
        jobs = [pool.submit(_make, folder, cohort, visit) for visit in visits]
        for job in as_completed(jobs):
            yield job.result()
    except BrokenProcessPool as error:
        msg = (
            "a process that makes phantoms was ended from outside, for want of memory most "
            "likely: give fewer --workers, and the run goes on where it stopped"
        )
        raise StageFailed(msg) from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _make(folder: Path, cohort: Cohort, visit: Visit) -> str:
    """One scan, its truth and its three observers."""
    volume, truth = image(cohort, visit)
    drawn = observe(volume, truth, visit.seed)
    span = np.iinfo(np.int16)
    arrays: dict[str, npt.NDArray[Any]] = {
        "ct": np.clip(volume.hu_zyx, span.min, span.max).astype(np.int16),
        "truth": truth.labels_zyx,
        "observer1": drawn.observer1,
        "observer2": drawn.observer2,
        "observer3": drawn.observer3,
    }
    place = _place(folder, visit)
    part = place.with_name(f"{place.name}.part")
    try:
        if part.exists():
            shutil.rmtree(part)
        part.mkdir()
        for name in FILES:
            file = part / f"{name}.nii.gz"
            SimpleITK.WriteImage(to_image(arrays[name], truth.grid), str(file))
            _flush(file)
        part.rename(place)
    # SimpleITK has no error of its own: a full disk is a RuntimeError.
    except (OSError, RuntimeError) as error:
        msg = f"{place} can't be written: {error}"
        raise StageFailed(msg) from error
    return visit.name


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    _flush(path)


def _flush(path: Path) -> None:
    """To the disk, before a name says that it is there."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
