import dataclasses

import numpy as np
import pytest

from limn.domain.geometry import SpacingMm
from limn.phantom.anatomy import TRUTH_LABELS, conceive
from limn.phantom.scanner import Scanner, random_scanner, scan

SCANNER = Scanner(SpacingMm(0.5, 0.4, 0.3), (40, 50, 64), noise_hu=30.0)


def test_equal_seeds_give_equal_scans():
    """Another seed gives other noise and the same truth."""
    first, again = scan(conceive(3), SCANNER, 3), scan(conceive(3), SCANNER, 3)
    np.testing.assert_array_equal(first[0].hu_zyx, again[0].hu_zyx)
    np.testing.assert_array_equal(first[1].labels_zyx, again[1].labels_zyx)
    noisy, truth = scan(conceive(3), SCANNER, 4)
    assert (noisy.hu_zyx != first[0].hu_zyx).mean() > 0.9
    np.testing.assert_array_equal(truth.labels_zyx, first[1].labels_zyx)


def test_a_scan_lies_on_the_scanners_grid():
    """Volume and labels share a grid with the scanner's spacing and middle."""
    scanner = dataclasses.replace(SCANNER, centre_xyz_mm=(1.0, -2.0, 3.0))
    volume, truth = scan(conceive(3), scanner, 3)
    assert volume.grid is truth.grid
    assert volume.grid.axis_letters == "SPL"
    assert volume.grid.spacing_mm.zyx == pytest.approx((0.5, 0.4, 0.3))
    corner = volume.grid.slice_origins_xyz_mm[0]
    far = volume.grid.plane_points_xyz_mm(39, np.array([[49.0, 63.0]]))[0]
    np.testing.assert_allclose((corner + far) / 2, (1.0, -2.0, 3.0), atol=1e-9)


def test_a_moved_scanner_scans_the_same_animal():
    """Moving the field of view by whole voxels moves the labels by as many."""
    moved = dataclasses.replace(SCANNER, centre_xyz_mm=(0.9, 0.8, 1.0))
    _, here = scan(conceive(3), SCANNER, 3)
    _, there = scan(conceive(3), moved, 3)
    shared = here.labels_zyx[2:, 2:, 3:] == there.labels_zyx[:-2, :-2, :-3]
    assert shared.mean() > 0.999
    assert (here.labels_zyx != there.labels_zyx).mean() > 0.01


def test_noise_and_calibration_are_the_scanners():
    """Noise has the given deviation in tissue and less in air; offset and scale act linearly."""
    quiet = dataclasses.replace(SCANNER, noise_hu=0.001)
    clean, truth = scan(conceive(3), quiet, 3)
    noisy, _ = scan(conceive(3), SCANNER, 3)
    noise = noisy.hu_zyx - clean.hu_zyx
    assert np.std(noise[truth.labels_zyx == 1]) == pytest.approx(30, rel=0.12)
    assert np.std(noise[clean.hu_zyx < -900]) < 24
    off, _ = scan(conceive(3), dataclasses.replace(quiet, offset_hu=-50.0, scale=0.9), 3)
    wanted = (clean.hu_zyx + 1000) * 0.9 - 1050
    np.testing.assert_allclose(off.hu_zyx, wanted, atol=1.5)


def test_the_truth_has_every_organ():
    """A scan of the thorax has all organs and no other label."""
    _, truth = scan(conceive(8), SCANNER, 8)
    assert set(np.unique(truth.labels_zyx)) == {0, *TRUTH_LABELS}
    assert min(truth.volumes_mm3().values()) > 20


def test_scanners_differ_by_seed():
    """One seed gives one scanner."""
    assert random_scanner(1, 0.2, (4, 5, 6)) == random_scanner(1, 0.2, (4, 5, 6))
    assert random_scanner(1, 0.2, (4, 5, 6)) != random_scanner(2, 0.2, (4, 5, 6))
