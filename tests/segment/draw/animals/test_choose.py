import dataclasses
import functools

import numpy as np
import pytest
import SimpleITK

from limn.domain.errors import RefusedSeries
from limn.domain.geometry import Grid, Reorientation, SpacingMm, axial_grid
from limn.domain.scan import Labels, Volume
from limn.phantom.anatomy import conceive
from limn.phantom.body import inside
from limn.phantom.scanner import random_scanner, scan
from limn.segment.draw.animals.choose import keep_one_animal

SPACING_MM = 0.45
AIR_HU = -1000.0


@functools.cache
def scanned(seed: int, *, prone: bool, neighbour: bool) -> tuple[Volume, Labels, float]:
    """A coarse scan with the labelled animal nearest to the middle, and the side of the other."""
    mouse = conceive(seed, prone=prone, neighbour=neighbour)
    other_mm = mouse.around.neighbour_xyz_mm[0] if mouse.around.neighbour_xyz_mm else 0.0
    scanner = random_scanner(seed, SPACING_MM, (50, 58, 134 if neighbour else 68))
    # Two thirds on its own side: the labelled animal is the more central one.
    x_mm = np.sign(other_mm) * (abs(other_mm) / 2 - 3)
    scanner = dataclasses.replace(scanner, centre_xyz_mm=(x_mm, *scanner.centre_xyz_mm[1:]))
    volume, labels = scan(mouse, scanner, seed)
    return volume, labels, other_mm


def columns_mm(volume: Volume) -> np.ndarray:
    """Left-right position of every column of an axial scan."""
    origin = volume.grid.slice_origins_xyz_mm[0, 0]
    return origin + np.arange(volume.grid.columns) * volume.grid.spacing_x_mm


@pytest.mark.parametrize(("seed", "prone"), [(3, True), (11, False), (12, True)])
@pytest.mark.parametrize("rule", ["largest", "central", "refuse"])
def test_one_mouse_is_left_alone(seed, prone, rule):
    """A single animal on its bed passes every rule, the very same volume comes back."""
    volume, _, _ = scanned(seed, prone=prone, neighbour=False)
    located = keep_one_animal(volume, rule)
    assert located.animals == 1
    assert located.volume is volume


def test_the_shared_mouse_is_one_animal(mouse):
    """The finer phantom of these tests is one animal too."""
    assert keep_one_animal(mouse[0], "refuse").volume is mouse[0]


@pytest.mark.parametrize(("seed", "prone"), [(1, True), (2, False), (4, True)])
def test_of_two_mice_one_stays_whole_and_the_other_becomes_air(seed, prone):
    """The central one keeps every voxel of its body, nothing of the neighbour is left."""
    volume, labels, other_mm = scanned(seed, prone=prone, neighbour=True)
    before = volume.hu_zyx.copy()
    located = keep_one_animal(volume, "central")
    np.testing.assert_array_equal(volume.hu_zyx, before)
    assert located.animals == 2
    other = np.abs(columns_mm(volume) - other_mm) < 7
    assert (before[:, :, other] > 0).sum() > 3_000
    assert (located.volume.hu_zyx[:, :, other] == AIR_HU).all()
    changed = located.volume.hu_zyx != before
    assert not changed[labels.labels_zyx > 0].any()
    # A paw that reaches over to the neighbour may go with it.
    body = inside(conceive(seed, prone=prone, neighbour=True), volume.grid)
    assert changed[body].mean() < 0.02


@pytest.mark.parametrize(("seed", "prone"), [(1, True), (2, False)])
def test_the_largest_of_two_stays(seed, prone):
    """A neighbour that the field cuts off becomes air under the rule "largest"."""
    volume, labels, other_mm = scanned(seed, prone=prone, neighbour=True)
    hu = volume.hu_zyx.copy()
    x_mm = columns_mm(volume)
    # Cut the neighbour's head and shoulders off the picture.
    hu[-18:][:, :, np.abs(x_mm - other_mm) < 13] = AIR_HU
    located = keep_one_animal(Volume(hu, volume.grid), "largest")
    assert located.animals == 2
    assert (located.volume.hu_zyx[:, :, np.abs(x_mm - other_mm) < 7] == AIR_HU).all()
    assert not (located.volume.hu_zyx != hu)[labels.labels_zyx > 0].any()


@pytest.mark.parametrize(("seed", "prone"), [(1, True), (2, False)])
def test_a_site_may_refuse_two_animals(seed, prone):
    """Under the rule "refuse" two animals refuse the series, and the setting is named."""
    volume, _, _ = scanned(seed, prone=prone, neighbour=True)
    with pytest.raises(RefusedSeries, match=r"2 animals in the field; set two_animals to"):
        keep_one_animal(volume, "refuse")


def test_two_mice_are_found_in_any_orientation():
    """A coronal stack stored backwards keeps the same animal's voxels."""
    volume, _, _ = scanned(4, prone=True, neighbour=True)
    wanted = keep_one_animal(volume, "central").volume.hu_zyx
    image = SimpleITK.GetImageFromArray(volume.hu_zyx)
    image.SetSpacing([SPACING_MM] * 3)
    image.SetOrigin(volume.grid.slice_origins_xyz_mm[0].tolist())
    turned = SimpleITK.DICOMOrient(image, "RIA")
    direction = np.array(turned.GetDirection()).reshape(3, 3)
    columns, rows, slices = turned.GetSize()
    origins = np.array(turned.GetOrigin()) + np.outer(
        np.arange(slices) * SPACING_MM, direction[:, 2]
    )
    grid = Grid(origins, rows, columns, SPACING_MM, SPACING_MM, direction[:, 0], direction[:, 1])
    located = keep_one_animal(Volume(SimpleITK.GetArrayFromImage(turned), grid), "central")
    assert located.animals == 2
    found = SimpleITK.GetImageFromArray(located.volume.hu_zyx)
    found.CopyInformation(turned)
    back = SimpleITK.GetArrayFromImage(SimpleITK.DICOMOrient(found, "LPS"))
    # Coarse blocks start at the other end; the cut may lie a block further.
    assert (back != wanted).mean() < 0.03
    own = np.abs(columns_mm(volume)) < 11
    np.testing.assert_array_equal(back[:, :, own], wanted[:, :, own])


def plain(shape=(60, 80, 80)) -> np.ndarray:
    """Air."""
    return np.full(shape, AIR_HU, np.float32)


def volume_of(hu: np.ndarray) -> Volume:
    """Voxels on a plain grid of 0.45 mm."""
    return Volume(hu, axial_grid(hu.shape, SpacingMm(*[SPACING_MM] * 3), np.zeros(3)))


def test_a_bed_is_no_animal():
    """A flat bed of 2 mm alone in the field is no animal, and it stays as it is."""
    hu = plain()
    hu[:, 60:64] = 100.0
    located = keep_one_animal(volume_of(hu), "refuse")
    assert located.animals == 0
    assert located.volume.hu_zyx is hu


def test_air_is_no_animal():
    """An empty field has no animal."""
    assert keep_one_animal(volume_of(plain()), "largest").animals == 0


def test_a_bed_and_a_tube_beside_an_animal_are_no_second_animal():
    """Bed and anaesthesia tube do not count beside a body, nor does a phantom rod of 5 mm."""
    hu = plain()
    hu[:, 62:66] = 100.0
    _, y, x = np.indices(hu.shape)
    hu[(y - 36) ** 2 + (x - 30) ** 2 < 22**2] = 30.0
    hu[(y - 40) ** 2 + (x - 70) ** 2 < 5.6**2] = 30.0
    located = keep_one_animal(volume_of(hu), "refuse")
    assert located.animals == 1


def test_a_body_broken_by_gas_is_one_animal():
    """Thorax and belly that a layer of gas parts lie behind each other, so they are one animal."""
    hu = plain()
    z, y, x = np.indices(hu.shape)
    hu[(y - 40) ** 2 + (x - 40) ** 2 < 25**2] = 30.0
    hu[(z > 27) & (z < 33)] = AIR_HU
    assert keep_one_animal(volume_of(hu), "refuse").animals == 1


@pytest.mark.parametrize("letters", ["SPL", "IAL", "PIL"])
def test_a_part_is_a_cut_of_the_whole(letters):
    """A box of the scan has the voxels and the places of the whole, the neighbour as air too."""
    volume, _, _ = scanned(4, prone=True, neighbour=True)
    turn = Reorientation.between("SPL", letters)
    turned = Volume(np.ascontiguousarray(turn.apply(volume.hu_zyx)), turn.grid(volume.grid))
    located = keep_one_animal(turned, "central")
    box = tuple(slice(n // 5, n - n // 4) for n in turned.hu_zyx.shape)
    part, whole = located.part(box), located.volume
    np.testing.assert_array_equal(part.hu_zyx, whole.hu_zyx[box])
    corner = np.array([[box[1].start, box[2].start]], dtype=float)
    np.testing.assert_allclose(
        part.grid.slice_origins_xyz_mm[0],
        whole.grid.plane_points_xyz_mm(box[0].start, corner)[0],
    )
    assert part.grid.axis_letters == letters


def test_the_coarse_picture_shows_one_animal():
    """It is turned to S, P, L, and has air where the other animal is."""
    volume, _, other_mm = scanned(4, prone=True, neighbour=True)
    picture = keep_one_animal(volume, "central").coarse_spl
    columns = columns_mm(volume)
    at = np.linspace(columns[0], columns[-1], picture.shape[2])
    assert (picture[:, :, np.abs(at - other_mm) < 6] == AIR_HU).all()
    assert (picture[:, :, np.abs(at) < 6] > -300).sum() > 1000
