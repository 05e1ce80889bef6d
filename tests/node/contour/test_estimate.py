"""How long a scan will take, by the records of the scans before it."""

import pytest

from limn.node.contour.estimate import expected_s, voxels_in, waits_s
from limn.node.store.journal.journal import Journal
from tests.support.node.parts import arrived, slices, write_slices


def record(runtime_s=10.0, grid="100x100x100 0.2x0.2x0.2 mm", **changes):
    """The record of one scan."""
    values = {"runtime_s": runtime_s, "picture_s": 0.0, "grid": grid, "device": "cpu"}
    return values | {"ensemble_profile": "fast", "flags": ""} | changes


def test_a_scan_of_a_like_size_takes_its_share():
    """By the voxel, the median of the last ones, with the picture's time."""
    records = [record(12.0), record(10.0), record(9.0, picture_s=2.0)]
    assert expected_s(records, 10**6) == pytest.approx(11.0)
    assert expected_s(records, 1_500_000) == pytest.approx(16.5)
    assert expected_s([record(90.0)] * 5 + [record(1.0)] * 50, 10**6) == pytest.approx(90.0)


@pytest.mark.parametrize(
    "records",
    [
        [],
        [{}],
        [record(grid="512x512x677 0.2x0.2x0.2 mm")],
        [record(grid="40x40x40 0.2x0.2x0.2 mm")],
        [record(grid="40x40x40 0.2x0.2x0.2 mm"), record(device="cuda")],
        [record(grid="40x40x40 0.2x0.2x0.2 mm"), record(ensemble_profile="paper")],
        [record(flags="gpu-out-of-memory:cpu")],
    ],
)
def test_nothing_is_known_of_a_scan_that_is_like_no_other(records):
    """Of another size, on another device, or where a full GPU left it to the CPU."""
    assert expected_s(records, 10**6) is None


def test_a_full_gpu_changes_no_estimate():
    """The next scan has the GPU again."""
    full = record(900.0, device="cpu", flags="gpu-out-of-memory:cpu")
    assert expected_s([full, record(2.0, device="cuda")], 10**6) == pytest.approx(2.0)


def test_scans_wait_for_the_worker_that_is_free_first():
    """In their order; one of unknown length holds up nobody."""
    assert waits_s([], [10.0, 20.0, 5.0], 1) == [0.0, 10.0, 30.0]
    assert waits_s([], [10.0, 20.0, 5.0], 2) == [0.0, 0.0, 10.0]
    assert waits_s([4.0], [10.0, 1.0], 2) == [0.0, 4.0]
    assert waits_s([4.0], [10.0, 1.0], 1) == [4.0, 14.0]
    assert waits_s([], [None, 5.0], 1) == [0.0, 0.0]
    assert waits_s([7.0], [], 1) == []


def test_the_voxels_stand_in_the_first_header(tmp_path):
    """Rows, columns and frames of one file, times the files; 0 if there is none to read."""
    paths = write_slices(tmp_path / "spool", slices("1", 20))
    journal = Journal(tmp_path / "journal.sqlite")
    names = tuple(path.name for path in paths)
    row = journal.insert(arrived(folder=str(tmp_path / "spool"), files=names), ("tps",))
    assert voxels_in(row) == 6 * 8 * 20
    paths[0].write_bytes(b"no DICOM")
    assert voxels_in(row) == 0
    paths[0].unlink()
    assert voxels_in(row) == 0
    journal.close()
