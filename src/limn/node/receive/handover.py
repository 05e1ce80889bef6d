"""Hands settled series to the journal; offers the structure set of a known series again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from limn.node.receive.completeness import Verdict
from limn.node.receive.gathering import SettledSeries
from limn.node.store.disk.spool import Spool
from limn.node.store.journal.journal import Journal
from limn.node.store.journal.rows import Arrived, ScanRow
from limn.node.store.journal.schema import JournalBusy, is_locked
from limn.node.store.remedies import journal_remedy

log = logging.getLogger(__name__)

AFTER_LOCK_S = 1.0
# So many studies in which each slice is a series are remembered.
MAX_SCATTERED = 1000


class ScatteredStudies:
    """Studies in which each slice is a series of its own, as some exporters write them."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._said: set[str] = set()

    def found(self, study_instance_uid: str, count: int) -> None:
        """So many series of one slice of a study are there; the first count is that of all."""
        if study_instance_uid not in self._counts and count > 1:
            self._counts[study_instance_uid] = count
            if len(self._counts) > MAX_SCATTERED:
                oldest = next(iter(self._counts))
                del self._counts[oldest]
                self._said.discard(oldest)

    def reason(self, study_instance_uid: str) -> str:
        """Why a series of one slice of this study is refused; empty if it is one by itself."""
        count = self._counts.get(study_instance_uid)
        if count is None:
            return ""
        return (
            f"its study has {count} series of one slice each: the exporter gives each slice a "
            "SeriesInstanceUID of its own; export the scan as one series"
        )

    def is_news(self, study_instance_uid: str) -> bool:
        """Whether the log has not said it yet; from now on it has."""
        if study_instance_uid in self._said:
            return False
        if study_instance_uid in self._counts:
            self._said.add(study_instance_uid)
        return True


class Handover:
    """The way from the spool into the journal; `Intake` calls it under its lock.

    Parameters
    ----------
    destinations : names of those that get the structure sets of a PatientID
    unwelcome : why a series of a PatientID and a SeriesInstanceUID is refused; empty if it is not
    """

    def __init__(
        self,
        spool: Spool,
        journal: Journal,
        *,
        destinations: Callable[[str], Sequence[str]],
        unwelcome: Callable[[str, str], str],
        profile: str,
        bundle_sha256: str,
        wake: Callable[[], None],
    ) -> None:
        self._spool = spool
        self._journal = journal
        self._destinations_of = destinations
        self._unwelcome = unwelcome
        self._profile = profile
        self._bundle_sha256 = bundle_sha256
        self._wake = wake
        self._journal_failed = False
        self._not_before_s = 0.0
        self._scattered = ScatteredStudies()

    def hand_over(self, settled: SettledSeries) -> None:
        """Hand over, or leave it for a later call if the journal can't be written now.

        A call waits for a locked journal under the intake's lock, so a pause follows: slices go on
        to the spool meanwhile.
        """
        self._scattered.found(settled.gathering.study_instance_uid, settled.single_slices)
        if time.monotonic() < self._not_before_s:
            return
        try:
            self._insert(settled)
        except (OSError, JournalBusy) as error:
            if is_locked(error):
                self._not_before_s = time.monotonic() + AFTER_LOCK_S
            if not self._journal_failed:
                log.error(
                    "animal %s is complete and waits: the journal can't be written (%s); %s",
                    settled.gathering.animal,
                    error,
                    journal_remedy(error, self._journal.path),
                )
            self._journal_failed = True
        else:
            self._journal_failed = False

    def _insert(self, settled: SettledSeries) -> None:
        refused = self._refusal(settled)
        arrived = self._arrived(settled, refused)
        row = self._journal.insert(arrived, self._destinations_of(arrived.animal))
        # Before the series is marked: this may fail on a full disk, and is then tried again.
        offer = "" if row is not None or refused else self._offer_again(arrived)
        with suppress(OSError):
            self._spool.forget_replaced(settled.gathering.folder)
        settled.gathering.mark_handed_over(
            settled.version, is_new=row is not None, refused=bool(refused)
        )
        count = len(settled.version.instances)
        if row is None:
            log.info(
                "series %s came again, %d slices, nothing new: no second structure set%s",
                settled.gathering.series_instance_uid,
                count,
                offer,
            )
            return
        if refused:
            # Of a study in which each slice is a series, the first says it for all.
            is_news = count > 1 or self._scattered.is_news(row.study_instance_uid)
            level = logging.ERROR if is_news else logging.DEBUG
            log.log(level, "%s animal %s refused: %s", row.name, row.animal, refused)
        else:
            log.info(
                "%s animal %s complete: %d slices from %s%s",
                row.name,
                row.animal,
                count,
                row.sender,
                f", version {row.version}" if row.version > 1 else "",
            )
        self._wake()

    def _refusal(self, settled: SettledSeries) -> str:
        """Why the series can't be contoured as it is; empty if it can."""
        rules, count = settled.rules, len(settled.version.instances)
        refused = ""
        if settled.verdict is Verdict.GIVE_UP_ABORTED:
            refused = (
                f"the association broke off after {count} slices, or others were not taken, and "
                f"nothing came within {rules.hold_s:g} s; send the series again"
            )
        removed = self._spool.removed(settled.gathering.folder)
        if removed is not None and count < removed.instances:
            refused = (
                f"{count} slices came late: the {removed.instances} of this series were delivered "
                f"and removed on {removed.date} (retention.spool_days); send the whole series again"
            )
        slices = len(settled.version.positions_mm)
        for key, least in (
            ("min_slices", rules.min_slices),
            ("expected_slices", rules.expected_slices or 0),
        ):
            if not refused and slices < least:
                refused = f"{slices} slices came, settle.{key} is {least}"
                if slices == 1:
                    study = settled.gathering.study_instance_uid
                    refused = self._scattered.reason(study) or refused
        gathering = settled.gathering
        return self._unwelcome(gathering.animal, gathering.series_instance_uid) or refused

    def _arrived(self, settled: SettledSeries, refused: str) -> Arrived:
        gathering, version = settled.gathering, settled.version
        # Local time, like the CT's own dates; otherwise both would need a time zone offset.
        now = datetime.now(UTC).astimezone()
        return Arrived(
            series_instance_uid=gathering.series_instance_uid,
            input_digest=version.digest,
            bundle_sha256=self._bundle_sha256,
            profile=self._profile,
            study_instance_uid=gathering.study_instance_uid,
            animal=gathering.animal,
            sender=gathering.sender,
            folder=str(gathering.folder),
            files=tuple(sorted(self._spool.file_name(uid) for uid in version.uids)),
            receive_s=max(0.0, gathering.last_s - gathering.first_s),
            settle_s=settled.settled_s - gathering.last_s,
            last_slice_at=gathering.last_at,
            ready_at=time.time(),
            date=now.strftime("%Y%m%d"),
            time=now.strftime("%H%M%S"),
            refused=refused,
            supersedes=settled.verdict is Verdict.COMPLETE and not refused,
        )

    def _offer_again(self, arrived: Arrived) -> str:
        """Offer the first structure set to every destination that has answered; for the log."""
        row = self._journal.find(arrived)
        if row is None:
            return ""
        animals = self._journal.animals_of(row.id)
        return "".join(self._offer_scan_again(each, arrived) for each in animals)

    def _offer_scan_again(self, row: ScanRow, arrived: Arrived) -> str:
        if row.state == "ready":
            return f"; {row.name} is still being contoured"
        if row.state == "superseded":
            return f"; {row.name} was never begun: {row.reason}"
        if row.state != "contoured":
            return f"; {row.name} was {row.state}, `limn retry` runs it again"
        if self._journal.superseded(row.id):
            return f"; {row.name} has a newer version"
        return self._resend(row, arrived)

    def _resend(self, row: ScanRow, arrived: Arrived) -> str:
        """Offer a structure set again, or contour it again if it was removed; for the log."""
        path = self._journal.structure_set_of(row.id).path
        gone = not path or not Path(path).is_file()
        destinations = self._destinations_of(arrived.animal)
        if gone and self._journal.recontour(row.id, arrived, destinations):
            self._wake()
            return (
                f"; the structure set of {row.name} was removed, so it is contoured anew under the "
                "same UIDs"
            )
        answered = [
            delivery.destination
            for delivery in self._journal.deliveries(row.id)
            if delivery.state != "waiting" and delivery.destination in destinations
        ]
        if not answered or not self._journal.resend(row.id, answered, time.time()):
            return f"; {row.name} is not offered again: it waits, is held or was discarded"
        self._wake()
        return f"; that of {row.name} is offered again to {', '.join(answered)}"
