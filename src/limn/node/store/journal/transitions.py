"""Looks up an event of a scan or a delivery in the tables and writes the new state."""

from __future__ import annotations

import json
import logging
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from limn.node.store.journal.rows import Arrived, ScanRow, structure_set_uids
from limn.node.store.journal.states import (
    DELIVERY_TABLE,
    PREVIEW_DELIVERY_TABLE,
    PREVIEW_TABLE,
    SCAN_TABLE,
    DeliveryEvent,
    DeliveryState,
    PreviewDeliveryEvent,
    PreviewDeliveryState,
    PreviewEvent,
    PreviewState,
    ScanEvent,
    ScanState,
)

log = logging.getLogger(__name__)

# In the table of issued UIDs: any UID may have been issued. It sorts before every UID.
ANY_UID = "*"
# In the seed of the UIDs of a structure set whose first UIDs may be at a peer with another date.
AGAIN = "again"

# Animals that lie side by side are further apart than this.
SAME_PLACE_MM = 10.0
# Conditions on a structure set: it waits for a person; it may be sent.
ON_HOLD = " and held is not null and released_at is null and discarded_at is null"
MAY_GO = " and discarded_at is null and (held is null or released_at is not null)"
# Columns of a scan that runs again: what a person decided about its former end is over.
NOT_DISMISSED = "dismissed = '', dismissed_by = '', dismissed_at = null"


def next_of_scan(db: sqlite3.Connection, scan_id: int, event: ScanEvent) -> ScanState | None:
    """The state after an event; if the table refuses it, log that and return None."""
    row = db.execute("select state from scan where id = ?", (scan_id,)).fetchone()
    if row is None:
        return None
    state = SCAN_TABLE.get((ScanState(row["state"]), event))
    if state is None:
        log.warning("scan-%05d is %s: %r is refused", scan_id, row["state"], event.value)
    return state


def move_delivery(
    db: sqlite3.Connection,
    delivery_id: int,
    event: DeliveryEvent,
    columns: str = "",
    values: Sequence[object] = (),
) -> bool:
    """Move a delivery by an event; if the table refuses it, log that and return False.

    Parameters
    ----------
    columns : other columns to set, as SQL; ``values`` are its parameters
    """
    row = db.execute(
        "select delivery.id, delivery.state, destination, scan from delivery join structure_set on "
        "structure_set.id = delivery.structure_set where delivery.id = ?",
        (delivery_id,),
    ).fetchone()
    state = DELIVERY_TABLE.get((DeliveryState(row["state"]), event))
    return _moved(db, "delivery", row, event, state, columns, values)


def move_deliveries(
    db: sqlite3.Connection,
    scan_id: int,
    event: DeliveryEvent,
    columns: str,
    values: Sequence[object] = (),
) -> None:
    """Move the deliveries of a scan whose state allows the event."""
    rows = db.execute(
        "select delivery.id, delivery.state from delivery join structure_set on "
        "structure_set.id = delivery.structure_set where scan = ?",
        (scan_id,),
    ).fetchall()
    for row in rows:
        if (DeliveryState(row["state"]), event) in DELIVERY_TABLE:
            move_delivery(db, row["id"], event, columns, values)


def insert_structure_set(
    db: sqlite3.Connection,
    scan_id: int,
    arrived: Arrived,
    destinations: Sequence[str],
) -> None:
    """Insert the structure set of a new scan, and its deliveries."""
    uids, date, time = free_uids(db, arrived, arrived.date, arrived.time, arrived.again)
    cursor = db.execute(
        "insert into structure_set (scan, profile, sop_instance_uid, series_instance_uid, "
        "date, time) values (?, ?, ?, ?, ?, ?)",
        (scan_id, arrived.profile, *uids, date, time),
    )
    state = DELIVERY_TABLE[DeliveryState.NEW, DeliveryEvent.OFFER]
    db.executemany(
        "insert into delivery (structure_set, destination, state) values (?, ?, ?)",
        [(cursor.lastrowid, destination, state) for destination in destinations],
    )


def complete_rejected(db: sqlite3.Connection, arrived: Arrived) -> int:
    """Let a rejected series run that now came complete; its scan's number, 0 if none."""
    row = db.execute(
        "select scan.id from scan left join structure_set on structure_set.scan = scan.id "
        "where scan.series_instance_uid = ? and input_digest = ? and bundle_sha256 = ? "
        "and scan.profile = ? and structure_set.id is null",
        (
            arrived.series_instance_uid,
            arrived.input_digest,
            arrived.bundle_sha256,
            arrived.profile,
        ),
    ).fetchone()
    if row is None or arrived.refused:
        return 0
    state = next_of_scan(db, int(row["id"]), ScanEvent.COMPLETE)
    if state is None:
        return 0
    db.execute(
        f"update scan set state = ?, reason = '', logged = 0, {NOT_DISMISSED}, settle_s = ?, "  # noqa: S608
        "receive_s = ?, last_slice_at = ?, ready_at = ? where id = ?",
        (
            state,
            arrived.settle_s,
            arrived.receive_s,
            arrived.last_slice_at,
            arrived.ready_at,
            row["id"],
        ),
    )
    return int(row["id"])


def renew_uids(db: sqlite3.Connection, scan: ScanRow, date: str, time: str) -> None:
    """Give the structure set of a scan UIDs, and a date, that no peer has seen."""
    db.execute(
        "insert or replace into issued select sop_instance_uid, '', '' from structure_set "
        "where scan = ?",
        (scan.id,),
    )
    uids, date, time = free_uids(db, scan, date, time)
    db.execute(
        "update structure_set set sop_instance_uid = ?, series_instance_uid = ?, date = ?, "
        "time = ?, path = '', contents_sha256 = '' where scan = ?",
        (*uids, date, time, scan.id),
    )


def free_uids(
    db: sqlite3.Connection, scan: Arrived | ScanRow, date: str, time: str, again: str = ""
) -> tuple[tuple[str, str], str, str]:
    """UIDs, date and time of a structure set that no peer can have with other contents."""
    while True:
        uids = structure_set_uids(scan, again)
        issued = db.execute(
            "select sop_instance_uid, date, time from issued where sop_instance_uid in (?, ?) "
            "order by sop_instance_uid desc",
            (uids[0], ANY_UID),
        ).fetchone()
        if issued is not None and issued["date"]:
            return uids, issued["date"], issued["time"]
        if issued is None or (issued["sop_instance_uid"] == ANY_UID and again):
            return uids, date, time
        # It may be at a peer, and its date is not known. After a backup the row names the restore.
        restore = issued["time"] if issued["sop_instance_uid"] == ANY_UID else ""
        again = f"{again} {AGAIN} {restore}".strip()


def offer(db: sqlite3.Connection, structure_set: int, names: Iterable[str]) -> None:
    """Offer the structure set to these destinations, for the first time or again."""
    for name in names:
        row = db.execute(
            "select id from delivery where structure_set = ? and destination = ?",
            (structure_set, name),
        ).fetchone()
        if row is None:
            state = DELIVERY_TABLE[DeliveryState.NEW, DeliveryEvent.OFFER]
            db.execute(
                "insert into delivery (structure_set, destination, state) values (?, ?, ?)",
                (structure_set, name, state),
            )
        else:
            move_delivery(db, row["id"], DeliveryEvent.OFFER, "tries = 0, next_at = 0, status = ''")


def structure_set_id(db: sqlite3.Connection, scan_id: int, also: str = "") -> int | None:
    """Number of a scan's structure set; None if it has none that meets the condition ``also``."""
    row = db.execute(
        f"select id from structure_set where scan = ?{also}",  # noqa: S608
        (scan_id,),
    ).fetchone()
    return None if row is None else int(row["id"])


def next_number(db: sqlite3.Connection, input_digest: str) -> int:
    """The number that the next scan gets: that which its input had before, else a new one."""
    had = db.execute(
        "select min(number) as number from reserved where input_digest = ? "
        "and number not in (select id from scan)",
        (input_digest,),
    ).fetchone()
    if had["number"] is not None:
        return int(had["number"])
    row = db.execute(
        "select max(coalesce((select max(id) from scan), 0) + 1, "
        "coalesce((select max(least) from numbering), 1)) as number"
    ).fetchone()
    return int(row["number"])


def supersede(db: sqlite3.Connection, scan_id: int, arrived: Arrived) -> None:
    """End the earlier versions of a series that no worker has begun with.

    Only those whose every file is in the newer one: other content under the same UID may be another
    part of the animal.
    """
    rows = db.execute(
        "select id, files from scan join scan_files on scan_files.scan = scan.id "
        "where series_instance_uid = ? and profile = ? and priority = ? "
        "and state = 'ready' and started_at is null and id <> ?",
        (arrived.series_instance_uid, arrived.profile, arrived.priority, scan_id),
    ).fetchall()
    for row in rows:
        if not set(json.loads(row["files"])) <= set(arrived.files):
            continue
        state = next_of_scan(db, row["id"], ScanEvent.SUPERSEDE)
        reason = f"scan-{scan_id:05d}, a newer version of its series, came before a worker began"
        db.execute("update scan set state = ?, reason = ? where id = ?", (state, reason, row["id"]))
        withdraw_previews(db, row["id"])


def enter_contours(
    db: sqlite3.Connection,
    scan_id: int,
    path: str,
    record: Mapping[str, Any],
    held: str | None,
    contents_sha256: str,
) -> bool:
    """Enter that a structure set is on disk, see `Journal.contoured`; False if the scan ended."""
    state = next_of_scan(db, scan_id, ScanEvent.CONTOUR)
    if state is None:
        return False
    db.execute(
        "update scan set state = ?, record = ? where id = ?",
        (state, json.dumps(record), scan_id),
    )
    db.execute(
        "update structure_set set path = ?, held = ?, contents_sha256 = ? where scan = ?",
        (path, held, contents_sha256, scan_id),
    )
    if held is not None:
        move_deliveries(db, scan_id, DeliveryEvent.HOLD, "status = ?", (held,))
    discard_replaced(db, scan_id, float(record.get("contoured_at") or time.time()))
    withdraw_previews(db, scan_id)
    return True


def discard_replaced(db: sqlite3.Connection, scan_id: int, now: float) -> None:
    """Discard what is held of a series of which a newer version with all its slices is contoured.

    Of several animals that of the same number, if there are as many and it lies in the same place.
    What a person let run again, or what a discarded version would replace, stays. A run of the same
    slices with another bundle discards nothing (D-278).

    Parameters
    ----------
    scan_id : of the version that was contoured now, the older or the newer one
    """
    pairs = db.execute(
        "select old.id as old, new.id as new, old_files.files as old_files, "
        "new_files.files as new_files, old.record as old_record, new.record as new_record, "
        "(select count(*) from scan as a where a.field is not null and a.field = "
        "coalesce(old.field, old.id)) = (select count(*) from scan as a where a.field is not null "
        "and a.field = coalesce(new.field, new.id)) as same_count from scan as old "
        "join scan as new on new.series_instance_uid = old.series_instance_uid "
        "and new.profile = old.profile and new.priority = old.priority "
        "and new.version > old.version and +new.state = 'contoured' "
        "and new.animal_number = old.animal_number "
        "join scan_files as old_files on old_files.scan = old.id "
        "join scan_files as new_files on new_files.scan = new.id "
        "join structure_set as drawn on drawn.scan = new.id and drawn.discarded_at is null "
        # By the pluses, SQLite takes the index on series, and not the thousands of one state.
        "where old.series_instance_uid = (select series_instance_uid from scan where id = ?) "
        "and +old.state = 'contoured' and old.intervention_s = 0 and (old.id = ? or new.id = ?) "
        "and (new.intervention_s = 0 or new.input_digest <> old.input_digest) "
        "order by old.id, new.id",
        (scan_id, scan_id, scan_id),
    ).fetchall()
    for pair in pairs:
        structure_set = structure_set_id(db, pair["old"], ON_HOLD)
        whole = set(json.loads(pair["old_files"])) <= set(json.loads(pair["new_files"]))
        same = pair["same_count"] and _same_place(pair["old_record"], pair["new_record"])
        if structure_set is None or not whole or not same:
            continue
        why = f"scan-{pair['new']:05d}, a newer version of its series with all its slices, is there"
        discard_held(db, pair["old"], structure_set, why, now, by="")
        log.warning("scan-%05d was held and is discarded: %s", pair["old"], why)


def _same_place(old_record: str, new_record: str) -> bool:
    """Whether two scans are of one animal, by where it lies; one that is not known is the same."""
    places = [json.loads(each).get("middle_xyz_mm") for each in (old_record, new_record)]
    if None in places:
        return True
    # The middle of the trunk moves along z with the slices that are there.
    return all(
        abs(a - b) < SAME_PLACE_MM for a, b in zip(places[0][:2], places[1][:2], strict=True)
    )


def discard_held(
    db: sqlite3.Connection, scan_id: int, structure_set: int, why: str, now: float, *, by: str
) -> None:
    """Send a held structure set nowhere."""
    db.execute(
        "update structure_set set discarded = ?, discarded_at = ?, discarded_by = ? where id = ?",
        (why, now, by, structure_set),
    )
    move_deliveries(db, scan_id, DeliveryEvent.DISCARD, "status = ?", (f"discarded: {why}",))


def next_of_preview(
    db: sqlite3.Connection, scan_id: int, event: PreviewEvent
) -> PreviewState | None:
    """The state of a scan's preview after an event; None if the table refuses it.

    A second beginning is refused in silence: the caller asks that way whether one may begin.
    """
    row = db.execute("select state from preview where scan = ?", (scan_id,)).fetchone()
    before = PreviewState.NEW if row is None else PreviewState(row["state"])
    state = PREVIEW_TABLE.get((before, event))
    if state is None and event is not PreviewEvent.BEGIN:
        log.warning("scan-%05d, preview is %s: %r is refused", scan_id, before, event.value)
    return state


def move_preview_delivery(
    db: sqlite3.Connection,
    delivery_id: int,
    event: PreviewDeliveryEvent,
    columns: str = "",
    values: Sequence[object] = (),
) -> bool:
    """As `move_delivery`, for the delivery of a preview."""
    row = db.execute(
        "select id, state, destination, scan from preview_delivery where id = ?", (delivery_id,)
    ).fetchone()
    state = PREVIEW_DELIVERY_TABLE.get((PreviewDeliveryState(row["state"]), event))
    return _moved(db, "preview_delivery", row, event, state, columns, values)


def _moved(
    db: sqlite3.Connection,
    table: Literal["delivery", "preview_delivery"],
    row: sqlite3.Row,
    event: DeliveryEvent | PreviewDeliveryEvent,
    state: DeliveryState | PreviewDeliveryState | None,
    columns: str,
    values: Sequence[object],
) -> bool:
    """Write the state after an event; if there is none, log the refusal and return False."""
    if state is None:
        log.warning(
            "scan-%05d, %s to %s is %s: %r is refused",
            row["scan"],
            "delivery" if table == "delivery" else "preview",
            row["destination"],
            row["state"],
            event.value,
        )
        return False
    db.execute(
        f"update {table} set state = ?{', ' if columns else ''}{columns} where id = ?",  # noqa: S608
        (state, *values, row["id"]),
    )
    return True


def withdraw_previews(db: sqlite3.Connection, scan_id: int | None = None) -> None:
    """Send a scan's preview nowhere any more (None: that of any scan)."""
    rows = db.execute(
        "select id from preview_delivery where scan = coalesce(?, scan) and state = ?",
        (scan_id, PreviewDeliveryState.WAITING),
    ).fetchall()
    for row in rows:
        move_preview_delivery(db, row["id"], PreviewDeliveryEvent.WITHDRAW)
