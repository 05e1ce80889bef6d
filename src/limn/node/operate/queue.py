"""Lists the scans in the node, for its operator: which wait, which run, which need an action.

It reads the journal and the disk alone, so that it works with a running and a stopped node.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table

from limn.node.config import Config, load_config
from limn.node.dimse.answers import answer_words
from limn.node.heartbeat import silent_now
from limn.node.host.doorbell import engine_runs
from limn.node.host.processes import processes
from limn.node.operate.journal_access import journal_to_read, plain_console
from limn.node.restarts import loop_noted
from limn.node.store.disk import space
from limn.node.store.disk.receiving import ReceivingSeries, read_receiving
from limn.node.store.disk.running import RunningScan, read_running
from limn.node.store.journal.reader import JournalReader
from limn.node.store.journal.rows import ScanRow
from limn.node.store.journal.schema import LIVE
from limn.node.store.journal.states import PreviewState, ScanState
from limn.node.store.remedies import (
    discard_command,
    end_reason,
    preview_notice,
    release_command,
    release_words,
    resend_command,
    retry_command,
)

# A refused, failed or dismissed scan leaves the lists after this time; `limn log` keeps it.
SHOWN_DAYS = 7.0


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueEntry:
    """One line: a scan that waits or runs, one of its deliveries, or a scan that needs an action.

    Attributes
    ----------
    state : "running", "waiting", "delivering", "held", "refused by peer", "refused", "failed" or
        "quarantined"
    place : 1 for the scan that runs next; None for a scan that waits for no worker
    tries : tries of the worker, or of the delivery
    since_utc : start of the try that runs, else the time when it came or was contoured
    next_try_utc : time of the next try of a delivery
    status : the destination's last answer
    do : the action or command of an operator; empty where limn continues by itself
    light : of a contoured scan
    first_slice_utc : when its first slice came; the animal has slept since then at least
    stage, share, of_stage : of a scan that runs: what the worker does, how much of its work and of
        this stage is done (0 to 1); empty or None where that is not known
    ends_utc : when the contours of a scan that runs or waits are expected; empty as well
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
    light: str = ""
    first_slice_utc: str = ""
    stage: str = ""
    share: float | None = None
    of_stage: float | None = None
    ends_utc: str = ""


def show(config_path: Path, *, as_json: bool) -> None:
    """Print the scans in the node; one line if there are none."""
    config = load_config(config_path)
    entries: list[QueueEntry] = []
    cohort: Counter[str] = Counter()
    with journal_to_read(config) as journal:
        if journal is not None:
            entries = list(unfinished_scans(journal, config, config_path, time.time()))
            cohort = cohort_counts(journal)
    runs = engine_runs(config)
    ready = runs and config.ready_path.exists()
    receiving = read_receiving(config.receiving_path, time.time())
    silent = silent_processes(config, config_path) if runs else []
    loops = [
        loop_noted(config.restarts_path(each.name)) for each in processes(config, config_path, None)
    ]
    restarting = [line for line in loops if line]
    if as_json:
        answer = {
            "node": _node_state(runs=runs, ready=ready, silent=bool(silent)),
            "silent": silent,
            "restarting": restarting,
            "disk": _shortage(config),
            "receiving": [asdict(series) for series in receiving],
            "entries": [asdict(entry) for entry in entries],
            "cohort": dict(cohort),
        }
        sys.stdout.write(json.dumps(answer, indent=2) + "\n")
        return
    for line in (*silent, *restarting):
        plain_console(soft_wrap=True).print(f"degraded: {line}")
    for series in receiving:
        plain_console(soft_wrap=True).print(_receiving_line(series))
    if receiving and not entries and not cohort["waiting"] and not cohort["running"]:
        return
    _print(config, entries, cohort, runs=runs, ready=ready)


def _receiving_line(series: ReceivingSeries) -> str:
    animal = f"animal {series.animal} from " if series.animal else ""
    came = f"{series.came}; " if series.came else ""
    until = f", until {series.until_utc[11:19]} UTC" if series.until_utc else ""
    return f"{series.state}: {animal}{series.sender}, {came}{series.needs}{until}"


def _node_state(*, runs: bool, ready: bool, silent: bool) -> str:
    if not runs:
        return "stopped"
    if silent:
        return "degraded"
    return "ready" if ready else "not ready"


def silent_processes(config: Config, config_path: Path) -> list[str]:
    """A sentence for each process of this host, and each courier, whose work stands still."""
    names = [each.name for each in processes(config, config_path, None)]
    return [
        f"{name} has given no sign of life for {silent_s:.0f} s"
        for name, silent_s in silent_now(config.heartbeats_dir, names).items()
    ]


def unfinished_scans(
    journal: JournalReader, config: Config, config_path: Path, now: float
) -> Iterator[QueueEntry]:
    """Every live scan that is not done: first those that run, last those that ended badly."""
    yield from _worker_entries(journal, read_running(config.running_path, now))
    contoured = journal.unfinished("contoured")
    held = {row.id for row in journal.on_hold()}
    for row in contoured:
        if row.id in held:
            yield _held_entry(journal, row, config_path)
    for row in contoured:
        if row.id not in held:
            yield from _delivery_entries(journal, row, config_path)
    for number in sorted(journal.scans_with_companions()):
        yield from _companion_entries(journal, journal.scan(number), config_path)
    followed = journal.newer_versions("contoured")
    for row in journal.ended_badly(now - SHOWN_DAYS * 86400):
        if row.id not in followed:
            yield _ended_entry(journal, row, config_path)


def cohort_counts(journal: JournalReader) -> Counter[str]:
    """How many scans of `limn contour DIR...` wait, run, are contoured, refused and so on."""
    counts: Counter[str] = Counter()
    for state, started, count in journal.cohort_counts():
        word = ("running" if started else "waiting") if state == "ready" else state
        counts[word] += count
    return counts


def _entry(row: ScanRow, state: str, since: float, **more: object) -> QueueEntry:
    values: dict[str, object] = {
        "scan": row.name,
        "animal": row.animal,
        "state": state,
        "since_utc": _utc(since),
        "light": row.record.get("light", ""),
        "first_slice_utc": _utc(row.last_slice_at - row.receive_s),
    }
    return QueueEntry(**(values | more))  # type: ignore[arg-type]


def _worker_entries(
    journal: JournalReader, running: Mapping[int, RunningScan]
) -> Iterator[QueueEntry]:
    ready = [row for row in journal.ready() if row.priority >= LIVE]
    previews = {row.id: journal.preview_of(row.id) for row in ready}
    begun = {
        number: each.begun_at
        for number, each in previews.items()
        if each is not None and each.state == PreviewState.RUNNING
    }
    for row in ready:
        reason = preview_notice(journal, row)
        if row.started_at is not None:
            how_far = _how_far(running.get(row.id))
            yield _entry(row, "running", row.started_at, tries=row.tries, reason=reason, **how_far)
        elif row.id in begun:
            how_far = _how_far(running.get(row.id))
            yield _entry(row, "running", begun[row.id], tries=row.tries, reason=reason, **how_far)
        yield from _preview_entries(journal, row)
    waiting = [row for row in ready if row.started_at is None and row.id not in begun]
    superseded = {row.id: row.name for row in journal.superseded_scans()} if waiting else {}
    for place, row in enumerate(waiting, 1):
        replaced = superseded.get(row.predecessor or 0)
        reason = f"replaces {replaced}, which no worker had begun" if replaced else ""
        reason = "; ".join(part for part in (reason, preview_notice(journal, row)) if part)
        expected = _how_far(running.get(row.id)).get("ends_utc", "")
        more = {"place": place, "tries": row.tries, "reason": reason, "ends_utc": expected}
        yield _entry(row, "waiting", row.ready_at, **more)


def _how_far(scan: RunningScan | None) -> dict[str, object]:
    if scan is None:
        return {}
    return {
        "stage": scan.stage.removesuffix("_s"),
        "share": scan.share,
        "of_stage": scan.of_stage,
        "ends_utc": "" if scan.ends_at is None else _utc(scan.ends_at),
    }


def _preview_entries(journal: JournalReader, row: ScanRow) -> Iterator[QueueEntry]:
    """The destinations that a scan's preview waits for."""
    preview = journal.preview_of(row.id)
    for delivery in journal.preview_deliveries(row.id):
        if preview is not None and delivery.state in ("waiting", "sending"):
            yield _entry(
                row,
                "delivering",
                preview.begun_at,
                tries=delivery.tries,
                destination=delivery.destination,
                status=delivery.status,
                reason="PREVIEW",
            )


def _held_entry(journal: JournalReader, row: ScanRow, config_path: Path) -> QueueEntry:
    return _entry(
        row,
        "held",
        float(row.record["contoured_at"]),
        reason=journal.structure_set_of(row.id).held or "",
        do=f"look at its picture.png, then: {release_command(row, config_path)}",
    )


def _delivery_entries(
    journal: JournalReader, row: ScanRow, config_path: Path
) -> Iterator[QueueEntry]:
    since = float(row.record.get("contoured_at", row.ready_at))
    structure_set = journal.structure_set_of(row.id)
    released = release_words(structure_set) if structure_set.released_at is not None else ""
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
                reason=released,
            )
        elif delivery.state == "refused":
            said = answer_words(delivery.status)
            why = f"{delivery.destination} refused the structure set with {said}"
            yield _entry(
                row,
                "refused by peer",
                since,
                tries=delivery.tries,
                destination=delivery.destination,
                status=delivery.status,
                reason="; ".join(part for part in (why, released) if part),
                do=f"mend it there, then: {resend_command(row, config_path)}",
            )


def _companion_entries(
    journal: JournalReader, row: ScanRow, config_path: Path
) -> Iterator[QueueEntry]:
    """Forms that follow a structure set which the destination has."""
    since = float(row.record.get("contoured_at", row.ready_at))
    for companion in journal.companions(row.id):
        destination, form = companion.destination, companion.form.upper()
        if companion.state == "waiting":
            yield _entry(
                row,
                "delivering",
                since,
                tries=companion.tries,
                destination=destination,
                status=companion.status,
                reason=form,
            )
        elif companion.state == "refused":
            why = f"{destination} has the structure set, but not its {form}: {companion.status}"
            yield _entry(
                row,
                "refused by peer",
                since,
                tries=companion.tries,
                destination=destination,
                status=companion.status,
                reason=why,
                do=f"mend it, then send both again: {resend_command(row, config_path)}",
            )


def _ended_entry(journal: JournalReader, row: ScanRow, config_path: Path) -> QueueEntry:
    if journal.find_structure_set(row.id) is None:
        do = "send the series again from the scanner"
    elif row.state == "refused":
        do = f"mend what the reason names, then: {retry_command(row, config_path)}"
    else:
        do = f"look at limn.log, then: {retry_command(row, config_path)}"
    if row.predecessor is not None:
        earlier = journal.scan(row.predecessor)
        if earlier.state == ScanState.SUPERSEDED:
            command = retry_command(earlier, config_path)
            do += f"; {earlier.name} is an earlier version that was not contoured: {command}"
    do += f"; if nobody need act on it: {discard_command(row, config_path)}"
    return _entry(row, row.state, row.ready_at, tries=row.tries, reason=end_reason(row), do=do)


def _print(
    config: Config, entries: list[QueueEntry], cohort: Counter[str], *, runs: bool, ready: bool
) -> None:
    console = plain_console(soft_wrap=False)
    if short := _shortage(config):
        console.print(short, soft_wrap=True)
    if not entries and not cohort["waiting"] and not cohort["running"]:
        node = "" if runs else "; the node is stopped"
        console.print(f"nothing waits in {config.data_dir}{node}", soft_wrap=True)
        return
    if not runs:
        console.print("the node is stopped: these scans continue when it starts")
    elif not ready:
        console.print("no worker is ready: scans wait until one is")
    if entries:
        table = Table(box=SIMPLE_HEAD)
        for name in ("scan", "animal", "state", "light", "since UTC"):
            table.add_column(name, no_wrap=True)
        table.add_column("details")
        for entry in entries:
            since = entry.since_utc[:19].replace("T", " ")
            details = _details(entry)
            table.add_row(entry.scan, entry.animal, entry.state, entry.light, since, details)
        console.print(table)
    for entry in entries:
        if entry.do:
            # On one line, so that a command in it can be copied.
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


def _details(entry: QueueEntry) -> str:
    if entry.state == "running":
        tries = f"try {entry.tries}" if entry.tries else ""
        return "; ".join(part for part in (progress_words(entry), tries, entry.reason) if part)
    if entry.state == "waiting":
        tries = f", try {entry.tries + 1}" if entry.tries else ""
        parts = (f"number {entry.place}{tries}", progress_words(entry), entry.reason)
        return "; ".join(part for part in parts if part)
    if entry.state == "delivering":
        answer = f"; {entry.status}" if entry.status else ""
        next_try = f"; next {entry.next_try_utc[11:19]}" if entry.next_try_utc else ""
        what = f"{entry.reason} " if entry.reason else ""
        return f"{what}to {entry.destination}: {entry.tries} tries{answer}{next_try}"
    return entry.reason


def progress_words(entry: QueueEntry) -> str:
    """How far a scan is, and when its contours are expected; empty if nobody knows."""
    # Where no scan of this size ran before, the worker's own word must do.
    share = f" {entry.share:.0%}" if entry.share is not None else ""
    if not share and entry.of_stage is not None:
        share = f" ({entry.of_stage:.0%} of this stage)"
    ends = f"contours about {entry.ends_utc[11:19]}" if entry.ends_utc else ""
    return ", ".join(
        part for part in (f"{entry.stage}{share}" if entry.stage else "", ends) if part
    )


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
