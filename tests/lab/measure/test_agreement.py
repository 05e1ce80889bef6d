"""The conformity index compared with hand counts and pair sums; the consensus with votes."""

import math
from itertools import combinations

import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from limn.lab.data.organs import PHANTOM_ORGANS
from limn.lab.measure.agreement import conformity_index, consensus, structure_masks
from limn.lab.words import PAPER_STRUCTURES
from limn.phantom.observers import LUNGS

observers = st.integers(2, 4).flatmap(
    lambda count: st.lists(hnp.arrays(np.bool_, (3, 4, 5)), min_size=count, max_size=count)
)


def cube(corner: int, side: int = 4) -> np.ndarray:
    """A box of voxels that begins at a row."""
    mask = np.zeros((12, 12, 12), dtype=np.bool_)
    mask[corner : corner + side, :4, :4] = True
    return mask


def over_pairs(masks: list[np.ndarray]) -> float:
    """The definition, pair by pair."""
    pairs = list(combinations(masks, 2))
    joined = sum(int((one | other).sum()) for one, other in pairs)
    return sum(int((one & other).sum()) for one, other in pairs) / joined if joined else math.nan


@settings(deadline=None)
@given(masks=observers)
def test_every_pair_is_counted(masks: list[np.ndarray]) -> None:
    """Two, three or four observers give the sums over all pairs."""
    assert conformity_index(masks) == pytest.approx(over_pairs(masks), abs=1e-12, nan_ok=True)


def test_cubes_by_hand() -> None:
    """Slabs of 4 layers, moved by 1 and by 3, share 3 + 1 + 2 of 5 + 7 + 6 layers."""
    assert conformity_index([cube(0), cube(1), cube(3)]) == pytest.approx(6 / 18, abs=1e-15)
    assert conformity_index([cube(0), cube(0), cube(0)]) == 1.0
    assert conformity_index([cube(0), cube(4), cube(8)]) == 0.0


def test_it_is_not_the_mean_of_jaccards() -> None:
    """Volumes are summed before they are divided: a large pair outweighs small ones."""
    masks = [cube(0, 8), cube(0, 8), cube(0, 1)]
    assert conformity_index(masks) == pytest.approx(10 / 24, abs=1e-15)
    assert np.mean([8 / 8, 1 / 8, 1 / 8]) == pytest.approx(10 / 24, abs=1e-15)
    masks = [cube(0, 8), cube(0, 4), cube(0, 1)]
    assert conformity_index(masks) == pytest.approx((4 + 1 + 1) / (8 + 8 + 4), abs=1e-15)
    assert np.mean([4 / 8, 1 / 8, 1 / 4]) != pytest.approx(6 / 20, abs=1e-3)


@pytest.mark.parametrize("seed", range(4))
def test_two_masks_have_the_jaccard_coefficient_of_itk(seed: int) -> None:
    """Random shapes have the coefficient of another library."""
    rng = np.random.default_rng(seed)
    masks = [rng.random((7, 8, 9)) < share for share in (0.4, 0.6)]
    overlap = SimpleITK.LabelOverlapMeasuresImageFilter()
    overlap.Execute(*[SimpleITK.GetImageFromArray(mask.astype(np.uint8)) for mask in masks])
    assert conformity_index(masks) == pytest.approx(overlap.GetJaccardCoefficient(), abs=1e-12)


def test_observers_who_drew_nothing() -> None:
    """Empty masks have no index; one empty mask of three counts in its pairs."""
    empty = np.zeros_like(cube(0))
    assert math.isnan(conformity_index([empty, empty]))
    assert conformity_index([cube(0), cube(0), empty]) == pytest.approx(1 / 3, abs=1e-15)


def test_the_consensus_is_two_of_three_and_both_of_two() -> None:
    """The paper's reference contour is defined so."""
    three = consensus([cube(0), cube(1), cube(3)])
    assert np.flatnonzero(three[:, 0, 0]).tolist() == [1, 2, 3, 4]
    both = consensus([cube(0), cube(1)])
    assert np.flatnonzero(both[:, 0, 0]).tolist() == [1, 2, 3]


@settings(deadline=None)
@given(masks=observers)
def test_the_consensus_is_a_vote(masks: list[np.ndarray]) -> None:
    """It equals the count of votes, and ITK's label voting for three observers."""
    votes = np.sum([mask.astype(int) for mask in masks], axis=0)
    assert np.array_equal(consensus(masks), votes > 1)
    if len(masks) == 3:
        images = [SimpleITK.GetImageFromArray(mask.astype(np.uint8)) for mask in masks]
        voted = SimpleITK.GetArrayFromImage(SimpleITK.LabelVoting(images, 2))
        assert np.array_equal(consensus(masks), voted == 1)


def test_lungs_are_joined_and_an_absent_cord_is_absent() -> None:
    """One label for both lungs and two labels give the same structure."""
    labels = np.zeros((4, 4, 4), dtype=np.uint8)
    labels[0], labels[1], labels[2], labels[3, 0] = 1, 3, 4, 2
    other = np.where(np.isin(labels, (3, 4)), LUNGS, np.where(labels == 2, 0, labels))
    split = structure_masks(labels, PHANTOM_ORGANS.structures)
    joined = structure_masks(other.astype(np.uint8), PHANTOM_ORGANS.structures)
    assert tuple(split) == PAPER_STRUCTURES
    assert set(joined) == {"Heart", "Lungs"}
    assert np.array_equal(split["Lungs"], joined["Lungs"])
    assert set(structure_masks(labels, {"Heart": (9,)})) == set()


@pytest.mark.parametrize("masks", [[cube(0)], [cube(0), cube(0)[:5]]], ids=["one", "two shapes"])
def test_what_can_t_be_compared_is_refused(masks: list[np.ndarray]) -> None:
    """One observer, and masks of two shapes."""
    for measure in (conformity_index, consensus):
        with pytest.raises(ValueError, match=r"at least 2 expected|can't be compared"):
            measure(masks)
