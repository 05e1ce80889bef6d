"""Half precision where the hardware multiplies it: imitated, bf16 takes eight times as long."""

from __future__ import annotations

import torch


def has_bf16(device: torch.device) -> bool:
    """Whether PyTorch gains by bf16 here; it changes about 1 voxel in 100,000."""
    if device.type == "cuda":
        # By default PyTorch says yes for GPUs that imitate it, those before Ampere.
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def autocast(device: torch.device, *, half: bool = True) -> torch.autocast:
    """A context in which networks run in bf16, or in fp32 where that is faster."""
    return torch.autocast(device.type, torch.bfloat16, enabled=half and has_bf16(device))


def to_infer(device: torch.device, *, half: bool = True) -> torch.dtype:
    """What trained networks run in; fp16 on a GPU before Ampere, as nnunetv2 everywhere.

    Nothing learns in fp16 here: that wants its losses scaled.
    """
    if half and has_bf16(device):
        return torch.bfloat16
    return torch.float16 if half and device.type == "cuda" else torch.float32
