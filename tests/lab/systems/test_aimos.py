"""The 2D system that the paper compares with: it learns, resumes, and labels any grid."""

import csv
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
import torch

from limn.domain.errors import BundleUnfit, ConfigWrong, RefusedSeries
from limn.domain.geometry import Reorientation, SpacingMm, axial_grid
from limn.domain.scan import Volume, dice
from limn.formats.label_files import image_of
from limn.lab.systems.aimos import AimosPreset, predict, read_folds, train_fold
from limn.lab.systems.aimos_net import UNet2d
from limn.lab.systems.aimos_slices import picked_at, varied
from limn.lab.train import loop

pytestmark = pytest.mark.trains

TINY = AimosPreset(
    spacing_mm=0.28,
    size=(64, 64),
    features=(8, 8, 8, 8, 8, 8),
    batch=6,
    steps=500,
    learning_rate=5e-3,
)
# For tests that do not need a network that learnt well.
QUICK = replace(TINY, features=(4, 4, 4, 4, 4, 4), steps=40)
SHAPE = (32, 24, 32)
# HU of heart, cord, lungs: the lungs differ by their side alone.
HU = {0: 0.0, 1: 300.0, 2: 900.0, 3: -600.0, 4: -600.0}


def drawn(shift: int = 0) -> np.ndarray:
    """Labels of boxes that lie as the organs do, axes S, P, L."""
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[10 + shift : 18 + shift, 4:12, 12:20] = 1
    labels[2:30, 16:21, 13:18] = 2
    labels[8 + shift : 24 + shift, 4:18, 2:10] = 3
    labels[8 + shift : 24 + shift, 4:18, 22:30] = 4
    return labels


def scan(labels: np.ndarray, spacing_mm: float = 0.28) -> Volume:
    """The boxes' HU with noise, air in front and behind."""
    hu = np.vectorize(HU.get)(labels) + np.random.default_rng(3).normal(0, 40, labels.shape)
    hu[:, :1], hu[:, -1:] = -1000.0, -1000.0
    spacing = SpacingMm(spacing_mm, spacing_mm, spacing_mm)
    return Volume(hu.astype(np.float32), axial_grid(labels.shape, spacing, np.zeros(3)))


def write_cases(folder: Path) -> list[tuple[Path, Path]]:
    """Two animals as the study lays them out."""
    cases = []
    for shift in (0, 3):
        own = folder / f"animal{shift}"
        own.mkdir()
        labels = drawn(shift)
        volume = scan(labels)
        paths = own / "ct.nii.gz", own / "observer1.nii.gz"
        for path, array in zip(paths, (volume.hu_zyx, labels), strict=True):
            SimpleITK.WriteImage(image_of(array, volume.grid), str(path))
        cases.append(paths)
    return cases


def losses(folder: Path) -> list[float]:
    """The losses in the table of a fold."""
    text = (folder / "loss.csv").read_text(encoding="utf-8")
    return [float(row[1]) for row in csv.reader(text.splitlines())]


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """Two animals on disk."""
    return write_cases(tmp_path_factory.mktemp("cases"))


@pytest.fixture(scope="module")
def folds(cases, tmp_path_factory):
    """An ensemble whose two folds are the same finished one."""
    folder = tmp_path_factory.mktemp("folds") / "fold_0"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "REPORTED_EVERY", 20)
        train_fold(cases, 5, TINY, 0, folder, lambda _: None)
    return [folder, folder]


def test_the_papers_network_has_32_channels_at_the_top_and_768_at_the_bottom():
    """Malimban 2022, Methods."""
    network = UNet2d((32, 64, 128, 256, 512, 768), 5)
    assert [block[0].out_channels for block in network.down] == [32, 64, 128, 256, 512, 768]
    # Convolutions without bias, two numbers a channel for the normalisation, by hand.
    widths = (1, 32, 64, 128, 256, 512, 768)
    count = sum(9 * b * (a + b) + 4 * b for a, b in pairwise(widths))
    for a, b in zip(widths[:1:-1], widths[-2:0:-1], strict=True):
        count += 4 * a * b + b + 9 * b * (2 * b + b) + 4 * b
    assert sum(own.numel() for own in network.parameters()) == count + 32 * 5 + 5
    with torch.inference_mode():
        assert network.eval()(torch.zeros(1, 1, 64, 32)).shape == (1, 5, 64, 32)


def test_it_learns_and_finds_the_organs_each_on_its_side(folds):
    """Both lungs have the same HU, so only their place separates them.

    Takes more than 10 s: the folds of all tests here are trained for this one.
    """
    course = losses(folds[0])
    assert len(course) == 25
    assert course[-1] < course[0] - 0.5
    truth = drawn(1)
    labels, times = predict(read_folds(folds), scan(truth))
    assert labels.dtype == np.uint8
    assert set(times) == {"preprocess_s", "inference_s"}
    found = {label: dice(labels == label, truth == label) for label in range(1, 5)}
    assert min(found.values()) > 0.5, found


def test_labels_lie_on_the_scans_own_grid_whatever_its_spacing_and_axes(folds):
    """The labels are right on a finer grid, with an odd side, and with other axes."""
    truth = drawn(1).repeat(2, 0).repeat(2, 1).repeat(2, 2)[:, :, :63]
    fine = scan(truth, spacing_mm=0.14)
    labels, _ = predict(read_folds(folds), fine)
    assert labels.shape == truth.shape
    assert dice(labels == 1, truth == 1) > 0.5
    turn = Reorientation.between("SPL", "RIA")
    turned, _ = predict(read_folds(folds), Volume(turn.apply(fine.hu_zyx), turn.grid(fine.grid)))
    np.testing.assert_array_equal(turned, turn.apply(labels))


def test_folds_are_averaged_by_probability(folds, tmp_path):
    """One sure fold outweighs two unsure ones, which a vote of labels would not give."""
    heads = ({0: 0.0, 1: 4.0}, {0: 1.0, 1: 0.0}, {0: 1.0, 1: 0.0})
    kept = torch.load(folds[0] / "final.pt", weights_only=True)
    for n, head in enumerate(heads):
        kept["network"]["head.weight"] = torch.zeros_like(kept["network"]["head.weight"])
        kept["network"]["head.bias"] = torch.tensor([head.get(c, -20.0) for c in range(5)])
        (tmp_path / str(n)).mkdir()
        torch.save(kept, tmp_path / str(n) / "final.pt")
    labels, _ = predict(read_folds([tmp_path / str(n) for n in range(3)]), scan(drawn()))
    assert set(np.unique(labels)) == {1}


def test_the_middle_of_a_larger_field_is_labelled_and_the_rest_is_background(folds):
    """Nothing is labelled outside the middle, and the organs in it are found."""
    truth = np.pad(drawn(1), ((40, 40), (0, 0), (0, 0)))
    labels, _ = predict(read_folds(folds), scan(truth))
    assert labels.shape == truth.shape
    assert not labels[:24].any()
    assert dice(labels == 1, truth == 1) > 0.5


KILLED = """
import os, sys
from pathlib import Path
from limn.lab.systems import aimos
from limn.lab.train import loop
from tests.lab.systems.test_aimos import QUICK
loop.REPORTED_EVERY, loop.SAVED_EVERY = 5, 10
cases = [(Path(a), Path(b)) for a, b in zip(sys.argv[2::2], sys.argv[3::2])]
def die(line):
    if line.startswith("aimos step 25/"):
        os._exit(9)
aimos.train_fold(cases, 5, QUICK, 0, Path(sys.argv[1]), die)
"""


def test_a_killed_run_goes_on_and_ends_as_an_unbroken_one(cases, tmp_path, monkeypatch):
    """The process dies five steps after its checkpoint, and the losses are the same in the end."""
    folder, unbroken = tmp_path / "fold_0", tmp_path / "unbroken"
    paths = [str(path) for case in cases for path in case]
    ended = subprocess.run([sys.executable, "-c", KILLED, str(folder), *paths], check=False)
    assert ended.returncode == 9
    assert {path.name for path in folder.iterdir()} == {"latest.pt", "loss.csv"}
    assert len(losses(folder)) == 5

    with pytest.raises(ConfigWrong, match="belongs to other settings"):
        train_fold(cases, 5, replace(QUICK, steps=41), 0, folder, lambda _: None)

    monkeypatch.setattr(loop, "REPORTED_EVERY", 5)
    monkeypatch.setattr(loop, "SAVED_EVERY", 10)
    lines: list[str] = []
    train_fold(cases, 5, QUICK, 0, folder, lines.append)
    steps = [line.split()[2] for line in lines if line.startswith("aimos step")]
    assert steps == ["25/40", "30/40", "35/40", "40/40"]
    train_fold(cases, 5, QUICK, 0, unbroken, lambda _: None)
    assert {p.name for p in folder.iterdir()} == {p.name for p in unbroken.iterdir()}
    assert {p.name for p in folder.iterdir()} == {"final.pt", "loss.csv"}
    # bf16 rounds differently with other threads, so the losses are close and not equal.
    np.testing.assert_allclose(losses(folder), losses(unbroken), atol=0.02)


def test_a_finished_fold_is_left_alone(cases, folds):
    """Nothing is written and nothing reported."""
    before = (folds[0] / "final.pt").read_bytes()
    train_fold(cases, 5, TINY, 0, folds[0], pytest.fail)
    assert (folds[0] / "final.pt").read_bytes() == before


def test_every_slice_has_its_turn_before_any_has_two():
    """Each round is a random order of all slices."""
    picked = torch.cat([picked_at(step, 5, 15, 7) for step in range(6)])
    assert sorted(picked[:15].tolist()) == list(range(15))
    assert sorted(picked[15:].tolist()) == list(range(15))
    assert picked[:15].tolist() != picked[15:].tolist()


def test_slices_are_turned_a_little_with_their_labels_and_never_mirrored():
    """A bright, labelled left part stays on the left and labelled."""
    left = torch.zeros(20, 1, 64, 32)
    left[:, :, 16:48, 4:14] = 1.0
    images, labels = varied(left, left[:, 0].byte(), np.random.default_rng(5))
    for image, label in zip(images[:, 0], labels, strict=True):
        bright = image > (image.min() + image.max()) / 2
        assert dice(bright.numpy(), label.numpy() == 1) > 0.95
        assert label[:, 20:].sum() == 0
    assert not torch.equal(labels[0], labels[1])


def test_wrong_settings_folds_and_labels_are_refused(cases, folds, tmp_path):
    """The message names what is wrong."""
    with pytest.raises(ConfigWrong, match="multiples of 32"):
        replace(TINY, size=(64, 48))
    for name in ("steps", "batch", "spacing_mm", "learning_rate"):
        with pytest.raises(ConfigWrong, match=f"{name} 0; more than 0"):
            replace(TINY, **{name: 0})
    with pytest.raises(ConfigWrong, match="6 expected"):
        replace(TINY, features=(4, 8))
    with pytest.raises(BundleUnfit, match=r"no final\.pt"):
        read_folds([tmp_path])
    kept = torch.load(folds[0] / "final.pt", weights_only=True)
    kept["network"]["head.bias"] = torch.zeros(3)
    (tmp_path / "of_three").mkdir()
    torch.save(kept, tmp_path / "of_three" / "final.pt")
    with pytest.raises(BundleUnfit, match=r"3 classes; .* 5 expected"):
        read_folds([folds[0], tmp_path / "of_three"])
    with pytest.raises(BundleUnfit, match="no fold given"):
        read_folds([])
    (ct, observer), _ = cases
    with pytest.raises(RefusedSeries, match="labels 0 to 4 expected"):
        train_fold([(ct, ct), (ct, observer)], 5, TINY, 0, tmp_path / "wrong", lambda _: None)
