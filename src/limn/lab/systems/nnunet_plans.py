"""What nnunetv2 trains by: the paper's four configurations of one data set, as ``plans.json``.

Written by us instead of nnU-Net's planner, whose plan follows the GPU's memory and the data set:
the paper's own plan is known (Malimban 2022, Methods, "nnU-Net"), and a small one for two cores is
a choice. The arrays' first axis becomes the back-to-front one, so that 2d sees coronal slices, as
in the paper.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from limn.domain.errors import ConfigWrong
from limn.lab.words import CASCADE, LOWRES
from limn.phantom.anatomy import TRUTH_LABELS

PLANS = "nnUNetPlans"
# Arrays come as S, P, L; the network sees P, S, L.
TRANSPOSE = (1, 0, 2)
# nnunetv2's own name of the cascade's second stage.
CONFIGURATION_OF = {CASCADE: "3d_cascade_fullres"}


@dataclass(frozen=True, slots=True)
class Preset:
    """One nnU-Net configuration and how long it learns.

    Attributes
    ----------
    patch : voxels along P, S, L; along S, L for 2d
    poolings : how often each axis is halved; the deepest one decides the stages
    features : channels of every stage, one more than the most poolings
    epochs, iterations : of training; an epoch ends with a validation on a few patches
    """

    spacing_mm: float
    patch: tuple[int, ...]
    poolings: tuple[int, ...]
    features: tuple[int, ...]
    batch: int
    epochs: int
    iterations: int

    def __post_init__(self) -> None:
        wrong = ""
        if len(self.patch) not in {2, 3} or len(self.poolings) != len(self.patch):
            wrong = f"patch {list(self.patch)} and poolings {list(self.poolings)} must be as long"
        elif len(self.features) != max(self.poolings) + 1:
            wrong = f"features {list(self.features)}: {max(self.poolings) + 1} stages expected"
        elif odd := [n for n, k in zip(self.patch, self.poolings, strict=True) if n % 2**k]:
            wrong = f"patch {list(self.patch)}: {odd[0]} can't be halved so often"
        elif min(self.batch, self.epochs, self.iterations) < 1 or self.spacing_mm <= 0:
            wrong = "batch, epochs, iterations and spacing_mm must be above 0"
        if wrong:
            raise ConfigWrong(wrong)


def configuration_of(system: str) -> str:
    """A system's name in nnunetv2."""
    return CONFIGURATION_OF.get(system, system)


def plans(
    dataset_name: str, presets: Mapping[str, Preset], fingerprint: Mapping[str, Any]
) -> dict[str, Any]:
    """``plans.json`` as nnunetv2 2.8 reads it.

    Parameters
    ----------
    presets : by system
    fingerprint : nnunetv2's ``dataset_fingerprint.json``

    Raises
    ------
    ConfigWrong
        If there is a cascade without its first stage.
    """
    if CASCADE in presets and LOWRES not in presets:
        msg = f"{CASCADE} needs {LOWRES}, its first stage"
        raise ConfigWrong(msg)
    spacing = [float(mm) for mm in _median(fingerprint["spacings"])]
    shape = [float(n) for n in _median(fingerprint["shapes_after_crop"])]
    spacing, shape = ([each[axis] for axis in TRANSPOSE] for each in (spacing, shape))
    return {
        "dataset_name": dataset_name,
        "plans_name": PLANS,
        "original_median_spacing_after_transp": spacing,
        "original_median_shape_after_transp": [round(n) for n in shape],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": list(TRANSPOSE),
        "transpose_backward": [TRANSPOSE.index(axis) for axis in range(3)],
        "experiment_planner_used": "limn lab reproduce",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": fingerprint[
            "foreground_intensity_properties_per_channel"
        ],
        "configurations": {
            configuration_of(system): _configuration(system, preset, presets, spacing, shape)
            for system, preset in presets.items()
        },
    }


def dataset(cases: int) -> dict[str, Any]:
    """``dataset.json`` as nnunetv2 reads it."""
    labels = {"background": 0} | {organ.value: label for label, organ in TRUTH_LABELS.items()}
    return {
        "channel_names": {"0": "CT"},
        "labels": labels,
        "numTraining": cases,
        "file_ending": ".nii.gz",
    }


def _median(rows: Sequence[Sequence[float]]) -> list[float]:
    return [sorted(column)[len(column) // 2] for column in zip(*rows, strict=True)]


def _configuration(
    system: str,
    preset: Preset,
    presets: Mapping[str, Preset],
    median_mm: Sequence[float],
    median_shape: Sequence[float],
) -> dict[str, Any]:
    flat = len(preset.patch) == 2
    spacing = [preset.spacing_mm] * len(preset.patch)
    whole = [median_mm[0], *spacing] if flat else spacing
    resampling = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    found: dict[str, Any] = {
        "data_identifier": f"{PLANS}_{configuration_of(system)}",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": preset.batch,
        "patch_size": list(preset.patch),
        "median_image_size_in_voxels": [
            n * old / new for n, old, new in zip(median_shape, median_mm, whole, strict=True)
        ][-len(preset.patch) :],
        "spacing": spacing,
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": resampling,
        "resampling_fn_seg_kwargs": resampling | {"is_seg": True, "order": 1},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": resampling | {"order": 1},
        "architecture": _architecture(preset),
        # As nnU-Net's planner where there is a lowres, which there is in the paper.
        "batch_dice": system != LOWRES,
    }
    if system == LOWRES and CASCADE in presets:
        found["next_stage"] = configuration_of(CASCADE)
    if system == CASCADE:
        found["previous_stage"] = LOWRES
    return found


def _architecture(preset: Preset) -> dict[str, Any]:
    d = len(preset.patch)
    stages = len(preset.features)
    return {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": stages,
            "features_per_stage": list(preset.features),
            "conv_op": f"torch.nn.modules.conv.Conv{d}d",
            "kernel_sizes": [[3] * d] * stages,
            "strides": [[1] * d]
            + [[2 if k < n else 1 for n in preset.poolings] for k in range(stages - 1)],
            "n_conv_per_stage": [2] * stages,
            "n_conv_per_stage_decoder": [2] * (stages - 1),
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{d}d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
