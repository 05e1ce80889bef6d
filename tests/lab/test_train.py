import re

import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from limn.domain.scan import Organ
from limn.lab.train import (
    Recipe,
    intensity_properties,
    make_case,
    normalise,
    save_fold,
    score,
    seal,
    train_fold,
    train_phantom_folds,
)
from limn.segment.bundle import open_bundle
from limn.segment.ensemble import Ensemble

TINY = Recipe(
    spacing_mm=0.7,
    shape_zyx=(32, 32, 36),
    patch_zyx=(16, 24, 24),
    features=(4, 8, 16),
    folds=2,
    phantoms=3,
    first_seed=2000,
    steps=100,
    warm_up_steps=10,
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model folder of two tiny folds, sealed, and what training reported."""
    folder = tmp_path_factory.mktemp("tiny")
    lines: list[str] = []
    train_phantom_folds(folder, TINY, [0, 1], lines.append)
    seal(folder, TINY)
    return folder, lines


def test_training_lowers_the_loss(trained):
    """A few steps lower the loss of every fold clearly."""
    for fold in (0, 1):
        losses = [
            float(found[1])
            for line in trained[1]
            if (found := re.match(rf"fold {fold} step .* loss (\S+)", line))
        ]
        assert len(losses) == 2
        assert losses[1] < losses[0] - 0.1


def test_nnunetv2_opens_the_model_folder(trained):
    """nnunetv2's own predictor loads the folder and predicts with it."""
    predictor = nnUNetPredictor(
        use_mirroring=False,
        perform_everything_on_device=False,
        device=torch.device("cpu"),
        allow_tqdm=False,
    )
    predictor.initialize_from_trained_model_folder(
        str(trained[0]), use_folds=(0, 1), checkpoint_name="checkpoint_final.pth"
    )
    case = make_case(2010, TINY)
    labels = predictor.predict_single_npy_array(
        case.hu_zyx[None], {"spacing": [0.7] * 3}, None, None, False
    )
    assert labels.shape == case.hu_zyx.shape
    assert predictor.dataset_json["labels"]["SpinalCord"] == 2


def test_the_sealed_folder_is_a_bundle(trained):
    """The folder opens as a bundle with the recipe's numbers, and its networks load."""
    bundle = open_bundle(trained[0])
    assert bundle.folds == (0, 1)
    assert bundle.spacing_mm.zyx == (0.7, 0.7, 0.7)
    assert bundle.demonstration
    assert set(bundle.clean) == set(Organ)
    Ensemble.load(bundle, "cpu").warm_up()


def test_training_is_repeatable():
    """The same fold of the same recipe has the same weights; another fold others."""
    recipe = Recipe(
        spacing_mm=0.7, shape_zyx=(32, 32, 36), patch_zyx=(16, 16, 16), features=(4, 8), folds=2,
        phantoms=2, first_seed=2000, steps=2, warm_up_steps=1,
    )  # fmt: skip
    cases = [make_case(2000 + i, recipe) for i in range(2)]
    intensities = intensity_properties(cases)
    runs = [train_fold(fold, cases, intensities, recipe, print) for fold in (0, 0, 1)]
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])
    assert not all(torch.equal(runs[0][name], runs[2][name]) for name in runs[0])


def test_weights_are_saved_in_half_precision(tmp_path):
    """Weights come back within half precision, and one that has two names is stored once."""
    shared = torch.randn(64, 64)
    path = save_fold(tmp_path, 3, {"a": shared, "b": shared, "c": torch.ones(2) * 0.1})
    assert path == tmp_path / "fold_3" / "checkpoint_final.pth"
    weights = torch.load(path, weights_only=True)["network_weights"]
    assert weights["a"].dtype == torch.float16
    torch.testing.assert_close(weights["a"].float(), shared, rtol=1e-3, atol=1e-3)
    assert weights["a"].data_ptr() == weights["b"].data_ptr()


def test_intensities_are_those_of_the_organs():
    """Normalised organs have mean 0 and deviation 1 or a little less, as they are clipped."""
    case = make_case(2001, TINY)
    intensities = intensity_properties([case])
    inside = normalise(case.hu_zyx, intensities)[case.labels_zyx > 0]
    assert inside.mean() == pytest.approx(0, abs=0.15)
    assert inside.std() == pytest.approx(1, abs=0.15)
    low, high = (
        (intensities[key] - intensities["mean"]) / intensities["std"]
        for key in ("percentile_00_5", "percentile_99_5")
    )
    everywhere = normalise(case.hu_zyx, intensities)
    assert (everywhere.min(), everywhere.max()) == pytest.approx((low, high), abs=1e-5)


def test_the_score_names_organs():
    """The score of a perfect cord and a half heart is theirs by name."""
    truth = np.zeros((2, 2, 4), np.uint8)
    truth[0, 0], truth[1, 1] = 1, 2
    labels = truth.copy()
    labels[0, 0, :2] = 0
    assert score(labels, truth) == pytest.approx(
        {Organ.HEART: 2 / 3, Organ.CORD: 1.0, Organ.LUNG_R: 1.0, Organ.LUNG_L: 1.0}
    )
