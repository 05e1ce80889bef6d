"""What the live page and a scan's page show, as values: reads of journal and notices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from limn.domain.timing import DOOR_TO_DOOR_STAGES
from limn.node.config import Config
from limn.node.deliver.scan_record import closed_record
from limn.node.dimse.answers import answer_words
from limn.node.host.doorbell import engine_runs
from limn.node.operate.history.scans import STAGE_WORDS
from limn.node.operate.journal_access import journal_to_read
from limn.node.operate.queue import QueueEntry, silent_processes, unfinished_scans
from limn.node.operate.watch import asleep_words
from limn.node.store.disk import space
from limn.node.store.disk.receiving import ReceivingSeries, read_receiving
from limn.node.store.journal.reader import JournalReader
from limn.node.store.journal.rows import DeliveryRow, ScanRow, StructureSetRow
from limn.node.store.remedies import decision_notice, end_reason, shown_time, signature_reason

# Scans that were done so lately stay on the live page.
DONE_S = 3600.0
MOST_DONE = 12
# No animal sleeps longer: what came before has an age instead of a clock.
MOST_ASLEEP_S = 12 * 3600.0
# What a person does about a scan on its page, by its state on the live page.
ACTS = {
    "held": "look at it, then release or discard it",
    "refused by peer": "see why, then send it again",
    **dict.fromkeys(
        ("refused", "failed", "quarantined"), "see why, then run it again or dismiss it"
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One scan on the live page.

    Attributes
    ----------
    since : when its first slice came, UTC seconds; None if that is not known, or too long ago
    age : how long ago its first slice came, if the animal can't sleep any more; of a scan that is
        done, how long it had slept until then
    share : done, 0 to 1; None where nobody knows
    of_stage : of its stage; None as well
    ends : clock time at which its contours are expected; empty where nobody knows
    ends_at : the same in UTC seconds, for the countdown; None as well
    act : what a person does about it on its page; empty where limn continues by itself
    """

    animal: str
    scan: str = ""
    sender: str = ""
    state: str
    light: str = ""
    since: float | None = None
    age: str = ""
    share: float | None = None
    of_stage: float | None = None
    stage: str = ""
    ends: str = ""
    ends_at: float | None = None
    details: str = ""
    act: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """The live page.

    Attributes
    ----------
    node : that it is ready, or why no scan would be contoured now
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
    lines: list[Line] = []
    done: list[Line] = []
    with journal_to_read(config) as journal:
        if journal is not None:
            entries = list(unfinished_scans(journal, config, config_path, now))
            rows = journal.named({entry.scan for entry in entries})
            lines = [
                _line(entry, row, _taken(journal, row) if entry.destination else "", now)
                for entry in entries
                if (row := rows.get(entry.scan)) is not None
            ]
            done = [_done(journal, row) for row in journal.done_since(now - DONE_S, MOST_DONE)]
    runs = engine_runs(config)
    ready = runs and config.ready_path.exists()
    notes = silent_processes(config, config_path) if runs else []
    if shortage := _shortage(config):
        notes.append(shortage)
    return Live(
        node="the node is ready"
        if ready
        else "no worker is ready"
        if runs
        else "the node is stopped",
        ready=ready,
        notes=tuple(notes),
        lines=(
            *(_coming(series, now) for series in read_receiving(config.receiving_path, now)),
            *lines,
        ),
        done=tuple(done),
    )


def _shortage(config: Config) -> str:
    try:
        return space.shortage(config)
    except OSError:
        return f"{config.data_dir} can't be reached"


def _coming(series: ReceivingSeries, now: float) -> Line:
    share = series.slices / series.expected if series.expected else None
    since, age = _slept(_seconds(series.since_utc), now)
    return Line(
        animal=series.animal,
        sender=series.sender,
        state=series.state,
        light=series.light,
        since=since,
        age=age,
        share=None if share is None else min(1.0, share),
        details="; ".join(part for part in (series.came, series.needs) if part),
    )


def _line(entry: QueueEntry, row: ScanRow, taken: str, now: float) -> Line:
    parts = (
        f"number {entry.place} in the queue" if entry.place else "",
        f"to {entry.destination}" if entry.destination else "",
        # The reason of a refusal has the words of the answer.
        "" if entry.state == "refused by peer" else answer_words(entry.status),
        entry.reason,
        taken,
    )
    since, age = _slept(_seconds(entry.first_slice_utc), now)
    return Line(
        animal=entry.animal,
        scan=entry.scan,
        sender=row.sender,
        state=entry.state,
        light=entry.light,
        since=since,
        age=age,
        share=entry.share,
        of_stage=entry.of_stage,
        stage=STAGE_WORDS.get(f"{entry.stage}_s", entry.stage),
        ends=clock(_seconds(entry.ends_utc)),
        ends_at=_seconds(entry.ends_utc),
        details="; ".join(part for part in parts if part),
        act=ACTS.get(entry.state, ""),
    )


def _taken(journal: JournalReader, row: ScanRow) -> str:
    """Which destinations have a scan, in words; empty if none has."""
    return ", ".join(
        f"{each.destination} has it since {clock(each.accepted_at)}"
        for each in journal.deliveries(row.id)
        if each.accepted_at is not None
    )


def _done(journal: JournalReader, row: ScanRow) -> Line:
    accepted_at = [each.accepted_at for each in journal.deliveries(row.id) if each.accepted_at]
    slept_s = min(accepted_at, default=0.0) - (row.last_slice_at - row.receive_s)
    return Line(
        animal=row.animal,
        scan=row.name,
        sender=row.sender,
        state="done",
        light=str(row.record.get("light", "")),
        age=asleep_words(slept_s) if accepted_at and slept_s < MOST_ASLEEP_S else "",
        details=_taken(journal, row),
    )


def _slept(since: float | None, now: float) -> tuple[float | None, str]:
    """Since when an animal sleeps, or how long ago it did."""
    if since is None or now - since < MOST_ASLEEP_S:
        return since, ""
    days = (now - since) / 86400.0
    return None, f"{days:.0f} day{'s' if days >= 1.5 else ''} ago" if days >= 1.0 else "today"


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
    looks : persons who have looked at it, and when, the first look first
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
    looks: tuple[tuple[str, str], ...]


def scan_page(journal: JournalReader, row: ScanRow, config: Config) -> ScanPage:
    """What a person sees of one scan."""
    structure_set = journal.find_structure_set(row.id)
    held = row.state == "contoured" and structure_set is not None and structure_set.on_hold
    ended_badly = row.state in ("refused", "failed", "quarantined") and row.dismissed_at is None
    decided = decision_notice(row, structure_set)
    deliveries = journal.deliveries(row.id)
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
        stages=_stages(_timed(row, deliveries, structure_set)),
        rois=tuple(row.record.get("rois", ())),
        # Why one is held stands above; its delivery has the same words.
        deliveries=tuple(
            (
                each.destination,
                each.state,
                "" if each.state == "held" else answer_words(each.status),
            )
            for each in deliveries
        ),
        facts=_facts(row, structure_set),
        files=_files(config, row),
        looks=tuple(
            (look.person, shown_time(look.at))
            for look in journal.looks_at([row.name]).get(row.name, ())
        ),
    )


def _may_go(structure_set: StructureSetRow | None) -> bool:
    return structure_set is not None and structure_set.discarded_at is None


def _timed(
    row: ScanRow, deliveries: Sequence[DeliveryRow], structure_set: StructureSetRow | None
) -> Mapping[str, object]:
    """The record with the waiting too: for slices, and for the first destination that took it."""
    if "contoured_at" not in row.record:
        return row.record
    accepted = next((each for each in deliveries if each.accepted_at is not None), None)
    return asdict(closed_record(row, accepted, structure_set))


def _stages(record: Mapping[str, object]) -> tuple[tuple[str, float, float], ...]:
    known = [(name, _number(record.get(name))) for name in DOOR_TO_DOOR_STAGES]
    whole_s = sum(seconds for _, seconds in known) or 1.0
    return tuple(
        (STAGE_WORDS[name], seconds, seconds / whole_s) for name, seconds in known if seconds > 0.0
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
        ("last slice", shown_time(row.last_slice_at)),
        ("bundle", str(record.get("bundle", ""))),
        ("bundle's SHA-256", str(record.get("bundle_sha256") or row.bundle_sha256)[:16]),
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
    found += folder.glob("edit-*.png")
    return {path.name: path for path in sorted(found) if path.is_file()}
