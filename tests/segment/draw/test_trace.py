import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matplotlib.path import Path as Polygon
from scipy import ndimage

from limn.domain.geometry import Grid, SpacingMm, axial_grid
from limn.domain.scan import Labels
from limn.segment.draw.rasterise import rasterise
from limn.segment.draw.trace import outline, trace
from tests.support.organs import Organ

ORGANS = {1: Organ.HEART, 2: Organ.CORD}


def drawing(text: str) -> np.ndarray:
    """Pixels from a drawing, ``#`` is inside."""
    return np.array([[letter == "#" for letter in line] for line in text.split()])


TARGET = drawing("""
    #########
    #.......#
    #.#####.#
    #.#...#.#
    #.#.#.#.#
    #.#...#.#
    #.#####.#
    #.......#
    #########
""")
CHECKERS = drawing("#.#.# .#.#. #.#.# .#.#.")
DIAGONAL_HOLES = drawing("###### #.#### ##.### ###.## ######")
HOLE_TOUCHING_OUTSIDE = drawing("#### #.## ##.# ###. ####")
TWO_RINGS = drawing("####.#### #..#.#..# ####.####")
SPECK = drawing("... .#. ...")


@st.composite
def blobs(draw) -> np.ndarray:
    """Organ-like blobs with ragged edges, holes and islands, often at the border."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = (draw(st.integers(3, 28)), draw(st.integers(3, 28)))
    smooth = ndimage.gaussian_filter(rng.normal(size=shape), draw(st.floats(0.3, 3.0)))
    return smooth > np.quantile(smooth, draw(st.floats(0.1, 0.9)))


pictures = st.one_of(blobs(), arrays(np.bool_, st.tuples(*[st.integers(1, 9)] * 2)))


def filled(ring_yx: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Pixel centres inside a ring, by matplotlib."""
    centres = np.indices(shape).reshape(2, -1).T
    return Polygon(ring_yx, closed=False).contains_points(centres).reshape(shape)


def drawn(mask: np.ndarray) -> np.ndarray:
    """The rings of a mask, rasterised by matplotlib and joined by OR."""
    return np.any([np.zeros(mask.shape, bool), *(filled(r, mask.shape) for r in outline(mask))], 0)


@given(mask=pictures)
@example(mask=TARGET)
@example(mask=CHECKERS)
@example(mask=DIAGONAL_HOLES)
@example(mask=HOLE_TOUCHING_OUTSIDE)
@example(mask=TWO_RINGS)
@example(mask=SPECK)
@example(mask=np.ones((1, 1), bool))
@example(mask=np.zeros((4, 4), bool))
@settings(max_examples=120, deadline=None)
def test_outlines_drawn_by_matplotlib_are_the_mask(mask):
    """For any mask matplotlib fills the outlines to exactly the same pixels."""
    np.testing.assert_array_equal(drawn(mask), mask)


@given(mask=pictures)
@example(mask=TARGET)
@example(mask=CHECKERS)
@settings(max_examples=50, deadline=None)
def test_no_ring_lies_in_the_filled_part_of_another(mask):
    """Holes are keyholes: no ring is nested in another, so OR and even-odd readers agree."""
    rings = outline(mask)
    for ring in rings:
        others = [other for other in rings if other is not ring]
        inside = [Polygon(other, closed=False).contains_points(ring).any() for other in others]
        assert not any(inside)


@given(mask=pictures)
@settings(max_examples=50, deadline=None)
def test_no_point_lies_on_the_line_between_its_neighbours(mask):
    """Every point of an outline is a corner; a keyhole's turning points stay."""
    for ring in outline(mask):
        into, out = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
        lengths = np.linalg.norm(into, axis=1) * np.linalg.norm(out, axis=1)
        straight = (into * out).sum(axis=1) > lengths * (1 - 1e-12)
        assert not straight.any()


def test_a_square_has_eight_corners():
    """A square's outline is its four sides with cut corners, 0.005 of a voxel inside its edge."""
    mask = np.zeros((12, 12), bool)
    mask[3:9, 2:10] = True
    (ring,) = outline(mask)
    assert len(ring) == 8
    np.testing.assert_allclose(
        [ring.min(axis=0), ring.max(axis=0)], [[2.505, 1.505], [8.495, 9.495]]
    )


@pytest.mark.parametrize("offset", [(0.0, 0.0), (0.3, 0.1), (0.5, 0.5), (0.2, 0.4)])
def test_the_polygons_area_is_the_organs(offset):
    """A cord of 10 voxels across keeps its area within 1 %, by the shoelace formula."""
    y, x = np.indices((20, 20))
    mask = (y - 9.5 - offset[0]) ** 2 + (x - 9.5 - offset[1]) ** 2 < 25
    (ring,) = outline(mask)
    y, x = ring.T
    area = abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
    assert area == pytest.approx(mask.sum(), rel=0.01)


def test_a_hole_costs_no_second_ring():
    """An outline with two holes is one ring, and an island within a hole another."""
    assert len(outline(TARGET)) == 3
    assert len(outline(DIAGONAL_HOLES)) == 1
    two_holes = np.ones((7, 12), bool)
    two_holes[2:5, 2:4] = two_holes[3, 7:10] = False
    assert len(outline(two_holes)) == 1


@given(mask=pictures)
@example(mask=TARGET)
@example(mask=TWO_RINGS)
@settings(max_examples=50, deadline=None)
def test_no_line_runs_through_a_voxels_centre(mask):
    """Sides and keyhole cuts keep off every voxel centre, where readers would disagree."""
    centres = np.indices(mask.shape).reshape(2, -1).T
    for ring in outline(mask):
        for start, end in zip(ring, np.roll(ring, -1, axis=0), strict=True):
            along = end - start
            share = np.clip((centres - start) @ along / (along @ along), 0, 1)
            distances = np.linalg.norm(centres - start - share[:, None] * along, axis=1)
            assert distances.min() > 0.05


def test_diagonal_neighbours_are_two_rings():
    """Voxels that touch at a corner only get an outline each, as DICOM wants simple polygons."""
    assert len(outline(drawing("#. .#"))) == 2


@st.composite
def stacks(draw) -> Labels:
    """Two organs in a tilted, anisotropic stack with slices stored in either order."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    turned, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    shape = (3, draw(st.integers(2, 24)), draw(st.integers(2, 24)))
    step_mm = draw(st.sampled_from([-0.3, 0.14]))
    origins = rng.uniform(-50, 50, 3) + np.outer(
        np.arange(3) * step_mm, np.cross(turned[0], turned[1])
    )
    spacing = draw(st.sampled_from([(0.14, 0.14), (0.2, 0.1), (0.05, 0.33)]))
    grid = Grid(origins, shape[1], shape[2], *spacing, turned[0], turned[1])
    smooth = ndimage.gaussian_filter(rng.normal(size=shape), draw(st.floats(0.0, 2.0)))
    labels = np.digitize(smooth, np.quantile(smooth, [0.4, 0.7])).astype(np.uint8)
    return Labels(labels, grid, ORGANS)


@given(labels=stacks())
@settings(max_examples=100, deadline=None)
def test_labels_to_contours_to_labels_is_the_identity(labels):
    """Every organ's contours in patient coordinates rasterise back to its own voxels."""
    traced = trace(labels)
    for organ in ORGANS.values():
        back = rasterise(traced.contours, labels.grid, organ)
        np.testing.assert_array_equal(back, labels.mask(organ))
    for contour in traced.contours:
        distance_mm = labels.grid.distance_to_slice_mm(contour.slice_index, contour.points_xyz_mm)
        assert distance_mm < 1e-9


def test_organs_without_voxels_are_traced_to_nothing():
    """Without voxels there are no contours, and none was dropped."""
    grid = axial_grid((3, 4, 5), SpacingMm(0.3, 0.2, 0.1), np.zeros(3))
    traced = trace(Labels(np.zeros((3, 4, 5), np.uint8), grid, ORGANS))
    assert traced.contours == ()
    assert traced.dropped == {Organ.HEART: 0, Organ.CORD: 0}


def test_a_contour_knows_its_organ_slice_and_place():
    """A one-voxel organ is a small diamond around the voxel's centre, on its own slice."""
    grid = axial_grid((3, 4, 5), SpacingMm(0.3, 0.2, 0.1), np.array([1.0, 2.0, 3.0]))
    voxels = np.zeros((3, 4, 5), np.uint8)
    voxels[2, 3, 4] = 2
    (contour,) = trace(Labels(voxels, grid, ORGANS)).contours
    assert (contour.organ, contour.slice_index) == (Organ.CORD, 2)
    assert len(contour.points_xyz_mm) == 4
    np.testing.assert_allclose(contour.points_xyz_mm.mean(axis=0), [1.4, 2.6, 3.6])
