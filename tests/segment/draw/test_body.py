"""The animal's body: with lungs and legs, without bed, tube and what lies beside."""

import numpy as np
import pytest

from limn.domain.geometry import SpacingMm, axial_grid
from limn.domain.scan import Volume
from limn.segment.draw.body import body_mask

MM = 0.2
SHAPE = (150, 160, 200)
GRID = axial_grid(SHAPE, SpacingMm(MM, MM, MM), np.zeros(3))
Z, Y, X = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]


def rounded(y_mm, x_mm, radius_mm, first=0.0, last=1e9):
    """A rod along z around (y, x), from one z to another."""
    inside = (Y * MM - y_mm) ** 2 + (X * MM - x_mm) ** 2 < radius_mm**2
    return inside & (first <= Z * MM) & (last > Z * MM)


@pytest.fixture
def scan():
    """A trunk of 18 mm with lungs and a leg, on a bed of 2.4 mm that it touches, beside a tube."""
    hu = np.full(SHAPE, -1000.0, np.float32)
    trunk = rounded(15, 20, 9.0, 3.0, 27.0)
    leg = rounded(15, 31, 2.0, 8.0, 18.0) | (
        (abs(Y * MM - 15) < 1.6) & (X * MM > 20) & (X * MM < 31) & (abs(Z * MM - 13) < 1.6)
    )
    hu[trunk | leg] = 40.0
    hu[rounded(13, 16, 3.0, 8.0, 20.0)] = -600.0
    bed = (Y * MM >= 24.0) & (Y * MM < 26.4) & (Z >= 0) & (X >= 0)
    hu[bed] = 100.0
    tube = rounded(5, 36, 1.0)
    hu[tube] = 60.0
    organs = np.zeros(SHAPE, np.uint8)
    organs[rounded(13, 16, 3.0, 8.0, 20.0)] = 1
    organs[rounded(16, 21, 2.5, 10.0, 16.0)] = 2
    return hu, trunk | leg, bed, tube, organs


def body_of(hu, organs):
    """As a pipeline asks for it."""
    volume = Volume(hu, GRID)
    return body_mask(lambda box: Volume(volume.hu_zyx[box], GRID.part(box)), GRID, organs)


def test_the_body_has_its_lungs_and_its_legs(scan):
    """Every voxel of the animal, but for the sharp edges of this one's ends."""
    hu, animal, _, _, organs = scan
    body = body_of(hu, organs)
    assert (animal & ~body).sum() < 0.02 * animal.sum()
    assert body[organs > 0].all()


def test_bed_and_tube_are_no_body(scan):
    """Of the bed only what lies under the place where both touch."""
    hu, animal, bed, tube, organs = scan
    body = body_of(hu, organs)
    assert not (body & tube).any()
    assert (body & bed).sum() < 0.02 * animal.sum()
    assert (body & ~animal & ~bed).sum() < 0.005 * animal.sum()


def test_the_skin_lies_half_way_between_air_and_tissue(scan):
    """To half a voxel, although the animal is found on coarse voxels."""
    hu, _, _, _, organs = scan
    row = body_of(hu, organs)[100, :, 100]
    top = np.flatnonzero(row)[0]
    assert top * MM == pytest.approx(6.0, abs=1.01 * MM)


def test_a_head_that_lies_on_the_bed_is_kept(scan):
    """It is thicker than the bed, which goes on."""
    hu, _, bed, _, organs = scan
    head = rounded(20, 20, 4.0, 26.0) & (Z * MM < 29.0)
    hu[head] = 40.0
    body = body_of(hu, organs)
    assert (body & head).sum() > 0.85 * head.sum()
    assert (body & bed).sum() < 0.06 * body.sum()


def test_an_animal_that_is_nothing_but_organs_is_its_organs():
    """Where nothing is thick enough, no more is claimed."""
    hu = np.full(SHAPE, -1000.0, np.float32)
    organs = np.zeros(SHAPE, np.uint8)
    organs[50:54, 50:54, 50:54] = 1
    hu[organs > 0] = 40.0
    assert np.array_equal(body_of(hu, organs), organs > 0)


def test_a_bed_that_the_trunk_lies_on_broadly_is_no_body(scan):
    """It goes on before and behind the animal, and is thin there."""
    hu, animal, _, _, organs = scan
    flat = (Y * MM > 20.0) & (Y * MM < 24.0) & (abs(X * MM - 20) < 5.0)
    flat = flat & (Z * MM > 5.0) & (Z * MM < 25.0)
    hu[flat] = 40.0
    bed = (Y * MM >= 24.0) & (Y * MM < 27.0) & (Z >= 0) & (X >= 0)
    hu[bed] = 100.0
    body = body_of(hu, organs)
    assert body[flat & rounded(15, 20, 8.0, 6.0, 24.0)].all()
    assert (flat & ~body).sum() < 0.05 * flat.sum()
    assert (body & bed).sum() < 0.002 * animal.sum()


def test_a_mask_around_the_snout_is_no_body(scan):
    """The gap between them is no gas of the animal's: its wall is thinner than the animal's."""
    hu, _, _, _, organs = scan
    snout = rounded(15, 20, 4.0, 26.0)
    mask = rounded(13, 20, 6.2, 26.5) & ~rounded(13, 20, 5.8, 26.5)
    hu[mask], hu[snout] = 60.0, 40.0
    body = body_of(hu, organs)
    assert (body & snout).sum() > 0.9 * snout.sum()
    gap = rounded(13, 20, 5.6, 27.0) & ~rounded(15, 20, 4.6)
    assert (body & gap).sum() < 0.1 * gap.sum()


def test_flaps_of_skin_along_the_animal_are_body(scan):
    """A real mouse lay so: thin at its flanks in every slice, and in the same place."""
    hu, _, _, _, organs = scan
    hu[:] = -1000.0
    trunk = rounded(15, 20, 9.0)
    flap = (abs(Y * MM - 15) < 0.9) & (abs(X * MM - 20) < 12.0) & (Z >= 0)
    waist = (Z * MM > 10.0) & (Z * MM < 20.0) & (abs(X * MM - 20) > 7.0)
    hu[rounded(13, 16, 3.0, 8.0, 20.0) | ((trunk & ~waist) | flap)] = 40.0
    body = body_of(hu, organs)
    assert body[trunk & ~waist].mean() > 0.98
    assert body[flap & (abs(X * MM - 20) < 9.0)].mean() > 0.95


def test_a_tube_through_the_animal_stays_in_it(scan):
    """What has the animal on both sides is no bed, although it goes through every slice."""
    hu, _, _, _, organs = scan
    tube = rounded(15, 20, 0.8)
    hu[tube] = 200.0
    body = body_of(hu, organs)
    assert body[tube & rounded(15, 20, 9.0, 4.0, 26.0)].all()
