"""A bundle scored on the test animals of a data set, in the paper's tables."""

import csv
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from limn.cli import main
from limn.domain.errors import ConfigWrong
from limn.lab.data.dataset import import_folder, read_dataset
from limn.lab.phantoms import phantom_dataset
from limn.lab.study import score_dataset as scoring
from limn.lab.study.jobs import label_scans
from limn.lab.study.score_dataset import score_dataset
from limn.phantom.cohort import Cohort
from limn.segment.bundle.bundle import Bundle
from tests.lab.data.test_organs import abdomen, write_site
from tests.support.segment.bundles import architecture, random_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Bundle:
    """Networks with weights at random, of the paper's four organs."""
    folder = tmp_path_factory.mktemp("bundle") / "random"
    described = architecture(3, [[1, 1, 1], [2, 2, 2]], [[3, 3, 3]] * 2)
    return random_bundle(folder, described, [16, 16, 16], [0.9, 0.9, 0.9], folds=1)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """Coarse phantoms as NIfTI: two that train, one that tests."""
    folder = tmp_path_factory.mktemp("cohort")
    planned = Cohort(animals=3, time_points=1, contrast_animals=1, contrast_scans=1, spacing_mm=0.9)
    phantom_dataset.write_cohort(folder, planned, workers=1)
    return folder


def test_the_papers_values_stand_beside_those_of_a_bundle(
    bundle, source, tmp_path, capsys, monkeypatch
):
    """Every test scan is contoured once; a second run contours none, and a killed one goes on."""
    dataset, out = tmp_path / "data", tmp_path / "out"
    import_folder(source, dataset, None, None, lambda line: None)
    argv = ["lab", "score", str(bundle.folder), str(dataset), "-o", str(out)]
    assert main.main(argv) == 0
    testing = [entry for entry in read_dataset(dataset) if entry.split != "train"]
    drawn = sorted(out.glob("predicted/3d_fullres/*.nii.gz"))
    assert len(drawn) == len(testing) == 2
    before = [path.stat().st_mtime_ns for path in drawn]
    with (out / "table1.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["Organ"] for row in rows} >= {"Heart", "Spinal Cord", "Right Lung", "Left Lung"}
    page = (out / "tables.md").read_text()
    assert "the rows `here` are this bundle" in page.replace("The rows", "the rows")
    assert " paper " in page
    drawn[0].with_name(f"{testing[0].scan}.json").unlink()
    # The scores of the same labels would be the same.
    monkeypatch.setattr(scoring, "score", lambda *_: None)
    assert main.main(argv) == 0
    after = [path.stat().st_mtime_ns for path in drawn]
    assert sum(a != b for a, b in zip(before, after, strict=True)) == 1
    assert main.main([*argv, "--profile", "stock"]) == 1
    assert "holds the scores of" in capsys.readouterr().err


def test_labels_are_written_under_the_data_sets_numbers(bundle, source, tmp_path):
    """The data set numbers the left lung first; an organ that it lacks is not written."""
    ct = next((source / "scans").glob("*/ct.nii.gz"))
    for name, label_of in (("four", None), ("own", {"Lung_L": 1, "Heart": 2, "Liver": 3})):
        scan = (ct, tmp_path / f"{name}.nii.gz", tmp_path / f"{name}.json")
        label_scans(bundle.folder, bundle.profile, [scan], label_of)
    four, own = (
        SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / f"{name}.nii.gz")))
        for name in ("four", "own")
    )
    assert {1, 4} & set(np.unique(four))
    assert np.array_equal(own, np.array([0, 2, 0, 0, 1])[four])


def test_a_bundle_and_a_data_set_without_a_common_organ_are_refused(bundle, tmp_path):
    """The message says how to give the organs one name."""
    site = write_site(tmp_path / "site", abdomen())
    import_folder(site, tmp_path / "data", site / "layout.toml", None, lambda line: None)
    with pytest.raises(ConfigWrong, match="nothing can be compared"):
        score_dataset(bundle.folder, tmp_path / "data", tmp_path / "o", None, lambda line: None)
