"""What the pages of the board show, as values: pure reads of journal, notices and scan log."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

from limn.domain.timing import DOOR_TO_DOOR_STAGES
from limn.node.config import Config
from limn.node.host.doorbell import engine_runs
from limn.node.operate.journal_access import journal_to_read
from limn.node.operate.queue import QueueEntry, silent_processes, unfinished_scans
from limn.node.store.disk import space
from limn.node.store.disk.receiving import ReceivingSeries, read_receiving
from limn.node.store.journal.reader import JournalReader
from limn.node.store.journal.rows import ScanRow, StructureSetRow
from limn.node.store.remedies import decision_notice, end_reason, signature_reason

# Scans that were done so lately stay on the live page.
DONE_S = 3600.0
MOST_DONE = 12
# Of the history, one page; all of it is in the CSV.
PAGE = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One scan on the live page.

    Attributes
    ----------
    since : when its first slice came, UTC seconds; None if that is not known
    share : done, 0 to 1; None where nobody knows
    ends : clock time at which its contours are expected; empty where nobody knows
    do : what a person must do
    """

    animal: str
    scan: str = ""
    sender: str = ""
    state: str
    light: str = ""
    since: float | None = None
    share: float | None = None
    stage: str = ""
    ends: str = ""
    details: str = ""
    do: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """The live page.

    Attributes
    ----------
    node : "ready", or why no scan would be contoured now
    notes : what is wrong with the node
    lines : scans that come in, run, wait, go out or need a person, and below them those that are
        done
    """

    node: str
    ready: bool
    notes: tuple[str, ...]
    lines: tuple[Line, ...]
    done: tuple[Line, ...]


def live(config: Config, config_path: Path, now: float) -> Live:
    """What the people in the room look at."""
    entries: list[QueueEntry] = []
    done: list[Line] = []
    senders: dict[str, str] = {}
    with journal_to_read(config) as journal:
        if journal is not None:
            entries = list(unfinished_scans(journal, config, config_path, now))
            senders = {e.scan: row.sender for e in entries for row in _named(journal, e.scan)}
            done = [_done(journal, row) for row in journal.done_since(now - DONE_S, MOST_DONE)]
    runs = engine_runs(config)
    ready = runs and config.ready_path.exists()
    notes = silent_processes(config, config_path) if runs else []
    if shortage := _shortage(config):
        notes.append(shortage)
    return Live(
        node="ready" if ready else "no worker is ready" if runs else "the node is stopped",
        ready=ready,
        notes=tuple(notes),
        lines=(
            *(_coming(series) for series in read_receiving(config.receiving_path, now)),
            *(_line(entry, senders.get(entry.scan, "")) for entry in entries),
        ),
        done=tuple(done),
    )


def _named(journal: JournalReader, name: str) -> Iterable[ScanRow]:
    return journal.named([name]).values()


def _shortage(config: Config) -> str:
    try:
        return space.shortage(config)
    except OSError:
        return f"{config.data_dir} can't be reached"


def _coming(series: ReceivingSeries) -> Line:
    share = series.slices / series.expected if series.expected else None
    return Line(
        animal=series.animal,
        sender=series.sender,
        state=series.state,
        light=series.light,
        since=_seconds(series.since_utc),
        share=None if share is None else min(1.0, share),
        details="; ".join(part for part in (series.came, series.needs) if part),
    )


def _line(entry: QueueEntry, sender: str) -> Line:
    parts = (
        f"number {entry.place} in the queue" if entry.place else "",
        f"to {entry.destination}" if entry.destination else "",
        entry.status,
        entry.reason,
    )
    return Line(
        animal=entry.animal,
        scan=entry.scan,
        sender=sender,
        state=entry.state,
        light=entry.light,
        since=_seconds(entry.first_slice_utc),
        share=entry.share,
        stage=entry.stage,
        ends=clock(_seconds(entry.ends_utc)),
        details="; ".join(part for part in parts if part),
        do=entry.do,
    )


def _done(journal: JournalReader, row: ScanRow) -> Line:
    taken = ", ".join(
        f"{each.destination} has it since {clock(each.accepted_at)}"
        for each in journal.deliveries(row.id)
        if each.accepted_at is not None
    )
    return Line(
        animal=row.animal,
        scan=row.name,
        sender=row.sender,
        state="done",
        light=str(row.record.get("light", "")),
        details=taken,
    )


def clock(at: float | None) -> str:
    """A time of the day for people; empty if there is none."""
    return "" if at is None else datetime.fromtimestamp(at, UTC).astimezone().strftime("%H:%M:%S")


def _seconds(utc: str) -> float | None:
    try:
        return datetime.fromisoformat(utc).timestamp()
    except ValueError:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanPage:
    """One scan.

    Attributes
    ----------
    state : for a person, with who decided what
    why : why it is held, or was not contoured
    held, ended_badly, sendable : what a person may do with it
    needs_name : why a release needs a person's name; empty if it does not
    stages : names and seconds, in their order, with their share of all
    rois : rows of the table of ROIs
    facts : names and values
    files : of the scan that may be downloaded, by their names
    """

    row: ScanRow
    state: str
    light: str
    why: str
    held: bool
    ended_badly: bool
    sendable: bool
    needs_name: str
    flags: tuple[str, ...]
    stages: tuple[tuple[str, float, float], ...]
    rois: tuple[Mapping[str, object], ...]
    deliveries: tuple[tuple[str, str, str], ...]
    facts: tuple[tuple[str, str], ...]
    files: Mapping[str, Path]


def scan_page(journal: JournalReader, row: ScanRow, config: Config) -> ScanPage:
    """What a person sees of one scan."""
    structure_set = journal.find_structure_set(row.id)
    held = row.state == "contoured" and structure_set is not None and structure_set.on_hold
    ended_badly = row.state in ("refused", "failed", "quarantined") and row.dismissed_at is None
    decided = decision_notice(row, structure_set)
    why = (structure_set.held or "") if held and structure_set is not None else end_reason(row)
    flags = str(row.record.get("flags", ""))
    return ScanPage(
        row=row,
        state="; ".join(part for part in ("held" if held else row.state, decided) if part),
        light=str(row.record.get("light", "")),
        why=why,
        held=held,
        ended_badly=ended_badly,
        sendable=row.state == "contoured" and not held and _may_go(structure_set),
        needs_name=signature_reason(flags) if held else "",
        flags=tuple(flag for flag in flags.split() if not flag.startswith("light:")),
        stages=_stages(row.record),
        rois=tuple(row.record.get("rois", ())),
        deliveries=tuple(
            (each.destination, each.state, each.status) for each in journal.deliveries(row.id)
        ),
        facts=_facts(row, structure_set),
        files=_files(config, row),
    )


def _may_go(structure_set: StructureSetRow | None) -> bool:
    return structure_set is not None and structure_set.discarded_at is None


def _stages(record: Mapping[str, object]) -> tuple[tuple[str, float, float], ...]:
    known = [(name, _number(record.get(name))) for name in DOOR_TO_DOOR_STAGES]
    whole_s = sum(seconds for _, seconds in known) or 1.0
    return tuple(
        (name.removesuffix("_s"), seconds, seconds / whole_s)
        for name, seconds in known
        if seconds > 0.0
    )


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _facts(row: ScanRow, structure_set: StructureSetRow | None) -> tuple[tuple[str, str], ...]:
    record = row.record
    facts = (
        ("PatientID", row.animal),
        ("scanner", row.sender),
        ("version of its series", str(row.version)),
        ("slices", str(len(row.files))),
        ("grid", str(record.get("grid", ""))),
        ("last slice", clock(row.last_slice_at)),
        ("bundle", str(record.get("bundle", ""))),
        ("bundle's SHA-256", row.bundle_sha256[:16]),
        ("computed on", str(record.get("device", ""))),
        ("limn", str(record.get("limn_version", ""))),
        ("StudyInstanceUID", row.study_instance_uid),
        ("SeriesInstanceUID", row.series_instance_uid),
        ("structure set", structure_set.sop_instance_uid if structure_set else ""),
    )
    return tuple((name, value) for name, value in facts if value)


def _files(config: Config, row: ScanRow) -> dict[str, Path]:
    folder = config.results_dir / row.name
    found = [*folder.glob("RS.*.dcm"), *folder.glob("picture.png"), *folder.glob("forms/*")]
    return {path.name: path for path in sorted(found) if path.is_file()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which scans of the history are shown; empty texts choose all."""

    since: str = ""
    until: str = ""
    scanner: str = ""
    animal: str = ""
    light: str = ""
    flag: str = ""
    bundle: str = ""
    slower_s: str = ""

    @property
    def wrong(self) -> str:
        """What can't be read of it; empty if all can."""
        for name, text in (("since", self.since), ("until", self.until)):
            try:
                _ = date.fromisoformat(text) if text else None
            except ValueError:
                return f"{name} {text}: YYYY-MM-DD expected"
        try:
            _ = float(self.slower_s or 0.0)
        except ValueError:
            return f"slower than {self.slower_s}: seconds expected"
        return ""

    def takes(self, row: Mapping[str, str]) -> bool:
        """Whether a row of the scan log is among them."""
        day = row["last_slice_utc"][:10]
        return (
            (not self.since or day >= self.since)
            and (not self.until or day <= self.until)
            and self.scanner in row["sender"]
            and self.animal in row["animal"]
            and (not self.light or row.get("light", "") == self.light)
            and self.flag in row["flags"]
            and self.bundle in row["bundle"]
            and _as_seconds(row) >= float(self.slower_s or 0.0)
        )


def _as_seconds(row: Mapping[str, str]) -> float:
    try:
        return float(row["door_to_door_s"] or 0.0)
    except ValueError:
        return 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """Scans that are done: the newest first, and what is usual among them."""

    rows: tuple[Mapping[str, str], ...]
    count: int
    p50_s: float | None
    p95_s: float | None
    slowest: str


def history(rows: Sequence[Mapping[str, str]], choice: Choice) -> History:
    """The chosen rows of the scan log, oldest first there and newest first here."""
    chosen = [row for row in rows if choice.takes(row)]
    delivered = sorted(
        (_as_seconds(row), row["scan_id"])
        for row in chosen
        if row["outcome"] == "delivered" and _as_seconds(row) > 0.0
    )
    times_s = [seconds for seconds, _ in delivered]
    return History(
        rows=tuple(reversed(chosen[-PAGE:])),
        count=len(chosen),
        p50_s=statistics.median(times_s) if times_s else None,
        p95_s=times_s[min(len(times_s) - 1, int(0.95 * len(times_s)))] if times_s else None,
        slowest=delivered[-1][1] if delivered else "",
    )
