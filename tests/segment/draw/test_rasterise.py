import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.path import Path as Polygon
from scipy import ndimage

from limn.domain.geometry import SpacingMm, axial_grid
from limn.domain.scan import Contour
from limn.segment.draw.rasterise import fill, rasterise
from tests.support.organs import Organ

GRID = axial_grid((3, 30, 40), SpacingMm(0.5, 0.2, 0.1), np.array([-2.0, -3.0, 7.0]))


@given(seed=st.integers(0, 2**32), corners=st.integers(3, 12))
@settings(max_examples=60, deadline=None)
def test_voxels_inside_are_matplotlibs(seed, corners):
    """A star-shaped polygon anywhere, partly off the field too, fills as matplotlib fills it."""
    rng = np.random.default_rng(seed)
    angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
    radii = rng.uniform(2, 18, corners)
    middle = rng.uniform((0, 0), (30, 40))
    ring = middle + radii[:, None] * np.column_stack([np.sin(angles), np.cos(angles)])
    contour = Contour(Organ.HEART, 1, GRID.plane_points_xyz_mm(1, ring))
    centres = np.indices((30, 40)).reshape(2, -1).T
    expected = Polygon(ring, closed=False).contains_points(centres).reshape(30, 40)
    found = rasterise([contour], GRID, Organ.HEART)
    assert not found[[0, 2]].any()
    np.testing.assert_array_equal(found[1], expected)


def box(organ: Organ, slice_index: int, low: float, high: float) -> Contour:
    """A square contour between two indices."""
    ring = np.array([[low, low], [low, high], [high, high], [high, low]])
    return Contour(organ, slice_index, GRID.plane_points_xyz_mm(slice_index, ring))


def test_contours_of_a_slice_are_joined_and_of_others_ignored():
    """Overlapping contours of the organ join by OR; another organ's do not count."""
    contours = [
        box(Organ.HEART, 0, 1.5, 5.5),
        box(Organ.HEART, 0, 3.5, 8.5),
        box(Organ.CORD, 0, 10.5, 20.5),
        box(Organ.HEART, 2, 0.5, 1.5),
    ]
    counts = rasterise(contours, GRID, Organ.HEART).sum(axis=(1, 2))
    assert counts.tolist() == [16 + 25 - 4, 0, 1]


@pytest.mark.parametrize("organ", list(Organ))
def test_nothing_to_draw_is_an_empty_mask(organ):
    """Without contours no voxel is inside."""
    assert not rasterise([], GRID, organ).any()


def outlines(mask: np.ndarray) -> list[tuple[np.ndarray, bool]]:
    """OpenCV's outlines, through the outermost voxels, with holes and specks."""
    found, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
    return [(each[:, 0, ::-1].astype(np.float64), False) for each in found]


@given(seed=st.integers(0, 2**32), density=st.floats(0.2, 0.95))
@settings(max_examples=60, deadline=None)
def test_outlines_through_voxels_give_the_voxels_back(seed, density):
    """Specks, tails one voxel wide, holes and islands in holes; also with rounded corners."""
    rng = np.random.default_rng(seed)
    mask = ndimage.binary_opening(rng.random((24, 31)) < density) | (rng.random((24, 31)) < 0.03)
    mask = ndimage.binary_fill_holes(mask) if seed % 3 == 0 else mask
    rings = [(ring + rng.uniform(-0.04, 0.04, ring.shape), xor) for ring, xor in outlines(mask)]
    np.testing.assert_array_equal(fill(rings, mask.shape), mask)


def test_a_ring_beside_the_centres_is_filled_as_it_stands():
    """One corner off the centres is enough: no voxel on the line is added for its own sake."""
    square = np.array([[2.0, 2.0], [2.0, 6.0], [6.0, 6.0], [6.0, 2.0]])
    assert fill([(square, False)], (9, 9)).sum() == 25
    assert fill([(square + 0.3, False)], (9, 9)).sum() == 16
    assert fill([(square * 1e8, False)], (9, 9)).sum() == 0
