"""The box that the folds see: around the chest, in the scan's own voxels."""

import numpy as np
import pytest

from limn.domain.geometry import Reorientation, SpacingMm, axial_grid
from limn.domain.scan import Volume
from limn.segment.draw.animals.chest import SLACK_MM, box_around_chest, chest_stretches, find_chest
from limn.segment.engine.localisation.localise import HEART, LUNGS
from limn.segment.engine.localisation.orient import WAYS, Lie
from limn.segment.engine.localisation.region import Region

COARSE = (60, 32, 44)
# Four voxels of the scan are one of the coarse grid.
MM = 0.21
TILE_MM = (25.2, 12.6, 16.8)
CHEST = Region((20, 8, 14), (40, 20, 26))


def marked(letters):
    """A scan whose axes grow towards the letters; its voxels are 1 where the chest is."""
    shape = tuple(4 * n for n in COARSE)
    hu = np.zeros(shape, dtype=np.float32)
    hu[tuple(slice(4 * a, 4 * b) for a, b in zip(CHEST.low, CHEST.high, strict=True))] = 1.0
    turn = Reorientation.between("SPL", letters)
    grid = turn.grid(axial_grid(shape, SpacingMm(MM, MM, MM), np.zeros(3)))
    return Volume(np.ascontiguousarray(turn.apply(hu)), grid)


def shares_of(hu):
    """Where the marked voxels begin and end along each axis, as shares of it."""
    found = np.argwhere(hu)
    return [
        (low / n, (high + 1) / n)
        for low, high, n in zip(found.min(axis=0), found.max(axis=0), hu.shape, strict=True)
    ]


@pytest.mark.parametrize("letters", ["SPL", "IAL", "SAR", "PIL", "LSA"])
@pytest.mark.parametrize("way", WAYS)
def test_the_box_is_a_tile_and_its_slack_around_the_chest(letters, way):
    """It lies along the animal's own axes, whatever the stack, and knows where the organs are."""
    volume, lie = marked(letters), Lie(way, 1.0)
    box = box_around_chest(CHEST, COARSE, volume.grid, lie, TILE_MM)
    part = Volume(volume.hu_zyx[box.outer.slices], volume.grid.part(box.outer.slices))
    assert part.hu_zyx.sum() == volume.hu_zyx.sum()
    np.testing.assert_allclose(box.organs, shares_of(part.hu_zyx))
    straight = lie.straighten(part)
    np.testing.assert_allclose(lie.turned_shares(box.organs, part), shares_of(straight.hu_zyx))
    whole = lie.straighten(volume).hu_zyx.shape
    for k in range(3):
        wanted = round((TILE_MM[k] + 2 * SLACK_MM[k]) / MM)
        assert straight.hu_zyx.shape[k] == min(wanted, whole[k])


def test_a_chest_at_the_edge_stays_in_the_scan():
    """The box is moved into the scan; a scan thinner than a tile is taken whole."""
    grid = marked("SPL").grid
    box = box_around_chest(Region((0, 0, 34), (20, 14, 44)), COARSE, grid, Lie("SPL", 1.0), TILE_MM)
    assert box.outer.low[:2] == (0, 0)
    assert box.outer.high[2] == grid.columns
    assert box.organs[0][0] == 0.0
    assert box.organs[2][1] == 1.0
    thin = axial_grid((40, 128, 176), SpacingMm(MM, MM, MM), np.zeros(3))
    box = box_around_chest(
        Region((0, 8, 14), (10, 20, 26)), (10, 32, 44), thin, Lie("SPL", 1.0), TILE_MM
    )
    assert (box.outer.low[0], box.outer.high[0]) == (0, 40)


class Marked:
    """A localiser that takes 2000 HU for heart and 1000 HU for lungs."""

    def label(self, field):
        """Labels of what is marked."""
        return (HEART * (field == 2000.0) + LUNGS * (field == 1000.0)).astype(np.uint8)

    def find(self, field):
        """The box of what is marked, or None."""
        found = np.argwhere(self.label(field))
        if not len(found):
            return None
        return Region(tuple(found.min(axis=0)), tuple(found.max(axis=0) + 1))


def body(first=50):
    """A long animal with a marked chest of 900 voxels."""
    whole = np.full((150, 60, 80), -1000.0, np.float32)
    whole[:, 20:45, 30:60] = 40.0
    whole[first : first + 10, 25:35, 33:42] = 1000.0
    whole[first : first + 10, 27:32, 34:38] = 2000.0
    return whole


@pytest.mark.parametrize("way", WAYS)
def test_the_chest_is_where_it_was_in_the_whole_scan(way):
    """Whatever the animal's way to lie, the box comes back on the coarse grid of the scan."""
    chest = find_chest(body(), Lie(way, 1.0), slice(31, 79), Marked())
    assert (chest.low, chest.high) == ((50, 25, 33), (60, 35, 42))


@pytest.mark.parametrize("first", [0, 3, 50, 71, 140])
def test_the_stretch_is_around_the_chest(first):
    """Wherever in a long scan the chest lies, the stretch holds all of it."""
    stretch = chest_stretches(body(first), Marked())[0]
    assert stretch.start <= first
    assert stretch.stop >= first + 10
    assert stretch.stop - stretch.start <= 48


def test_a_belly_full_of_gas_is_no_chest():
    """A window with a little of the heart and much that looks like lung comes after the chest's."""
    whole = body(100)
    whole[0:30, 22:44, 32:58] = 1000.0
    whole[10:15, 30:34, 40:44] = 2000.0
    first, *others = chest_stretches(whole, Marked())
    assert first.start <= 100
    assert first.stop >= 110
    assert others


def test_a_short_scan_is_one_stretch():
    """A scan that is no longer than a window is looked at once."""
    assert chest_stretches(body()[40:80], Marked()) == [slice(0, 40)]


@pytest.mark.parametrize("missing", [1000.0, 2000.0])
def test_no_chest_is_no_stretch(missing):
    """Without heart or lungs there is no chest."""
    whole = body()
    whole[whole == missing] = 40.0
    assert chest_stretches(whole, Marked()) == []
