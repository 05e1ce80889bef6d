"""``limn contour DIR -o NEW --against OLD``: a past cohort drawn again, and how that differs."""

import csv

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import binary_dilation

from limn.cli import main
from limn.domain.scan import dice
from limn.node.batch import here, many_folders
from limn.node.contour.work.warm import Warm, options_of
from limn.segment.bundle.bundle import glance, open_bundle
from tests.conftest import BUNDLE, one_fold
from tests.support.node.fake_shadow import LargerHearts
from tests.support.node.fake_worker import FakeEnsemble
from tests.support.node.toy import ORGANS, toy, write_toy
from tests.support.organs import Organ


@pytest.fixture
def contour(monkeypatch, tmp_path, capsys):
    """``limn contour`` of the cohort, with a network that thresholds."""

    def run(ensemble, bundle, out, *options):
        def warm_up(config):
            found = open_bundle(config.model.bundle)
            return Warm(ensemble(found), options_of(config, found))

        monkeypatch.setattr(here, "warm_up", warm_up)
        # This process has other tests to run.
        monkeypatch.setattr(many_folders, "step_back", lambda: None)
        folders = ["contour", str(tmp_path / "cohort"), "-o", str(tmp_path / out)]
        code = main.main([*folders, "--bundle", str(bundle), *options])
        return code, capsys.readouterr()

    return run


def rows_of(path):
    """The table, by series and organ."""
    with path.open() as file:
        return {(row["series"], row["organ"]): row for row in csv.DictReader(file)}


def hearts(made):
    """The heart of a toy, and a larger one, by its density."""
    ordered = sorted(made.datasets, key=lambda ds: float(ds.ImagePositionPatient[2]))
    slope, intercept = ordered[0].RescaleSlope, ordered[0].RescaleIntercept
    hu_zyx = np.stack([ds.pixel_array for ds in ordered]) * float(slope) + float(intercept)
    near = {organ: np.abs(hu_zyx - hu) < 40 for organ, (_, _, hu) in ORGANS.items()}
    heart = near[Organ.HEART]
    others = np.any([mask for organ, mask in near.items() if organ != Organ.HEART], axis=0)
    return heart, heart | (binary_dilation(heart) & ~others)


def test_each_organ_of_each_scan_and_the_worst_drawn(contour, tmp_path):
    """The larger heart differs as much as its voxels do; the others do not differ."""
    for number in (1, 2):
        write_toy(toy(number), tmp_path / "cohort")
    assert contour(FakeEnsemble, BUNDLE, "old")[0] == 0
    code, said = contour(LargerHearts, one_fold(), "new", "--against", str(tmp_path / "old"))
    assert code == 0
    assert "2 of 2 scans compared" in said.out
    rows = rows_of(tmp_path / "new" / "differences.csv")
    assert len(rows) == 8
    for number in (1, 2):
        animal = toy(number).animal
        row = rows[animal, "Heart"]
        heart, larger = hearts(toy(number))
        assert float(row["dsc"]) == pytest.approx(dice(heart, larger), abs=0.01)
        grown = 100 * (larger.sum() / heart.sum() - 1)
        assert float(row["change_percent"]) == pytest.approx(grown, abs=2)
        assert row["old"] == f"phantom-7 {glance(BUNDLE).sha256[:12]}"
        assert row["new"] == f"phantom-7 {glance(one_fold()).sha256[:12]}"
        assert float(rows[animal, "Lung_R"]["dsc"]) == 1.0
    worst = min(("T0001", "T0002"), key=lambda animal: float(rows[animal, "Heart"]["dsc"]))
    pictures = sorted(path.name for path in (tmp_path / "new" / "differences").iterdir())
    assert pictures[0] == f"01-{worst}.png"
    assert Image.open(tmp_path / "new" / "differences" / pictures[0]).size[0] > 1000


def test_what_the_old_run_lacks_is_named(contour, tmp_path):
    """A scan that came later, and a folder that nobody wrote."""
    for number in (1, 2):
        write_toy(toy(number), tmp_path / "cohort")
    code, said = contour(FakeEnsemble, BUNDLE, "new", "--against", str(tmp_path / "old"))
    assert code == 1
    assert "is no folder that an earlier run wrote" in said.err
    assert contour(FakeEnsemble, BUNDLE, "old")[0] == 0
    write_toy(toy(3), tmp_path / "cohort")
    code, said = contour(LargerHearts, one_fold(), "new", "--against", str(tmp_path / "old"))
    assert code == 0
    assert "T0003: not compared: the earlier run has no structure set of it" in said.out
    assert "2 of 3 scans compared" in said.out


def test_the_earlier_run_is_never_overwritten(contour, tmp_path):
    """It is all that the new one can be compared with."""
    for number in (1, 2):
        write_toy(toy(number), tmp_path / "cohort")
    assert contour(FakeEnsemble, BUNDLE, "old")[0] == 0
    path = tmp_path / "old" / toy(1).animal / "RS.dcm"
    before = path.read_bytes()
    code, said = contour(LargerHearts, one_fold(), "old", "--against", str(tmp_path / "old"))
    assert code == 1
    assert "would be overwritten; give another -o" in said.err
    assert path.read_bytes() == before


def test_a_damaged_scan_of_the_earlier_run_ends_no_comparison(contour, tmp_path):
    """It is named, and the others are compared."""
    for number in (1, 2):
        write_toy(toy(number), tmp_path / "cohort")
    assert contour(FakeEnsemble, BUNDLE, "old")[0] == 0
    note = tmp_path / "old" / toy(1).animal / "limn.json"
    note.write_text(note.read_text().replace('"roi":', '"name":'))
    code, said = contour(LargerHearts, one_fold(), "new", "--against", str(tmp_path / "old"))
    assert code == 0
    assert f"{toy(1).animal}: not compared: what a run noted of it can't be used" in said.out
    assert "1 of 2 scans compared" in said.out
