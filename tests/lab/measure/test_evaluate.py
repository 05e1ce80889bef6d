"""Bundles on scans of known truth, with a network that is right by construction."""

import shutil
import tomllib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from limn.domain.errors import ConfigWrong, RefusedSeries
from limn.domain.geometry import SpacingMm, axial_grid
from limn.domain.scan import Labels, Organ, Volume
from limn.lab.measure import evaluate as module
from limn.lab.measure.evaluate import (
    COLUMNS,
    Known,
    Trial,
    evaluate,
    only_for,
    read_scores,
    table,
    worst,
)
from limn.lab.train.nnunet_folder import note_measured
from limn.segment.bundle.bundle import MANIFEST, open_bundle
from limn.segment.draw.delineate import Delineated
from limn.segment.engine.orient import Lie
from tests.conftest import BUNDLE

ORGANS = {1: Organ.HEART, 2: Organ.CORD}
ENSEMBLE = SimpleNamespace(bundle=SimpleNamespace(organs=ORGANS))


def known(shift: int) -> Known:
    """Two boxes, and a volume that tells by how much an ensemble will miss them."""
    labels = np.zeros((12, 12, 12), dtype=np.uint8)
    labels[2:8, 2:8, 2:8], labels[3:9, 10, 4:8] = 1, 2
    grid = axial_grid(labels.shape, SpacingMm(0.5, 0.5, 0.5), np.zeros(3))
    body = np.zeros(labels.shape, dtype=np.bool_)
    body[:, :, :9] = True
    return Known(
        Volume(np.full(labels.shape, float(shift), np.float32), grid),
        Labels(labels, grid, ORGANS),
        body,
    )


@pytest.fixture(autouse=True)
def shifted(monkeypatch: pytest.MonkeyPatch):
    """Delineation that gives the truth, moved along x by what the volume says."""

    def delineate(volume, ensemble, rule, stopwatch, progress):
        truth = known(0).truth
        if volume.hu_zyx[0, 0, 0] < 0:
            raise RefusedSeries("no animal in the field")
        moved = np.roll(truth.labels_zyx, int(volume.hu_zyx[0, 0, 0]), axis=2)
        labels = Labels(moved, truth.grid, ORGANS)
        return Delineated(
            labels, {}, 1, Lie("IAL", 0.97), (), {}, np.zeros_like(labels.labels_zyx), ()
        )

    monkeypatch.setattr(module, "delineate", delineate)


def test_scores_are_written_once(tmp_path: Path):
    """A row for each organ of each scan; a second run does only what is missing."""
    made = []

    def trial(shift):
        def make():
            made.append(shift)
            return known(shift)

        return Trial("native", f"m{shift}", make)

    lines: list[str] = []
    path = evaluate([trial(0), trial(2)], ENSEMBLE, tmp_path, lines.append)
    rows = read_scores(path)
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
    assert len(read_scores(path)) == 6


def test_the_table_tells_means_and_the_worst(tmp_path: Path):
    """One line for each organ with mean and worst, and the worst scans are named."""
    trials = [Trial("native", f"m{n}", lambda n=n: known(n)) for n in (0, 2, 6)]
    rows = read_scores(evaluate(trials, ENSEMBLE, tmp_path, lambda line: None))
    text = table(rows)
    assert "| native | Heart | 3 | 0.556" in text
    assert "| native | SpinalCord | 3 |" in text
    assert text.count("\n") == 4
    assert worst(rows, "native", 2) == ["m6", "m2"]


def test_a_refused_scan_is_lost_and_stops_nothing(tmp_path: Path):
    """Its organs count as lost, the next scan is scored, and the table says how many."""
    trials = [Trial("native", f"m{n}", lambda n=n: known(n)) for n in (-1, 0)]
    rows = read_scores(evaluate(trials, ENSEMBLE, tmp_path, lambda line: None))
    assert [float(row["dsc"]) for row in rows] == [0.0, 0.0, 1.0, 1.0]
    assert table(rows).count("| 0.000 | 0.00 (0.00) | 1 |") == 2
    lost = table(rows[:2]).splitlines()[2]
    assert lost.endswith("| - | - | 1 |")


def test_a_scan_that_was_cut_short_is_done_again(tmp_path: Path):
    """Rows for fewer than all organs are no scan."""
    trials = [Trial("native", "m0", lambda: known(0))]
    path = evaluate(trials, ENSEMBLE, tmp_path, lambda line: None)
    path.write_text("\n".join(path.read_text().splitlines()[:2]) + "\n")
    assert len(read_scores(evaluate(trials, ENSEMBLE, tmp_path, lambda line: None))) == 3


def test_a_folder_is_of_one_bundle_and_one_set(tmp_path: Path):
    """The scores of another bundle are not taken for these."""
    only_for(tmp_path, "bundle a on cohort")
    only_for(tmp_path, "bundle a on cohort")
    with pytest.raises(ConfigWrong, match=r"holds the scores of bundle a on cohort, not of"):
        only_for(tmp_path, "bundle b on cohort")


def test_what_was_reached_is_written_into_the_bundle(tmp_path):
    """Means by set and organ, in TOML, sealed; a second time replaces the first."""
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
