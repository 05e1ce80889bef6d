"""How an animal lies: the sixteen ways, the turns of an array, image against header."""

import itertools

import numpy as np
import pytest
import torch

from limn.domain.geometry import Reorientation, SpacingMm, axial_grid
from limn.domain.scan import Labels, Role, Volume
from limn.segment.engine.localisation.coarse import coarse
from limn.segment.engine.localisation.orient import (
    AS_IN_HEADER,
    CERTAIN,
    STRAIGHT,
    WAYS,
    Finder,
    Lie,
    Onlooker,
    coarse_pictures,
    contradictions,
    posterior,
    right_lung_share,
    squared,
    turned_all_ways,
)
from tests.support.organs import Organ

PROPER = ("SPL", "SAR", "SLA", "SRP", "IPR", "IAL", "ILP", "IRA")


def volume(array, letters="SPL", mm=(0.5, 0.4, 0.3)):
    """An array whose grid says that its axes grow towards the letters."""
    turn = Reorientation.between("SPL", letters)
    spacing = SpacingMm(*mm)
    plain = axial_grid(turn.undo(array).shape, turn.spacing(spacing), np.zeros(3))
    return Volume(np.ascontiguousarray(array), turn.grid(plain))


def test_sixteen_ways_half_of_them_turns():
    """Head at either end, back in four directions, each mirrored: the turns are known by name."""
    assert len(set(WAYS)) == 16
    assert {way for way in WAYS if not Lie(way, 1.0).mirrored} == set(PROPER)
    assert WAYS[0] == STRAIGHT
    assert AS_IN_HEADER.as_in_header
    assert not AS_IN_HEADER.mirrored


@pytest.mark.parametrize("way", WAYS)
def test_a_turn_keeps_hands_and_a_mirror_does_not(way):
    """Three points that make a right hand make one after a turn, a left one after a mirror."""
    points = np.zeros((9, 9, 9), dtype=np.float32)
    points[6, 4, 4], points[4, 6, 4], points[4, 4, 6] = 1.0, 2.0, 3.0
    seen = Lie(way, 1.0).straighten(volume(points, mm=(1.0, 1.0, 1.0))).hu_zyx
    arms = np.array([np.argwhere(seen == value)[0] - 4 for value in (1.0, 2.0, 3.0)])
    assert np.sign(np.linalg.det(arms)) == (-1 if Lie(way, 1.0).mirrored else 1)


@pytest.mark.parametrize(
    ("way", "letters"), list(itertools.product(WAYS[::3], ("SPL", "IPR", "ALS")))
)
def test_straightened_and_back(way, letters):
    """An animal laid down in any way comes back straight, and its labels to their own voxels."""
    rng = np.random.default_rng(3)
    animal = rng.normal(size=(5, 6, 7)).astype(np.float32)
    laid = Reorientation.between(way, STRAIGHT).undo(animal)
    given = Reorientation.between(letters, STRAIGHT).undo(laid)
    scan = volume(given, letters)
    lie = Lie(way, 1.0)
    straight = lie.straighten(scan)
    np.testing.assert_array_equal(straight.hu_zyx, animal)
    assert straight.grid.axis_letters == "SPL"
    marked = (animal > 0.5).astype(np.uint8)
    back = lie.back(Labels(marked, straight.grid, {1: Organ.HEART}), scan)
    np.testing.assert_array_equal(back.labels_zyx, (scan.hu_zyx > 0.5).astype(np.uint8))
    assert back.grid is scan.grid


def test_spacing_turns_with_the_animal():
    """A quarter turn swaps the spacings of rows and columns."""
    straight = Lie("SLA", 1.0).straighten(volume(np.zeros((4, 5, 6), np.float32)))
    assert straight.grid.shape_zyx == (4, 6, 5)
    assert straight.grid.spacing_mm.zyx == pytest.approx((0.5, 0.3, 0.4))


def test_the_header_is_a_prior():
    """If the image is undecided, the header is believed; a mirror image needs more evidence."""
    unsure = posterior(np.zeros(16))
    assert unsure.argmax() == WAYS.index(STRAIGHT)
    assert unsure.sum() == pytest.approx(1.0)

    def needed(way):
        for evidence in np.arange(0.0, 20.0, 0.1):
            scores = np.zeros(16)
            scores[WAYS.index(way)] = evidence
            if posterior(scores).argmax() == WAYS.index(way):
                return evidence
        pytest.fail("never believed")

    assert 0.0 < needed("IAL") < needed("SPR") < 15.0


class Template(torch.nn.Module):
    """Scores a picture by how well it matches one that is known."""

    def __init__(self, wanted, weight):
        super().__init__()
        self.wanted = torch.from_numpy(wanted)
        self.weight = weight

    def forward(self, images):
        """The share of voxels that agree, times the weight."""
        if images.shape[2:] != self.wanted.shape:
            return torch.zeros(len(images))
        return self.weight * (images[:, 0] == self.wanted).float().mean((1, 2, 3))


@pytest.mark.parametrize("way", WAYS[::2])
def test_the_finder_finds_what_the_onlooker_likes(way):
    """The way with the best score wins if the image is certain; if not, the header does."""
    rng = np.random.default_rng(5)
    animal = rng.uniform(-400, 900, (24, 24, 24)).astype(np.float32)
    (picture,) = coarse_pictures(animal)
    wanted = turned_all_ways(picture)[WAYS.index(way)]
    sure = Finder(Template(wanted, 200.0)).find(animal)
    assert sure.letters == way
    assert sure.probability > CERTAIN
    assert Finder(Template(wanted, 0.1)).find(animal).letters == STRAIGHT


def test_a_long_scan_is_looked_at_in_stretches():
    """Every slice is in a stretch, and the stretch with the best score decides."""
    rng = np.random.default_rng(6)
    animal = rng.uniform(-400, 900, (90, 24, 24)).astype(np.float32)
    pictures = coarse_pictures(animal)
    assert len(pictures) == 9
    assert {len(picture) for picture in pictures} == {32}
    np.testing.assert_array_equal(pictures[-1][-1], (animal[-1] + 1000) / 1000)
    wanted = turned_all_ways(pictures[3])[WAYS.index("IAL")]
    assert Finder(Template(wanted, 200.0)).find(animal).letters == "IAL"


def test_a_known_chest_is_the_only_stretch_of_a_long_scan():
    """The onlooker sees the stretch around it, as far as the scan goes; a short scan as a whole."""
    rng = np.random.default_rng(6)
    animal = rng.uniform(-400, 900, (90, 24, 24)).astype(np.float32)
    for chest, first in ((slice(40, 60), 34), (slice(0, 8), 0), (slice(84, 90), 58)):
        (picture,) = coarse_pictures(animal, chest)
        np.testing.assert_array_equal(picture[0], (animal[first] + 1000) / 1000)
        assert len(picture) == 32
    assert len(coarse_pictures(animal[:40], slice(10, 20))[0]) == 40


def test_pictures_are_square_and_hold_the_animal():
    """Rows and columns are cropped to the animal and equal; air is 0; no part of it is lost."""
    hu = np.full((30, 40, 60), -1000.0, dtype=np.float32)
    hu[:, 10:34, 25:43] = 40.0
    picture = squared((hu + 1000.0) / 1000.0)
    assert picture.shape[1] == picture.shape[2] == 24
    assert (picture > 0.5).sum() == (hu > 0).sum()
    edge = np.full((30, 40, 60), -1000.0, dtype=np.float32)
    edge[:, :12, :30] = 40.0
    assert (squared((edge + 1000.0) / 1000.0) > 0.5).sum() == (edge > 0).sum()


@pytest.mark.parametrize("mm", [0.1, 0.28, 0.5, 0.84, 1.1])
def test_coarse_voxels_are_the_same_size(mm):
    """Whatever the spacing, the picture's voxels are 0.84 mm and its content stays in place."""
    n = round(33.6 / mm)
    axis = (np.arange(n) + 0.5) * mm - 16.8
    ball = axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis[None, None, :] ** 2 < 64.0
    made = coarse(np.where(ball, 0.0, -1000.0).astype(np.float32), SpacingMm(mm, mm, mm))
    assert all(abs(size - 40) <= 1 for size in made.shape)
    volume_mm3 = ((made + 1000.0) / 1000.0).sum() * 0.84**3
    assert volume_mm3 == pytest.approx(4 / 3 * np.pi * 512, rel=0.08)


def test_the_onlooker_takes_any_size():
    """One score for each picture, for fields of view of any size."""
    onlooker = Onlooker().eval()
    with torch.inference_mode():
        assert onlooker(torch.zeros(3, 1, 20, 24, 24)).shape == (3,)
        assert onlooker(torch.zeros(1, 1, 80, 50, 50)).shape == (1,)


def organs(cord_y, left_x):
    """Blocks for heart, cord and lungs."""
    labels = np.zeros((20, 40, 40), dtype=np.uint8)
    labels[5:15, 18:24, 18:24] = 1
    labels[5:15, cord_y : cord_y + 3, 19:22] = 2
    labels[5:15, 18:28, 39 - left_x - 8 : 39 - left_x] = 3
    labels[5:15, 18:28, left_x : left_x + 8] = 4
    names = {1: Organ.HEART, 2: Organ.CORD, 3: Organ.LUNG_R, 4: Organ.LUNG_L}
    spacing = SpacingMm(0.5, 0.5, 0.5)
    return Labels(labels, axial_grid(labels.shape, spacing, np.zeros(3)), names)


def test_organs_may_contradict():
    """A cord at the belly and swapped lungs are reported; a normal mouse is not."""
    assert contradictions(organs(cord_y=34, left_x=28)) == []
    assert "the cord lies" in contradictions(organs(cord_y=4, left_x=28))[0]
    assert contradictions(organs(cord_y=34, left_x=2)) == [
        "the left lung lies on the animal's right"
    ]


def test_the_right_lungs_share():
    """The share of both lungs; None if one is absent."""
    assert right_lung_share({Role.LUNG_R: 3.0, Role.LUNG_L: 1.0}) == 0.75
    assert right_lung_share({Role.LUNG_R: 3.0}) is None


@pytest.mark.parametrize("shape", [(2, 40, 40), (4, 3, 60), (20, 20, 1)])
def test_a_sliver_of_a_scan_is_no_crash(shape):
    """Fields of hardly a voxel across raise nothing."""
    hu = np.full(shape, 40.0, np.float32)
    assert Finder(Onlooker()).find(coarse(hu, SpacingMm(0.1, 0.1, 0.1))).letters in WAYS


def test_ways_that_are_seen_in_pairs_get_the_scores_of_all_at_once():
    """Each way is normalised by itself; sums differ in their order alone."""
    torch.manual_seed(0)
    onlooker = Onlooker().eval()
    picture = np.random.default_rng(0).random((24, 20, 20)).astype(np.float32)
    with torch.inference_mode():
        together = onlooker(torch.from_numpy(np.stack(turned_all_ways(picture))[:, None]))
    scores = Finder(onlooker).scores(picture)
    assert scores.shape == (len(WAYS),)
    assert np.ptp(scores) > 0
    np.testing.assert_allclose(scores, together.numpy(), atol=1e-4 * float(together.abs().max()))
