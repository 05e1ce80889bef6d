import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy.spatial.distance import dice as scipy_dissimilarity

from limn.domain.geometry import SpacingMm, axial_grid
from limn.domain.scan import Labels, Volume, dice, pack_labels, unpack_labels
from tests.support.organs import Organ

ORGANS = {1: Organ.HEART, 2: Organ.CORD, 5: Organ.LUNG_R}
GRID = axial_grid((2, 3, 4), SpacingMm(0.5, 0.2, 0.1), np.zeros(3))


def test_voxels_must_fit_their_grid():
    """Volume and labels of another shape than their grid are refused."""
    with pytest.raises(ValueError, match=r"\(2, 4, 3\) do not fit the grid \(2, 3, 4\)"):
        Volume(np.zeros((2, 4, 3), np.float32), GRID)
    with pytest.raises(ValueError, match=r"\(3, 2, 4\) do not fit the grid \(2, 3, 4\)"):
        Labels(np.zeros((3, 2, 4), np.uint8), GRID, ORGANS)


def test_volumes_count_voxels_of_every_organ():
    """An organ's volume is its voxels times the voxel's volume; an absent one has 0.0."""
    voxels = np.zeros((2, 3, 4), np.uint8)
    voxels[0, 0, :3] = 1
    voxels[1, 2, 2] = 5
    voxels[1, 1, 1] = 9  # Nobody's label.
    volumes = Labels(voxels, GRID, ORGANS).volumes_mm3()
    assert volumes == pytest.approx({Organ.HEART: 0.03, Organ.CORD: 0.0, Organ.LUNG_R: 0.01})


def test_a_mask_holds_one_organ():
    """The mask of an organ is true on its label and nowhere else."""
    voxels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    mask = Labels(voxels, GRID, ORGANS).mask(Organ.LUNG_R)
    assert np.argwhere(mask).tolist() == [[0, 1, 1]]


masks = arrays(np.bool_, (3, 4, 5))


@given(first=masks, second=masks)
@settings(max_examples=80, deadline=None)
def test_dice_is_scipys(first, second):
    """Dice is one minus SciPy's Dice dissimilarity."""
    if first.any() or second.any():
        assert dice(first, second) == pytest.approx(
            1 - scipy_dissimilarity(first.ravel(), second.ravel())
        )
    else:
        assert dice(first, second) == 1.0


def test_dice_by_hand():
    """Two voxels against three with one shared give 2 / 5; disjoint ones 0."""
    first, second = np.zeros((2, 8), dtype=bool)
    first[:2], second[1:4] = True, True
    assert dice(first, second) == pytest.approx(0.4)
    assert dice(first, np.roll(first, 4)) == 0.0


def packed(labels_zyx, disagreement_zyx):
    """A file of labels on a plain grid."""
    grid = axial_grid(labels_zyx.shape, SpacingMm(0.5, 0.2, 0.1), np.zeros(3))
    colours = {Organ.HEART: (255, 0, 0), Organ.CORD: (255, 255, 0), Organ.LUNG_R: (0, 200, 0)}
    labels = Labels(labels_zyx, grid, ORGANS)
    return pack_labels(labels, disagreement_zyx, np.arange(len(labels_zyx)), colours)


@given(
    labels=arrays(
        np.uint8,
        array_shapes(min_dims=3, max_dims=3, max_side=6),
        elements=st.sampled_from([0, 0, 0, 0, 1, 2, 255]),
    )
)
@settings(max_examples=100, deadline=None)
def test_packed_labels_come_back(labels):
    """Any labels, empty ones too, survive packing with shape and type."""
    back = unpack_labels(packed(labels, labels))
    assert back.dtype == np.uint8
    np.testing.assert_array_equal(back, labels)


def test_only_the_organs_box_is_packed():
    """The file holds the box around the organs, not the field of view."""
    labels = np.zeros((60, 70, 80), np.uint8)
    labels[10:13, 20:25, 30:37] = 1
    disagreement = np.arange(labels.size, dtype=np.uint8).reshape(labels.shape)
    with np.load(io.BytesIO(packed(labels, disagreement))) as stored:
        assert stored["box_zyx"].shape == (3, 5, 7)
        np.testing.assert_array_equal(stored["disagreement_zyx"], disagreement[10:13, 20:25, 30:37])
        assert stored["low_zyx"].tolist() == [10, 20, 30]
        assert stored["numbers"].tolist() == [1, 2, 5]
        assert stored["names"].tolist() == ["Heart", "SpinalCord", "Lung_R"]
        assert stored["colours"].tolist() == [[255, 0, 0], [255, 255, 0], [0, 200, 0]]
        assert stored["slice_origins_xyz_mm"][-1].tolist() == [0.0, 0.0, 29.5]
        assert stored["spacing_yx_mm"].tolist() == [0.2, 0.1]
