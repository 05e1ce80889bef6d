"""The ensemble against what a user would pick instead, each in a process of its own.

One of these runs at a time and says what it took: seconds and the most memory it ever held.
"""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK
import torch

from limn.domain.geometry import SpacingMm, axial_grid
from limn.domain.scan import Volume
from limn.domain.shipped import EMBEDDED_BUNDLE
from limn.domain.timing import Stopwatch
from limn.lab.train.nnunet_folder import plans
from limn.lab.train.recipe import Recipe
from limn.phantom.anatomy import conceive
from limn.phantom.scanner import random_scanner, scan
from limn.segment.bundle.bundle import open_bundle, write_manifest
from limn.segment.bundle.profile import ProfileName
from limn.segment.draw.delineate import delineate
from limn.segment.engine import openvino_net
from limn.segment.engine.ensemble import Ensemble
from limn.segment.engine.int8 import with_int8
from limn.segment.engine.networks import load_fold
from limn.segment.engine.plans import read_plan

# Malimban 2022's plans: patch, five poolings, 32 to 320 features, 0.14 mm.
PAPER = Recipe(
    spacing_mm=0.14,
    shape_zyx=(180, 224, 320),
    patch_zyx=(128, 96, 192),
    features=(32, 64, 128, 256, 320, 320),
    folds=1,
)
PAPER_TILES = 24
# What the embedded bundle has beside its folds.
PARTS = ("orient.pth", "localiser.pth", "sample.npz", "judge.npz")
# Two tiles of the paper's network; a whole scan of the paper's has 24, and five folds.
TWO_TILES = (128, 144, 192)


@dataclass(frozen=True, slots=True)
class Taken:
    """What a run took.

    Attributes
    ----------
    seconds : of each repetition, the networks loaded and warm before the first
    peak_mb : the most memory its process held
    what : device and precision
    """

    seconds: tuple[float, ...]
    peak_mb: float
    what: str

    @property
    def best_s(self) -> float:
        """The shortest repetition: the others were disturbed."""
        return min(self.seconds)


def alone(run: Callable[..., tuple[list[float], str]], *arguments: object) -> Taken:
    """Run something in a fresh process."""
    context = multiprocessing.get_context("spawn")
    answers: multiprocessing.Queue[tuple[list[float], str, float]] = context.Queue()
    process = context.Process(target=_answer, args=(answers, run, arguments))
    process.start()
    seconds, what, peak_mb = answers.get(timeout=3000)
    process.join()
    return Taken(tuple(seconds), peak_mb, what)


def _answer(
    answers: multiprocessing.Queue[tuple[list[float], str, float]],
    run: Callable[..., tuple[list[float], str]],
    arguments: tuple[object, ...],
) -> None:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        seconds, what = run(*arguments)
    answers.put((seconds, what, _peak_mb()))


def _peak_mb() -> float:
    """The most memory that this process held; Linux tells it in /proc."""
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (row for row in status.read_text().splitlines() if row.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    # What the kernel counts here may include the process that started this one.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def limn_warm(
    bundle: Path, profile: ProfileName, hu: np.ndarray, mm: float, times: int
) -> tuple[list[float], str]:
    """The engine of limn, warm: volume in memory to labels on its grid."""
    # As a worker does.
    ensemble = Ensemble.load(with_int8(open_bundle(bundle), print), "cpu", profile)
    return _labelled(ensemble, hu, mm, times)


def _labelled(ensemble: Ensemble, hu: np.ndarray, mm: float, times: int) -> tuple[list[float], str]:
    """From a volume in memory to labels on its grid."""
    ensemble.warm_up()
    volume = Volume(hu, axial_grid(_shape(hu), SpacingMm(mm, mm, mm), np.zeros(3)))

    def once() -> None:
        prepared = ensemble.prepare(volume)
        ensemble.label(prepared, ensemble.infer(prepared, lambda done, total: None))

    return _timed(times, once), ensemble.description


def limn_int8(
    bundle: Path, profile: ProfileName, hu: np.ndarray, mm: float, times: int
) -> tuple[list[float], str]:
    """The same in int8, whatever it does to the labels: random weights serve for time alone."""
    opened = open_bundle(bundle)
    plan = read_plan(opened)
    tile = np.random.default_rng(1).normal(0, 1, (1, 1, *plan.patch)).astype(np.float32)
    ranges = []
    for fold in opened.folds:
        weights = load_fold(opened, plan, fold).state_dict()
        ranges.append(openvino_net.measured(weights, plan.architecture, plan.patch, [tile])[0])
    ensemble = Ensemble.load(replace(opened, int8_ranges=tuple(ranges)), "cpu", profile)
    return _labelled(ensemble, hu, mm, times)


def predictor_warm(
    bundle: Path, folds: tuple[int, ...], hu: np.ndarray, mm: float, times: int
) -> tuple[list[float], str]:
    """Nnunetv2's predictor, its weights loaded, without mirroring, in the same process."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(
        use_mirroring=False,
        perform_everything_on_device=False,
        device=torch.device("cpu"),
        allow_tqdm=False,
    )
    predictor.initialize_from_trained_model_folder(str(bundle), folds)

    def once() -> None:
        predictor.predict_single_npy_array(hu[None], {"spacing": [mm] * 3}, None, None, False)

    return _timed(times, once), "nnUNetPredictor, cpu fp32"


def command_s(bundle: Path, hu: np.ndarray, mm: float, folder: Path) -> float:
    """What ``nnUNetv2_predict_from_modelfolder`` takes for one scan, as a user starts it."""
    scans, out = folder / "in", folder / "out"
    scans.mkdir()
    image = SimpleITK.GetImageFromArray(hu)
    image.SetSpacing((mm, mm, mm))
    SimpleITK.WriteImage(image, str(scans / "mouse_0000.nii.gz"))
    command = [
        str(Path(sys.executable).parent / "nnUNetv2_predict_from_modelfolder"),
        *("-i", str(scans), "-o", str(out), "-m", str(bundle), "-f", "0", "1", "2", "3", "4"),
        *("-device", "cpu", "--disable_tta"),
    ]
    named = {f"nnUNet_{name}": str(folder) for name in ("raw", "preprocessed", "results")}
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env=os.environ | named)
    seconds = time.perf_counter() - started
    if not (out / "mouse.nii.gz").exists():
        msg = f"{command[0]} wrote nothing"
        raise SystemExit(msg)
    return seconds


def paper_bundle(folder: Path) -> Path:
    """The paper's network with random weights: they serve for time."""
    from limn.lab.train.nnunet_folder import new_network

    shutil.copytree(
        EMBEDDED_BUNDLE, folder, ignore=shutil.ignore_patterns("fold_*", "*.toml", *PARTS)
    )
    properties = json.loads((EMBEDDED_BUNDLE / "plans.json").read_text())[
        "foreground_intensity_properties_per_channel"
    ]["0"]
    (folder / "plans.json").write_text(json.dumps(plans(PAPER, properties, [180, 224, 320])))
    torch.manual_seed(0)
    (folder / "fold_0").mkdir()
    torch.save(
        {
            "network_weights": new_network(PAPER).state_dict(),
            "trainer_name": "nnUNetTrainer",
            "init_args": {"configuration": "3d_fullres"},
            "inference_allowed_mirroring_axes": None,
        },
        folder / "fold_0" / "checkpoint_final.pth",
    )
    head = (EMBEDDED_BUNDLE / "bundle.toml").read_text().split("\n[files]\n")[0]
    lines = []
    for line in head.splitlines():
        if line.startswith("folds"):
            lines.append("folds = [0]")
        elif line.startswith("spacing_mm"):
            lines.append("spacing_mm = [0.14, 0.14, 0.14]")
        elif line.partition(" ")[0] not in ("onlooker", "localiser", "sample", "judge"):
            lines.append(line)
    write_manifest(folder, "\n".join(lines))
    return folder


def bench_engine(folder: Path) -> dict[str, float]:
    """Embedded bundle and the paper's network: limn against nnunetv2, one run."""
    volume, _ = scan(conceive(7), random_scanner(7, 0.14, (288, 208, 224)), 7)
    hu = volume.hu_zyx
    fast = alone(limn_warm, EMBEDDED_BUNDLE, "fast", hu, 0.14, 3)
    paper = alone(limn_warm, EMBEDDED_BUNDLE, "paper", hu, 0.14, 2)
    stock = alone(predictor_warm, EMBEDDED_BUNDLE, tuple(range(5)), hu, 0.14, 1)
    cold_s = command_s(EMBEDDED_BUNDLE, hu, 0.14, folder)
    print("embedded bundle, five folds, 288x208x224 at 0.14 mm, volume in memory to labels:")
    for name, taken in (("limn fast", fast), ("limn paper", paper), ("nnUNetPredictor", stock)):
        print(f"  {name:22} {taken.best_s:8.2f} s  {taken.peak_mb:7.0f} MB  {taken.what}")
    print(f"  {'nnUNetv2_predict':22} {cold_s:8.2f} s  (the command, from nothing to a file)")
    return {
        "embedded bundle: nnUNetPredictor / limn fast": stock.best_s / fast.best_s,
        "embedded bundle: nnUNetPredictor / limn paper": stock.best_s / paper.best_s,
        "embedded bundle: nnUNetv2_predict command / limn fast": cold_s / fast.best_s,
    } | bench_paper(folder)


def bench_paper(folder: Path) -> dict[str, float]:
    """The paper's network: limn against nnunetv2's predictor."""
    random = paper_bundle(folder / "paper")
    two = np.asarray(np.random.default_rng(0).normal(-300, 300, TWO_TILES), dtype=np.float32)
    ours = alone(limn_warm, random, "paper", two, 0.14, 2)
    eight = alone(limn_int8, random, "paper", two, 0.14, 2)
    theirs = alone(predictor_warm, random, (0,), two, 0.14, 1)
    print("the paper's network, one fold, two tiles of 128x96x192 (24 and five folds: x 60):")
    for name, taken in (("limn paper", ours), ("in int8", eight), ("nnUNetPredictor", theirs)):
        whole_s = taken.best_s * PAPER_TILES / 2 * 5
        print(
            f"  {name:22} {taken.best_s:8.2f} s  {taken.peak_mb:7.0f} MB  {taken.what}; "
            f"five folds over 180x224x320: about {whole_s:.0f} s"
        )
    return {
        "paper's network: nnUNetPredictor / limn paper": theirs.best_s / ours.best_s,
        "paper's network: nnUNetPredictor / limn paper in int8": theirs.best_s / eight.best_s,
    }


def whole_body() -> tuple[np.ndarray, float]:
    """Two mice beside each other, 512 x 512 x 700 voxels of 0.2 mm: HU and the voxel's edge."""
    mouse = conceive(12, neighbour=True)
    x_mm = mouse.around.neighbour_xyz_mm[0] if mouse.around.neighbour_xyz_mm else 0.0
    coarse = replace(random_scanner(12, 0.4, (350, 256, 256)), centre_xyz_mm=(x_mm / 2, 0.0, -15.0))
    volume, _ = scan(mouse, coarse, 12)
    fine = volume.hu_zyx
    for axis in range(3):
        fine = np.repeat(fine, 2, axis=axis)
    return fine, 0.2


def delineate_warm(bundle: Path, times: int) -> tuple[list[float], str]:
    """One animal of a whole-body scan of two, from the volume to clean labels."""
    ensemble = Ensemble.load(open_bundle(bundle), "cpu", "fast")
    ensemble.warm_up()
    hu, mm = whole_body()
    volume = Volume(hu, axial_grid(_shape(hu), SpacingMm(mm, mm, mm), np.zeros(3)))
    found = ""

    def once() -> None:
        nonlocal found
        drawn = delineate(volume, ensemble, "largest", Stopwatch(), lambda done, total: None)
        mm3 = drawn.labels.volumes_mm3()
        found = f"{drawn.animals} animals, " + ", ".join(f"{o} {v:.0f} mm3" for o, v in mm3.items())

    return _timed(times, once), found


def bench_whole_body() -> dict[str, float]:
    """A scan of two whole animals: finishes, in bounded memory."""
    taken = alone(delineate_warm, EMBEDDED_BUNDLE, 1)
    voxels_mb = 512 * 512 * 700 * 4 / 1e6
    print(
        f"two whole mice, 512x512x700 at 0.2 mm ({voxels_mb:.0f} MB): {taken.best_s:.1f} s, "
        f"{taken.peak_mb:.0f} MB at most; {taken.what}"
    )
    return {"whole body: peak memory / size of the scan": taken.peak_mb / voxels_mb}


def _timed(times: int, action: Callable[[], None]) -> list[float]:
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - started)
    return seconds


def _shape(array: np.ndarray) -> tuple[int, int, int]:
    return (array.shape[0], array.shape[1], array.shape[2])
