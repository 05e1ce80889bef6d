"""Mends a damaged, lost or older journal from the scans on disk, so that none goes twice.

SQLite survives kills and power cuts, but not a failing disk or a careless copy. The damaged file
is renamed and kept for an expert. The new journal starts with what the scan log and the structure
sets on disk prove: the UIDs of a structure set follow from its input, so that a series in the
spool and a row in the scan log match exactly or not at all. A scan that the planning system
accepted, or that a person discarded, is entered as such. A scan whose structure set was written
is contoured again under the same UIDs and date, which gives the same file. The receiver handles
every other series of the spool as if it had just come.

A journal that was deleted, or an older copy that was put back, is noticed by what the disk has
beside it (`limn.node.store.disk.evidence`). An older copy is kept as it was, and the same facts are
entered into it.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import product
from pathlib import Path

import pydicom
from pydicom.errors import InvalidDicomError

from limn.dicom.bounded import DAMAGES
from limn.dicom.instance import ReceivedInstance, Unreadable, input_digest, inspect
from limn.domain.errors import ConfigWrong
from limn.domain.scan import MOST_ANIMALS
from limn.node.config import Config, FolderDestination
from limn.node.permissions import make_private_file
from limn.node.store.disk import evidence, scanlog
from limn.node.store.disk.commission import destinations_of
from limn.node.store.disk.spool import Spool
from limn.node.store.journal.connection import BUSY_S
from limn.node.store.journal.journal import Journal
from limn.node.store.journal.rows import ANIMAL_MARK, Arrived, ScanRow, digest_of_animal
from limn.node.store.journal.schema import LIVE
from limn.node.store.journal.transitions import AGAIN
from limn.node.store.relocation import follow_data_dir
from limn.node.store.remedies import journal_remedy

log = logging.getLogger(__name__)

DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
# Suffixes of a database's files: itself, write-ahead log and shared memory.
COMPANIONS = ("", "-wal", "-shm")
# A backup on a new disk doesn't know how many scans came after it, nor whether it was put back
# before: their numbers are left out, and more of them the older it is. Ten scans a second are more
# than any node contours. A scan's number has nine digits at most.
NUMBERS_LEFT_OUT = 1000
NUMBERS_EACH_S = 10
MOST_LEFT_OUT = 500_000_000


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
        with closing(sqlite3.connect(path, timeout=BUSY_S)) as db:
            (result,) = db.execute("pragma integrity_check(1)").fetchone()
            return "" if result == "ok" else str(result)
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in DAMAGED:
            return str(error)
        msg = f"{path} can't be read ({error}); {journal_remedy(error, path)}"
        raise ConfigWrong(msg) from error


def replace_damaged(config: Config, bundle_sha256: str) -> Path | None:
    """Mend a journal that is damaged, gone or an older copy, before any process opens it.

    Parameters
    ----------
    bundle_sha256 : of the bundle that contours today

    Returns
    -------
    kept : path of the damaged journal or the older copy; None if it was sound or is gone
    """
    watched = config.data_dir / "watched.sqlite"
    if fault := fault_of(watched):
        kept = _rename_damaged(watched)
        # Without it the files of the watched folder are read again; the journal knows their series.
        log.error("%s is damaged (%s); kept as %s, a new one is created", watched, fault, kept.name)
    _set_foreign_log_aside(config.journal_path)
    fault = fault_of(config.journal_path)
    if not fault:
        kept_copy = _complete_older(config, bundle_sha256)
        follow_data_dir(config)
        return kept_copy
    kept = _rename_damaged(config.journal_path)
    log.critical(
        "THE JOURNAL IS DAMAGED: %s (%s). It is kept as %s", config.journal_path, fault, kept
    )
    _log_restored(_restore_scans(config, bundle_sha256))
    return kept


def _set_foreign_log_aside(path: Path) -> None:
    foreign = evidence.foreign_log(path)
    if foreign is None:
        return
    kept = _stamped(path, "before")
    for suffix in COMPANIONS[1:]:
        companion = path.with_name(path.name + suffix)
        if companion.exists():
            companion.rename(kept.with_name(kept.name + suffix))
    log.critical(
        "%s is a backup, and %s beside it belongs to the journal that was there before: it is kept "
        "as %s-wal and not applied",
        path,
        foreign.name,
        kept.name,
    )


def _complete_older(config: Config, bundle_sha256: str) -> Path | None:
    """Make a journal anew that is gone, or bring an older copy up to date; keep it as it was."""
    path = config.journal_path
    loss = evidence.loss_of(config)
    if not loss:
        if unused := evidence.unused_numbers(config):
            with closing(Journal(path)) as journal:
                journal.reserve(unused)
                journal.number_from(max(unused) + 1)
        return None
    kept = None
    if path.exists() and path.stat().st_size:
        kept = _stamped(path, "older")
        make_private_file(kept)
        with (
            closing(sqlite3.connect(path, timeout=BUSY_S)) as source,
            closing(sqlite3.connect(kept)) as copy,
        ):
            source.backup(copy)
    else:
        # What a write-ahead log without its database holds would be applied to the new one.
        _rename_damaged(path)
    log.critical(
        "THE JOURNAL HAS LOST SCANS: %s: %s.%s",
        path,
        loss,
        f" It is kept as {kept}" if kept else "",
    )
    _log_restored(_restore_scans(config, bundle_sha256))
    return kept


def _log_restored(restored: tuple[int, int]) -> None:
    ended, to_contour = restored
    log.critical(
        "the journal was restored: %d scans of the spool are known to be delivered or discarded "
        "and are not sent again; %d are contoured again under the same UIDs. Compare scans.csv "
        "with the planning system, and have the disk looked at",
        ended,
        to_contour,
    )


def _stamped(path: Path, word: str) -> Path:
    """A new name beside a file, with the local time."""
    stamp = datetime.now(UTC).astimezone().strftime("%Y%m%d-%H%M%S")
    kept, number = path.with_name(f"{path.name}.{word}-{stamp}"), 2
    while kept.exists():
        kept, number = path.with_name(f"{path.name}.{word}-{stamp}-{number}"), number + 1
    return kept


def _rename_damaged(path: Path) -> Path:
    kept = _stamped(path, "corrupt")
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
    animal_number : which animal of the field it is
    """

    number: int
    arrived: Arrived
    path: Path | None
    row: dict[str, str] | None
    animal_number: int = 1

    @property
    def outcome(self) -> str:
        """Its outcome in the scan log, if that is final; empty if it must run again."""
        outcome = self.row["outcome"] if self.row else ""
        return outcome if outcome in evidence.FINAL else ""


def _restore_scans(config: Config, bundle_sha256: str) -> tuple[int, int]:
    """Fill a new journal; returns how many scans have ended and how many run again."""
    logged = evidence.logged_scans(config)
    noted = evidence.noted_numbers(config.journal_path)
    restores = evidence.noted_restores(config.journal_path)
    highest = max(evidence.highest_number(config, logged), *noted, 0)
    written = {path.stem.partition(".")[2]: path for path in config.results_dir.glob("*/RS.*.dcm")}
    today = (bundle_sha256, config.planning_system.profile)
    found = [
        each
        for folder in Spool(config.spool_dir, 0).folders()
        for each in _recognise(folder, logged, written, today, restores)
    ]
    with closing(Journal(config.journal_path)) as journal:
        taken = {row.id for row in journal.scans()}
        copied_at = journal.copied_at()
        if copied_at:
            highest = max(highest, *taken, 0) + _numbers_left_out(copied_at)
        for each in sorted(found, key=lambda each: each.number):
            known = journal.find(each.arrived)
            # By an older copy its series was broken off, and came whole after it.
            if known is None or journal.find_structure_set(known.id) is None:
                # People know the scan by its number, and the folder of its results has it in its
                # name.
                free = each.number > max(taken, default=0)
                journal.number_from(each.number if free else highest + 1)
                known = _entered(journal, each, config)
            if known is not None:
                taken.add(known.id)
                if each.outcome and not (known.logged and known.state == "contoured"):
                    _enter_outcome(journal, known, each.row or {}, each.path, config)
        journal.number_from(highest + 1)
        journal.reserve(noted)
        journal.enter_issued(_issued(written, logged))
        _enter_noted_animals(journal, noted.values(), config)
        ended = sum(bool(each.outcome) for each in found)
        ended += _enter_logged_ends(journal, logged, written, config)
        if copied_at:
            # Nor does it know what was sent after it, or after an earlier restore of it.
            restore = datetime.now(UTC).isoformat()
            evidence.note_restore(config.journal_path, restore)
            # Last: a start that is killed before begins anew.
            journal.begin_with_copy(restore)
        to_contour = len(journal.ready())
    return ended, to_contour


def _entered(journal: Journal, found: _ContouredSeries, config: Config) -> ScanRow | None:
    """Enter a scan; None for a further animal in a field whose first animal has no scan."""
    arrived, number = found.arrived, found.animal_number
    if number == 1:
        return journal.insert(arrived, _destinations(arrived.animal, config))
    series_digest = arrived.input_digest.partition(ANIMAL_MARK)[0]
    first = journal.find(replace(arrived, input_digest=series_digest))
    if first is None or journal.find_structure_set(first.id) is None:
        return None
    names = _destinations(first.animal, config)
    rows = journal.add_animals(first.id, [number], names, arrived.date, arrived.time, arrived.again)
    return rows[0]


def _enter_noted_animals(journal: Journal, digests: Iterable[str], config: Config) -> None:
    """Enter the animals that had a number and have left nothing else; they are contoured."""
    firsts = {
        row.input_digest: row
        for row in journal.scans()
        if row.field is None and journal.find_structure_set(row.id) is not None
    }
    for digest in digests:
        series_digest, _, number = digest.partition(ANIMAL_MARK)
        if number.isdecimal() and series_digest in firsts:
            first = firsts[series_digest]
            journal.add_animals(first.id, [int(number)], _destinations(first.animal, config))


def _destinations(animal: str, config: Config) -> tuple[str, ...]:
    """Those that get the structure sets of an animal, by the config of today."""
    names = [each.name for each in config.destination]
    return destinations_of(animal, names, config.commissioning_path, time.time())


def _numbers_left_out(copied_at: str) -> int:
    """More than were given since the copy was made, also by an earlier restore of it."""
    since_s = datetime.now(UTC).timestamp() - _seconds(copied_at)
    return NUMBERS_LEFT_OUT + min(MOST_LEFT_OUT, max(0, int(NUMBERS_EACH_S * since_s)))


def _recognise(
    folder: Path,
    logged: Iterable[dict[str, str]],
    written: dict[str, Path],
    today: tuple[str, str],
    restores: Iterable[str] = (),
) -> list[_ContouredSeries]:
    """A series of the spool with the scans that were made of it: of each animal in the field.

    Parameters
    ----------
    written : path of every structure set on disk, by its SOP Instance UID
    today : bundle and profile of today, for a scan that has no row in the scan log yet
    restores : of backups, after which UIDs were others
    """
    files = sorted(folder.glob("*.dcm"))
    instances = _instances(files)
    if not instances or len(instances) < len(files):
        return []
    uid = instances[0].series_instance_uid
    rows = [row for row in logged if row["series_instance_uid"] == uid]
    candidates: list[tuple[str, str, dict[str, str] | None]] = [
        *((row["bundle_sha256"], row["profile"], row) for row in reversed(rows)),
        (*today, None),
    ]
    words = ("", AGAIN, *(f"{AGAIN} {restore}" for restore in restores))
    arrived = _arrived(folder, files, instances, *today)
    scans = (
        _scan_of_animal(number, arrived, candidates, words, written)
        for number in range(1, MOST_ANIMALS + 1)
    )
    return [scan for scan in scans if scan is not None]


def _scan_of_animal(
    number: int,
    series: Arrived,
    candidates: Iterable[tuple[str, str, dict[str, str] | None]],
    words: Iterable[str],
    written: dict[str, Path],
) -> _ContouredSeries | None:
    """The scan of an animal in the field of a series; None if none was made."""
    for (bundle_sha256, profile, row), again in product(candidates, words):
        arrived = replace(
            series,
            input_digest=digest_of_animal(series.input_digest, number),
            bundle_sha256=bundle_sha256,
            profile=profile,
            again=again,
        )
        sop_instance_uid, _ = arrived.structure_set_uids
        path = written.get(sop_instance_uid)
        if row is not None and row["rtstruct_sop_instance_uid"] == sop_instance_uid:
            scan_number = evidence.number_of(row["scan_id"])
        elif row is None and path is not None:
            scan_number = evidence.number_of(path.parent.name)
        else:
            continue
        if path is not None:
            date, clock = _date_of(path)
            if not date and (row is None or row["outcome"] not in evidence.FINAL):
                # It may be at a destination: not again under its UID with another date.
                return None
            arrived = replace(arrived, sender=(row or {}).get("sender", ""))
            if date:
                arrived = replace(arrived, date=date, time=clock)
        return _ContouredSeries(scan_number, arrived, path, row, number)
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


def _enter_logged_ends(
    journal: Journal,
    logged: Iterable[dict[str, str]],
    written: dict[str, Path],
    config: Config,
) -> int:
    """Enter the outcomes of scans that an older copy knows, and the spool has as a part of others.

    An earlier version of a series is one. Returns how many.
    """
    ends = {(row["rtstruct_sop_instance_uid"], row["last_slice_utc"]): row for row in logged}
    count = 0
    for scan in journal.scans():
        structure_set = journal.find_structure_set(scan.id)
        if scan.logged or scan.priority < LIVE or structure_set is None:
            continue
        uid = structure_set.sop_instance_uid
        row = ends.get((uid, scanlog.utc(scan.last_slice_at)))
        if row is not None and row["outcome"] in evidence.FINAL:
            _enter_outcome(journal, scan, row, written.get(uid), config)
            count += 1
    return count


def _enter_outcome(
    journal: Journal, scan: ScanRow, row: dict[str, str], file: Path | None, config: Config
) -> None:
    """Enter the outcome that the scan log gives for a scan.

    Parameters
    ----------
    row : of the scan log
    file : its structure set; None if that was removed from the disk
    """
    at = _seconds(row["accepted_utc"]) or time.time()
    discarded = row["reason"] if row["outcome"] == "discarded" else None
    path = str(file or "")
    # By an older copy it may have failed, or wait for a person.
    if scan.state not in ("ready", "contoured"):
        journal.retry(scan.id, time.time())
    journal.contoured(scan.id, path, {"contoured_at": at}, discarded)
    if discarded is not None:
        journal.discard(scan.id, discarded, at)
    elif row["outcome"] == "delivered":
        journal.release(scan.id, at)
        folders = {d.name: d.folder for d in config.destination if isinstance(d, FolderDestination)}
        later = {each.name: each.later_forms for each in config.destination}
        for delivery in journal.deliveries(scan.id):
            folder = folders.get(delivery.destination)
            exported = folder is not None and (folder / Path(path).name).is_file()
            # Any other peer is offered the same bytes once more: only the lost journal noted what
            # it took. Without the file there is nothing to offer.
            taken = delivery.destination == row["destination"] or exported or not path
            if taken and delivery.state == "waiting":
                # A form that waited is sent, perhaps once more: it is the same file at every run.
                forms = later.get(delivery.destination, ())
                journal.delivered(delivery.id, row["destination_status"], at, forms)
    journal.mark_logged(scan.id)


def _issued(
    written: dict[str, Path], logged: Iterable[dict[str, str]]
) -> Iterator[tuple[str, str, str]]:
    """UID, date and time of every structure set on disk or in the scan log; none if it is gone."""
    for uid, path in written.items():
        yield uid, *_date_of(path)
    for row in logged:
        uid = row["rtstruct_sop_instance_uid"]
        if uid and uid not in written:
            yield uid, "", ""


def _date_of(path: Path) -> tuple[str, str]:
    """Date and time of a structure set; empty if its file is damaged, which must end no start."""
    try:
        ds = pydicom.dcmread(path, specific_tags=["StructureSetDate", "StructureSetTime"])
        return str(ds.StructureSetDate), str(ds.StructureSetTime)
    except (InvalidDicomError, *DAMAGES) as error:
        log.error("structure set %s: %s", path, error)
        return "", ""


def _seconds(utc: str) -> float:
    """UTC seconds; 0 if there is no time, or a spreadsheet has changed how it is written."""
    try:
        return datetime.fromisoformat(utc).timestamp()
    except ValueError:
        return 0.0
