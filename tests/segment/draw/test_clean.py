import math

import numpy as np
import pytest
from scipy import ndimage

from limn.domain.geometry import SpacingMm, axial_grid
from limn.domain.scan import Labels
from limn.segment.bundle.bundle import CleanRule
from limn.segment.draw.clean import clean
from tests.support.organs import Organ

ORGANS = {1: Organ.HEART, 2: Organ.LUNG_R, 3: Organ.CORD}
# A voxel is 0.1 mm3.
SPACING = SpacingMm(1.0, 0.5, 0.2)
RULES = {
    Organ.HEART: CleanRule("largest"),
    Organ.LUNG_R: CleanRule("pieces", min_mm3=0.4),
    Organ.CORD: CleanRule("pieces", min_mm3=0.4),
}


def labelled(boxes) -> Labels:
    """Boxes of a label in a field of 20 x 20 x 20 voxels."""
    voxels = np.zeros((20, 20, 20), np.uint8)
    for label, z, y, x in boxes:
        voxels[z, y, x] = label
    return Labels(voxels, axial_grid((20, 20, 20), SPACING, np.zeros(3)), ORGANS)


def test_the_largest_piece_stays():
    """Under the rule "largest" one component survives and the rest is counted."""
    labels = labelled(
        [
            (1, slice(0, 4), slice(0, 4), slice(0, 4)),
            (1, slice(10, 13), slice(10, 13), slice(10, 13)),
            (1, 19, 19, 19),
        ]
    )
    cleaned = clean(labels, RULES)
    assert cleaned.removed_voxels[Organ.HEART] == 28
    assert cleaned.labels.mask(Organ.HEART).sum() == 64
    assert cleaned.labels.labels_zyx[0, 0, 0] == 1


def test_pieces_stay_from_their_least_volume_on():
    """Under the rule "pieces" a piece of exactly min_mm3 stays and a smaller one goes."""
    labels = labelled(
        [
            (2, slice(0, 5), 0, 0),
            (2, slice(0, 4), 10, 10),
            (2, slice(0, 3), 15, 15),
        ]
    )
    cleaned = clean(labels, RULES)
    assert cleaned.removed_voxels == {Organ.HEART: 0, Organ.LUNG_R: 3, Organ.CORD: 0}
    assert cleaned.labels.mask(Organ.LUNG_R).sum() == 9


def test_the_largest_piece_stays_however_small():
    """An organ whose every piece is too small keeps its largest one."""
    labels = labelled([(3, slice(0, 2), 0, 0), (3, 10, 10, 10)])
    cleaned = clean(labels, RULES)
    assert cleaned.labels.mask(Organ.CORD).sum() == 2
    assert cleaned.removed_voxels[Organ.CORD] == 1


def test_corners_hold_an_organ_together():
    """Voxels that touch by a corner belong to one piece."""
    cleaned = clean(labelled([(1, i, i, i) for i in range(6)]), RULES)
    assert cleaned.removed_voxels[Organ.HEART] == 0


def test_organs_do_not_hold_each_other_together():
    """Two pieces of an organ that only another organ joins are two pieces."""
    labels = labelled([(1, 0, 0, slice(0, 5)), (2, 0, 0, slice(5, 10)), (1, 0, 0, slice(10, 13))])
    cleaned = clean(labels, RULES)
    assert cleaned.removed_voxels == {Organ.HEART: 3, Organ.LUNG_R: 0, Organ.CORD: 0}
    assert cleaned.labels.labels_zyx[0, 0, 5:10].tolist() == [2] * 5


def test_nothing_is_cleaned_from_nothing():
    """Labels without any organ stay as they are."""
    cleaned = clean(labelled([]), RULES)
    assert not cleaned.labels.labels_zyx.any()
    assert cleaned.removed_voxels == dict.fromkeys(ORGANS.values(), 0)


@pytest.mark.parametrize("seed", range(5))
def test_components_are_scipys(seed):
    """On random voxels what stays is what SciPy's labelling with the same rule keeps."""
    rng = np.random.default_rng(seed)
    labels = labelled([])
    labels.labels_zyx[:] = rng.choice([0, 1, 2], labels.labels_zyx.shape, p=[0.93, 0.03, 0.04])
    before = labels.labels_zyx.copy()
    cleaned = clean(labels, RULES)
    np.testing.assert_array_equal(labels.labels_zyx, before)
    components, count = ndimage.label(before == 2, np.ones((3, 3, 3)))
    sizes = ndimage.sum_labels(before == 2, components, range(1, count + 1))
    keep = [n for n, size in enumerate(sizes, 1) if size >= 4 or size == sizes.max()]
    np.testing.assert_array_equal(cleaned.labels.mask(Organ.LUNG_R), np.isin(components, keep))
    assert cleaned.removed_voxels[Organ.LUNG_R] == (before == 2).sum() - sum(
        size for size in sizes if size >= 4
    )


@pytest.mark.parametrize(("within_mm", "kept"), [(1.0, 1), (3.0, 2), (math.inf, 3)])
def test_a_piece_far_from_the_largest_is_another_animals(within_mm, kept):
    """Pieces 2 mm and 10 mm away: which stay depends on within_mm alone."""
    mask = np.zeros((4, 4, 40), np.uint8)
    mask[:, :, :10], mask[:, :, 14:16], mask[:, :, 30:34] = 1, 1, 1
    grid = axial_grid(mask.shape, SpacingMm(0.5, 0.5, 0.5), np.zeros(3))
    rule = CleanRule("pieces", 0.0, within_mm)
    cleaned = clean(Labels(mask, grid, {1: Organ.LUNG_R}), {Organ.LUNG_R: rule})
    columns = np.flatnonzero(cleaned.labels.labels_zyx.any(axis=(0, 1)))
    assert 1 + int((np.diff(columns) > 1).sum()) == kept
