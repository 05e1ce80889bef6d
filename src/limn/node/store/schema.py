"""The journal's tables, and what a journal of an earlier limn lacks."""

from __future__ import annotations

SCHEMA = """
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
    started_at real,
    again_s real not null default 0,
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
    again_s real not null default 0,
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
# What a journal of an earlier limn lacks.
LATER_COLUMNS = {
    "scan": {"started_at": "real", "again_s": "real not null default 0"},
    "structure_set": {
        "held": "text",
        "released_at": "real",
        "discarded": "text",
        "discarded_at": "real",
        "again_s": "real not null default 0",
    },
}
# Priorities: an animal lies under anaesthesia for the one, nobody waits for the other.
LIVE = 100
COHORT = 0
