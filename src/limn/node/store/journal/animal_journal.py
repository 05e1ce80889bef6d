"""The journal's scans of several animals in one field, and of structure sets under other UIDs."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

from limn.dicom.uids import uid_from
from limn.node.store.disk.evidence import note_number, number_to_give
from limn.node.store.journal.preview_journal import PreviewJournal
from limn.node.store.journal.rows import Arrived, ScanRow, digest_of_animal
from limn.node.store.journal.schema import LIVE
from limn.node.store.journal.states import SCAN_TABLE, DeliveryEvent, ScanEvent, ScanState
from limn.node.store.journal.transitions import (
    insert_structure_set,
    move_delivery,
    next_number,
    next_of_scan,
    offer,
    renew_uids,
    structure_set_id,
)

# What the scans of all animals in a field have in common.
_OF_FIELD = (
    *("series_instance_uid", "bundle_sha256", "profile", "study_instance_uid", "animal", "sender"),
    *("folder", "files", "receive_s", "settle_s", "last_slice_at", "ready_at", "priority"),
)
# Columns of a scan that are as it arrived.
COLUMNS = (*(name for name in _OF_FIELD if name != "files"), "input_digest")


def insert_scan(db: sqlite3.Connection, values: Mapping[str, Any]) -> sqlite3.Cursor:
    """Insert a scan, unless it is known."""
    return db.execute(
        f"insert or ignore into scan ({', '.join(values)}) "  # noqa: S608
        f"values ({', '.join('?' * len(values))})",
        tuple(values.values()),
    )


class AnimalJournal(PreviewJournal):
    """Enters further animals of a field, and gives structure sets other UIDs."""

    def add_animals(
        self,
        scan_id: int,
        numbers: Sequence[int],
        destinations: Sequence[str],
        date: str = "",
        time_of_day: str = "",
        again: str = "",
    ) -> list[ScanRow]:
        """Enter a scan for each of these animals in a scan's field, ready for a worker.

        They have its files and times. Those that are there already stay.

        Parameters
        ----------
        destinations : names; none get what is of a cohort
        date, time_of_day, again : of their structure sets; by default as that of the first animal
        """
        first = self.scan(scan_id)
        destinations = destinations if first.priority >= LIVE else ()
        known = {row.animal_number for row in self.animals_of(scan_id)}
        with self._transaction() as db:
            for number in numbers:
                if number not in known:
                    self._add_animal(db, first, number, destinations, (date, time_of_day, again))
        return [row for row in self.animals_of(scan_id) if row.animal_number in numbers]

    def _next_number(self, db: sqlite3.Connection, input_digest: str) -> int:
        return number_to_give(self.path, next_number(db, input_digest), input_digest)

    def _add_animal(
        self,
        db: sqlite3.Connection,
        first: ScanRow,
        number: int,
        destinations: Sequence[str],
        known: tuple[str, str, str],
    ) -> None:
        structure_set = self.structure_set_of(first.id)
        date, time_of_day, again = known
        arrived = Arrived(
            **{name: getattr(first, name) for name in _OF_FIELD},
            input_digest=digest_of_animal(first.input_digest, number),
            date=date or structure_set.date,
            time=time_of_day or structure_set.time,
            again=again,
        )
        predecessor = db.execute(
            "select id from scan where field is not null and field = ? and animal_number = ?",
            (first.predecessor, number),
        ).fetchone()
        values = {name: getattr(arrived, name) for name in COLUMNS} | {
            "id": self._next_number(db, arrived.input_digest),
            "version": first.version,
            "predecessor": predecessor["id"] if predecessor else None,
            "state": SCAN_TABLE[ScanState.NEW, ScanEvent.SETTLE],
            "logged": int(first.priority < LIVE),
            "field": first.id,
            "animal_number": number,
        }
        insert_scan(db, values)
        db.execute(
            "insert or ignore into scan_files values (?, ?)",
            (values["id"], json.dumps(arrived.files)),
        )
        insert_structure_set(db, values["id"], arrived, destinations)
        note_number(self.path, values["id"], arrived.input_digest)

    def name_animal(
        self,
        scan_id: int,
        name: str,
        by: str,
        destinations: Sequence[str],
        now: float,
        when: tuple[str, str],
    ) -> bool:
        """Note the name that a person gives an animal; true if its scan runs again for it.

        Its structure set then gets other UIDs and names the one before as what it replaces.

        Parameters
        ----------
        destinations : that get the new one
        when : date and time of the new one
        """
        scan = self.scan(scan_id)
        with self._transaction() as db:
            db.execute(
                "update scan set animal_name = ?, named_by = ? where id = ?", (name, by, scan_id)
            )
            structure_set = structure_set_id(db, scan_id, " and discarded_at is null")
            if scan.state != ScanState.CONTOURED or structure_set is None:
                return False
            state = next_of_scan(db, scan_id, ScanEvent.RECONTOUR)
            if state is None:
                return False
            db.execute(
                "update structure_set set replaces = sop_instance_uid, held = null, "
                "released_at = null, released_by = '', release_why = '', intervention_s = 0 "
                "where id = ?",
                (structure_set,),
            )
            renew_uids(db, scan, *when)
            db.execute(
                "update delivery set accepted_at = null where structure_set = ?", (structure_set,)
            )
            db.execute(
                "update scan set state = ?, reason = '', record = '{}', tries = 0, "
                "started_at = null, logged = 0, "
                "intervention_s = intervention_s + ? - ready_at, ready_at = ? where id = ?",
                (state, now, now, scan_id),
            )
            offer(db, structure_set, destinations)
        return True

    def renew_uids(self, scan_id: int, date: str, time_of_day: str) -> None:
        """Give the structure set of a scan that must run again other UIDs and another date.

        A destination may have the first ones with other contents.
        """
        scan = self.scan(scan_id)
        with self._transaction() as db:
            renew_uids(db, scan, date, time_of_day)

    def newer_of(self, row: ScanRow) -> list[ScanRow]:
        """Scans of newer versions of a series that are contoured or will be, oldest first.

        Only of versions with every slice of this one: another one may be of another part of the
        animal.
        """
        clause = (
            "where series_instance_uid = ? and profile = ? and priority = ? and version > ? "
            "and +state in ('ready', 'contoured') order by id"
        )
        values = (row.series_instance_uid, row.profile, row.priority, row.version)
        files = set(row.files)
        return [each for each in self._scans(clause, values) if files <= set(each.files)]

    def replaced(self, delivery_id: int, why: str) -> None:
        """Note that a structure set never goes: the file of a newer version goes in its place."""
        with self._transaction() as db:
            move_delivery(db, delivery_id, DeliveryEvent.REPLACE, "status = ?", (why,))

    def was_joined(self, field: int, destination: str, contents: str) -> bool:
        """Whether a file with these contents was made before; parameters as `join_animals`."""
        query = "select 1 from joined where field = ? and destination = ? and contents = ?"
        return bool(self._all(query, (field, destination, contents)))

    def join_animals(self, field: int, destination: str, contents: str) -> tuple[str, str]:
        """SOP Instance UIDs of a destination's file of a field, and of the one that it replaces.

        The same contents have the same UIDs each time. What is replaced is the last file that was
        made of the field, or of an earlier version of the series; empty if there is none.

        Parameters
        ----------
        field : the scan of the first animal
        contents : names everything that is in the file
        """
        with self._transaction() as db:
            known = db.execute(
                "select sop_instance_uid, predecessor from joined where field = ? "
                "and destination = ? and contents = ?",
                (field, destination, contents),
            ).fetchone()
            if known is not None:
                return known["sop_instance_uid"], known["predecessor"]
            replaced = _last_joined(db, field, destination)
            uid = uid_from(f"all animals|{destination}|{contents}|{replaced}")
            db.execute(
                "insert into joined (sop_instance_uid, field, destination, contents, predecessor) "
                "values (?, ?, ?, ?, ?)",
                (uid, field, destination, contents, replaced),
            )
        return uid, replaced


def _last_joined(db: sqlite3.Connection, field: int | None, destination: str) -> str:
    """The last file of a field, or of an earlier version of it, for a destination."""
    while field is not None:
        last = db.execute(
            "select sop_instance_uid from joined where field = ? and destination = ? "
            "order by rowid desc limit 1",
            (field, destination),
        ).fetchone()
        if last is not None:
            return str(last["sop_instance_uid"])
        row = db.execute("select predecessor from scan where id = ?", (field,)).fetchone()
        field = None if row is None else row["predecessor"]
    return ""
