import numpy as np
import pytest

from limn.domain.geometry import Reorientation
from limn.segment.engine.localisation.region import (
    MARGIN_MM,
    Region,
    at_least,
    grown,
    moved_or_grown,
    region_of_organs,
    region_of_shares,
)

MM = (0.5, 0.5, 0.5)
SHAPE = (80, 60, 70)


def organs(*boxes) -> np.ndarray:
    """Labels 1, 2, ... each filling a box."""
    labels = np.zeros(SHAPE, dtype=np.uint8)
    for label, (low, high) in enumerate(boxes, start=1):
        labels[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = label
    return labels


TWO = organs(((30, 20, 20), (40, 30, 30)), ((50, 25, 40), (60, 30, 46)))


def test_the_region_holds_the_organs_and_a_margin():
    """Every organ with the margin around it, in mm."""
    region = region_of_organs(TWO, 2, MM)
    margin = [round(mm / 0.5) for mm in MARGIN_MM]
    assert region.low == tuple(a - m for a, m in zip((30, 20, 20), margin, strict=True))
    assert region.high == tuple(a + m for a, m in zip((60, 30, 46), margin, strict=True))


def test_the_region_ends_with_the_scan():
    """A margin does not reach beyond the grid."""
    region = region_of_organs(organs(((0, 0, 0), (80, 10, 70))), 1, MM)
    assert region.low == (0, 0, 0)
    assert region.high[0] == 80
    assert region.high[2] == 70


def test_a_missing_organ_is_no_region():
    """There is no region if an organ is missing; a few voxels are no organ."""
    assert region_of_organs(TWO, 3, MM) is None
    labels = TWO.copy()
    labels[5, 5, 5:8] = 3
    assert region_of_organs(labels, 3, MM) is None


def test_the_organs_that_are_there_are_a_region_where_that_is_enough():
    """Nothing at all is none."""
    assert region_of_organs(TWO, 3, MM, complete=False) == region_of_organs(TWO, 2, MM)
    assert region_of_organs(np.zeros_like(TWO), 3, MM, complete=False) is None


def test_specks_do_not_widen_the_region():
    """Voxels of the bed that one fold takes for lung are left out."""
    labels = TWO.copy()
    labels[2, 2, 2] = 1
    assert region_of_organs(labels, 2, MM) == region_of_organs(TWO, 2, MM)


def test_organs_lie_together():
    """A large false organ in the bed does not move the region there."""
    labels = np.zeros((240, 60, 70), dtype=np.uint8)
    labels[:80] = TWO
    alone = region_of_organs(labels, 2, MM)
    # A heart as large as three, 60 mm off in the bed.
    labels[180:200, 20:50, 20:50] = 1
    assert region_of_organs(labels, 2, MM) == alone


def test_a_cord_in_pieces_is_kept():
    """Both parts of a cord that a blurred vertebra splits are within reach of the heart."""
    labels = TWO.copy()
    labels[4:14, 26:28, 26:28] = 2
    region = region_of_organs(labels, 2, MM)
    assert region.low[0] == 0


@pytest.mark.parametrize("low", [(0, 0, 0), (70, 50, 60), (30, 20, 20)])
def test_a_region_holds_a_patch(low):
    """Grown to a patch where it is smaller, inside the grid."""
    region = Region(low, tuple(n + 10 for n in low))
    larger = at_least(region, (32, 16, 20), SHAPE)
    assert larger.shape == (32, 16, 20)
    assert all(a <= b for a, b in zip(larger.low, region.low, strict=True))
    assert all(a >= b for a, b in zip(larger.high, region.high, strict=True))
    assert all(n >= 0 for n in larger.low)
    assert all(n <= m for n, m in zip(larger.high, SHAPE, strict=True))


def test_a_patch_larger_than_the_scan():
    """The region is then the scan along that axis."""
    assert at_least(Region((5, 5, 5), (9, 9, 9)), (100, 16, 100), SHAPE).shape == (80, 16, 70)


def test_a_cut_organ_moves_the_face():
    """Only faces that an organ touches move, and by the same length in mm."""
    region = Region((20, 10, 10), (40, 30, 30))
    labels = np.zeros(region.shape, dtype=np.uint8)
    assert grown(region, labels, SHAPE, MM) == region
    labels[-1, 5, 5] = 2
    assert grown(region, labels, SHAPE, MM) == Region((20, 10, 10), (52, 30, 30))


def test_the_scans_own_face_cuts_nothing():
    """An organ that leaves the scan does not make the region grow for ever."""
    region = Region((0, 10, 10), (20, 30, 30))
    labels = np.zeros(region.shape, dtype=np.uint8)
    labels[0] = 1
    # The sides of that slice touch other faces too; only those move.
    labels[0, [0, -1]] = 0
    labels[0, :, [0, -1]] = 0
    assert grown(region, labels, SHAPE, MM) == region


def test_a_region_of_shares_has_a_margin():
    """Shares of the grid as voxels, with a millimetre around them, inside the grid."""
    region = region_of_shares([(0.25, 0.75), (0.0, 0.5), (0.5, 1.0)], SHAPE, MM)
    assert (region.low, region.high) == ((18, 0, 33), (62, 32, 70))


def test_a_tile_that_cuts_an_organ_moves_where_there_is_room():
    """It keeps its size, and the organ gets what the other face does not need."""
    region = Region((20, 10, 10), (40, 30, 30))
    labels = np.zeros(region.shape, dtype=np.uint8)
    labels[8:, 5:9, 5:9] = 1
    assert moved_or_grown(region, labels, SHAPE, MM) == Region((26, 10, 10), (46, 30, 30))
    flipped = labels[::-1]
    assert moved_or_grown(region, flipped, SHAPE, MM) == Region((14, 10, 10), (34, 30, 30))
    assert moved_or_grown(region, labels[:, 5:, 5:], SHAPE, MM).shape[0] == 20


def test_a_tile_without_room_grows():
    """Where an organ touches both faces, or all but touches the other, the faces move out."""
    region = Region((20, 10, 10), (40, 30, 30))
    labels = np.zeros(region.shape, dtype=np.uint8)
    labels[2:, 5, 5] = 1
    assert moved_or_grown(region, labels, SHAPE, MM) == Region((20, 10, 10), (52, 30, 30))
    labels[:, 5, 5] = 1
    assert moved_or_grown(region, labels, SHAPE, MM) == Region((8, 10, 10), (52, 30, 30))
    labels[[0, -1]] = 0
    assert moved_or_grown(region, labels, SHAPE, MM) == region


def test_a_tile_at_the_scans_face_stays():
    """An organ that leaves the scan moves nothing."""
    region = Region((0, 10, 10), (20, 30, 30))
    labels = np.zeros(region.shape, dtype=np.uint8)
    labels[:9, 5, 5] = 1
    assert moved_or_grown(region, labels, SHAPE, MM) == region


def test_a_region_comes_back_from_a_turned_array():
    """The voxels of the region of a turned array are those of the array's own."""
    array = np.arange(4 * 5 * 6).reshape(4, 5, 6)
    for letters in ("SPL", "IAR", "LSP", "PRI"):
        turn = Reorientation.between("SPL", letters)
        there = turn.apply(array)
        region = Region((1, 0, 2), (3, 2, 4))
        back = region.turned_back(turn, there.shape)
        assert sorted(array[back.slices].ravel()) == sorted(there[region.slices].ravel())
    assert Region((1, 0, 2), (3, 2, 4)).moved((10, 20, 30)) == Region((11, 20, 32), (13, 22, 34))
