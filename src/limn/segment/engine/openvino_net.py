"""Builds nnU-Net's plain U-Net as an OpenVINO model from its weights.

It is built operation by operation and not converted. Tracing would take seconds per fold, and a
converted file beside the bundle could differ from it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

# OpenVINO's converter, which limn does not use, reports its use to its makers. Without this
# package it can't (P10).
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

import openvino as ov  # noqa: E402
from openvino import opset13 as ops  # noqa: E402

from limn.segment.bundle.bundle import Ranges  # noqa: E402
from limn.segment.bundle.plans_json import PLAIN_UNET  # noqa: E402
from limn.segment.engine.weights import UNEVEN, class_name  # noqa: E402

Request: TypeAlias = ov.InferRequest
VERSION = str(ov.get_version())

NORMS = (
    "torch.nn.modules.instancenorm.InstanceNorm3d",
    "torch.nn.modules.instancenorm.InstanceNorm2d",
)
# Two tiles side by side, one on each core, take two thirds of the time that both cores need for
# one after the other. More than four streams cost memory and save no time.
MOST_STREAMS = 4
# Steps of int8: of a convolution's input, and of its weights, which are symmetric about zero.
INPUT_LEVELS = 256
WEIGHT_LEVELS = 255
# The narrowest range, so that an input of zeros has one too.
LEAST_RANGE = 1e-3


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


def processor() -> str:
    """The processor's name and the types that it computes in."""
    core = ov.Core()
    abilities = sorted(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
    name = str(core.get_property("CPU", "FULL_DEVICE_NAME")).strip()
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}, {' '.join(abilities)}"


def compiled(
    weights: Mapping[str, torch.Tensor],
    architecture: Mapping[str, Any],
    patch: Sequence[int],
    *,
    half: bool,
    ranges: Ranges | None = None,
    most_streams: int = MOST_STREAMS,
) -> list[Request]:
    """Compile the network; returns as many requests as keep every core busy.

    Parameters
    ----------
    weights : of `PlainConvUNet`
    patch : spatial shape of its input, which is (1, 1, *patch)
    half : bf16, for all that is not int8
    ranges : of `measured`, for convolutions in int8; None for none
    most_streams : tiles that may run at a time; each has its share of the cores, and memory
    """
    cores = _cores()
    streams = min(most_streams, cores)
    unet = _UNet(weights, architecture, patch, ranges)
    model = ov.Core().compile_model(
        ov.Model([unet.logits], [unet.entry], "nnU-Net"),
        "CPU",
        _settings(half=half, streams=streams, cores=cores),
    )
    # One more than streams, so that none waits while the results of another are added up.
    return [model.create_infer_request() for _ in range(streams + 1)]


def measured(
    weights: Mapping[str, torch.Tensor],
    architecture: Mapping[str, Any],
    patch: Sequence[int],
    images: Iterable[npt.NDArray[np.float32]],
) -> tuple[Ranges, list[npt.NDArray[np.float32]]]:
    """Run images of shape (1, 1, *patch) in fp32.

    Returns
    -------
    The least and the largest input over all images of each convolution that int8 may take; and the
    logits (class, *patch) of each image.
    """
    unet = _UNet(weights, architecture, patch, None)
    axes = np.arange(2 + len(patch))
    # The first convolution sees the image itself, and is left as it is.
    inputs = dict(list(unet.inputs.items())[1:])
    outputs = [unet.logits]
    for reduced in (ops.reduce_min, ops.reduce_max):
        outputs += [reduced(each, axes, False) for each in inputs.values()]
    model = ov.Core().compile_model(
        ov.Model(outputs, [unet.entry], "ranges"),
        "CPU",
        _settings(half=False, streams=1, cores=_cores()),
    )
    lows, highs = np.zeros(len(inputs)), np.full(len(inputs), LEAST_RANGE)
    logits = []
    for image in images:
        answers = model(image)
        found = np.array([float(answers[k]) for k in range(1, len(outputs))])
        lows = np.minimum(lows, found[: len(inputs)])
        highs = np.maximum(highs, found[len(inputs) :])
        logits.append(np.array(answers[0][0], dtype=np.float32))
    spans = zip(lows.tolist(), highs.tolist(), strict=True)
    return dict(zip(inputs, spans, strict=True)), logits


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _settings(*, half: bool, streams: int, cores: int) -> dict[str, Any]:
    return {
        "INFERENCE_PRECISION_HINT": "bf16" if half else "f32",
        "NUM_STREAMS": str(streams),
        "INFERENCE_NUM_THREADS": cores,
        # Other programs share these cores.
        "ENABLE_CPU_PINNING": False,
    }


class _UNet:
    """The operations of one network.

    A convolution whose name is in ``ranges`` gets its input and its weights rounded to the steps
    of int8 by FakeQuantize operations, as NNCF does. OpenVINO then computes it in int8.

    Attributes
    ----------
    entry : takes the image, (1, 1, *patch)
    logits : (1, class, *patch)
    inputs : what goes into each convolution but the last, by the convolution's name, in order
    """

    def __init__(
        self,
        weights: Mapping[str, torch.Tensor],
        architecture: Mapping[str, Any],
        patch: Sequence[int],
        ranges: Ranges | None,
    ) -> None:
        arguments = architecture["arch_kwargs"]
        self._weights, self._ranges, self._axes = weights, ranges or {}, len(patch)
        self._slope = float((arguments.get("nonlin_kwargs") or {}).get("negative_slope", 0.01))
        self._eps = float((arguments.get("norm_op_kwargs") or {}).get("eps", 1e-5))
        self.inputs: dict[str, Any] = {}
        self.entry = ops.parameter([1, 1, *patch], np.float32)
        strides = [_each_axis(stride, self._axes) for stride in arguments["strides"]]
        image, skips = self.entry, []
        for stage, count in enumerate(_each_stage(arguments["n_conv_per_stage"], len(strides))):
            for i in range(count):
                stride = strides[stage] if i == 0 else [1] * self._axes
                image = self._block(image, f"encoder.stages.{stage}.0.convs.{i}", stride)
            skips.append(image)
        ups = len(strides) - 1
        for up, count in enumerate(_each_stage(arguments["n_conv_per_stage_decoder"], ups)):
            image = self._larger(image, f"decoder.transpconvs.{up}", strides[-1 - up])
            image = ops.concat([image, skips[-2 - up]], 1)
            for i in range(count):
                image = self._block(image, f"decoder.stages.{up}.convs.{i}", [1] * self._axes)
        last = f"decoder.seg_layers.{ups - 1}"
        ones, zeros = [1] * self._axes, [0] * self._axes
        image = ops.convolution(image, self._array(f"{last}.weight"), ones, zeros, zeros, ones)
        self.logits = ops.add(image, self._spread(f"{last}.bias"))

    def _block(self, image: Any, name: str, stride: Sequence[int]) -> Any:
        """Convolution, instance norm, leaky ReLU."""
        kernel = self._array(f"{name}.conv.weight")
        half_kernel = [n // 2 for n in kernel.shape[2:]]
        # The convolution's bias is left out, because the norm subtracts every channel's mean.
        image = ops.convolution(
            self._input(image, name),
            self._kernel(kernel, name, 0),
            stride,
            half_kernel,
            half_kernel,
            [1] * self._axes,
        )
        image = ops.mvn(image, np.arange(2, 2 + self._axes), True, self._eps, "inside_sqrt")
        image = ops.multiply(image, self._spread(f"{name}.norm.weight"))
        image = ops.add(image, self._spread(f"{name}.norm.bias"))
        return ops.prelu(image, np.array([self._slope], dtype=np.float32))

    def _larger(self, image: Any, name: str, stride: Sequence[int]) -> Any:
        """Transposed convolution."""
        kernel = self._kernel(self._array(f"{name}.weight"), name, 1)
        image = ops.convolution_backprop_data(self._input(image, name), kernel, stride)
        if f"{name}.bias" in self._weights:
            image = ops.add(image, self._spread(f"{name}.bias"))
        return image

    def _input(self, image: Any, name: str) -> Any:
        self.inputs[name] = image
        if name not in self._ranges:
            return image
        low, high = (np.array(end, dtype=np.float32) for end in self._ranges[name])
        return ops.fake_quantize(image, low, high, low, high, INPUT_LEVELS)

    def _kernel(self, kernel: npt.NDArray[np.float32], name: str, channels: int) -> Any:
        """The weights; ``channels`` is the axis of the channels that come out."""
        constant = ops.constant(kernel)
        if name not in self._ranges:
            return constant
        others = tuple(axis for axis in range(kernel.ndim) if axis != channels)
        most = np.abs(kernel).max(axis=others, keepdims=True) + np.float32(1e-9)
        return ops.fake_quantize(constant, -most, most, -most, most, WEIGHT_LEVELS)

    def _array(self, name: str) -> npt.NDArray[np.float32]:
        return np.ascontiguousarray(self._weights[name].numpy())

    def _spread(self, name: str) -> npt.NDArray[np.float32]:
        """One number for each channel."""
        return self._array(name).reshape(1, -1, *[1] * self._axes)


def _each_axis(value: int | Sequence[int], axes: int) -> list[int]:
    return [value] * axes if isinstance(value, int) else list(value)


def _each_stage(value: int | Sequence[int], stages: int) -> list[int]:
    return [value] * stages if isinstance(value, int) else list(value)
