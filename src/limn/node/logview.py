"""The scan log as a table for people, or as CSV."""

from __future__ import annotations

import csv
import sys
from datetime import date
from pathlib import Path

from rich.console import Console
from rich.table import Table

from limn.domain.errors import ConfigWrong
from limn.domain.timing import ScanRecord
from limn.node import scanlog
from limn.node.config import load_config
from limn.node.journal import Journal

SHOWN_S = ("receive_s", "settle_s", "queue_s", "inference_s", "runtime_s", "overhead_s")


def show(config_path: Path, *, as_csv: bool, since: str | None, animal: str | None) -> None:
    """Print the scans, oldest first; below them what still waits.

    Raises
    ------
    ConfigWrong
        If ``since`` is no date.
    """
    config = load_config(config_path)
    rows = [
        row
        for row in scanlog.rows(config.scan_log_path)
        if (animal is None or row["animal"] == animal)
        and (since is None or row["last_slice_utc"][:10] >= _day(since))
    ]
    if as_csv:
        writer = csv.DictWriter(sys.stdout, ScanRecord.columns(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return
    # What a file says of its animal is text, never markup.
    console = Console(markup=False, highlight=False)
    console.print(_table(rows))
    if not config.journal_path.exists():
        return
    journal = Journal(config.journal_path)
    for row in journal.scans():
        if row.state == "ready":
            console.print(f"{row.name} animal {row.animal}: waits for a worker")
        for delivery in journal.deliveries(row.id):
            if row.state == "contoured" and delivery.state == "waiting":
                console.print(
                    f"{row.name} animal {row.animal}: waits for {delivery.destination}, "
                    f"{delivery.tries} tries, last answer {delivery.status or 'none'}"
                )
            if delivery.state == "held":
                console.print(
                    f"{row.name} animal {row.animal}: {delivery.destination} REFUSED it with "
                    f"{delivery.status}; the structure set is kept"
                )
    journal.close()


def _table(rows: list[dict[str, str]]) -> Table:
    table = Table(title=f"{len(rows)} scans")
    for name in ("scan", "last slice (UTC)", "animal", "outcome"):
        table.add_column(name, no_wrap=True)
    for name in (*SHOWN_S, "door_to_door_s"):
        table.add_column(name.removesuffix("_s").replace("_", " ") + " s", justify="right")
    table.add_column("flags, reason")
    for row in rows:
        table.add_row(
            row["scan_id"],
            row["last_slice_utc"][:19].replace("T", " "),
            row["animal"],
            row["outcome"],
            *(f"{float(row[name]):.2f}" for name in (*SHOWN_S, "door_to_door_s")),
            " ".join(part for part in (row["flags"], row["reason"]) if part),
        )
    return table


def _day(since: str) -> str:
    try:
        return date.fromisoformat(since).isoformat()
    except ValueError as error:
        msg = f"--since {since}: YYYY-MM-DD expected"
        raise ConfigWrong(msg) from error
