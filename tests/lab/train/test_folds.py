import csv
import dataclasses
import multiprocessing
import re

import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from limn.domain.errors import ConfigWrong
from limn.lab.train import loop, patches
from limn.lab.train.channels_last import LayoutFreeNorm
from limn.lab.train.folds import Course, train, train_phantom_bundle
from limn.lab.train.localiser import LocaliserRecipe
from limn.lab.train.nnunet_folder import intensities_of, mean_of_folds, new_network, save_fold, seal
from limn.lab.train.onlooker import (
    OrientRecipe,
    accuracy,
    coarse_cases,
    draw_picture,
    save_onlooker,
    train_onlooker,
)
from limn.lab.train.patches import (
    draw_patch,
    intensity_properties,
    make_cases,
    make_training_case,
    normalise,
    seen_elsewhere,
)
from limn.lab.train.recipe import Recipe, going_on
from limn.phantom.anatomy import conceive
from limn.segment.bundle.bundle import open_bundle
from limn.segment.engine.ensemble import Ensemble
from limn.segment.engine.localisation.orient import Finder
from tests.support.lab import forking
from tests.support.organs import Organ

pytestmark = pytest.mark.trains

TINY = Recipe(
    spacing_mm=0.7,
    shape_zyx=(44, 36, 40),
    patch_zyx=(16, 24, 24),
    features=(4, 8, 16),
    folds=2,
    stems=2,
    stem_phantoms=2,
    stem_steps=50,
    phantoms=4,
    steps=50,
    first_seed=1100,
    first_stem_seed=1203,
    warm_up_steps=10,
    average=0.9,
)
ORIENT = OrientRecipe(steps=3, validation=2)
LOCATE = LocaliserRecipe(phantoms=2, steps=2)


@pytest.fixture(scope="module", autouse=True)
def _forks():
    """Processes that have imported torch and nnunetv2 already."""
    with forking.forking(["limn.lab.train.folds"]):
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A bundle of two tiny folds, and the reports of its training."""
    lines: list[str] = []
    folder = tmp_path_factory.mktemp("tiny")
    return train_phantom_bundle(folder, TINY, ORIENT, LOCATE, lines.append), lines


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """Two tiny phantoms."""
    return make_cases([1100, 1101], TINY, tmp_path_factory.mktemp("cases"), lambda line: None)


def test_training_reports_and_keeps_its_loss(trained):
    """Stems and folds report their loss with the time left, and it is kept as a table.

    Takes more than 10 s: the bundle of all tests here is trained for this one.
    """
    for name in ("stem 0", "stem 1", "fold 0", "fold 1"):
        assert any(re.match(rf"{name} step 50/50 loss \S+ \d+ s, 0 s left", s) for s in trained[1])
        kept = rows_of(trained[0].parent / "work" / f"{name.replace(' ', '_')}_loss.csv")
        assert [row[:2] for row in kept] == [[name, "50"]]
    assert any("onlooker: way found in" in line for line in trained[1])


def rows_of(path):
    """The rows of a table of losses: course, step, loss, seconds."""
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_a_second_run_trains_nothing(trained, monkeypatch):
    """A second run makes and trains nothing, and the weights are the same.

    Its processes are fresh interpreters, as users have them.
    """
    monkeypatch.setattr(multiprocessing, "get_context", forking.get_context)
    before = {path: path.read_bytes() for path in trained[0].rglob("*.pth")}
    lines: list[str] = []
    train_phantom_bundle(trained[0].parent, TINY, ORIENT, LOCATE, lines.append)
    assert not any("step" in line or "phantom" in line for line in lines)
    for path, kept in before.items():
        again = torch.load(path, weights_only=True)
        first = torch.load(trained[0] / path.relative_to(trained[0]), weights_only=True)
        assert str(again) == str(first)
        assert kept


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
    hu = make_training_case(1110, TINY).hu_zyx.astype(np.float32)
    labels = predictor.predict_single_npy_array(hu[None], {"spacing": [0.7] * 3}, None, None, False)
    assert labels.shape == hu.shape
    assert predictor.dataset_json["labels"]["SpinalCord"] == 2


def test_the_sealed_folder_is_a_bundle(trained):
    """The folder opens as a bundle with the recipe's numbers, and its networks load."""
    bundle = open_bundle(trained[0])
    assert bundle.folds == (0, 1)
    assert bundle.spacing_mm.zyx == (0.7, 0.7, 0.7)
    assert bundle.demonstration
    assert set(bundle.clean) == set(Organ)
    ensemble = Ensemble.load(bundle, "cpu", bundle.profile)
    ensemble.warm_up()
    assert ensemble.finder is not None
    assert ensemble.localiser is not None


def test_a_course_lowers_the_loss_and_is_repeatable(cases, tmp_path):
    """The same seed gives the same weights, another seed gives others, and the loss falls.

    Takes more than 10 s: a hundred steps, and three times twenty.
    """
    intensities = intensity_properties(cases)
    weights, losses = [], []
    for i, (seed, steps) in enumerate(((1, 20), (1, 20), (2, 20), (1, 100))):
        lines: list[str] = []
        course = Course("stem 0", seed, steps, 3e-3, tmp_path / str(i))
        weights.append(train(course, cases, intensities, TINY, None, lines.append))
        losses.append([float(re.search(r"loss (\S+)", line)[1]) for line in lines])
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not all(torch.equal(weights[0][name], weights[2][name]) for name in weights[0])
    assert losses[3][1] < losses[3][0] - 0.1


def test_a_killed_course_goes_on(cases, tmp_path):
    """A course goes on from its last checkpoint."""
    intensities = intensity_properties(cases)
    short = Course("fold 1", 1, 2, 3e-3, tmp_path)
    train(short, cases, intensities, TINY, None, lambda line: None)
    lines: list[str] = []
    longer = dataclasses.replace(short, steps=50)
    train(longer, cases, intensities, TINY, None, lines.append)
    assert len(lines) == 1
    kept = torch.load(tmp_path / "fold_1.pt", weights_only=True)
    assert kept["step"] == 50


def test_a_course_that_goes_on_notes_no_step_twice(cases, tmp_path, monkeypatch):
    """Killed between a report and the next checkpoint: the table has each step once."""
    monkeypatch.setattr(loop, "REPORTED_EVERY", 2)
    monkeypatch.setattr(loop, "SAVED_EVERY", 3)
    intensities = intensity_properties(cases)
    course = Course("fold 1", 1, 8, 3e-3, tmp_path)

    def killed(line):
        if "step 4/" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(course, cases, intensities, TINY, None, killed)
    (tmp_path / "fold_1_loss.csv").open("a").write("fold 1,4,0.5,1.0\n")
    train(course, cases, intensities, TINY, None, lambda line: None)
    steps = [int(row[1]) for row in rows_of(tmp_path / "fold_1_loss.csv")]
    assert steps == [2, 4, 6, 8]


def test_a_bundle_is_gone_on_with(trained, tmp_path):
    """Stems start from the bundle's own folds, and HU are normalised by its numbers."""
    bundle, _ = trained
    # One step each that changes nothing.
    recipe = dataclasses.replace(
        TINY, start=str(bundle), stem_steps=1, steps=1, learning_rate=0.0, fold_learning_rate=0.0
    )
    lines: list[str] = []
    again = train_phantom_bundle(tmp_path, recipe, ORIENT, LOCATE, lines.append)
    assert (again / "plans.json").read_bytes() == (bundle / "plans.json").read_bytes()
    for fold in ("fold_0", "fold_1"):
        # One fold a stem here, so the mean of its folds is the fold itself.
        before, after = (
            torch.load(each / fold / "checkpoint_final.pth", weights_only=True)["network_weights"]
            for each in (bundle, again)
        )
        assert all(torch.equal(before[name], after[name]) for name in before)


def test_another_network_is_not_gone_on_with(trained):
    """A bundle whose network is not the recipe's is refused by name."""
    bundle, _ = trained
    with pytest.raises(ConfigWrong, match="describes another network"):
        intensities_of(bundle, dataclasses.replace(TINY, features=(4, 8, 8)))
    with pytest.raises(ConfigWrong, match="is no start for a training"):
        intensities_of(bundle / "fold_0", TINY)


def test_what_learns_is_the_network_of_the_plans(trained):
    """Other norms and another memory layout, but nnunetv2's own network gives the same numbers."""
    learnt = new_network(TINY)
    assert any(isinstance(module, LayoutFreeNorm) for module in learnt.modules())
    oracle = nnUNetPredictor(
        use_mirroring=False, perform_everything_on_device=False, device=torch.device("cpu"),
        allow_tqdm=False,
    )  # fmt: skip
    oracle.initialize_from_trained_model_folder(
        str(trained[0]), use_folds=(0,), checkpoint_name="checkpoint_final.pth"
    )
    weights = {name: own.float() for name, own in oracle.list_of_parameters[0].items()}
    oracle.network.load_state_dict(weights)
    learnt.load_state_dict(weights)
    image = torch.randn(1, 1, *TINY.patch_zyx)
    with torch.no_grad():
        torch.testing.assert_close(learnt(image)[0], oracle.network(image), rtol=1e-3, atol=1e-3)


def test_a_mean_of_folds_is_taken_stem_by_stem(trained):
    """Folds of another stem lie in another valley; their mean would be no network."""
    bundle, _ = trained
    one, two = (mean_of_folds(bundle, stem, TINY) for stem in (0, 1))
    name = next(iter(one))
    assert not torch.equal(one[name], two[name])
    both = mean_of_folds(bundle, 0, dataclasses.replace(TINY, stems=1))
    torch.testing.assert_close(both[name], (one[name] + two[name]) / 2)


def test_no_validation_animal_trains_its_fold():
    """Seeds of stems, folds and every test are apart, and a fold leaves its fifth out."""
    recipe = Recipe()
    folds = set(range(recipe.first_seed, recipe.first_seed + recipe.phantoms))
    stems = set(range(recipe.first_stem_seed, recipe.first_stem_seed + recipe.stem_phantoms))
    assert not folds & stems
    assert recipe.phantoms % recipe.folds == 0


def test_phantoms_are_kept(tmp_path, cases):
    """A phantom in the folder is read, not made; a half-written one is made again."""
    again = make_cases([1100], TINY, tmp_path, lambda line: None)
    np.testing.assert_array_equal(again[0].hu_zyx, cases[0].hu_zyx)
    (tmp_path / ".1101.npz.part.npz").write_bytes(b"half")
    stamp = (tmp_path / "1100.npz").stat().st_mtime_ns
    lines: list[str] = []
    make_cases([1100, 1101], TINY, tmp_path, lines.append)
    assert lines == ["phantom 1/1, 0 s left"]
    assert (tmp_path / "1100.npz").stat().st_mtime_ns == stamp


def test_patches_hold_what_they_say(cases):
    """Shares of all classes add up to one, and a third of the patches show cord."""
    rng = np.random.default_rng(2)
    cords = 0
    for _ in range(40):
        hu, classes = draw_patch(rng, cases, TINY)
        assert hu.shape == TINY.patch_zyx
        np.testing.assert_allclose(classes.sum(axis=0), 1.0, atol=0.02)
        cords += bool((classes[2] > 0.5).any())
    assert cords > 12


def test_another_scanner_keeps_the_order_of_tissues():
    """In every calibration air is below lung, lung below soft tissue, soft tissue below bone."""
    tissues = np.repeat(np.array([-1000.0, -500.0, 40.0, 900.0], np.float32), 512)
    for seed in range(30):
        hu = seen_elsewhere(tissues.reshape(4, 8, 8, 8), np.random.default_rng(seed))
        means = hu[:, 2:-2, 2:-2, 2:-2].mean(axis=(1, 2, 3))
        assert (np.diff(means) > 0).all()


def test_the_onlooker_sees_the_phantoms_coarsely(cases):
    """Its pictures have 0.84 mm voxels, square cross-sections and hold the animal."""
    hu = coarse_cases(cases, TINY.spacing_mm)[0]
    wanted = [n * 0.7 / 0.84 for n in TINY.shape_zyx]
    assert all(abs(n - want) <= 1 for n, want in zip(hu.shape, wanted, strict=True))
    picture = draw_picture(hu, np.random.default_rng(1))
    assert picture.shape[1] == picture.shape[2]
    assert (picture > 0.5).mean() > 0.1


def test_a_killed_onlooker_goes_on(cases, tmp_path):
    """Its training goes on from the last checkpoint; a finished training does no step."""
    pictures = coarse_cases(cases, TINY.spacing_mm)
    recipe = dataclasses.replace(ORIENT, steps=4, validation=1)
    checkpoint = tmp_path / "onlooker.pt"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "SAVED_EVERY", 2)
        patch.setattr(loop, "REPORTED_EVERY", 3)

        def killed(line):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train_onlooker(pictures, recipe, checkpoint, killed)
        assert torch.load(checkpoint, weights_only=True)["step"] == 2
        lines: list[str] = []
        done = train_onlooker(pictures, recipe, checkpoint, lines.append)
        steps = [re.match(r"onlooker step (\d)/4 loss \S+ \d+ s, \d+ s left", s)[1] for s in lines]
        assert steps == ["3", "4"]
    again = train_onlooker(pictures, recipe, checkpoint, lines.append)
    assert len(lines) == 2
    for name, tensor in done.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
    right, not_mirrored = accuracy(again, pictures)
    assert 0.0 <= right <= not_mirrored <= 1.0
    save_onlooker(again, tmp_path / "onlooker.pth")
    assert Finder.load(tmp_path / "onlooker.pth").onlooker is not None


def test_one_in_three_training_phantoms_has_contrast(monkeypatch):
    """The blood of a phantom with contrast is brighter."""
    enhanced = []

    def noted(seed, *, neighbour, contrast):
        enhanced.append(contrast)
        return conceive(seed, neighbour=neighbour, contrast=contrast)

    monkeypatch.setattr(patches, "conceive", noted)
    for seed in range(1100, 1106):
        make_training_case(seed, TINY)
    assert enhanced.count(True) == 2
    assert conceive(1101, contrast=True).tissue.blood > conceive(1101).tissue.blood + 90


def test_the_next_version_draws_phantoms_that_no_earlier_bundle_saw(trained):
    """The next version has its own range of seeds, and its number in the manifest."""
    bundle, _ = trained
    assert open_bundle(bundle).version == "1"
    recipe = going_on(bundle)
    seeds = {recipe.first_seed, recipe.first_stem_seed}
    assert seeds == {20_000, 25_000}
    assert max(recipe.phantoms, recipe.stem_phantoms) < 5000
    seal(bundle, dataclasses.replace(recipe, folds=TINY.folds))
    assert going_on(bundle).first_seed == 30_000
    seal(bundle, TINY)


def test_weights_are_saved_in_half_precision(tmp_path):
    """Weights are read back within half precision, and one with two names is stored once."""
    shared = torch.randn(64, 64)
    path = save_fold(tmp_path, 3, {"a": shared, "b": shared, "c": torch.ones(2) * 0.1})
    assert path == tmp_path / "fold_3" / "checkpoint_final.pth"
    weights = torch.load(path, weights_only=True)["network_weights"]
    assert weights["a"].dtype == torch.float16
    torch.testing.assert_close(weights["a"].float(), shared, rtol=1e-3, atol=1e-3)
    assert weights["a"].data_ptr() == weights["b"].data_ptr()


def test_intensities_are_those_of_the_organs(cases):
    """Normalised organs have mean 0 and deviation 1, and no voxel of them is clipped."""
    intensities = intensity_properties(cases)
    hu = np.concatenate([case.hu_zyx[case.shares.max(axis=0) > 127] for case in cases])
    inside = normalise(hu.astype(np.float32), intensities)
    assert inside.mean() == pytest.approx(0, abs=0.1)
    assert inside.std() == pytest.approx(1, abs=0.1)
    low, high = (
        (intensities[key] - intensities["mean"]) / intensities["std"]
        for key in ("percentile_00_5", "percentile_99_5")
    )
    everywhere = normalise(np.array([-9e4, 9e4], np.float32), intensities)
    assert everywhere == pytest.approx((low, high), abs=1e-4)
    assert low < inside.min()
