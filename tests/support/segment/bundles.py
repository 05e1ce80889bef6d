"""Bundles of small random networks, of any shape that nnU-Net plans."""

import json
from pathlib import Path

import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

from limn.segment.bundle.bundle import Bundle, open_bundle, write_manifest
from tests.conftest import BUNDLE

UNET = "dynamic_network_architectures.architectures.unet.PlainConvUNet"
HEAD = """
name = "random"
version = "1"
demonstration = true
trained_on = "nothing"
not_for = "anything"
orientation = "SPL"
spacing_mm = [0.3, 0.3, 0.3]
expected_hu = [-1100.0, 2000.0]
configuration = "{configuration}"
folds = [{folds}]
mirror_axes = [{mirror_axes}]
[labels]
1 = "Heart"
2 = "SpinalCord"
3 = "Lung_R"
4 = "Lung_L"
[clean]
Heart = {{ keep = "largest" }}
SpinalCord = {{ keep = "largest" }}
Lung_R = {{ keep = "largest" }}
Lung_L = {{ keep = "largest" }}
[protocol]
"""


def architecture(
    axes: int, strides: list[list[int]], kernels: list[list[int]], **more: object
) -> dict[str, object]:
    """Class and arguments of a plain U-Net as nnU-Net's plans name them."""
    stages = len(strides)
    return {
        "network_class_name": UNET,
        "arch_kwargs": {
            "n_stages": stages,
            "features_per_stage": [8 * 2**i for i in range(stages)],
            "conv_op": f"torch.nn.modules.conv.Conv{axes}d",
            "kernel_sizes": kernels,
            "strides": strides,
            "n_conv_per_stage": [2] * stages,
            "n_conv_per_stage_decoder": [2] * (stages - 1),
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{axes}d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
            **more,
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def network(described: dict[str, object], seed: int) -> torch.nn.Module:
    """A network with random norms and biases, and with clear winners among its classes."""
    torch.manual_seed(seed)
    built = get_network_from_plans(
        described["network_class_name"],
        described["arch_kwargs"],
        described["_kw_requires_import"],
        1,
        5,
        deep_supervision=False,
    )
    with torch.no_grad():
        for name, tensor in built.named_parameters():
            if "norm" in name or "bias" in name:
                tensor.add_(0.3 * torch.randn_like(tensor))
        built.decoder.seg_layers[-1].weight.mul_(8.0)
    return built.eval()


def random_bundle(
    folder: Path,
    described: dict[str, object],
    patch: list[int],
    spacing: list[float],
    *,
    folds: int = 2,
    transpose: tuple[int, int, int] = (0, 1, 2),
    mirror_axes: tuple[int, ...] = (),
) -> Bundle:
    """A sealed bundle that nnunetv2's predictor opens too."""
    flat = len(patch) == 2
    name = "2d" if flat else "3d_fullres"
    plans = json.loads((BUNDLE / "plans.json").read_text())
    configuration = plans["configurations"]["3d_fullres"] | {
        "patch_size": patch,
        "spacing": spacing,
        "architecture": described,
    }
    backward = [transpose.index(axis) for axis in range(3)]
    plans |= {
        "configurations": {name: configuration},
        "transpose_forward": list(transpose),
        "transpose_backward": backward,
    }
    folder.mkdir()
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text((BUNDLE / "dataset.json").read_text())
    for fold in range(folds):
        (folder / f"fold_{fold}").mkdir()
        torch.save(
            {
                "network_weights": network(described, 100 + fold).state_dict(),
                "trainer_name": "nnUNetTrainer",
                "init_args": {"configuration": name},
                # nnunetv2 counts the axes of its tiles, which in 2d lack the first of three.
                "inference_allowed_mirroring_axes": tuple(axis - flat for axis in mirror_axes)
                or None,
            },
            folder / f"fold_{fold}" / "checkpoint_final.pth",
        )
    listed = ", ".join(str(fold) for fold in range(folds))
    axes = ", ".join(str(axis) for axis in mirror_axes)
    write_manifest(folder, HEAD.format(configuration=name, folds=listed, mirror_axes=axes))
    return open_bundle(folder)
