"""The half of ``bench/parity_v1.py`` that runs where nnunet 1.7.1 is installed, and limn is not.

Builds v1's own trainers with weights at random, or taught one phantom for some steps, saves them
with v1's own ``save_checkpoint``, notes what their networks answer, and predicts a scan with v1's
own ``predict_from_folder``.
"""

import argparse
import functools
import json
import pickle
import shutil
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch

# These files are our own, written a moment ago; torch 2.6 and later ask.
torch.load = functools.partial(torch.load, weights_only=False)

INTENSITIES = {
    "mean": -310.0, "sd": 275.0, "mn": -987.0, "mx": 936.0, "median": -379.0,
    "percentile_00_5": -1006.0, "percentile_99_5": 737.0,
}  # fmt: skip
P222, P122, P212 = [2, 2, 2], [1, 2, 2], [2, 1, 2]
K333, K133 = [3, 3, 3], [1, 3, 3]


def case(patch, pools, kernels, *, base=32, spacing=(0.14, 0.14, 0.14), **more):
    """A network to build, with defaults."""
    return {
        "patch": patch, "pools": pools, "kernels": kernels, "base": base, "spacing": spacing,
        "transpose": (0, 1, 2), "convs": 2, "folds": 1, "cascade": False, "predict": False,
        "stages": 1, "taught": 0,
    } | more  # fmt: skip


CASES = {
    "paper_3d": case([128, 96, 192], [P222] * 4 + [P212], [K333] * 6, stages=2),
    "paper_lowres": case(
        [96, 96, 128], [P222] * 4, [K333] * 5, spacing=(0.19, 0.19, 0.19), stages=2, lowres=True
    ),
    "paper_2d": case([320, 224], [[2, 2]] * 5, [[3, 3]] * 6),
    "first_kernel_flat": case(
        [32, 64, 64], [P122, P222, P222], [K133, K333, K333, K333], base=16,
        spacing=(0.5, 0.14, 0.14),
    ),
    "two_kernels_flat": case(
        [16, 64, 64], [P122, P122, P222], [K133, K133, K333, K333], base=16,
        spacing=(0.8, 0.14, 0.14),
    ),
    "all_kernels_flat_but_last": case(
        [8, 64, 64], [P122, P122, P122], [K133, K133, K133, K333], base=8, spacing=(1, 0.14, 0.14)
    ),
    "three_convs": case([48, 48, 64], [P222, P222], [K333] * 3, base=8, convs=3),
    "one_pool": case([32, 32, 32], [P222], [K333] * 2, base=8),
    "cascade": case([48, 48, 64], [P222, P222], [K333] * 3, base=8, cascade=True, stages=2),
    "predict_3d": case(
        [32, 32, 48], [P222, P222], [K333] * 3, base=8, spacing=(0.28, 0.28, 0.28), folds=3,
        predict=True,
    ),
    "predict_3d_transposed": case(
        [48, 32, 32], [P222, P222], [K333] * 3, base=8, spacing=(0.3, 0.28, 0.26),
        transpose=(2, 0, 1), folds=2, predict=True,
    ),
    "predict_3d_flat": case(
        [16, 48, 48], [P122, P222], [K133, K333, K333], base=8, spacing=(0.4, 0.28, 0.28), folds=2,
        predict=True,
    ),
    "predict_2d": case(
        [48, 64], [[2, 2]] * 3, [[3, 3]] * 4, base=8, spacing=(0.2, 0.28, 0.28), folds=2,
        predict=True,
    ),
    "predict_2d_transposed": case(
        [48, 64], [[2, 2]] * 3, [[3, 3]] * 4, base=8, spacing=(0.2, 0.28, 0.28),
        transpose=(1, 0, 2), folds=2, predict=True,
    ),
    "taught_3d": case(
        [48, 48, 48], [P222, P222, P222], [K333] * 4, base=12, spacing=(0.28, 0.28, 0.28), folds=2,
        predict=True, taught=150,
    ),
    "taught_2d": case(
        [64, 64], [[2, 2]] * 3, [[3, 3]] * 4, base=12, spacing=(0.2, 0.22, 0.21), folds=2,
        predict=True, taught=400,
    ),
}  # fmt: skip


def plans_of(wanted):
    """``plans.pkl`` as v1's planner writes it, as far as v1 reads it back."""
    flat = len(wanted["patch"]) == 2
    stage = {
        "batch_size": 2,
        "num_pool_per_axis": [sum(p[i] == 2 for p in wanted["pools"]) for i in range(3 - flat)],
        "patch_size": np.array(wanted["patch"]),
        "median_patient_size_in_voxels": np.array([210, 165, 305]),
        "current_spacing": np.array(wanted["spacing"]),
        "original_spacing": np.array(wanted["spacing"]),
        "do_dummy_2D_data_aug": False,
        "pool_op_kernel_sizes": wanted["pools"],
        "conv_kernel_sizes": wanted["kernels"],
    }
    backward = [wanted["transpose"].index(axis) for axis in range(3)]
    return {
        "num_stages": wanted["stages"],
        "num_modalities": 1,
        "modalities": {0: "CT"},
        "normalization_schemes": OrderedDict([(0, "CT")]),
        "dataset_properties": {
            "all_sizes": [np.array([210, 165, 305])],
            "all_spacings": [np.array(wanted["spacing"])],
            "all_classes": [1, 2, 3, 4],
            "modalities": {0: "CT"},
            "intensityproperties": OrderedDict(
                [(0, OrderedDict((key, np.float64(value)) for key, value in INTENSITIES.items()))]
            ),
            "size_reductions": OrderedDict(),
        },
        "list_of_npz_files": [],
        "original_spacings": [np.array(wanted["spacing"])],
        "original_sizes": [np.array([210, 165, 305])],
        "preprocessed_data_folder": "",
        "num_classes": 4,
        "all_classes": [1, 2, 3, 4],
        "base_num_features": wanted["base"],
        "use_mask_for_norm": OrderedDict([(0, False)]),
        "keep_only_largest_region": None,
        "min_region_size_per_class": None,
        "min_size_per_class": None,
        "transpose_forward": list(wanted["transpose"]),
        "transpose_backward": backward,
        "data_identifier": "nnUNetData_plans_v2.1",
        "plans_per_stage": dict.fromkeys(range(wanted["stages"]), stage),
        "preprocessor_name": "PreprocessorFor2D" if flat else "GenericPreprocessor",
        "conv_per_stage": wanted["convs"],
    }


def teach(network, wanted, phantom, fold):
    """Some steps on patches of one phantom; returns the loss before and after."""
    draw = np.random.default_rng(fold)
    with np.load(phantom) as kept:
        hu = kept["hu_zyx"].transpose(wanted["transpose"]).astype(np.float32)
        labels = kept["labels_zyx"].transpose(wanted["transpose"]).astype(np.int64)
    low, high = INTENSITIES["percentile_00_5"], INTENSITIES["percentile_99_5"]
    image = (np.clip(hu, low, high) - INTENSITIES["mean"]) / INTENSITIES["sd"]
    # A 2d network's patch is one slice of the first axis.
    patch = [1] * (3 - len(wanted["patch"])) + list(wanted["patch"])
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    network.train()
    losses = []
    for _ in range(wanted["taught"]):
        first = [int(draw.integers(0, n - p + 1)) for n, p in zip(hu.shape, patch, strict=True)]
        where = tuple(slice(a, a + p) for a, p in zip(first, patch, strict=True))
        shape = (1, 1, *wanted["patch"])
        said = network(torch.from_numpy(image[where].reshape(shape)).float())[0]
        truth = torch.from_numpy(labels[where].reshape(1, *wanted["patch"]))
        loss = torch.nn.functional.cross_entropy(said, truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    tenth = max(1, len(losses) // 10)
    return float(np.mean(losses[:tenth])), float(np.mean(losses[-tenth:]))


def build(name, wanted, out):
    """A result folder of v1, and what its networks answer."""
    from nnunet.training.network_training.nnUNetTrainerV2 import nnUNetTrainerV2
    from nnunet.training.network_training.nnUNetTrainerV2_CascadeFullRes import (
        nnUNetTrainerV2CascadeFullRes,
    )

    trainer_class = nnUNetTrainerV2CascadeFullRes if wanted["cascade"] else nnUNetTrainerV2
    kind = "2d" if len(wanted["patch"]) == 2 else "3d_fullres"
    folder = out / name / kind / "Task500_Mouse" / f"{trainer_class.__name__}__nnUNetPlansv2.1"
    folder.mkdir(parents=True)
    with (folder / "plans.pkl").open("wb") as file:
        pickle.dump(plans_of(wanted), file)
    stage = 0 if wanted.get("lowres") else wanted["stages"] - 1
    answers = {}
    for fold in range(wanted["folds"]):
        data = out / "data"
        data.mkdir(exist_ok=True)
        trainer = trainer_class(
            str(folder / "plans.pkl"), fold, str(folder), str(data), batch_dice=False, stage=stage,
            fp16=False,
        )  # fmt: skip
        trainer.initialize(False)
        trainer.initialize_optimizer_and_scheduler()
        # A trainer of v1 sets the seed itself, so that all folds would be the same.
        torch.manual_seed(100 * fold + len(name))
        with torch.no_grad():
            for key, parameter in trainer.network.named_parameters():
                affine = "instnorm" in key or key.endswith("bias")
                parameter.add_((0.4 if affine else 0.02) * torch.randn_like(parameter))
        if wanted["taught"]:
            before, after = teach(trainer.network, wanted, out / "phantom.npz", fold)
            print(name, fold, f"taught: loss {before:.3f} -> {after:.3f}", flush=True)
            if after > 0.5 * before:
                msg = f"{name} learnt nothing: loss {before:.3f} -> {after:.3f}"
                raise SystemExit(msg)
        trainer.all_tr_losses = [np.float64(-0.5), np.mean(np.array([0.1, 0.2]))]
        trainer.all_val_eval_metrics = [np.float64(0.8)]
        trainer.best_val_eval_criterion_MA = np.float64(0.8)
        trainer.epoch = 999
        place = folder / f"fold_{fold}"
        place.mkdir(exist_ok=True)
        trainer.save_checkpoint(str(place / "model_final_checkpoint.model"))
        trainer.network.eval()
        trainer.network.do_ds = True
        channels = trainer.num_input_channels
        picture = torch.from_numpy(
            np.random.default_rng(fold).normal(size=(1, channels, *wanted["patch"]))
        ).float()
        with torch.no_grad():
            heads = trainer.network(picture)
        for k, head in enumerate(heads):
            answers[f"{fold}/{k}"] = head.numpy()
    np.savez(out / name / "answers.npz", **answers)
    print(name, "built", json.dumps(wanted), flush=True)


def predict(name, out, scan):
    """v1's own prediction of one scan, without mirroring."""
    from nnunet.inference.predict import predict_from_folder

    model = next((out / name).glob("*/*/*__*"))
    inputs, outputs = out / name / "in", out / name / "out"
    inputs.mkdir()
    shutil.copy(scan, inputs / "mouse_0000.nii.gz")
    predict_from_folder(
        str(model), str(inputs), str(outputs), None, True, 1, 1, None, 0, 1, False,
        mixed_precision=False, overwrite_existing=True, mode="normal", step_size=0.5,
        disable_postprocessing=True,
    )  # fmt: skip


if __name__ == "__main__":
    asked = argparse.ArgumentParser()
    asked.add_argument("out", type=Path)
    asked.add_argument("scan", type=Path)
    asked.add_argument("names", nargs="*")
    given = asked.parse_args()
    torch.set_num_threads(2)
    for own, described in CASES.items():
        if given.names and own not in given.names:
            continue
        build(own, described, given.out)
        if described["predict"]:
            predict(own, given.out, given.scan)
