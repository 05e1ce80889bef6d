"""Tables 1 to 4 in the paper's layout, its own values below ours, and what stands behind them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from limn.domain.errors import ConfigWrong
from limn.domain.folders import writable
from limn.lab.measure.scores import Score, read_scores
from limn.lab.measure.statistics import ALPHA, ZERO_METHOD, Comparison
from limn.lab.report import published, summary
from limn.lab.report.boxplots import draw_accuracy, draw_conformity
from limn.lab.report.summary import BlocksAgainstSlices, Cell, Conformity, Difference, Row, Time
from limn.lab.report.table_formats import Sheet, as_csv, as_latex, as_markdown
from limn.lab.words import (
    CASCADE,
    MANUAL,
    MEASURES,
    OBSERVERS,
    ORGAN_WORDS,
    REFERENCE_SYSTEM,
    SETS,
    TIMES,
    ComparedStructure,
    System,
    in_order,
)

OURS, PAPER = "here", "paper"
SHORTEST_S = 0.1
NOTHING = "-"
# Decimals of the medians in Tables 1 and 2; means and deviations have two.
MEDIAN_DECIMALS = {
    "test1": {"dsc": 3, "msd_mm": 3, "hd95_mm": 2},
    "test2": {"dsc": 2, "msd_mm": 2, "hd95_mm": 2},
}
TIMED = "on machines that the scores do not name"
STAGES = {CASCADE: " (2nd stage only)"}
TABLE_OF = {"test1": "table1", "test2": "table2"}


def write_tables(
    scores_csv: Path,
    folder: Path,
    report: Callable[[str], None],
    told: str = "",
    timed: str = TIMED,
) -> None:
    """All tables and box plots of a study from its scores: ``tables.md`` and files beside it.

    Parameters
    ----------
    told : what the study was, for whoever reads the tables; Markdown
    timed : on which machine each system was timed, for the caption of Table 4

    Raises
    ------
    ConfigWrong
        If the scores can't be read, hold nothing that a table shows, or the folder can't be
        written.
    """
    writable(folder)
    scores = read_scores(scores_csv)
    made = sheets(scores, timed)
    if not made:
        msg = f"{scores_csv} holds no score of {' or '.join(SETS)} and no time; nothing to show"
        raise ConfigWrong(msg)
    parts = ["# Tables\n", *([told] if told else [])]
    for sheet in made:
        (folder / f"{sheet.name}.csv").write_text(as_csv(sheet), encoding="utf-8")
        (folder / f"{sheet.name}.tex").write_text(as_latex(sheet), encoding="utf-8")
        parts.append(as_markdown(sheet))
    for test_set in SETS:
        for draw, name in ((draw_accuracy, "boxplot"), (draw_conformity, "boxplot-ci")):
            path = folder / f"{name}-{test_set}.png"
            if draw(scores, test_set, path):
                parts.append(f"![{name} of {SETS[test_set]}]({path.name})\n")
    (folder / "tables.md").write_text("\n".join(parts), encoding="utf-8")
    report(f"{len(made)} tables in {folder / 'tables.md'}, each also as .csv and .tex beside it")


def sheets(scores: Sequence[Score], timed: str = TIMED) -> list[Sheet]:
    """Every table of which the scores have something."""
    made = []
    for test_set in SETS:
        if not summary.accuracy(scores, test_set, ()):
            continue
        missed = summary.missed(scores, test_set)
        for without in ((), missed) if missed else ((),):
            made.append(_accuracy_sheet(scores, test_set, without, missed))
            made.append(_difference_sheet(scores, test_set, without))
        made.append(_case_sheet(scores, test_set))
        made.append(_overall_sheet(scores, test_set))
        if against := summary.blocks_against_slices(scores, test_set):
            made.append(_against_sheet(against, test_set))
    every = [(own, scan) for own in SETS for scan in summary.missed(scores, own)]
    for left_out in ([], every) if every else ([],):
        if found := summary.conformity(scores, left_out):
            rows = _conformity_rows(found, published.conformity())
            name = "table3" + ("-without-missed" if left_out else "")
            caption = _conformity_caption() + _about_left_out(left_out)
            made.append(Sheet(name, caption, _conformity_columns(), rows))
    if measured := summary.times(scores):
        made.append(_time_sheet(measured, timed))
    return made


# Tables 1 and 2


def accuracy_columns() -> tuple[str, ...]:
    """The columns of Tables 1 and 2, with one that says whose numbers they are."""
    values = [f"{word} {what}" for word in MEASURES.values() for what in ("Mean ± SD", "Median")]
    return ("Organ", "Algorithm", "Model", "Of", *values)


def accuracy_cells(row: Row, test_set: str) -> tuple[str, ...]:
    """The six cells of a line, as the paper writes them."""
    texts: list[str] = []
    shown = {measure: _mean_and_sd(cell.mean, cell.sd) for measure, cell in row.cells.items()}
    after = {
        measure: "" if cell.cleaned is None else _mean_and_sd(*cell.cleaned)
        for measure, cell in row.cells.items()
    }
    # As in the paper: in parentheses where the clean-up changes something that can be seen.
    changed = any(text and text != shown[measure] for measure, text in after.items())
    for measure, cell in row.cells.items():
        parenthesis = f" ({after[measure]})" if changed and after[measure] else ""
        texts += [shown[measure] + parenthesis, _median(cell, MEDIAN_DECIMALS[test_set][measure])]
    return tuple(texts)


def _accuracy_sheet(
    scores: Sequence[Score], test_set: str, without: Sequence[str], missed: Sequence[str]
) -> Sheet:
    ours = summary.accuracy(scores, test_set, without)
    theirs = {(row.organ, row.system): row for row in published.accuracy(test_set)}
    rows = []
    for row in ours:
        system = _system(row.system)
        start = (ORGAN_WORDS[row.organ], system.algorithm)
        rows.append((*start, system.model_here, OURS, *accuracy_cells(row, test_set)))
        if same := theirs.get((row.organ, row.system)):
            rows.append((*start, system.model, PAPER, *accuracy_cells(same, test_set)))
    scans = {own.scan for own in scores if own.set == test_set} - set(without)
    animals = {own.animal for own in scores if own.set == test_set and own.scan in scans}
    caption = (
        f"DSC, MSD and 95p HD for {SETS[test_set]} against observer 1, {len(scans)} scans of "
        f"{len(animals)} animals; the paper's own values below. * differs from nnU-Net "
        f"{REFERENCE_SYSTEM}, two-tailed Wilcoxon signed rank test, p < 0.05, pairs that do not "
        f"differ dropped (zero_method {ZERO_METHOD!r}). In parentheses: after the islands were "
        f"removed. {_about_missed(without, missed)}{_about_undrawn(scores, test_set)}"
        f"{_about_unscored(scores, test_set)}{_about_limn(scores, test_set)}"
    )
    name = TABLE_OF[test_set] + ("-without-missed" if without else "")
    return Sheet(name, caption, accuracy_columns(), tuple(rows))


def _about_missed(without: Sequence[str], missed: Sequence[str]) -> str:
    if not missed:
        return "Every system of the paper found every organ."
    if without:
        return f"Left out, as in the paper, because a system missed an organ: {', '.join(without)}."
    return (
        f"With the scans on which a system missed an organ ({', '.join(missed)}): DSC 0, no "
        "distance, and no pair in the test of distances."
    )


def _about_undrawn(scores: Sequence[Score], test_set: str) -> str:
    found = summary.undrawn(scores, test_set)
    told = ", ".join(f"{ORGAN_WORDS[organ]} on {n} scans" for organ, n in found.items())
    return f" Not scored, for observer 1 did not draw it: {told}." if found else ""


def _about_limn(scores: Sequence[Score], test_set: str) -> str:
    scans = summary.missed_by_limn(scores, test_set)
    told = f" limn's engine missed an organ on {', '.join(scans)}: DSC 0, no distance."
    return told if scans else ""


def _about_unscored(scores: Sequence[Score], test_set: str) -> str:
    lacking = summary.unscored(scores, test_set)
    systems = [system for system in in_order(set(lacking)) if system.key in lacking]
    told = ", ".join(
        f"{own.algorithm} {own.model} lacks scores of {lacking[own.key]}" for own in systems
    )
    said = f" **Not of all scans**: {told}; its means are not comparable." if told else ""
    if not any(own.set == test_set and own.system == REFERENCE_SYSTEM for own in scores):
        said += f" There are no scores of {REFERENCE_SYSTEM}: nothing was tested, no asterisks."
    return said


def _difference_sheet(scores: Sequence[Score], test_set: str, without: Sequence[str]) -> Sheet:
    rows = tuple(_difference_row(each) for each in summary.differences(scores, test_set, without))
    name = TABLE_OF[test_set] + "-differences" + ("-without-missed" if without else "")
    caption = (
        f"What stands behind the asterisks for {SETS[test_set]}: mean difference from nnU-Net "
        f"{REFERENCE_SYSTEM} with a 95 % bootstrap interval over animals, and the p of the signed "
        "rank test over scans, which leaves ties out. Where the interval holds 0 and the asterisk "
        "stands, few animals speak for many scans."
    )
    columns = (
        "Organ",
        "Algorithm",
        "Model",
        "Measure",
        "Pairs",
        "Ties",
        "Undefined",
        "Animals",
        "Mean difference",
        "95 % interval",
        "p",
    )
    return Sheet(name, caption, columns, rows)


def _difference_row(each: Difference) -> tuple[str, ...]:
    system, held = _system(each.system), each.held
    return (
        ORGAN_WORDS[each.organ],
        system.algorithm,
        system.model_here,
        MEASURES[each.measure],
        str(held.pairs),
        str(held.ties),
        str(held.dropped),
        str(held.animals),
        *_held_cells(held),
    )


def _held_cells(held: Comparison) -> tuple[str, str, str]:
    """Mean difference, interval, p."""
    return (
        _signed(held.mean_difference),
        NOTHING if math.isnan(held.low) else f"{_signed(held.low)} to {_signed(held.high)}",
        NOTHING if math.isnan(held.p) else f"{held.p:.4f}" + "*" * held.is_significant,
    )


def _overall_sheet(scores: Sequence[Score], test_set: str) -> Sheet:
    rows = []
    for own in summary.overall(scores, test_set):
        system = _system(own.system)
        cells = (_thousandths(own.mean, own.sd), _thousandths(*(own.cleaned or (math.nan,) * 2)))
        rows.append((system.algorithm, system.model_here, str(own.scans), *cells))
    caption = (
        f"In one number, for {SETS[test_set]}: the mean DSC of a scan's organs against observer 1, "
        "mean ± SD over scans; a missed organ counts 0."
    )
    columns = ("Algorithm", "Model", "Scans", "Mean DSC", "Islands removed")
    return Sheet(f"overall-{test_set}", caption, columns, tuple(rows))


def _against_sheet(against: Sequence[BlocksAgainstSlices], test_set: str) -> Sheet:
    rows = tuple(
        (
            _system(own.blocks).named,
            _system(own.slices).named,
            own.cleaned,
            str(own.held.pairs),
            str(own.held.animals),
            *_held_cells(own.held),
        )
        for own in against
    )
    caption = (
        f"3D systems against 2D ones for {SETS[test_set]}: difference of the mean DSC of a scan's "
        "organs, 3D minus 2D, with a 95 % bootstrap interval over animals, and the p of the signed "
        f"rank test over scans; * p < {ALPHA:g}."
    )
    columns = (
        "3D",
        "2D",
        "Islands removed",
        "Pairs",
        "Animals",
        "Mean difference",
        "95 % interval",
        "p",
    )
    return Sheet(f"3d-against-2d-{test_set}", caption, columns, rows)


def _case_sheet(scores: Sequence[Score], test_set: str) -> Sheet:
    systems = in_order({own.system for own in scores if own.set == test_set} - {OBSERVERS})
    rows = []
    for system in systems:
        held = summary.by_organ(scores, test_set, system.key)
        for which, scan in summary.cases(held).items():
            each = ", ".join(
                f"{ORGAN_WORDS[organ]} {_two(own.dsc)} / {_two(own.hd95_mm)}"
                for organ, own in held[scan].items()
            )
            mean = f"{summary.mean_dsc(held[scan]):.3f}"
            rows.append((system.algorithm, system.model_here, which, scan, mean, each))
    caption = (
        f"Best, intermediate and worst scans by mean DSC for {SETS[test_set]}; of each organ DSC "
        "/ 95p HD in mm."
    )
    columns = ("Algorithm", "Model", "Case", "Scan", "Mean DSC", "Organs")
    return Sheet(f"cases-{test_set}", caption, columns, tuple(rows))


# Table 3


def _conformity_columns() -> tuple[str, ...]:
    words = {
        ComparedStructure.HEART: "Heart",
        ComparedStructure.LUNGS: "Total lungs",
        ComparedStructure.CORD: "Spinal Cord",
    }
    shorts = {"test1": "Native CT", "test2": "Contrast-enhanced CT"}
    values = [
        f"{short} {words[structure]}"
        for short in shorts.values()
        for structure in ComparedStructure
    ]
    return ("Algorithm", "Model", "Of", *values)


def _conformity_caption() -> str:
    return (
        "Generalised conformity index (mean ± SD) against the consensus of the observers (2 of 3; "
        "of the cord both of 2; lungs joined), and among the observers themselves; the paper's "
        "own values below. The best system is bold."
    )


def _about_left_out(left_out: Sequence[tuple[str, str]]) -> str:
    scans = ", ".join(scan for _, scan in left_out)
    return f" Left out, because a system missed an organ: {scans}." if left_out else ""


def _conformity_rows(
    ours: Sequence[Conformity], theirs: Sequence[Conformity]
) -> tuple[tuple[str, ...], ...]:
    rows = []
    for system in in_order({cell.system for cell in ours}):
        start = system.algorithm
        rows.append((start, system.model_here, OURS, *conformity_cells(ours, system.key)))
        if any(cell.system == system.key for cell in theirs):
            rows.append((start, system.model, PAPER, *conformity_cells(theirs, system.key)))
    return tuple(rows)


def conformity_cells(cells: Sequence[Conformity], system: str) -> tuple[str, ...]:
    """The six cells of a line of Table 3, as the paper writes them; the best of all bold."""
    texts = []
    for test_set in SETS:
        for structure in ComparedStructure:
            column = [cell for cell in cells if (cell.set, cell.organ) == (test_set, structure)]
            own = next((cell for cell in column if cell.system == system), None)
            if own is None:
                texts.append(NOTHING)
                continue
            best = max((cell.mean for cell in column if cell.system != OBSERVERS), default=math.inf)
            sd = NOTHING if math.isnan(own.sd) else f"{100 * own.sd:.0f}%"
            text = f"{100 * own.mean:.0f}% ± {sd}"
            texts.append(f"**{text}**" if own.mean == best and system != OBSERVERS else text)
    return tuple(texts)


# Table 4


def _time_sheet(measured: Sequence[Time], timed: str) -> Sheet:
    theirs = {time.system: time for time in published.times()}
    rows = []
    for time in measured:
        system = _system(time.system)
        start, stage = system.algorithm, STAGES.get(system.key, "")
        rows.append((start, system.model_here + stage, OURS, *time_cells(time)))
        if same := theirs.get(time.system):
            rows.append((start, system.model + stage, PAPER, *time_cells(same)))
    if MANUAL not in {time.system for time in measured}:
        manual = _system(MANUAL)
        rows.append((manual.algorithm, manual.model, PAPER, *time_cells(theirs[MANUAL])))
    caption = (
        "Mean preprocessing, inference and total runtime (image read until labels on disk) in "
        f"seconds a scan, {timed}; the paper's own values below (NVIDIA Quadro RTX 6000)."
    )
    columns = ("Algorithm", "Model", "Of", *TIMES.values())
    return Sheet("table4", caption, columns, tuple(rows))


def time_cells(time: Time) -> tuple[str, ...]:
    """The three cells of a line of Table 4: whole seconds, as in the paper, tenths below ten."""
    return tuple(_seconds(s) for s in (time.preprocess_s, time.inference_s, time.runtime_s))


def _seconds(s: float) -> str:
    if math.isnan(s):
        return NOTHING
    if 0 < s < SHORTEST_S:
        return f"<{SHORTEST_S}"
    return f"{s:.0f}" if s >= 10 or s == round(s) else f"{s:.1f}"


def _system(key: str) -> System:
    return in_order({key})[0]


def _two(value: float) -> str:
    """Two decimals, one from ten on, as the paper does."""
    if math.isnan(value):
        return NOTHING
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


def _mean_and_sd(mean: float, sd: float) -> str:
    return NOTHING if math.isnan(mean) else f"{_two(mean)} ± {_two(sd)}"


def _median(cell: Cell, decimals: int) -> str:
    if math.isnan(cell.median):
        return NOTHING
    return f"{cell.median:.{decimals}f}" + "*" * cell.star


def _thousandths(mean: float, sd: float) -> str:
    if math.isnan(mean):
        return NOTHING
    return f"{mean:.3f} ± {NOTHING if math.isnan(sd) else f'{sd:.3f}'}"


def _signed(value: float) -> str:
    return NOTHING if math.isnan(value) else f"{value:+.3f}"
