"""Builds nnU-Net's plain U-Net as an OpenVINO model from its weights.

It is built operation by operation and not converted. Tracing would take seconds per fold, and a
converted file beside the bundle could differ from it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch

# OpenVINO's converter, which limn does not use, reports its use to its makers. Without this
# package it can't (P10).
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

import openvino as ov  # noqa: E402
from openvino import opset13 as ops  # noqa: E402

from limn.segment.bundle.plans_json import PLAIN_UNET  # noqa: E402
from limn.segment.engine.weights import UNEVEN, class_name  # noqa: E402

Request: TypeAlias = ov.InferRequest

NORMS = (
    "torch.nn.modules.instancenorm.InstanceNorm3d",
    "torch.nn.modules.instancenorm.InstanceNorm2d",
)
# Two tiles side by side, one on each core, take two thirds of the time that both cores need for
# one after the other. More than four streams cost memory and save no time.
MOST_STREAMS = 4


def can_build(architecture: Mapping[str, Any]) -> bool:
    """Whether `compiled` can build a network of the plans."""
    arguments = architecture["arch_kwargs"]
    return bool(
        class_name(architecture) in (PLAIN_UNET, UNEVEN)
        and arguments["norm_op"] in NORMS
        and arguments["nonlin"] == "torch.nn.LeakyReLU"
        and not arguments.get("nonlin_first")
    )


def has_bf16() -> bool:
    """Whether this processor has bf16."""
    return "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def compiled(
    weights: Mapping[str, torch.Tensor],
    architecture: Mapping[str, Any],
    patch: Sequence[int],
    *,
    half: bool,
) -> list[Request]:
    """Compile the network; returns as many requests as keep every core busy.

    Parameters
    ----------
    weights : of `PlainConvUNet`
    patch : spatial shape of its input, which is (1, 1, *patch)
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    streams = min(MOST_STREAMS, cores or 1)
    model = ov.Core().compile_model(
        _model({name: tensor.numpy() for name, tensor in weights.items()}, architecture, patch),
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": "bf16" if half else "f32",
            "NUM_STREAMS": str(streams),
            "INFERENCE_NUM_THREADS": cores or 1,
            # Other programs share these cores.
            "ENABLE_CPU_PINNING": False,
        },
    )
    # One more than streams, so that none waits while the results of another are added up.
    return [model.create_infer_request() for _ in range(streams + 1)]


def _model(
    weights: Mapping[str, np.ndarray], architecture: Mapping[str, Any], patch: Sequence[int]
) -> ov.Model:
    arguments = architecture["arch_kwargs"]
    slope = float((arguments.get("nonlin_kwargs") or {}).get("negative_slope", 0.01))
    eps = float((arguments.get("norm_op_kwargs") or {}).get("eps", 1e-5))
    axes = len(patch)

    def spread(vector: np.ndarray) -> np.ndarray:
        return np.asarray(vector.reshape(1, -1, *[1] * axes), dtype=np.float32)

    def block(image: Any, name: str, stride: Sequence[int]) -> Any:
        """Convolution, instance norm, leaky ReLU."""
        kernel = weights[f"{name}.conv.weight"]
        half_kernel = [n // 2 for n in kernel.shape[2:]]
        # The convolution's bias is left out, because the norm subtracts every channel's mean.
        image = ops.convolution(
            image, np.ascontiguousarray(kernel), stride, half_kernel, half_kernel, [1] * axes
        )
        spatial = np.arange(2, 2 + axes)
        image = ops.mvn(image, spatial, True, eps, "inside_sqrt")
        image = ops.multiply(image, spread(weights[f"{name}.norm.weight"]))
        image = ops.add(image, spread(weights[f"{name}.norm.bias"]))
        return ops.prelu(image, np.array([slope], dtype=np.float32))

    strides = [_each_axis(stride, axes) for stride in arguments["strides"]]
    image = entry = ops.parameter([1, 1, *patch], np.float32)
    skips = []
    for stage, count in enumerate(_each_stage(arguments["n_conv_per_stage"], len(strides))):
        for i in range(count):
            stride = strides[stage] if i == 0 else [1] * axes
            image = block(image, f"encoder.stages.{stage}.0.convs.{i}", stride)
        skips.append(image)
    ups = len(strides) - 1
    for up, count in enumerate(_each_stage(arguments["n_conv_per_stage_decoder"], ups)):
        name = f"decoder.transpconvs.{up}"
        image = ops.convolution_backprop_data(
            image, np.ascontiguousarray(weights[f"{name}.weight"]), strides[-1 - up]
        )
        if f"{name}.bias" in weights:
            image = ops.add(image, spread(weights[f"{name}.bias"]))
        image = ops.concat([image, skips[-2 - up]], 1)
        for i in range(count):
            image = block(image, f"decoder.stages.{up}.convs.{i}", [1] * axes)
    last = f"decoder.seg_layers.{ups - 1}"
    image = ops.convolution(
        image, weights[f"{last}.weight"], [1] * axes, [0] * axes, [0] * axes, [1] * axes
    )
    image = ops.add(image, spread(weights[f"{last}.bias"]))
    return ov.Model([image], [entry], "nnU-Net")


def _each_axis(value: int | Sequence[int], axes: int) -> list[int]:
    return [value] * axes if isinstance(value, int) else list(value)


def _each_stage(value: int | Sequence[int], stages: int) -> list[int]:
    return [value] * stages if isinstance(value, int) else list(value)
