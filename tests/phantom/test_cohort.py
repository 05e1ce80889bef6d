"""A data set with the paper's numbers, divided by animal, of animals that change little."""

from collections import Counter
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from limn.domain.errors import ConfigWrong
from limn.domain.scan import dice
from limn.phantom.anatomy import LUNG_L, LUNG_R, conceive
from limn.phantom.cohort import Cohort, CohortSplit, image, mouse_of, scanner_of
from limn.phantom.scanner import random_scanner
from tests.support.organs import Organ

COARSE = Cohort(spacing_mm=0.7)


def visits_of(cohort, animal):
    """The scans of one animal, by its index in the cohort."""
    return [v for v in cohort.visits if v.animal == cohort.all_animals[animal]]


def test_the_paper_s_numbers():
    """105 scans of 15 animals train; 35 of 5 and 35 contrast-enhanced of 8 test."""
    cohort = Cohort()
    assert Counter(v.animal.split for v in cohort.visits) == {
        CohortSplit.TRAIN: 105,
        CohortSplit.TEST1: 35,
        CohortSplit.TEST2: 35,
    }
    assert Counter(a.split for a in cohort.all_animals) == {
        CohortSplit.TRAIN: 15,
        CohortSplit.TEST1: 5,
        CohortSplit.TEST2: 8,
    }
    assert {v.animal.contrast for v in cohort.visits if v.animal.split is CohortSplit.TEST2} == {
        True
    }
    assert [a.time_points for a in cohort.all_animals] == [7] * 20 + [5] * 3 + [4] * 5
    assert cohort.shape_zyx == (220, 180, 200)


@pytest.mark.parametrize("animals", [1, 2, 3, 5, 20, 33])
@pytest.mark.parametrize("contrast_animals", [0, 1, 8])
def test_no_animal_is_on_two_sides(animals, contrast_animals):
    """Each animal, by name and by seed, has its scans in one split; some animals always test."""
    cohort = Cohort(animals=animals, contrast_animals=contrast_animals)
    splits: dict[object, set[CohortSplit]] = {}
    for visit in cohort.visits:
        for key in (visit.animal.name, visit.animal.seed):
            splits.setdefault(key, set()).add(visit.animal.split)
    assert {len(found) for found in splits.values()} == {1}
    assert len(splits) == 2 * (animals + contrast_animals)
    assert any(v.animal.split is not CohortSplit.TRAIN for v in cohort.visits)
    assert len({v.name for v in cohort.visits}) == len({v.seed for v in cohort.visits})
    assert len({v.name for v in cohort.visits}) == len(cohort.visits)


def test_cohorts_of_two_seeds_share_no_animal():
    """They share no seed of an animal or of a scan."""
    seeds = [{s for v in Cohort(seed=k).visits for s in (v.seed, v.animal.seed)} for k in (0, 1, 2)]
    assert all(not a & b for a, b in combinations(seeds, 2))


def test_equal_seeds_give_equal_cohorts():
    """One seed gives the same voxels, another seed others."""
    visit = COARSE.visits[3]
    volume, truth = image(COARSE, visit)
    again = image(COARSE, visit)
    np.testing.assert_array_equal(volume.hu_zyx, again[0].hu_zyx)
    np.testing.assert_array_equal(truth.labels_zyx, again[1].labels_zyx)
    other = replace(COARSE, seed=1)
    assert (image(other, other.visits[3])[1].labels_zyx != truth.labels_zyx).any()


def test_each_day_has_its_own_noise():
    """Time points differ in every voxel of air, not only where the animal moved."""
    one, two = (image(COARSE, v)[0].hu_zyx[:, :2] for v in visits_of(COARSE, 0)[:2])
    assert (one == two).mean() < 0.2


@pytest.fixture(scope="module")
def truths():
    """The truths of three animals on three days each: [animal][day]."""
    return [[image(COARSE, v)[1] for v in visits_of(COARSE, k)[:5:2]] for k in (0, 7, 16)]


def centred(truth):
    """Heart, right and left lung, moved to a common middle: (3, z, y, x) bool."""
    masks = [truth.mask(organ) for organ in (Organ.HEART, Organ.LUNG_R, Organ.LUNG_L)]
    middle = np.round(np.argwhere(np.any(masks, axis=0)).mean(axis=0)).astype(int)
    shift = np.array(truth.labels_zyx.shape) // 2 - middle
    return np.stack([np.roll(mask, shift, axis=(0, 1, 2)) for mask in masks])


def test_an_animal_changes_less_than_animals_differ(truths):
    """Centred organs: days of one animal agree better than two animals do."""
    shapes = [[centred(truth) for truth in days] for days in truths]

    def mean_dice(pairs):
        return np.mean([[dice(a, b) for a, b in zip(*pair, strict=True)] for pair in pairs])

    within = mean_dice([pair for days in shapes for pair in combinations(days, 2)])
    between = mean_dice([(a[0], b[0]) for a, b in combinations(shapes, 2)])
    assert within > 0.75
    assert within > between + 0.1


def test_an_animal_s_heart_keeps_its_size(truths):
    """It changes by less than 15 % from day to day; between animals it differs more."""
    hearts = np.array([[t.volumes_mm3()[Organ.HEART] for t in days] for days in truths])
    assert (np.ptp(hearts, axis=1) / hearts.mean(axis=1)).max() < 0.15
    assert np.ptp(hearts.mean(axis=1)) > 2 * np.ptp(hearts, axis=1).mean()


@pytest.mark.parametrize("wide", [False, True])
def test_every_organ_is_in_the_field_of_view(wide):
    """No organ touches the edge of the field of view, and every organ has a volume."""
    cohort = replace(COARSE, wide=wide)
    picked = cohort.visits[2::25] if not wide else cohort.visits[2::60]
    for visit in picked:
        truth = image(cohort, visit)[1]
        inner = np.zeros(truth.labels_zyx.shape, dtype=np.bool_)
        inner[1:-1, 1:-1, 1:-1] = True
        assert not truth.labels_zyx[~inner].any(), visit.name
        assert min(truth.volumes_mm3().values()) > 12, visit.name


def test_one_facility_has_one_bed_and_one_scanner():
    """Native scans share position, bed and calibration, and vary less than random scanners."""
    cohort = Cohort()
    native = [v for v in cohort.visits if not v.animal.contrast]
    mice = [mouse_of(cohort, v) for v in native]
    assert len({m.prone for m in mice}) == 1
    assert len({(m.around.seed, m.around.bed_radius_mm, m.around.bed_hu) for m in mice}) == 1
    scanners = [scanner_of(cohort, v) for v in native]
    anywhere = [random_scanner(k, 0.14, (220, 180, 200)) for k in range(len(native))]
    for name in ("offset_hu", "scale", "noise_hu", "blur_mm"):
        here, there = ([getattr(s, name) for s in kind] for kind in (scanners, anywhere))
        assert np.std(here) < np.std(there) / 3, name
    assert {s.truncation_mm for s in scanners} == {None}
    soft = [m.tissue.soft for m in mice]
    assert np.std(soft) < 0.5 * np.std([conceive(v.animal.seed).tissue.soft for v in native])


def test_every_scan_of_a_wide_cohort_has_its_own_scanner():
    """The same animals, but every scan has its own bed and scanner."""
    paper, wide = Cohort(), Cohort(wide=True)
    assert paper.visits == wide.visits
    beds = {mouse_of(wide, v).around.bed_hu for v in wide.visits[:20]}
    assert len(beds) == 20
    assert len({scanner_of(wide, v).offset_hu for v in wide.visits[:20]}) == 20
    one = wide.visits[5]
    assert mouse_of(wide, one).build == mouse_of(paper, one).build


def test_contrast_brightens_the_blood():
    """Blood is brighter than muscle in every enhanced animal and in no native one."""
    cohort = Cohort()
    enhanced = [mouse_of(cohort, v) for v in cohort.visits if v.animal.contrast]
    native = [mouse_of(cohort, v) for v in cohort.visits if not v.animal.contrast]
    assert all(m.contrast for m in enhanced)
    assert not any(m.contrast for m in native)
    assert min(m.tissue.blood - m.tissue.soft for m in enhanced) > 90
    assert max(m.tissue.blood - m.tissue.soft for m in native) < 50


def test_the_right_lung_is_on_the_right():
    """It has the lower columns, and is the larger."""
    truth = image(COARSE, COARSE.visits[0])[1]
    right, left = (np.argwhere(truth.labels_zyx == label) for label in (LUNG_R, LUNG_L))
    assert right[:, 2].mean() < left[:, 2].mean()
    assert len(right) > len(left)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"seed": -1}, "seed -1"),
        ({"animals": -1}, "-1 animals"),
        ({"animals": 0, "contrast_animals": 0}, "0 animals"),
        ({"animals": 1200}, "1208 animals"),
        ({"time_points": 0}, "0 time points"),
        ({"contrast_scans": 3}, "3 contrast-enhanced scans of 8"),
        ({"spacing_mm": 0.0}, "spacing 0.0 mm"),
        ({"spacing_mm": 3.0}, "at least 16 voxels"),
    ],
)
def test_an_impossible_cohort_is_refused(wrong, message):
    """The message states the value and what is expected."""
    with pytest.raises(ConfigWrong, match=message):
        Cohort(**wrong)
