"""Scores a bundle on scans of known truth: one long CSV, a table, pictures of the worst scans."""

from __future__ import annotations

import csv
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import numpy as np
import numpy.typing as npt

from limn.dicom.rtstruct import PALETTE
from limn.domain.errors import ConfigWrong, RefusedSeries
from limn.domain.files import write_durably
from limn.domain.folders import writable
from limn.domain.scan import TG263_ROLES, Labels, Organ, Role, Volume
from limn.domain.timing import Stopwatch
from limn.lab.measure.accuracy import score_labels
from limn.segment.draw.delineate import Delineated, delineate
from limn.segment.draw.picture.legend import Banner, Legend
from limn.segment.draw.picture.sheet import draw_contours
from limn.segment.draw.sides import NO_SIGNS
from limn.segment.engine.ensemble import Ensemble
from limn.segment.engine.localisation.orient import AS_IN_HEADER

COLUMNS = (
    "group",
    "scan",
    "organ",
    "dsc",
    "msd_mm",
    "hd95_mm",
    "volume_mm3",
    "truth_mm3",
    "outside_mm3",
    "lie",
    "lie_probability",
    "seconds",
)


# As in Figure 4.
PAPER_COLOURS = {
    Role.HEART: (255, 0, 0),
    Role.CORD: (0, 255, 0),
    Role.LUNG_R: (0, 0, 255),
    Role.LUNG_L: (255, 255, 0),
}


@dataclass(frozen=True, slots=True, eq=False)
class ScanWithTruth:
    """A scan whose truth is known.

    Attributes
    ----------
    body : (z, y, x) bool, the inside of the animal; None if unknown
    """

    volume: Volume
    truth: Labels
    body: npt.NDArray[np.bool_] | None = None


@dataclass(frozen=True, slots=True)
class Trial:
    """One scan of a test set, which ``make`` paints or reads only when it is needed.

    Attributes
    ----------
    organs : how many its truth has; None for those of the bundle
    """

    group: str
    scan: str
    make: Callable[[], ScanWithTruth]
    organs: int | None = None


def evaluate(
    trials: Sequence[Trial], ensemble: Ensemble, folder: Path, report: Callable[[str], None]
) -> Path:
    """Delineate and score every trial that ``scores.csv`` does not hold yet.

    In a scan that limn refuses every organ counts as missed.

    Returns
    -------
    The path of the CSV: a row per organ and scan, columns `COLUMNS`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "scores.csv"
    if not path.exists():
        write_durably(path, (",".join(COLUMNS) + "\n").encode())
    rows_of = Counter((row["group"], row["scan"]) for row in read_rows(path))
    # A run that was killed may have written fewer rows than organs for its last scan.
    every = len(ensemble.bundle.organs)
    waiting = [
        trial
        for trial in trials
        if rows_of[trial.group, trial.scan] < (every if trial.organs is None else trial.organs)
    ]
    started = time.monotonic()
    for count, trial in enumerate(waiting):
        scan = trial.make()
        before = time.monotonic()
        result = delineate_or_miss(scan, ensemble)
        seconds = time.monotonic() - before
        outside = _outside_mm3(result.labels, scan.body)
        volumes, true_volumes = result.labels.volumes_mm3(), scan.truth.volumes_mm3()
        rows = []
        for score in score_labels(result.labels, scan.truth):
            rows.append(
                [
                    trial.group,
                    trial.scan,
                    score.organ,
                    f"{score.dsc:.4f}",
                    f"{score.msd_mm:.4f}",
                    f"{score.hd95_mm:.4f}",
                    f"{volumes[score.organ]:.1f}",
                    f"{true_volumes[score.organ]:.1f}",
                    outside,
                    result.lie.letters,
                    f"{result.lie.probability:.3f}",
                    f"{seconds:.2f}",
                ]
            )
        with path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)
        left_s = (time.monotonic() - started) / (count + 1) * (len(waiting) - count - 1)
        dscs = " ".join(f"{row[2]} {row[3]}" for row in rows)
        report(
            f"{count + 1}/{len(waiting)} {trial.group} {trial.scan}: {dscs}; {left_s:.0f} s left"
        )
    return path


def delineate_or_miss(scan: ScanWithTruth, ensemble: Ensemble) -> Delineated:
    """Contour a scan; in one that limn refuses every organ is missed."""
    try:
        return delineate(scan.volume, ensemble, "central", Stopwatch(), lambda done, total: None)
    except RefusedSeries:
        nothing = np.zeros(scan.truth.labels_zyx.shape, dtype=np.uint8)
        labels = Labels(nothing, scan.truth.grid, scan.truth.organs)
        return Delineated(labels, {}, 0, AS_IN_HEADER, (), {}, nothing, (), NO_SIGNS)


def refuse_other_scores(folder: Path, what: str) -> None:
    """Let a folder hold the scores of one bundle on one test set only.

    Parameters
    ----------
    what : names bundle and test set; the folder keeps the first one

    Raises
    ------
    ConfigWrong
        If the folder holds other scores, or can't be written.
    """
    path = writable(folder) / "tried.txt"
    before = path.read_text(encoding="utf-8") if path.exists() else what
    write_durably(path, before.encode())
    if before != what:
        msg = f"{folder} holds the scores of {before}, not of {what}; give another folder"
        raise ConfigWrong(msg)


def _outside_mm3(labels: Labels, body: npt.NDArray[np.bool_] | None) -> str:
    if body is None:
        return ""
    outside = int(((labels.labels_zyx > 0) & ~body).sum())
    return f"{outside * labels.grid.spacing_mm.voxel_mm3:.2f}"


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read the rows of a CSV that `evaluate` wrote."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def markdown_table(rows: Iterable[dict[str, str]]) -> str:
    """A line for each group and organ: mean and worst value of each measure.

    A scan that does not show an organ, and in which none is drawn, does not count for it.
    """
    grouped: dict[tuple[str, str], list[dict[str, str]]] = defaultdict(list)
    for row in rows:
        if row["dsc"] != "nan":
            grouped[row["group"], row["organ"]].append(row)
    lines = [
        "| set | organ | scans | DSC mean (sd, worst) | MSD mm, found ones "
        "| 95 % HD mm, found ones: mean (worst) | lost |",
        "|---|---|---|---|---|---|---|",
    ]
    for (group, organ), of_organ in grouped.items():
        dsc, msd, hd95 = (
            np.array([float(row[key]) for row in of_organ]) for key in ("dsc", "msd_mm", "hd95_mm")
        )
        present = dsc > 0
        distances = (
            f"{msd[present].mean():.3f} | {hd95[present].mean():.2f} ({hd95[present].max():.2f})"
            if present.any()
            else "- | -"
        )
        lines.append(
            f"| {group} | {organ} | {len(of_organ)} "
            f"| {dsc.mean():.3f} ({dsc.std():.3f}, {dsc.min():.3f}) "
            f"| {distances} | {int((~present).sum())} |"
        )
    return "\n".join(lines) + "\n"


def worst_scans(rows: Iterable[dict[str, str]], group: str, count: int) -> list[str]:
    """The scans of a group with the lowest mean DSC."""
    means: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        if row["group"] == group and row["dsc"] != "nan":
            means[row["scan"]].append(float(row["dsc"]))
    return sorted(means, key=lambda scan: float(np.mean(means[scan])))[:count]


def colours_of(organs: Iterable[Organ]) -> dict[Organ, tuple[int, int, int]]:
    """The paper's colours; of other organs the usual ones."""
    others = cycle(PALETTE)
    known = {TG263_ROLES[role]: colour for role, colour in PAPER_COLOURS.items()}
    return {organ: known.get(organ) or next(others) for organ in organs}


def draw_comparison(trial: Trial, ensemble: Ensemble, path: Path) -> None:
    """Write two pictures: one with limn's contours, one with the truth."""
    scan = trial.make()
    result = delineate_or_miss(scan, ensemble)
    path.parent.mkdir(parents=True, exist_ok=True)
    for labels, name in ((result.labels, "limn"), (scan.truth, "truth")):
        banner = Banner(f"{trial.group} {trial.scan} {name}")
        legend = Legend(labels.volumes_mm3())
        colours = colours_of(labels.organs.values())
        picture = draw_contours(scan.volume, labels, colours, banner, legend)
        write_durably(path.with_name(f"{path.stem}-{name}.png"), picture)
