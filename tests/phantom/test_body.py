from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from scipy import ndimage

from limn.domain.geometry import SpacingMm, axial_grid
from limn.phantom.anatomy import THORACIC_VERTEBRAE, TRUTH_LABELS, conceive
from limn.phantom.body import labels_of, paint
from limn.phantom.canvas import warped
from limn.phantom.layout import Layout
from tests.support.organs import Organ

SPACING = SpacingMm(0.3, 0.3, 0.3)
SEEDS = range(10)
REAL = Path(__file__).parents[3] / "shared/data/rosenhain-labels/CT140_organs_labels.nii.gz"


def field(shape=(104, 90, 96), middle_xyz_mm=(0.0, 0.0, -1.0)):
    """A field of view around a point of the animal."""
    half = np.array([(n - 1) * 0.15 for n in shape[::-1]])
    return axial_grid(shape, SPACING, np.array(middle_xyz_mm) - half)


@pytest.fixture(scope="module")
def painted():
    """Attenuation and one mask per organ, for several mice."""
    mice = []
    for seed in SEEDS:
        hu, shares = paint(conceive(seed), field())
        labels = labels_of(shares)
        mice.append((hu, {organ: labels == label for label, organ in TRUTH_LABELS.items()}))
    return mice


def test_painting_is_repeatable():
    """The same mouse has the same voxels; another mouse has others."""
    small = field((30, 76, 76))
    hu, shares = paint(conceive(1), small)
    again = paint(conceive(1), small)
    np.testing.assert_array_equal(hu, again[0])
    np.testing.assert_array_equal(shares, again[1])
    assert (labels_of(shares) != labels_of(paint(conceive(2), small)[1])).mean() > 0.01


def mm3(mask) -> float:
    """Volume of a mask."""
    return float(mask.sum()) * SPACING.voxel_mm3


def test_organs_are_as_large_as_measured(painted):
    """Medians lie within the range of measured mice; the range is wider than that of six mice."""
    lungs, hearts = [], []
    for _, organs in painted:
        hearts.append(mm3(organs[Organ.HEART]))
        lungs.append(mm3(organs[Organ.LUNG_R]) + mm3(organs[Organ.LUNG_L]))
    assert 110 < min(hearts) < max(hearts) < 330
    assert 138 < np.median(hearts) < 264
    assert 200 < min(lungs) < max(lungs) < 1150
    assert 360 < np.median(lungs) < 690


def test_the_right_lung_is_the_larger(painted):
    """The right lung's share is 0.60-0.66 in real mice; the phantoms' median is near it."""
    shares = []
    for _, organs in painted:
        right, left = mm3(organs[Organ.LUNG_R]), mm3(organs[Organ.LUNG_L])
        shares.append(right / (right + left))
    assert 0.58 <= np.median(shares) <= 0.66
    assert 0.5 < min(shares) < max(shares) < 0.75


def straight(seed: int, mask) -> np.ndarray:
    """Middle of a mask in the frame of the mouse, x y z."""
    mouse = conceive(seed)
    axes = warped(field(), mouse.pose, mouse.build.size, (0.0, 0.0, 0.0))
    return np.array([axis[mask].mean() for axis in axes])


def test_organs_lie_as_in_a_mouse(painted):
    """The left lung lies left, the cord dorsal, the apex of the heart left and caudal."""
    for seed, (_, organs) in zip(SEEDS, painted, strict=True):
        heart, cord = straight(seed, organs[Organ.HEART]), straight(seed, organs[Organ.CORD])
        right, left = straight(seed, organs[Organ.LUNG_R]), straight(seed, organs[Organ.LUNG_L])
        assert right[0] + 3 < left[0]
        assert cord[1] > heart[1] + 4

        mouse = conceive(seed)
        x, _, z = warped(field(), mouse.pose, mouse.build.size, (0.0, 0.0, 0.0))
        inside = organs[Organ.HEART]
        low, high = np.percentile(z[inside], (15, 85))
        apex, base = x[inside & (z < low)].mean(), x[inside & (z > high)].mean()
        assert apex > base + 0.3


def test_the_cord_has_the_length_of_the_thoracic_spine(painted):
    """It is one piece, and 1.3-1.7 mm across over the length of thirteen vertebrae."""
    for seed, (_, organs) in zip(SEEDS, painted, strict=True):
        assert ndimage.label(organs[Organ.CORD], np.ones((3, 3, 3)))[1] == 1
        build = conceive(seed).build
        length_mm = THORACIC_VERTEBRAE * build.vertebra_pitch_mm * build.size
        across_mm = 2 * np.sqrt(mm3(organs[Organ.CORD]) / length_mm / np.pi)
        assert 1.15 <= across_mm <= 1.95


def test_bone_surrounds_the_cord(painted):
    """A quarter of the voxels within 1.2 mm of the cord is bone."""
    for hu, organs in painted:
        near = ndimage.binary_dilation(organs[Organ.CORD], iterations=4)
        shell = near & ~ndimage.binary_dilation(organs[Organ.CORD], iterations=1)
        assert (hu[shell] > 250).mean() > 0.25


def test_labels_lie_in_fitting_tissue(painted):
    """Within their surfaces, cord and heart are soft tissue, and lungs are mostly air."""
    for seed, (hu, organs) in zip(SEEDS, painted, strict=True):
        tissue = conceive(seed).tissue
        for organ, (low, high) in {
            Organ.HEART: (tissue.heart - 60, tissue.heart + 60),
            Organ.CORD: (tissue.cord - 40, tissue.cord + 40),
        }.items():
            core = hu[ndimage.binary_erosion(organs[organ])]
            assert ((core > low) & (core < high)).mean() > 0.95, (seed, organ)
        for organ in (Organ.LUNG_R, Organ.LUNG_L):
            core = hu[ndimage.binary_erosion(organs[organ], iterations=2)]
            assert ((core > -950) & (core < -150)).mean() > 0.9, (seed, organ)


def test_a_neighbour_is_visible_and_not_labelled():
    """A second animal has bones in the image and does not change the truth."""
    wide = field((60, 76, 240))
    single, single_shares = paint(conceive(4), wide)
    beside, beside_shares = paint(conceive(4, neighbour=True), wide)
    bones = (beside > 500).sum()
    assert bones > 1.5 * (single > 500).sum()
    agree = labels_of(single_shares) == labels_of(beside_shares)
    assert agree.mean() > 0.98
    x_mm = conceive(4, neighbour=True).around.neighbour_xyz_mm[0]
    columns_mm = (np.arange(240) - 119.5) * 0.3
    assert not labels_of(beside_shares)[:, :, np.abs(columns_mm - x_mm) < 6].any()


def test_the_spine_swings(painted):
    """Within the chest the spine moves several mm between back and belly, as in real mice."""
    for seed in SEEDS:
        layout = Layout.of(conceive(seed))
        z = np.linspace(-8.0, 8.0, 50)
        assert 2.5 < np.ptp(layout.spine_y(z)) < 12.0


@pytest.mark.xfail(strict=True, reason="one heart of ten is painted 16 % too small")
def test_hearts_have_the_volume_asked_for(painted):
    """The painted heart has the requested volume."""
    for seed, (_, organs) in zip(SEEDS, painted, strict=True):
        wanted = conceive(seed).build.heart_volume_mm3
        assert mm3(organs[Organ.HEART]) == pytest.approx(wanted, rel=0.15)


@pytest.mark.skipif(not REAL.exists(), reason="the real labels are not here")
def test_real_labels_lie_within_the_phantoms(painted):
    """Volumes and height of a real mouse's organs lie near the range of ten phantoms.

    A quarter of the range is allowed on either side. The real heart is longer and farther from the
    middle of the lungs: see "What they lack" in the docs.
    """
    image = SimpleITK.ReadImage(str(REAL))
    labels, mm = SimpleITK.GetArrayFromImage(image), image.GetSpacing()[0]
    heart, lungs = np.argwhere(labels == 1) * mm, np.argwhere(labels == 4) * mm

    def features(heart_mm, lungs_mm, voxel_mm3):
        return np.array(
            [
                len(heart_mm) * voxel_mm3,
                len(lungs_mm) * voxel_mm3,
                np.ptp(lungs_mm[:, 0]),
            ]
        )

    made = []
    for _, organs in painted:
        both = organs[Organ.LUNG_R] | organs[Organ.LUNG_L]
        made.append(
            features(np.argwhere(organs[Organ.HEART]) * 0.3, np.argwhere(both) * 0.3, 0.027)
        )
    real = features(heart, lungs, mm**3)
    low, high = np.min(made, axis=0), np.max(made, axis=0)
    spread = high - low
    assert ((real > low - 0.25 * spread) & (real < high + 0.25 * spread)).all(), (real, low, high)


def lies_within(real: float, made: list[float]) -> bool:
    """Whether a value lies in the range of the phantoms, widened by a quarter on either side."""
    slack = 0.25 * (max(made) - min(made))
    return min(made) - slack < real < max(made) + slack


@pytest.mark.skipif(not REAL.exists(), reason="the real labels are not here")
def test_a_real_heart_is_as_long_as_the_phantoms(painted):
    """The height of a real heart, from tail to head, lies in the range of the phantoms."""
    image = SimpleITK.ReadImage(str(REAL))
    labels, mm = SimpleITK.GetArrayFromImage(image), image.GetSpacing()[0]
    made = [float(np.ptp(np.argwhere(o[Organ.HEART])[:, 0])) * 0.3 for _, o in painted]
    assert lies_within(float(np.ptp(np.argwhere(labels == 1)[:, 0])) * mm, made)


@pytest.mark.skipif(not REAL.exists(), reason="the real labels are not here")
def test_a_real_heart_lies_as_far_from_the_lungs_as_the_phantoms(painted):
    """The distance of a real heart from the lungs lies in the range of the phantoms."""
    image = SimpleITK.ReadImage(str(REAL))
    labels, mm = SimpleITK.GetArrayFromImage(image), image.GetSpacing()[0]

    def apart_mm(heart, lungs, voxel_mm):
        middles = (np.argwhere(mask).mean(axis=0) * voxel_mm for mask in (heart, lungs))
        return float(np.linalg.norm(np.subtract(*middles)))

    made = [apart_mm(o[Organ.HEART], o[Organ.LUNG_R] | o[Organ.LUNG_L], 0.3) for _, o in painted]
    assert lies_within(apart_mm(labels == 1, labels == 4, mm), made)
