"""Two delineations of one scan, compared as the lab scores a delineation against its truth."""

from dataclasses import replace

import numpy as np
import pytest

from limn.domain.records import OrganDifference, least_dsc
from limn.domain.scan import Labels, labels_of, pack_labels
from limn.lab.measure.accuracy import score_labels
from limn.segment.compare.difference import differences
from tests.support.node.viewed import COLOURS, stack
from tests.support.organs import Organ


def other(labels):
    """The labels with a heart that lies a voxel lower and a lung without its last slices."""
    zyx = np.where(labels.labels_zyx == 1, 0, labels.labels_zyx)
    zyx[np.roll(labels.labels_zyx == 1, 1, axis=1)] = 1
    zyx[18:][zyx[18:] == 2] = 0
    return replace(labels, labels_zyx=zyx.astype(np.uint8))


def test_the_figures_are_those_of_the_labs_scores():
    """DSC and 95 % distance by the other implementation in this tree, volumes by counting."""
    _, old, _ = stack("oblique")
    new = other(old)
    found = differences(old, new, {Organ.HEART: "green"}, {Organ.HEART: "amber"})
    scores = score_labels(new, old)
    assert [each.organ for each in found] == [Organ.HEART, Organ.LUNG_L]
    for each, score in zip(found, scores, strict=True):
        assert each.dsc == pytest.approx(score.dsc)
        assert 0.5 < score.dsc < 1.0
        assert each.hd95_mm == pytest.approx(score.hd95_mm, abs=1e-6)
        assert each.hd95_mm > 0.1
    voxel_mm3 = old.grid.spacing_mm.voxel_mm3
    lung = found[1]
    assert lung.new_mm3 == pytest.approx((new.labels_zyx == 2).sum() * voxel_mm3)
    lost = 1 - (new.labels_zyx == 2).sum() / (old.labels_zyx == 2).sum()
    assert lung.change_percent == pytest.approx(-100 * lost)
    assert (found[0].old_light, found[0].new_light, lung.new_light) == ("green", "amber", "")
    assert least_dsc(found) == min(each.dsc for each in found)


def test_an_organ_of_one_bundle_alone_has_no_dsc():
    """Organs are matched by name, whatever their numbers are."""
    _, old, _ = stack("oblique")
    swapped = np.choose(old.labels_zyx, [0, 2, 1]).astype(np.uint8)
    new = Labels(swapped, old.grid, {2: Organ.HEART, 1: Organ.CORD})
    heart, lung, cord = differences(old, new)
    assert heart.dsc == 1.0
    assert heart.hd95_mm == 0.0
    assert (lung.organ, lung.dsc, lung.new_mm3, lung.change_percent) == (
        Organ.LUNG_L,
        None,
        None,
        None,
    )
    assert (cord.organ, cord.dsc, cord.old_mm3) == (Organ.CORD, None, None)


def test_an_empty_contour_has_a_dsc_of_zero_and_no_distance():
    """The other bundle did not find the organ."""
    _, old, _ = stack("oblique")
    new = replace(old, labels_zyx=np.where(old.labels_zyx == 2, 0, old.labels_zyx).astype(np.uint8))
    lung = differences(old, new)[1]
    assert (lung.dsc, lung.hd95_mm, lung.change_percent) == (0.0, None, -100.0)


def test_other_voxels_are_refused():
    """Another scan can't be compared."""
    _, old, _ = stack("oblique")
    _, new, _ = stack("oblique", without=(3,))
    with pytest.raises(ValueError, match="23"):
        differences(old, new)


def test_packed_labels_come_back_with_grid_and_names():
    """What the node keeps of a scan is enough to compare it."""
    _, labels, rungs = stack("coronal stack", without=(5,))
    back = labels_of(pack_labels(labels, np.zeros_like(labels.labels_zyx), rungs, COLOURS))
    assert np.array_equal(back.labels_zyx, labels.labels_zyx)
    assert dict(back.organs) == dict(labels.organs)
    assert back.grid.spacing_mm == labels.grid.spacing_mm
    assert np.array_equal(back.grid.slice_origins_xyz_mm, labels.grid.slice_origins_xyz_mm)


def test_no_common_organ_is_no_difference():
    """Nothing can be said of such a scan."""
    only = OrganDifference(organ=Organ.HEART, dsc=None, hd95_mm=None, old_mm3=1.0, new_mm3=None)
    assert least_dsc([only]) == 1.0
