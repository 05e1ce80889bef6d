"""What the disk proves of scans beside the journal, so that a lost or an older journal is noticed.

The numbers are also kept in a file of their own: a scan that was not contoured yet has left no
other trace, and another animal must not get its number.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from limn.dicom.uids import is_usable_uid
from limn.domain.errors import ConfigWrong
from limn.domain.records import ScanRecord
from limn.node.config import Config
from limn.node.permissions import make_private_file
from limn.node.store.disk import scanlog
from limn.node.store.disk.spool import Spool

NUMBERS = "numbers"
# A scan's number has nine digits at most.
_NUMBER_LINE = re.compile(r"([0-9]{1,9}) (.*)")
_TAIL_BYTES = 2**14
RESTORED = "restored"
# Where a database's header says whether it has a write-ahead log, and the byte that says no.
MODE_AT = 18
WITHOUT_LOG = b"\x01"
_COLUMNS = set(ScanRecord.columns())
# Outcomes in the scan log after which nothing is sent any more.
FINAL = ("delivered", "discarded")


def note_number(journal_path: Path, number: int, digest: str) -> None:
    """Note the number that an input gets, before the journal's transaction ends."""
    path = journal_path.with_name(NUMBERS)
    make_private_file(path)
    with path.open("ab") as file:
        # A line that a full disk cut off is ended by the line feed of the next one.
        file.write(b"\n%d %s" % (number, digest.encode()))
        file.flush()
        os.fsync(file.fileno())


def note_restore(journal_path: Path, restore: str) -> None:
    """Note that a node began with a backup; the UIDs of what it contours then have this word."""
    path = journal_path.with_name(NUMBERS)
    make_private_file(path)
    with path.open("ab") as file:
        file.write(f"\n{RESTORED} {restore}".encode())
        file.flush()
        os.fsync(file.fileno())


def noted_restores(journal_path: Path) -> list[str]:
    """Every restore that was noted."""
    try:
        text = journal_path.with_name(NUMBERS).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    lines = (line.partition(" ") for line in text.splitlines())
    return [restore for word, _, restore in lines if word == RESTORED]


def noted_numbers(journal_path: Path) -> dict[int, str]:
    """Every number that was noted, with the digest of its input."""
    try:
        text = journal_path.with_name(NUMBERS).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    found = (_NUMBER_LINE.fullmatch(line) for line in text.splitlines())
    return {int(line[1]): line[2] for line in found if line is not None}


def highest_noted(journal_path: Path) -> int:
    """The highest of the numbers that were noted last; cheap however many there are."""
    try:
        with journal_path.with_name(NUMBERS).open("rb") as file:
            size_bytes = file.seek(0, os.SEEK_END)
            file.seek(max(0, size_bytes - _TAIL_BYTES))
            tail = file.read().decode(errors="replace")
    except OSError:
        return 0
    # The first line may be the end of one.
    lines = tail.splitlines()[size_bytes > _TAIL_BYTES :]
    found = (_NUMBER_LINE.fullmatch(line) for line in lines)
    return max((int(line[1]) for line in found if line is not None), default=0)


def number_to_give(journal_path: Path, number: int, digest: str) -> int:
    """The number for an input that the journal would give ``number``, which another may have had.

    A journal that was put back while the node runs doesn't know the last ones.
    """
    highest = highest_noted(journal_path)
    if number > highest or noted_numbers(journal_path).get(number, digest) == digest:
        return number
    return highest + 1


def number_of(name: str) -> int:
    """The number in a scan's name; 0 if it has none."""
    # A folder that a person copied, such as scan-00012-20261129, is no scan of that number.
    found = re.fullmatch("scan-([0-9]{5,9})", name)
    return int(found[1]) if found else 0


def logged_scans(config: Config) -> list[dict[str, str]]:
    """The rows of the scan log that have every column.

    Raises
    ------
    ConfigWrong
        If it is there and can't be read: what was sent is not known then.
    """
    path = config.scan_log_path
    try:
        found = scanlog.rows(path)
    except OSError as error:
        msg = (
            f"{path} can't be read ({error.strerror}), and limn looks there for what was sent "
            "before; let the user of limn read it, or put the right file there"
        )
        raise ConfigWrong(msg) from error
    return [row for row in found if row.keys() >= _COLUMNS]


def highest_number(config: Config, logged: Iterable[Mapping[str, str]]) -> int:
    """The highest number of any scan in the scan log or the folder of results."""
    names = [row["scan_id"] for row in logged]
    names += [path.name for path in config.results_dir.glob("scan-*")]
    return max(map(number_of, names), default=0)


def foreign_log(path: Path) -> Path | None:
    """A write-ahead log that does not belong to the journal it lies beside; None if none does.

    A backup has the header of a database without a log until a node opens it (SQLite's file
    format, 1.3.3). SQLite would apply the log of the journal that was there before all the same.
    """
    log = path.with_name(f"{path.name}-wal")
    try:
        with path.open("rb") as file:
            opening = file.read(MODE_AT + 1)
        foreign = opening[MODE_AT:] == WITHOUT_LOG and log.stat().st_size > 0
    except OSError:
        return None
    return log if foreign else None


def loss_of(config: Config) -> str:
    """What a sound or absent journal has lost; empty if it knows all that the disk proves.

    Raises
    ------
    sqlite3.Error
        If the journal can't be read.
    """
    # The evidence first: a node that runs writes it after its journal.
    path = config.journal_path
    if (log := foreign_log(path)) is not None:
        # Not opened: SQLite would mix the two.
        return f"it is a backup, and {log.name} beside it belongs to the journal before it"
    noted = max(noted_numbers(path), default=0)
    logged = logged_scans(config)
    highest = highest_number(config, logged)
    if not path.exists() or not path.stat().st_size:
        series = next(Spool(config.spool_dir, 0).folders(), None)
        found = {
            f"numbers up to {noted} were given": noted > 0,
            f"{config.scan_log_path} has {len(logged)} scans": bool(logged),
            f"{config.results_dir} has scan-{highest:05d}": highest > 0,
            f"{config.spool_dir} has series": series is not None,
        }
        proofs = [text for text, holds in found.items() if holds]
        return f"it is gone, but {'; '.join(proofs)}" if proofs else ""
    with closing(sqlite3.connect(path, timeout=5.0)) as db:
        db.row_factory = sqlite3.Row
        tables = {row["name"] for row in db.execute("select name from sqlite_schema")}
        if "copied" in tables and (copy := db.execute("select at from copied").fetchone()):
            return f"it is the backup of {copy['at'][:16]} UTC"
        following = _following_number(db, tables)
        if highest >= following or noted > following:
            last = max(highest, noted)
            return f"it is an older copy: it ends before scan-{following:05d}, scan-{last:05d} came"
        return _unknown_ends(db, tables, logged) or _unknown_uids(db, tables, logged, config)


def is_backup(path: Path) -> bool:
    """Whether a journal says that it is a backup with which no node has begun.

    A running node's says so if a backup was restored into the file itself.
    """
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as db:
            return db.execute("select at from copied").fetchone() is not None
    except sqlite3.Error:
        return False


def unused_numbers(config: Config) -> dict[int, str]:
    """Numbers that were noted, with the digest of their input, and are in no scan of the journal.

    A kill between the note and the journal's transaction leaves one.
    """
    noted = noted_numbers(config.journal_path)
    if not noted or not config.journal_path.exists():
        return {}
    with closing(sqlite3.connect(config.journal_path, timeout=5.0)) as db:
        db.row_factory = sqlite3.Row
        tables = {row["name"] for row in db.execute("select name from sqlite_schema")}
        following = _following_number(db, tables)
    return {number: digest for number, digest in noted.items() if number >= following}


def _following_number(db: sqlite3.Connection, tables: set[str]) -> int:
    """The number that this journal would give to the next scan."""
    numbers = [1]
    if "scan" in tables:
        numbers.append(db.execute("select coalesce(max(id), 0) + 1 from scan").fetchone()[0])
    if "numbering" in tables:
        numbers.append(db.execute("select coalesce(max(least), 1) from numbering").fetchone()[0])
    return max(numbers)


def _unknown_ends(
    db: sqlite3.Connection, tables: set[str], logged: Sequence[Mapping[str, str]]
) -> str:
    """A scan that ended by the scan log and waits by the journal; empty if there is none."""
    if not {"scan", "structure_set", "delivery"} <= tables or "issued" not in tables:
        # An earlier limn made it; the next start looks again.
        return ""
    ends = {(row["rtstruct_sop_instance_uid"], row["last_slice_utc"]): row for row in logged}
    # A scan that an operator sends again waits too, and its time is noted.
    waiting = db.execute(
        "select scan.id, sop_instance_uid, last_slice_at, destination from scan "
        "join structure_set on structure_set.scan = scan.id "
        "join delivery on delivery.structure_set = structure_set.id "
        "where logged = 0 and delivery.state in ('waiting', 'held') "
        "and scan.intervention_s = 0 and structure_set.intervention_s = 0"
    )
    for scan in waiting:
        end = ends.get((scan["sop_instance_uid"], scanlog.utc(scan["last_slice_at"])))
        if end is None or end["outcome"] not in FINAL:
            continue
        if end["outcome"] == "discarded" or end["destination"] == scan["destination"]:
            return (
                f"it is an older copy: by it scan-{scan['id']:05d} waits, by the scan log it was "
                f"{end['outcome']}"
            )
    return ""


def _unknown_uids(
    db: sqlite3.Connection,
    tables: set[str],
    logged: Sequence[Mapping[str, str]],
    config: Config,
) -> str:
    """A structure set that went out, or was written, under a UID that the journal never gave."""
    if not {"structure_set", "issued"} <= tables:
        return ""
    known = {row[0] for row in db.execute("select sop_instance_uid from structure_set")}
    known |= {row[0] for row in db.execute("select sop_instance_uid from issued")}
    for row in logged:
        uid = row["rtstruct_sop_instance_uid"]
        if uid and uid not in known and row["outcome"] in FINAL:
            return f"it is an older copy: it does not know what {row['scan_id']} was sent as"
    for path in config.results_dir.glob("scan-*/RS.*.dcm"):
        uid = path.stem.partition(".")[2]
        if number_of(path.parent.name) and is_usable_uid(uid) and uid not in known:
            return f"it is an older copy: it does not know {path}"
    return ""
