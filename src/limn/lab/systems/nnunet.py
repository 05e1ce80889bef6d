"""nnunetv2's own preprocessing, trainer and predictor on the data set of a study.

A study runs each function in an isolated process, because nnunetv2 reads its folders from the
environment when it is imported. With nnU-Net's own trainer no two runs are alike, for it sets no
seed. A short schedule needs `ShortTrainer`: nnU-Net's SGD would take days.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import (
    DatasetFingerprintExtractor,
)
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.inference.export_prediction import (
    convert_predicted_logits_to_segmentation_with_correct_shape,
)
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.label_handling.label_handling import convert_labelmap_to_one_hot
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from limn.domain.files import replacement, write_durably
from limn.domain.timing import Stopwatch
from limn.lab.data.dataset import Entry, link_or_copy
from limn.lab.data.organs import read_organs
from limn.lab.process.isolated import cores, end_with_parent
from limn.lab.process.timed import write_record
from limn.lab.systems.nnunet_plans import Preset, configuration_of, plans
from limn.lab.train.channels_last import channels_last, with_layout_free_norms
from limn.lab.words import CASCADE, LOWRES
from limn.segment.bundle.plans_json import PLANS_NAME, dataset
from limn.segment.engine.half import autocast

NUMBER = 901
DATASET = f"Dataset{NUMBER}_limn"
RAW, PREPROCESSED, RESULTS = "nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"
PROCESSES = "nnUNet_def_n_proc"
SPLITS = "splits_final.json"
FINAL, LATEST = "checkpoint_final.pth", "checkpoint_latest.pth"


def environment(root: Path) -> dict[str, str]:
    """Variables that must be set before nnunetv2 is imported; for `run_isolated`."""
    few = str(min(4, cores()))
    return {name: str(root / name) for name in (RAW, PREPROCESSED, RESULTS)} | {
        "nnUNet_n_proc_DA": "0" if not torch.cuda.is_available() else "8",
        PROCESSES: few,
        "nnUNet_compile": "f",
    }


class ShortTrainer(nnUNetTrainer):  # type: ignore[misc]  # nnunetv2 has no types
    """nnU-Net's trainer for hundreds of steps instead of 250,000: AdamW, bf16 where the CPU has it.

    No mirror images, and half of the patches around organs. On a CPU two runs give the same
    weights. On a GPU they do not: kernels add in no fixed order, and workers seed themselves.
    """

    def configure_optimizers(self) -> Any:
        """AdamW, with the falling rate of nnU-Net."""
        self.initial_lr = 4e-3
        optimizer = torch.optim.AdamW(self.network.parameters(), self.initial_lr, weight_decay=1e-3)
        return optimizer, PolyLRScheduler(optimizer, self.initial_lr, self.num_epochs)

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> Any:  # noqa: N802
        """No mirror images: a short training would mix left and right."""
        turns, flat, size, _ = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        self.inference_allowed_mirroring_axes = None
        return turns, flat, size, None

    def on_epoch_start(self) -> None:
        """Seed every epoch by its number, so that a resumed fold equals an uninterrupted one."""
        super().on_epoch_start()
        seed = 10_000 * self.fold + self.current_epoch
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - nnunetv2 draws from it
        torch.manual_seed(seed)
        # A cascade's transforms keep a list of channels and shuffle it in place. Without the sort
        # its order would depend on all batches before, and on one that is drawn before any seed.
        if isinstance(self.dataloader_train, SingleThreadedAugmenter):
            for own in self.dataloader_train.data_loader.transforms.transforms:
                shuffled = getattr(getattr(own, "transform", own), "channel_idx", None)
                if isinstance(shuffled, list):
                    shuffled.sort()

    @staticmethod
    def build_network_architecture(
        plans_manager: PlansManager,
        configuration_manager: Any,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> torch.nn.Module:
        """nnU-Net's own network; on a CPU in the layout that trains fast."""
        kwargs = configuration_manager.network_arch_init_kwargs
        on_cpu = not torch.cuda.is_available()
        network: torch.nn.Module = get_network_from_plans(
            configuration_manager.network_arch_class_name,
            with_layout_free_norms(kwargs) if on_cpu else kwargs,
            configuration_manager.network_arch_init_kwargs_req_import,
            num_input_channels,
            num_output_channels,
            allow_init=True,
            deep_supervision=enable_deep_supervision,
        )
        return channels_last(network) if on_cpu else network

    def initialize(self) -> None:
        """Seed the weights by the fold's number; half of the patches lie around organs."""
        torch.manual_seed(self.fold)
        # With nnU-Net's third, 400 steps found no cord. With all patches around organs, networks
        # drew lungs into the air beside the animal, which they had never seen.
        self.oversample_foreground_percent = 0.5
        super().initialize()

    def train_step(self, batch: dict[str, Any]) -> Any:
        """Add autocast on the CPU; nnU-Net has it only on a GPU."""
        if self.device.type != "cpu":
            return super().train_step(batch)
        with autocast(self.device):
            return super().train_step(batch)


def prepare(
    root: Path, data: Path, entries: Sequence[Entry], presets: Mapping[str, Preset]
) -> None:
    """Write raw folder, fingerprint, plans and splits, and preprocess every configuration.

    Goes on where it was killed: the files of a scan are there whole or not at all.
    """
    training = [own for own in entries if own.split == "train"]
    ready = root / PREPROCESSED / DATASET
    processes = int(os.environ[PROCESSES])
    # The last file that preprocessing needs.
    if not (ready / SPLITS).exists():
        _plan(root, data, training, presets, processes)
    # One pool for all configurations. DefaultPreprocessor.run starts one for each, which took 40 s
    # each for three small scans on two cores.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, end_with_parent) as pool:
        jobs = [
            pool.submit(_preprocess, root, configuration_of(system), own.scan)
            for system in presets
            for own in training
            if not _preprocessed(ready, configuration_of(system), own.scan).exists()
        ]
        for number, job in enumerate(as_completed(jobs), start=1):
            print(f"preprocessed {number}/{len(jobs)} {job.result()}", flush=True)  # noqa: T201


def _plan(
    root: Path,
    data: Path,
    training: Sequence[Entry],
    presets: Mapping[str, Preset],
    processes: int,
) -> None:
    raw, ready = root / RAW / DATASET, root / PREPROCESSED / DATASET
    for folder in (raw, ready):
        if folder.exists():
            shutil.rmtree(folder)
    for folder in (raw / "imagesTr", raw / "labelsTr", ready / "gt_segmentations"):
        folder.mkdir(parents=True)
    for own in training:
        link_or_copy(data / own.ct, raw / "imagesTr" / f"{own.scan}_0000.nii.gz")
        for folder in (raw / "labelsTr", ready / "gt_segmentations"):
            link_or_copy(data / own.observer1, folder / f"{own.scan}.nii.gz")
    described = dataset(read_organs(data).organs, len(training))
    # Without the names nnunetv2 starts twelve interpreters to list the files: a minute of a core.
    named = {
        scan: {"images": [f"imagesTr/{scan}_0000.nii.gz"], "label": f"labelsTr/{scan}.nii.gz"}
        for scan in sorted(own.scan for own in training)
    }
    for folder, contents in ((raw, described | {"dataset": named}), (ready, described)):
        (folder / "dataset.json").write_text(json.dumps(contents, indent=1), encoding="utf-8")
    fingerprint = DatasetFingerprintExtractor(NUMBER, processes).run()
    _write(ready / f"{PLANS_NAME}.json", plans(DATASET, presets, fingerprint))
    _write(ready / SPLITS, splits(training))


def splits(training: Sequence[Entry]) -> list[dict[str, list[str]]]:
    """What trains and validates each fold, the fold's number being the place in the list.

    nnunetv2 looks a fold up by its place, and draws its own, with an animal on both sides, where
    there is none. A fold whose animals have no scans keeps its place; nobody trains it.
    """
    folds = [int(own.fold) for own in training]
    return [
        {
            "train": [own.scan for own, its in zip(training, folds, strict=True) if its != fold],
            "val": [own.scan for own, its in zip(training, folds, strict=True) if its == fold],
        }
        for fold in range(max(folds) + 1)
    ]


def train_fold(root: Path, system: str, preset: Preset, fold: int, short: bool) -> None:
    """Train one fold, from its checkpoint if there is one. A cascade's first stage also predicts.

    Parameters
    ----------
    short : use `ShortTrainer` instead of nnU-Net's own trainer
    """
    place = fold_of(root, system, fold, short=short)
    trainer = _trainer(root, system, preset, fold, short=short)
    if not (place / FINAL).exists():
        trainer.initialize()
        if (place / LATEST).exists():
            trainer.load_checkpoint(str(place / LATEST))
        trainer.run_training()
    elif system == LOWRES:
        trainer.initialize()
        trainer.load_checkpoint(str(place / FINAL))
    if system == LOWRES:
        # The second stage learns from these predictions of the animals that this fold left out.
        trainer.perform_actual_validation()


def predict(
    root: Path,
    system: str,
    folds: Sequence[int],
    scans: Sequence[tuple[Path, Path, Path]],
    previous: Mapping[str, Path],
    short: bool,
) -> None:
    """Label scans with all folds by nnunetv2's predictor, without mirror images.

    Parameters
    ----------
    scans : for each scan the paths of the CT, the labels and the times; the first scan is labelled
        twice, so that its time has no warm-up in it
    previous : for a cascade, the labels of its first stage by the name of the CT's folder
    """
    predictor = _predictor(root, system, folds, short=short)
    manager, configuration = predictor.plans_manager, predictor.configuration_manager
    preprocessor = DefaultPreprocessor(verbose=False)
    for ct, out, times in [scans[0], *scans]:
        watch = Stopwatch()
        # The runtime leaves out the wait for the disk, which is no part of any system.
        with replacement(out, ".nii.gz") as part, watch.stage("runtime_s"):
            with watch.stage("read_s"):
                image, properties = SimpleITKIO().read_images([str(ct)])
                before = None
                if system == CASCADE:
                    before, _ = SimpleITKIO().read_seg(str(previous[ct.parent.name]))
            with watch.stage("preprocess_s"):
                data, seg, properties = preprocessor.run_case_npy(
                    image, before, properties, manager, configuration, predictor.dataset_json
                )
                if before is not None:
                    labels = predictor.label_manager.foreground_labels
                    data = np.vstack(
                        [data, convert_labelmap_to_one_hot(seg[0], labels, data.dtype)]
                    )
            with watch.stage("inference_s"):
                logits = predictor.predict_logits_from_preprocessed_data(torch.from_numpy(data))
                found = convert_predicted_logits_to_segmentation_with_correct_shape(
                    logits.cpu(), manager, configuration, predictor.label_manager, properties
                )
            SimpleITKIO().write_seg(np.asarray(found, np.uint8), str(part), properties)
        write_record(times, ct.parent.name, watch.elapsed_s)
        print(f"{system} {ct.parent.name}: {watch.elapsed_s}", flush=True)  # noqa: T201 - the log


def results_of(root: Path, system: str, *, short: bool) -> Path:
    """nnunetv2's model folder of a configuration."""
    trainer = ShortTrainer if short else nnUNetTrainer
    return (
        root / RESULTS / DATASET / f"{trainer.__name__}__{PLANS_NAME}__{configuration_of(system)}"
    )


def fold_of(root: Path, system: str, fold: int, *, short: bool) -> Path:
    """The folder of one fold's checkpoints."""
    return results_of(root, system, short=short) / f"fold_{fold}"


def finish_results(root: Path, system: str, *, short: bool) -> None:
    """Copy plans and dataset beside the folds, as nnunetv2's command does."""
    for name, own in ((f"{PLANS_NAME}.json", "plans.json"), ("dataset.json", "dataset.json")):
        shutil.copyfile(
            root / PREPROCESSED / DATASET / name, results_of(root, system, short=short) / own
        )


def _preprocessed(ready: Path, configuration: str, scan: str) -> Path:
    """A file that marks a scan as preprocessed; it is written after the scan's own files."""
    return ready / "done" / configuration / scan


def _preprocess(root: Path, configuration: str, scan: str) -> str:
    raw, ready = root / RAW / DATASET, root / PREPROCESSED / DATASET
    manager = PlansManager(_read(ready / f"{PLANS_NAME}.json"))
    configured = manager.get_configuration(configuration)
    part, folder = ready / "part" / configuration / scan, ready / configured.data_identifier
    if part.exists():
        shutil.rmtree(part)
    for needed in (part, folder):
        needed.mkdir(parents=True, exist_ok=True)
    DefaultPreprocessor(verbose=False).run_case_save(
        str(part / scan),
        [str(raw / "imagesTr" / f"{scan}_0000.nii.gz")],
        str(raw / "labelsTr" / f"{scan}.nii.gz"),
        manager,
        configured,
        _read(ready / "dataset.json"),
    )
    for path in part.iterdir():
        with replacement(folder / path.name) as moved:
            path.replace(moved)
    part.rmdir()
    done = _preprocessed(ready, configuration, scan)
    done.parent.mkdir(parents=True, exist_ok=True)
    write_durably(done, b"")
    return f"{configuration} {scan}"


def _trainer(root: Path, system: str, preset: Preset, fold: int, *, short: bool) -> nnUNetTrainer:
    ready = root / PREPROCESSED / DATASET
    planned = _read(ready / f"{PLANS_NAME}.json") | {"continue_training": False}
    kind = ShortTrainer if short else nnUNetTrainer
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    trainer = kind(
        planned, configuration_of(system), fold, _read(ready / "dataset.json"), device=device
    )
    trainer.num_epochs = preset.epochs
    trainer.num_iterations_per_epoch = preset.iterations
    trainer.num_val_iterations_per_epoch = max(1, min(50, preset.iterations // 10))
    # A killed run loses at most a twentieth of its epochs.
    trainer.save_every = max(1, min(50, preset.epochs // 20))
    trainer.save_checkpoint = partial(_save_whole, trainer.save_checkpoint)
    return trainer


def _save_whole(save: Callable[[str], None], path: str) -> None:
    """Save by a rename: nnunetv2 writes in place, and a kill would leave half a checkpoint."""
    with replacement(Path(path)) as part:
        save(str(part))


def _predictor(root: Path, system: str, folds: Sequence[int], *, short: bool) -> nnUNetPredictor:
    finish_results(root, system, short=short)
    place = results_of(root, system, short=short)
    manager = PlansManager(_read(place / "plans.json"))
    dataset_json = _read(place / "dataset.json")
    configuration = manager.get_configuration(configuration_of(system))
    organs = len(dataset_json["labels"]) - 1
    network = get_network_from_plans(
        configuration.network_arch_class_name,
        configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import,
        1 + organs * (system == CASCADE),
        1 + organs,
        deep_supervision=False,
    )
    weights = [
        torch.load(place / f"fold_{fold}" / FINAL, map_location="cpu", weights_only=False)
        for fold in folds
    ]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    predictor = nnUNetPredictor(
        use_mirroring=False,
        perform_everything_on_device=device.type == "cuda",
        device=device,
        allow_tqdm=False,
    )
    predictor.manual_initialization(
        network.to(device),
        manager,
        configuration,
        [each["network_weights"] for each in weights],
        dataset_json,
        "nnUNetTrainer",
        None,
    )
    return predictor


def _write(path: Path, content: Any) -> None:
    write_durably(path, json.dumps(content, indent=1).encode())


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
