"""A live view of the node for a terminal: what comes in, runs, goes out or needs a person."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from limn.domain.one_line import one_line
from limn.node.config import load_config
from limn.node.host.doorbell import engine_runs
from limn.node.operate.journal_access import journal_to_read
from limn.node.operate.queue import QueueEntry, progress_words, silent_processes, unfinished_scans
from limn.node.store.disk.receiving import ReceivingSeries, read_receiving

EVERY_S = 0.5
BAR_WIDTH = 24
_STYLES = {
    **{"running": "bold", "held": "red", "refused by peer": "red", "refused": "red"},
    **{"failed": "red", "quarantined": "red", "delivering": "cyan"},
}


def watch(config_path: Path) -> None:
    """Show the view until Ctrl-C."""
    console = Console(emoji=False)
    with (
        suppress(KeyboardInterrupt),
        Live(console=console, screen=console.is_terminal, auto_refresh=False) as live,
    ):
        while True:
            live.update(view(config_path, time.time()), refresh=True)
            if not console.is_terminal:
                return
            time.sleep(EVERY_S)


def view(config_path: Path, now: float) -> RenderableType:
    """What is in the node at a time (UTC seconds)."""
    config = load_config(config_path)
    entries: list[QueueEntry] = []
    with journal_to_read(config) as journal:
        if journal is not None:
            entries = list(unfinished_scans(journal, config, config_path, now))
    runs = engine_runs(config)
    ready = runs and config.ready_path.exists()
    silent = silent_processes(config, config_path) if runs else []
    receiving = read_receiving(config.receiving_path, now)
    clock = datetime.fromtimestamp(now, UTC).astimezone().strftime("%H:%M:%S")
    state = "ready" if ready else "no worker is ready" if runs else "THE NODE IS STOPPED"
    head = Text(f"limn  {clock}  {state}", style="green" if ready and not silent else "bold red")
    notes = [Text(f"degraded: {line}", style="red") for line in silent]
    if not entries and not receiving:
        return Group(head, *notes, Text("nothing comes in, runs or waits"))
    return Group(head, *notes, _table(receiving, entries, now), *_actions(entries))


def _table(
    receiving: Sequence[ReceivingSeries], entries: Sequence[QueueEntry], now: float
) -> Table:
    table = Table(expand=True)
    for name in ("animal", "scan", "asleep", "state", "", "details"):
        table.add_column(name, no_wrap=name not in ("details",))
    for series in receiving:
        share = series.slices / series.expected if series.expected else None
        source = f"{series.came} from {series.sender}; " if series.came else f"{series.sender}: "
        table.add_row(
            _text(series.animal),
            "",
            asleep(series.since_utc, now),
            Text(series.state, style=series.light),
            _bar(share),
            _text(source + series.needs),
        )
    for entry in entries:
        table.add_row(
            _text(entry.animal),
            _text(entry.scan),
            asleep(entry.first_slice_utc, now),
            Text(entry.state, style=_STYLES.get(entry.state, "")),
            _bar(entry.share),
            _text(_details(entry)),
        )
    return table


def _details(entry: QueueEntry) -> str:
    parts = (
        progress_words(entry),
        f"number {entry.place}" if entry.place else "",
        f"to {entry.destination}" if entry.destination else "",
        entry.status,
        entry.reason,
    )
    return "; ".join(part for part in parts if part)


def _actions(entries: Sequence[QueueEntry]) -> list[Text]:
    """What a person must do, whole, below the table."""
    return [Text(f"{entry.scan}: {one_line(entry.do)}") for entry in entries if entry.do]


def asleep(since_utc: str, now: float) -> str:
    """Minutes and seconds since the first slice came; empty if that is not known."""
    try:
        since = datetime.fromisoformat(since_utc).timestamp()
    except ValueError:
        return ""
    return asleep_words(now - since)


def asleep_words(seconds: float) -> str:
    """Minutes and seconds, from an hour on hours too; days where no animal can sleep any more."""
    minutes, rest_s = divmod(max(0, int(seconds)), 60)
    if minutes >= 2 * 24 * 60:
        return f"{minutes // 1440} days"
    if minutes >= 60:
        return f"{minutes // 60}:{minutes % 60:02d}:{rest_s:02d}"
    return f"{minutes}:{rest_s:02d}"


def _bar(share: float | None) -> RenderableType:
    return "" if share is None else ProgressBar(total=1.0, completed=share, width=BAR_WIDTH)


def _text(text: str) -> Text:
    # A name is text, never markup.
    return Text(one_line(text))
