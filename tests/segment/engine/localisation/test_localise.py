"""The localiser: chests on a coarse grid, one box, whatever way the animals lie."""

import numpy as np
import pytest
import torch

from limn.lab.train.localiser import BODY_ZYX, draw_fields, make_body
from limn.segment.engine.localisation.coarse import COARSE_MM, block_means
from limn.segment.engine.localisation.localise import CORD, HEART, LUNGS, Localiser, LocaliserNet


class Told(torch.nn.Module):
    """Gives every voxel the class that its density names."""

    def forward(self, image):
        """Logits of four classes: density 0, 1, 2 and 2.5 are background, heart, cord, lungs."""
        levels = torch.tensor([0.0, 1.0, 2.0, 2.5]).view(1, 4, 1, 1, 1)
        return -20.0 * (image - levels).abs()


def scene(*organs):
    """HU of a coarse field of air in which boxes have the density of organs."""
    hu = np.full((70, 50, 90), -1000.0, dtype=np.float32)
    for label, low, high in organs:
        density = {HEART: 1.0, CORD: 2.0, LUNGS: 2.5}[label]
        hu[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = 1000.0 * (density - 1.0)
    return hu


CHEST = (
    (HEART, (30, 20, 30), (38, 27, 37)),
    (LUNGS, (28, 18, 24), (42, 30, 30)),
    (CORD, (24, 32, 33), (54, 34, 35)),
)


def test_the_box_of_a_chest():
    """It holds heart and lungs, and the cord as far as it reaches beyond them in most mice."""
    region = Localiser(Told()).find(scene(*CHEST))
    assert region.low == (28 - 7, 18, 24)
    assert region.high == (42 + 1, 30 + 1, 37)


def test_a_speck_elsewhere_changes_nothing():
    """A few voxels of the bed taken for lung don't widen the box."""
    wanted = Localiser(Told()).find(scene(*CHEST))
    assert Localiser(Told()).find(scene(*CHEST, (LUNGS, (2, 2, 80), (3, 4, 82)))) == wanted


def test_the_box_ends_with_the_field():
    """What reaches beyond the field is cut off."""
    region = Localiser(Told()).find(scene(*CHEST)[26:43, :31])
    assert (region.low[0], region.high[0], region.high[1]) == (0, 17, 31)


@pytest.mark.parametrize("missing", [HEART, LUNGS])
def test_no_whole_chest_is_no_box(missing):
    """Without heart or lungs the localiser is unsure and says so."""
    assert Localiser(Told()).find(scene(*(each for each in CHEST if each[0] != missing))) is None


@pytest.mark.parametrize("shape", [(17, 5, 33), (8, 8, 8), (1, 20, 1)])
def test_any_shape_passes_through_the_network(shape):
    """Axes that are short or no multiple of 8 are padded and cut again."""
    labels = Localiser(LocaliserNet()).label(np.full(shape, 40.0, np.float32))
    assert labels.shape == shape


def test_fields_are_drawn_with_their_chests():
    """Two fields of one shape; classes are shares that add up to one, and most show organs."""
    cases = [make_body(77_000), make_body(77_001)]
    assert cases[0].hu_zyx.shape == BODY_ZYX
    rng = np.random.default_rng(1)
    shown = 0
    for _ in range(6):
        pictures, classes = draw_fields(rng, cases, 2)
        assert pictures.shape == (2, 1, *classes.shape[2:])
        assert classes.shape[1] == 4
        assert not any(n % 8 for n in pictures.shape[2:])
        np.testing.assert_allclose(classes.sum(axis=1), 1.0, atol=0.02)
        shown += (classes[:, 1:].sum(axis=(1, 2, 3, 4)) * COARSE_MM**3 > 100).sum()
    assert shown >= 9


def test_block_means_are_means():
    """The same as NumPy's own over the same blocks; a rest at the end is left out."""
    array = np.random.default_rng(2).normal(size=(9, 10, 11)).astype(np.float32)
    found = block_means(array, (2, 3, 5))
    wanted = array[:8, :9, :10].reshape(4, 2, 3, 3, 2, 5).mean(axis=(1, 3, 5))
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    np.testing.assert_allclose(block_means(array.T, (1, 1, 1)), array.T)
