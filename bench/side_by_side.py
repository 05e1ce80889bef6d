"""Two ways to run one bundle on the same native phantoms: each made once, shown to both.

Resumable scan by scan: a run that was killed goes on where it was, in the same folder.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from limn.domain.folders import writable
from limn.lab.measure.evaluate import Trial, evaluate, read_rows, refuse_other_scores
from limn.lab.train.testsets import cohort_trials
from limn.segment.engine.ensemble import Ensemble

# A scan of `cohort_trials` has voxels of this size, and a 95 % HD may differ by one.
VOXEL_MM = 0.14
DSC_MAY_DIFFER = 0.005
LARGEST = 8

Scores = dict[tuple[str, str], dict[str, float]]


def native_trials(scans: int) -> list[Trial]:
    """The paper's 35 native test scans, or the first of them: every animal once, then again."""
    trials = [trial for trial in cohort_trials(wide=False) if trial.group == "native"]
    return sorted(trials, key=lambda trial: int(trial.scan.rpartition("-t")[2]))[:scans]


def side_by_side(ways: Mapping[str, Ensemble], trials: Sequence[Trial], folder: Path) -> str:
    """Score every scan both ways; ``scores.csv`` of each in its own folder, ``table.md`` above.

    Parameters
    ----------
    ways : two of them, by the name that tables and folders give them

    Returns
    -------
    The table as Markdown.

    Raises
    ------
    ConfigWrong
        If the folder holds the scores of another bundle or another way.
    """
    writable(folder)
    for name, ensemble in ways.items():
        bundle = ensemble.bundle
        what = f"bundle {bundle.label} {bundle.sha256[:12]} {name} on native"
        refuse_other_scores(folder / name, f"{what}, {ensemble.description}")
    started = time.monotonic()
    for count, trial in enumerate(trials):
        once = replace(trial, make=cache(trial.make))
        for name, ensemble in ways.items():
            evaluate([once], ensemble, folder / name, lambda _: None)
        spent_s = (time.monotonic() - started) / (count + 1)
        print(_line(f"{count + 1}/{len(trials)}", trial, ways, folder), end="; ")
        print(f"about {spent_s * (len(trials) - count - 1):.0f} s left", flush=True)
    text = _table(*(_scores(folder / name, trials) for name in ways), *ways)
    (folder / "table.md").write_text(text, encoding="utf-8")
    return text


def _line(count: str, trial: Trial, ways: Mapping[str, Ensemble], folder: Path) -> str:
    said = []
    for name in ways:
        of_organ = _scores(folder / name, [trial])
        dscs = " ".join(f"{each['dsc']:.3f}" for each in of_organ.values())
        said.append(f"{name} {dscs} in {next(iter(of_organ.values()))['seconds']:.1f} s")
    return f"{count} {trial.scan}: {', '.join(said)}"


def _scores(folder: Path, trials: Sequence[Trial]) -> Scores:
    """Measures by scan and organ; the last row of a scan that a killed run had begun counts."""
    asked = {trial.scan for trial in trials}
    return {
        (row["scan"], row["organ"]): {key: float(row[key]) for key in ("dsc", "hd95_mm", "seconds")}
        for row in read_rows(folder / "scores.csv")
        if row["scan"] in asked
    }


def _table(one: Scores, other: Scores, one_name: str, other_name: str) -> str:
    """Means of each organ both ways, whether they are alike, and where they are least so."""
    lines = [
        f"| organ | scans | mean DSC {one_name} | {other_name} | difference "
        f"| mean 95 % HD mm {one_name} | {other_name} | difference | lost | alike |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for organ in dict.fromkeys(organ for _, organ in one):
        keys = [key for key in one if key[1] == organ]
        dsc, hd95 = (
            np.array([(one[key][what], other[key][what]) for key in keys])
            for what in ("dsc", "hd95_mm")
        )
        # Where one way lost the organ there is no distance to compare.
        both = np.isfinite(hd95).all(axis=1)
        mean_dsc = dsc.mean(axis=0)
        mean_hd95 = hd95[both].mean(axis=0) if both.any() else np.full(2, np.nan)
        off_dsc, off_hd95 = mean_dsc[1] - mean_dsc[0], mean_hd95[1] - mean_hd95[0]
        lost = " and ".join(str(n) for n in (~np.isfinite(hd95)).sum(axis=0))
        alike = abs(off_dsc) <= DSC_MAY_DIFFER and abs(off_hd95) <= VOXEL_MM
        lines.append(
            f"| {organ} | {len(keys)} | {mean_dsc[0]:.4f} | {mean_dsc[1]:.4f} | {off_dsc:+.4f} "
            f"| {mean_hd95[0]:.3f} | {mean_hd95[1]:.3f} | {off_hd95:+.3f} "
            f"| {lost} | {'yes' if alike else 'NO'} |"
        )
    lines += ["", f"Alike: DSC within {DSC_MAY_DIFFER}, 95 % HD within {VOXEL_MM} mm.", ""]
    lines += [f"The largest differences, {other_name} less {one_name}:", ""]
    lines += ["| scan | organ | DSC | 95 % HD mm |", "|---|---|---|---|"]
    by_dsc = sorted(one, key=lambda key: -abs(other[key]["dsc"] - one[key]["dsc"]))
    for key in by_dsc[:LARGEST]:
        off_dsc, off_hd95 = (other[key][what] - one[key][what] for what in ("dsc", "hd95_mm"))
        lines.append(f"| {key[0]} | {key[1]} | {off_dsc:+.4f} | {off_hd95:+.3f} |")
    seconds = [
        f"{name} {np.median([each['seconds'] for each in scores.values()]):.1f}"
        for name, scores in ((one_name, one), (other_name, other))
    ]
    load = f", load {os.getloadavg()[0]:.1f}" if sys.platform != "win32" else ""
    lines += ["", f"Median s a scan: {', '.join(seconds)}; {os.cpu_count()} cores{load}."]
    return "\n".join(lines) + "\n"
