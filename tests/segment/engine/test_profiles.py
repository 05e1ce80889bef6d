"""The profiles and fallbacks of the ensemble; nnunetv2's own predictor is the oracle."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from scipy import ndimage

from limn.domain.errors import BundleUnfit, RefusedSeries
from limn.domain.geometry import SpacingMm, axial_grid
from limn.domain.scan import Volume, dice
from limn.phantom.anatomy import conceive
from limn.phantom.scanner import Scanner, random_scanner, scan
from limn.segment.bundle.bundle import open_bundle
from limn.segment.draw.clean import clean
from limn.segment.engine import ensemble as ensemble_module
from limn.segment.engine import fallback, memory
from limn.segment.engine.ensemble import Ensemble
from limn.segment.engine.networks import TorchNetworks, load_fold
from tests.conftest import BUNDLE
from tests.support.organs import Organ
from tests.support.segment.bundles import architecture, random_bundle

pytestmark = pytest.mark.slow

CUBES = architecture(3, [[1, 1, 1], [2, 2, 2]], [[3, 3, 3]] * 2)
FLAT = architecture(2, [[1, 1], [2, 2]], [[3, 3]] * 2)


def quiet(done: int, total: int) -> None:
    """Ignore the progress."""


def predictor(folder, folds, *, mirroring=False) -> nnUNetPredictor:
    """nnunetv2's own, on the CPU in fp32."""
    oracle = nnUNetPredictor(
        use_mirroring=mirroring,
        perform_everything_on_device=False,
        device=torch.device("cpu"),
        allow_tqdm=False,
    )
    oracle.initialize_from_trained_model_folder(str(folder), use_folds=folds)
    return oracle


def blobs(shape, seed=3) -> np.ndarray:
    """Something smooth with the HU of tissue."""
    rng = np.random.default_rng(seed)
    hu = ndimage.gaussian_filter(rng.normal(size=shape), 2.0)
    return np.asarray(-300 + 250 * hu / hu.std(), dtype=np.float32)


NETWORKS_OWN = SpacingMm(0.3, 0.3, 0.3)


def run(ensemble, hu, spacing=NETWORKS_OWN):
    """Probabilities on the network's grid and labels of a scan whose axes grow as the bundle's."""
    volume = Volume(hu, axial_grid(hu.shape, spacing, np.zeros(3)))

    def seen():
        prepared = ensemble.prepare(volume)
        inferred = ensemble.infer(prepared, quiet)
        return inferred.scores, ensemble.label(prepared, inferred).labels_zyx

    return ensemble.despite_gpu(seen)


def test_stock_is_nnunetv2():
    """The same labels in 99.99 % of the voxels, resampling included; nnunetv2 sums in fp16.

    Takes more than 10 s: nnunetv2 predicts with the bundle's own network, two folds, in fp32.
    """
    # As wide as one tile: nnunetv2 needs as long for each tile as limn.
    volume, _ = scan(conceive(7), Scanner(SpacingMm(0.25, 0.25, 0.25), (80, 64, 76)), 7)
    bundle = open_bundle(BUNDLE)
    stock = Ensemble.load(replace(bundle, folds=(0, 1)), "cpu", "stock", half=False)
    _, ours = run(stock, volume.hu_zyx, SpacingMm(0.25, 0.25, 0.25))
    theirs = predictor(BUNDLE, (0, 1)).predict_single_npy_array(
        volume.hu_zyx[None], {"spacing": [0.25, 0.25, 0.25]}, None, None, False
    )
    assert (ours > 0).sum() > 10_000
    assert (ours == theirs).mean() >= 0.9999


@pytest.mark.parametrize(
    ("described", "patch", "spacing", "transpose", "mirror"),
    [
        (CUBES, [16, 16, 24], [0.3, 0.3, 0.3], (0, 1, 2), ()),
        (CUBES, [16, 16, 24], [0.3, 0.3, 0.3], (2, 0, 1), ()),
        (CUBES, [16, 16, 24], [0.3, 0.3, 0.3], (1, 0, 2), (0, 2)),
        (FLAT, [32, 24], [0.3, 0.3], (0, 1, 2), ()),
        (FLAT, [32, 24], [0.3, 0.3], (1, 0, 2), (1, 2)),
    ],
    ids=["3d", "3d transposed", "3d mirrored", "2d", "2d coronal, mirrored"],
)
def test_every_kind_of_plan_is_run_as_nnunetv2_runs_it(
    tmp_path, described, patch, spacing, transpose, mirror
):
    """Random networks, any order of axes, 2d and 3d, mirrored or not: nnunetv2's probabilities."""
    bundle = random_bundle(
        tmp_path / "b", described, patch, spacing, transpose=transpose, mirror_axes=mirror
    )
    stock = Ensemble.load(bundle, "cpu", "stock", mirroring=bool(mirror), half=False)
    hu = blobs((27, 38, 45))
    scores, labels = run(stock, hu)
    theirs, wanted = predictor(
        bundle.folder, (0, 1), mirroring=bool(mirror)
    ).predict_single_npy_array(hu[None], {"spacing": [0.3, 0.3, 0.3]}, None, None, True)
    back = np.argsort(transpose)
    ours = torch.softmax(scores, dim=0).numpy().transpose(0, *(1 + back))
    # nnunetv2 sums in fp16; in a scan's corners its Gaussian weights all but vanish.
    assert (np.abs(ours - wanted) > 6e-3).mean() < 2e-3
    assert len(np.unique(labels)) == 5
    assert (labels == theirs).mean() > 0.999


def test_long_voxels_are_not_interpolated(tmp_path):
    """Slices more than three times as thick as wide: nearest slice, cubic within, as nnU-Net."""
    bundle = random_bundle(tmp_path / "b", CUBES, [16, 16, 24], [0.3, 0.3, 0.3], folds=1)
    hu = blobs((14, 60, 70))
    spacing = SpacingMm(0.75, 0.2, 0.2)
    stock = Ensemble.load(bundle, "cpu", "stock", half=False)
    oracle = predictor(bundle.folder, (0,))
    data, _, _ = oracle.configuration_manager.preprocessor_class(verbose=False).run_case_npy(
        hu[None], None, {"spacing": list(spacing.zyx)}, oracle.plans_manager,
        oracle.configuration_manager, oracle.dataset_json,
    )  # fmt: skip
    prepared = stock.prepare(Volume(hu, axial_grid(hu.shape, spacing, np.zeros(3))))
    # Skimage clips a slice's overshoot to that slice, limn to the scan.
    off = np.abs(prepared.image_zyx.numpy() - data[0])
    assert (off > 2e-3).mean() < 1e-3
    assert off.max() < 0.1
    _, ours = run(stock, hu, spacing)
    theirs = oracle.predict_single_npy_array(
        hu[None], {"spacing": list(spacing.zyx)}, None, None, False
    )
    assert (ours == theirs).mean() > 0.999


def test_zeros_around_a_scan_are_left_out(tmp_path):
    """A frame of exact zeros is cropped before anything else, as nnU-Net does, and stays empty."""
    bundle = random_bundle(tmp_path / "b", CUBES, [16, 16, 24], [0.3, 0.3, 0.3], folds=1)
    hu = np.pad(blobs((20, 22, 30)), ((3, 5), (4, 0), (0, 7)))
    _, ours = run(Ensemble.load(bundle, "cpu", "stock", half=False), hu)
    theirs = predictor(bundle.folder, (0,)).predict_single_npy_array(
        hu[None], {"spacing": [0.3, 0.3, 0.3]}, None, None, False
    )
    assert (ours == theirs).mean() > 0.999
    assert not ours[:3].any()
    assert not ours[:, :, -7:].any()


def test_bf16_changes_next_to_nothing():
    """In half precision fewer than one voxel in 10,000 changes; where the CPU has none, none."""
    volume, _ = scan(conceive(8), Scanner(SpacingMm(0.2, 0.2, 0.2), (96, 80, 80)), 8)
    bundle = replace(open_bundle(BUNDLE), folds=(0, 1))
    spacing = SpacingMm(0.2, 0.2, 0.2)
    _, full = run(Ensemble.load(bundle, "cpu", "paper", half=False), volume.hu_zyx, spacing)
    _, half = run(Ensemble.load(bundle, "cpu", "paper", half=True), volume.hu_zyx, spacing)
    assert (full > 0).sum() > 10_000
    assert (full != half).mean() < 1e-4


@pytest.fixture(scope="module")
def unseen():
    """A phantom outside the training set, in a wide field."""
    return scan(conceive(43), random_scanner(43, 0.2, (150, 120, 130)), 43)


@pytest.fixture(scope="module")
def fast(unseen):
    """The result of the fast profile with two folds, and the preparation."""
    ensemble = Ensemble.load(replace(open_bundle(BUNDLE), folds=(0, 1)), "cpu", "fast")
    prepared = ensemble.prepare(unseen[0])
    return ensemble, prepared, ensemble.infer(prepared, quiet)


def test_fast_finds_the_organs_in_less(unseen, fast):
    """A region smaller than the scan, with every organ as good as a phantom's must be.

    Takes more than 10 s: two folds of the bundle's own network see a wide field.
    """
    ensemble, prepared, inferred = fast
    assert np.prod(inferred.region.shape) < 0.7 * prepared.image_zyx.numel()
    labels = clean(ensemble.label(prepared, inferred), ensemble.bundle.clean).labels
    for organ in Organ:
        assert dice(labels.mask(organ), unseen[1].mask(organ)) > 0.87


def test_where_the_first_fold_sees_no_organ_no_other_fold_looks(fast):
    """A scan of a belly or of an empty bed takes one pass over it, not a pass for every fold."""
    ensemble, prepared, _ = fast
    passes = []
    air = replace(prepared, image_zyx=torch.full_like(prepared.image_zyx, -3.0))
    inferred = ensemble.infer(air, lambda done, total: passes.append((done, total)))
    assert inferred.region.shape == tuple(prepared.image_zyx.shape)
    assert not ensemble.label(air, inferred).labels_zyx.any()
    assert passes == []


def test_a_region_that_cuts_an_organ_grows(fast, monkeypatch):
    """Started too small, the region grows until no organ touches its faces."""
    ensemble, prepared, right = fast
    small = replace(right.region, high=(right.region.high[0] - 25, *right.region.high[1:]))
    monkeypatch.setattr(ensemble_module, "region_of_organs", lambda *_, **__: small)
    grown = ensemble.first_fold().infer(prepared, quiet)
    assert grown.region.high[0] > small.high[0]
    labels = grown.scores.argmax(dim=0)
    at_the_end_of_the_scan = grown.region.high[0] == prepared.image_zyx.shape[0]
    assert at_the_end_of_the_scan or not labels[-1].any()


def test_folds_agree_where_it_is_plain_and_not_at_surfaces(unseen, fast):
    """Agreement is a DSC per organ; disagreement lies at surfaces, and none inside the organs."""
    ensemble, prepared, inferred = fast
    assert set(inferred.agreement) == set(ensemble.bundle.organs)
    assert all(0.85 < dsc < 1.0 for dsc in inferred.agreement.values())
    seen = ensemble.disagreement(prepared, inferred)
    labels = ensemble.label(prepared, inferred).labels_zyx
    assert seen.shape == labels.shape == unseen[0].hu_zyx.shape
    heart = labels == 1
    core = ndimage.binary_erosion(heart, iterations=4)
    shell = heart & ~ndimage.binary_erosion(heart)
    assert core.sum() > 500
    assert seen[core].mean() < 0.2 * seen[shell].mean()


class Failing(TorchNetworks):
    """A GPU with too little memory for more than so many tiles at once, or none that works."""

    def __init__(self, networks, plan, error, most) -> None:
        super().__init__(networks, plan, "cpu", half=False)
        self.batch, self.error, self.most, self.description = 8, error, most, "failing"

    def passes(self, fold, tiles):
        """Fail where the batch is too large."""
        if self.batch > self.most:
            raise self.error
        yield from super().passes(fold, tiles)


@pytest.fixture
def tiny(tmp_path):
    """A small random bundle, an ensemble of it, and a scan."""
    bundle = random_bundle(tmp_path / "b", CUBES, [16, 16, 24], [0.3, 0.3, 0.3])
    return Ensemble.load(bundle, "cpu", "paper", half=False), blobs((27, 38, 45))


def failing(ensemble, error, most):
    """The ensemble with networks that fail."""
    bundle, plan = ensemble.bundle, ensemble._plan
    networks = [load_fold(bundle, plan, fold) for fold in bundle.folds]
    gpu = Failing(networks, plan, error, most)
    working = ensemble._working
    working._home, working._batch = gpu, gpu.batch
    return ensemble


def test_less_memory_means_smaller_batches(tiny):
    """A scan that runs out of memory with eight tiles goes on with two, with the same result."""
    ensemble, hu = tiny
    wanted, _ = run(ensemble, hu)
    found, _ = run(failing(ensemble, torch.OutOfMemoryError("no memory"), 2), hu)
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    assert ensemble._working.networks.batch == 2


def inferred(ensemble, hu):
    """Run a scan through the ensemble as a worker does."""
    volume = Volume(hu, axial_grid(hu.shape, NETWORKS_OWN, np.zeros(3)))
    return ensemble.despite_gpu(lambda: ensemble.infer(ensemble.prepare(volume), quiet))


def test_smaller_batches_are_in_the_record_of_their_scan_alone(tiny):
    """The next scan begins with the batch of the first."""
    ensemble, hu = tiny
    failing(ensemble, torch.OutOfMemoryError("no memory"), 2)
    assert inferred(ensemble, hu).flags == ("gpu-out-of-memory:batch-2",)
    ensemble._working._home.most = 8
    assert inferred(ensemble, hu).flags == ()
    assert ensemble._working.networks.batch == 8


BROKEN = [
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
]
FULL = [
    torch.OutOfMemoryError("no memory"),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
]


@pytest.mark.parametrize("error", BROKEN)
def test_a_broken_gpu_is_left_for_good(tiny, error):
    """The scan is finished on the CPU, the record says so, and the next one starts there."""
    ensemble, hu = tiny
    wanted, _ = run(ensemble, hu)
    failing(ensemble, error, 0)
    for _ in range(2):
        found = inferred(ensemble, hu)
        assert found.flags == ("gpu-failed:cpu",)
        np.testing.assert_allclose(found.scores, wanted, atol=1e-4)
        assert "cpu openvino" in ensemble.description


@pytest.mark.parametrize("error", FULL)
def test_a_full_gpu_is_left_for_one_scan(tiny, error):
    """A scan that is too large for it goes to the CPU; the next one gets the GPU again."""
    ensemble, hu = tiny
    wanted, _ = run(ensemble, hu)
    failing(ensemble, error, 0)
    found = inferred(ensemble, hu)
    assert found.flags == ("gpu-out-of-memory:cpu",)
    np.testing.assert_allclose(found.scores, wanted, atol=1e-4)
    assert "cpu openvino" in ensemble.description
    ensemble._working._home.most = 8
    assert inferred(ensemble, hu).flags == ()
    assert ensemble.description == "failing"


def test_a_scan_that_no_gpu_could_hold_goes_to_the_cpu_at_once(tiny, monkeypatch):
    """The sums are compared with the GPU's free memory, caches of earlier scans included."""
    ensemble, hu = tiny
    wanted, _ = run(ensemble, hu)
    failing(ensemble, AssertionError("nothing is tried"), 0)
    ensemble._working._home.device = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1_000_000, 80_000_000_000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 3_000_000)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 2_000_000)
    found = inferred(ensemble, hu)
    assert found.flags == ("gpu-out-of-memory:cpu",)
    np.testing.assert_allclose(found.scores, wanted, atol=1e-4)


def test_what_fails_on_the_cpu_too_fails(tiny, monkeypatch):
    """The CPU is tried only once."""
    ensemble, _ = tiny
    steps = []

    def step():
        steps.append(ensemble.description)
        raise RuntimeError("CUDA error: whatever")

    with pytest.raises(RuntimeError, match="whatever"):
        ensemble.despite_gpu(step)
    assert len(steps) == 2


def test_a_gpu_that_fails_at_the_first_pass_is_left(tiny):
    """A GPU that fails while a worker warms up does not stop the worker."""
    ensemble, _ = tiny
    failing(ensemble, RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"), 0).warm_up()
    assert "cpu openvino" in ensemble.description


@pytest.mark.parametrize(
    "error",
    [
        AssertionError("Torch not compiled with CUDA enabled"),
        RuntimeError("Found no NVIDIA driver on your system."),
    ],
)
def test_a_gpu_that_is_not_there_leaves_the_cpu(tmp_path, monkeypatch, error):
    """If the config sets a GPU and the machine has none, the node works and flags it."""
    bundle = random_bundle(tmp_path / "b", CUBES, [16, 16, 24], [0.3, 0.3, 0.3], folds=1)
    load = fallback.load_networks

    def no_gpu(bundle, plan, device, *, half):
        if device == "cuda":
            raise error
        return load(bundle, plan, device, half=half)

    monkeypatch.setattr(fallback, "load_networks", no_gpu)
    assert "cpu" in Ensemble.load(bundle, "cuda").description


def free_memory(monkeypatch, available) -> None:
    """A machine with so many bytes free."""
    monkeypatch.setattr(
        memory.psutil, "virtual_memory", type("Memory", (), {"available": available})
    )


def test_a_scan_too_large_for_the_memory_is_refused(tiny, monkeypatch):
    """The refusal names the needed memory before any is allocated."""
    ensemble, hu = tiny
    volume = Volume(hu, axial_grid(hu.shape, SpacingMm(0.3, 0.3, 0.3), np.zeros(3)))
    free_memory(monkeypatch, 1_000_000)
    with pytest.raises(RefusedSeries, match=r"45 x 38 x 27 voxels .* need 0\.0 GB"):
        ensemble.prepare(volume)


def test_labels_of_a_fine_scan_count(tiny, monkeypatch):
    """The labels of a scan's own fine grid count, even if the network's grid is coarse."""
    ensemble, _ = tiny
    hu = np.zeros((240, 220, 200), dtype=np.float32)
    fine = Volume(hu, axial_grid(hu.shape, SpacingMm(0.02, 0.02, 0.02), np.zeros(3)))
    free_memory(monkeypatch, 60_000_000)
    with pytest.raises(RefusedSeries, match=r"need 0\.1 GB of memory, 0\.1 GB are free"):
        ensemble.prepare(fine)
    free_memory(monkeypatch, 90_000_000)
    ensemble.prepare(fine)


def test_a_scan_of_a_thousand_million_voxels_is_refused_unread(monkeypatch):
    """The refusal names the needed memory if the scan alone is too large."""
    free_memory(monkeypatch, 8_000_000_000)
    with pytest.raises(RefusedSeries, match=r"1024 x 1024 x 1024 .* need 10\.7 GB .* 7\.2 GB are"):
        memory.refuse_unread((1024, 1024, 1024))
    free_memory(monkeypatch, 16_000_000_000)
    memory.refuse_unread((1024, 1024, 1024))


def test_mirroring_needs_a_bundle_that_was_trained_with_it():
    """The embedded bundle, which distinguishes left and right, refuses mirroring by name."""
    with pytest.raises(BundleUnfit, match="was trained without mirroring"):
        Ensemble.load(open_bundle(BUNDLE), "cpu", mirroring=True)


def test_a_cascade_is_refused_by_name(tmp_path):
    """The second stage needs the first's result; the refusal names the configuration to use."""
    bundle = random_bundle(tmp_path / "b", CUBES, [16, 16, 24], [0.3, 0.3, 0.3], folds=1)
    plans = json.loads((bundle.folder / "plans.json").read_text())
    plans["configurations"]["3d_fullres"]["previous_stage"] = "3d_lowres"
    (bundle.folder / "plans.json").write_text(json.dumps(plans))
    with pytest.raises(BundleUnfit, match="use 3d_fullres"):
        Ensemble.load(bundle, "cpu")
