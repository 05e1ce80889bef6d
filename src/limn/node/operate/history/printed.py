"""Prints a summary of scans for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from limn.node.operate.history.scans import PART_OF, STAGE_WORDS, WAITING
from limn.node.operate.history.summary import Group, Spread, Summary, shown_s

# A terminal shows so many kinds of flags.
MOST_FLAGS = 12


def print_summary(console: Console, summary: Summary) -> None:
    """Counts; times, what waits apart from what computes; scanners, bundles; the slowest scan."""
    console.print(f"{summary.count} scan{'' if summary.count == 1 else 's'}")
    for name, counts in (
        ("outcomes", summary.outcomes),
        ("lights", summary.lights),
        ("flags", summary.flags),
    ):
        if counts:
            console.print(f"{name + ':':<10}{_counts(counts)}", soft_wrap=True)
    if summary.whole is None:
        console.print("none of them was delivered, so there are no times")
        return
    console.print(_times(summary))
    for title, groups in (("scanner", summary.scanners), ("bundle", summary.bundles)):
        console.print(_groups(title, groups))
    if summary.slowest is not None and summary.why is not None:
        scan = summary.slowest
        console.print(
            f"slowest: {scan.name}, animal {scan.animal}, last slice "
            f"{scan.last_slice_utc[:19].replace('T', ' ')} UTC, "
            f"{shown_s(scan.door_to_door_s or 0.0)} s: {summary.why.words}",
            soft_wrap=True,
        )


def _counts(counts: Mapping[str, int]) -> str:
    shown = [f"{name} {count}" for name, count in list(counts.items())[:MOST_FLAGS]]
    more = len(counts) - len(shown)
    return ", ".join([*shown, *([f"and {more} more"] if more else [])])


def _times(summary: Summary) -> Table:
    table = Table(box=SIMPLE_HEAD)
    table.add_column("seconds of delivered scans", no_wrap=True)
    for name in ("p50", "p95", "max"):
        table.add_column(name, justify="right", no_wrap=True)
    waits = [stage for stage in summary.stages if PART_OF[stage] in WAITING]
    computes = [stage for stage in summary.stages if PART_OF[stage] not in WAITING]
    _add(table, "door to door", summary.whole)
    table.add_section()
    for stage in waits:
        _add(table, f"waiting: {stage}, {STAGE_WORDS[stage]}", summary.stages[stage])
    if summary.person is not None:
        words = f"waiting: for a person, {summary.person.count} scans, in no other time"
        _add(table, words, summary.person)
    table.add_section()
    for stage in computes:
        _add(table, f"computing: {stage}, {STAGE_WORDS[stage]}", summary.stages[stage])
    return table


def _add(table: Table, name: str, found: Spread | None) -> None:
    table.add_row(name, *_spread(found))


def _spread(found: Spread | None) -> Iterable[str]:
    if found is None:
        return ("", "", "")
    return tuple(f"{value:.2f}" for value in (found.p50_s, found.p95_s, found.max_s))


def _groups(title: str, groups: Iterable[Group]) -> Table:
    table = Table(box=SIMPLE_HEAD)
    table.add_column(title, no_wrap=True)
    for name in ("scans", "p50", "p95", "max", "waiting p50", "p95", "networks p50", "p95"):
        table.add_column(name, justify="right", no_wrap=True)
    for group in groups:
        table.add_row(
            group.name or "(none)",
            str(group.count),
            *_spread(group.whole),
            *list(_spread(group.waiting))[:2],
            *list(_spread(group.networks))[:2],
        )
    return table
