"""Whether an imported nnU-Net v1 model is the same model: ``make soak``.

Installs nnunet 1.7.1 into a virtual environment of its own, has v1 build and save networks with
weights at random, and some that it has taught a phantom (`v1_side.py`), imports what it saved, and
compares: every network's answers at every depth, bit by bit; and the labels of one phantom by v1's
own ``predict_from_folder`` against limn's engine. Weights at random are the worst case: margins
between classes are small everywhere.
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import SimpleITK
import torch
from torch import nn

from limn.domain.errors import LimnError
from limn.domain.geometry import SpacingMm
from limn.domain.scan import Volume
from limn.phantom.anatomy import TRUTH_LABELS, conceive
from limn.phantom.scanner import Scanner, scan
from limn.segment.bundle.bundle import open_bundle
from limn.segment.engine.ensemble import Ensemble
from limn.segment.importing.import_v1 import read_v1
from limn.segment.importing.known_answers import check_answers
from limn.segment.importing.trained import BundleStatement, Trained, seal

PINNED = ["torch==2.13.0", "torchvision==0.28.0", "numpy==2.4.6", "scipy==1.17.1"]
PINNED += ["scikit-image==0.26.0", "SimpleITK==2.5.7", "batchgenerators==0.25.5"]
# Labels may differ where two classes are as likely but for rounding.
MOST_DIFFERENT = 1e-4
THREADS = 2


def environment(folder: Path) -> Path:
    """A Python with nnunet 1.7.1, made where it is not there yet."""
    python = folder / "bin" / "python"
    if (folder / "ready").exists():
        return python
    print(f"installing nnunet 1.7.1 into {folder}; a minute or two", flush=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    (folder / "constraints.txt").write_text("\n".join(PINNED) + "\n")
    pip = [str(python), "-m", "pip", "install", "--quiet", "-c", str(folder / "constraints.txt")]
    subprocess.run([*pip, "torch==2.13.0"], check=True)
    subprocess.run([*pip, "nnunet==1.7.1"], check=True)
    (folder / "ready").touch()
    return python


def phantom(path: Path) -> Volume:
    """A small phantom, also as the NIfTI that v1 reads, with its truth: axes grow to S, P, L."""
    volume, truth = scan(conceive(7), Scanner(SpacingMm(0.2, 0.22, 0.21), (84, 78, 80)), 7)
    image = SimpleITK.GetImageFromArray(volume.hu_zyx)
    image.SetSpacing(volume.grid.spacing_mm.zyx[::-1])
    SimpleITK.WriteImage(image, str(path))
    np.savez(path.with_name("phantom.npz"), hu_zyx=volume.hu_zyx, labels_zyx=truth.labels_zyx)
    return volume


def heads(network: nn.Module, picture: torch.Tensor) -> list[torch.Tensor]:
    """A network's answers at every depth, the finest first."""
    network.decoder.deep_supervision = True
    with torch.inference_mode():
        answers: list[torch.Tensor] = network(picture)
    return answers


def compare_networks(name: str, trained: Trained, folder: Path) -> float:
    """Largest difference of any answer of any fold at any depth."""
    largest = 0.0
    with np.load(folder / name / "answers.npz") as answers:
        for k, fold in enumerate(trained.folds):
            patch = trained.plans["configurations"][trained.configuration]["patch_size"]
            shape = (1, trained.channels, *patch)
            picture = torch.from_numpy(np.random.default_rng(k).normal(size=shape)).float()
            ours = heads(trained.network(fold), picture)
            theirs = [answers[f"{k}/{depth}"] for depth in range(len(ours))]
            if f"{k}/{len(ours)}" in answers:
                return float("inf")
            for own, other in zip(ours, theirs, strict=True):
                if own.shape != other.shape:
                    return float("inf")
                largest = max(largest, float(np.abs(own.numpy() - other).max()))
    return largest


def compare_labels(folder: Path, bundle: Path, volume: Volume) -> str:
    """The engine's labels against v1's."""
    theirs = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(folder / "out/mouse.nii.gz")))
    try:
        ensemble = Ensemble.load(open_bundle(bundle), "cpu", "paper", half=False)
    except LimnError as error:
        return f"the engine can't run it yet: {error}"
    prepared = ensemble.prepare(volume)
    ours = ensemble.label(prepared, ensemble.infer(prepared, lambda *_: None)).labels_zyx
    different = int((ours != theirs).sum())
    verdict = "ok" if different <= MOST_DIFFERENT * ours.size else "DIFFERENT"
    return f"{different} of {ours.size} labels differ ({len(np.unique(theirs))} classes) {verdict}"


def main() -> int:
    """Build, import, compare; 0 when every network is the same."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--environment", type=Path, help="keep nnunet's environment here")
    asked.add_argument("names", nargs="*", help="only these cases")
    given = asked.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.INFO)
    # As v1_side.py: other numbers of threads sum in another order.
    torch.set_num_threads(THREADS)
    worst, unlike = 0.0, []
    with tempfile.TemporaryDirectory(prefix="limn-soak-") as temporary:
        out = Path(temporary)
        python = environment(given.environment or out / "v1")
        volume = phantom(out / "scan.nii.gz")
        side = Path(__file__).with_name("v1_side.py")
        with (out / "v1.log").open("w") as log:
            done = subprocess.run(
                [str(python), str(side), str(out), str(out / "scan.nii.gz"), *given.names],
                env={**os.environ, "RESULTS_FOLDER": str(out / "results"), "PYTHONPATH": ""},
                stdout=log, stderr=subprocess.STDOUT, check=False,
            )  # fmt: skip
        if done.returncode:
            print((out / "v1.log").read_text()[-4000:])
            return 1
        for answers in sorted(out.glob("*/answers.npz")):
            name = answers.parent.name
            trained = read_v1(next(answers.parent.glob("*/*/*__*")))
            largest = compare_networks(name, trained, out)
            worst = max(worst, largest)
            bundle = out / name / "bundle"
            told = BundleStatement(name=name, version="1", organs=TRUTH_LABELS, orientation="SPL")
            kept = check_answers(seal(trained, told, bundle))
            network = trained.architecture["network_class_name"].rpartition(".")[2]
            print(
                f"{name:26} {trained.configuration:18} {network:12} {len(trained.folds)} fold(s) "
                f"networks max|d| {largest:.3g}; sealed max|d| {kept.difference:.3g}",
                flush=True,
            )
            if (answers.parent / "out").is_dir():
                said = compare_labels(answers.parent, bundle, volume)
                unlike += [name] if not said.endswith("ok") else []
                print(f"{'':26} prediction: {said}", flush=True)
    print(f"largest difference of any network: {worst:.3g}")
    if unlike:
        print(f"predictions not the same: {', '.join(unlike)}")
    return 0 if worst == 0 and not unlike else 1


if __name__ == "__main__":
    sys.exit(main())
