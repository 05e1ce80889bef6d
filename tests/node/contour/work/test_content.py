"""A worker contours what was received, and nothing else."""

import os
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from limn.dicom.instance import input_digest, inspect
from limn.dicom.volume import read_headers
from limn.domain.errors import RefusedSeries
from limn.node.config import Model, PlanningSystem
from limn.node.contour.flights import Flights
from limn.node.contour.job import Job
from limn.node.contour.work.content import Content
from limn.node.contour.work.worker import contour_here
from limn.node.store.journal.journal import Journal
from tests.conftest import BUNDLE
from tests.support.node.parts import SCP, Door, arrived, slices, write_slices


@pytest.fixture
def paths(tmp_path):
    """The files of a series, written a minute ago."""
    written = write_slices(tmp_path / "series", slices())
    for path in written:
        os.utime(path, (time.time() - 60, time.time() - 60))
    return written


@pytest.fixture
def job(paths):
    """Its job, with the digest that the receiver put into the journal."""
    return Job(
        scan=7,
        animal="M1",
        paths=tuple(map(str, paths)),
        model=Model(bundle=BUNDLE),
        planning_system=PlanningSystem(),
        sop_instance_uid="2.25.1",
        series_instance_uid="2.25.2",
        date="20260101",
        time="120000",
        predecessor_uid="",
        deadline_s=60.0,
        input_digest=input_digest(inspect(path.read_bytes()) for path in paths),
        received_at=time.time() - 30,
    )


def change(path):
    """Another value in the last pixel."""
    contents = bytearray(path.read_bytes())
    contents[-1] ^= 1
    path.write_bytes(contents)


def test_files_that_are_as_they_came_are_contoured(job, paths):
    """In any order, and with a file meta of another length."""
    content = Content(job, read_headers(paths[::-1]))
    content.check_unchanged()


def test_a_pixel_that_was_changed_on_disk_is_refused_by_name(job, paths):
    """Refused before anything is contoured; the reason names folder, file and what to do."""
    change(paths[3])
    result = contour_here(job, "label", None)
    assert result.ended == "refused"
    assert f"the 20 files in {paths[3].parent} are not what was received" in result.reason
    assert f"written since: {paths[3].name}. " in result.reason
    assert "`limn retry`" in result.reason


def test_a_file_whose_time_was_put_back_is_refused_too(job, paths):
    """The digest decides; the times only help to name the file."""
    found = paths[3].stat()
    change(paths[3])
    os.utime(paths[3], ns=(found.st_atime_ns, found.st_mtime_ns))
    with pytest.raises(RefusedSeries, match=r"not the journal's\. Find out"):
        Content(job, read_headers(paths))


def test_a_change_while_the_scan_is_contoured_is_noticed(job, paths):
    """A link that a backup makes changes the file's state and not its content: no refusal."""
    content = Content(job, read_headers(paths))
    paths[5].with_suffix(".backup").hardlink_to(paths[5])
    content.check_unchanged()
    change(paths[5])
    with pytest.raises(RefusedSeries, match="not what was received"):
        content.check_unchanged()


def test_a_file_that_vanishes_is_named(job, paths):
    """Between the headers and the digest."""
    instances = read_headers(paths)
    paths[2].unlink()
    with pytest.raises(RefusedSeries, match=paths[2].name):
        Content(job, instances)


def test_a_job_without_a_digest_is_contoured(job, paths):
    """As one from an engine that does not know it."""
    change(paths[3])
    Content(replace(job, input_digest=""), read_headers(paths)).check_unchanged()


def test_what_the_receiver_wrote_is_what_the_worker_reads(job, tmp_path):
    """The digest in the journal is that of the files in the spool, until one is changed there."""
    door = Door(tmp_path / "data")
    door.send(slices())
    door.intake.association_ended(SCP.key, aborted=False)
    (row,) = door.wait_for_scans()
    files = door.files()
    sent = replace(job, paths=tuple(map(str, files)), input_digest=row.input_digest)
    Content(sent, read_headers(files))
    change(files[0])
    with pytest.raises(RefusedSeries, match="not what was received"):
        Content(sent, read_headers(files))


def test_a_job_carries_the_digest_of_the_journal(tmp_path):
    """With the time at which the series had come, which a retry does not move."""
    journal = Journal(tmp_path / "journal.sqlite")
    scan = arrived(last_slice_at=1000.0, settle_s=5.0)
    row = journal.insert(scan, ("tps",))
    config = SimpleNamespace(
        model=Model(bundle=BUNDLE),
        judge=None,
        roi=(),
        forms=(),
        planning_system=None,
        engine=SimpleNamespace(deadline_s=60.0),
    )
    flights = Flights(config, journal, "label", lambda *_: None, threading.Event())
    made = flights._job_of(row)
    assert (made.input_digest, made.received_at) == (scan.input_digest, 1005.0)
    journal.close()
