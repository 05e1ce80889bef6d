"""Chooses half precision if the hardware has it; emulated bf16 takes eight times as long."""

from __future__ import annotations

import torch


def has_bf16(device: torch.device) -> bool:
    """Whether this device has bf16, which changes about 1 voxel in 100,000."""
    if device.type == "cuda":
        # By default PyTorch also says yes for GPUs before Ampere, which only emulate it.
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def autocast(device: torch.device, *, half: bool = True) -> torch.autocast:
    """A context in which networks run in bf16, or in fp32 on hardware without bf16."""
    return torch.autocast(device.type, torch.bfloat16, enabled=half and has_bf16(device))


def to_infer(device: torch.device, *, half: bool = True) -> torch.dtype:
    """The type for inference: bf16, or fp16 on a GPU before Ampere, as nnunetv2 on all GPUs.

    Training never uses fp16, because that requires scaled losses.
    """
    if half and has_bf16(device):
        return torch.bfloat16
    return torch.float16 if half and device.type == "cuda" else torch.float32
