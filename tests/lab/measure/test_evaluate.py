"""Evaluation on scans of known truth, with a delineation whose error is known."""

import shutil
import tomllib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from limn.domain.errors import ConfigWrong, RefusedSeries
from limn.domain.geometry import SpacingMm, axial_grid
from limn.domain.scan import Labels, Volume
from limn.domain.shipped import MANIFEST
from limn.lab.measure import evaluate as module
from limn.lab.measure.evaluate import (
    COLUMNS,
    ScanWithTruth,
    Trial,
    evaluate,
    markdown_table,
    read_rows,
    refuse_other_scores,
    worst_scans,
)
from limn.lab.train.nnunet_folder import note_measured
from limn.segment.bundle.bundle import open_bundle
from limn.segment.draw.delineate import Delineated
from limn.segment.draw.sides import NO_SIGNS
from limn.segment.engine.localisation.orient import Lie
from tests.conftest import BUNDLE
from tests.support.organs import Organ

ORGANS = {1: Organ.HEART, 2: Organ.CORD}
ENSEMBLE = SimpleNamespace(bundle=SimpleNamespace(organs=ORGANS))


def scan_with_truth(shift: int) -> ScanWithTruth:
    """Two boxes, and a volume whose HU are the shift that the delineation gives them."""
    labels = np.zeros((12, 12, 12), dtype=np.uint8)
    labels[2:8, 2:8, 2:8], labels[3:9, 10, 4:8] = 1, 2
    grid = axial_grid(labels.shape, SpacingMm(0.5, 0.5, 0.5), np.zeros(3))
    body = np.zeros(labels.shape, dtype=np.bool_)
    body[:, :, :9] = True
    return ScanWithTruth(
        Volume(np.full(labels.shape, float(shift), np.float32), grid),
        Labels(labels, grid, ORGANS),
        body,
    )


@pytest.fixture(autouse=True)
def shifted(monkeypatch: pytest.MonkeyPatch):
    """A delineation that returns the truth, shifted along x by the HU of the volume."""

    def delineate(volume, ensemble, rule, stopwatch, progress):
        truth = scan_with_truth(0).truth
        if volume.hu_zyx[0, 0, 0] < 0:
            raise RefusedSeries("no animal in the field")
        moved = np.roll(truth.labels_zyx, int(volume.hu_zyx[0, 0, 0]), axis=2)
        labels = Labels(moved, truth.grid, ORGANS)
        return Delineated(
            labels,
            {},
            1,
            Lie("IAL", 0.97),
            (),
            {},
            np.zeros_like(labels.labels_zyx),
            (),
            NO_SIGNS,
        )

    monkeypatch.setattr(module, "delineate", delineate)


def test_scores_are_written_once(tmp_path: Path):
    """One row per organ and scan; a second run evaluates only the missing scans."""
    made = []

    def trial(shift):
        def make():
            made.append(shift)
            return scan_with_truth(shift)

        return Trial("native", f"m{shift}", make)

    lines: list[str] = []
    path = evaluate([trial(0), trial(2)], ENSEMBLE, tmp_path, lines.append)
    rows = read_rows(path)
    assert [(row["scan"], row["organ"]) for row in rows] == [
        ("m0", "Heart"), ("m0", "SpinalCord"), ("m2", "Heart"), ("m2", "SpinalCord"),
    ]  # fmt: skip
    assert tuple(rows[0]) == COLUMNS
    assert [float(row["dsc"]) for row in rows] == pytest.approx([1.0, 1.0, 2 / 3, 0.5], abs=1e-4)
    assert float(rows[2]["hd95_mm"]) == pytest.approx(1.0)
    assert rows[0]["lie"] == "IAL"
    # Two columns of the heart lie beyond the body: 2 x 36 voxels less what the shift leaves in.
    assert float(rows[2]["outside_mm3"]) == pytest.approx((36 + 6) * 0.125)
    assert len(lines) == 2
    evaluate([trial(0), trial(1), trial(2)], ENSEMBLE, tmp_path, lines.append)
    assert made == [0, 2, 1]
    assert len(read_rows(path)) == 6


def test_the_table_has_means_and_the_worst(tmp_path: Path):
    """One line per organ with mean and worst value; the worst scans come first."""
    trials = [Trial("native", f"m{n}", lambda n=n: scan_with_truth(n)) for n in (0, 2, 6)]
    rows = read_rows(evaluate(trials, ENSEMBLE, tmp_path, lambda line: None))
    text = markdown_table(rows)
    assert "| native | Heart | 3 | 0.556" in text
    assert "| native | SpinalCord | 3 |" in text
    assert text.count("\n") == 4
    assert worst_scans(rows, "native", 2) == ["m6", "m2"]


def test_a_refused_scan_counts_as_missed(tmp_path: Path):
    """Its organs count as lost, the next scan is scored, and the table has the count."""
    trials = [Trial("native", f"m{n}", lambda n=n: scan_with_truth(n)) for n in (-1, 0)]
    rows = read_rows(evaluate(trials, ENSEMBLE, tmp_path, lambda line: None))
    assert [float(row["dsc"]) for row in rows] == [0.0, 0.0, 1.0, 1.0]
    assert markdown_table(rows).count("| 0.000 | 0.00 (0.00) | 1 |") == 2
    lost = markdown_table(rows[:2]).splitlines()[2]
    assert lost.endswith("| - | - | 1 |")


def test_an_incomplete_scan_is_evaluated_again(tmp_path: Path):
    """Its file has rows for fewer than all organs."""
    trials = [Trial("native", "m0", lambda: scan_with_truth(0))]
    path = evaluate(trials, ENSEMBLE, tmp_path, lambda line: None)
    path.write_text("\n".join(path.read_text().splitlines()[:2]) + "\n")
    assert len(read_rows(evaluate(trials, ENSEMBLE, tmp_path, lambda line: None))) == 3


def test_a_truth_of_fewer_organs_than_the_bundle_is_whole_with_these(tmp_path: Path):
    """A run that goes on does not evaluate it again; an organ that nobody has does not count."""
    whole = scan_with_truth(0)
    truth = Labels(whole.truth.labels_zyx * 0, whole.truth.grid, {1: Organ.HEART})
    made: list[int] = []

    def make():
        made.append(1)
        return ScanWithTruth(Volume(whole.volume.hu_zyx - 1, whole.volume.grid), truth)

    trials = [Trial("native", "m0", make, 1)]
    for _ in range(2):
        rows = read_rows(evaluate(trials, ENSEMBLE, tmp_path, lambda line: None))
    assert (len(rows), len(made)) == (1, 1)
    assert rows[0]["dsc"] == "nan"
    assert "nan" not in markdown_table(rows)
    assert worst_scans(rows, "native", 1) == []


def test_a_folder_holds_scores_of_one_bundle_and_one_set(tmp_path: Path):
    """Scores of another bundle are refused."""
    refuse_other_scores(tmp_path, "bundle a on cohort")
    refuse_other_scores(tmp_path, "bundle a on cohort")
    with pytest.raises(ConfigWrong, match=r"holds the scores of bundle a on cohort, not of"):
        refuse_other_scores(tmp_path, "bundle b on cohort")


def test_the_measured_scores_are_written_into_the_bundle(tmp_path):
    """Means by set and organ in the sealed manifest; a second note replaces the first."""
    bundle = shutil.copytree(BUNDLE, tmp_path / "bundle")
    rows = [
        {"group": "native", "organ": "Heart", "dsc": "0.9", "hd95_mm": "0.3"},
        {"group": "native", "organ": "Heart", "dsc": "0.0", "hd95_mm": ""},
        {"group": "at 0.1 mm", "organ": "Heart", "dsc": "0.8", "hd95_mm": "0.5"},
    ]
    note_measured(bundle, rows[:1], "once")
    note_measured(bundle, rows, "twice")
    manifest = tomllib.loads((bundle / MANIFEST).read_text())
    assert manifest["measured"] == {
        "native": {"Heart": {"scans": 2, "dsc": 0.45, "hd95_mm": 0.3}},
        "at 0.1 mm": {"Heart": {"scans": 1, "dsc": 0.8, "hd95_mm": 0.5}},
    }
    assert (bundle / MANIFEST).read_text().count("# Measured: ") == 1
    assert open_bundle(bundle).folds == open_bundle(BUNDLE).folds
