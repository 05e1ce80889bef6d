import itertools
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from limn.domain.errors import ConfigWrong
from limn.domain.scan import Labels, occupied_box
from limn.phantom.anatomy import KIDNEY_L, KIDNEY_R, LIVER, TRUTH_LABELS, WHOLE_LABELS
from limn.phantom.faults import FAULTS, UNSEEN, SpoiltScan, spoilt_scan
from tests.support.organs import Organ

SPACING_MM = 0.8
# Its field has the usual length, and it has no contrast agent.
SEED = 6
SIDES = [name for name, fault in FAULTS.items() if fault.family == "sides"]
LUNGS = (Organ.LUNG_R, Organ.LUNG_L)


@cache
def scan_of(fault: str, seed: int = SEED) -> SpoiltScan:
    """The scan of a fault, made once."""
    return spoilt_scan(fault, seed, spacing_mm=SPACING_MM)


def truth_of(fault: str, seed: int = SEED) -> Labels:
    """The truth of a scan that has one."""
    truth = scan_of(fault, seed).truth
    assert truth is not None
    return truth


def middle_xyz_mm(labels: Labels, organ: Organ) -> np.ndarray:
    """Where the header says that an organ lies."""
    z, y, x = np.argwhere(labels.mask(organ)).mean(axis=0)
    plane = labels.grid.plane_points_xyz_mm(0, np.array([[y, x]]))[0]
    return plane + np.array([0.0, 0.0, z * labels.grid.spacing_mm.z])


def lung_hu(fault: str) -> float:
    """Mean HU of both lungs of the truth."""
    lungs = np.isin(truth_of(fault).labels_zyx, (3, 4))
    return float(scan_of(fault).volume.hu_zyx[lungs].mean())


def air_hu(fault: str) -> float:
    """The commonest value of the corners at the animal's head."""
    counts = np.unique(scan_of(fault).volume.hu_zyx[:, :4, :4].round(-1), return_counts=True)
    return float(counts[0][counts[1].argmax()])


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_gives_a_scan_and_its_truth_on_one_grid(fault):
    """The numbers are whole and finite, and the header stays S, P, L."""
    scan = scan_of(fault)
    assert (scan.fault, scan.seed) == (fault, SEED)
    assert scan.volume.grid.axis_letters == "SPL"
    assert scan.volume.hu_zyx.dtype == np.float32
    assert np.isfinite(scan.volume.hu_zyx).all()
    np.testing.assert_array_equal(scan.volume.hu_zyx, np.round(scan.volume.hu_zyx))
    assert scan.sides == ("exchanged" if fault in SIDES else "kept")
    if scan.truth is not None:
        assert scan.truth.grid is scan.volume.grid
        assert set(np.unique(scan.truth.labels_zyx)) <= {0, *TRUTH_LABELS}


@pytest.mark.parametrize("fault", sorted({f.family: f.name for f in FAULTS.values()}.values()))
def test_equal_seeds_give_equal_scans(fault):
    """The last kind of every family, made twice."""
    scan, again = scan_of(fault), spoilt_scan(fault, SEED, spacing_mm=SPACING_MM)
    np.testing.assert_array_equal(scan.volume.hu_zyx, again.volume.hu_zyx)
    assert scan.severity == again.severity
    if scan.truth is not None:
        np.testing.assert_array_equal(scan.truth.labels_zyx, again.truth.labels_zyx)


@pytest.mark.parametrize("fault", FAULTS)
def test_the_seed_draws_the_severity_within_its_range(fault):
    """Two hundred draws stay in the range, and fill it where there is one."""
    fault = FAULTS[fault]
    rng = np.random.default_rng(1)
    drawn = [fault.severities.draw(rng) for _ in range(200)]
    if fault.severities.ends is None:
        assert set(drawn) == set(fault.severities.listed)
    else:
        low, high = fault.severities.ends
        sizes = np.abs(drawn) if fault.severities.either_sign else drawn
        assert low <= min(sizes) < low + 0.1 * (high - low)
        assert high - 0.1 * (high - low) < max(sizes) <= high
    assert (min(drawn) < 0 < max(drawn)) or not fault.severities.either_sign


def test_another_seed_gives_another_animal():
    """Spacing, animal and scanner follow from the seed."""
    first, second = scan_of("none"), scan_of("none", SEED + 1)
    assert first.volume.hu_zyx.mean() != second.volume.hu_zyx.mean()
    drawn = spoilt_scan("empty", SEED).volume.grid.spacing_mm.x
    assert 0.14 <= drawn <= 0.25


def test_an_unknown_fault_is_refused():
    """The message names the faults."""
    with pytest.raises(ConfigWrong, match=r"'haunted' is unknown.*wide"):
        spoilt_scan("haunted", 1)


def test_the_unseen_kinds_are_of_three_families():
    """They are in the table."""
    assert len({FAULTS[name].family for name in UNSEEN}) == 3


def test_the_documentation_has_every_kind_in_its_family():
    """The table of docs/phantom.md is the one in the code."""
    page = Path(__file__).parents[2] / "docs" / "phantom.md"
    lines = page.read_text().splitlines()
    for family in {fault.family for fault in FAULTS.values()}:
        kinds = [fault.name for fault in FAULTS.values() if fault.family == family]
        assert f"| {family} | {', '.join(kinds)} |" in lines


@pytest.mark.parametrize("fault", ["none", "wide"])
def test_a_good_scan_shows_every_organ(fault):
    """No organ is missing or tiny, and neither heart nor lung touches the field's edge."""
    truth = truth_of(fault)
    assert min(truth.volumes_mm3().values()) > 20
    chest = np.isin(truth.labels_zyx, (1, 3, 4))
    assert chest.sum() == chest[1:-1, 1:-1, 1:-1].sum()
    assert -900 < lung_hu(fault) < -250


def test_a_mirror_image_along_x_has_its_left_lung_on_the_right():
    """Pixels and truth are flipped, the grid is not."""
    plain, mirrored = truth_of("wide"), truth_of("mirrored-x")
    assert middle_xyz_mm(plain, Organ.LUNG_L)[0] > middle_xyz_mm(plain, Organ.LUNG_R)[0]
    assert middle_xyz_mm(mirrored, Organ.LUNG_L)[0] < middle_xyz_mm(mirrored, Organ.LUNG_R)[0]
    np.testing.assert_array_equal(
        scan_of("mirrored-x").volume.hu_zyx, scan_of("wide").volume.hu_zyx[:, :, ::-1]
    )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("fault", ["turned", "mirrored-turned"])
def test_only_a_mirror_image_changes_the_handedness(fault, seed):
    """Left, dorsal and cranial as the truth has them are right-handed unless exchanged."""
    handed = []
    for name in ("wide", fault):
        truth = truth_of(name, seed)
        left = middle_xyz_mm(truth, Organ.LUNG_L) - middle_xyz_mm(truth, Organ.LUNG_R)
        back = middle_xyz_mm(truth, Organ.CORD) - middle_xyz_mm(truth, Organ.HEART)
        belly = middle_xyz_mm(truth, Organ.HEART) - middle_xyz_mm(truth, Organ.LUNG_L)
        handed.append(np.linalg.det([left, back, belly]))
    turned = scan_of(fault, seed)
    assert np.sign(handed[0] * handed[1]) == (-1 if turned.sides == "exchanged" else 1)
    assert not np.array_equal(turned.volume.hu_zyx, scan_of("wide", seed).volume.hu_zyx)
    middle = [
        (grid.slice_origins_xyz_mm[0] + grid.plane_points_xyz_mm(-1, corner)[0]) / 2
        for grid in (turned.volume.grid, scan_of("wide", seed).volume.grid)
        for corner in [np.array([[grid.rows - 1.0, grid.columns - 1.0]])]
    ]
    np.testing.assert_allclose(middle[0], middle[1], atol=1e-6)


@pytest.mark.parametrize("fault", ["hu-shifted", "hu-shifted-far"])
def test_shifted_numbers_move_the_air(fault):
    """Air lies at -1000 and the shift."""
    assert air_hu(fault) == pytest.approx(-985 + scan_of(fault).severity, abs=40)


def test_scaled_numbers_stretch_the_distance_from_lung_to_muscle():
    """The contrast of heart and lung grows by the factor."""
    gaps = []
    for fault in ("hu-shifted", "hu-scaled-far"):
        hu, truth = scan_of(fault).volume.hu_zyx, truth_of(fault)
        gaps.append(hu[truth.mask(Organ.HEART)].mean() - hu[truth.mask(Organ.LUNG_R)].mean())
    assert gaps[1] / gaps[0] == pytest.approx(scan_of("hu-scaled-far").severity, rel=0.05)


def test_clipped_and_inverted_numbers():
    """A clipped scan has a range of its severity; an inverted one has bright air."""
    clipped = scan_of("clipped")
    assert np.ptp(clipped.volume.hu_zyx) <= clipped.severity + 1
    assert air_hu("inverted") > 900


def test_a_wrong_size_is_in_the_grid_alone():
    """Spacing and every distance are wrong by the factor, the voxels are right."""
    wrong, right = scan_of("size-wrong"), scan_of("wide")
    np.testing.assert_array_equal(wrong.volume.hu_zyx, right.volume.hu_zyx)
    assert wrong.volume.grid.spacing_mm.x == pytest.approx(wrong.severity * SPACING_MM)
    moved = middle_xyz_mm(truth_of("size-wrong"), Organ.HEART)
    np.testing.assert_allclose(
        moved, wrong.severity * middle_xyz_mm(truth_of("wide"), Organ.HEART), rtol=1e-6
    )


def test_a_rat_is_larger_and_a_pup_smaller():
    """Heart and lungs have volumes of their size."""
    usual = sum(truth_of("wide").volumes_mm3().values())
    assert sum(truth_of("rat").volumes_mm3().values()) > 5 * usual
    assert sum(truth_of("pup").volumes_mm3().values()) < usual / 3


@pytest.mark.parametrize(
    ("fault", "axis", "face"),
    [
        ("cut-cranial", 0, -1),
        ("cut-caudal", 0, 0),
        ("cut-dorsal", 1, -1),
        ("cut-ventral", 1, 0),
        ("cut-left", 2, -1),
        ("cut-right", 2, 0),
    ],
)
def test_a_cut_chest_touches_that_face(fault, axis, face):
    """Heart and lungs reach the field's edge there, and a part of them is gone."""
    chest = np.isin(truth_of(fault).labels_zyx, (1, 3, 4))
    assert np.take(chest, face, axis).any()
    whole = np.isin(truth_of("wide").labels_zyx, (1, 3, 4))
    assert chest.sum() < 0.99 * whole.sum()


@pytest.mark.parametrize("fault", ["truncated", "padded"])
def test_nothing_is_drawn_outside_the_cylinder(fault):
    """Outside, the image has one value and the truth no organ."""
    scan = scan_of(fault)
    grid = scan.volume.grid
    y = (np.arange(grid.rows) - grid.rows / 2) * grid.spacing_y_mm
    x = (np.arange(grid.columns) - grid.columns / 2) * grid.spacing_x_mm
    outside = np.hypot(y[:, None], x[None, :]) > scan.severity
    assert outside.any()
    assert len(np.unique(scan.volume.hu_zyx[:, outside])) == 1
    assert not truth_of(fault).labels_zyx[:, outside].any()


@pytest.mark.parametrize(
    "fault", ["noisy", "ringed", "streaky", "photon-starved", "metal", "breathing", "doubled"]
)
def test_what_hides_edges_leaves_the_truth(fault):
    """The image differs, the truth does not but for metal itself."""
    image, plain = scan_of(fault).volume.hu_zyx, scan_of("wide").volume.hu_zyx
    assert np.abs(image - plain).max() > 100
    assert (truth_of(fault).labels_zyx != truth_of("wide").labels_zyx).mean() < 1e-3


def test_blur_takes_the_edges():
    """The steepest slopes are flatter."""
    slopes = [np.percentile(np.diff(scan_of(f).volume.hu_zyx), 99.9) for f in ("blurred", "wide")]
    assert slopes[0] < 0.9 * slopes[1]


def test_metal_is_as_dense_as_metal():
    """Some voxel has far more HU than bone."""
    assert max(scan_of("metal", seed).volume.hu_zyx.max() for seed in range(4)) > 5000


@pytest.mark.parametrize("fault", ["tumour", "nodules", "collapsed-lobe", "consolidated-lungs"])
def test_a_diseased_lung_is_denser_and_still_lung(fault):
    """The truth is that of the healthy animal."""
    np.testing.assert_array_equal(truth_of(fault).labels_zyx, truth_of("wide").labels_zyx)
    assert lung_hu(fault) > lung_hu("wide") + 3


@pytest.mark.parametrize(("fault", "filled_hu"), [("pneumothorax", -950), ("pleural-fluid", 0)])
def test_a_lung_shrinks_from_what_fills_the_chest(fault, filled_hu):
    """One lung has lost its share; where it was is air or fluid; the other is as it was."""
    scan, before = scan_of(fault), truth_of("wide").volumes_mm3()
    after = truth_of(fault).volumes_mm3()
    kept = sorted(after[organ] / before[organ] for organ in LUNGS)
    assert kept[0] == pytest.approx(1 - scan.severity, abs=0.12)
    assert kept[1] == pytest.approx(1.0, abs=0.02)
    left = (truth_of("wide").labels_zyx > 2) & (truth_of(fault).labels_zyx == 0)
    usual = scan_of("wide").volume.hu_zyx[left].mean()
    hu = scan.volume.hu_zyx[left].mean()
    assert abs(hu - filled_hu) < abs(usual - filled_hu)


def test_builds_differ():
    """A large heart, much fat and little fat show."""
    heart = truth_of("enlarged-heart").volumes_mm3()[Organ.HEART]
    assert heart > 1.25 * truth_of("wide").volumes_mm3()[Organ.HEART]
    body = {
        f: (scan_of(f).volume.hu_zyx > -300).sum() for f in ("fat-animal", "wide", "thin-animal")
    }
    assert body["fat-animal"] > 1.1 * body["wide"] > 1.17 * body["thin-animal"]


def test_extreme_contrast_is_in_the_blood():
    """Chambers outshine muscle, or heart and liver are alike."""
    severities = set()
    for seed in range(5):
        scan, truth = scan_of("contrast-extreme", seed), truth_of("contrast-extreme", seed)
        smooth = ndimage.gaussian_filter(scan.volume.hu_zyx, 0.8)
        heart_hu = np.percentile(smooth[truth.mask(Organ.HEART)], 90)
        assert (heart_hu > 250) == (scan.severity > 0)
        severities.add(scan.severity)
    assert len(severities) > 2
    assert 0.0 in severities


@pytest.mark.parametrize("fault", ["abdomen-only", "head-only", "empty", "body-another"])
def test_where_no_chest_is_there_is_no_heart_or_lung(fault):
    """The truth is None, or the end of an organ that reaches into the field."""
    for seed in range(3):
        truth = scan_of(fault, seed).truth
        assert truth is None or not truth.mask(Organ.HEART).any()
    assert scan_of("empty").truth is None


def test_a_limb_is_as_large_as_a_persons():
    """Muscle is tens of millimetres across."""
    scan = scan_of("body-another")
    box = occupied_box(scan.volume.hu_zyx[len(scan.volume.hu_zyx) // 2][None] > -300)
    assert (box[2].stop - box[2].start) * scan.volume.grid.spacing_x_mm > 40


def test_a_second_animal_lies_in_a_wider_field():
    """The field is wider by the severity, the truth is the first animal's alone."""
    scan, plain = scan_of("two-animals"), scan_of("wide")
    wider = (scan.volume.grid.columns - plain.volume.grid.columns) * SPACING_MM
    assert wider == pytest.approx(scan.severity, abs=SPACING_MM)
    before, after = truth_of("wide").volumes_mm3(), truth_of("two-animals").volumes_mm3()
    assert all(after[organ] == pytest.approx(before[organ], rel=0.1) for organ in before)


@pytest.mark.parametrize("seed", range(3))
def test_a_band_of_slices_is_blank_or_repeats(seed):
    """Each slice of the band is flat and without organs, or equals the one before it."""
    scan, truth = scan_of("missing-slices-blank", seed), truth_of("missing-slices-blank", seed)
    pairs = itertools.pairwise(scan.volume.hu_zyx)
    same = np.array([np.array_equal(first, second) for first, second in pairs])
    flat = np.ptp(scan.volume.hu_zyx, axis=(1, 2)) == 0
    shown = (truth_of("wide", seed).labels_zyx.any(axis=(1, 2))).sum()
    missing = max(same.sum(), flat.sum())
    assert missing == pytest.approx(scan.severity * shown, abs=2)
    assert not truth.labels_zyx[flat].any()


@pytest.mark.parametrize("fault", ["none", "mirrored-x", "pleural-fluid"])
def test_a_whole_body_has_the_truth_of_every_organ(fault):
    """In a long field, so that a judge learns of kidneys too."""
    scan = spoilt_scan(fault, SEED, spacing_mm=0.9, whole_body=True)
    assert scan.truth is not None
    assert tuple(scan.truth.organs.values()) == tuple(WHOLE_LABELS.values())
    found = {int(label) for label in np.unique(scan.truth.labels_zyx)} - {0}
    assert found >= {*TRUTH_LABELS, LIVER, KIDNEY_L, KIDNEY_R}
    grid = scan.volume.grid
    assert grid.shape_zyx[0] * grid.spacing_mm.z > 50
