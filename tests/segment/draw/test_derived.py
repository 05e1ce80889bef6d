"""ROIs without a network, against SimpleITK's distance maps and plain counting."""

import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK
from scipy import ndimage

from limn.domain.geometry import Reorientation, SpacingMm, axial_grid
from limn.domain.roi_rules import (
    Body,
    Difference,
    Margin,
    ThirdOfOrgan,
    Threshold,
    Union,
    faults_of,
)
from limn.domain.scan import Labels, Volume
from limn.segment.draw import derived
from limn.segment.draw.derived import Scene, derive, grow, thirds
from limn.segment.draw.roi_set import RoiSet
from limn.segment.engine.localisation.orient import AS_IN_HEADER, Lie
from tests.conftest import require_peer

SPACING = SpacingMm(0.3, 0.2, 0.15)
SHAPE = (40, 50, 60)
GRID = axial_grid(SHAPE, SPACING, np.zeros(3))
ORGANS = {1: "Heart", 2: "Liver"}


def blob(seed=0):
    """A smooth random structure away from the borders."""
    noise = np.random.default_rng(seed).normal(size=SHAPE)
    mask = ndimage.gaussian_filter(noise, 3) > 0.02
    inside = np.zeros(SHAPE, bool)
    inside[12:28, 15:35, 18:42] = True
    return mask & inside


def scene(labels_zyx, hu_zyx=None, lie=AS_IN_HEADER):
    """What ROIs are made of, without neighbours."""
    hu = np.full(SHAPE, 40.0, np.float32) if hu_zyx is None else hu_zyx
    volume = Volume(hu, GRID)
    return Scene(
        lambda box: Volume(volume.hu_zyx[box], GRID.part(box)),
        Labels(labels_zyx, GRID, ORGANS),
        lie,
    )


def made(rule, *arguments, **more):
    """The whole mask of one rule."""
    return derive(rule, scene(*arguments, **more)).whole(SHAPE)


def all_made(rules, own):
    """The whole masks of several rules."""
    return [derive(rule, own).whole(SHAPE) for rule in rules]


@pytest.mark.parametrize("mm", [0.4, 1.0, 2.5])
def test_a_margin_is_what_simpleitk_measures(mm):
    """Its signed distance map counts from the middles of voxels too."""
    mask = blob()
    image = SimpleITK.GetImageFromArray(mask.astype(np.uint8))
    image.SetSpacing((SPACING.x, SPACING.y, SPACING.z))
    away = SimpleITK.SignedMaurerDistanceMap(
        image, insideIsPositive=False, squaredDistance=False, useImageSpacing=True
    )
    theirs = SimpleITK.GetArrayFromImage(away) <= mm + 1e-6
    assert np.array_equal(grow(mask, (mm, mm, mm), GRID), theirs)


def test_a_margin_may_differ_along_the_patients_axes():
    """Around one voxel it is an ellipsoid; no growth along an axis is none, whatever the array."""
    mask = np.zeros(SHAPE, bool)
    mask[20, 25, 30] = True
    grown = np.argwhere(grow(mask, (1.5, 0.0, 0.9), GRID)) - (20, 25, 30)
    assert np.ptp(grown, axis=0).tolist() == [6, 0, 20]
    turn = Reorientation.between("SPL", "LIP")
    turned = grow(np.ascontiguousarray(turn.apply(mask)), (1.5, 0.0, 0.9), turn.grid(GRID))
    assert np.array_equal(turned, turn.apply(grow(mask, (1.5, 0.0, 0.9), GRID)))


def test_a_margin_stays_within_what_limits_it():
    """The rest is cut off."""
    labels = blob().astype(np.uint8)
    labels[:, :, 30:][labels[:, :, 30:] == 1] = 2
    rules = [
        Union(name="Both", of=("Heart", "Liver")),
        Margin(name="PRV", of="Heart", mm=1.0, within="Both"),
    ]
    _, grown = all_made(rules, scene(labels))
    assert np.array_equal(grown, grow(labels == 1, (1.0, 1.0, 1.0), GRID) & (labels > 0))


def rod():
    """A cone along the array's first axis, thicker towards its end."""
    z, y, x = np.ogrid[:40, :50, :60]
    radius = 2.0 + 0.1 * z
    inside = ((y - 25) * SPACING.y) ** 2 + ((x - 30) * SPACING.x) ** 2 < radius**2 / 4
    return np.where((z >= 5) & (z < 35) & inside, 1, 0).astype(np.uint8)


@pytest.mark.parametrize(("letters", "base_rows"), [("SPL", (25, 34)), ("IPR", (5, 14))])
def test_thirds_of_the_long_axis_begin_at_the_head(letters, base_rows):
    """Equal lengths; the base is the end towards the animal's head, however it lies."""
    labels = rod()
    own = scene(labels, lie=Lie(letters, 1.0))
    rules = [
        ThirdOfOrgan(name=third, of="Heart", third=third) for third in ("base", "middle", "apex")
    ]
    masks = all_made(rules, own)
    assert np.array_equal(np.sum(masks, axis=0), labels == 1)
    rows = [np.flatnonzero(mask.any(axis=(1, 2))) for mask in masks]
    assert (rows[0][0], rows[0][-1]) == base_rows
    assert [len(each) for each in rows] == [10, 10, 10]


def test_an_organ_that_is_missing_has_no_thirds():
    """And no error."""
    assert not thirds(np.zeros(SHAPE, bool), GRID, np.array([1.0, 0.0, 0.0])).any()


def test_unions_and_differences():
    """By counting."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[5:10, 5:10, 5:10], labels[8:20, 12:20, 12:20] = 1, 2
    assert np.array_equal(made(Union(name="u", of=("Heart", "Liver")), labels), labels > 0)
    rules = [
        Margin(name="m", of="Heart", mm=1.0),
        Difference(name="d", of="m", minus=("Heart", "Liver")),
    ]
    grown, rest = all_made(rules, scene(labels))
    assert np.array_equal(rest, grown & (labels == 0))


def test_a_threshold_within_a_structure_leaves_specks_out():
    """Of its voxels those in the range; a piece of fewer mm3 is none."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[5:35, 5:45, 5:55] = 1
    hu = np.full(SHAPE, 40.0, np.float32)
    hu[10:15, 10:15, 10:15], hu[20, 20, 20], hu[2, 2, 2] = 800.0, 800.0, 800.0
    found = made(Threshold(name="Bone", hu=(300, 3000), within="Heart", min_mm3=0.1), labels, hu)
    assert found.sum() == 125
    assert found[10:15, 10:15, 10:15].all()
    every = made(Threshold(name="Bone", hu=(300, 3000), within="Heart"), labels, hu)
    assert every.sum() == 126


def test_how_stands_in_words():
    """Short enough for ROIDescription, and exact."""
    assert Margin(name="p", of="Heart", mm=1, within="External").how == (
        "Heart grown by 1 mm, within External"
    )
    assert "1 x 2 x 3 mm (x y z)" in Margin(name="p", of="Heart", mm=(1, 2, 3)).how
    assert ThirdOfOrgan(name="a", of="Heart", third="apex").how == (
        "the apex third of the long axis of Heart"
    )
    assert Threshold(name="b", hu=(300, 3000)).how == "300 to 3000 HU within the animal's body"


def test_rules_that_name_what_is_not_there_are_named():
    """A later ROI is not there yet; a name stands for one ROI."""
    rules = [
        Margin(name="PRV", of="Heart", mm=1.0, within="External"),
        Body(name="External"),
        Union(name="Heart", of=("Heart", "Spleen")),
    ]
    first, second, third = faults_of(rules, ["Heart", "Liver"])
    assert "roi PRV: 'External' is neither an organ of the bundle nor an ROI above it" in first
    assert "roi Heart: there is another ROI of this name" in second
    assert "'Spleen'" in third
    assert not faults_of([rules[1], rules[0]], ["Heart"])
    (fault,) = faults_of([rules[1], ThirdOfOrgan(name="a", of="External", third="apex")], ["Heart"])
    assert "only an organ has thirds" in fault


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Body(name=""),
        lambda: Body(name="a\\b"),
        lambda: Body(name="K\u00f6rper"),
        lambda: Body(name="x" * 65),
        lambda: Margin(name="left lung", of="Heart", mm=1.0),
        lambda: Union(name="u", of=()),
        lambda: Difference(name="d", of="Heart", minus=()),
        lambda: Threshold(name="t", hu=(1, 2), min_mm3=float("nan")),
    ],
)
def test_a_rule_that_no_structure_set_holds_is_refused(wrong):
    """When the node starts, and not at the first animal."""
    with pytest.raises(ValueError, match=r"expected|made of nothing"):
        wrong()


def test_an_roi_knows_the_organs_in_it():
    """Those of its sources too, so that their lights are told."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[5:10, 5:10, 5:10], labels[12:15, 5:10, 5:10] = 1, 2
    own = scene(labels)
    derive(Union(name="Both", of=("Heart", "Liver")), own)
    grown = derive(Margin(name="PRV", of="Both", mm=0.4, within="Heart"), own)
    assert grown.organs == ("Heart", "Liver")


def test_a_large_margin_is_nearly_the_exact_one(monkeypatch):
    """To a thousandth of a mm2."""
    mask = blob()
    exact = grow(mask, (1.23, 1.23, 1.23), GRID)
    monkeypatch.setattr(derived, "LARGE_VOXELS", 10)
    assert np.array_equal(grow(mask, (1.23, 1.23, 1.23), GRID), exact)


def test_what_can_t_be_made_stops_nothing():
    """Specks that no contours describe, and an ROI that is made of them, leave flags."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[5:35, 5:45, 5:55] = 1
    hu = np.random.default_rng(3).normal(40, 100, SHAPE).astype(np.float32)
    rules = [
        Threshold(name="Specks", hu=(15, 75), within="Heart"),
        Margin(name="PRV", of="Liver", mm=0.4),
        Union(name="Odd", of=("Nowhere",)),
    ]
    own = scene(labels, hu)
    rois = RoiSet.made(own.labels, rules, own, np.arange(SHAPE[0]), ("keyhole", None))
    assert rois.flags == ("roi-ragged:Specks", "roi-failed:Odd")
    assert [roi.name for roi in rois.derived] == ["PRV"]
    assert rois.volumes_mm3()["PRV"] == 0.0


def test_slices_that_are_missing_are_missing_in_every_roi():
    """A derived ROI is made on the even grid, and kept on the slices that exist."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[10:20, 20:30, 20:30] = 1
    roi = derive(Margin(name="m", of="Heart", mm=0.6), scene(labels))
    rungs = np.array([k for k in range(SHAPE[0]) if k not in (12, 13)])
    kept = roi.on_slices(rungs)
    whole = kept.whole((len(rungs), *SHAPE[1:]))
    assert np.array_equal(whole, roi.whole(SHAPE)[rungs])
    nothing = roi.on_slices(np.array([0, 1, 38]))
    assert nothing.mask_zyx.size == 0


def test_slices_of_an_roi_are_those_of_its_mask():
    """Of organs and of derived ROIs."""
    own = scene(blob().astype(np.uint8))
    rules = [Margin(name="Wide", of="Heart", mm=0.6)]
    rois = RoiSet.made(own.labels, rules, own, np.arange(SHAPE[0]), ("keyhole", None))
    masks = dict(rois.masks())
    assert "Wide" in masks
    found = {
        name: (span, np.stack([each(k) for k in range(SHAPE[0])]))
        for name, span, each in rois.slices()
    }
    assert found.keys() == masks.keys()
    for name, mask in masks.items():
        span, slices = found[name]
        assert np.array_equal(slices, mask)
        assert set(np.flatnonzero(mask.any(axis=(1, 2)))) <= set(span) < set(range(SHAPE[0]))


def test_an_odd_rule_is_an_error():
    """Not an empty ROI."""
    with pytest.raises(TypeError, match="no ROI can be made"):
        derive(SimpleNamespace(name="x"), scene(blob().astype(np.uint8)))


def by_plastimatch(folder, command, array_zyx, *options):
    """What a command of plastimatch makes of an array."""
    image = SimpleITK.GetImageFromArray(array_zyx)
    image.SetSpacing((SPACING.x, SPACING.y, SPACING.z))
    SimpleITK.WriteImage(image, str(folder / "in.mha"))
    call = [require_peer("plastimatch"), command, "--input", str(folder / "in.mha")]
    subprocess.run(
        [*call, "--output", str(folder / "out.mha"), *options], check=True, capture_output=True
    )
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(folder / "out.mha")))


@pytest.mark.peer
@pytest.mark.parametrize("mm", [0.5, 1.0, 2.0])
def test_a_margin_is_what_plastimatch_measures(tmp_path, mm):
    """Volumes within 1 %, and no voxel further from its surface than half a voxel."""
    mask = blob()
    away_mm = by_plastimatch(tmp_path, "dmap", mask.astype(np.uint8), "--algorithm", "maurer")
    mine = grow(mask, (mm, mm, mm), GRID)
    # Its distances count from the outermost voxels of the structure, as limn's do.
    theirs = away_mm <= mm + 1e-4
    assert mine.sum() == pytest.approx(theirs.sum(), rel=0.01)
    differ = mine != theirs
    assert np.abs(away_mm[differ] - mm).max(initial=0.0) <= max(SPACING.zyx) / 2


@pytest.mark.peer
def test_a_threshold_is_what_plastimatch_finds(tmp_path):
    """Every voxel, where no speck is left out."""
    hu = np.random.default_rng(3).normal(250.0, 100.0, SHAPE).astype(np.float32)
    rule = Threshold(name="Bone", kind="threshold", hu=(300.0, 4000.0), within="Heart")
    heart = np.ones(SHAPE, np.uint8)
    theirs = by_plastimatch(tmp_path, "threshold", hu, "--range", "300,4000") > 0
    assert np.array_equal(made(rule, heart, hu), theirs)
