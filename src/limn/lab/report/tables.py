"""Tables 1 to 4 in the paper's layout with the paper's values, and the statistics behind them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from limn.domain.errors import ConfigWrong
from limn.domain.files import write_durably
from limn.domain.folders import writable
from limn.lab.measure.scores import Score, read_scores
from limn.lab.measure.statistics import ALPHA, ZERO_METHOD, Comparison
from limn.lab.report import published, summary
from limn.lab.report.boxplots import draw_accuracy, draw_conformity
from limn.lab.report.summary import BlocksAgainstSlices, Cell, Conformity, Difference, Row, Time
from limn.lab.report.table_formats import Table, as_csv, as_latex, as_markdown
from limn.lab.words import (
    CASCADE,
    MANUAL,
    MEASURES,
    OBSERVERS,
    PAPER_STRUCTURES,
    REFERENCE_SYSTEM,
    SETS,
    TIMES,
    System,
    in_order,
    structures_in_order,
    words_of,
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
    introduction: str = "",
    timed: str = TIMED,
) -> None:
    """Write all tables and box plots of a study: ``tables.md`` and files beside it.

    Parameters
    ----------
    introduction : Markdown that describes the study, above the tables
    timed : the machine on which each system was timed, for the caption of Table 4

    Raises
    ------
    ConfigWrong
        If the scores can't be read or fill no table, or the folder can't be written.
    """
    writable(folder)
    scores = read_scores(scores_csv)
    made = study_tables(scores, timed)
    if not made:
        msg = f"{scores_csv} holds no score of {' or '.join(SETS)} and no time; nothing to show"
        raise ConfigWrong(msg)
    parts = ["# Tables\n", *([introduction] if introduction else [])]
    for table in made:
        write_durably(folder / f"{table.name}.csv", as_csv(table).encode())
        write_durably(folder / f"{table.name}.tex", as_latex(table).encode())
        parts.append(as_markdown(table))
    for test_set in SETS:
        for draw, name in ((draw_accuracy, "boxplot"), (draw_conformity, "boxplot-ci")):
            path = folder / f"{name}-{test_set}.png"
            if draw(scores, test_set, path):
                parts.append(f"![{name} of {SETS[test_set]}]({path.name})\n")
    write_durably(folder / "tables.md", "\n".join(parts).encode())
    report(f"{len(made)} tables in {folder / 'tables.md'}, each also as .csv and .tex beside it")


def study_tables(scores: Sequence[Score], timed: str = TIMED) -> list[Table]:
    """Every table that the scores have a value for."""
    made = []
    for test_set in SETS:
        if not summary.accuracy(scores, test_set, ()):
            continue
        missed = summary.missed_scans(scores, test_set)
        for without in ((), missed) if missed else ((),):
            made.append(_accuracy_table(scores, test_set, without, missed))
            made.append(_difference_table(scores, test_set, without))
        made.append(_case_table(scores, test_set))
        made.append(_overall_table(scores, test_set))
        if against := summary.blocks_against_slices(scores, test_set):
            made.append(_against_table(against, test_set))
    every = [
        (test_set, scan) for test_set in SETS for scan in summary.missed_scans(scores, test_set)
    ]
    for left_out in ([], every) if every else ([],):
        if cells := summary.conformity(scores, left_out):
            structures = structures_in_order(cell.organ for cell in cells)
            rows = _conformity_rows(cells, published.conformity(), structures)
            name = "table3" + ("-without-missed" if left_out else "")
            caption = _conformity_caption() + _about_left_out(left_out)
            made.append(Table(name, caption, _conformity_columns(structures), rows))
    if measured := summary.times(scores):
        made.append(_time_table(measured, timed))
    return made


# Tables 1 and 2


def accuracy_columns() -> tuple[str, ...]:
    """The columns of Tables 1 and 2, with "Of": numbers of this study or of the paper."""
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
    # As in the paper: parentheses only if the clean-up changes a printed digit.
    changed = any(text and text != shown[measure] for measure, text in after.items())
    for measure, cell in row.cells.items():
        parenthesis = f" ({after[measure]})" if changed and after[measure] else ""
        texts += [shown[measure] + parenthesis, _median(cell, MEDIAN_DECIMALS[test_set][measure])]
    return tuple(texts)


def _accuracy_table(
    scores: Sequence[Score], test_set: str, without: Sequence[str], missed: Sequence[str]
) -> Table:
    ours = summary.accuracy(scores, test_set, without)
    paper = {(row.organ, row.system): row for row in published.accuracy(test_set)}
    rows = []
    for row in ours:
        system = _system(row.system)
        start = (words_of(row.organ), system.algorithm)
        rows.append((*start, system.model_here, OURS, *accuracy_cells(row, test_set)))
        if same := paper.get((row.organ, row.system)):
            rows.append((*start, system.model, PAPER, *accuracy_cells(same, test_set)))
    scans = {score.scan for score in scores if score.set == test_set} - set(without)
    animals = {score.animal for score in scores if score.set == test_set and score.scan in scans}
    caption = (
        f"DSC, MSD and 95p HD for {SETS[test_set]} against observer 1, {len(scans)} scans of "
        f"{len(animals)} animals; the paper's values below. * differs from nnU-Net "
        f"{REFERENCE_SYSTEM}, two-tailed Wilcoxon signed rank test, p < 0.05, pairs that do not "
        f"differ dropped (zero_method {ZERO_METHOD!r}). In parentheses: after the islands were "
        f"removed. {_about_missed(without, missed)}{_about_undrawn(scores, test_set)}"
        f"{_about_incomplete(scores, test_set)}{_about_limn(scores, test_set)}"
    )
    name = TABLE_OF[test_set] + ("-without-missed" if without else "")
    return Table(name, caption, accuracy_columns(), tuple(rows))


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
    counts = summary.undrawn_organs(scores, test_set)
    organs = ", ".join(f"{words_of(organ)} on {n} scans" for organ, n in counts.items())
    return f" Not scored, because observer 1 did not draw it: {organs}." if counts else ""


def _about_limn(scores: Sequence[Score], test_set: str) -> str:
    scans = summary.scans_missed_by_limn(scores, test_set)
    if not scans:
        return ""
    return f" limn's engine missed an organ on {', '.join(scans)}: DSC 0, no distance."


def _about_incomplete(scores: Sequence[Score], test_set: str) -> str:
    lacking = summary.incomplete_systems(scores, test_set)
    systems = [system for system in in_order(set(lacking)) if system.key in lacking]
    counts = ", ".join(
        f"{system.algorithm} {system.model} lacks scores of {lacking[system.key]}"
        for system in systems
    )
    text = f" **Not of all scans**: {counts}; its means are not comparable." if counts else ""
    if not any(score.set == test_set and score.system == REFERENCE_SYSTEM for score in scores):
        text += f" There are no scores of {REFERENCE_SYSTEM}: nothing was tested, no asterisks."
    return text


def _difference_table(scores: Sequence[Score], test_set: str, without: Sequence[str]) -> Table:
    rows = tuple(_difference_row(each) for each in summary.differences(scores, test_set, without))
    name = TABLE_OF[test_set] + "-differences" + ("-without-missed" if without else "")
    caption = (
        f"What stands behind the asterisks for {SETS[test_set]}: mean difference from nnU-Net "
        f"{REFERENCE_SYSTEM} with a 95 % bootstrap interval over animals, and the p of the signed "
        "rank test over scans, which leaves ties out. An asterisk with an interval that contains 0 "
        "means that many scans come from few animals."
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
    return Table(name, caption, columns, rows)


def _difference_row(each: Difference) -> tuple[str, ...]:
    system, comparison = _system(each.system), each.comparison
    return (
        words_of(each.organ),
        system.algorithm,
        system.model_here,
        MEASURES[each.measure],
        str(comparison.pairs),
        str(comparison.ties),
        str(comparison.dropped),
        str(comparison.animals),
        *_comparison_cells(comparison),
    )


def _comparison_cells(comparison: Comparison) -> tuple[str, str, str]:
    """Mean difference, interval, p."""
    return (
        _signed(comparison.mean_difference),
        NOTHING
        if math.isnan(comparison.low)
        else f"{_signed(comparison.low)} to {_signed(comparison.high)}",
        NOTHING
        if math.isnan(comparison.p)
        else f"{comparison.p:.4f}" + "*" * comparison.is_significant,
    )


def _overall_table(scores: Sequence[Score], test_set: str) -> Table:
    rows = []
    for overall in summary.overall(scores, test_set):
        system = _system(overall.system)
        cells = (
            _thousandths(overall.mean, overall.sd),
            _thousandths(*(overall.cleaned or (math.nan,) * 2)),
        )
        rows.append((system.algorithm, system.model_here, str(overall.scans), *cells))
    caption = (
        f"In one number, for {SETS[test_set]}: the mean DSC of a scan's organs against observer 1, "
        "mean ± SD over scans; a missed organ counts 0."
    )
    columns = ("Algorithm", "Model", "Scans", "Mean DSC", "Islands removed")
    return Table(f"overall-{test_set}", caption, columns, tuple(rows))


def _against_table(against: Sequence[BlocksAgainstSlices], test_set: str) -> Table:
    rows = tuple(
        (
            _system(pair.blocks).named,
            _system(pair.slices).named,
            pair.cleaned,
            str(pair.comparison.pairs),
            str(pair.comparison.animals),
            *_comparison_cells(pair.comparison),
        )
        for pair in against
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
    return Table(f"3d-against-2d-{test_set}", caption, columns, rows)


def _case_table(scores: Sequence[Score], test_set: str) -> Table:
    systems = in_order({score.system for score in scores if score.set == test_set} - {OBSERVERS})
    rows = []
    for system in systems:
        by_scan = summary.by_organ(scores, test_set, system.key)
        for which, scan in summary.cases(by_scan).items():
            organs = ", ".join(
                f"{words_of(organ)} {_two(score.dsc)} / {_two(score.hd95_mm)}"
                for organ, score in by_scan[scan].items()
            )
            mean = f"{summary.mean_dsc(by_scan[scan]):.3f}"
            rows.append((system.algorithm, system.model_here, which, scan, mean, organs))
    caption = (
        f"Best, intermediate and worst scans by mean DSC for {SETS[test_set]}; for each organ "
        "DSC / 95p HD in mm."
    )
    columns = ("Algorithm", "Model", "Case", "Scan", "Mean DSC", "Organs")
    return Table(f"cases-{test_set}", caption, columns, tuple(rows))


# Table 3


def _conformity_columns(structures: Sequence[str]) -> tuple[str, ...]:
    shorts = {"test1": "Native CT", "test2": "Contrast-enhanced CT"}
    values = [
        f"{short} {words_of(structure)}" for short in shorts.values() for structure in structures
    ]
    return ("Algorithm", "Model", "Of", *values)


def _conformity_caption() -> str:
    return (
        "Generalised conformity index (mean ± SD) against the consensus of the observers (2 of 3; "
        "for the cord both of 2; lungs joined), and among the observers themselves; the paper's "
        "values below. The best system is bold."
    )


def _about_left_out(left_out: Sequence[tuple[str, str]]) -> str:
    scans = ", ".join(scan for _, scan in left_out)
    return f" Left out, because a system missed an organ: {scans}." if left_out else ""


def _conformity_rows(
    ours: Sequence[Conformity], paper: Sequence[Conformity], structures: Sequence[str]
) -> tuple[tuple[str, ...], ...]:
    rows = []
    for system in in_order({cell.system for cell in ours}):
        start = system.algorithm
        rows.append(
            (start, system.model_here, OURS, *conformity_cells(ours, system.key, structures))
        )
        if any(cell.system == system.key and cell.organ in structures for cell in paper):
            rows.append(
                (start, system.model, PAPER, *conformity_cells(paper, system.key, structures))
            )
    return tuple(rows)


def conformity_cells(
    cells: Sequence[Conformity], system: str, structures: Sequence[str] = PAPER_STRUCTURES
) -> tuple[str, ...]:
    """The cells of a line of Table 3, as the paper writes them; the best system is bold."""
    texts = []
    for test_set in SETS:
        for structure in structures:
            column = [cell for cell in cells if (cell.set, cell.organ) == (test_set, structure)]
            shown = next((cell for cell in column if cell.system == system), None)
            if shown is None:
                texts.append(NOTHING)
                continue
            best = max((cell.mean for cell in column if cell.system != OBSERVERS), default=math.inf)
            sd = NOTHING if math.isnan(shown.sd) else f"{100 * shown.sd:.0f}%"
            text = f"{100 * shown.mean:.0f}% ± {sd}"
            texts.append(f"**{text}**" if shown.mean == best and system != OBSERVERS else text)
    return tuple(texts)


# Table 4


def _time_table(measured: Sequence[Time], timed: str) -> Table:
    paper = {time.system: time for time in published.times()}
    rows = []
    for time in measured:
        system = _system(time.system)
        start, stage = system.algorithm, STAGES.get(system.key, "")
        rows.append((start, system.model_here + stage, OURS, *time_cells(time)))
        if same := paper.get(time.system):
            rows.append((start, system.model + stage, PAPER, *time_cells(same)))
    if MANUAL not in {time.system for time in measured}:
        manual = _system(MANUAL)
        rows.append((manual.algorithm, manual.model, PAPER, *time_cells(paper[MANUAL])))
    caption = (
        "Mean preprocessing, inference and total runtime (image read until labels on disk) in "
        f"seconds a scan, {timed}; the paper's values below (NVIDIA Quadro RTX 6000)."
    )
    columns = ("Algorithm", "Model", "Of", *TIMES.values())
    return Table("table4", caption, columns, tuple(rows))


def time_cells(time: Time) -> tuple[str, ...]:
    """The three cells of a line of Table 4: whole seconds as in the paper, tenths below 10 s."""
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
    """Two decimals below ten, one from ten on, as in the paper."""
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
