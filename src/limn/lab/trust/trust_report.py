"""Writes how far a judge may be trusted: a table, a reliability plot, a picture of each miss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from limn.domain.files import replacement, write_durably
from limn.domain.scan import Labels
from limn.lab.measure.evaluate import ScanWithTruth, Trial, draw_comparison
from limn.lab.trust.outcome import Outcome, Tally, outcome_of, tally
from limn.lab.trust.spoilt_set import beyond_chest
from limn.lab.trust.trial_row import TrialRow
from limn.phantom.faults import FAULTS, UNSEEN, spoilt_scan
from limn.segment.engine.ensemble import Ensemble
from limn.segment.judge.quality import Judge

HEADER = (
    "| fault | scans | refused | bad | of them stopped | exchanged | of them stopped | good "
    "| of them held | amber | DSC error | in interval |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|---|"
)
DOTS_PER_INCH = 110


def write_report(
    rows: Sequence[TrialRow],
    judge: Judge,
    folder: Path,
    report: Callable[[str], None],
) -> list[Outcome]:
    """Write ``table.md`` and ``reliability.png``; return the misses."""
    outcomes = [outcome_of(row, judge) for row in rows]
    table = markdown_table(outcomes)
    write_durably(folder / "table.md", table.encode())
    draw_reliability(outcomes, folder / "reliability.png")
    report(table)
    return [each for each in outcomes if each.is_miss]


def draw_misses(
    misses: Sequence[Outcome], ensemble: Ensemble, folder: Path, report: Callable[[str], None]
) -> None:
    """Draw each scan whose bad contours would leave: the truth beside what was contoured."""
    whole_body = beyond_chest(ensemble.bundle)
    for row in (missed.row for missed in misses):
        path = folder / "misses" / f"{row.fault}-{row.seed}.png"
        scan = partial(_scan, row.fault, row.seed, whole_body=whole_body)
        trial = Trial(row.fault, str(row.seed), scan)
        draw_comparison(trial, ensemble, path)
        report(f"missed: {row.fault} {row.seed}, {dict(row.dsc)}, drawn beside {path}")


def markdown_table(outcomes: Sequence[Outcome]) -> str:
    """All scans, those of taught and of never shown faults, and every fault."""
    lines = [HEADER, _line("**all**", tally(outcomes))]
    seen = [each for each in outcomes if each.row.fault not in UNSEEN]
    unseen = [each for each in outcomes if each.row.fault in UNSEEN]
    lines += [_line("**taught kinds**", tally(seen)), _line("**never shown**", tally(unseen))]
    for fault in FAULTS:
        own = [each for each in outcomes if each.row.fault == fault]
        if own:
            lines.append(_line(fault, tally(own)))
    return "\n".join(lines) + "\n"


def _line(name: str, own: Tally) -> str:
    cells = (
        name,
        own.scans,
        own.refused,
        own.bad,
        own.bad_stopped,
        own.exchanged,
        own.exchanged_stopped,
        own.good,
        own.good_held,
        own.good_amber,
        f"{own.error:.3f}",
        f"{own.within:.2f}",
    )
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def draw_reliability(outcomes: Sequence[Outcome], path: Path) -> None:
    """Draw the true DSC against the predicted one, with the interval, for every organ."""
    organs = list(dict.fromkeys(organ for each in outcomes for organ in each.predicted))
    figure = Figure(figsize=(3.2 * max(1, len(organs)), 3.6), layout="constrained")
    for number, organ in enumerate(organs, start=1):
        pairs = [each.predicted[organ] for each in outcomes if organ in each.predicted]
        middle = np.array([interval.middle for interval, _ in pairs])
        truth = np.array([dsc for _, dsc in pairs])
        below = middle - np.array([interval.low for interval, _ in pairs])
        above = np.array([interval.high for interval, _ in pairs]) - middle
        axes = figure.add_subplot(1, len(organs), number)
        axes.errorbar(
            middle, truth, xerr=(below, above), fmt="none", ecolor="#cccccc", linewidth=0.6
        )
        axes.plot((0, 1), (0, 1), color="#888888", linewidth=0.8)
        axes.scatter(middle, truth, s=7, color="#4477aa", zorder=3)
        axes.set_title(organ)
        axes.set_xlabel("predicted DSC, 90 % interval")
        axes.set_ylabel("true DSC" if number == 1 else "")
    with replacement(path, ".png") as part:
        figure.savefig(part, dpi=DOTS_PER_INCH, metadata={"Software": None})


def _scan(fault: str, seed: int, *, whole_body: bool) -> ScanWithTruth:
    spoilt = spoilt_scan(fault, seed, whole_body=whole_body)
    truth = spoilt.truth
    if truth is None:
        nothing = np.zeros(spoilt.volume.grid.shape_zyx, dtype=np.uint8)
        truth = Labels(nothing, spoilt.volume.grid, {})
    return ScanWithTruth(spoilt.volume, truth)
