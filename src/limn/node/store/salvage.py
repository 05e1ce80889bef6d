"""Replaces a damaged journal by a new one that knows the scans on disk, so that none goes twice.

SQLite survives kills and power cuts, but not a failing disk or a careless copy. The damaged file
is renamed and kept for an expert. The new journal starts with what the scan log and the structure
sets on disk prove: the UIDs of a structure set follow from its input, so that a series in the
spool and a row in the scan log match exactly or not at all. A scan that the planning system
accepted, or that a person discarded, is entered as such. A scan whose structure set was written
is contoured again under the same UIDs and date, which gives the same file. The receiver handles
every other series of the spool as if it had just come.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pydicom

from limn.dicom.instance import ReceivedInstance, Unreadable, input_digest, inspect
from limn.domain.errors import ConfigWrong
from limn.domain.timing import ScanRecord
from limn.node.config import Config, FolderDestination
from limn.node.store import scanlog
from limn.node.store.journal import Journal
from limn.node.store.rows import Arrived, ScanRow
from limn.node.store.spool import Spool

log = logging.getLogger(__name__)

DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
# Suffixes of a database's files: itself, write-ahead log and shared memory.
COMPANIONS = ("", "-wal", "-shm")
_COLUMNS = set(ScanRecord.columns())


def fault_of(path: Path) -> str:
    """What is wrong with a database; empty if it is sound or does not exist yet.

    Raises
    ------
    ConfigWrong
        If it can't be read for a reason other than damage: rights, a locked file, a full disk.
    """
    if not path.exists():
        return ""
    try:
        with closing(sqlite3.connect(path, timeout=30)) as db:
            (result,) = db.execute("pragma integrity_check(1)").fetchone()
            return "" if result == "ok" else str(result)
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in DAMAGED:
            return str(error)
        msg = f"{path} can't be read ({error}); look at the disk and at the rights of {path.parent}"
        raise ConfigWrong(msg) from error


def replace_damaged(config: Config, bundle_sha256: str) -> Path | None:
    """Replace a damaged journal, before any process opens it.

    Parameters
    ----------
    bundle_sha256 : of the bundle that contours today

    Returns
    -------
    kept : path of the damaged journal; None if it was sound
    """
    watched = config.data_dir / "watched.sqlite"
    if fault := fault_of(watched):
        kept = _rename_damaged(watched)
        # Without it the files of the watched folder are read again; the journal knows their series.
        log.error("%s is damaged (%s); kept as %s, a new one is created", watched, fault, kept.name)
    fault = fault_of(config.journal_path)
    if not fault:
        return None
    kept = _rename_damaged(config.journal_path)
    log.critical(
        "THE JOURNAL IS DAMAGED: %s (%s). It is kept as %s", config.journal_path, fault, kept
    )
    ended, to_contour = _restore_scans(config, bundle_sha256)
    log.critical(
        "a new journal was created: %d scans of the spool are known to be delivered or discarded "
        "and are not sent again; %d are contoured again under the same UIDs. Compare scans.csv "
        "with the planning system, and have the disk looked at",
        ended,
        to_contour,
    )
    return kept


def _rename_damaged(path: Path) -> Path:
    stamp = datetime.now(UTC).astimezone().strftime("%Y%m%d-%H%M%S")
    kept = path.with_name(f"{path.name}.corrupt-{stamp}")
    for suffix in COMPANIONS:
        companion = path.with_name(path.name + suffix)
        if companion.exists():
            companion.rename(kept.with_name(kept.name + suffix))
    return kept


@dataclass(frozen=True, slots=True)
class _ContouredSeries:
    """A series of the spool that was contoured before.

    Attributes
    ----------
    number : the number of its scan
    path : its structure set; None if that was removed from the disk
    row : its row of the scan log; None if it has none
    """

    number: int
    arrived: Arrived
    path: Path | None
    row: dict[str, str] | None

    @property
    def outcome(self) -> str:
        """Its outcome in the scan log, if that is final; empty if it must run again."""
        outcome = self.row["outcome"] if self.row else ""
        return outcome if outcome in ("delivered", "discarded") else ""


def _restore_scans(config: Config, bundle_sha256: str) -> tuple[int, int]:
    """Fill a new journal; returns how many scans have ended and how many run again."""
    logged = [row for row in scanlog.rows(config.scan_log_path) if row.keys() >= _COLUMNS]
    written = {path.stem.partition(".")[2]: path for path in config.results_dir.glob("*/RS.*.dcm")}
    today = (bundle_sha256, config.planning_system.profile)
    found = [
        each
        for folder in Spool(config.spool_dir, 0).folders()
        if (each := _recognise(folder, logged, written, today)) is not None
    ]
    with closing(Journal(config.journal_path)) as journal:
        for each in sorted(found, key=lambda each: each.number):
            # People know the scan by its number, and the folder of its results has it in its name.
            journal.number_from(each.number)
            scan = journal.insert(each.arrived, [d.name for d in config.destination])
            if scan is not None and each.outcome:
                _enter_outcome(journal, scan, each, config)
        journal.number_from(_highest(config, logged) + 1)
    ended = sum(bool(each.outcome) for each in found)
    return ended, len(found) - ended


def _recognise(
    folder: Path,
    logged: Iterable[dict[str, str]],
    written: dict[str, Path],
    today: tuple[str, str],
) -> _ContouredSeries | None:
    """A series of the spool with the scan that was made of it; None if none was.

    Parameters
    ----------
    written : path of every structure set on disk, by its SOP Instance UID
    today : bundle and profile of today, for a scan that has no row in the scan log yet
    """
    files = sorted(folder.glob("*.dcm"))
    instances = _instances(files)
    if not instances or len(instances) < len(files):
        return None
    uid = instances[0].series_instance_uid
    rows = [row for row in logged if row["series_instance_uid"] == uid]
    candidates: list[tuple[str, str, dict[str, str] | None]] = [
        *((row["bundle_sha256"], row["profile"], row) for row in reversed(rows)),
        (*today, None),
    ]
    for bundle_sha256, profile, row in candidates:
        arrived = _arrived(folder, files, instances, bundle_sha256, profile)
        sop_instance_uid, _ = arrived.structure_set_uids
        path = written.get(sop_instance_uid)
        if row is not None and row["rtstruct_sop_instance_uid"] == sop_instance_uid:
            number = _number(row["scan_id"])
        elif row is None and path is not None:
            number = _number(path.parent.name)
        else:
            continue
        if path is not None:
            ds = pydicom.dcmread(path)
            date, clock = str(ds.StructureSetDate), str(ds.StructureSetTime)
            arrived = replace(arrived, date=date, time=clock, sender=(row or {}).get("sender", ""))
        return _ContouredSeries(number, arrived, path, row)
    return None


def _arrived(
    folder: Path,
    files: Sequence[Path],
    instances: Sequence[ReceivedInstance],
    bundle: str,
    profile: str,
) -> Arrived:
    """A series of the spool as if it had settled now."""
    now = datetime.now(UTC).astimezone()
    return Arrived(
        series_instance_uid=instances[0].series_instance_uid,
        input_digest=input_digest(instances),
        bundle_sha256=bundle,
        profile=profile,
        study_instance_uid=instances[0].study_instance_uid,
        animal=instances[0].animal,
        sender="",
        folder=str(folder),
        files=tuple(path.name for path in files),
        receive_s=0.0,
        settle_s=0.0,
        last_slice_at=now.timestamp(),
        ready_at=now.timestamp(),
        date=now.strftime("%Y%m%d"),
        time=now.strftime("%H%M%S"),
    )


def _instances(files: Iterable[Path]) -> list[ReceivedInstance]:
    instances = []
    for path in files:
        try:
            instances.append(inspect(path.read_bytes()))
        except (Unreadable, OSError) as error:
            log.error("spool file %s: %s", path, error)
    return instances


def _enter_outcome(
    journal: Journal, scan: ScanRow, found: _ContouredSeries, config: Config
) -> None:
    """Enter the outcome that the scan log gives for a scan."""
    row = found.row or {}
    at = _seconds(row["accepted_utc"]) or time.time()
    discarded = row["reason"] if found.outcome == "discarded" else None
    path = str(found.path or "")
    journal.contoured(scan.id, path, {"contoured_at": at}, discarded)
    if discarded is not None:
        journal.discard(scan.id, discarded, at)
    elif found.outcome == "delivered":
        folders = {d.name: d.folder for d in config.destination if isinstance(d, FolderDestination)}
        for delivery in journal.deliveries(scan.id):
            folder = folders.get(delivery.destination)
            exported = folder is not None and (folder / Path(path).name).is_file()
            # Any other peer is offered the same bytes once more: only the lost journal noted what
            # it took. Without the file there is nothing to offer.
            if delivery.destination == row["destination"] or exported or not path:
                journal.delivered(delivery.id, row["destination_status"], at)
    journal.mark_logged(scan.id)


def _highest(config: Config, logged: Iterable[dict[str, str]]) -> int:
    """The highest number of any scan in the scan log or the folder of results."""
    names = [row["scan_id"] for row in logged]
    names += [path.name for path in config.results_dir.glob("scan-*")]
    return max((_number(name) for name in names), default=0)


def _number(name: str) -> int:
    digits = name.rpartition("-")[2]
    return int(digits) if digits.isdigit() else 0


def _seconds(utc: str) -> float:
    return datetime.fromisoformat(utc).timestamp() if utc else 0.0
