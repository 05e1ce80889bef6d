"""The journal's tables, and the migration of a journal that an earlier limn made."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from limn.domain.errors import ConfigWrong

# Kept in the database's user_version. In version 0 (until limn 0.1) `held` also meant that a
# destination had refused a structure set. Until version 1 no scan could be `superseded`.
# Until version 2 the names of a scan's files stood in its row, so that every query read them.
# Until version 3 no scan could have a preview. Until version 4 no decision had a name.
# Until version 5 the journal did not know the contents of a structure set, and a scan was of one
# animal. Until version 6 no person could name one of several animals. Until version 7 nobody could
# note that a person had looked at a scan, several animals were never one file, and nothing but
# structure sets and previews went to a destination. Until version 8 nothing was known of structure
# sets that came back.
VERSION = 9
# The first that drops a column.
LEAST_SQLITE = (3, 35, 0)
# Any error of the database: locked, full, damaged.
JournalError = sqlite3.Error
# It is locked, its disk is full, or it can't be opened; its contents may be sound.
JournalBusy = sqlite3.OperationalError
_DELIVERY = """
create table if not exists delivery (
    id integer primary key,
    structure_set integer not null references structure_set(id),
    destination text not null,
    state text not null check (state in ('waiting', 'held', 'delivered', 'refused', 'discarded')),
    tries integer not null default 0,
    next_at real not null default 0,
    status text not null default '',
    accepted_at real,
    unique (structure_set, destination)
);
"""
SCHEMA = (
    """
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
    receive_s real not null,
    settle_s real not null,
    last_slice_at real not null,
    ready_at real not null,
    priority integer not null default 100,
    state text not null
        check (state in ('ready', 'contoured', 'refused', 'failed', 'quarantined', 'superseded')),
    tries integer not null default 0,
    reason text not null default '',
    record text not null default '{}',
    logged integer not null default 0,
    started_at real,
    intervention_s real not null default 0,
    field integer references scan(id),
    animal_number integer not null default 1,
    animal_name text not null default '',
    named_by text not null default '',
    dismissed text not null default '',
    dismissed_by text not null default '',
    dismissed_at real,
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
    contents_sha256 text not null default '',
    replaces text not null default '',
    held text,
    released_at real,
    released_by text not null default '',
    release_why text not null default '',
    discarded text,
    discarded_at real,
    discarded_by text not null default '',
    intervention_s real not null default 0,
    unique (scan, profile)
);
"""
    + _DELIVERY
    + """
create table if not exists numbering (least integer not null);
create table if not exists scan_files (
    scan integer primary key references scan(id),
    files text not null
);
create table if not exists issued (
    sop_instance_uid text primary key,
    date text not null,
    time text not null
);
create table if not exists reserved (
    number integer primary key,
    input_digest text not null
);
create table if not exists copied (at text not null);
create table if not exists joined (
    sop_instance_uid text primary key,
    field integer not null references scan(id),
    destination text not null,
    contents text not null,
    predecessor text not null default '',
    unique (field, destination, contents)
);
create table if not exists preview (
    scan integer primary key references scan(id),
    sop_instance_uid text not null unique,
    series_instance_uid text not null,
    state text not null check (state in ('running', 'contoured', 'dropped')),
    begun_at real not null,
    path text not null default '',
    reason text not null default ''
);
create table if not exists preview_delivery (
    id integer primary key,
    scan integer not null references preview(scan),
    destination text not null,
    state text not null check (
        state in ('waiting', 'sending', 'delivered', 'refused', 'withdrawn', 'lost')
    ),
    tries integer not null default 0,
    status text not null default '',
    accepted_at real,
    unique (scan, destination)
);
create table if not exists look (
    id integer primary key,
    scan integer not null references scan(id),
    person text not null,
    at real not null
);
create table if not exists companion_delivery (
    id integer primary key,
    structure_set integer not null references structure_set(id),
    destination text not null,
    form text not null,
    state text not null check (state in ('waiting', 'delivered', 'refused')),
    tries integer not null default 0,
    status text not null default '',
    accepted_at real,
    unique (structure_set, destination, form)
);
create table if not exists returned (
    id integer primary key,
    file text not null unique,
    came_at real not null,
    state text not null
        check (state in ('waiting', 'measured', 'preview', 'unmatched', 'failed')),
    tries integer not null default 0,
    reason text not null default '',
    editor text not null default '',
    software text not null default ''
);
create table if not exists edit (
    id integer primary key,
    returned integer not null references returned(id),
    scan integer not null references scan(id),
    unique (returned, scan)
);
create table if not exists edit_roi (
    edit integer not null references edit(id),
    roi text not null,
    organ text not null,
    role text not null,
    came_as text not null,
    change text not null check (change in ('same', 'edited', 'emptied', 'absent')),
    dsc real,
    hd95_mm real,
    added_path_mm real,
    volume_before_mm3 real,
    volume_mm3 real,
    cranial_mm real,
    caudal_mm real,
    dorsal_mm real,
    ventral_mm real,
    left_mm real,
    right_mm real,
    centre_cranial_mm real,
    centre_dorsal_mm real,
    centre_left_mm real,
    unique (edit, roi)
);
create table if not exists drift (
    scanner text not null,
    roi text not null,
    bundle_sha256 text not null,
    count integer not null,
    first_dsc real not null,
    last_dsc real not null,
    p real not null,
    since real,
    unique (scanner, roi)
);
create table if not exists sent_series (
    series_instance_uid text not null,
    destination text not null,
    sent_at real not null,
    primary key (series_instance_uid, destination)
);
"""
)
# What the engine asks every half second, and the queue: few rows of many.
_INDEXES = """
create index if not exists scan_by_state on scan(state);
create index if not exists scan_unlogged on scan(id) where logged = 0;
create index if not exists scan_by_folder on scan(folder);
create index if not exists scan_by_field on scan(field) where field is not null;
create index if not exists delivery_by_state on delivery(state, destination);
create index if not exists preview_delivery_by_state on preview_delivery(state, destination);
create index if not exists scan_by_predecessor on scan(predecessor) where predecessor is not null;
create index if not exists look_by_scan on look(scan);
create index if not exists companion_delivery_by_state on companion_delivery(state, destination);
create index if not exists edit_by_scan on edit(scan);
create index if not exists returned_by_state on returned(state);
create index if not exists delivery_open on delivery(structure_set) where state <> 'delivered';
"""
# Columns that the journal of an earlier limn lacks, or has under another name.
_ADDED_COLUMNS = {
    "scan": {
        "started_at": "real",
        "intervention_s": "real not null default 0",
        "field": "integer references scan(id)",
        "animal_number": "integer not null default 1",
        "animal_name": "text not null default ''",
        "named_by": "text not null default ''",
        "dismissed": "text not null default ''",
        "dismissed_by": "text not null default ''",
        "dismissed_at": "real",
    },
    "structure_set": {
        "contents_sha256": "text not null default ''",
        "replaces": "text not null default ''",
        "held": "text",
        "released_at": "real",
        "released_by": "text not null default ''",
        "release_why": "text not null default ''",
        "discarded": "text",
        "discarded_at": "real",
        "discarded_by": "text not null default ''",
        "intervention_s": "real not null default 0",
    },
}
_FORMER_NAMES = {"intervention_s": "again_s"}
# Priorities. An animal lies under anaesthesia during a live scan; nobody waits for a cohort scan.
LIVE = 100
COHORT = 0


def is_locked(error: Exception) -> bool:
    """Whether an error means that another program holds a lock, and no fault of a disk or file."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def is_damaged(error: Exception) -> bool:
    """Whether an error means that the journal's file is damaged: the supervisor must restore it."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def check_not_newer(path: Path) -> None:
    """Refuse the journal of a newer limn before any process of a node starts.

    A file that is damaged or gone passes: who mends journals looks at that.

    Raises
    ------
    ConfigWrong
        Says which versions, and what to do.
    """
    if not path.is_file():
        return
    try:
        uri = f"{path.resolve().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True)) as db:
            (version,) = db.execute("pragma user_version").fetchone()
    except sqlite3.Error:
        return
    if version > VERSION:
        raise _newer(path, version)


def _newer(path: Path, version: int) -> ConfigWrong:
    return ConfigWrong(
        f"{path} was made by a newer limn (journal version {version}, this limn knows {VERSION}); "
        "install that limn again, or put the backup back that was made before it (docs/backup.md)"
    )


def prepare(db: sqlite3.Connection, path: Path) -> None:
    """Make the tables, or bring those of an earlier limn up to date, in one transaction.

    Raises
    ------
    ConfigWrong
        If a newer limn made the journal.
    """
    db.isolation_level = None
    if db.execute("pragma user_version").fetchone()[0] == VERSION:
        # A start waits for no lock that another program holds.
        return
    db.execute("begin immediate")
    try:
        _prepare(db, path)
        db.execute("commit")
    except BaseException:
        # On a full disk SQLite may have rolled back by itself.
        if db.in_transaction:
            db.execute("rollback")
        raise


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    (version,) = db.execute("pragma user_version").fetchone()
    if version > VERSION:
        raise _newer(path, version)
    _execute(db, SCHEMA)
    if version < VERSION:
        _update_columns(db)
        if version < 1:
            _split_held(db)
        if version < 2:
            _allow_superseded(db)
        _move_files(db)
        _execute(db, _INDEXES)
        db.execute(f"pragma user_version = {VERSION}")


def _execute(db: sqlite3.Connection, script: str) -> None:
    """Run a script statement by statement: ``executescript`` would end the transaction."""
    for statement in script.split(";"):
        if statement.strip():
            db.execute(statement)


def _update_columns(db: sqlite3.Connection) -> None:
    for table, columns in _ADDED_COLUMNS.items():
        known = {row[1] for row in db.execute(f"pragma table_info({table})")}
        for name in columns.keys() - known:
            if (former := _FORMER_NAMES.get(name)) in known:
                db.execute(f"alter table {table} rename column {former} to {name}")
            else:
                db.execute(f"alter table {table} add column {name} {columns[name]}")


def _split_held(db: sqlite3.Connection) -> None:
    """Give discarded and refused deliveries their own states: in version 0 they were ``held``."""
    db.execute("alter table delivery rename to delivery_before")
    _execute(db, _DELIVERY)
    db.execute(
        "insert into delivery select delivery_before.id, structure_set, destination, case "
        "when state <> 'held' then state when discarded_at is not null then 'discarded' "
        "when held is not null and released_at is null then 'held' else 'refused' end, "
        "tries, next_at, status, accepted_at from delivery_before "
        "join structure_set on structure_set.id = delivery_before.structure_set"
    )
    db.execute("drop table delivery_before")


def _allow_superseded(db: sqlite3.Connection) -> None:
    """Let a scan be `superseded`.

    SQLite can't alter a check, and a table that others refer to can't be made anew within a
    transaction; https://sqlite.org/lang_altertable.html#otheralter gives this way.
    """
    (number,) = db.execute("pragma schema_version").fetchone()
    db.execute("pragma writable_schema = on")
    db.execute(
        "update sqlite_master set sql = replace(sql, ?, ?) where type = 'table' and name = 'scan'",
        ("'quarantined')", "'quarantined', 'superseded')"),
    )
    db.execute(f"pragma schema_version = {number + 1}")
    db.execute("pragma writable_schema = reset")


def _move_files(db: sqlite3.Connection) -> None:
    """Give the names of files a table of their own."""
    if "files" in {row[1] for row in db.execute("pragma table_info(scan)")}:
        if sqlite3.sqlite_version_info < LEAST_SQLITE:
            msg = (
                f"Python's SQLite is {sqlite3.sqlite_version}; to bring the journal of an earlier "
                f"limn up to date it must be {'.'.join(map(str, LEAST_SQLITE))} or newer. "
                "Nothing was changed: install a newer Python"
            )
            raise ConfigWrong(msg)
        db.execute("insert or ignore into scan_files select id, files from scan")
        db.execute("alter table scan drop column files")
