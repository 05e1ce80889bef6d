"""Contours a scan again with another bundle, as a new version of it, by a person's order (D-278).

The command does it itself. The board gives an order, which a process of its own carries out.
"""

from __future__ import annotations

import hashlib
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from limn.domain.errors import ConfigWrong, LimnError, StageFailed
from limn.domain.files import OWNER_ONLY_FILE, write_durably
from limn.node import oplog
from limn.node.batch.rerun import arrival_of, contour_when_idle, job_of, with_verified_bundle
from limn.node.commissioning import COMMISSIONING
from limn.node.config import Config, load_config
from limn.node.contour.job import Result
from limn.node.contour.results import write_contours
from limn.node.host.doorbell import engine_runs, send_wake
from limn.node.host.lifetime import end_with_supervisor
from limn.node.host.step_back import step_back
from limn.node.operate.decisions import given_text
from limn.node.operate.journal_access import journal_to_read, plain_console
from limn.node.operate.reruns.choices import choices_for, newest_version
from limn.node.store.disk.rerun_notes import (
    REWRITE_S,
    RerunNote,
    read_rerun_note,
    write_rerun_note,
)
from limn.node.store.journal.reader import JournalReader
from limn.node.store.journal.reruns.rerun_journal import Contours, RerunJournal
from limn.node.store.journal.rows import Arrived, ScanRow
from limn.node.store.lull import Lull
from limn.node.store.remedies import NAME, TEXT, hold_notice

log = logging.getLogger(__name__)

_MODULE = "limn.node.operate.reruns.rerun"
LOCK = "rerun.lock"
ONE_AT_A_TIME = "another scan runs again with another bundle now; wait until it is done"
# So long it waits for a journal that others write to, with the contours of an hour in hand.
ENTER_S = 60.0


def list_choices(config_path: Path, scan: str) -> None:
    """Print with which bundles a scan can be contoured again."""
    config = load_config(config_path)
    console = plain_console()
    with journal_to_read(config) as journal:
        found = choices_for(config, *_known(journal, scan))
    if found.why_not:
        msg = f"{scan} {found.why_not}"
        raise ConfigWrong(msg)
    for label, folder in found.bundles.items():
        console.print(f"{label}  {folder}")


def rerun(config_path: Path, scan: str, bundle: str, *, by: str, why: str) -> None:
    """Contour a scan again, and wait for it; the result goes out or is held as any scan's.

    Parameters
    ----------
    bundle : name and version, of `choices_for`
    by, why : the person's name and reason

    Raises
    ------
    ConfigWrong
        If the scan can't run with that bundle, or another one runs again now.
    StageFailed
        If no contours came of it: then nothing has changed.
    """
    config = load_config(config_path)
    note = _order(config, scan, bundle, by, why)
    console = plain_console()
    shown = [""]

    def told(words: str) -> None:
        # A line for each thing that it does, not for each second.
        kind = words.partition(" since ")[0]
        if kind != shown[0]:
            console.print(f"{scan} {kind}")
            shown[0] = kind

    entered = _carry_out(config, config_path, note, told)
    console.print(f"{scan} was contoured again with {bundle}: it is {entered}")


def order_rerun(
    config_path: Path, scan: str, bundle: str, *, by: str, why: str
) -> subprocess.Popen[bytes]:
    """Have a process contour a scan again; it ends with the pipe to its standard input.

    Raises
    ------
    ConfigWrong
        As `rerun`.
    """
    config = load_config(config_path)
    note = _order(config, scan, bundle, by, why)
    with _alone(config):
        write_rerun_note(config.reruns_dir, note)
    command = [sys.executable, "-m", _MODULE, str(config_path), scan]
    return subprocess.Popen(command, stdin=subprocess.PIPE)  # noqa: S603 - its own


def _order(config: Config, scan: str, bundle: str, by: str, why: str) -> RerunNote:
    """A person's order, if it can be carried out."""
    name, reason = given_text("--by", by, NAME), given_text("--why", why, TEXT)
    with journal_to_read(config) as journal:
        found = choices_for(config, *_known(journal, scan))
    if found.why_not:
        msg = f"{scan} {found.why_not}; nothing runs again"
        raise ConfigWrong(msg)
    if bundle not in found.bundles:
        msg = f"{scan} can't run with {bundle}: choose of {', '.join(found.bundles)}"
        raise ConfigWrong(msg)
    return RerunNote(scan=scan, bundle=bundle, by=name, why=reason, at=time.time())


def _known(journal: JournalReader | None, scan: str) -> tuple[JournalReader, ScanRow]:
    row = None if journal is None else journal.named([scan]).get(scan)
    if journal is None or row is None:
        msg = f"{scan} is unknown; `limn queue` and `limn log` list the scans"
        raise ConfigWrong(msg)
    return journal, row


@contextmanager
def _alone(config: Config) -> Iterator[None]:
    """One scan at a time: each takes the memory of a whole model."""
    lock = FileLock(config.data_dir / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ConfigWrong(ONE_AT_A_TIME) from error
    try:
        yield
    finally:
        lock.release()


def _carry_out(
    config: Config, config_path: Path, note: RerunNote, told: Callable[[str], None]
) -> str:
    """Contour and enter; the new scan's name. The note has what became of it in any case."""
    written_s = [0.0]

    def tell(words: str) -> None:
        told(words)
        if time.monotonic() - written_s[0] > REWRITE_S:
            write_rerun_note(config.reruns_dir, replace(note, words=words))
            written_s[0] = time.monotonic()

    with _alone(config):
        write_rerun_note(config.reruns_dir, note)
        try:
            entered = _contour_and_enter(config, config_path, note, tell)
        except BaseException as error:
            why = str(error) if isinstance(error, LimnError) else f"{error!r}"
            failed = replace(note, state="failed", words=why)
            write_rerun_note(config.reruns_dir, failed)
            raise
        write_rerun_note(config.reruns_dir, replace(note, state="done", words=entered))
    return entered


def _contour_and_enter(
    config: Config, config_path: Path, note: RerunNote, tell: Callable[[str], None]
) -> str:
    with closing(RerunJournal(config.journal_path, ENTER_S)) as journal:
        _, row = _known(journal, note.scan)
        folder = choices_for(config, journal, row).bundles[note.bundle]
        other, bundle = with_verified_bundle(config, folder)
        newest = newest_version(journal, row)
        now = datetime.now(UTC).astimezone()
        arrived = arrival_of(row, bundle.sha256, now.strftime("%Y%m%d"), now.strftime("%H%M%S"))
        *uids, date, time_of_day = journal.issue(arrived)
        arrived = replace(arrived, date=date, time=time_of_day)
        job = job_of(other, arrived, (uids[0], uids[1]), journal.contoured_before(arrived))
        lull = Lull(config, journal, cohorts=False)
        result = contour_when_idle(
            other, bundle, job, lambda: engine_runs(config) and bool(lull.broken_by()), tell
        )
        if result.ended:
            msg = f"{result.ended}: {result.reason.strip().splitlines()[-1]}"
            raise StageFailed(msg)
        return _enter(config, config_path, journal, arrived, newest.id, result, note)


def _enter(
    config: Config,
    config_path: Path,
    journal: RerunJournal,
    arrived: Arrived,
    newest: int,
    result: Result,
    note: RerunNote,
) -> str:
    """Write the files and enter the scan; it is held or waits for its couriers from then on."""
    if journal.is_replaced():
        # What is written to the file of before is lost.
        raise StageFailed("the journal was restored meanwhile; run the scan again")
    row = journal.begin_rerun(arrived, newest)
    if row is None:
        msg = "a newer version of its series came meanwhile; run that one again"
        raise StageFailed(msg)
    path = config.results_dir / row.name / f"RS.{result.sop_instance_uid}.dcm"
    write_contours(path, result)
    for name, contents in (("picture.png", result.picture), ("labels.npz", result.labels)):
        write_durably(path.with_name(name), contents, OWNER_ONLY_FILE)
    configured = {COMMISSIONING, *(each.name for each in config.destination)}
    had = [each.destination for each in journal.deliveries(_number(journal, note.scan))]
    flags = f"{result.record.get('flags', '')} rerun:{note.bundle}".strip()
    order = {"of": note.scan, "by": note.by, "why": note.why}
    times = {"queue_s": 0.0, "transfer_s": 0.0, "contoured_at": time.time()}
    contours = Contours(
        path=str(path),
        record={**result.record, **times, "flags": flags, "rerun": order},
        held=result.held,
        contents_sha256=hashlib.sha256(result.structure_set).hexdigest(),
        started_at=result.started_at,
        intervention_s=max(1.0, result.started_at - arrived.ready_at),
    )
    ready = replace(arrived, ready_at=result.started_at)
    names = [name for name in had if name in configured]
    if not journal.finish_rerun(ready, names, contours):
        msg = f"{row.name} came from its sender meanwhile, and the node contours it"
        raise StageFailed(msg)
    with suppress(OSError):
        send_wake(config)
    with oplog.about(scan=row.name, animal=row.animal):
        log.info(
            "%s animal %s is %s again, contoured with %s by order of %s: %s",
            *(row.name, row.animal, note.scan, note.bundle, note.by, note.why),
        )
        if result.held is not None:
            line = hold_notice(journal, journal.scan(row.id), config, config_path)
            log.error("%s animal %s %s", row.name, row.animal, line)
    return row.name


def _number(journal: JournalReader, scan: str) -> int:
    return _known(journal, scan)[1].id


def main(config_path: Path, scan: str) -> None:
    """Carry out the order of a board, whose end ends this process."""
    step_back()
    config = load_config(config_path)
    oplog.set_up(config.data_dir, "rerun", config.log)
    end_with_supervisor()
    note = read_rerun_note(config.reruns_dir, scan)
    if note is None or note.state != "open":
        sys.exit(f"there is no order for {scan}")
    try:
        _carry_out(config, config_path, note, lambda _: None)
    except LimnError as error:
        log.error("%s is not contoured again with %s: %s", scan, note.bundle, error)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
