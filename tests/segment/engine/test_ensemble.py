"""nnunetv2's own predictor is the oracle: same folder, same scan, on the CPU in fp32."""

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.inference.sliding_window_prediction import compute_gaussian
from scipy import ndimage
from skimage.transform import resize
from torch.nn import functional

from limn.domain.errors import BundleUnfit
from limn.domain.geometry import Grid, SpacingMm, axial_grid
from limn.domain.scan import Volume, dice
from limn.domain.shipped import MANIFEST
from limn.phantom.anatomy import conceive
from limn.phantom.scanner import Scanner, random_scanner, scan
from limn.segment.bundle.bundle import Bundle, open_bundle, write_manifest
from limn.segment.draw.clean import clean
from limn.segment.engine.ensemble import Ensemble, Inferred
from limn.segment.engine.localisation.region import Region
from tests.conftest import BUNDLE
from tests.support.organs import Organ

pytestmark = pytest.mark.slow

ALL_LETTERS = [
    "".join(letters)
    for axes in itertools.permutations(("SI", "PA", "LR"))
    for letters in itertools.product(*axes)
]


def saying(scores: torch.Tensor) -> Inferred:
    """The result of networks with these scores for the whole scan."""
    z, y, x = scores.shape[1:]
    return Inferred(scores, Region.whole((z, y, x)), {}, np.zeros((z, y, x), np.uint8), (), {})


def quiet(done: int, total: int) -> None:
    """Ignore the progress."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The embedded bundle with a patch so small that a scan has several tiles."""
    copy = tmp_path_factory.mktemp("small-patch") / "bundle"
    shutil.copytree(BUNDLE, copy)
    plans = json.loads((copy / "plans.json").read_text(encoding="utf-8"))
    plans["configurations"]["3d_fullres"]["patch_size"] = [80, 64, 80]
    (copy / "plans.json").write_text(json.dumps(plans), encoding="utf-8")
    write_manifest(copy, (copy / MANIFEST).read_text(encoding="utf-8").split("\n[files]\n")[0])
    return copy


@pytest.fixture(scope="module")
def ensemble(folder) -> Ensemble:
    """All five folds in fp32, as the oracle runs them."""
    return Ensemble.load(open_bundle(folder), "cpu", half=False)


def nnunetv2s_own(folder, folds) -> nnUNetPredictor:
    """nnunetv2 with these folds, no mirroring."""
    predictor = nnUNetPredictor(
        tile_step_size=0.5,
        use_gaussian=True,
        use_mirroring=False,
        perform_everything_on_device=False,
        device=torch.device("cpu"),
        allow_tqdm=False,
    )
    predictor.initialize_from_trained_model_folder(
        str(folder), use_folds=folds, checkpoint_name="checkpoint_final.pth"
    )
    return predictor


@pytest.fixture(scope="module")
def oracle(folder) -> nnUNetPredictor:
    """nnunetv2 with all five folds."""
    return nnunetv2s_own(folder, (0, 1, 2, 3, 4))


@pytest.fixture(scope="module")
def oracle_of_two(folder) -> nnUNetPredictor:
    """nnunetv2 with two folds, where a scan has several tiles."""
    return nnunetv2s_own(folder, (0, 1))


@pytest.fixture(scope="module")
def two_folds(folder) -> Ensemble:
    """Two folds in fp32."""
    return Ensemble.load(replace(open_bundle(folder), folds=(0, 1)), "cpu", half=False)


@pytest.fixture(scope="module")
def small():
    """A phantom at the network's spacing, two tiles along two axes, with its truth."""
    return scan(conceive(7), Scanner(SpacingMm(0.2, 0.2, 0.2), (96, 96, 80)), 7)


@pytest.fixture(scope="module")
def inferred(two_folds, small):
    """Our preparation and probabilities of the small phantom."""
    prepared = two_folds.prepare(small[0])
    return prepared, two_folds.infer(prepared, quiet)


def test_labels_are_nnunets(two_folds, oracle_of_two, small, inferred):
    """nnunetv2 draws the same organs, except for voxels where two classes are equally likely.

    It averages the folds' and tiles' logits, we average their probabilities (Malimban 2022),
    so a handful of voxels at the organs' surfaces differ: those where our first and second
    class are almost as probable as each other, and no others.
    """
    prepared, result = inferred
    ours = two_folds.label(prepared, result)
    theirs = oracle_of_two.predict_single_npy_array(
        small[0].hu_zyx[None], {"spacing": [0.2, 0.2, 0.2]}, None, None, False
    )
    differ = ours.labels_zyx != theirs
    first, second = torch.topk(result.scores.float(), 2, dim=0).values
    assert differ.mean() < 1e-3
    assert (first - second).numpy()[differ].max(initial=0.0) < 0.25
    for label, organ in two_folds.bundle.organs.items():
        assert ours.mask(organ).sum() > 1000
        assert dice(ours.mask(organ), theirs == label) > 0.995, organ


def mean_probabilities(oracle, hu) -> tuple[torch.Tensor, torch.Tensor, int]:
    """The paper's rule computed by nnunetv2's preprocessing, tiles, weights and networks.

    Returns the image, the mean over folds and tiles of the probabilities, the tiles' number.
    """
    data, _, _ = oracle.configuration_manager.preprocessor_class(verbose=False).run_case_npy(
        hu[None], None, {"spacing": [0.2, 0.2, 0.2]}, oracle.plans_manager,
        oracle.configuration_manager, oracle.dataset_json,
    )  # fmt: skip
    patch = tuple(oracle.configuration_manager.patch_size)
    image, inner = pad_nd_image(torch.as_tensor(data).float(), patch, "constant", {}, True)
    gaussian = compute_gaussian(
        patch, sigma_scale=1.0 / 8, dtype=torch.float32, device=torch.device("cpu")
    )
    total, weight = torch.zeros((5, *image.shape[1:])), torch.zeros(image.shape[1:])
    slicers = list(oracle._internal_get_sliding_window_slicers(image.shape[1:]))
    with torch.inference_mode():
        for parameters in oracle.list_of_parameters:
            oracle.network.load_state_dict(parameters)
            oracle.network.eval()
            for slicer in slicers:
                logits = oracle.network(image[slicer][None])[0]
                total[slicer] += torch.softmax(logits, dim=0) * gaussian
                weight[slicer[1:]] += gaussian
    field = inner[1:]
    return image[0][field], (total / weight)[(slice(None), *field)], len(slicers)


def test_probabilities_are_the_mean_over_folds_and_tiles(oracle_of_two, small, inferred):
    """Our probabilities are those of nnunetv2's networks, tiles and weights, averaged."""
    prepared, result = inferred
    image, wanted, tiles = mean_probabilities(oracle_of_two, small[0].hu_zyx)
    assert tiles == 4
    np.testing.assert_allclose(prepared.image_zyx, image, atol=1e-4)
    np.testing.assert_allclose(result.scores, wanted, atol=1e-3)


def test_a_scan_smaller_than_the_patch_is_contoured(ensemble, oracle, small):
    """A field smaller than a patch along every axis is padded as nnunetv2 pads it; five folds."""
    hu = small[0].hu_zyx[16:90, 20:80, 2:78]
    prepared = ensemble.prepare(
        Volume(hu, axial_grid(hu.shape, SpacingMm(0.2, 0.2, 0.2), np.zeros(3)))
    )
    result = ensemble.infer(prepared, quiet)
    _, wanted, tiles = mean_probabilities(oracle, hu)
    assert tiles == 1
    np.testing.assert_allclose(result.scores, wanted, atol=1e-3)
    labels = ensemble.label(prepared, result)
    assert labels.labels_zyx.shape == hu.shape == (74, 60, 76)
    for organ in Organ:
        assert labels.mask(organ).sum() > 500


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [
        ((41, 33, 52), SpacingMm(0.14, 0.2, 0.09)),
        ((20, 31, 24), SpacingMm(0.5, 0.28, 0.33)),
        ((64, 20, 30), SpacingMm(0.14, 0.4, 0.28)),
    ],
)
def test_resampling_is_skimages_cubic(ensemble, shape, spacing):
    """The image is scikit-image's cubic resize, which nnU-Net uses, to a hundredth of an HU."""
    rng = np.random.default_rng(3)
    hu = ndimage.gaussian_filter(rng.normal(size=shape), 1.5)
    hu = np.asarray(-250 + 300 * hu / hu.std(), dtype=np.float32)
    target = [round(n * mm / 0.2) for n, mm in zip(shape, spacing.zyx, strict=True)]
    wanted = resize(hu.astype(np.float64), target, order=3, mode="edge", anti_aliasing=False)
    properties = json.loads((BUNDLE / "plans.json").read_text())[
        "foreground_intensity_properties_per_channel"
    ]["0"]
    image = ensemble.prepare(Volume(hu, axial_grid(shape, spacing, np.zeros(3)))).image_zyx
    found = image.numpy() * properties["std"] + properties["mean"]
    low, high = properties["percentile_00_5"], properties["percentile_99_5"]
    assert wanted.min() < low
    assert wanted.max() > high
    np.testing.assert_allclose(found, np.clip(wanted, low, high), atol=1e-2)


@pytest.mark.parametrize(
    "spacing", [SpacingMm(0.14, 0.2, 0.1), SpacingMm(0.5, 0.28, 0.33), SpacingMm(0.2, 0.2, 0.2)]
)
@pytest.mark.parametrize("background", [0.0, 2.5, 5.0])
def test_labels_are_plain_interpolation_and_argmax(ensemble, spacing, background):
    """The boxed, slab-wise labels are torch's trilinear interpolation of the whole, argmaxed."""
    shape = (50, 37, 61)
    rng = np.random.default_rng(5)
    volume = Volume(np.zeros(shape, np.float32), axial_grid(shape, spacing, np.zeros(3)))
    prepared = ensemble.prepare(volume)
    classes = [
        ndimage.gaussian_filter(rng.normal(size=tuple(prepared.image_zyx.shape)), 2)
        for _ in range(5)
    ]
    logits = torch.from_numpy(np.stack(classes)).float() * 40
    logits[0] += background
    probabilities = torch.softmax(logits, dim=0)
    whole = functional.interpolate(probabilities[None], size=shape, mode="trilinear")[0]
    wanted = whole.argmax(dim=0).numpy()
    found = ensemble.label(prepared, saying(probabilities)).labels_zyx
    assert len(np.unique(wanted)) == 5
    top = whole.topk(2, dim=0).values
    ties = (top[0] - top[1] < 1e-5).numpy()
    assert ties.mean() < 1e-3
    np.testing.assert_array_equal(found[~ties], wanted[~ties])


def test_no_organ_anywhere_is_background(ensemble):
    """Where background wins everywhere no voxel is labelled."""
    volume = Volume(
        np.full((30, 31, 32), -1000, np.float32),
        axial_grid((30, 31, 32), SpacingMm(0.1, 0.2, 0.3), np.zeros(3)),
    )
    prepared = ensemble.prepare(volume)
    probabilities = torch.zeros((5, *prepared.image_zyx.shape))
    probabilities[0] = 1
    assert not ensemble.label(prepared, saying(probabilities)).labels_zyx.any()


def oriented(volume: Volume, letters: str) -> tuple[Volume, SimpleITK.Image]:
    """The same animal as SimpleITK stores it in another orientation."""
    image = SimpleITK.GetImageFromArray(volume.hu_zyx)
    image.SetSpacing(volume.grid.spacing_mm.zyx[::-1])
    image.SetOrigin(volume.grid.slice_origins_xyz_mm[0].tolist())
    turned = SimpleITK.DICOMOrient(image, letters[::-1])
    direction = np.array(turned.GetDirection()).reshape(3, 3)
    columns, rows, slices = turned.GetSize()
    x_mm, y_mm, z_mm = turned.GetSpacing()
    origins = np.array(turned.GetOrigin()) + np.outer(np.arange(slices) * z_mm, direction[:, 2])
    grid = Grid(origins, rows, columns, y_mm, x_mm, direction[:, 0], direction[:, 1])
    return Volume(SimpleITK.GetArrayFromImage(turned), grid), turned


@pytest.mark.parametrize("letters", ALL_LETTERS)
def test_the_stacks_orientation_changes_nothing(ensemble, letters):
    """However the animal is stored, the network sees the same image, and the labels fall where
    they fell.
    """  # noqa: D205
    shape, spacing = (20, 26, 34), SpacingMm(0.3, 0.2, 0.14)
    rng = np.random.default_rng(8)
    hu = ndimage.gaussian_filter(rng.normal(-300, 4000, shape), 1.5).astype(np.float32)
    plain = Volume(hu, axial_grid(shape, spacing, np.array([-3.0, 4.0, 5.0])))
    wanted = ensemble.prepare(plain)
    probabilities = torch.softmax(torch.randn((5, *wanted.image_zyx.shape)) * 3, dim=0)
    volume, geometry = oriented(plain, letters)
    assert volume.grid.axis_letters == letters
    prepared = ensemble.prepare(volume)
    np.testing.assert_allclose(prepared.image_zyx, wanted.image_zyx, atol=1e-5)
    labels = SimpleITK.GetImageFromArray(ensemble.label(prepared, saying(probabilities)).labels_zyx)
    labels.CopyInformation(geometry)
    back = SimpleITK.GetArrayFromImage(SimpleITK.DICOMOrient(labels, "LPS"))
    np.testing.assert_array_equal(back, ensemble.label(wanted, saying(probabilities)).labels_zyx)


@pytest.mark.parametrize(("seed", "prone", "folds"), [(41, True, (2, 3, 4)), (42, False, (0, 1))])
def test_unseen_phantoms_are_contoured_well(seed, prone, folds):
    """On phantoms outside the training seeds every organ reaches a DSC of 0.85 after cleaning.

    Takes more than 10 s: the bundle's own networks see a field as wide as a scanner's. Each fold
    sees one of the animals.
    """
    assert seed not in range(1000, 1030)
    scanner = random_scanner(seed, 0.2, (120, 108, 112))
    volume, truth = scan(conceive(seed, prone=prone), scanner, seed)
    ensemble = Ensemble.load(replace(open_bundle(BUNDLE), folds=folds), "cpu", half=False)
    prepared = ensemble.prepare(volume)
    labels = clean(
        ensemble.label(prepared, ensemble.infer(prepared, quiet)), ensemble.bundle.clean
    ).labels
    scores = {organ: dice(labels.mask(organ), truth.mask(organ)) for organ in Organ}
    assert min(scores.values()) >= 0.85, scores


def test_progress_counts_every_pass(ensemble, small):
    """Progress runs from one to the number of tiles times folds."""
    hu = small[0].hu_zyx[:40, :40, :40]
    prepared = ensemble.prepare(
        Volume(hu, axial_grid(hu.shape, SpacingMm(0.2, 0.2, 0.2), np.zeros(3)))
    )
    seen = []
    ensemble.infer(prepared, lambda done, total: seen.append((done, total)))
    assert seen == [(n, 5) for n in range(1, 6)]


def resealed(tmp_path, name: str, change) -> Bundle:
    """The embedded bundle with one of its files changed and sealed again."""
    folder = shutil.copytree(BUNDLE, tmp_path / "bundle")
    head = (folder / MANIFEST).read_text().split("\n[files]\n")[0]
    change(folder / name)
    write_manifest(folder, head)
    return open_bundle(folder)


def edit_plans(**changes):
    """Change the plans' only configuration, or the plans themselves."""

    def change(path) -> None:
        plans = json.loads(path.read_text())
        plans["configurations"]["3d_fullres"] |= changes.pop("configuration", {})
        plans |= changes
        path.write_text(json.dumps(plans))

    return change


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (edit_plans(transpose_forward=[2, 1, 2]), r"plans\.json is not usable"),
        (edit_plans(configuration={"previous_stage": "3d_lowres"}), "limn runs single stages"),
        (
            edit_plans(configuration={"normalization_schemes": ["ZScoreNormalization"]}),
            "only CTNormalization",
        ),
        (edit_plans(configuration={"patch_size": [64, 64]}), r"plans\.json is not usable"),
        (edit_plans(configurations={}), r"plans\.json is not usable"),
        (lambda path: path.write_text("{"), r"plans\.json is not usable"),
    ],
)
def test_plans_that_we_do_not_follow_are_refused(tmp_path, change, complaint):
    """Plans with another preprocessing than ours make the bundle unfit, by name."""
    bundle = resealed(tmp_path, "plans.json", change)
    with pytest.raises(BundleUnfit, match=complaint):
        Ensemble.load(bundle, "cpu")


def other_weights(path) -> None:
    """Weights of another network."""
    torch.save({"network_weights": {"layer.weight": torch.zeros(3)}}, path)


@pytest.mark.parametrize(
    "change",
    [other_weights, lambda p: torch.save({"weights": {}}, p), lambda p: p.write_bytes(b"x" * 99)],
)
def test_weights_that_do_not_fit_are_refused(tmp_path, change):
    """Weights of another network, or none, make the bundle unfit; the fold is named."""
    bundle = resealed(tmp_path, "fold_2/checkpoint_final.pth", change)
    with pytest.raises(BundleUnfit, match=r"fold 2 (does not fit its plans|is no checkpoint)"):
        Ensemble.load(bundle, "cpu")
