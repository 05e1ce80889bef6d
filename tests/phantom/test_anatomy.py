import numpy as np
import pytest
from scipy import ndimage

from limn.domain.geometry import SpacingMm, axial_grid
from limn.domain.scan import Organ
from limn.phantom.anatomy import BONE_HU, TRUTH_LABELS, conceive, paint

SPACING = SpacingMm(0.3, 0.3, 0.3)
SEEDS = range(6)


def field(shape=(90, 76, 76), middle_xyz_mm=(0.0, 0.0, 0.0)):
    """A field of view around a point of the animal."""
    half = np.array([(n - 1) * 0.15 for n in shape[::-1]])
    return axial_grid(shape, SPACING, np.array(middle_xyz_mm) - half)


@pytest.fixture(scope="module")
def painted():
    """Attenuation and one mask per organ of several mice."""
    mice = []
    for seed in SEEDS:
        hu, labels = paint(conceive(seed), field())
        mice.append((hu, {organ: labels == label for label, organ in TRUTH_LABELS.items()}))
    return mice


def test_a_seed_is_a_mouse():
    """The same seed gives the same mouse, another seed another, neighbour or not."""
    assert conceive(5) == conceive(5)
    assert conceive(5) != conceive(6)
    with_neighbour = conceive(5, neighbour=True)
    assert with_neighbour == conceive(5, neighbour=True)
    assert with_neighbour.neighbour_xyz_mm is not None
    assert with_neighbour.heart_volume_mm3 == conceive(5).heart_volume_mm3


def test_seeds_lie_both_ways():
    """Some mice lie prone, some supine, and the caller may decide."""
    assert {conceive(seed).prone for seed in range(20)} == {True, False}
    assert conceive(5, prone=True).prone
    assert not conceive(5, prone=False).prone


def test_painting_is_repeatable():
    """The same mouse is the same voxels; another one is not."""
    hu, labels = paint(conceive(1), field((30, 76, 76)))
    again = paint(conceive(1), field((30, 76, 76)))
    np.testing.assert_array_equal(hu, again[0])
    np.testing.assert_array_equal(labels, again[1])
    assert (labels != paint(conceive(2), field((30, 76, 76)))[1]).mean() > 0.01


def mm3(mask) -> float:
    """Volume of a mask."""
    return float(mask.sum()) * SPACING.voxel_mm3


def test_organs_are_as_large_as_measured(painted):
    """Heart 138-264 mm3 and cord 1.3-1.7 mm across as in real mice, lungs up to 1.8 times theirs.

    Measured lungs have 360-688 mm3; the phantom's are known to be too large.
    """
    for _, organs in painted:
        assert 138 <= mm3(organs[Organ.HEART]) <= 264
        cord_mm2 = mm3(organs[Organ.CORD]) / (90 * 0.3)
        assert 1.3 <= 2 * np.sqrt(cord_mm2 / np.pi) <= 1.7
        assert 360 <= mm3(organs[Organ.LUNG_R]) + mm3(organs[Organ.LUNG_L]) <= 1.8 * 688


def test_the_right_lung_is_the_larger(painted):
    """The right lung has 0.54 to 0.66 of both, 0.60-0.66 in real mice."""
    for _, organs in painted:
        right, left = mm3(organs[Organ.LUNG_R]), mm3(organs[Organ.LUNG_L])
        assert 0.54 <= right / (right + left) <= 0.66


def centre(mask) -> np.ndarray:
    """Middle of a mask, z y x in mm."""
    return np.argwhere(mask).mean(axis=0) * 0.3


def test_organs_lie_where_a_mouse_has_them(painted):
    """The left lung lies to the left, the cord to the back, the heart's apex to left and tail."""
    for _, organs in painted:
        heart, cord = centre(organs[Organ.HEART]), centre(organs[Organ.CORD])
        right, left = centre(organs[Organ.LUNG_R]), centre(organs[Organ.LUNG_L])
        assert right[2] + 3 < heart[2] < left[2] - 1
        assert cord[1] > heart[1] + 4
        voxels = np.argwhere(organs[Organ.HEART])
        tail, head = voxels[voxels[:, 0] < voxels[:, 0].min() + 5], voxels[-500:]
        assert tail[:, 2].mean() > head[:, 2].mean()


def test_the_cord_runs_through_the_whole_field(painted):
    """Every slice has its piece of cord, and all are one."""
    for _, organs in painted:
        assert organs[Organ.CORD].any(axis=(1, 2)).all()
        assert ndimage.label(organs[Organ.CORD], np.ones((3, 3, 3)))[1] == 1


def test_labels_lie_in_fitting_tissue(painted):
    """Cord is soft, lungs are lung but for their vessels, the heart is soft but for a bronchus."""
    for hu, organs in painted:
        cord = hu[organs[Organ.CORD]]
        assert cord.min() > -20
        assert cord.max() < 100
        for lung in (Organ.LUNG_R, Organ.LUNG_L):
            inside = hu[organs[lung]]
            assert ((inside > -650) & (inside < -350)).mean() > 0.97
            assert inside.min() > -650
            assert inside.max() < 100
        heart = hu[organs[Organ.HEART]]
        assert ((heart > 0) & (heart < 100)).mean() > 0.975
        assert heart.max() < 100
        assert not (hu == BONE_HU)[np.any(list(organs.values()), axis=0)].any()


def test_a_neighbour_is_seen_and_not_labelled():
    """A second animal has bones and lungs in the picture and no label."""
    mouse = conceive(4, neighbour=True)
    x_mm = mouse.neighbour_xyz_mm[0]
    hu, labels = paint(mouse, field((60, 76, 76), (x_mm, 0.0, 0.0)))
    alone, _ = paint(conceive(4), field((60, 76, 76)))
    assert (hu == BONE_HU).sum() > 0.8 * (alone == BONE_HU).sum()
    columns_mm = x_mm + (np.arange(76) - 37.5) * 0.3
    assert not labels[:, :, np.abs(columns_mm - x_mm) < 8].any()


def test_the_neighbour_takes_nothing_from_the_truth():
    """With and without neighbour the labelled animal has the same labels."""
    _, alone = paint(conceive(4), field((60, 76, 100)))
    _, beside = paint(conceive(4, neighbour=True), field((60, 76, 100)))
    np.testing.assert_array_equal(alone, beside)
