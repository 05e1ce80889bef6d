"""The numbers of the paper itself: Tables 1 to 4 of Malimban 2022 (Sci Rep 12, 1822)."""

from __future__ import annotations

import csv
from importlib.resources import files

from limn.lab.report.summary import Cell, Conformity, Row, Time
from limn.lab.words import MEASURES

# The columns of the CSV files are named without the unit.
_PREFIX = {"dsc": "dsc", "msd_mm": "msd", "hd95_mm": "hd95"}


def accuracy(test_set: str) -> tuple[Row, ...]:
    """Table 1 ("test1") or Table 2 ("test2"); values in parentheses as `Cell.cleaned`."""
    rows = []
    for line in _lines({"test1": "table1.csv", "test2": "table2.csv"}[test_set]):
        cells = {}
        for measure in MEASURES:
            name = _PREFIX[measure]
            clean_mean = line[f"{name}_clean_mean"]
            cells[measure] = Cell(
                mean=float(line[f"{name}_mean"]),
                sd=float(line[f"{name}_sd"]),
                median=float(line[f"{name}_median"]),
                star=line[f"{name}_star"] == "*",
                cleaned=(float(clean_mean), float(line[f"{name}_clean_sd"]))
                if clean_mean
                else None,
            )
        rows.append(Row(line["organ"], line["system"], cells))
    return tuple(rows)


def conformity() -> tuple[Conformity, ...]:
    """Table 3: index against the consensus, and among observers; 0 to 1."""
    return tuple(
        Conformity(
            line["system"], line["set"], line["organ"], float(line["mean"]), float(line["sd"])
        )
        for line in _lines("table3.csv")
    )


def times() -> tuple[Time, ...]:
    """Table 4, and the 40 minutes of manual contouring ("Contouring time"); seconds."""
    return tuple(
        Time(
            line["system"],
            *(float(line[name] or "nan") for name in ("preprocess_s", "inference_s", "runtime_s")),
        )
        for line in _lines("table4.csv")
    )


def _lines(name: str) -> list[dict[str, str]]:
    text = (files("limn.lab.report") / "paper" / name).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))
