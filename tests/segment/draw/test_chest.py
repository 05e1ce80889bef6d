"""The box that the folds see: around the chest, in the scan's own voxels."""

import numpy as np
import pytest

from limn.domain.geometry import Reorientation, SpacingMm, axial_grid
from limn.segment.draw.chest import LOOSE_MM, box_around_chest, chest_stretch, find_chest
from limn.segment.engine.localise import HEART, LUNGS
from limn.segment.engine.orient import WAYS, Lie
from limn.segment.engine.region import Region

COARSE = (100, 60, 80)
TILE_MM = (25.6, 16.0, 19.2)


def grid_of(letters, mm=0.2):
    """A grid over 84 x 50.4 x 67.2 mm along S, P, L whose axes grow towards the letters."""
    shape = tuple(round(n * 0.84 / mm) for n in COARSE)
    return Reorientation.between("SPL", letters).grid(
        axial_grid(shape, SpacingMm(mm, mm, mm), np.zeros(3))
    )


def organs_in(box, letters, grid, chest):
    """Whether the box holds the middle of the organs, by an array of the scan that marks it."""
    centre = [
        (low + high) / 2 / n for low, high, n in zip(chest.low, chest.high, COARSE, strict=True)
    ]
    spot = np.zeros((420, 252, 336), dtype=bool)
    spot[tuple(int(share * n) for share, n in zip(centre, spot.shape, strict=True))] = True
    native = Reorientation.between("SPL", letters).apply(spot)
    assert native.shape == grid.shape_zyx
    return bool(native[box.slices].any())


@pytest.mark.parametrize("letters", ["SPL", "IAL", "SAR", "PIL", "LSA"])
@pytest.mark.parametrize("way", WAYS[::3])
def test_a_chest_that_fits_gets_one_tile(letters, way):
    """The tile lies along the animal's own axes, around the organs, whatever the stack."""
    # 21.8 x 11.8 x 11.8 mm fit the tile, and its longest side is the body's.
    chest = Region((30, 20, 40), (56, 34, 54))
    grid = grid_of(letters)
    box = box_around_chest(chest, COARSE, grid, Lie(way, 1.0), TILE_MM)
    assert organs_in(box, letters, grid, chest)
    along = Reorientation.between(letters, "SPL").axes
    own = Reorientation.between(way, "SPL").axes
    for k in range(3):
        assert box.shape[along[own[k]]] == int(TILE_MM[k] / 0.2 + 1e-6)


def test_a_longer_chest_gets_a_margin():
    """Where one tile can't hold the organs, the box holds them with a margin on either side."""
    chest = Region((30, 20, 40), (66, 34, 54))
    box = box_around_chest(chest, COARSE, grid_of("SPL"), Lie("SPL", 1.0), TILE_MM)
    long_mm = 36 * 0.84 + 2 * LOOSE_MM
    assert box.shape == (int(long_mm / 0.2 + 1e-6), 80, 96)
    assert box.low[0] == pytest.approx((30 * 0.84 - LOOSE_MM) / 0.2, abs=2)


def test_a_chest_at_the_edge_stays_in_the_scan():
    """The tile is moved into the scan; a scan thinner than a tile is taken whole."""
    chest = Region((0, 0, 70), (20, 14, 80))
    grid = grid_of("SPL")
    box = box_around_chest(chest, COARSE, grid, Lie("SPL", 1.0), TILE_MM)
    assert box.low[:2] == (0, 0)
    assert box.high[2] == grid.columns
    thin = axial_grid((60, 252, 336), SpacingMm(0.2, 0.2, 0.2), np.zeros(3))
    box = box_around_chest(
        Region((0, 20, 40), (14, 34, 54)), (14, 60, 80), thin, Lie("SPL", 1.0), TILE_MM
    )
    assert (box.low[0], box.high[0]) == (0, 60)


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
    whole[first : first + 10, 28:30, 36:39] = 2000.0
    return whole


@pytest.mark.parametrize("way", WAYS)
def test_the_chest_is_where_it_was_in_the_whole_scan(way):
    """Whatever the animal's way to lie, the box comes back on the coarse grid of the scan."""
    chest = find_chest(body(), Lie(way, 1.0), slice(31, 79), Marked())
    assert (chest.low, chest.high) == ((50, 25, 33), (60, 35, 42))


@pytest.mark.parametrize("first", [0, 3, 50, 71, 140])
def test_the_stretch_is_around_the_chest(first):
    """Wherever in a long scan the chest lies, the stretch holds all of it."""
    stretch = chest_stretch(body(first), Marked())
    assert stretch.start <= first
    assert stretch.stop >= first + 10
    assert stretch.stop - stretch.start <= 48


def test_a_short_scan_is_one_stretch():
    """A scan that is no longer than a window is looked at once."""
    assert chest_stretch(body()[40:80], Marked()) == slice(0, 40)


@pytest.mark.parametrize("missing", [1000.0, 2000.0])
def test_no_chest_is_no_stretch(missing):
    """Without a heart, or with a few voxels alone, there is no chest."""
    whole = body()
    whole[whole == missing] = 40.0
    assert chest_stretch(whole, Marked()) is None
