"""A bundle on scans whose truth is known: one long CSV of scores, a table, the worst drawn."""

from __future__ import annotations

import csv
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from limn.domain.errors import ConfigWrong, RefusedSeries
from limn.domain.folders import writable
from limn.domain.scan import Labels, Organ, Volume
from limn.domain.timing import Stopwatch
from limn.lab.measure.accuracy import score_labels
from limn.segment.draw.delineate import Delineated, delineate
from limn.segment.draw.picture import draw_contours
from limn.segment.engine.ensemble import Ensemble
from limn.segment.engine.orient import AS_IN_HEADER

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
COLOURS = {
    Organ.HEART: (255, 0, 0),
    Organ.CORD: (0, 255, 0),
    Organ.LUNG_R: (0, 0, 255),
    Organ.LUNG_L: (255, 255, 0),
}


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """A scan whose truth is known.

    Attributes
    ----------
    body : (z, y, x) bool, the inside of the animal; None where it is not known
    """

    volume: Volume
    truth: Labels
    body: npt.NDArray[np.bool_] | None = None


@dataclass(frozen=True, slots=True)
class Trial:
    """One scan of a test set, made or read when its turn comes."""

    group: str
    scan: str
    make: Callable[[], Known]


def evaluate(
    trials: Sequence[Trial], ensemble: Ensemble, folder: Path, report: Callable[[str], None]
) -> Path:
    """Delineate and score every trial; what ``scores.csv`` holds already is not done again.

    A scan that limn refuses counts as one in which every organ was lost.

    Returns
    -------
    The CSV: a row for each organ of each scan, columns `COLUMNS`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "scores.csv"
    if not path.exists():
        path.write_text(",".join(COLUMNS) + "\n", encoding="utf-8")
    rows_of = Counter((row["group"], row["scan"]) for row in read_scores(path))
    # A run that was killed may have left a scan with fewer rows than organs.
    done = {key for key, rows in rows_of.items() if rows >= len(ensemble.bundle.organs)}
    waiting = [trial for trial in trials if (trial.group, trial.scan) not in done]
    started = time.monotonic()
    for count, trial in enumerate(waiting):
        known = trial.make()
        began = time.monotonic()
        drawn = _delineated(known, ensemble)
        seconds = time.monotonic() - began
        outside = _outside_mm3(drawn.labels, known.body)
        found, wanted = drawn.labels.volumes_mm3(), known.truth.volumes_mm3()
        rows = []
        for score in score_labels(drawn.labels, known.truth):
            rows.append(
                [
                    trial.group,
                    trial.scan,
                    score.organ.value,
                    f"{score.dsc:.4f}",
                    f"{score.msd_mm:.4f}",
                    f"{score.hd95_mm:.4f}",
                    f"{found[score.organ]:.1f}",
                    f"{wanted[score.organ]:.1f}",
                    outside,
                    drawn.lie.letters,
                    f"{drawn.lie.probability:.3f}",
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


def _delineated(known: Known, ensemble: Ensemble) -> Delineated:
    try:
        return delineate(known.volume, ensemble, "central", Stopwatch(), lambda done, total: None)
    except RefusedSeries:
        nothing = np.zeros(known.truth.labels_zyx.shape, dtype=np.uint8)
        labels = Labels(nothing, known.truth.grid, known.truth.organs)
        return Delineated(labels, {}, 0, AS_IN_HEADER, (), {}, nothing, ())


def only_for(folder: Path, what: str) -> None:
    """Keep a folder's scores to one bundle and one test set.

    Raises
    ------
    ConfigWrong
        If the folder holds the scores of something else, or can't be written.
    """
    path = writable(folder) / "tried.txt"
    before = path.read_text(encoding="utf-8") if path.exists() else what
    path.write_text(before, encoding="utf-8")
    if before != what:
        msg = f"{folder} holds the scores of {before}, not of {what}; give another folder"
        raise ConfigWrong(msg)


def _outside_mm3(labels: Labels, body: npt.NDArray[np.bool_] | None) -> str:
    if body is None:
        return ""
    outside = int(((labels.labels_zyx > 0) & ~body).sum())
    return f"{outside * labels.grid.spacing_mm.voxel_mm3:.2f}"


def read_scores(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV that `evaluate` wrote."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def table(rows: Iterable[dict[str, str]]) -> str:
    """Markdown: a line for each group and organ, mean and worst of each measure."""
    grouped: dict[tuple[str, str], list[dict[str, str]]] = defaultdict(list)
    for row in rows:
        grouped[row["group"], row["organ"]].append(row)
    lines = [
        "| set | organ | scans | DSC mean (sd, worst) | MSD mm, found ones "
        "| 95 % HD mm, found ones: mean (worst) | lost |",
        "|---|---|---|---|---|---|---|",
    ]
    for (group, organ), own in grouped.items():
        dsc, msd, hd95 = (
            np.array([float(row[key]) for row in own]) for key in ("dsc", "msd_mm", "hd95_mm")
        )
        found = dsc > 0
        distances = (
            f"{msd[found].mean():.3f} | {hd95[found].mean():.2f} ({hd95[found].max():.2f})"
            if found.any()
            else "- | -"
        )
        lines.append(
            f"| {group} | {organ} | {len(own)} "
            f"| {dsc.mean():.3f} ({dsc.std():.3f}, {dsc.min():.3f}) "
            f"| {distances} | {int((~found).sum())} |"
        )
    return "\n".join(lines) + "\n"


def worst(rows: Iterable[dict[str, str]], group: str, count: int) -> list[str]:
    """Scans of a group with the lowest mean DSC."""
    means: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        if row["group"] == group:
            means[row["scan"]].append(float(row["dsc"]))
    return sorted(means, key=lambda scan: float(np.mean(means[scan])))[:count]


def draw(trial: Trial, ensemble: Ensemble, path: Path) -> None:
    """Three cuts of a scan twice: as delineated, and below it as the truth has it."""
    known = trial.make()
    drawn = _delineated(known, ensemble)
    path.parent.mkdir(parents=True, exist_ok=True)
    for labels, name in ((drawn.labels, "limn"), (known.truth, "truth")):
        picture = draw_contours(known.volume, labels, COLOURS, f"{trial.group} {trial.scan} {name}")
        path.with_name(f"{path.stem}-{name}.png").write_bytes(picture)
