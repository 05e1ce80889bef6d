"""What is in the node now, for its operator: what waits, what runs, what somebody must do.

Reads the journal and asks the disk, nothing else, so that it answers whether the node runs or not.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from limn.node.config import Config, load_config
from limn.node.host.doorbell import engine_runs
from limn.node.store import space
from limn.node.store.reader import JournalReader
from limn.node.store.remedies import (
    end_reason,
    release_command,
    resend_command,
    retry_command,
)
from limn.node.store.rows import ScanRow
from limn.node.store.schema import LIVE

# A refused or failed scan that nobody minds leaves the list after this long; `limn log` keeps it.
SHOWN_DAYS = 7.0


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueEntry:
    """One line: a scan that waits or runs, one of its deliveries, or what somebody must mend.

    Attributes
    ----------
    state : "running", "waiting", "delivering", "held", "refused by peer", "refused", "failed" or
        "quarantined"
    place : 1 for the scan that runs next; None for what does not wait for a worker
    tries : of the worker, or of the delivery
    since_utc : begin of the try that runs, else when it came, was contoured or was held
    next_try_utc : of a delivery
    status : the destination's last answer
    do : what an operator types or does; empty where limn goes on by itself
    """

    scan: str
    animal: str
    state: str
    since_utc: str
    place: int | None = None
    tries: int = 0
    destination: str = ""
    next_try_utc: str = ""
    status: str = ""
    reason: str = ""
    do: str = ""


def show(config_path: Path, *, as_json: bool) -> None:
    """Print what is in the node; one line if it is empty."""
    config = load_config(config_path)
    entries: list[QueueEntry] = []
    cohort: Counter[str] = Counter()
    if config.journal_path.exists():
        with closing(JournalReader(config.journal_path)) as journal:
            entries = list(standing(journal, config_path, time.time()))
            cohort = cohort_counts(journal)
    runs = engine_runs(config)
    ready = runs and config.ready_path.exists()
    if as_json:
        said = {
            "node": ("ready" if ready else "not ready") if runs else "stopped",
            "disk": _shortage(config),
            "entries": [asdict(entry) for entry in entries],
            "cohort": dict(cohort),
        }
        sys.stdout.write(json.dumps(said, indent=2) + "\n")
        return
    _print(config, entries, cohort, runs=runs, ready=ready)


def standing(journal: JournalReader, config_path: Path, now: float) -> Iterator[QueueEntry]:
    """Every live scan that is not done: what runs first, what somebody must mend last."""
    yield from _for_a_worker(journal)
    scans = [row for row in journal.scans() if row.priority >= LIVE]
    contoured = [row for row in scans if row.state == "contoured"]
    held = {row.id for row in journal.on_hold()}
    for row in contoured:
        if row.id in held:
            yield _on_hold(journal, row, config_path)
    nobody_waits = held | {row.id for row in journal.discarded()}
    for row in contoured:
        if row.id not in nobody_waits:
            yield from _for_a_destination(journal, row, config_path)
    mended = {row.predecessor for row in contoured}
    for row in scans:
        old = now - row.ready_at > SHOWN_DAYS * 86400 and row.state != "quarantined"
        if row.state in ("refused", "failed", "quarantined") and row.id not in mended and not old:
            yield _ended(journal, row, config_path)


def cohort_counts(journal: JournalReader) -> Counter[str]:
    """How many scans of `limn contour DIR...` wait, run, are contoured, refused and so on."""
    counts: Counter[str] = Counter()
    for row in journal.scans():
        if row.priority < LIVE:
            running = row.state == "ready" and row.started_at is not None
            counts["running" if running else "waiting" if row.state == "ready" else row.state] += 1
    return counts


def _entry(row: ScanRow, state: str, since: float, **more: object) -> QueueEntry:
    values: dict[str, object] = {
        "scan": row.name,
        "animal": row.animal,
        "state": state,
        "since_utc": _utc(since),
    }
    return QueueEntry(**(values | more))  # type: ignore[arg-type]


def _for_a_worker(journal: JournalReader) -> Iterator[QueueEntry]:
    ready = [row for row in journal.ready() if row.priority >= LIVE]
    for row in ready:
        if row.started_at is not None:
            yield _entry(row, "running", row.started_at, tries=row.tries)
    waiting = [row for row in ready if row.started_at is None]
    for place, row in enumerate(waiting, 1):
        yield _entry(row, "waiting", row.ready_at, place=place, tries=row.tries)


def _on_hold(journal: JournalReader, row: ScanRow, config_path: Path) -> QueueEntry:
    return _entry(
        row,
        "held",
        float(row.record["contoured_at"]),
        reason=journal.structure_set_of(row.id).held or "",
        do=f"look at its picture.png, then: {release_command(row, config_path)}",
    )


def _for_a_destination(
    journal: JournalReader, row: ScanRow, config_path: Path
) -> Iterator[QueueEntry]:
    since = float(row.record.get("contoured_at", row.ready_at))
    for delivery in journal.deliveries(row.id):
        if delivery.state == "waiting":
            yield _entry(
                row,
                "delivering",
                since,
                tries=delivery.tries,
                destination=delivery.destination,
                next_try_utc=_utc(delivery.next_at) if delivery.next_at else "",
                status=delivery.status,
            )
        elif delivery.state == "refused":
            yield _entry(
                row,
                "refused by peer",
                since,
                tries=delivery.tries,
                destination=delivery.destination,
                status=delivery.status,
                reason=f"{delivery.destination} refused the structure set with {delivery.status}",
                do=f"mend it there, then: {resend_command(row, config_path)}",
            )


def _ended(journal: JournalReader, row: ScanRow, config_path: Path) -> QueueEntry:
    if journal.find_structure_set(row.id) is None:
        do = "send the series again from the scanner"
    elif row.state == "refused":
        do = f"mend what the reason names, then: {retry_command(row, config_path)}"
    else:
        do = f"look at limn.log, then: {retry_command(row, config_path)}"
    return _entry(row, row.state, row.ready_at, tries=row.tries, reason=end_reason(row), do=do)


def _print(
    config: Config, entries: list[QueueEntry], cohort: Counter[str], *, runs: bool, ready: bool
) -> None:
    # What a file says of its animal is text, never markup.
    console = Console(markup=False, highlight=False)
    if short := _shortage(config):
        console.print(short, soft_wrap=True)
    if not entries and not cohort["waiting"] and not cohort["running"]:
        node = "" if runs else "; the node is stopped"
        console.print(f"nothing waits in {config.data_dir}{node}", soft_wrap=True)
        return
    if not runs:
        console.print("the node is stopped: what waits here goes on when it starts")
    elif not ready:
        console.print("no worker is ready: scans wait until one is")
    if entries:
        table = Table(box=SIMPLE_HEAD)
        for name in ("scan", "animal", "state", "since UTC"):
            table.add_column(name, no_wrap=True)
        table.add_column("details")
        for entry in entries:
            since = entry.since_utc[:19].replace("T", " ")
            table.add_row(entry.scan, entry.animal, entry.state, since, _more(entry))
        console.print(table)
    for entry in entries:
        if entry.do:
            # Unbroken: a command in it is there to be copied.
            console.print(f"{entry.scan} animal {entry.animal}: {entry.do}", soft_wrap=True)
    if cohort["waiting"] or cohort["running"]:
        console.print(
            f"behind them, of `limn contour`: {cohort['running']} running, "
            f"{cohort['waiting']} waiting",
            soft_wrap=True,
        )


def _shortage(config: Config) -> str:
    try:
        return space.shortage(config)
    except OSError:
        return ""


def _more(entry: QueueEntry) -> str:
    if entry.state == "running":
        return f"try {entry.tries}"
    if entry.state == "waiting":
        return f"number {entry.place}" + (f", try {entry.tries + 1}" if entry.tries else "")
    if entry.state == "delivering":
        answer = f"; {entry.status}" if entry.status else ""
        again = f"; next {entry.next_try_utc[11:19]}" if entry.next_try_utc else ""
        return f"to {entry.destination}: {entry.tries} tries{answer}{again}"
    return entry.reason


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
