import dataclasses

import numpy as np
import pytest

from limn.domain.geometry import SpacingMm, axial_grid
from limn.phantom.anatomy import conceive
from limn.phantom.canvas import AxialProfile, Canvas, common, ellipse, ellipsoid, rod, union, warped

STILL = dataclasses.replace(
    conceive(1).pose,
    roll_rad=0.0,
    pitch_rad=0.0,
    yaw_rad=0.0,
    bend_side_mm=0.0,
    bend_back_mm=0.0,
    wobble_mm=0.0,
)


def grid(n=40, mm=0.25):
    """A cube of voxels around the origin."""
    spacing = SpacingMm(mm, mm, mm)
    return axial_grid((n, n, n), spacing, np.full(3, -(n - 1) * mm / 2))


def canvas(n=40, mm=0.25, pose=STILL):
    """An empty canvas with labels."""
    x, y, z = warped(grid(n, mm), pose, 1.0, (0.0, 0.0, 0.0))
    shares = np.zeros((4, n, n, n), dtype=np.uint8)
    return Canvas(x, y, z, np.zeros((n, n, n), np.float32), shares, mm)


def test_a_still_mouse_is_not_warped():
    """Without a pose the mouse's frame is the patient's, and the size divides lengths."""
    axis = (np.arange(40) - 19.5) * 0.25
    x, y, z = warped(grid(), STILL, 1.25, (0.5, 0.0, -1.0))
    np.testing.assert_allclose(x[3, 7], (axis - 0.5) / 1.25, atol=1e-5)
    np.testing.assert_allclose(y[3, :, 7], axis / 1.25, atol=1e-5)
    np.testing.assert_allclose(z[:, 3, 7], (axis + 1.0) / 1.25, atol=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_a_pose_bends_without_tearing(seed):
    """No pose folds space, or squeezes or stretches it threefold."""
    x, y, z = warped(grid(60, 0.5), conceive(seed).pose, 1.0, (0.0, 0.0, 0.0))
    gradients = np.stack([np.stack(np.gradient(a, 0.5)) for a in (x, y, z)])
    # Rows: mouse x y z; columns: array z y x. The determinant is the local change of volume.
    matrix = np.moveaxis(gradients, (0, 1), (-2, -1))[..., ::-1]
    change = np.linalg.det(matrix)
    assert 0.33 < change.min() < change.max() < 3.0
    assert change.mean() == pytest.approx(1.0, abs=0.1)


def test_volumes_of_shapes_are_exact():
    """A painted ball and rod have the volume that geometry gives them."""
    board = canvas(60, 0.2)
    ball = board.covered(ellipsoid(board, (0.3, -0.2, 0.1), (2.0, 2.0, 2.0))).sum() * 0.2**3
    assert ball == pytest.approx(4 / 3 * np.pi * 8, rel=0.01)
    egg = board.covered(ellipsoid(board, (0.0, 0.0, 0.0), (2.0, 3.0, 4.0))).sum() * 0.2**3
    assert egg == pytest.approx(4 / 3 * np.pi * 24, rel=0.02)
    pill = board.covered(rod(board, (-2.0, 0.0, 0.0), (2.0, 1.0, 0.5)) - np.float32(0.7)).sum()
    length = np.sqrt(16 + 1 + 0.25)
    wanted = np.pi * 0.7**2 * length + 4 / 3 * np.pi * 0.7**3
    assert pill * 0.2**3 == pytest.approx(wanted, rel=0.02)
    disc = ellipse(board.x, board.y, np.full_like(board.x, 2.0), np.full_like(board.x, 3.0))
    assert board.covered(disc)[30].sum() * 0.04 == pytest.approx(np.pi * 6, rel=0.02)


def test_a_surface_mixes_both_sides():
    """A voxel that a plane cuts in the middle has half of each tissue."""
    board = canvas()
    board.fill(board.x - np.float32(0.125), 100.0)
    np.testing.assert_allclose(board.hu_zyx[5, 5, 18:22], [100.0, 100.0, 50.0, 0.0], atol=1e-3)


def test_later_organs_take_their_share():
    """Shares of organs never add up to more than the voxel."""
    board = canvas()
    board.label(board.covered(board.x), 1)
    board.label(board.covered(np.abs(board.x) - np.float32(1.0)), 2)
    total = board.shares.astype(int).sum(axis=0)
    assert total.max() <= 256
    inside = np.abs(board.x) < 0.7
    assert (board.shares[1][inside] == 255).all()
    assert (board.shares[0][inside] == 0).all()


def test_a_part_paints_the_whole():
    """Painting a shape in its box gives the same canvas as painting it without a box."""
    whole, boxed = canvas(), canvas()
    centre, radii = (1.0, -1.0, 0.5), (1.5, 1.0, 2.0)
    whole.fill(ellipsoid(whole, centre, radii), 70.0)
    box = boxed.box((-0.5, -2.0, -1.5), (2.5, 0.0, 2.5))
    part = boxed.part(box)
    part.fill(ellipsoid(part, centre, radii), 70.0)
    np.testing.assert_array_equal(whole.hu_zyx, boxed.hu_zyx)
    assert part.x.size < 0.7 * whole.x.size
    assert canvas().box((50.0, 0.0, 0.0), (60.0, 1.0, 1.0)) is None


def test_profiles_pass_through_their_points():
    """A profile passes through its points, is monotonic between them and constant beyond."""
    profile = AxialProfile({-2.0: 1.0, 0.0: 3.0, 5.0: 2.0}, scale=2.0)
    np.testing.assert_allclose(profile(np.array([-2.0, 0.0, 5.0])), [2.0, 6.0, 4.0], atol=0.02)
    np.testing.assert_allclose(profile(np.array([-9.0, 99.0])), [2.0, 4.0], atol=0.02)
    between = profile(np.linspace(0, 5, 50))
    assert (np.diff(between) <= 1e-6).all()


def test_unions_are_rounded_in_the_crease():
    """A union contains both shapes and more; an intersection is smaller than either."""
    board = canvas()
    a = ellipsoid(board, (-1.0, 0.0, 0.0), (1.5, 1.5, 1.5))
    b = ellipsoid(board, (1.0, 0.0, 0.0), (1.5, 1.5, 1.5))
    assert (union(a, b, 0.8) <= np.minimum(a, b)).all()
    assert (common(a, b, 0.8) >= np.maximum(a, b)).all()
    assert (union(a, b, 0.8) < np.minimum(a, b) - 0.1).any()
