"""DSC, MSD and 95 % HD compared with hand counts, brute force and another library."""

import math
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.ndimage import gaussian_filter

from limn.domain.geometry import SpacingMm, axial_grid
from limn.domain.scan import Labels
from limn.lab.measure.accuracy import Accuracy, score, score_labels
from limn.segment.compare.distances import SurfaceDistances
from tests.support.organs import Organ

SPACING = SpacingMm(z=0.5, y=0.3, x=0.2)
ISOTROPIC = SpacingMm(z=0.14, y=0.14, x=0.14)

masks = hnp.arrays(np.bool_, (5, 6, 4))
spacings = st.builds(SpacingMm, *[st.floats(0.05, 0.6)] * 3)


def blank(shape: tuple[int, int, int] = (12, 12, 12)) -> np.ndarray:
    """An empty mask."""
    return np.zeros(shape, dtype=np.bool_)


def cube(side: int, corner: tuple[int, int, int]) -> np.ndarray:
    """A cube of voxels by its first corner."""
    mask = blank()
    mask[tuple(slice(low, low + side) for low in corner)] = True
    return mask


def ball(radius_mm: float, spacing_mm: SpacingMm) -> np.ndarray:
    """A ball in the middle of 41 x 41 x 41 voxels."""
    axes = [(np.arange(41) - 20) * step_mm for step_mm in spacing_mm.zyx]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    return z**2 + y**2 + x**2 <= radius_mm**2


def blob(rng: np.random.Generator, shape: tuple[int, int, int]) -> np.ndarray:
    """A random shape with holes and islands that touches the array's edge."""
    return gaussian_filter(rng.normal(size=shape), 1.5) > 0.02


def brute_surface(mask: np.ndarray) -> np.ndarray:
    """Indices of voxels with one of six neighbours outside the mask, found one by one."""
    inside = {tuple(index) for index in np.argwhere(mask).tolist()}
    return np.array(
        [
            (z, y, x)
            for z, y, x in sorted(inside)
            if not inside.issuperset(
                {(z - 1, y, x), (z + 1, y, x), (z, y - 1, x), (z, y + 1, x)}
                | {(z, y, x - 1), (z, y, x + 1)}
            )
        ]
    )


def brute(mask: np.ndarray, truth: np.ndarray, spacing_mm: SpacingMm) -> tuple[float, float]:
    """MSD and 95 % HD from the distances of all pairs."""
    first, second = brute_surface(mask) * spacing_mm.zyx, brute_surface(truth) * spacing_mm.zyx
    pairs = np.sqrt(((first[:, None, :] - second[None, :, :]) ** 2).sum(axis=2))
    there, back = pairs.min(axis=1), pairs.min(axis=0)
    return (
        (there.mean() + back.mean()) / 2,
        max(np.percentile(there, 95), np.percentile(back, 95)),
    )


def by_itk(mask: np.ndarray, truth: np.ndarray, spacing_mm: SpacingMm) -> tuple[float, float]:
    """MSD and 95 % HD from ITK's contour filter and Maurer's distance map."""
    surfaces, maps = [], []
    for own in (mask, truth):
        image = SimpleITK.GetImageFromArray(np.pad(own, 1).astype(np.uint8))
        image.SetSpacing(spacing_mm.zyx[::-1])
        surface = SimpleITK.LabelContour(image, fullyConnected=False)
        away = SimpleITK.SignedMaurerDistanceMap(
            surface, squaredDistance=False, useImageSpacing=True
        )
        surfaces.append(SimpleITK.GetArrayFromImage(surface) > 0)
        maps.append(np.abs(SimpleITK.GetArrayFromImage(away)).astype(np.float64))
    there, back = maps[1][surfaces[0]], maps[0][surfaces[1]]
    return (
        (there.mean() + back.mean()) / 2,
        max(np.percentile(there, 95), np.percentile(back, 95)),
    )


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_a_plate_moved_along_its_normal(axis: int, steps: int) -> None:
    """Every voxel of a plate of one voxel's thickness is as far away as the plate was moved."""
    plate = blank()
    plate[tuple(4 if i == axis else slice(2, 9) for i in range(3))] = True
    moved = score(Organ.HEART, np.roll(plate, steps, axis), plate, SPACING)
    step_mm = steps * SPACING.zyx[axis]
    assert moved.dsc == 0.0
    assert moved.msd_mm == pytest.approx(step_mm, abs=1e-9)
    assert moved.hd95_mm == pytest.approx(step_mm, abs=1e-9)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_cube_moved_by_one_voxel(axis: int) -> None:
    """9 of 26 surface voxels lie one step outside; one lies on the other cube's inner voxel."""
    still = cube(3, (4, 4, 4))
    moved = score(Organ.HEART, np.roll(still, 1, axis), still, SPACING)
    step_mm = SPACING.zyx[axis]
    assert moved.dsc == pytest.approx(2 / 3)
    assert moved.msd_mm == pytest.approx((9 * step_mm + min(SPACING.zyx)) / 26, abs=1e-9)
    assert moved.hd95_mm == pytest.approx(step_mm, abs=1e-9)


def test_cubes_one_inside_the_other() -> None:
    """A cube of 3 voxels inside one of 5: faces, edges and corners counted by hand."""
    z, y, x = SPACING.zyx
    corner = math.hypot(z, y, x)
    edges = math.hypot(z, y) + math.hypot(z, x) + math.hypot(y, x)
    outwards = (18 * x + 6 * y + 2 * (2 * x)) / 26  # two voxels in z: 2 steps in x are shorter
    inwards = (18 * (z + y + x) + 12 * edges + 8 * corner) / 98
    nested = score(Organ.HEART, cube(3, (5, 5, 5)), cube(5, (4, 4, 4)), SPACING)
    assert nested.dsc == pytest.approx(2 * 27 / (27 + 125))
    assert nested.msd_mm == pytest.approx((outwards + inwards) / 2, abs=1e-9)
    assert nested.hd95_mm == pytest.approx(corner, abs=1e-9)


def test_single_voxels() -> None:
    """The distance of two voxels is that of their centres."""
    one, other = blank(), blank()
    one[1, 2, 3] = other[3, 6, 10] = True
    single = score(Organ.CORD, one, other, SPACING)
    apart_mm = math.hypot(2 * 0.5, 4 * 0.3, 7 * 0.2)
    assert single.msd_mm == pytest.approx(apart_mm, abs=1e-9)
    assert single.hd95_mm == pytest.approx(apart_mm, abs=1e-9)


def test_directions_are_joined_not_pooled() -> None:
    """One voxel and a row of 11: 0 mm in one direction, 0 to 2 mm in the other."""
    row, first = blank(), blank()
    row[6, 6, :11] = first[6, 6, 0] = True
    distances = SurfaceDistances.between(first, row, SPACING)
    assert distances.to_truth_mm.tolist() == [0.0]
    assert distances.to_mask_mm == pytest.approx(np.arange(11) * 0.2, abs=1e-9)
    assert distances.mean_mm == pytest.approx(1.0 / 2, abs=1e-9)
    assert distances.hausdorff_mm() == pytest.approx(1.9, abs=1e-9)
    assert distances.hausdorff_mm(100) == pytest.approx(2.0, abs=1e-9)


def test_balls_counted_by_hand() -> None:
    """Balls of radius 1 and 2 have 7 and 33 voxels, of which 6 and 26 are surface.

    From the small ball every distance is 1. From the large ball it is 1 for the 6 tips and the 12
    edges, and the square root of 2 for the 8 corners.
    """
    unit = SpacingMm(1.0, 1.0, 1.0)
    small, large = ball(1.0, unit), ball(2.0, unit)
    assert (int(small.sum()), int(large.sum())) == (7, 33)
    found = score(Organ.HEART, small, large, unit)
    root = math.sqrt(2.0)
    assert found.dsc == 14 / 40
    assert found.msd_mm == pytest.approx((1.0 + (18 + 8 * root) / 26) / 2, abs=1e-9)
    assert found.hd95_mm == pytest.approx(root, abs=1e-9)
    # The small ball moved by one voxel shares two voxels with itself; every tip is 1 from the
    # nearest tip of the other.
    moved = score(Organ.HEART, np.roll(small, 1, axis=2), small, unit)
    assert (moved.dsc, moved.msd_mm, moved.hd95_mm) == (4 / 14, 1.0, 1.0)


@pytest.mark.parametrize("spacing_mm", [ISOTROPIC, SpacingMm(z=0.3, y=0.14, x=0.2)])
def test_balls_about_one_centre(spacing_mm: SpacingMm) -> None:
    """The distance of the surfaces is the difference of the radii, to within a voxel."""
    apart = score(Organ.HEART, ball(2.5, spacing_mm), ball(1.5, spacing_mm), spacing_mm)
    voxel_mm = max(spacing_mm.zyx)
    assert apart.msd_mm == pytest.approx(1.0, abs=voxel_mm)
    assert apart.hd95_mm == pytest.approx(1.0, abs=voxel_mm)


@settings(deadline=None)
@given(mask=masks, truth=masks, spacing_mm=spacings)
def test_brute_force_agrees(mask: np.ndarray, truth: np.ndarray, spacing_mm: SpacingMm) -> None:
    """For any two masks the distances of all pairs give the same numbers."""
    mask[2, 3, 1] = truth[4, 0, 3] = True
    ours = score(Organ.HEART, mask, truth, spacing_mm)
    assert (ours.msd_mm, ours.hd95_mm) == pytest.approx(brute(mask, truth, spacing_mm), abs=1e-6)


@pytest.mark.parametrize("seed", range(8))
def test_brute_force_and_itk_agree_on_lumps(seed: int) -> None:
    """Smooth shapes like organs, compared with two other computations."""
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(8, 22, 3))
    spacing_mm = SpacingMm(*rng.uniform(0.1, 0.5, 3))
    mask, truth = blob(rng, shape), blob(rng, shape)
    ours = score(Organ.HEART, mask, truth, spacing_mm)
    assert (ours.msd_mm, ours.hd95_mm) == pytest.approx(brute(mask, truth, spacing_mm), abs=1e-6)
    assert (ours.msd_mm, ours.hd95_mm) == pytest.approx(by_itk(mask, truth, spacing_mm), abs=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_itk_agrees_on_the_dsc(seed: int) -> None:
    """Another library's Dice coefficient, on random shapes."""
    rng = np.random.default_rng(seed)
    mask, truth = blob(rng, (9, 10, 11)), blob(rng, (9, 10, 11))
    overlap = SimpleITK.LabelOverlapMeasuresImageFilter()
    overlap.Execute(*[SimpleITK.GetImageFromArray(own.astype(np.uint8)) for own in (mask, truth)])
    ours = score(Organ.HEART, mask, truth, SPACING).dsc
    assert ours == pytest.approx(overlap.GetDiceCoefficient(), abs=1e-12)


@settings(deadline=None)
@given(mask=masks, truth=masks, spacing_mm=spacings)
def test_exchange_changes_nothing(
    mask: np.ndarray, truth: np.ndarray, spacing_mm: SpacingMm
) -> None:
    """The score is symmetric in the two masks."""
    one = score(Organ.HEART, mask, truth, spacing_mm)
    other = score(Organ.HEART, truth, mask, spacing_mm)
    assert (one.dsc, one.msd_mm, one.hd95_mm) == pytest.approx(
        (other.dsc, other.msd_mm, other.hd95_mm), nan_ok=True
    )


@settings(deadline=None)
@given(mask=masks, spacing_mm=spacings)
def test_a_mask_agrees_with_itself(mask: np.ndarray, spacing_mm: SpacingMm) -> None:
    """Identity scores 1 and exactly 0 mm."""
    mask[0, 0, 0] = True
    assert score(Organ.CORD, mask, mask, spacing_mm) == Accuracy(Organ.CORD, 1.0, 0.0, 0.0)


def test_the_edge_of_the_array_is_a_surface() -> None:
    """Masks that fill the array score as they do with background around them."""
    full, hollow = np.ones((6, 7, 8), dtype=np.bool_), np.ones((6, 7, 8), dtype=np.bool_)
    hollow[0] = False
    cut = score(Organ.LUNG_L, hollow, full, SPACING)
    whole = score(Organ.LUNG_L, np.pad(hollow, 3), np.pad(full, 3), SPACING)
    assert cut == whole
    assert cut.hd95_mm == 0.5


def test_equal_distances_are_equal_numbers() -> None:
    """One voxel is exactly 0.14 mm anywhere in the scan: rank tests count ties."""
    for start in (0, 133, 279):
        one, other = blank((4, 4, 300)), blank((4, 4, 300))
        one[2, 2, start] = other[2, 2, start + 1] = True
        assert score(Organ.HEART, one, other, ISOTROPIC).hd95_mm == 0.14


def test_a_missing_organ() -> None:
    """DSC 0 and no distance; if both masks are empty there is no DSC either."""
    for pair in ((blank(), cube(3, (1, 1, 1))), (cube(3, (1, 1, 1)), blank())):
        missing = score(Organ.HEART, *pair, SPACING)
        assert missing.dsc == 0.0
        assert math.isnan(missing.msd_mm)
        assert math.isnan(missing.hd95_mm)
    nothing = score(Organ.HEART, blank(), blank(), SPACING)
    assert all(math.isnan(value) for value in (nothing.dsc, nothing.msd_mm, nothing.hd95_mm))


def test_masks_of_two_shapes_are_refused() -> None:
    """Arrays are not broadcast to a common shape."""
    with pytest.raises(ValueError, match=r"\(1, 12, 12\).*\(12, 12, 12\)"):
        score(Organ.HEART, blank((1, 12, 12)), blank(), SPACING)


def labelled(masks_of: dict[int, np.ndarray], organs: dict[int, Organ]) -> Labels:
    """Labels from masks that do not overlap."""
    labels_zyx = np.zeros((12, 12, 12), dtype=np.uint8)
    for label, mask in masks_of.items():
        labels_zyx[mask] = label
    return Labels(labels_zyx, axial_grid((12, 12, 12), SPACING, np.array([1.0, 2.0, 3.0])), organs)


def test_organs_are_matched_by_name() -> None:
    """Different label numbers; a missed organ; organs without a label in one of the two."""
    heart, lung, right, cord = (
        cube(*own) for own in ((3, (1, 1, 1)), (4, (6, 6, 6)), (2, (1, 8, 8)), (1, (11, 0, 0)))
    )
    truth = labelled(
        {9: heart, 2: lung, 3: right, 4: cord},
        {4: Organ.CORD, 3: Organ.LUNG_R, 2: Organ.LUNG_L, 9: Organ.HEART},
    )
    labels = labelled(
        {1: np.roll(heart, 1, 0), 7: lung}, {7: Organ.LUNG_L, 1: Organ.HEART, 5: Organ.CORD}
    )
    scores = score_labels(labels, truth)
    assert [own.organ for own in scores] == list(truth.organs.values())
    by_organ = {own.organ: own for own in scores}
    assert by_organ[Organ.HEART] == score(Organ.HEART, np.roll(heart, 1, 0), heart, SPACING)
    assert by_organ[Organ.LUNG_L] == Accuracy(Organ.LUNG_L, 1.0, 0.0, 0.0)
    assert by_organ[Organ.CORD].dsc == by_organ[Organ.LUNG_R].dsc == 0.0
    assert [own.organ for own in score_labels(truth, labels)] == [
        Organ.LUNG_L,
        Organ.HEART,
        Organ.CORD,
    ]


def test_other_grids_are_refused() -> None:
    """A shift, a turn or another size is refused with both grids; a rounding error is not."""
    truth = labelled({1: cube(3, (1, 1, 1))}, {1: Organ.HEART})
    grid = truth.grid
    rounded = replace(grid, slice_origins_xyz_mm=grid.slice_origins_xyz_mm + 2e-4)
    assert score_labels(replace(truth, grid=rounded), truth)[0].dsc == 1.0
    shifted = replace(grid, slice_origins_xyz_mm=grid.slice_origins_xyz_mm + 0.1)
    turned = replace(grid, along_x_xyz=-grid.along_x_xyz)
    upended = replace(grid, slice_origins_xyz_mm=grid.slice_origins_xyz_mm[::-1])
    for other in (shifted, turned, upended):
        with pytest.raises(ValueError, match=r"the labels lie on .*; the truth lies on "):
            score_labels(replace(truth, grid=other), truth)
    smaller = Labels(
        np.zeros((11, 12, 12), dtype=np.uint8),
        axial_grid((11, 12, 12), SPACING, np.array([1.0, 2.0, 3.0])),
        {1: Organ.HEART},
    )
    with pytest.raises(
        ValueError,
        match=r"11 x 12 x 12 voxels .* 0\.5 x 0\.3 x 0\.2 mm .*12 x 12 x 12 voxels .*"
        r"from \(1\.000, 2\.000, 3\.000\) to \(3\.200, 5\.300, 8\.500\)",
    ):
        score_labels(smaller, truth)
