"""The process by which the board has a scan contoured again: live scans come first."""

import shutil
import socket
import time
from contextlib import closing

import psutil
import pydicom
import pytest

from limn.dicom.instance import digest_of_file, digest_of_series
from limn.node.batch.rerun import LOOK_S
from limn.node.config import load_config
from limn.node.operate.reruns.rerun import order_rerun
from limn.node.store.disk.rerun_notes import read_rerun_note
from limn.node.store.disk.spool import SLOTS
from limn.node.store.lull import QUIET_S
from limn.segment.bundle.bundle import glance
from tests.node.operate.test_rerun import OTHER, with_bundles
from tests.support.node.parts import arrived, encoded, structure_set, until

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("hurried_processes")]


@pytest.fixture
def scan(site, make_thorax):
    """A thorax in the spool, contoured with the site's bundle; its row."""
    with_bundles(site)
    folder = site.data / "spool" / "thorax"
    shutil.copytree(make_thorax("61"), folder)
    paths = sorted(folder.glob("*.dcm"))
    first = pydicom.dcmread(paths[0], stop_before_pixels=True)
    digest = digest_of_series(
        (str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID), digest_of_file(path))
        for path in paths
    )
    row = site.journal.insert(
        arrived(
            series_instance_uid=str(first.SeriesInstanceUID),
            study_instance_uid=str(first.StudyInstanceUID),
            animal="M61",
            folder=str(folder),
            files=tuple(path.name for path in paths),
            input_digest=digest,
            bundle_sha256=glance(load_config(site.config).model.bundle).sha256,
        ),
        ("tps", "export"),
    )
    uid = site.journal.structure_set_of(row.id).sop_instance_uid
    path = site.data / f"RS.{uid}.dcm"
    path.write_bytes(encoded(structure_set(uid)))
    site.journal.contoured(row.id, str(path), {"contoured_at": time.time()})
    return row


def said(site, row):
    """What the note says now."""
    note = read_rerun_note(load_config(site.config).reruns_dir, row.name)
    return f"{note.state}: {note.words}"


def running(process):
    """The processes below that of an order that compute."""
    return [
        each
        for each in psutil.Process(process.pid).children(recursive=True)
        if each.is_running() and "resource_tracker" not in " ".join(each.cmdline())
    ]


def test_an_order_makes_way_for_a_live_scan_and_is_carried_out(site, scan):
    """It waits, begins, makes way, begins anew; what comes of it is held or waits as any scan."""
    config = load_config(site.config)
    live = site.scan(2)
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as engine:
        # An engine runs on this data folder.
        engine.bind(("127.0.0.1", config.engine.wake_port))
        process = order_rerun(site.config, scan.name, OTHER, by="Anna", why="apex missed")
        try:
            until(lambda: "waits until no live scan comes in or runs" in said(site, scan), 60)
            assert running(process) == []
            site.journal.end(live.id, "failed", "no organ", {})
            until(lambda: len(running(process)) == 1, 30)
            (first,) = running(process)
            # The first slice of the next series.
            (config.spool_dir / SLOTS).mkdir(parents=True, exist_ok=True)
            (config.spool_dir / SLOTS / "slice").touch()
            until(lambda: not first.is_running(), 30)
            another = site.scan(3)
            time.sleep(QUIET_S + 2 * LOOK_S)
            assert running(process) == []
            assert site.journal.scan(scan.id).state == "contoured"
            site.journal.end(another.id, "failed", "no organ", {})
            until(lambda: not said(site, scan).startswith("open"), 150)
            assert said(site, scan).startswith("done: scan-"), said(site, scan)
            assert process.wait(30) == 0
        finally:
            process.kill()
            process.wait()
    name = said(site, scan).removeprefix("done: ")
    new = site.journal.named([name])[name]
    structure_set_row = site.journal.structure_set_of(new.id)
    assert new.record["bundle"] == OTHER
    assert new.record["light"] in ("green", "amber", "red")
    expected = "held" if structure_set_row.on_hold else "waiting"
    assert site.states(new) == [expected, expected]
    assert structure_set_row.on_hold == (new.record["light"] == "red")
    assert site.journal.ready() == []


def test_an_order_ends_with_its_board(site, scan):
    """Nothing of it is left, and nothing has changed."""
    config = load_config(site.config)
    process = order_rerun(site.config, scan.name, OTHER, by="Anna", why="apex missed")
    until(lambda: len(running(process)) == 1, 60)
    (child,) = running(process)
    process.stdin.close()
    process.wait(30)
    until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, 30)
    assert [each.id for each in site.journal.scans()] == [scan.id]
    assert read_rerun_note(config.reruns_dir, scan.name).state == "open"
