"""Every kind of derived ROI against what SimpleITK makes of the same: volumes and surfaces."""

import numpy as np
import pytest
import SimpleITK

from limn.domain.geometry import SpacingMm, axial_grid
from limn.domain.roi_rules import Body, Difference, Margin, RoiRule, ThirdOfOrgan, Threshold, Union
from limn.domain.scan import Labels, Volume
from limn.segment.draw.derived import Scene, derive
from limn.segment.engine.localisation.orient import Lie

SPACING = SpacingMm(0.35, 0.25, 0.3)
SHAPE = (110, 104, 96)
GRID = axial_grid(SHAPE, SPACING, np.zeros(3))
ORGANS = {1: "Heart", 2: "Lung_R", 3: "Lung_L"}
BODY_MM = (16.0, 9.5, 10.5)
Z, Y, X = (
    (np.arange(n) - (n - 1) / 2) * mm
    for n, mm in zip(SHAPE, (SPACING.z, SPACING.y, SPACING.x), strict=True)
)
Z, Y, X = Z[:, None, None], Y[None, :, None], X[None, None, :]


def egg(at_mm, half_mm, lean=0.0):
    """An ellipsoid whose long axis, the first, leans towards y and x."""
    z, y, x = Z - at_mm[0], Y - at_mm[1], X - at_mm[2]
    y, x = y - lean * z, x + lean * z
    return (z / half_mm[0]) ** 2 + (y / half_mm[1]) ** 2 + (x / half_mm[2]) ** 2 <= 1.0


def animal():
    """HU and labels of a body with heart, lungs, ribs and noise, in free air."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[egg((2.0, 0.0, -4.5), (5.0, 4.0, 2.6))] = 2
    labels[egg((2.0, 0.0, 4.5), (4.6, 3.8, 2.4))] = 3
    labels[egg((2.0, -1.0, 0.0), (3.6, 2.2, 2.4), lean=0.4)] = 1
    hu = np.where(egg((0.0, 0.0, 0.0), BODY_MM), 40.0, -1000.0).astype(np.float32)
    hu[labels > 1] = -600.0
    for z_mm in (-8.0, -4.0, 0.0, 4.0):
        hu[egg((z_mm, 6.0, 0.0), (0.6, 0.7, 5.0))] = 900.0
    hu += np.random.default_rng(5).normal(0.0, 25.0, SHAPE).astype(np.float32)
    return hu, labels


HU, LABELS = animal()
VOLUME = Volume(HU, GRID)


def image(array, spacing=None):
    """As SimpleITK has it."""
    kind = np.float32 if array.dtype.kind == "f" else np.uint8
    made = SimpleITK.GetImageFromArray(array.astype(kind))
    made.SetSpacing(spacing or (SPACING.x, SPACING.y, SPACING.z))
    return made


def away_mm(mask, spacing=None):
    """Signed distances from the surface voxels of a mask, negative inside."""
    found = SimpleITK.SignedMaurerDistanceMap(
        image(mask, spacing), insideIsPositive=False, squaredDistance=False, useImageSpacing=True
    )
    return SimpleITK.GetArrayFromImage(found)


def surface(mask):
    """Its outermost voxels."""
    return SimpleITK.GetArrayFromImage(SimpleITK.LabelContour(image(mask))) > 0


def own(*rules: RoiRule):
    """The mask that limn makes by the last of some rules."""
    scene = Scene(
        lambda box: Volume(VOLUME.hu_zyx[box], GRID.part(box)),
        Labels(LABELS, GRID, ORGANS),
        Lie("SPL", 1.0),
    )
    return [derive(rule, scene).whole(SHAPE) for rule in rules][-1]


def external():
    """The body by threshold, the piece with the heart, and holes: as plain as it can be."""
    tissue = SimpleITK.BinaryThreshold(image(HU), -500.0, 4000.0)
    pieces = SimpleITK.GetArrayFromImage(SimpleITK.ConnectedComponent(tissue))
    body = pieces == np.bincount(pieces[LABELS == 1]).argmax()
    return SimpleITK.GetArrayFromImage(SimpleITK.BinaryFillhole(image(body))) > 0


def third(which):
    """Of the heart, by SimpleITK's principal axes."""
    heart = LABELS == 1
    shape = SimpleITK.LabelShapeStatisticsImageFilter()
    shape.Execute(image(heart))
    axis = np.array(shape.GetPrincipalAxes(1)[-3:])
    places = np.argwhere(heart)
    along = (places[:, ::-1] * (SPACING.x, SPACING.y, SPACING.z)) @ axis
    # The head lies at the end of z.
    along = along if axis[2] < 0 else -along
    share = (along - along.min()) / np.ptp(along)
    found = np.zeros(SHAPE, bool)
    found[tuple(places[np.minimum((share * 3).astype(int), 2) == which].T)] = True
    return found


def bones():
    """Of the body the voxels in the range; pieces of 0.1 mm3 and more."""
    dense = SimpleITK.BinaryThreshold(image(HU), 300.0, 4000.0)
    least = int(np.ceil(0.1 / SPACING.voxel_mm3))
    pieces = SimpleITK.RelabelComponent(
        SimpleITK.ConnectedComponent(dense, True), minimumObjectSize=least
    )
    return (SimpleITK.GetArrayFromImage(pieces) > 0) & external()


def grown_by(mm_xyz):
    """The heart's margin: distances in units of the margin along each axis."""
    along_xyz = (SPACING.x, SPACING.y, SPACING.z)
    scaled = tuple(mm / far for mm, far in zip(along_xyz, mm_xyz, strict=True))
    return away_mm(LABELS == 1, scaled) <= 1.0 + 1e-6


BODY = Body(name="External")
LUNGS = Union(name="Lungs", of=("Lung_R", "Lung_L"))
WIDE = (1.2, 0.8, 2.0)
CASES = {
    "External": ((BODY,), external),
    "margin": ((Margin(name="m", of="Heart", mm=1.3),), lambda: grown_by((1.3, 1.3, 1.3))),
    "margin per axis": ((Margin(name="m", of="Heart", mm=WIDE),), lambda: grown_by(WIDE)),
    "margin clipped": (
        (BODY, Margin(name="m", of="Heart", mm=(9.0, 9.0, 9.0), within="External")),
        lambda: grown_by((9.0, 9.0, 9.0)) & external(),
    ),
    "base": ((ThirdOfOrgan(name="t", of="Heart", third="base"),), lambda: third(0)),
    "middle": ((ThirdOfOrgan(name="t", of="Heart", third="middle"),), lambda: third(1)),
    "apex": ((ThirdOfOrgan(name="t", of="Heart", third="apex"),), lambda: third(2)),
    "lungs": ((LUNGS,), lambda: SimpleITK.GetArrayFromImage(image(LABELS) >= 2) > 0),
    "bone": ((Threshold(name="b", hu=(300, 4000), min_mm3=0.1),), bones),
    "difference": (
        (BODY, LUNGS, Difference(name="d", of="External", minus=("Lungs",))),
        lambda: external() & (LABELS < 2),
    ),
}


@pytest.mark.parametrize(("rules", "theirs"), CASES.values(), ids=list(CASES))
def test_volumes_within_a_hundredth_and_surfaces_within_half_a_voxel(rules, theirs):
    """On the mean of the surface; where the two differ most, by the next voxel."""
    mine, other = own(*rules), theirs()
    assert other.sum() > 100
    assert mine.sum() == pytest.approx(other.sum(), rel=0.01)
    theirs_mm = np.abs(away_mm(surface(other)))[surface(mine)]
    assert theirs_mm.mean() <= 0.5 * min(SPACING.zyx)
    assert theirs_mm.max() <= max(SPACING.zyx) + 1e-6
