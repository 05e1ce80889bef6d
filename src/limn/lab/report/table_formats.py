"""A table as text, and the same table as Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table as text.

    Attributes
    ----------
    name : of its files
    caption : what it shows, and how
    rows : a `**bold**` cell is the best of its column
    """

    name: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def as_markdown(sheet: Sheet) -> str:
    """A heading, the caption, the table."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(_markdown_cell(cell) for cell in cells) + " |"

    head = [f"## {sheet.name}", "", _markdown_cell(sheet.caption), "", line(sheet.columns)]
    rule = "|" + "---|" * len(sheet.columns)
    return "\n".join([*head, rule, *(line(row) for row in sheet.rows)]) + "\n"


def as_csv(sheet: Sheet) -> str:
    """The cells, without caption or bold."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(sheet.columns)
    lines.writerows(
        [cell.strip("*") if _is_bold(cell) else cell for cell in row] for row in sheet.rows
    )
    return text.getvalue()


def as_latex(sheet: Sheet) -> str:
    """A table environment with booktabs' rules."""
    body = [" & ".join(_latex_cell(cell) for cell in row) + r" \\" for row in sheet.rows]
    return "\n".join(
        [
            r"% \usepackage{booktabs}",
            r"\begin{table}",
            rf"\caption{{{_latex_cell(sheet.caption)}}}",
            rf"\label{{tab:{sheet.name}}}",
            rf"\begin{{tabular}}{{{'l' * len(sheet.columns)}}}",
            r"\toprule",
            " & ".join(_latex_cell(column) for column in sheet.columns) + r" \\",
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
