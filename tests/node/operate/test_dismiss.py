"""A person decides that nobody need act on a scan that ended badly."""

import json
import re
import time

import pytest

from limn.node.store.disk import scanlog
from limn.node.store.journal.schema import COHORT

SIGNED = ("--discard", "--why", "the animal\nis dead", "--by", "A. Smith")


@pytest.mark.parametrize("state", ["refused", "failed", "quarantined"])
def test_a_dismissed_scan_leaves_the_queue_and_stays_in_the_log(site, state):
    """Its second row in the scan log says who, when and why; its state stays."""
    row = site.scan(1)
    site.journal.end(row.id, state, "Traceback\nOSError: disk", {})
    site.courier().work()
    out = site.limn("release", row.name, *SIGNED)
    lines = out.splitlines()
    assert re.fullmatch(
        rf"scan-00001 animal M1, {state} since \S+ \S+ UTC: OSError: disk", lines[0]
    )
    assert lines[-1] == (
        "scan-00001 animal M1 dismissed by A. Smith, nobody need act on it; to have it contoured "
        f"after all: limn retry --config '{site.config}' scan-00001"
    )
    assert json.loads(site.limn("queue", "--json"))["entries"] == []
    assert site.journal.quarantined() == []
    kept = site.journal.scan(row.id)
    assert (kept.state, kept.dismissed, kept.dismissed_by) == (
        state,
        "the animal is dead",
        "A. Smith",
    )
    said = rf"dismissed at \S+ \S+ UTC by A\. Smith: the animal is dead; it was {state}: OSError:"
    assert re.search(rf"^scan-00001 animal M1: {said}", site.limn("log"), re.MULTILINE)
    assert re.search(rf"^scan-00001 animal M1, {said}", site.limn("release"), re.MULTILINE)
    site.courier().work()
    first, second = scanlog.rows(site.log)
    assert (first["outcome"], second["outcome"]) == (state, state)
    assert first["reason"] == "Traceback\nOSError: disk"
    assert re.fullmatch(
        rf"dismissed at \S+\+00:00 by A\. Smith: the animal is dead; it was {state}: OSError: disk",
        second["reason"],
    )
    assert "scan-00001 animal M1: dismissed" not in site.limn("log"), "the table has it"
    assert "is not held: it was dismissed at" in site.refused("release", row.name, *SIGNED)


def test_the_node_logs_who_dismissed_what(site, caplog):
    """Once, when the row of the scan log is written."""
    row = site.scan(1)
    site.journal.end(row.id, "failed", "no organ", {})
    site.limn("release", row.name, *SIGNED)
    with caplog.at_level("INFO"):
        site.courier().work()
        site.courier().work()
    (line,) = (each for each in caplog.messages if "dismissed" in each)
    assert line.startswith("scan-00001 animal M1 dismissed at ")
    assert line.endswith(" by A. Smith: the animal is dead; it was failed: no organ")


def test_a_dismissed_scan_may_run_again(site):
    """The decision is over then, and the next end of the scan needs a person again."""
    row = site.scan(1)
    site.journal.end(row.id, "failed", "no organ", {})
    site.limn("release", row.name, *SIGNED)
    out = site.limn("retry", row.name)
    assert "mind it was dismissed at" in out
    assert "by A. Smith: the animal is dead; it was failed: no organ\n" in out
    kept = site.journal.scan(row.id)
    assert (kept.state, kept.dismissed, kept.dismissed_by, kept.dismissed_at) == (
        "ready",
        "",
        "",
        None,
    )
    site.journal.end(row.id, "failed", "no organ", {})
    (entry,) = json.loads(site.limn("queue", "--json"))["entries"]
    assert entry["state"] == "failed"


def test_a_series_that_was_never_complete_is_dismissed_too(site):
    """It has no structure set; once its sender sends all of it, it is contoured."""
    row = site.scan(1, refused="the association broke off after 2 slices")
    out = site.limn("release", row.name, "--discard", "--why", "aborted on purpose")
    assert out.endswith("to have it contoured after all: send the series again from the scanner\n")
    assert json.loads(site.limn("queue", "--json"))["entries"] == []
    assert "scan-00001 animal M1: dismissed at" in site.limn("log")
    again = site.scan(1)
    assert (again.id, again.state, again.dismissed_at) == (row.id, "ready", None)


def test_held_and_failed_scans_in_one_command(site):
    """Each in its own way; nothing happens if one of the names is wrong."""
    held, failed, cohort = site.contoured(1, held="mirrored"), site.scan(2), site.scan(3)
    for row in (failed, cohort):
        site.journal.end(row.id, "failed", "no organ", {})
    site.journal._db.execute("update scan set priority = ? where id = ?", (COHORT, cohort.id))
    said = site.refused("release", held.name, failed.name, cohort.name, *SIGNED)
    assert "scan-00003 is not held: it is of `limn contour`" in said
    assert site.states(held) == ["held", "held"]
    assert site.journal.scan(failed.id).dismissed_at is None
    out = site.limn("release", held.name, failed.name, *SIGNED)
    assert "scan-00001 animal M1 discarded by A. Smith, it is never sent" in out
    assert "scan-00002 animal M2 dismissed by A. Smith, nobody need act on it" in out
    assert json.loads(site.limn("queue", "--json"))["entries"] == []
    assert [row.id for row in site.journal.dismissed(time.time() - 60)] == [failed.id]
    assert site.journal.dismissed(time.time() + 60) == []


def test_nobody_can_send_a_scan_that_failed(site):
    """It has no contours."""
    row = site.scan(1)
    site.journal.end(row.id, "failed", "no organ", {})
    said = site.refused("release", row.name, "--by", "A. Smith")
    assert "scan-00001 is not held: it was failed, so there is nothing to send" in said


def test_the_queue_says_who_released_what_waits(site):
    """A planning system is away; the list of today names the person."""
    row = site.contoured(1, held="mirrored")
    site.limn("release", row.name, "--by", "A. Smith", "--why", "planned on it")
    site.journal.refused(site.journal.deliveries(row.id)[0].id, "0xA900")
    refused, waiting = json.loads(site.limn("queue", "--json"))["entries"]
    assert waiting["reason"] == "released by A. Smith (planned on it)"
    said = "0xA900, the file does not match its SOP Class for it; look at its own log"
    assert refused["reason"] == f"tps refused the structure set with {said}; {waiting['reason']}"
