"""nnunetv2's ``plans.json`` and ``dataset.json`` as version 2.8 reads and writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

PLANS_NAME = "nnUNetPlans"
PLAIN_UNET = "dynamic_network_architectures.architectures.unet.PlainConvUNet"
_RESAMPLING = "resample_data_or_seg_to_shape"


def plain_unet(
    features: Sequence[int],
    kernels: Sequence[Sequence[int]],
    strides: Sequence[Sequence[int]],
    convs: Sequence[int] | None = None,
    convs_up: Sequence[int] | None = None,
    nonlin_kwargs: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """nnU-Net's plain U-Net, 2d or 3d by the length of a kernel.

    Parameters
    ----------
    features, kernels, strides : of every stage, from the finest
    convs, convs_up : convolutions of every stage of encoder and decoder; two each for None
    """
    stages, axes = len(features), len(kernels[0])
    return {
        "network_class_name": PLAIN_UNET,
        "arch_kwargs": {
            "n_stages": stages,
            "features_per_stage": list(features),
            "conv_op": f"torch.nn.modules.conv.Conv{axes}d",
            "kernel_sizes": [list(own) for own in kernels],
            "strides": [list(own) for own in strides],
            "n_conv_per_stage": list(convs or [2] * stages),
            "n_conv_per_stage_decoder": list(convs_up or [2] * (stages - 1)),
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{axes}d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": dict(nonlin_kwargs or {"inplace": True}),
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def configuration(
    *,
    name: str,
    patch: Sequence[int],
    spacing_mm: Sequence[float],
    architecture: Mapping[str, Any],
    batch_size: int,
    median_size: Sequence[float] | None = None,
    schemes: Sequence[str] = ("CTNormalization",),
    masked: Sequence[bool] = (False,),
    batch_dice: bool = False,
    previous: str = "",
) -> dict[str, Any]:
    """One configuration of the plans. Axes are those after ``transpose_forward``.

    Parameters
    ----------
    name : in nnunetv2, such as "3d_fullres"
    median_size : of an image in voxels; the patch for None
    schemes, masked : of normalization, by channel
    previous : the configuration that is a cascade's first stage; "" for none
    """
    resampling = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    described: dict[str, Any] = {
        "data_identifier": f"{PLANS_NAME}_{name}",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": batch_size,
        "patch_size": list(patch),
        "median_image_size_in_voxels": list(patch if median_size is None else median_size),
        "spacing": list(spacing_mm),
        "normalization_schemes": list(schemes),
        "use_mask_for_norm": list(masked),
        "resampling_fn_data": _RESAMPLING,
        "resampling_fn_seg": _RESAMPLING,
        "resampling_fn_data_kwargs": resampling,
        "resampling_fn_seg_kwargs": resampling | {"is_seg": True, "order": 1},
        "resampling_fn_probabilities": _RESAMPLING,
        "resampling_fn_probabilities_kwargs": resampling | {"order": 1},
        "architecture": dict(architecture),
        "batch_dice": batch_dice,
    }
    return described | ({"previous_stage": previous} if previous else {})


def plans(
    *,
    dataset_name: str,
    planner: str,
    spacing_mm: Sequence[float],
    size: Sequence[float],
    forward: Sequence[int],
    intensities: Mapping[str, Any],
    configurations: Mapping[str, Any],
) -> dict[str, Any]:
    """The whole of ``plans.json``.

    Parameters
    ----------
    spacing_mm, size : median of the images, after the axes have been transposed
    forward : what becomes of the axes of an array
    intensities : of the organs, by channel
    configurations : by name
    """
    return {
        "dataset_name": dataset_name,
        "plans_name": PLANS_NAME,
        "original_median_spacing_after_transp": list(spacing_mm),
        "original_median_shape_after_transp": list(size),
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": list(forward),
        "transpose_backward": [list(forward).index(axis) for axis in range(3)],
        "experiment_planner_used": planner,
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": dict(intensities),
        "configurations": dict(configurations),
    }


def dataset(labels: Mapping[int, str], cases: int) -> dict[str, Any]:
    """The whole of ``dataset.json``.

    Parameters
    ----------
    labels : names by number, without the background
    cases : that trained
    """
    return {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0} | {str(name): label for label, name in labels.items()},
        "numTraining": cases,
        "file_ending": ".nii.gz",
    }
