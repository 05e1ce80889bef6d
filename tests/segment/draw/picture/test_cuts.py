import numpy as np
import pytest

from limn.segment.draw.picture.cuts import Cut, box_around, cord_cuts, halves
from tests.support.organs import Organ

SHAPE = (60, 40, 50)
RADIUS = 2.0


def cord(y_of_z: np.ndarray, x_of_z: np.ndarray, shape=SHAPE) -> np.ndarray:
    """A cord of round slices about a line; no slice where it has no place (NaN)."""
    y, x = np.ogrid[: shape[1], : shape[2]]
    places = zip(y_of_z, x_of_z, strict=True)
    return np.array([(y - b) ** 2 + (x - a) ** 2 <= RADIUS**2 for b, a in places])


def rows_with(cut: Cut, mask: np.ndarray) -> np.ndarray:
    """Whether the cut shows the mask, for each z from tail to head."""
    return cut.nearest(mask).any(axis=1)[::-1]


def test_bent_cuts_show_a_bent_cord_in_every_row_and_no_plane_does():
    """A cord that swings by nine voxels to each side, four times its radius."""
    z = np.arange(SHAPE[0])
    y = 20 + 9 * np.sin(z / 9)
    x = np.where((z >= 5) & (z < 55), 25 + 9 * np.cos(z / 8), np.nan)
    mask = cord(y, x)
    there = mask.any(axis=(1, 2))
    assert there.sum() == 50
    for cut in cord_cuts(mask, z_mm=0.3):
        assert cut.bent
        np.testing.assert_array_equal(rows_with(cut, mask), there)
        planes = [Cut.plane(cut.axis, i) for i in range(SHAPE[cut.axis])]
        assert max(rows_with(plane, mask).sum() for plane in planes) < 40


def test_a_bent_cut_lies_in_the_cords_middle():
    """Coronal cuts are bent along y, sagittal ones along x, by the cord's own way."""
    z = np.arange(SHAPE[0])
    y, x = 12 + 0.25 * z, 30 - 0.2 * z
    coronal, sagittal = cord_cuts(cord(y, x), z_mm=0.2)
    assert (coronal.axis, sagittal.axis) == (1, 2)
    np.testing.assert_allclose(coronal.at, y, atol=0.4)
    np.testing.assert_allclose(sagittal.at, x, atol=0.4)


def test_beyond_the_cord_the_cut_keeps_its_direction():
    """Missing slices are interpolated too; nothing leaves the array."""
    z = np.arange(SHAPE[0])
    y = 8 + 0.5 * z
    x = np.full(len(z), 25.0)
    y[(z < 15) | (z > 40) | ((z > 24) & (z < 30))] = np.nan
    coronal, sagittal = cord_cuts(cord(y, x), z_mm=0.2)
    np.testing.assert_allclose(coronal.at, np.clip(8 + 0.5 * z, 0, 39), atol=0.6)
    assert coronal.at[-1] > coronal.at[40] + 8
    np.testing.assert_allclose(sagittal.at, 25, atol=1e-9)
    steep = 1.4 * z
    steep[(z < 12) | (z > 24)] = np.nan
    coronal, _ = cord_cuts(cord(steep, x), z_mm=0.2)
    assert coronal.at[-1] == SHAPE[1] - 1
    assert coronal.at.min() >= 0


def test_a_cord_of_one_slice_has_straight_cuts():
    """There is no direction to keep."""
    y = np.full(SHAPE[0], np.nan)
    y[30] = 17.0
    coronal, sagittal = cord_cuts(cord(y, np.full(SHAPE[0], 22.0)), z_mm=0.2)
    np.testing.assert_allclose(coronal.at, 17)
    np.testing.assert_allclose(sagittal.at, 22)


def test_cuts_begin_at_the_head():
    """Rows along z are turned round, rows along y are not."""
    hu = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    np.testing.assert_array_equal(Cut.plane(0, 1).nearest(hu), hu[1])
    np.testing.assert_array_equal(Cut.plane(1, 2).nearest(hu), hu[::-1, 2])
    np.testing.assert_array_equal(Cut.plane(2, 3).linear(hu), hu[::-1, :, 3])


@pytest.mark.parametrize("axis", [1, 2])
def test_between_voxels_hu_are_interpolated_and_labels_are_not(axis):
    """A ramp along the axis across the cut gives back the place of the cut."""
    ramp = np.moveaxis(np.zeros((5, 9, 9)) + np.arange(9.0), 2, axis).astype(np.float32)
    at = np.array([0.0, 2.25, 3.5, 6.75, 8.0])
    cut = Cut(axis, at)
    np.testing.assert_allclose(cut.linear(ramp)[::-1], np.repeat(at[:, None], 9, axis=1))
    assert cut.nearest(ramp)[::-1, 0].tolist() == [0, 2, 4, 7, 8]


def test_half_of_an_organ_lies_on_either_side():
    """A far island hardly moves the middle; an organ that is not there has none."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[10:21, 4:9, 30:41] = 3
    labels[58, 39, 49] = 3
    organs = {3: Organ.HEART, 5: Organ.CORD}
    assert halves(labels, organs) == {Organ.HEART: (15, 6, 35)}
    assert halves(np.zeros_like(labels), organs) == {}


def test_the_box_has_a_margin_in_millimetres():
    """Seven on each side, or as many as the field has."""
    labels = np.zeros((100, 100, 100), np.uint8)
    labels[50, 10, 40:60] = 1
    box = box_around(labels, (0.5, 0.7, 0.2))
    assert [(span.start, span.stop) for span in box] == [(36, 65), (0, 21), (5, 95)]
