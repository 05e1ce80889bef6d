"""What broke off: by a retry queue of one association a slice, over a restart, very many times."""

import errno
import logging
import time
from dataclasses import replace

import pytest

from limn.node.dimse.status import CANNOT_UNDERSTAND, OUT_OF_RESOURCES
from limn.node.receive.breaks import MOST_BREAKS, MOST_MISSING, Break, Breaks, Feed
from limn.node.store.disk.spool import Spool
from tests.support.node.parts import COUNT, SCP, Door, encoded, slices


def bring(door, datasets, key, *, aborted=False):
    """One association that brings these slices."""
    source = replace(SCP, key=key)
    door.intake.association_opened(key, source.sender)
    statuses = door.send(datasets, source)
    door.intake.association_ended(key, aborted=aborted)
    return statuses


def settle(door, seconds):
    """Settle for so long; returns state and number of slices of each scan."""
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        door.intake.settle()
        time.sleep(0.01)
    return [(row.state, len(row.files)) for row in door.scans()]


def refuse(door, datasets, key):
    """One association of which every slice is refused for want of room."""
    source, wanted = replace(SCP, key=key), door.spool.min_free_bytes
    door.intake.association_opened(key, source.sender)
    door.fill_up()
    assert set(door.send(datasets, source)) == {OUT_OF_RESOURCES}
    object.__setattr__(door.spool, "min_free_bytes", wanted)
    for ds in datasets:
        door.intake.not_taken(encoded(ds), source)
    missing = [ds.SOPInstanceUID for ds in datasets]
    door.intake.association_ended(key, aborted=False, missing=missing)


@pytest.mark.parametrize("first", [11, 12], ids=["from the last slice on", "from the next on"])
def test_a_retry_queue_of_one_association_a_slice_is_waited_for(tmp_path, first):
    """The batch broke off; the slices that follow one by one are no end of the series."""
    door, sent = Door(tmp_path, min_slices=5), slices()
    bring(door, sent[:12], "batch", aborted=True)
    for number in range(first, COUNT):
        bring(door, [sent[number]], f"retry-{number}")
        # A pause longer than the wait for a sender of one association.
        assert settle(door, 0.25 if number < first + 3 else 0.0) == []
    (row,) = door.wait_for_scans()
    assert (row.state, len(row.files)) == ("ready", COUNT)


def test_a_batch_that_comes_again_as_a_whole_waits_for_nothing_more(tmp_path):
    """The sender's next association has all of it: today's wait stays."""
    door, sent = Door(tmp_path, min_slices=5), slices()
    bring(door, sent[:12], "batch", aborted=True)
    bring(door, sent, "again")
    began_s = time.monotonic()
    (row,) = door.wait_for_scans()
    assert (row.state, len(row.files)) == ("ready", COUNT)
    # hold_s is 30 s.
    assert time.monotonic() - began_s < 5.0


@pytest.mark.parametrize("is_told", [False, True], ids=["killed", "stopped"])
def test_what_was_refused_is_missed_after_a_restart_too(tmp_path, is_told):
    """Of the second association the disk took nothing; an operator makes room and starts again."""
    door, sent = Door(tmp_path, min_slices=5), slices()
    bring(door, sent[:12], "first")
    refuse(door, sent[12:], "second")
    if is_told:
        door.intake.node_stopping()
    door.journal.close()
    again = Door(tmp_path, min_slices=5, hold_s=1.0)
    again.intake.recover()
    assert settle(again, 0.6) == []
    assert settle(again, 1.0) == [("refused", 12)]


def test_an_association_that_was_open_at_the_kill_is_waited_for(tmp_path):
    """Its first slice was on the way: the twelve that were released are no animal."""
    door, sent = Door(tmp_path, min_slices=5), slices()
    bring(door, sent[:12], "first")
    door.intake.association_opened("second", SCP.sender)
    door.journal.close()
    again = Door(tmp_path, min_slices=5, hold_s=8.0)
    again.intake.recover()
    assert settle(again, 0.5) == []
    bring(again, sent[12:], "second-again")
    (row,) = again.wait_for_scans()
    assert (row.state, len(row.files)) == ("ready", COUNT)


def test_none_of_very_many_breaks_is_forgotten(tmp_path):
    """Thirty slices are refused one by one; the ten of them that never come again are missed."""
    door, sent = Door(tmp_path, min_slices=5, hold_s=0.5), slices(count=60)
    for number in range(59, 29, -1):
        bring(door, [sent[number]], f"taken-{number}")
    for number in range(30):
        refuse(door, [sent[number]], f"refused-{number}")
    for number in range(29, 9, -1):
        bring(door, [sent[number]], f"again-{number}")
    assert settle(door, 1.0) == [("refused", 50)]


def test_very_many_breaks_are_joined():
    """What is known of each is kept, up to a bound; beyond it a whole stack mends them."""
    breaks, feed = Breaks(), Feed(0.0)
    for number in range(3 * MOST_BREAKS):
        breaks.add(float(number), {f"1.{number}"}, {})
    assert len(breaks) == MOST_BREAKS
    for number in range(3 * MOST_BREAKS):
        assert breaks
        breaks.came(f"1.{number}", new=True)
    assert not breaks
    many = {f"1.{number}" for number in range(MOST_MISSING)}
    joined = Break(1.0, many).joined(Break(2.0, {"2.1"}))
    assert joined.missing is None
    assert not joined.is_mended(replace(feed, began_s=3.0, brought={"2.1": None}), {})
    for number in range(3 * MOST_BREAKS):
        breaks.add(float(number), None, {f"1.{number}": None})
    assert len(breaks) == MOST_BREAKS
    breaks.released(Feed(1e3), {}, whole=True)
    assert not breaks


def test_a_note_that_fails_holds_up_no_other_series(tmp_path, monkeypatch, caplog):
    """Two animals on one association; the disk refuses the first one's note."""
    door = Door(tmp_path)
    written, failed = Spool.mark_released, []

    def fails_once(spool, uid, released):
        if not failed:
            failed.append(uid)
            raise OSError(errno.ENOSPC, "No space left on device")
        written(spool, uid, released)

    monkeypatch.setattr(Spool, "mark_released", fails_once)
    with caplog.at_level(logging.WARNING):
        bring(door, [*slices("1"), *slices("2")], "both")
    assert settle(door, 0.5) == [("ready", COUNT)] * 2
    assert "animal M1: the note in" in caplog.text
    assert "No space left on device" in caplog.text


def test_a_slice_of_another_animal_that_a_kill_left_is_in_no_series(tmp_path, caplog):
    """It was refused; the node was killed before its file was removed."""
    door, sent = Door(tmp_path, min_slices=5, hold_s=0.5), slices()
    bring(door, sent[:-1], "first")
    alien = slices("2")[-1]
    alien.SeriesInstanceUID = sent[0].SeriesInstanceUID
    assert bring(door, [alien], "alien") == [CANNOT_UNDERSTAND]
    door.intake._slots.write(encoded(alien))
    door.journal.close()
    again = Door(tmp_path, min_slices=5, hold_s=0.5)
    with caplog.at_level(logging.WARNING):
        again.intake.recover()
    assert "a slice of animal M2 was refused before the restart" in caplog.text
    assert settle(again, 1.0) == [("ready", COUNT - 1)]


def test_a_series_is_loaded_with_few_looks_at_what_was_replaced(tmp_path, monkeypatch):
    """One for each slice took seconds under the lock for a series of thousands."""
    door = Door(tmp_path)
    bring(door, slices(), "first")
    door.journal.close()
    looks, replaced = [], Spool.replaced
    monkeypatch.setattr(
        Spool, "replaced", lambda spool, folder: looks.append(folder) or replaced(spool, folder)
    )
    Door(tmp_path).intake.recover()
    assert len(looks) < 5
