"""The table of what an export kept, changed and removed: as CSV, and as a page for a person."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape

from pydicom.datadict import dictionary_description, keyword_for_tag

from limn import __version__
from limn.domain.spreadsheet import neutral
from limn.lab.export.deidentify import HeaderChanges
from limn.lab.export.profile import METHODS, Action

COLUMNS = ("tag", "attribute", "keyword", "action", "code", "elements")
_CODE_OF = {action.words: action.code for action in Action}
_GROUPS = {"removed": "Removed", "kept": "Kept", "changed": "Changed"}
_STYLE = """
:root { color-scheme: light dark; --ink: #1c2530; --faint: #5a6672; --paper: #fff; --line: #d5dbe1;
  --warn: #8a4b00; --warn-paper: #fff4e0 }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e9ee; --faint: #9fabb7; --paper: #14191f;
  --line: #35404b; --warn: #ffc46b; --warn-paper: #33260f } }
body { font: 16px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 68rem; margin: 0 auto; padding: 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem }
p, li { max-width: 46rem } .faint { color: var(--faint) }
ul.doubts { background: var(--warn-paper); color: var(--warn); padding: .8rem 1rem .8rem 2rem }
.wide { overflow-x: auto } table { border-collapse: collapse; width: 100% }
th, td { text-align: left; padding: .3rem .6rem .3rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top } td.n, th.n { text-align: right } td { overflow-wrap: break-word }
td.tag { font-family: ui-monospace, monospace; white-space: nowrap }
@media (max-width: 40rem) { .tag, .code { display: none } }
"""


@dataclass(frozen=True, slots=True)
class ExportSummary:
    """The numbers above the table.

    Attributes
    ----------
    left_out : reason to number of files
    doubts : what a person should look at before the export leaves
    """

    animals: int
    series: int
    structure_sets: int
    files: int
    left_out: Mapping[str, int]
    doubts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Row:
    tag: str
    attribute: str
    keyword: str
    action: str
    elements: int

    @property
    def code(self) -> str:
        """The action's code in Table E.1-1; Z for what was emptied."""
        return _CODE_OF.get(self.action, "Z" if self.action.startswith("emptied") else "D")

    @property
    def group(self) -> str:
        """The table of the page that it stands in."""
        if self.action == Action.REMOVE.words:
            return "removed"
        return "kept" if self.action.startswith("kept") else "changed"


def as_csv(changes: HeaderChanges) -> str:
    """One line for each attribute and what was done with it."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(COLUMNS)
    for row in _rows(changes):
        cells = (row.tag, row.attribute, row.keyword, row.action, row.code)
        lines.writerow([*(neutral(cell) for cell in cells), row.elements])
    return text.getvalue()


def as_page(changes: HeaderChanges, summary: ExportSummary) -> str:
    """The table as a page that stands alone: no script, nothing from elsewhere."""
    rows = list(_rows(changes))
    parts = [
        f"<h1>What left the site</h1><p>{summary.files} files: {summary.series} CT series and "
        f"{summary.structure_sets} structure sets of {summary.animals} animals. Made by limn "
        f"{escape(__version__)} by PS3.15 Annex E: "
        f"{escape('; '.join(f'{meaning} ({value})' for value, meaning in METHODS))}.</p>",
        "<p>Every UID is new, the same one for the same old one. The dates of an animal moved by "
        "one number of days, so that intervals stay; times of day stay. Coordinates of contours "
        "and pixels are byte for byte those of the input. An attribute that is not in the table "
        "of what may stay was removed.</p>",
    ]
    if summary.doubts:
        items = "".join(f"<li>{escape(doubt)}</li>" for doubt in summary.doubts)
        parts.append(f"<h2>Look at this before it leaves</h2><ul class=doubts>{items}</ul>")
    if summary.left_out:
        items = "".join(
            f"<li>{count} x {escape(why)}</li>" for why, count in summary.left_out.items()
        )
        parts.append(f"<h2>Left out</h2><ul>{items}</ul>")
    parts.append(_texts(changes))
    for group, title in _GROUPS.items():
        own = [row for row in rows if row.group == group]
        parts.append(f"<h2>{title}: {len(own)} attributes</h2>{_table(own)}")
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content="
        f'"width=device-width, initial-scale=1"><title>What left the site</title><style>{_STYLE}'
        f"</style><body><main>{''.join(parts)}</main></body></html>\n"
    )


def _texts(changes: HeaderChanges) -> str:
    """Every text that stayed and that a person or program had written freely."""
    if not changes.texts:
        return "<h2>Texts that stayed</h2><p>None.</p>"
    lines = "".join(
        f"<tr><td>{escape(dictionary_description(keyword))}<td>{escape(text)}<td class=n>{count}"
        for (keyword, text), count in sorted(changes.texts.items())
    )
    return (
        "<h2>Texts that stayed</h2><p>Read them: a program can't tell a name that stands nowhere "
        "else in the input.</p><div class=wide><table><tr><th>Attribute<th>Text<th class=n>Files "
        f"or ROIs{lines}</table></div>"
    )


def _table(rows: list[_Row]) -> str:
    lines = "".join(
        f"<tr><td class=tag>{escape(row.tag)}<td>{escape(row.attribute)}<td>{escape(row.action)}"
        f"<td class=code>{row.code}<td class=n>{row.elements}"
        for row in rows
    )
    return (
        "<div class=wide><table><tr><th class=tag>Tag<th>Attribute<th>What was done"
        f"<th class=code>Code<th class=n>Elements{lines}</table></div>"
    )


def _rows(changes: HeaderChanges) -> Iterator[_Row]:
    for (attribute, words), count in sorted(changes.done.items()):
        tag = attribute.split(" ", 1)[0]
        digits = tag.strip("()").replace(",", "")
        number = int(digits, 16) if "x" not in digits else 0
        keyword = keyword_for_tag(number) if number else ""
        try:
            name = dictionary_description(number) if number else "private attributes"
        except KeyError:
            name = "not in the dictionary of DICOM"
        yield _Row(tag, name, keyword, words, count)
