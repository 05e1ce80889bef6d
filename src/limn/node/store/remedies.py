"""Sentences for an operator: what happened to a scan, and the exact command that mends it."""

from __future__ import annotations

import shlex
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

from limn.node.config import Config, DicomDestination, FolderDestination
from limn.node.store.journal.reader import JournalReader
from limn.node.store.journal.rows import ScanRow, StructureSetRow
from limn.node.store.journal.schema import JournalBusy, is_locked
from limn.node.store.journal.states import PREVIEW_GONE, PreviewState
from limn.node.surprises import fault

# In a command that limn shows, for a person to replace.
NAME, TEXT = "NAME", "TEXT"
# Beginnings of flags after which a release needs a name (D-220), and what each says of the scan.
_SIGNED = {
    "mirrored:": "it is a mirror image",
    "lie-unsure:": "left and right are in doubt",
    "sides-unsure:": "left and right are in doubt",
    "light:red:": "its light is red",
}


def journal_remedy(error: Exception, path: Path) -> str:
    """What to do when the journal can't be used: for a lock another thing than for a disk."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if is_locked(error):
        return (
            f"another program holds a lock on {path}; close that program (a database browser, a "
            "backup), and limn goes on by itself"
        )
    if code == sqlite3.SQLITE_FULL:
        return f"make room on the disk of {path.parent}"
    return f"look at the disk and at the rights of {path.parent}"


def fault_notice(error: Exception, path: Path) -> str:
    """What an error is that nobody expected, and what to do; ``path`` is the journal's."""
    if isinstance(error, JournalBusy):
        return f"the journal can't be used ({error}); {journal_remedy(error, path)}"
    return f"{fault(error)}; please report it with limn.log"


def retry_command(row: ScanRow, config_path: Path) -> str:
    """The command that lets a scan run again."""
    return _command("retry", row, config_path)


def resend_command(row: ScanRow, config_path: Path) -> str:
    """The command that offers a structure set again."""
    return _command("resend", row, config_path)


def quarantine_notice(row: ScanRow, config_path: Path) -> str:
    """One line on a quarantined scan: the reason and the exact command."""
    return (
        f"QUARANTINED, not contoured: {row.reason}; once that is mended, run: "
        f"{retry_command(row, config_path)}"
    )


def end_reason(row: ScanRow) -> str:
    """Why a scan ended, in one line: the last one, where a traceback names the error."""
    return next(reversed(row.reason.strip().splitlines()), "")


def preview_notice(journal: JournalReader, row: ScanRow) -> str:
    """One line on a scan's preview while the scan is not contoured; empty if there is none."""
    preview = journal.preview_of(row.id)
    if preview is None or preview.state == PreviewState.DROPPED:
        return ""
    if preview.state == PreviewState.RUNNING:
        return "its PREVIEW of one fold is being contoured"
    gone = [each for each in journal.preview_deliveries(row.id) if each.state in PREVIEW_GONE]
    if not gone:
        return ""
    return f"its PREVIEW went to {', '.join(each.destination for each in gone)}"


def hold_notice(journal: JournalReader, row: ScanRow, config: Config, config_path: Path) -> str:
    """One line on a held structure set: the reason and the exact command that sends it."""
    why = journal.structure_set_of(row.id).held
    return (
        f"HELD, not sent: {why}; look at {picture_path(row, config)} and, if it is right, run: "
        f"{release_command(row, config_path)}"
    )


def decision_notice(row: ScanRow, structure_set: StructureSetRow | None) -> str:
    """One line on what a person decided about a scan: when, by whom, why; empty if nothing."""
    if row.dismissed_at is not None:
        return (
            f"dismissed at {shown_time(row.dismissed_at)}{by_whom(row.dismissed_by)}: "
            f"{row.dismissed}; it was {row.state}: {end_reason(row)}"
        )
    if structure_set is None:
        return ""
    held = f"it was held: {structure_set.held}"
    if structure_set.discarded_at is not None:
        return (
            f"discarded at {shown_time(structure_set.discarded_at)}"
            f"{by_whom(structure_set.discarded_by)}: {structure_set.discarded}; {held}; "
            f"it stays in {structure_set.path}"
        )
    if structure_set.released_at is not None:
        return f"{release_words(structure_set)} at {shown_time(structure_set.released_at)}; {held}"
    return ""


def release_words(structure_set: StructureSetRow) -> str:
    """Who released a structure set and why: ``released by NAME (why)``, as far as it is known."""
    why = f" ({structure_set.release_why})" if structure_set.release_why else ""
    return f"released{by_whom(structure_set.released_by)}{why}"


def by_whom(name: str) -> str:
    """The person who decided, to follow a verb; empty if no name was given."""
    return f" by {name}" if name else ""


def signature_reason(flags: str) -> str:
    """Why a person's name is needed for a release, by the record's flags; empty if none is."""
    found = {
        words: None
        for flag in flags.split()
        for beginning, words in _SIGNED.items()
        if f"{flag}:".startswith(beginning)
    }
    return " and ".join(found)


def picture_path(row: ScanRow, config: Config) -> Path:
    """Path of a scan's picture."""
    return config.results_dir / row.name / "picture.png"


def release_command(row: ScanRow, config_path: Path) -> str:
    """The command that sends a held structure set; with a name where one is needed."""
    signed = f" --by {NAME}" if signature_reason(flags_of(row)) else ""
    return _command("release", row, config_path) + signed


def discard_command(row: ScanRow, config_path: Path) -> str:
    """The command that discards a held structure set, or dismisses a scan that ended badly."""
    return f"{_command('release', row, config_path)} --discard --why '{TEXT}' --by {NAME}"


def flags_of(row: ScanRow) -> str:
    """The flags of a scan's record; empty if it has none."""
    return str(row.record.get("flags", ""))


def _command(verb: str, row: ScanRow, config_path: Path) -> str:
    return f"limn {verb} --config {shlex.quote(str(config_path.resolve()))} {row.name}"


def address(destination: DicomDestination | FolderDestination) -> str:
    """A destination's folder or AE title, host and port, for people."""
    if isinstance(destination, FolderDestination):
        return str(destination.folder)
    return f"{destination.ae_title}@{destination.host}:{destination.port}"


def shown_time(seconds: float) -> str:
    """UTC seconds for people."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
