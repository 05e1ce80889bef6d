"""Formats a table of text as Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

from limn.domain.spreadsheet import neutral


@dataclass(frozen=True, slots=True)
class Table:
    """A table of text.

    Attributes
    ----------
    name : of its files
    rows : a `**bold**` cell is the best of its column
    """

    name: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def as_markdown(table: Table) -> str:
    """A heading, the caption and the table as Markdown."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(_markdown_cell(cell) for cell in cells) + " |"

    head = [f"## {table.name}", "", _markdown_cell(table.caption), "", line(table.columns)]
    rule = "|" + "---|" * len(table.columns)
    return "\n".join([*head, rule, *(line(row) for row in table.rows)]) + "\n"


def as_csv(table: Table) -> str:
    """The cells as CSV, without caption or bold."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(table.columns)
    lines.writerows(
        [_csv_cell(cell.strip("*") if _is_bold(cell) else cell) for cell in row]
        for row in table.rows
    )
    return text.getvalue()


def _csv_cell(cell: str) -> str:
    """The cell as no formula; a number and a dash stay as they are."""
    try:
        float(cell)
    except ValueError:
        return cell if cell == "-" else neutral(cell)
    return cell


def as_latex(table: Table) -> str:
    """A LaTeX table environment with the rules of booktabs."""
    body = [" & ".join(_latex_cell(cell) for cell in row) + r" \\" for row in table.rows]
    return "\n".join(
        [
            r"% \usepackage{booktabs}",
            r"\begin{table}",
            rf"\caption{{{_latex_cell(table.caption)}}}",
            rf"\label{{tab:{table.name}}}",
            rf"\begin{{tabular}}{{{'l' * len(table.columns)}}}",
            r"\toprule",
            " & ".join(_latex_cell(column) for column in table.columns) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _is_bold(cell: str) -> bool:
    return cell.startswith("**") and cell.endswith("**")


def _markdown_cell(cell: str) -> str:
    return cell if _is_bold(cell) else cell.replace("*", r"\*").replace("|", r"\|")


def _latex_cell(cell: str) -> str:
    if _is_bold(cell):
        return rf"\textbf{{{_latex_cell(cell.strip('*'))}}}"
    for plain, tex in (
        ("\\", r"\textbackslash "),
        ("%", r"\%"),
        ("_", r"\_"),
        ("&", r"\&"),
        ("#", r"\#"),
        ("<", "$<$"),
        ("±", r"$\pm$"),
        ("*", "$^{*}$"),
    ):
        cell = cell.replace(plain, tex)
    return cell
