"""Previews in the journal: begun once, sent once, withdrawn by the scan's own structure set."""

import sqlite3
from contextlib import closing

import pytest

from limn.node.store.journal.journal import Journal
from limn.node.store.journal.rows import preview_uids
from limn.node.store.journal.schema import SCHEMA, VERSION
from tests.support.node.parts import arrived


@pytest.fixture
def journal(tmp_path):
    """An empty journal."""
    made = Journal(tmp_path / "journal.sqlite")
    yield made
    made.close()


def previewed(journal, *destinations, **changes):
    """A scan whose preview is on disk."""
    row = journal.insert(arrived(**changes), ("tps", "archive"))
    journal.begin_preview(row.id)
    assert journal.preview_contoured(row.id, "/preview.dcm", destinations or ("tps",))
    return row


def states(journal, row):
    """How far the deliveries of a scan's preview are."""
    return [each.state for each in journal.preview_deliveries(row.id)]


def test_a_preview_has_uids_of_its_own_that_follow_from_the_scan_s(journal):
    """The same scan has the same ones; no other scan and no structure set has them."""
    row = previewed(journal)
    own = journal.structure_set_of(row.id)
    preview = journal.preview_of(row.id)
    uids = (preview.sop_instance_uid, preview.series_instance_uid)
    assert uids == preview_uids(own)
    other = previewed(journal, series_instance_uid="2.25.7")
    assert not {*uids} & {*preview_uids(journal.structure_set_of(other.id))}
    assert not {*uids} & {own.sop_instance_uid, own.series_instance_uid}
    assert journal.scan_of_preview(uids[0]).id == row.id
    assert journal.scan_of_structure_set(uids[0]) is None


@pytest.mark.parametrize("end", ["running", "contoured", "dropped"])
def test_a_preview_is_begun_once(journal, end):
    """Whatever became of it."""
    row = journal.insert(arrived(), ("tps",))
    assert journal.begin_preview(row.id) is not None
    if end == "contoured":
        journal.preview_contoured(row.id, "/preview.dcm", ("tps",))
    elif end == "dropped":
        journal.drop_previews("its worker left", row.id)
    assert journal.preview_of(row.id).state == end
    assert journal.begin_preview(row.id) is None


def test_a_preview_is_taken_once_even_if_the_engine_dies_with_it(journal, caplog):
    """Nobody knows whether the destination has it, so it is not sent again."""
    row = previewed(journal, "tps", "archive")
    assert journal.take_preview("tps").destination == "tps"
    assert journal.take_preview("tps") is None
    with closing(Journal(journal.path)) as after:
        after.lose_previews("tps")
        assert after.take_preview("tps") is None
        assert states(after, row) == ["lost", "waiting"]
        assert after.take_preview("archive").destination == "archive"
    assert "is refused" not in caplog.text


def test_an_answer_ends_a_preview_s_delivery(journal):
    """Only a destination that could not take it now is asked again."""
    row = previewed(journal, "tps", "archive", "third")
    for name, answer in {
        "tps": lambda number: journal.preview_delivered(number, "0x0000", 5.0),
        "archive": lambda number: journal.preview_refused(number, "0xA900"),
        "third": lambda number: journal.preview_postponed(number, "no answer"),
    }.items():
        answer(journal.take_preview(name).id)
    assert states(journal, row) == ["delivered", "refused", "waiting"]
    assert journal.preview_accepted_at(row.id) == 5.0
    assert journal.take_preview("third").tries == 2


@pytest.mark.parametrize("end", ["contoured", "failed", "superseded"])
def test_the_end_of_the_scan_withdraws_what_waits(journal, end):
    """Also what a courier has in hand and can't deliver; what is delivered stays so."""
    row = previewed(journal, "tps", "archive", "third")
    journal.preview_delivered(journal.take_preview("tps").id, "0x0000", 5.0)
    taken = journal.take_preview("archive")
    if end == "contoured":
        journal.contoured(row.id, "/rs.dcm", {})
    elif end == "failed":
        journal.end(row.id, "failed", "no organ", {})
    else:
        journal.insert(arrived(input_digest="d2", supersedes=True), ("tps",))
    assert journal.scan(row.id).state == end
    assert states(journal, row) == ["delivered", "sending", "withdrawn"]
    journal.preview_postponed(taken.id, "no answer")
    assert states(journal, row) == ["delivered", "withdrawn", "withdrawn"]
    assert journal.take_preview("archive") is None


def test_a_preview_that_comes_after_the_end_is_dropped(journal):
    """A newer version of the series came while a worker had it."""
    row = journal.insert(arrived(), ("tps",))
    journal.begin_preview(row.id)
    journal.insert(arrived(input_digest="d2", supersedes=True), ("tps",))
    assert not journal.preview_contoured(row.id, "/preview.dcm", ("tps",))
    assert journal.preview_of(row.id).state == "dropped"
    assert states(journal, row) == []


def test_no_query_takes_a_preview_for_the_structure_set(journal):
    """It closes no scan, is due to no courier and frees no file."""
    row = previewed(journal)
    journal.preview_delivered(journal.take_preview("tps").id, "0x0000", 5.0)
    assert journal.scan(row.id).state == "ready"
    assert journal.unlogged_ends("tps") == []
    assert journal.due("tps", 1e12) is None
    assert journal.delivered_before(1e12) == []
    assert journal.newest_at() is None
    assert [each.state for each in journal.deliveries(row.id)] == ["waiting", "waiting"]


def test_a_backup_sends_no_preview_of_before(journal):
    """Nobody knows which were sent after the copy was made."""
    row = previewed(journal)
    journal.begin_with_copy("2026-11-30")
    assert states(journal, row) == ["withdrawn"]


def test_a_journal_that_knows_no_previews_learns_them(tmp_path):
    """Version 3 of the journal: its rows stay, and a scan of it may have a preview."""
    path = tmp_path / "journal.sqlite"
    before = SCHEMA.partition("create table if not exists preview")[0]
    with closing(sqlite3.connect(path)) as db:
        db.executescript(before)
        db.execute("pragma user_version = 3")
        db.execute(
            "insert into scan (id, series_instance_uid, input_digest, bundle_sha256, profile, "
            "version, study_instance_uid, animal, sender, folder, receive_s, settle_s, "
            "last_slice_at, ready_at, state) values "
            "(1, '2.25.1', 'd1', 'b', 'default', 1, '2.25.2', 'M1', 'S', '/spool/1', 1, 0.5, "
            "100, 101, 'ready')"
        )
        db.execute(
            "insert into structure_set (scan, profile, sop_instance_uid, series_instance_uid, "
            "date, time) values (1, 'default', '2.25.11', '2.25.12', '20260101', '120000')"
        )
        db.commit()
    with closing(Journal(path)) as journal:
        assert journal._db.execute("pragma user_version").fetchone()[0] == VERSION
        assert [row.animal for row in journal.ready()] == ["M1"]
        assert journal.preview_of(1) is None
        assert journal.begin_preview(1) is not None
        assert journal.preview_contoured(1, "/preview.dcm", ("tps",))
        assert journal.take_preview("tps") is not None
        assert journal.is_sound()
