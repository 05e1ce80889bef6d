"""The ensemble against what a user would pick instead, each in a process of its own.

One of these runs at a time and says what it took: seconds and the most memory it ever held.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import SimpleITK
import torch

from limn.dicom.ct import CtIdentity, ct_instances
from limn.dicom.series import assemble
from limn.dicom.volume import read_headers, read_volume
from limn.domain.geometry import SpacingMm, axial_grid
from limn.domain.scan import Box, Volume
from limn.domain.shipped import EMBEDDED_BUNDLE
from limn.domain.timing import Stopwatch
from limn.phantom.anatomy import conceive
from limn.phantom.scanner import random_scanner, scan
from limn.segment.bundle.bundle import open_bundle
from limn.segment.bundle.profile import ProfileName
from limn.segment.draw.delineate import delineate
from limn.segment.engine.ensemble import Ensemble
from limn.segment.engine.int8 import with_int8

# Around the organs of a scan that is cropped to the chest, along z, y, x.
CHEST_MARGIN_MM = (10.0, 12.0, 12.0)


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
    return labelled(ensemble, hu, mm, times)


def labelled(ensemble: Ensemble, hu: np.ndarray, mm: float, times: int) -> tuple[list[float], str]:
    """From a volume in memory to labels on its grid."""
    ensemble.warm_up()
    volume = Volume(hu, axial_grid(shape_of(hu), SpacingMm(mm, mm, mm), np.zeros(3)))

    def once() -> None:
        prepared = ensemble.prepare(volume)
        ensemble.label(prepared, ensemble.infer(prepared, lambda done, total: None))

    return timed(times, once), ensemble.description


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

    return timed(times, once), "nnUNetPredictor, cpu fp32"


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


def bench_engine(folder: Path) -> dict[str, float]:
    """The embedded bundle: limn against nnunetv2, one run."""
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


def delineate_warm(bundle: Path, times: int, *, cropped: bool) -> tuple[list[float], str]:
    """One animal of a whole-body scan of two, from the volume to clean labels.

    Parameters
    ----------
    cropped : the scan has only what lies around that animal's organs
    """
    ensemble = Ensemble.load(open_bundle(bundle), "cpu", "fast")
    ensemble.warm_up()
    hu, mm = whole_body()
    volume = Volume(hu, axial_grid(shape_of(hu), SpacingMm(mm, mm, mm), np.zeros(3)))
    if cropped:
        whole = delineate(volume, ensemble, "largest", Stopwatch(), lambda done, total: None)
        hu = np.ascontiguousarray(hu[_around(whole.labels.box, mm)])
        volume = Volume(hu, axial_grid(shape_of(hu), SpacingMm(mm, mm, mm), np.zeros(3)))
    found, passes = "", 0

    def passed(done: int, total: int) -> None:
        nonlocal passes
        passes = total

    def once() -> None:
        nonlocal found
        watch, began_s = Stopwatch(), time.process_time()
        drawn = delineate(volume, ensemble, "largest", watch, passed)
        cpu_s = time.process_time() - began_s
        mm3 = drawn.labels.volumes_mm3()
        found = (
            f"{drawn.animals} animals, {', '.join(f'{o} {v:.0f} mm3' for o, v in mm3.items())}; "
            f"{stages(watch)}, {cpu_s:.2f} s of processor time; {passes} passes"
        )

    return timed(times, once), found


def _around(box: Box, mm: float) -> Box:
    """The box with `CHEST_MARGIN_MM` around it."""
    z, y, x = (
        slice(max(0, span.start - round(more / mm)), span.stop + round(more / mm))
        for span, more in zip(box, CHEST_MARGIN_MM, strict=True)
    )
    return (z, y, x)


def stages(watch: Stopwatch) -> str:
    """Each stage with its seconds."""
    return ", ".join(f"{name} {seconds:.2f}" for name, seconds in watch.elapsed_s.items())


def from_files(bundle: Path, folder: Path) -> tuple[list[float], str]:
    """A whole-body scan from its DICOM files to clean labels, as a worker does it: twice."""
    ensemble = Ensemble.load(open_bundle(bundle), "cpu", "fast")
    ensemble.warm_up()
    found = ""

    def once() -> None:
        nonlocal found
        watch, began_s = Stopwatch(), time.process_time()
        with watch.stage("read_s"):
            series = assemble(read_headers(sorted(folder.iterdir())))
            volume = read_volume(series, bridged=True)
        read_cpu_s = time.process_time() - began_s
        delineate(volume, ensemble, "largest", watch, lambda done, total: None)
        found = (
            f"{stages(watch)}; {read_cpu_s:.2f} s of processor time to read, "
            f"{time.process_time() - began_s:.2f} s in all"
        )

    return timed(2, once), found


def bench_whole_body(folder: Path) -> dict[str, float]:
    """A scan of two whole animals: the time beside that of its chest alone, and the memory."""
    taken = alone(partial(delineate_warm, cropped=False), EMBEDDED_BUNDLE, 3)
    chest = alone(partial(delineate_warm, cropped=True), EMBEDDED_BUNDLE, 3)
    hu, mm = whole_body()
    grid = axial_grid(shape_of(hu), SpacingMm(mm, mm, mm), np.zeros(3))
    identity = CtIdentity("BENCH", "2.25.77", ("20260101", "120000"))
    series = folder / "whole-body"
    series.mkdir()
    for k, instance in enumerate(ct_instances(Volume(hu, grid), identity)):
        instance.save_as(series / f"{k:04d}.dcm", enforce_file_format=True)
    del hu
    read = alone(from_files, EMBEDDED_BUNDLE, series)
    shutil.rmtree(series)
    voxels_mb = 512 * 512 * 700 * 4 / 1e6
    print(f"two whole mice, 512x512x700 at 0.2 mm ({voxels_mb:.0f} MB):")
    for name, each in (("volume to labels", taken), ("its chest", chest), ("from files", read)):
        print(f"  {name:17} {each.best_s:6.2f} s  {each.peak_mb:6.0f} MB at most; {each.what}")
    return {
        "whole body / the same animal's chest": taken.best_s / chest.best_s,
        "whole body from files: peak memory / size of the scan": read.peak_mb / voxels_mb,
    }


def timed(times: int, action: Callable[[], None]) -> list[float]:
    """Seconds of each of several runs."""
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - started)
    return seconds


def shape_of(array: np.ndarray) -> tuple[int, int, int]:
    """The three sizes of a volume."""
    return (array.shape[0], array.shape[1], array.shape[2])
