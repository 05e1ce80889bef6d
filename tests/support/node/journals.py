"""Journals as earlier versions of limn made them."""

import sqlite3
from contextlib import closing
from pathlib import Path

# What `limn 0.1` wrote before there were `limn retry`, `limn resend` and cohorts.
BEFORE_RETRY = """
create table if not exists scan (
    id integer primary key,
    series_instance_uid text not null,
    input_digest text not null,
    bundle_sha256 text not null,
    profile text not null,
    version integer not null,
    predecessor integer references scan(id),
    study_instance_uid text not null,
    animal text not null,
    sender text not null,
    folder text not null,
    files text not null,
    receive_s real not null,
    settle_s real not null,
    last_slice_at real not null,
    ready_at real not null,
    priority integer not null default 100,
    state text not null check (state in ('ready', 'contoured', 'refused', 'failed', 'quarantined')),
    tries integer not null default 0,
    reason text not null default '',
    record text not null default '{}',
    logged integer not null default 0,
    unique (series_instance_uid, input_digest, bundle_sha256, profile)
);
create table if not exists structure_set (
    id integer primary key,
    scan integer not null references scan(id),
    profile text not null,
    sop_instance_uid text not null unique,
    series_instance_uid text not null,
    date text not null,
    time text not null,
    path text not null default '',
    held text,
    released_at real,
    discarded text,
    discarded_at real,
    unique (scan, profile)
);
create table if not exists delivery (
    id integer primary key,
    structure_set integer not null references structure_set(id),
    destination text not null,
    state text not null check (state in ('waiting', 'delivered', 'held')),
    tries integer not null default 0,
    next_at real not null default 0,
    status text not null default '',
    accepted_at real,
    unique (structure_set, destination)
);
create table if not exists numbering (least integer not null);
"""
ROWS = (
    "insert into scan (id, series_instance_uid, input_digest, bundle_sha256, profile, version, "
    "study_instance_uid, animal, sender, folder, files, receive_s, settle_s, last_slice_at, "
    "ready_at, state, tries, reason) values "
    "(1, '2.25.1', 'd1', 'b', 'default', 1, '2.25.2', 'M1', 'S', '/spool/1', '[\"a.dcm\"]', 1, "
    "0.5, 100, 101, 'contoured', 1, ''), "
    "(2, '2.25.3', 'd2', 'b', 'default', 1, '2.25.4', 'M2', 'S', '/spool/2', '[\"a.dcm\"]', 1, "
    "0.5, 200, 201, 'quarantined', 3, 'the worker died 3 times'), "
    "(3, '2.25.5', 'd3', 'b', 'default', 1, '2.25.6', 'M3', 'S', '/spool/3', '[\"a.dcm\"]', 1, "
    "0.5, 300, 301, 'ready', 0, '')",
    "insert into structure_set (id, scan, profile, sop_instance_uid, series_instance_uid, date, "
    "time, path) values (1, 1, 'default', '2.25.11', '2.25.12', '20260101', '120000', '/rs.dcm'), "
    "(2, 2, 'default', '2.25.21', '2.25.22', '20260101', '120000', ''), "
    "(3, 3, 'default', '2.25.31', '2.25.32', '20260101', '120000', '')",
    "insert into delivery (structure_set, destination, state, tries, status) values "
    "(1, 'tps', 'held', 1, '0xA900'), (2, 'tps', 'waiting', 0, ''), (3, 'tps', 'waiting', 0, '')",
)


def before_retry(path: Path) -> None:
    """A journal with a scan that its peer refused, one in quarantine and one that waits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("pragma journal_mode = wal")
    db.executescript(BEFORE_RETRY)
    for statement in ROWS:
        db.execute(statement)
    db.close()


# The schema until `held` came to mean that a person must look, and nothing else.
BEFORE_STATES = BEFORE_RETRY.replace(
    "    logged integer not null default 0,\n",
    "    logged integer not null default 0,\n    started_at real,\n"
    "    again_s real not null default 0,\n",
).replace(
    "    discarded_at real,\n", "    discarded_at real,\n    again_s real not null default 0,\n"
)


FILES = "(select files from today.scan_files where scan_files.scan = scan.id)"


def as_before_states(path: Path) -> None:
    """Rewrite a journal of today as the limn before it would have written it."""
    today = path.with_name("today.sqlite")
    with closing(sqlite3.connect(path)) as db:
        db.execute("pragma wal_checkpoint(truncate)")
    for file in path.parent.glob(f"{path.name}*"):
        file.rename(today.with_name(file.name.replace(path.name, today.name)))
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("pragma journal_mode = wal")
    db.executescript(BEFORE_STATES)
    db.execute("attach ? as today", (str(today),))
    for table in ("scan", "structure_set", "numbering"):
        columns = [row[1] for row in db.execute(f"pragma table_info({table})")]
        then = ", ".join({"again_s": "intervention_s", "files": FILES}.get(n, n) for n in columns)
        db.execute(f"insert into {table} select {then} from today.{table}")  # noqa: S608
    db.execute(
        "insert into delivery select id, structure_set, destination, case when state in "
        "('refused', 'discarded') then 'held' else state end, tries, next_at, status, "
        "accepted_at from today.delivery"
    )
    db.close()
    for file in path.parent.glob("today.sqlite*"):
        file.unlink()


# Columns by which a decision has a name: since version 5.
NAMED = {
    "scan": ("dismissed", "dismissed_by", "dismissed_at"),
    "structure_set": ("released_by", "release_why", "discarded_by"),
}


# Columns that each version added. `field` stays: SQLite drops no column that refers to a row.
ADDED = {
    5: NAMED,
    6: {"structure_set": ("contents_sha256", "replaces")},
    7: {"scan": ("animal_name", "named_by")},
}


def as_version(path: Path, version: int) -> None:
    """Take from a journal of today what one of version 1 to 8 did not have."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        for table in ("edit_roi", "edit", "returned", "drift"):
            db.execute(f"drop table {table}")
        if version < 8:
            db.execute("drop table look")
        for then, tables in ADDED.items():
            for table, columns in tables.items() if version < then else ():
                for column in columns:
                    db.execute(f"alter table {table} drop column {column}")
        if version < 4:
            db.execute("drop table preview_delivery")
            db.execute("drop table preview")
        if version < 3:
            db.execute("alter table scan add column files text not null default '[]'")
            db.execute(
                "update scan set files = (select files from scan_files where scan = scan.id)"
            )
            db.execute("drop table scan_files")
        if version < 2:
            (number,) = db.execute("pragma schema_version").fetchone()
            db.execute("pragma writable_schema = on")
            db.execute("update sqlite_master set sql = replace(sql, ?, '')", (", 'superseded'",))
            db.execute(f"pragma schema_version = {number + 1}")
            db.execute("pragma writable_schema = reset")
        db.execute(f"pragma user_version = {version}")
