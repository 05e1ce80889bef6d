import itertools
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from limn.domain.geometry import (
    Grid,
    Reorientation,
    SpacingMm,
    axial_grid,
    ladder,
    voxels_at,
)

# ImageOrientationPatient of the eight patient positions (PS3.3 C.7.3.1.1.2, table-independent:
# rows and columns as a scanner writes them), then a coronal and a sagittal stack.
ORIENTATIONS = {
    "HFS": (1, 0, 0, 0, 1, 0),
    "HFP": (-1, 0, 0, 0, -1, 0),
    "HFDR": (0, 1, 0, -1, 0, 0),
    "HFDL": (0, -1, 0, 1, 0, 0),
    "FFS": (-1, 0, 0, 0, 1, 0),
    "FFP": (1, 0, 0, 0, -1, 0),
    "FFDR": (0, -1, 0, -1, 0, 0),
    "FFDL": (0, 1, 0, 1, 0, 0),
    "coronal": (1, 0, 0, 0, 0, -1),
    "sagittal": (0, 1, 0, 0, 0, -1),
}
ALL_LETTERS = [
    "".join(letters)
    for axes in itertools.permutations(("SI", "PA", "LR"))
    for letters in itertools.product(*axes)
]


def stack(iop, steps_mm=(0.0, 0.3, 0.6), rows=7, columns=5, spacing=(0.2, 0.1)) -> Grid:
    """A stack along the normal of an ImageOrientationPatient."""
    x, y = np.array(iop[:3], dtype=float), np.array(iop[3:], dtype=float)
    origins = np.array([3.0, -4.0, 5.0]) + np.outer(steps_mm, np.cross(x, y))
    return Grid(origins, rows, columns, *spacing, x, y)


@st.composite
def grids(draw) -> Grid:
    """Any uniform stack: turned, flipped or permuted, anisotropic, not square."""
    kind = draw(st.sampled_from(["turned", "permuted"]))
    if kind == "permuted":
        signs = [draw(st.sampled_from([-1.0, 1.0])) for _ in range(2)]
        axes = draw(st.permutations(range(3)))
        x, y = signs[0] * np.eye(3)[axes[0]], signs[1] * np.eye(3)[axes[1]]
    else:
        rng = np.random.default_rng(draw(st.integers(0, 2**32)))
        turned, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        x, y = turned[0], turned[1]
    length = st.floats(0.01, 5.0)
    slices = draw(st.integers(1, 6))
    step = draw(length) * draw(st.sampled_from([-1.0, 1.0]))
    first = np.array([draw(st.floats(-500, 500)) for _ in range(3)])
    return Grid(
        first + np.outer(np.arange(slices) * step, np.cross(x, y)),
        draw(st.integers(1, 2000)),
        draw(st.integers(1, 2000)),
        draw(length),
        draw(length),
        x,
        y,
    )


@given(
    grid=grids(), points=arrays(np.float64, (5, 2), elements=st.floats(-10, 2000)), data=st.data()
)
@settings(max_examples=150, deadline=None)
def test_indices_become_millimetres_and_come_back(grid, points, data):
    """Row and column survive the way to patient coordinates and back on any grid."""
    k = data.draw(st.integers(0, grid.shape_zyx[0] - 1))
    points_mm = grid.plane_points_xyz_mm(k, points)
    np.testing.assert_allclose(grid.plane_indices_yx(k, points_mm), points, atol=1e-7)
    assert grid.distance_to_slice_mm(k, points_mm) < 1e-8


@given(grid=grids(), data=st.data())
@settings(max_examples=100, deadline=None)
def test_points_lie_where_simpleitk_puts_them(grid, data):
    """A voxel's patient coordinates are those that ITK computes from the same geometry."""
    slices = grid.shape_zyx[0]
    origins = grid.slice_origins_xyz_mm
    step = origins[1] - origins[0] if slices > 1 else grid.normal_xyz
    image = SimpleITK.Image(2, 2, 2, SimpleITK.sitkUInt8)
    image.SetOrigin(origins[0].tolist())
    step_mm = float(np.linalg.norm(step))
    image.SetSpacing([grid.spacing_x_mm, grid.spacing_y_mm, step_mm])
    directions = np.column_stack([grid.along_x_xyz, grid.along_y_xyz, step / step_mm])
    image.SetDirection(directions.ravel().tolist())
    k = data.draw(st.integers(0, slices - 1))
    row, column = data.draw(st.integers(0, 100)), data.draw(st.integers(0, 100))
    expected = image.TransformIndexToPhysicalPoint((column, row, k))
    found = grid.plane_points_xyz_mm(k, np.array([[row, column]], dtype=float))[0]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_point_off_its_slice_is_measured():
    """The distance from a slice is the distance along its normal."""
    grid = stack(ORIENTATIONS["coronal"])
    on_slice = grid.plane_points_xyz_mm(1, np.array([[2.0, 3.0]]))
    point = on_slice + np.array([0.0, 0.25, 0.0])
    assert grid.distance_to_slice_mm(1, point) == pytest.approx(0.25)


@pytest.mark.parametrize("name", ORIENTATIONS)
@pytest.mark.parametrize("order", [1, -1])
def test_axis_letters_are_those_of_itk(name, order):
    """Axis letters agree with ITK's, for slices stored along and against the normal."""
    grid = stack(ORIENTATIONS[name], steps_mm=[0.3 * order * k for k in range(3)])
    directions = np.column_stack([grid.along_x_xyz, grid.along_y_xyz, order * grid.normal_xyz])
    # ITK names x, y, z by the side an axis grows towards; ours are z, y, x.
    itk = SimpleITK.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(
        directions.ravel().tolist()
    )
    assert grid.axis_letters == itk[::-1]


def test_a_head_first_supine_stack_grows_to_head_back_and_left():
    """The plain case by hand: slices to the head, rows to the back, columns to the left."""
    assert stack(ORIENTATIONS["HFS"]).axis_letters == "SPL"


def test_a_single_slice_takes_its_letters_from_the_normal():
    """One slice has an orientation, and counts as 1 mm thick."""
    grid = stack(ORIENTATIONS["FFS"], steps_mm=[0.0])
    assert grid.axis_letters == "IPR"
    assert grid.spacing_mm == SpacingMm(1.0, 0.2, 0.1)


@pytest.mark.parametrize(("degrees", "oblique"), [(0.5, False), (0.7, True), (30.0, True)])
def test_oblique_axes_have_no_letters(degrees, oblique):
    """An axis leaning by more than 0.57 degrees is refused, one below it is not."""
    angle = np.deg2rad(degrees)
    grid = stack((np.cos(angle), np.sin(angle), 0, -np.sin(angle), np.cos(angle), 0))
    if oblique:
        with pytest.raises(ValueError, match="oblique"):
            _ = grid.axis_letters
    else:
        assert grid.axis_letters == "SPL"


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"slice_origins_xyz_mm": np.zeros((3, 2))}, "shape"),
        ({"slice_origins_xyz_mm": np.zeros(3)}, "shape"),
        ({"slice_origins_xyz_mm": np.zeros((0, 3))}, "empty"),
        ({"rows": 0}, "empty"),
        ({"columns": 0}, "empty"),
        ({"spacing_y_mm": 0.0}, "not positive"),
        ({"spacing_x_mm": -0.1}, "not positive"),
        ({"along_x_xyz": np.array([1.0, 0.1, 0.0])}, "orthonormal"),
        ({"along_y_xyz": np.array([0.0, 2.0, 0.0])}, "orthonormal"),
    ],
)
def test_an_impossible_grid_is_refused(changes, complaint):
    """A grid without voxels, spacing or right angles can't be built, and says why."""
    good = {
        "slice_origins_xyz_mm": np.zeros((3, 3)),
        "rows": 4,
        "columns": 5,
        "spacing_y_mm": 0.2,
        "spacing_x_mm": 0.1,
        "along_x_xyz": np.array([1.0, 0.0, 0.0]),
        "along_y_xyz": np.array([0.0, 1.0, 0.0]),
    }
    assert Grid(**good).shape_zyx == (3, 4, 5)
    with pytest.raises(ValueError, match=complaint):
        Grid(**(good | changes))


def test_spacing_along_z_is_the_mean_of_the_stack():
    """Every slice keeps its own position; the spacing is their mean distance, never negative."""
    grid = stack(ORIENTATIONS["HFP"], steps_mm=[0.9, 0.61, 0.3])
    assert grid.spacing_mm.z == pytest.approx(0.3)
    assert grid.spacing_mm.voxel_mm3 == pytest.approx(0.3 * 0.2 * 0.1)
    np.testing.assert_allclose(np.diff(grid.slice_positions_mm), [-0.29, -0.31])


@pytest.mark.parametrize("letters", ALL_LETTERS)
def test_turning_there_and_back_is_the_identity(letters):
    """All 48 orientations turn to SPL and back without a voxel changing place."""
    array = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    turn = Reorientation.between(letters, "SPL")
    np.testing.assert_array_equal(turn.undo(turn.apply(array)), array)
    turned = turn.spacing(SpacingMm(2.0, 3.0, 4.0)).zyx
    assert turned == turn.apply(array).shape


@pytest.mark.parametrize("letters", ALL_LETTERS)
def test_turning_keeps_voxels_in_place_as_itk_does(letters):
    """Turned voxels are those of ITK's DICOMOrientImageFilter for every orientation."""
    array = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    directions = SimpleITK.DICOMOrientImageFilter.GetDirectionCosinesFromOrientation(letters[::-1])
    image = SimpleITK.GetImageFromArray(array)
    image.SetDirection(directions)
    oriented = SimpleITK.GetArrayFromImage(SimpleITK.DICOMOrient(image, "LPS"))
    np.testing.assert_array_equal(Reorientation.between(letters, "SPL").apply(array), oriented)


@pytest.mark.parametrize("letters", ALL_LETTERS)
@pytest.mark.parametrize("kind", ["HFS", "FFDR", "sagittal"])
def test_a_turned_grid_leaves_every_voxel_where_it_was(kind, letters):
    """Coordinates of all voxels, turned as an array, are those of the turned grid."""
    grid = stack(ORIENTATIONS[kind])
    turn = Reorientation.between(grid.axis_letters, letters)
    places = np.stack([turn.apply(axis) for axis in np.moveaxis(voxels_xyz_mm(grid), -1, 0)], -1)
    turned = turn.grid(grid)
    assert turned.shape_zyx == places.shape[:3]
    np.testing.assert_allclose(voxels_xyz_mm(turned), places, atol=1e-12)


def voxels_xyz_mm(grid):
    """(z, y, x, 3) centres of all voxels, mm."""
    rows, columns = np.mgrid[: grid.rows, : grid.columns]
    points_yx = np.column_stack((rows.ravel(), columns.ravel())).astype(float)
    return np.stack(
        [grid.plane_points_xyz_mm(k, points_yx) for k in range(grid.shape_zyx[0])]
    ).reshape(*grid.shape_zyx, 3)


def test_an_axial_grid_starts_at_the_given_voxel():
    """The plain stack has its first voxel at the given place and grows to S, P, L."""
    grid = axial_grid((4, 3, 2), SpacingMm(0.5, 0.2, 0.1), np.array([1.0, 2.0, 3.0]))
    assert grid.axis_letters == "SPL"
    assert grid.shape_zyx == (4, 3, 2)
    np.testing.assert_allclose(
        grid.plane_points_xyz_mm(3, np.array([[2.0, 1.0]])), [[1.1, 2.4, 4.5]]
    )


@pytest.mark.parametrize("lost", [1, 50, 100, 198])
@pytest.mark.parametrize(("step_mm", "rounding_mm"), [(0.1, 0.1), (0.01, 0.01), (0.14, 0.0001)])
def test_a_lost_slice_does_not_hide_in_the_rounding(lost, step_mm, rounding_mm):
    """One slice of 200 missing, positions multiples of their last decimal: its rung is empty."""
    kept = np.delete(np.arange(200), lost)
    positions = np.round(kept * step_mm, 6)
    assert ladder(positions, rounding_mm).tolist() == kept.tolist()


@pytest.mark.parametrize("decimals", [1, 2, 3])
@pytest.mark.parametrize("step_mm", [0.13672, 0.1367, 0.14])
def test_a_gap_in_rounded_positions_is_found(step_mm, decimals):
    """679 slices, two missing, positions written with few decimals."""
    kept = np.delete(np.arange(679), [300, 301])
    positions = np.round(kept * step_mm, decimals)
    assert ladder(positions, 10.0**-decimals).tolist() == kept.tolist()


def test_spacing_leaves_gaps_out():
    """The step over missing slices is no spacing; volumes would grow with it."""
    whole = axial_grid((30, 4, 4), SpacingMm(0.14, 0.2, 0.2), np.zeros(3))
    kept = np.delete(np.arange(30), [10, 11])
    gappy = replace(whole, slice_origins_xyz_mm=whole.slice_origins_xyz_mm[kept])
    assert gappy.spacing_mm.z == pytest.approx(0.14)


def test_voxels_are_found_only_where_every_point_is_a_centre():
    """Rounded to two decimals of a millimetre they still are; beside the image there is none."""
    centres = np.array([[0.0, 4.0], [2.04, 2.96], [6.0, 0.0]])
    assert voxels_at(centres, (7, 5)).tolist() == [[0, 4], [2, 3], [6, 0]]
    assert voxels_at(centres + np.array([0.0, 0.06]), (7, 5)) is None
    assert voxels_at(centres, (6, 5)) is None
    assert voxels_at(centres - 1, (7, 5)) is None
