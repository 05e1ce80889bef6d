"""Removes files from the disk once every destination has had them as long as the site sets.

The journal keeps every row. A scan that waits, is held, was discarded, failed or was quarantined
keeps its files, however old, and so does a series that is still being received. Retention runs in
the receiver, the only process that knows which series are being received.

A clock that is wrong after a start must not make everything old: `TrustedClock`.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from threading import Event

from limn.domain.files import OWNER_ONLY_FILE, write_durably
from limn.node import oplog
from limn.node.config import Config
from limn.node.heartbeat import for_thread
from limn.node.store.disk.spool import FORMS_DIR, REMOVED, Spool
from limn.node.store.journal.journal import Journal
from limn.node.store.journal.rows import ScanRow
from limn.node.store.journal.schema import JournalError
from limn.node.store.remedies import fault_notice

log = logging.getLogger(__name__)

EVERY_S = 3600.0
LOOK_S = 0.5
# One removal may take so long before the health page and `limn queue` name it.
LONGEST_REMOVAL_S = 300.0
DAY_S = 86400.0
# The clock at the last look, and the file by which an operator says that a jump of it is right.
LOOKED_AT = "retention.json"
CLOCK_IS_RIGHT = "clock-is-right"
# A node may be off as long without a question, but for no more than half the shortest retention.
MOST_OFF_S = 7 * DAY_S
# What the engine writes for a scan; any other file in its folder belongs to a user.
RESULTS = ("RS.*.dcm", "picture.png", "labels.npz")
FORMS = (f"{FORMS_DIR}/*",)
PREVIEWS = ("PREVIEW.*.dcm", "preview.png")
EDITS = ("edit-*.png",)


class TrustedClock:
    """The wall clock, but no further on than time can have passed since it was last looked at.

    Time passes by the monotonic clock within a process, and by at most ``jump_s`` more, for which
    the node may have been off. What goes beyond that counts only once an operator says so.

    Parameters
    ----------
    seen_at : a time that has certainly passed (UTC seconds), if none was kept before
    """

    def __init__(self, data_dir: Path, jump_s: float, seen_at: float) -> None:
        self._path = data_dir / LOOKED_AT
        self.is_right_path = data_dir / CLOCK_IS_RIGHT
        self._jump_s = jump_s
        self._looked_at = self._kept() or seen_at
        self._looked_s = time.monotonic()

    def _kept(self) -> float | None:
        try:
            return float(json.loads(self._path.read_bytes())["looked_at"])
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def at(self, now: float) -> float:
        """The time that is trusted when the wall clock shows ``now`` (UTC seconds)."""
        now_s = time.monotonic()
        passed_at = self._looked_at + now_s - self._looked_s
        if self.is_right_path.exists():
            self.is_right_path.unlink()
            log.info("%s was there: the clock is taken as right", self.is_right_path)
        elif now > passed_at + self._jump_s:
            now = passed_at
        self._looked_at, self._looked_s = now, now_s
        return now

    def keep(self) -> None:
        """Keep the time of the last look for the next start; a full disk is no error."""
        try:
            write_durably(self._path, json.dumps({"looked_at": self._looked_at}).encode())
            self._path.chmod(OWNER_ONLY_FILE)
        except OSError as error:
            log.warning("%s can't be written: %s", self._path, error)


class Retention:
    """The removal that a site's ``[retention]`` settings ask for.

    Parameters
    ----------
    clear : removes a series from the spool; returns False and keeps it while slices of it come in
    """

    def __init__(self, config: Config, journal: Journal, clear: Callable[[Path], bool]) -> None:
        self._settings = config.retention
        self._spool = Spool(config.spool_dir, 0)
        self._results_dir = config.results_dir
        self._journal = journal
        self._clear = clear
        self._joins_animals = any(each.one_file for each in config.destination)
        self._data_dir = config.data_dir
        self._clock: TrustedClock | None = None
        self._heart = for_thread("retention", LONGEST_REMOVAL_S)

    def run(self, stopping: Event) -> None:
        """Remove what is due every hour, until the node stops."""
        next_s = time.monotonic()
        while not stopping.wait(LOOK_S):
            self._heart.beat()
            if time.monotonic() >= next_s:
                self._work_guarded()
                next_s = time.monotonic() + EVERY_S
        self._heart.end()

    def _work_guarded(self) -> None:
        try:
            self.work(time.time())
        except Exception as error:
            # A locked journal or a full disk among them: the receiver must not end with it.
            log.error(
                "retention stopped in its work; it is tried again in an hour: %s",
                fault_notice(error, self._journal.path),
                exc_info=error,
            )

    def work(self, now: float) -> None:
        """Remove what is due at ``now`` (UTC seconds); log what can't be removed, and keep it."""
        self._spool.sweep()
        settings = self._settings
        days = [each for each in (settings.spool_days, settings.results_days) if each is not None]
        seen_at = self._journal.newest_at()
        if not days or seen_at is None:
            return
        if self._clock is None:
            jump_s = min(MOST_OFF_S, min(days) * DAY_S / 2)
            self._clock = TrustedClock(self._data_dir, jump_s, seen_at)
        trusted_at = self._clock.at(now)
        kept: set[int] = set()
        for own_days, remove in (
            (settings.spool_days, self._remove_slices),
            (settings.results_days, self._remove_results),
        ):
            if own_days is not None:
                due = self._journal.delivered_before(trusted_at - own_days * DAY_S)
                self._remove(due, remove)
                by_clock = self._journal.delivered_before(now - own_days * DAY_S)
                kept |= {scan_id for scan_id, _ in by_clock} - {scan_id for scan_id, _ in due}
        self._clock.keep()
        if kept:
            log.error(
                "the clock says %s, %.0f days more than can have passed since limn last looked at "
                "it: the files of %d scans, due by that clock, are kept. If it is wrong, set it. "
                "If it is right, say so, and they go within the hour: touch %s",
                datetime.fromtimestamp(now, UTC).date().isoformat(),
                (now - trusted_at) / DAY_S,
                len(kept),
                self._clock.is_right_path,
            )

    def _remove(self, due: Sequence[tuple[int, str]], remove: Callable[[int, Path], None]) -> None:
        for scan_id, folder in due:
            self._heart.beat()
            try:
                remove(scan_id, Path(folder))
            except OSError as error:
                log.error("scan-%05d: its files are due and can't be removed: %s", scan_id, error)
            except JournalError:
                # It concerns every scan.
                raise
            except Exception as error:
                log.error(
                    "scan-%05d: its files are due and stay; tried again in an hour: %s",
                    scan_id,
                    fault_notice(error, self._journal.path),
                    exc_info=error,
                )

    def _remove_slices(self, scan_id: int, folder: Path) -> None:
        if folder.parent != self._spool.root:
            return
        sizes = {path.name: path.stat().st_size for path in folder.glob("*.dcm")}
        row = self._journal.scan(scan_id) if sizes else None
        if row is None or not self._is_done_with(row, set(sizes)):
            return
        if self._clear(folder):
            self._log_removal(row, f"{len(sizes)} slices", sum(sizes.values()))

    def _is_done_with(self, row: ScanRow, names: set[str]) -> bool:
        """Whether no version of a series needs any file in its folder any more."""
        for other in self._journal.scans_of_folder(row.folder):
            if other.state in ("ready", "failed", "quarantined"):
                return False
            if other.state == "superseded":
                # Its deliveries wait for ever; a newer version has its slices.
                continue
            if any(each.state != "delivered" for each in self._journal.deliveries(other.id)):
                # The deliveries of a version that a worker refused wait for ever.
                return False
        # Slices that came later and gave no structure set are not in the scan's list: keep them.
        return names <= set(row.files)

    def _remove_results(self, scan_id: int, _: Path) -> None:
        folder = self._results_dir / f"scan-{scan_id:05d}"
        files = [
            path
            for pattern in (*RESULTS, *FORMS, *PREVIEWS, *EDITS)
            for path in folder.glob(pattern)
        ]
        if not files:
            return
        row = self._journal.scan(scan_id)
        states = {each.state for each in self._journal.deliveries(scan_id)}
        states |= {each.state for each in self._journal.companions(scan_id)}
        undelivered = states != {"delivered"}
        if row.state != "contoured" or undelivered:
            # Its series came again after the query above, and is contoured again.
            return
        if self._joins_animals and self._may_be_joined(row):
            return
        removed_bytes = sum(path.stat().st_size for path in files)
        structure_sets = list(folder.glob(RESULTS[0]))
        names = sorted({path.name for path in files}.union(RESULTS[1:]))
        note = {
            "date": datetime.now(UTC).date().isoformat(),
            "why": "every destination has it (retention.results_days)",
            "files": names,
        }
        # The structure set goes last, after the note: while it exists, the next run continues here.
        # Pictures and labels go first, so that a full disk has room for the note.
        for path in set(files) - set(structure_sets):
            path.unlink()
        with suppress(OSError):
            (folder / FORMS_DIR).rmdir()
        write_durably(folder / REMOVED, json.dumps(note).encode())
        (folder / REMOVED).chmod(OWNER_ONLY_FILE)
        for path in structure_sets:
            path.unlink()
        self._log_removal(row, ", ".join(names), removed_bytes)

    def _may_be_joined(self, row: ScanRow) -> bool:
        """Whether another animal of a scan's field may still go, in one file with this one."""
        for other in self._journal.animals_of(row.id):
            if other.id == row.id:
                continue
            if other.state == "ready" or (
                other.state in ("refused", "failed", "quarantined") and other.dismissed_at is None
            ):
                return True
            deliveries = self._journal.deliveries(other.id) if other.state == "contoured" else []
            if any(each.state in ("waiting", "held", "refused") for each in deliveries):
                return True
        return False

    def _log_removal(self, row: ScanRow, what: str, removed_bytes: int) -> None:
        accepted_at = max(each.accepted_at or 0.0 for each in self._journal.deliveries(row.id))
        day = datetime.fromtimestamp(accepted_at, UTC).date().isoformat()
        with oplog.about(scan=row.name, animal=row.animal):
            log.info("removed: %s, %.1f MB, delivered %s", what, removed_bytes / 2**20, day)
