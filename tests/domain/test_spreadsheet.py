"""No text of others is a formula in a CSV that limn writes, and limn reads it as it was."""

import csv
from pathlib import Path

import pytest

from limn.domain.spreadsheet import neutral, neutral_cell, plain
from limn.formats.label_files import table_of
from limn.lab.data import dataset
from limn.lab.measure.scores import Score, read_scores, write_scores
from limn.lab.report.table_formats import Table, as_csv
from limn.node.batch.notes import TABLE, Note, write_tables

CALC = "=cmd|' /C calc'!A1"
FORMULAS = [CALC, "@SUM(1)", "+1+1", "-1+1", " =1", "\t=1", "\uff1d1", "'=1", "'+1"]


@pytest.mark.parametrize("text", [*FORMULAS, "Heart", "'quoted'", "", "GTV-1", "two\nlines"])
def test_a_text_comes_back_as_it_was(text: str) -> None:
    """And is no formula on its way."""
    cell = neutral(text)
    assert plain(cell) == text
    assert cell == text if text not in FORMULAS else cell == f"'{text}"


def test_a_number_stays_a_number() -> None:
    """A negative one too."""
    assert neutral_cell(-1.5) == -1.5
    assert neutral_cell("-1.5") == "'-1.5"


def cells(path: Path) -> set[str]:
    """Every cell of a CSV."""
    return {cell for row in csv.reader(path.open(newline="", encoding="utf-8")) for cell in row}


def rois(path: Path) -> None:
    """As `limn rois` and `limn contour` write one."""
    path.write_bytes(table_of([{"roi": CALC, "volume_mm3": -1.5}]))


def cohort(path: Path) -> None:
    """As `limn contour` of several folders writes one."""
    note = Note(
        series="1",
        series_instance_uid="2.25.1",
        fingerprint="",
        bundle_sha256="",
        outcome="refused",
        animal=CALC,
    )
    write_tables(path.parent, [note])
    (path.parent / TABLE).rename(path)


def scores(path: Path) -> None:
    """As `limn lab` writes them."""
    write_scores(path, [Score("test1", "s", CALC, "limn", "", "no", "", "runtime_s", 1.5)])
    assert read_scores(path)[0].animal == CALC


def report(path: Path) -> None:
    """As `limn lab` writes a table of the study."""
    path.write_text(as_csv(Table("t", "", ("a", "b"), ((f"**{CALC}**", "-1.5"), ("-", "")))))
    assert {"-1.5", "-"} <= cells(path)


def manifest(path: Path) -> None:
    """As `limn lab import` writes it."""
    values = dict.fromkeys(dataset.COLUMNS, "") | {"animal": CALC, "split": "test1"}
    dataset._write_manifest(path.parent, [dataset.Entry(**values)])
    (path.parent / dataset.MANIFEST).rename(path)
    path.with_name(dataset.MANIFEST).write_bytes(path.read_bytes())
    assert dataset.read_dataset(path.parent)[0].animal == CALC


@pytest.mark.parametrize("write", [rois, cohort, scores, report, manifest])
def test_no_table_has_a_formula(write, tmp_path: Path) -> None:
    """Of a name that others gave."""
    write(tmp_path / "table.csv")
    assert f"'{CALC}" in cells(tmp_path / "table.csv")
    assert CALC not in cells(tmp_path / "table.csv")
