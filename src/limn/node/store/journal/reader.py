"""Queries on the journal, over a connection that can't write."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from limn.node.store.journal.companion_reader import CompanionReader
from limn.node.store.journal.edits.reader import EditReader
from limn.node.store.journal.look_reader import LookReader
from limn.node.store.journal.peer_reader import PeerReader
from limn.node.store.journal.rows import (
    Arrived,
    DeliveryRow,
    ScanRow,
    StructureSetRow,
    delivery_row,
    structure_set_row,
)
from limn.node.store.journal.schema import LIVE

# The longest pause between two tries of a delivery.
LONGEST_PAUSE_S = 72.0
# Structure sets that wait for a person.
_ON_HOLD = (
    "select scan from structure_set where held is not null and released_at is null "
    "and discarded_at is null"
)
# SQLite's integers have 64 bits.
MOST_DIGITS = 19


class JournalReader(LookReader, PeerReader, CompanionReader, EditReader):
    """The queries, over a connection that can't write; safe to share between threads."""

    def scan(self, scan_id: int) -> ScanRow:
        """One scan by its number.

        Raises
        ------
        LookupError
            If the journal has no such scan.
        """
        for row in self._scans("where id = ?", (scan_id,)):
            return row
        msg = f"the journal has no scan {scan_id}"
        raise LookupError(msg)

    def scans(self) -> list[ScanRow]:
        """Every scan, oldest first."""
        return list(self._scans("order by id", ()))

    def unfinished(self, state: str = "%") -> list[ScanRow]:
        """Live scans that wait for a worker, a person or a destination's "yes", oldest first.

        Those that ended badly, too, as no destination has them; only of ``state`` if it is given.
        """
        return list(
            self._scans(
                # _ON_HOLD is a constant.
                "where priority >= ? and state like ? and (state = 'ready' or id in ("  # noqa: S608
                "select structure_set.scan from structure_set join delivery on "
                "delivery.structure_set = structure_set.id "
                f"where delivery.state <> 'delivered') or id in ({_ON_HOLD})) order by id",
                (LIVE, state),
            )
        )

    def done_since(self, since: float, most: int) -> list[ScanRow]:
        """Live scans that some destination accepted since then (UTC s), the newest first."""
        return list(
            self._scans(
                "where priority >= ? and state = 'contoured' and id in (select structure_set.scan "
                "from structure_set join delivery on delivery.structure_set = structure_set.id "
                "where accepted_at >= ?) and id not in (select structure_set.scan from "
                "structure_set join delivery on delivery.structure_set = structure_set.id where "
                "delivery.state <> 'delivered') order by id desc limit ?",
                (LIVE, since, most),
            )
        )

    def ended_badly(self, since: float) -> list[ScanRow]:
        """Live scans refused or failed since then (UTC s), and all in quarantine, oldest first.

        One that a person dismissed is left out.
        """
        return list(
            self._scans(
                "where priority >= ? and dismissed_at is null and (state = 'quarantined' or "
                "(state in ('refused', 'failed') and ready_at >= ?)) order by id",
                (LIVE, since),
            )
        )

    def dismissed(self, since: float) -> list[ScanRow]:
        """Scans that ended badly and that a person dismissed since then (UTC s), oldest first."""
        return list(self._scans("where dismissed_at >= ? order by id", (since,)))

    def named(self, names: Iterable[str]) -> dict[str, ScanRow]:
        """The scans of these names that exist."""
        found = {}
        for name in names:
            digits = name.rpartition("-")[2]
            number = int(digits) if digits.isdecimal() and len(digits) < MOST_DIGITS else 0
            row = next(self._scans("where id = ?", (number,)), None)
            if row is not None and row.name == name:
                found[name] = row
        return found

    def newest_of_animals(self) -> dict[str, str]:
        """The name of the newest scan of each animal: by PatientID, and by a person's name."""
        rows = self._all(
            "select name, max(id) as id from (select animal as name, id from scan union all "
            "select animal_name, id from scan) where name <> '' group by name",
            (),
        )
        return {row["name"]: f"scan-{row['id']:05d}" for row in rows}

    def newer_versions(self, state: str = "%") -> dict[int, str]:
        """Name of the newer version of each scan that has one; only newer ones in this state."""
        rows = self._all(
            "select id, predecessor from scan where predecessor is not null and state like ? "
            "and priority >= ? "
            # By the plus, SQLite takes the index on predecessors, and not the order of all scans.
            "order by +id",
            (state, LIVE),
        )
        return {row["predecessor"]: f"scan-{row['id']:05d}" for row in rows}

    def cohort_counts(self) -> list[tuple[str, bool, int]]:
        """The number of a cohort's scans by state, and by whether a worker runs them."""
        rows = self._all(
            "select state, started_at is not null as started, count(*) as n from scan "
            "where priority < ? group by state, started",
            (LIVE,),
        )
        return [(row["state"], bool(row["started"]), row["n"]) for row in rows]

    def ready(self, most: int = -1) -> list[ScanRow]:
        """Scans that wait for a worker, in the order in which they should run; so many of them."""
        clause = "where state = 'ready' order by priority desc, id limit ?"
        return list(self._scans(clause, (most,)))

    def find(self, arrived: Arrived) -> ScanRow | None:
        """The scan of exactly this input, bundle and profile; None if there is none."""
        return next(
            self._scans(
                "where series_instance_uid = ? and input_digest = ? and bundle_sha256 = ? "
                "and profile = ?",
                (
                    arrived.series_instance_uid,
                    arrived.input_digest,
                    arrived.bundle_sha256,
                    arrived.profile,
                ),
            ),
            None,
        )

    def knows(self, series_instance_uid: str, input_digest: str) -> bool:
        """Whether exactly this input came before, with any bundle."""
        values = (series_instance_uid, input_digest)
        return bool(
            self._all(
                "select 1 from scan where series_instance_uid = ? and input_digest = ?", values
            )
        )

    def animals_of(self, scan_id: int) -> list[ScanRow]:
        """The scans of all animals in a scan's field, by their numbers; the scan itself too."""
        first = self.scan(scan_id).field or scan_id
        # By indexes: every job asks this.
        clause = "where scan.id = ? or (field is not null and field = ?) order by animal_number"
        return list(self._scans(clause, (first, first)))

    def was_issued(self, sop_instance_uid: str) -> bool:
        """Whether a peer may have a structure set of this UID by an earlier journal."""
        query = "select 1 from issued where sop_instance_uid = ?"
        return bool(self._all(query, (sop_instance_uid,)))

    def superseded(self, scan_id: int) -> bool:
        """Whether a newer version of the same series was contoured."""
        newer = (
            "select 1 from scan as old join scan as new on "
            "new.series_instance_uid = old.series_instance_uid and new.profile = old.profile "
            "and new.version > old.version where old.id = ? and new.state = 'contoured'"
        )
        return bool(self._all(newer, (scan_id,)))

    def superseded_scans(self) -> list[ScanRow]:
        """Versions of a series that a newer one replaced before a worker began, oldest first."""
        return list(self._scans("where state = 'superseded' order by id", ()))

    def inputs(self, folder: str) -> list[tuple[str, ...]]:
        """The files of every scan that was made from a folder of the spool, oldest first.

        A series that was rejected before it was complete is left out.
        """
        return [
            row.files
            for row in self._scans(
                "where folder = ? and exists (select 1 from structure_set "
                "where structure_set.scan = scan.id) order by id",
                (folder,),
            )
        ]

    def quarantined(self) -> list[ScanRow]:
        """Scans that killed their worker too often and wait for a person, oldest first."""
        return list(
            self._scans("where state = 'quarantined' and dismissed_at is null order by id", ())
        )

    def unlogged_ends(self, *destinations: str) -> list[ScanRow]:
        """Scans that ended, or have one of these final answers, and have no row in the log."""
        return list(
            self._scans(
                "where logged = 0 and (state in ('refused', 'failed', 'quarantined') or exists ("
                "select 1 from structure_set join delivery on delivery.structure_set = "
                "structure_set.id where structure_set.scan = scan.id and destination in "
                "(select value from json_each(?)) "
                "and delivery.state not in ('waiting', 'held'))) "
                "order by id",
                (json.dumps(destinations),),
            )
        )

    def on_hold(self) -> list[ScanRow]:
        """Scans whose structure set waits for a person, oldest first."""
        return list(
            self._scans(
                f"where id in ({_ON_HOLD}) order by id",
                (),
            )
        )

    def discarded(self) -> list[ScanRow]:
        """Scans whose structure set a person discarded, oldest first."""
        return list(
            self._scans(
                "where id in (select scan from structure_set where discarded_at is not null) "
                "order by id",
                (),
            )
        )

    def find_structure_set(self, scan_id: int) -> StructureSetRow | None:
        """The structure set of a scan; None if its series was rejected before it was complete."""
        rows = self._all("select * from structure_set where scan = ?", (scan_id,))
        return structure_set_row(rows[0]) if rows else None

    def structure_set_of(self, scan_id: int) -> StructureSetRow:
        """The structure set of a scan."""
        row = self._one("select * from structure_set where scan = ?", (scan_id,))
        return structure_set_row(row)

    def scan_of_structure_set(self, sop_instance_uid: str) -> ScanRow | None:
        """The scan of which this is the structure set; None if it is not one of limn's."""
        clause = "where id = (select scan from structure_set where sop_instance_uid = ?)"
        return next(self._scans(clause, (sop_instance_uid,)), None)

    def last_records(self, bundle_sha256: str, count: int) -> list[dict[str, Any]]:
        """The records of the last scans that were contoured with a bundle, newest first."""
        rows = self._all(
            "select record from scan where state = 'contoured' and bundle_sha256 = ? "
            "order by id desc limit ?",
            (bundle_sha256, count),
        )
        return [json.loads(row["record"]) for row in rows]

    def structure_set(self, structure_set_id: int) -> StructureSetRow:
        """One structure set by its number."""
        return structure_set_row(
            self._one("select * from structure_set where id = ?", (structure_set_id,))
        )

    def deliveries(self, scan_id: int) -> list[DeliveryRow]:
        """The deliveries of a scan's structure set, one per destination."""
        rows = self._all(
            "select delivery.* from delivery join structure_set on structure_set.id = "
            "delivery.structure_set where structure_set.scan = ? order by delivery.id",
            (scan_id,),
        )
        return [delivery_row(row) for row in rows]

    def due(
        self,
        destination: str,
        now: float,
        pauses: Mapping[int, tuple[float, bool]] | None = None,
    ) -> DeliveryRow | None:
        """The next delivery to a destination with its structure set on disk; None if none is.

        A next try that lies further ahead than the longest pause was written before the clock was
        put back: it is due.

        Parameters
        ----------
        now : the wall clock (UTC seconds)
        pauses : of the deliveries that the caller waits for itself, by their number: the next try
            as the caller wrote it, and whether its pause is over. The clock does not count for
            them, unless an operator has changed the next try
        """
        pauses = pauses or {}
        over = json.dumps([number for number, (_, is_over) in pauses.items() if is_over])
        rows = self._all(
            "select delivery.* from delivery join structure_set on structure_set.id = "
            "delivery.structure_set join scan on scan.id = structure_set.scan where "
            "delivery.state = 'waiting' and scan.state = 'contoured' and discarded_at is null "
            "and destination = ? and (next_at <= ? or next_at > ? "
            "or delivery.id in (select value from json_each(?))) "
            "order by scan.priority desc, delivery.id limit ?",
            # Of those, the caller waits for at most so many.
            (destination, now, now + LONGEST_PAUSE_S, over, len(pauses) + 1),
        )
        for row in rows:
            next_at, is_over = pauses.get(row["id"], (None, True))
            if is_over or next_at != row["next_at"]:
                return delivery_row(row)
        return None

    def waiting(self, destination: str) -> int:
        """How many written structure sets a destination still lacks."""
        row = self._one(
            "select count(*) as n from delivery join structure_set on structure_set.id = "
            "delivery.structure_set join scan on scan.id = structure_set.scan where "
            "delivery.state = 'waiting' and scan.state = 'contoured' and destination = ?",
            (destination,),
        )
        return int(row["n"])

    def delivered_before(self, before: float) -> list[tuple[int, str]]:
        """Number and folder of scans that every destination accepted before a time (UTC s).

        A scan whose structure set is held or discarded, or that any destination lacks, is left out.
        """
        rows = self._all(
            "select scan.id, scan.folder from scan join structure_set on "
            "structure_set.scan = scan.id join delivery on delivery.structure_set = "
            "structure_set.id where scan.state = 'contoured' group by scan.id, scan.folder "
            "having min(delivery.state = 'delivered') and max(accepted_at) < ? order by scan.id",
            (before,),
        )
        return [(row["id"], row["folder"]) for row in rows]

    def newest_at(self) -> float | None:
        """The latest time at which a slice came or a destination accepted (UTC s).

        None if no destination has accepted anything.
        """
        query = (
            "select max(accepted_at) as accepted, (select max(last_slice_at) from scan) as came "
            "from delivery"
        )
        row = self._one(query, ())
        return None if row["accepted"] is None else max(row["accepted"], row["came"])

    def scans_of_folder(self, folder: str) -> list[ScanRow]:
        """Every scan that was made from a folder of the spool, oldest first."""
        return list(self._scans("where folder = ? order by id", (folder,)))

    def scan_counts(self) -> list[tuple[str, str, int]]:
        """The number of scans by state and by "live" or "cohort"."""
        rows = self._all(
            "select state, case when priority >= ? then 'live' else 'cohort' end as kind, "
            "count(*) as n from scan group by state, kind",
            (LIVE,),
        )
        return [(row["state"], row["kind"], row["n"]) for row in rows]

    def last_slice_at(self) -> float | None:
        """When the last slice of any live scan came, UTC seconds; None before the first."""
        query = "select max(last_slice_at) as at from scan where priority >= ?"
        at = self._one(query, (LIVE,))["at"]
        return None if at is None else float(at)
