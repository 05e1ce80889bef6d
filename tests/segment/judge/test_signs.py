"""The signs of a scan that was drawn by hand, with values that a ruler gives."""

from dataclasses import replace

import numpy as np
import pytest

from limn.domain.geometry import SpacingMm, axial_grid
from limn.domain.scan import Labels, Volume
from limn.segment.draw.delineate import Delineated
from limn.segment.draw.sides import NO_SIGNS
from limn.segment.engine.certainty import Certainty
from limn.segment.engine.localisation.orient import AS_IN_HEADER, Lie
from limn.segment.judge.signs import ORGAN_SIGNS, SCAN_SIGNS, measure
from tests.support.organs import Organ

SPACING = SpacingMm(0.5, 0.25, 0.25)
ORGANS = dict(enumerate(Organ, start=1))


def scan(lie=AS_IN_HEADER, cord=slice(4, 36)):
    """A heart of 20 x 16 x 16 voxels, a cord of 8 x 8 voxels across, soft tissue all around."""
    labels = np.zeros((40, 60, 60), np.uint8)
    labels[10:30, 20:36, 20:36] = 1
    labels[cord, 44:52, 26:34] = 2
    hu = np.full(labels.shape, -1000.0, np.float32)
    hu[:, 10:56, 10:56] = 0.0
    hu[labels == 1] = 50.0
    grid = axial_grid(labels.shape, SPACING, np.zeros(3))
    disagreement = np.where(labels == 1, 51, 0).astype(np.uint8)
    drawn = Delineated(
        Labels(labels, grid, ORGANS),
        {Organ.HEART: 320},
        1,
        lie,
        (),
        dict.fromkeys(Organ, 0.9),
        disagreement,
        (),
        NO_SIGNS,
        {Organ.HEART: Certainty(0.97, 0.1, 0.3)},
    )
    return drawn, Volume(hu, grid)


def test_sizes_and_pictures_of_an_organ():
    """Lengths in mm, HU in the organ, the step at its surface."""
    heart = measure(*scan()).organs[Organ.HEART]
    assert heart["volume_mm3"] == pytest.approx(20 * 16 * 16 * SPACING.voxel_mm3)
    assert heart["length_mm"] == 10.0
    assert heart["width_mm"] == pytest.approx(2 * np.sqrt(16.0 / np.pi))
    assert (heart["mean_hu"], heart["spread_hu"], heart["step_hu"]) == (50.0, 0.0, -50.0)
    assert heart["removed_share"] == pytest.approx(320 / (320 + 5120))
    assert heart["surface_disagreement"] == pytest.approx(0.2)
    assert (heart["expected_dsc"], heart["fold_dsc"]) == (0.97, 0.9)
    assert heart["breaks"] == heart["field_edge_share"] == heart["air_beside_share"] == 0.0


def test_a_cord_that_is_broken_and_one_that_the_field_cuts():
    """Breaks are counted along the animal; the field's edge by voxels that lie in it."""
    drawn, volume = scan(cord=slice(0, 36))
    drawn.labels.labels_zyx[12:15, 44:52] = 0
    cord = measure(drawn, volume).organs[Organ.CORD]
    assert cord["breaks"] == 1.0
    assert cord["field_edge_share"] == pytest.approx(64 / (33 * 64) ** (2 / 3))


def test_where_an_organ_ends_and_how_far_the_folds_doubt_it():
    """The cord goes on for 3 mm beyond the heart at either end; half the folds see 1 mm more."""
    drawn, volume = scan()
    drawn.disagreement_zyx[2:4, 44:52, 26:34] = 127
    found = measure(drawn, volume).organs
    heart, cord = found[Organ.HEART], found[Organ.CORD]
    assert (cord["head_beyond_mm"], cord["tail_beyond_mm"]) == (3.0, 3.0)
    assert (heart["head_beyond_mm"], heart["tail_beyond_mm"]) == (-3.0, -3.0)
    assert cord["tail_doubt_mm"] == pytest.approx(0.5, abs=0.01)
    assert cord["head_doubt_mm"] == 0.0


def test_an_organ_in_the_air_is_seen():
    """A share of the voxels beside it is thinner than any tissue."""
    drawn, volume = scan()
    volume.hu_zyx[:, :, :20] = -1000.0
    assert measure(drawn, volume).organs[Organ.HEART]["air_beside_share"] > 0.15


def test_an_organ_that_is_missing_has_few_signs():
    """What can't be measured is absent, and no name is unknown."""
    found = measure(*scan())
    assert found.organs[Organ.LUNG_L] == {"volume_mm3": 0.0, "fold_dsc": 0.9}
    assert set(found.scan) <= set(SCAN_SIGNS)
    assert all(set(own) <= set(ORGAN_SIGNS) for own in found.organs.values())


def test_signs_follow_the_animal_and_not_the_array():
    """Of an animal that lies across the array, length is still that from head to tail."""
    drawn, volume = scan()
    straight = measure(drawn, volume)
    across = Lie("LPS", 1.0)
    labels = np.ascontiguousarray(np.swapaxes(drawn.labels.labels_zyx, 0, 2))
    grid = axial_grid(labels.shape, SpacingMm(0.25, 0.25, 0.5), np.zeros(3))
    turned = replace(
        drawn,
        lie=across,
        labels=Labels(labels, grid, ORGANS),
        disagreement_zyx=np.ascontiguousarray(np.swapaxes(drawn.disagreement_zyx, 0, 2)),
    )
    hu = np.ascontiguousarray(np.swapaxes(volume.hu_zyx, 0, 2))
    found = measure(turned, Volume(hu, grid))
    for organ in (Organ.HEART, Organ.CORD):
        assert found.organs[organ] == pytest.approx(straight.organs[organ])
    assert found.scan["noise_hu"] == straight.scan["noise_hu"] == 0.0
