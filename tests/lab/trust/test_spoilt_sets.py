"""Which scans teach a judge and which try it, of phantoms and of a site's data set."""

import csv
from dataclasses import asdict

import numpy as np
import pytest
import SimpleITK

from limn.domain.errors import ConfigWrong
from limn.domain.geometry import SpacingMm, axial_grid
from limn.formats.label_files import image_of
from limn.lab.data.dataset import COLUMNS, MANIFEST, Entry
from limn.lab.trust.spoilt_dataset import SPOILT_EACH, dataset_set
from limn.lab.trust.spoilt_set import GOOD, phantom_set
from limn.phantom.faults import FAULTS, PIXEL_FAULTS, UNSEEN

SHAPE = (40, 32, 36)


def test_the_two_sets_share_no_animal_and_three_kinds_teach_nobody():
    """One scan in four is a good one, in every beginning of a set."""
    teach, tried = phantom_set("teach", 400), phantom_set("try", 400)
    assert not {scan.seed for scan in teach} & {scan.seed for scan in tried}
    assert len({scan.seed for scan in (*teach, *tried)}) == 800
    assert {scan.fault for scan in tried} == set(FAULTS)
    assert {scan.fault for scan in teach} == set(FAULTS) - set(UNSEEN)
    for scans in (teach, tried):
        assert all((scan.fault in GOOD) == (k % 4 == 0) for k, scan in enumerate(scans))
    assert phantom_set("try", 60) == tried[:60]


def labelled(names):
    """Labels of a scan, a slab for each number."""
    labels = np.zeros(SHAPE, np.uint8)
    for k, name in enumerate(names):
        labels[8 + 6 * k : 12 + 6 * k, 10:20, 10:30] = name
    return labels


@pytest.fixture
def dataset(tmp_path):
    """One scan with all organs, one with both lungs as one, one without contours."""
    grid = axial_grid(SHAPE, SpacingMm(0.5, 0.4, 0.3), np.zeros(3))
    rows = []
    for name, labels in (("a", (1, 2, 3, 4)), ("b", (1, 2, 5)), ("c", None)):
        hu = np.random.default_rng(1).normal(-200, 300, SHAPE).astype(np.float32)
        SimpleITK.WriteImage(image_of(hu, grid), str(tmp_path / f"{name}.nii.gz"))
        contours = ""
        if labels:
            contours = f"{name}-1.nii.gz"
            image = image_of(labelled(labels), grid)
            SimpleITK.WriteImage(image, str(tmp_path / contours))
        rows.append(
            Entry(name, name, "0", "no", "test1", "", f"{name}.nii.gz", contours, *("",) * 5, name)
        )
    with (tmp_path / MANIFEST).open("w", newline="") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        table.writerows(map(asdict, rows))
    return tmp_path


def test_a_contoured_scan_teaches_as_it_is_and_spoilt(dataset):
    """One without contours, or with both lungs as one, does not."""
    cases = dataset_set(dataset)
    assert {case.ct.name for case in cases} == {"a.nii.gz"}
    assert [case.fault == "none" for case in cases] == [True] + [False] * SPOILT_EACH
    assert {case.fault for case in cases[1:]} <= set(PIXEL_FAULTS) - set(UNSEEN)
    assert len({case.seed for case in cases}) == len(cases)


def test_a_case_is_read_with_its_truth_and_spoilt(dataset):
    """As it is the pixels and the labels are those of the files."""
    plain, *spoilt = dataset_set(dataset)
    made = plain.make()
    assert made.volume.grid.spacing_mm.zyx == pytest.approx((0.5, 0.4, 0.3))
    assert np.array_equal(made.truth.labels_zyx, labelled((1, 2, 3, 4)))
    assert all(case.make().fault == case.fault for case in spoilt)


def test_a_data_set_that_can_t_teach_is_refused(dataset):
    """It says what is missing."""
    (dataset / "a-1.nii.gz").write_bytes((dataset / "b-1.nii.gz").read_bytes())
    with pytest.raises(
        ConfigWrong, match="no scan has contours of Heart and SpinalCord and Lung_R"
    ):
        dataset_set(dataset)
