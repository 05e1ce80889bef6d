"""Every animal of a field, in any arrangement; those that the field cuts off are not contoured."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
from scipy import ndimage

from limn.domain.errors import RefusedSeries
from limn.domain.geometry import SpacingMm, axial_grid
from limn.domain.scan import Volume, dice
from limn.domain.timing import Stopwatch
from limn.phantom.anatomy import TRUTH_LABELS
from limn.segment.bundle.bundle import open_bundle
from limn.segment.draw.animals.choose import whole_animals
from limn.segment.draw.animals.field import survey
from limn.segment.draw.animals.located import Located
from limn.segment.draw.delineate import Delineated, delineate, delineate_each
from limn.segment.engine.ensemble import Ensemble
from limn.segment.engine.localisation.region import Region
from tests.conftest import one_fold
from tests.support.segment.beds import BEDS, bed

MM = 0.6
LUNG_HU = -600.0
Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Chest:
    """Where the stand-in for the localiser sees lung."""

    coarse: Region


def chest_of(located: Located) -> Chest | None:
    """The box of everything like lung in the coarse picture, but not of a surface."""
    seen = np.argwhere(ndimage.binary_opening(np.abs(located.coarse_spl - LUNG_HU) < 50.0))
    if not len(seen):
        return None
    low, high = seen.min(axis=0).tolist(), (seen.max(axis=0) + 1).tolist()
    return Chest(Region((low[0], low[1], low[2]), (high[0], high[1], high[2])))


def field(*bodies: tuple[Box, Box | None], shape: tuple[int, int, int] = (120, 80, 100)) -> Volume:
    """Bodies of soft tissue in air, each with lung in a box of it or without."""
    hu = np.full(shape, -1000.0, dtype=np.float32)
    for body, lung in bodies:
        hu[body] = 40.0
        if lung is not None:
            hu[lung] = LUNG_HU
    return Volume(hu, axial_grid(shape, SpacingMm(MM, MM, MM), np.zeros(3)))


def body(z: int, y: int, x: int, *, chest: bool = True, long: int = 50) -> tuple[Box, Box | None]:
    """A body of 26 x 26 blocks, with its chest in the middle."""
    lung = (slice(z + 15, z + 35), slice(y + 8, y + 18), slice(x + 8, x + 18))
    return (slice(z, z + long), slice(y, y + 26), slice(x, x + 26)), lung if chest else None


def places(
    volume: Volume, seen: Callable[[Located], Chest | None] | None = chest_of
) -> dict[str, tuple[float, float, float]]:
    """The middle of each animal by its number, their count and that of those that are cut off."""
    told = {}
    for each in whole_animals(survey(volume), seen):
        place = each.located.place
        assert place is not None
        told[f"{place.number}/{place.of}-{place.cut}"] = place.middle_xyz_mm
    return told


def middle(each: tuple[Box, Box | None]) -> pytest.approx:
    """The middle of a body in patient coordinates, as exactly as its core tells."""
    z, y, x = ((span.start + span.stop) / 2 * MM for span in each[0])
    return pytest.approx((x, y, z), abs=2.0)


def test_side_by_side_they_are_counted_along_x() -> None:
    """One lies 6 mm further up than the other."""
    left, right = body(20, 20, 55), body(10, 22, 8)
    assert places(field(left, right)) == {"1/2-0": middle(right), "2/2-0": middle(left)}


def test_one_above_the_other_they_are_counted_along_y() -> None:
    """As they are stacked in a bed of two floors."""
    lower, upper = body(10, 48, 20), body(12, 8, 24)
    assert places(field(lower, upper)) == {"1/2-0": middle(upper), "2/2-0": middle(lower)}


def test_head_to_tail_they_are_counted_along_z() -> None:
    """Both have a chest, so neither is the other's head."""
    first, second = body(66, 20, 30), body(6, 24, 30)
    assert places(field(first, second)) == {"1/2-0": middle(second), "2/2-0": middle(first)}


def test_four_are_counted_by_rows() -> None:
    """Two floors of two."""
    four = [body(10 + 3 * k, 6 + 34 * (k // 2), 8 + 44 * (k % 2)) for k in range(4)]
    found = places(field(four[3], four[1], four[2], four[0]))
    assert found == {f"{k}/4-0": middle(each) for k, each in enumerate(four, start=1)}


def test_a_head_belongs_to_the_trunk_behind_it() -> None:
    """The neck is thinner than a core is deep, and there is no chest in a head."""
    trunk, head = body(10, 20, 30), body(66, 20, 30, chest=False, long=24)
    (one,) = whole_animals(survey(field(trunk, head)), chest_of)
    assert one.located.place is not None
    assert (one.located.place.of, one.located.place.cut) == (1, 0)
    assert one.located.others_zyx is None


@pytest.mark.parametrize("shown", [26, 16])
def test_one_that_a_side_of_the_field_cuts_is_counted_and_left_out(shown: int) -> None:
    """Its chest touches the edge, or hardly more than its skin is in the field."""
    width = 60 + shown
    cut = body(12, 20, 60)[0], (slice(27, 47), slice(28, 38), slice(68, 86))
    volume = field(body(10, 20, 8), cut, shape=(120, 80, width))
    assert places(volume) == {"1/1-1": middle(body(10, 20, 8))}


def test_of_animals_that_the_field_cuts_alike_all_count() -> None:
    """A short field shows a part of each chest."""
    volume = field(body(-20, 20, 8), body(-18, 20, 60), shape=(14, 80, 100))
    volume.hu_zyx[:, 20:46, 8:34], volume.hu_zyx[:, 20:46, 60:86] = 40.0, 40.0
    volume.hu_zyx[:, 28:38, 16:26], volume.hu_zyx[:, 28:38, 68:78] = LUNG_HU, LUNG_HU
    assert list(places(volume)) == ["1/2-0", "2/2-0"]


def test_without_a_localiser_those_side_by_side_count() -> None:
    """A bundle that was imported has none; a body behind may be a head."""
    two = field(body(20, 20, 55), body(10, 22, 8))
    assert [each[:5] for each in places(two, None)] == ["1/2-0", "2/2-0"]
    assert [each[:5] for each in places(field(body(66, 20, 30), body(6, 24, 30)), None)] == [
        "1/1-0"
    ]


def test_an_empty_field_has_none() -> None:
    """Nobody asks a localiser."""
    assert places(field()) == {}


def test_more_than_four_are_refused() -> None:
    """The message says how many there are."""
    five = [body(10, 20, 4 + 32 * k) for k in range(5)]
    with pytest.raises(RefusedSeries, match=r"5 animals in the field, limn contours 4 at most"):
        places(field(*five, shape=(80, 70, 170)))


@cache
def ensemble() -> Ensemble:
    """One fold of the embedded bundle."""
    bundle = open_bundle(one_fold())
    return Ensemble.load(bundle, "cpu", bundle.profile)


def overlaps(drawn: Delineated, truth_zyx: np.ndarray) -> list[float]:
    """DSC of each organ."""
    found = drawn.labels.labels_zyx
    return [dice(found == label, truth_zyx == label) for label in TRUTH_LABELS]


def alone(seed: int, name: str) -> list[float]:
    """DSC of each organ of an animal that lies in the same place without the others."""
    layout, shape = BEDS[name]
    laid = bed({seed: layout[seed]}, shape)
    drawn = delineate(laid.volume, ensemble(), "refuse", Stopwatch(), lambda *_: None)
    return overlaps(drawn, laid.truths_zyx[0])


@pytest.mark.slow
def test_each_phantom_gets_its_own_organs_as_when_scanned_alone() -> None:
    """No organ of one animal has a voxel in another; a cut one is counted and not contoured.

    `bench/beds.py` does the same with every arrangement and the whole ensemble.
    """
    name = "three, one cut"
    layout, shape = BEDS[name]
    laid = bed(layout, shape)
    found = list(delineate_each(laid.volume, ensemble(), Stopwatch(), lambda *_: None))
    whole = list(layout)[:-1]
    assert [(place.number, place.of, place.cut) for place, _ in found] == [(1, 2, 1), (2, 2, 1)]
    for k, (place, drawn) in enumerate(found):
        assert isinstance(drawn, Delineated)
        assert f"animal:{place.number}/{place.of}:" in " ".join(drawn.flags)
        for other, truth_zyx in enumerate(laid.truths_zyx):
            if other != k:
                assert not (truth_zyx[drawn.labels.labels_zyx > 0] > 0).any()
    # The one that has a neighbour at each side.
    drawn = found[1][1]
    assert isinstance(drawn, Delineated)
    differences = np.subtract(overlaps(drawn, laid.truths_zyx[1]), alone(whole[1], name))
    assert differences.min() > -0.01, differences
    with pytest.raises(RefusedSeries, match="animal 4 is not in the field any more: 2 are whole"):
        list(delineate_each(laid.volume, ensemble(), Stopwatch(), lambda *_: None, only=4))
