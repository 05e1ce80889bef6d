"""Tiles of phantoms for a network's grid and axes."""

import numpy as np
import pytest

from limn.domain.geometry import Reorientation
from limn.phantom import chest_tiles as module
from limn.phantom.anatomy import WHOLE_LABELS
from limn.phantom.chest_tiles import chest_tiles
from tests.support.organs import Organ

PATCH, MM = (40, 24, 32), (0.7, 0.8, 0.6)


@pytest.fixture(scope="module")
def straight():
    """Tiles with the phantom's own axes."""
    return chest_tiles(PATCH, MM, "SPL")


def test_every_organ_is_seen(straight):
    """In both animals; lungs are darker than the heart, the right one lies to the right."""
    assert len(straight) == 2
    for hu, organs in straight:
        assert (hu.shape, hu.dtype) == (PATCH, np.int16)
        assert set(organs) == set(WHOLE_LABELS.values())
        assert all(voxels.sum() > 20 for voxels in (organs[each] for each in Organ))
        assert hu[organs[Organ.LUNG_L]].mean() < hu[organs[Organ.HEART]].mean() - 200
        x = [np.argwhere(organs[lung])[:, 2].mean() for lung in (Organ.LUNG_R, Organ.LUNG_L)]
        assert x[0] < x[1]


@pytest.mark.parametrize("letters", ["IPR", "LSA", "PLS"])
def test_a_network_of_other_axes_gets_the_same_animal(straight, letters):
    """Turned back, the tile is the same to the last voxel."""
    turn = Reorientation.between("SPL", letters)
    patch = tuple(PATCH[axis] for axis in turn.axes)
    spacing = tuple(MM[axis] for axis in turn.axes)
    turned = chest_tiles(patch, spacing, letters)
    for (hu, organs), (wanted, of) in zip(turned, straight, strict=True):
        np.testing.assert_array_equal(turn.undo(hu), wanted)
        np.testing.assert_array_equal(turn.undo(organs[Organ.CORD]), of[Organ.CORD])


def test_a_small_tile_lies_where_all_organs_meet():
    """A patch of 13 mm holds no whole chest, but a part of every organ."""
    for _, organs in chest_tiles((32, 32, 32), (0.4, 0.4, 0.4), "SPL"):
        assert all(organs[organ].sum() > 50 for organ in Organ)


def test_a_large_patch_gives_one_tile(monkeypatch):
    """So that the file stays small."""
    monkeypatch.setattr(module, "MOST_VOXELS", np.prod(PATCH))
    assert len(chest_tiles(PATCH, MM, "SPL")) == 1
