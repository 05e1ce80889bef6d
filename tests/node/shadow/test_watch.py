"""The process that begins the drawing and kills it: with a real process, and without networks."""

import json
import sys
import time
from pathlib import Path

import pytest

from limn.node.config import load_config
from limn.node.shadow import watch
from limn.node.shadow.backlog import due_scans
from limn.node.shadow.watch import DEATHS, Shadow
from limn.node.store.disk import space
from limn.node.store.disk.comparisons import path_of, read_comparisons
from limn.node.store.disk.spool import SLOTS
from limn.segment.bundle.bundle import glance
from tests.conftest import BUNDLE
from tests.support.node.running import wait_for
from tests.support.node.site import Site
from tests.support.node.viewed import file_scan

RECORD = {"bundle": "old-1", "bundle_sha256": "a" * 64}


@pytest.fixture
def site(tmp_path, capsys):
    """A node without processes."""
    site = Site(tmp_path, capsys)
    (site.data / "spool" / SLOTS).mkdir(parents=True)
    load_config(site.config).ready_path.write_text("1")
    yield site
    site.journal.close()


def delivered(site, number, record=RECORD):
    """A scan that every destination has."""
    row = file_scan(site, number, record=record)
    for each in site.journal.deliveries(row.id):
        site.journal.delivered(each.id, "0x0000", time.time())
    return row


def shadow(site, tmp_path, program):
    """The watcher, whose drawing runs a Python program with the scans as its arguments."""
    return Shadow(
        load_config(site.config),
        site.config,
        site.journal,
        glance(BUNDLE),
        lambda _, scans: [sys.executable, "-c", program, str(tmp_path / "ran"), *map(str, scans)],
    )


def look_until(watcher, reached, limit_s=20.0):
    """Look as the process does, until something is so."""

    def looked():
        watcher.look()
        return reached()

    wait_for(looked, limit_s)


def test_due_are_delivered_scans_with_slices_and_labels(site):
    """Of other bundles, not drawn yet, the oldest first."""
    config, bundle = load_config(site.config), glance(BUNDLE)
    rows = [delivered(site, number) for number in (1, 2, 3, 4)]
    file_scan(site, 5, record=RECORD)
    delivered(site, 6, {"bundle": bundle.label, "bundle_sha256": bundle.sha256})
    (config.results_dir / rows[1].name / "labels.npz").unlink()
    drawn = path_of(config.shadow_dir, rows[2].id, bundle.sha256)
    drawn.parent.mkdir()
    drawn.write_text("{}")
    due = due_scans(site.journal, config, bundle.sha256)
    assert [row.id for row in due] == [rows[0].id, rows[3].id]
    Path(rows[3].folder, rows[3].files[0]).unlink()
    assert [row.id for row in due_scans(site.journal, config, bundle.sha256)] == [rows[0].id]
    site.journal._db.execute("update scan set animal = 'COMMISSIONING-LIE-FFP'")
    assert due_scans(site.journal, config, bundle.sha256) == []


def test_it_begins_in_a_lull_and_ends_with_it(site, tmp_path, monkeypatch):
    """A slice kills the drawing within a tenth of a second; it begins again in the next lull."""
    monkeypatch.setattr(watch, "DUE_S", 0.1)
    monkeypatch.setattr("limn.node.shadow.moment.BEGIN_BYTES", 0)
    monkeypatch.setattr("limn.node.shadow.moment.LULL_S", 0.2)
    monkeypatch.setattr("limn.node.store.lull.QUIET_S", 0.3)
    row = delivered(site, 1)
    program = "import sys, time; open(sys.argv[1], 'a').write(sys.argv[2]); time.sleep(60)"
    watcher = shadow(site, tmp_path, program)
    began_s = time.monotonic()
    look_until(watcher, (tmp_path / "ran").exists)
    assert time.monotonic() - began_s > 0.5
    assert watcher.draws
    slot = site.data / "spool" / SLOTS / "slice"
    slot.touch()
    came_s = time.monotonic()
    watcher.look()
    assert not watcher.draws
    assert time.monotonic() - came_s < 0.1
    watcher.look()
    assert not watcher.draws
    look_until(watcher, lambda: (tmp_path / "ran").read_text() == f"{row.id}{row.id}")
    watcher.give_up("")
    assert not watcher.draws
    assert read_comparisons(site.data / "shadow") == []


def test_a_scan_that_ends_the_drawing_again_and_again_is_left(site, tmp_path, monkeypatch):
    """Then the next one is drawn; a kill by the watcher counts for nothing."""
    monkeypatch.setattr(watch, "DUE_S", 0.0)
    monkeypatch.setattr("limn.node.shadow.moment.BEGIN_BYTES", 0)
    monkeypatch.setattr("limn.node.shadow.moment.LULL_S", 0.0)
    monkeypatch.setattr("limn.node.store.lull.QUIET_S", 0.0)
    first, second = delivered(site, 1), delivered(site, 2)
    program = "import sys; open(sys.argv[1], 'a').write(sys.argv[2]); sys.exit(7)"
    watcher = shadow(site, tmp_path, program)
    look_until(watcher, lambda: len(read_comparisons(site.data / "shadow")) == 2)
    watcher.give_up("")
    assert (tmp_path / "ran").read_text() == str(first.id) * DEATHS + str(second.id) * DEATHS
    for each in read_comparisons(site.data / "shadow"):
        assert each.outcome == "failed"
        assert each.reason == "its process ended 2 times over this scan"
        assert (each.old, each.new) == ("old-1", glance(BUNDLE).label)


def test_nothing_is_drawn_for_a_full_disk(site, tmp_path, monkeypatch):
    """Its comparisons could not be written, and live scans need the rest of it."""
    monkeypatch.setattr(watch, "DUE_S", 0.0)
    monkeypatch.setattr("limn.node.shadow.moment.BEGIN_BYTES", 0)
    monkeypatch.setattr("limn.node.shadow.moment.LULL_S", 0.0)
    monkeypatch.setattr("limn.node.store.lull.QUIET_S", 0.0)
    delivered(site, 1)
    watcher = shadow(site, tmp_path, "import time; time.sleep(60)")
    with monkeypatch.context() as full:
        full.setattr(space, "shortage", lambda _: "3 MB free")
        for _ in range(5):
            watcher.look()
        assert not watcher.draws
    look_until(watcher, lambda: watcher.draws)
    watcher.give_up("")


def test_nothing_is_drawn_before_a_worker_is_ready(site, tmp_path, monkeypatch):
    """Both load a bundle then, and a scan that came in would wait longer."""
    for name, value in (("shadow.moment.BEGIN_BYTES", 0), ("shadow.moment.LULL_S", 0.0)):
        monkeypatch.setattr(f"limn.node.{name}", value)
    monkeypatch.setattr(watch, "DUE_S", 0.0)
    monkeypatch.setattr("limn.node.store.lull.QUIET_S", 0.0)
    delivered(site, 1)
    ready = load_config(site.config).ready_path
    ready.unlink()
    watcher = shadow(site, tmp_path, "import time; time.sleep(60)")
    for _ in range(5):
        watcher.look()
    assert not watcher.draws
    ready.write_text("1")
    look_until(watcher, lambda: watcher.draws)
    ready.unlink()
    watcher.look()
    assert not watcher.draws


def test_a_file_that_is_no_comparison_is_left_out(site):
    """A person or another limn may have put it there."""
    folder = site.data / "shadow"
    folder.mkdir()
    (folder / "scan-00001-abcdefabcdef.json").write_text("{")
    (folder / "scan-00002-abcdefabcdef.json").write_text(json.dumps({"organs": []}))
    assert read_comparisons(folder) == []
