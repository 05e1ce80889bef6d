"""A worker reads a series while it comes in; its job uses what is still as it was read."""

import os
import time
from dataclasses import replace
from types import SimpleNamespace

import imagecodecs
import numpy as np
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless

from limn.dicom import volume as volume_module
from limn.dicom.instance import input_digest, inspect
from limn.dicom.series import assemble
from limn.dicom.volume import read_headers, read_volume
from limn.domain.errors import RefusedSeries
from limn.node.contour.pipeline import OpenScan
from limn.node.contour.work import ahead as ahead_module
from limn.node.contour.work import content as content_module
from limn.node.contour.work.ahead import Ahead, state_of
from limn.node.contour.work.content import Content
from tests.support.node.parts import encoded, slices
from tests.support.node.running import wait_for

WAIT_S = 10.0


def opening(instances, *, pixels, buffer):
    """As the pipeline's, of fields of any size."""
    series = assemble(instances)
    return OpenScan(series, read_volume(series, pixels=pixels, buffer=buffer))


def put(folder, datasets, first=0):
    """Files that appear as a whole, as in the spool."""
    folder.mkdir(exist_ok=True)
    paths = []
    for k, ds in enumerate(datasets, start=first):
        part, path = folder / f"{k}.part", folder / f"{k:03d}.dcm"
        part.write_bytes(encoded(ds))
        paths.append(part.replace(path))
    return paths


@pytest.fixture
def ahead(monkeypatch):
    """It opens a series after a short silence."""
    monkeypatch.setattr(ahead_module, "LOOK_S", 0.01)
    made = Ahead()
    yield made
    if made._reader is not None:
        made._reader.stop()


def wait_until_read(ahead, count):
    """Until so many files are read."""
    wait_for(lambda: len(ahead._reader._files) == count, WAIT_S)


def wait_until_open(ahead):
    """Until the scan is opened."""
    wait_for(lambda: ahead._reader._opened is not None, WAIT_S)


def hu_of(paths):
    """The volume without anything that was read ahead."""
    return read_volume(assemble(read_headers(paths))).hu_zyx


def test_a_series_that_came_in_bit_by_bit_is_open_when_its_job_begins(tmp_path, ahead):
    """With the voxels that the job would read itself, in whatever order the slices came."""
    datasets = slices()
    folder = tmp_path / "series"
    put(folder, datasets[12:], first=12)
    ahead.follow(folder, opening)
    wait_until_read(ahead, 8)
    put(folder, datasets[:12])
    wait_until_read(ahead, 20)
    wait_until_open(ahead)
    paths = sorted(folder.iterdir())
    with ahead.job(paths) as read:
        assert read.files.keys() == set(paths)
        assert np.array_equal(read.opened.volume.hu_zyx, hu_of(paths))
        assert [each.path for each in read.opened.series.slices] == paths


def test_it_is_opened_again_when_more_comes_after_all(tmp_path, ahead):
    """A part of a series is a series too; the job gets the whole one."""
    folder = tmp_path / "series"
    put(folder, slices()[:10])
    ahead.follow(folder, opening)
    wait_until_open(ahead)
    put(folder, slices()[10:], first=10)
    wait_for(lambda: ahead._reader._opened and len(ahead._reader._opened[0]) == 20, WAIT_S)
    paths = sorted(folder.iterdir())
    with ahead.job(paths) as read:
        assert np.array_equal(read.opened.volume.hu_zyx, hu_of(paths))


def test_a_job_of_other_files_gets_no_scan_that_was_opened(tmp_path, ahead):
    """Such as an earlier version of the series; single files are used."""
    folder = tmp_path / "series"
    put(folder, slices())
    ahead.follow(folder, opening)
    wait_until_open(ahead)
    paths = sorted(folder.iterdir())[:-2]
    with ahead.job(paths) as read:
        assert read.opened is None
        assert read.files.keys() == set(paths)


@pytest.mark.parametrize("how", ["in place", "by another", "removed"])
def test_a_file_that_was_changed_since_is_read_by_the_job(tmp_path, ahead, how):
    """Even if size and time are those of before."""
    folder = tmp_path / "series"
    put(folder, slices())
    paths = sorted(folder.iterdir())
    ahead.follow(folder, opening)
    wait_until_open(ahead)
    before = paths[4].stat()
    contents = bytearray(paths[4].read_bytes())
    contents[-2] ^= 1
    # Some file systems tell times apart by a few milliseconds.
    time.sleep(0.02)
    if how == "in place":
        paths[4].write_bytes(contents)
    elif how == "by another":
        (folder / "new").write_bytes(contents)
        (folder / "new").replace(paths[4])
    else:
        paths[4].unlink()
    if how != "removed":
        os.utime(paths[4], ns=(before.st_atime_ns, before.st_mtime_ns))
    with ahead.job(paths) as read:
        assert read.opened is None
        assert read.files.keys() == set(paths) - {paths[4]}


def test_nothing_is_read_for_the_next_series_while_a_job_runs(tmp_path, ahead):
    """The job has the processor and the memory."""
    put(tmp_path / "series", slices())
    with ahead.job([]) as read:
        ahead.follow(tmp_path / "series", opening)
        assert read.opened is None
        assert ahead._reader is None
    ahead.follow(tmp_path / "series", opening)
    wait_until_open(ahead)


def test_another_series_takes_the_place_of_the_first(tmp_path, ahead):
    """A worker holds one at a time."""
    for number in ("1", "2"):
        put(tmp_path / number, slices(number))
    ahead.follow(tmp_path / "1", opening)
    first = ahead._reader
    ahead.follow(tmp_path / "2", opening)
    wait_until_open(ahead)
    first.join(WAIT_S)
    assert not first.is_alive()
    paths = sorted((tmp_path / "2").iterdir())
    with ahead.job(paths) as read:
        assert read.opened.series.animal == "M2"


def test_compressed_pixels_are_decoded_once(tmp_path, ahead, monkeypatch):
    """While the series comes in; neither opening nor the job decodes them again."""
    datasets = slices()
    for ds in datasets:
        code = imagecodecs.jpeg2k_encode(
            ds.pixel_array, codecformat="j2k", reversible=True, bitspersample=16
        )
        ds.PixelData = encapsulate([code])
        ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
        ds.file_meta.TransferSyntaxUID = JPEG2000Lossless
    folder = tmp_path / "series"
    put(folder, datasets)
    paths = sorted(folder.iterdir())
    expected = hu_of(paths)
    decoded = []
    decode = volume_module._decode_compressed
    monkeypatch.setattr(
        volume_module, "_decode_compressed", lambda each: decoded.append(each) or decode(each)
    )
    ahead.follow(folder, opening)
    wait_until_read(ahead, 20)
    wait_until_open(ahead)
    with ahead.job(paths) as read:
        assert np.array_equal(read.opened.volume.hu_zyx, expected)
        assert len(decoded) == 20


def test_pixels_that_were_decoded_serve_a_job_whose_scan_is_not_open(tmp_path, ahead):
    """They are taken out as they are used, so that nothing lies in memory twice."""
    folder = tmp_path / "series"
    put(folder, slices())
    paths = sorted(folder.iterdir())
    (instance, *others) = read_headers(paths)
    pixels = {instance.path: np.full((6, 8), 4100, np.uint16)}
    hu = read_volume(assemble([instance, *others]), pixels=pixels).hu_zyx
    assert pixels == {}
    assert (hu[0] == 4100 + float(instance.header.RescaleIntercept)).all()
    assert np.array_equal(hu[1:], hu_of(paths)[1:])


def test_a_file_that_cannot_be_read_is_left_to_the_job(tmp_path, ahead):
    """The job says what is wrong with it."""
    folder = tmp_path / "series"
    put(folder, slices())
    (folder / "x.dcm").write_bytes(b"no DICOM")
    ahead.follow(folder, opening)
    wait_until_read(ahead, 20)
    paths = sorted(folder.iterdir())
    with ahead.job(paths) as read:
        assert read.opened is None
        assert read.files.keys() == set(paths[:20])


def test_a_scan_that_is_refused_is_refused_by_its_job(tmp_path, ahead):
    """Nobody hears of it before."""

    def refusing(instances, *, pixels, buffer):
        asked.append(len(instances))
        raise RefusedSeries("no mouse")

    asked = []
    folder = tmp_path / "series"
    put(folder, slices())
    ahead.follow(folder, refusing)
    wait_for(lambda: asked == [20], WAIT_S)
    with ahead.job(sorted(folder.iterdir())) as read:
        assert read.opened is None
        assert len(read.files) == 20


def test_a_fault_is_left_to_the_job(tmp_path, ahead):
    """Whatever it is: the worker lives on, and reads the next series."""

    def broken(instances, *, pixels, buffer):
        raise ZeroDivisionError

    folder = tmp_path / "series"
    put(folder, slices())
    ahead.follow(folder, broken)
    wait_for(lambda: not ahead._reader.is_alive(), WAIT_S)
    ahead.follow(folder, opening)
    wait_until_open(ahead)


def test_memory_is_given_back_if_nothing_more_comes(tmp_path, ahead, monkeypatch):
    """Though the engine goes on asking: the series may wait for its rest for ten minutes."""
    monkeypatch.setattr(ahead_module, "KEPT_S", 0.4)
    folder = tmp_path / "series"
    put(folder, slices())
    ahead.follow(folder, opening)
    wait_until_open(ahead)
    reader = ahead._reader
    for _ in range(20):
        time.sleep(0.05)
        ahead.follow(folder, opening)
    assert ahead._reader is reader
    assert (reader._files, reader._opened) == ({}, None)
    with ahead.job(sorted(folder.iterdir())) as read:
        assert read.files == {}


def test_reading_ends_if_nobody_asks(tmp_path, ahead, monkeypatch):
    """The engine may have given the job to another worker."""
    monkeypatch.setattr(ahead_module, "KEPT_S", 0.2)
    folder = tmp_path / "series"
    put(folder, slices())
    ahead.follow(folder, opening)
    reader = ahead._reader
    reader.join(WAIT_S)
    assert not reader.is_alive()
    assert (reader._files, reader._opened) == ({}, None)


def test_a_digest_is_taken_over_for_the_same_state_alone(tmp_path, ahead, monkeypatch):
    """A file that is as it was is not read again; one that was changed is."""
    folder = tmp_path / "series"
    put(folder, slices())
    paths = sorted(folder.iterdir())
    ahead.follow(folder, opening)
    wait_until_read(ahead, 20)
    with ahead.job(paths) as read:
        files = dict(read.files)
    hashed = []
    digest = content_module.digest_of_file
    monkeypatch.setattr(
        content_module, "digest_of_file", lambda path: hashed.append(path) or digest(path)
    )
    files[paths[3]] = replace(files[paths[3]], state=(0, 0, 0, 0))
    job = SimpleNamespace(
        input_digest=input_digest(inspect(path.read_bytes()) for path in paths),
        paths=[str(path) for path in paths],
        sizes=(),
        received_at=time.time(),
    )
    content = Content(job, [each.instance for each in files.values()], files)
    assert hashed == [paths[3]]
    contents = bytearray(paths[7].read_bytes())
    contents[-2] ^= 1
    paths[7].write_bytes(contents)
    assert state_of(paths[7]) != files[paths[7]].state
    with pytest.raises(RefusedSeries, match="not what was received"):
        content.check_unchanged()
