"""Prints how the shadow bundle differs from what was delivered: each organ, and the worst scans."""

from __future__ import annotations

import csv
import statistics
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from limn.domain.records import OrganDifference
from limn.domain.scan import Organ
from limn.domain.spreadsheet import neutral_cell
from limn.node.config import load_config
from limn.node.operate.journal_access import plain_console
from limn.node.store.disk.comparisons import (
    Comparison,
    path_of,
    read_comparisons,
    worst_first,
)

LAST, WORST = 50, 5
ORGAN_COLUMNS = (
    *("organ", "dsc", "hd95_mm", "old_mm3", "new_mm3", "change_percent"),
    *("old_light", "new_light"),
)
COLUMNS = ("scan", "animal", "old", "new", "outcome", "reason", *ORGAN_COLUMNS)


def show_comparisons(config_path: Path, *, last: int = LAST, as_csv: bool = False) -> None:
    """Print the last comparisons of each pair of bundles; with ``as_csv`` a row for each organ."""
    config = load_config(config_path)
    found = read_comparisons(config.shadow_dir)
    if as_csv:
        writer = csv.DictWriter(sys.stdout, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(row for each in found for row in rows_of(each))
        return
    console = plain_console(soft_wrap=False)
    if not found:
        shadow = config.model.shadow
        wanted = "the next lull compares the last ones" if shadow else "set model.shadow"
        console.print(f"no scan was compared with a shadow bundle; {wanted}")
    pairs = dict.fromkeys((each.old_sha256, each.new_sha256) for each in found)
    for pair in pairs:
        group = [each for each in found if (each.old_sha256, each.new_sha256) == pair]
        _print(console, group[-last:] if last else group, config.shadow_dir)


def rows_of(comparison: Comparison) -> Iterator[dict[str, object]]:
    """The rows of a comparison in a CSV table: one for each organ, or why there is none."""
    head = {name: getattr(comparison, name) for name in ("animal", "old", "new", "outcome")}
    head |= {"scan": comparison.name, "reason": comparison.reason}
    if not comparison.organs:
        yield {name: neutral_cell(value) for name, value in head.items()}
    for each in comparison.organs:
        organ = asdict(each) | {"change_percent": each.change_percent}
        yield {name: neutral_cell(value) for name, value in (head | organ).items()}


def _print(console: Console, group: Sequence[Comparison], folder: Path) -> None:
    compared = [each for each in group if each.outcome == "compared"]
    first = group[0]
    console.print(
        f"{first.new} ({first.new_sha256[:12]}) beside {first.old} ({first.old_sha256[:12]}): "
        f"{len(compared)} of {len(group)} scans compared"
    )
    if compared:
        console.print(organ_table([each.organs for each in compared]))
        console.print("the scans that differ most:")
    for each in worst_first(compared)[:WORST]:
        console.print(_line(each, folder), soft_wrap=True)
    for each in group:
        if each.outcome == "failed":
            console.print(f"{each.name} animal {each.animal}: {each.reason}", soft_wrap=True)


def organ_table(scans: Sequence[Sequence[OrganDifference]]) -> Table:
    """A line for each organ: how the new contours differ from the old ones."""
    table = Table(box=SIMPLE_HEAD)
    for name in ("organ", "scans", "DSC median", "DSC least", "95 % mm median", "95 % mm most"):
        table.add_column(name, justify="left" if name == "organ" else "right", no_wrap=True)
    table.add_column("volume change", justify="right", no_wrap=True)
    table.add_column("lights that changed")
    by_organ: dict[Organ, list[OrganDifference]] = {}
    for organs in scans:
        for each in organs:
            by_organ.setdefault(each.organ, []).append(each)
    for organ, found in by_organ.items():
        table.add_row(organ, str(len(found)), *_figures(found), _lights(found))
    return table


def _figures(found: Sequence[OrganDifference]) -> list[str]:
    dsc = [each.dsc for each in found if each.dsc is not None]
    hd95_mm = [each.hd95_mm for each in found if each.hd95_mm is not None]
    change = [each.change_percent for each in found if each.change_percent is not None]
    middle = f"{statistics.median(change):+.1f} %" if change else ""
    span = f" ({min(change):+.1f} to {max(change):+.1f})" if change else ""
    return [
        f"{statistics.median(dsc):.3f}" if dsc else "",
        f"{min(dsc):.3f}" if dsc else "",
        f"{statistics.median(hd95_mm):.2f}" if hd95_mm else "",
        f"{max(hd95_mm):.2f}" if hd95_mm else "",
        middle + span,
    ]


def _lights(found: Sequence[OrganDifference]) -> str:
    changed = Counter(
        f"{each.old_light or 'none'} to {each.new_light or 'none'}"
        for each in found
        if each.old_light != each.new_light
    )
    return ", ".join(f"{count} {words}" for words, count in changed.most_common())


def _line(comparison: Comparison, folder: Path) -> str:
    organ = min(
        (each for each in comparison.organs if each.dsc is not None),
        key=lambda each: each.dsc or 0.0,
        default=None,
    )
    words = "no organ in both" if organ is None else worst_words(organ)
    picture = path_of(folder, comparison.scan, comparison.new_sha256, ".png")
    shown = f"; {picture}" if picture.exists() else ""
    return f"{comparison.name} animal {comparison.animal}: {words}{shown}"


def worst_words(each: OrganDifference) -> str:
    """An organ's difference in a few words."""
    far = "" if each.hd95_mm is None else f", 95 % {each.hd95_mm:.2f} mm"
    change = "" if each.change_percent is None else f", {each.change_percent:+.1f} % volume"
    return f"{each.organ} DSC {each.dsc or 0.0:.3f}{far}{change}"
