"""Prints the scan log as a table for people, as a summary or as CSV."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from limn.node.config import Config, load_config
from limn.node.operate.history.choice import Choice, csv_of
from limn.node.operate.history.looks import looks_words
from limn.node.operate.history.printed import print_summary
from limn.node.operate.history.scans import logged_scan
from limn.node.operate.history.summary import Usual, summary_of
from limn.node.operate.journal_access import journal_to_read, plain_console
from limn.node.store.disk import scanlog
from limn.node.store.journal.reader import JournalReader
from limn.node.store.journal.rows import DeliveryRow, ScanRow
from limn.node.store.remedies import decision_notice, hold_notice, preview_notice

# A terminal with this many columns shows the stages too.
WIDE = 170
# A table of thousands of scans takes minutes to lay out, and nobody reads it.
LAST = 100
SHOWN_S = ("receive_s", "settle_s", "queue_s", "inference_s", "runtime_s", "overhead_s")


def show(
    config_path: Path, choice: Choice, *, as_csv: bool, summary: bool = False, last: int = LAST
) -> None:
    """Print the chosen scans, oldest first, and below them the live scans that are not finished.

    Parameters
    ----------
    summary : print what is usual among them instead
    last : how many scans, if the choice leaves none out; 0 for all. With ``as_csv`` or ``summary``
        all are printed
    """
    config = load_config(config_path)
    path = config.scan_log_path
    if as_csv:
        sys.stdout.write(csv_of(choice.rows_of(scanlog.rows(path))))
        return
    console = plain_console(soft_wrap=False)
    if summary:
        scans = [logged_scan(row) for row in scanlog.rows(path)]
        print_summary(console, summary_of(choice.of(scans), Usual(scans)))
        return
    all_rows = not choice.everything or not last
    # One more than is shown, to know whether there are more.
    found = scanlog.rows(path) if all_rows else scanlog.last_rows(path, last + 1)
    rows = choice.rows_of(found)
    if last and len(rows) > last:
        console.print(
            f"the last {last} scans; --last 0 lists all, --since, --animal and others choose"
        )
        rows = rows[-last:]
    console.print(_table(rows, wide=console.width >= WIDE))
    for row in rows:
        if row["reason"]:
            console.print(f"{row['scan_id']} {row['outcome']}: {row['reason']}")
    with journal_to_read(config) as journal:
        if journal is not None:
            _print_looks(journal, console, [row["scan_id"] for row in rows])
            _print_unfinished(journal, config, config_path, console, choice)


def _print_looks(journal: JournalReader, console: Console, names: Sequence[str]) -> None:
    """Print a line on each scan that a person has looked at."""
    for name, looks in journal.looks_at(names).items():
        console.print(f"{name} looked at{looks_words(looks)}", soft_wrap=True)


def _print_unfinished(
    journal: JournalReader, config: Config, config_path: Path, console: Console, choice: Choice
) -> None:
    """Print a line on each live scan that is held, waits or was refused.

    What a person decided about a scan stands in the table above once the scan is logged.
    """
    held = {scan.id for scan in journal.on_hold()}
    listed = {scan.id: scan for scan in (*journal.unfinished(), *journal.dismissed(0.0))}
    for scan in listed.values():
        if not choice.takes_animal(scan.animal):
            continue
        if scan.id in held:
            lines = [hold_notice(journal, scan, config, config_path)]
        else:
            lines = list(_unfinished(scan, journal.deliveries(scan.id)))
            decided = decision_notice(scan, journal.find_structure_set(scan.id))
            if decided and not scan.logged:
                lines.insert(0, decided)
            if scan.state == "ready" and (preview := preview_notice(journal, scan)):
                lines.append(preview)
        for line in lines:
            # On one line, so that a command in it can be copied.
            console.print(f"{scan.name} animal {scan.animal}: {line}", soft_wrap=True)


def _unfinished(row: ScanRow, deliveries: Sequence[DeliveryRow]) -> Iterator[str]:
    """Sentences on what a scan waits for, and on each destination that refused it."""
    if row.state == "ready":
        yield f"being contoured, try {row.tries}" if row.tries else "waits for a worker"
    if row.state == "superseded":
        yield f"not contoured: {row.reason}"
    for delivery in deliveries:
        if row.state == "contoured" and delivery.state == "waiting":
            yield (
                f"waits for {delivery.destination}, {delivery.tries} tries, last answer "
                f"{delivery.status or 'none'}"
            )
        if delivery.state == "refused":
            yield (
                f"{delivery.destination} REFUSED it with {delivery.status}; the structure set "
                "is kept"
            )


def _table(rows: Sequence[Mapping[str, str]], *, wide: bool) -> Table:
    """One line for each scan; the stages only on a wide terminal."""
    table = Table(title=f"{len(rows)} scan{'' if len(rows) == 1 else 's'}", box=SIMPLE_HEAD)
    stages = SHOWN_S if wide else ()
    for name in ("scan", "last slice UTC", "animal", "outcome"):
        table.add_column(name, no_wrap=True)
    for name in (*stages, "door_to_door_s"):
        shown = name.removesuffix("_s").replace("_", " ") + " s"
        table.add_column(shown if wide else "door s", justify="right", no_wrap=True)
    table.add_column("light", no_wrap=True)
    table.add_column("flags")
    for row in rows:
        table.add_row(
            row["scan_id"],
            row["last_slice_utc"][:19].replace("T", " "),
            row["animal"],
            row["outcome"],
            *(_seconds(row[name]) for name in (*stages, "door_to_door_s")),
            row.get("light", ""),
            " ".join(flag for flag in row["flags"].split() if not flag.startswith("light:")),
        )
    return table


def _seconds(value: str) -> str:
    return f"{float(value):.2f}" if value else "-"
