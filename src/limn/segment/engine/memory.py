"""Compares the memory that a scan needs with the free memory of the machine and the GPU."""

from __future__ import annotations

import math

import psutil
import torch

from limn.domain.errors import RefusedSeries

ShapeZyx = tuple[int, int, int]

# Share of the free memory that a scan may take.
MEMORY_SHARE = 0.9
FLOAT_BYTES = 4
# fp32 numbers per voxel of the network's grid beside the sums over tiles: the image, its padded
# copy, two sums of weights, and the winners with the highest score so far (two at most).
WORKING_FLOATS = 6
# Bytes per voxel of the network's grid on the host, beside one per fold: the winner, whether a
# fold contradicts it, and how many folds do.
VOTE_BYTES = 4
# Bytes per voxel of the scan: labels of the networks, cleaned, and turned back; and three copies
# of the map of disagreement while it is turned back.
LABEL_BYTES = 6


class GpuTooSmall(Exception):
    """A scan needs more memory than the GPU has free, whatever the batch."""


def refuse_unread(shape: ShapeZyx) -> None:
    """Refuse a scan before its pixels are read.

    Parameters
    ----------
    shape : of the scan, (z, y, x)

    Raises
    ------
    RefusedSeries
        If its Hounsfield units and labels alone need more than the machine's free memory.
    """
    _refuse(math.prod(shape) * (FLOAT_BYTES + LABEL_BYTES), shape, "this scan")


def refuse_too_large(
    device: torch.device, shape: ShapeZyx, floats: float, folds: int, scan_voxels: int, grid: str
) -> None:
    """Refuse a scan before it exhausts the memory, which would end the node's other scans too.

    The scan itself is in memory already.

    Parameters
    ----------
    device : of the networks
    shape : of the network's grid or a region of it, (z, y, x)
    floats : fp32 numbers on the device per voxel of that shape
    scan_voxels : of the scan's own grid, on which labels will be made
    grid : the network's grid in words

    Raises
    ------
    RefusedSeries
        If the machine has too little memory.
    GpuTooSmall
        If the GPU has too little memory.
    """
    voxels = math.prod(shape)
    working = int(FLOAT_BYTES * floats * voxels)
    on_host = (folds + VOTE_BYTES) * voxels + LABEL_BYTES * scan_voxels
    if device.type != "cuda":
        on_host += working
    elif working > _free_on_gpu(device):
        raise GpuTooSmall
    _refuse(on_host, shape, grid)


def _refuse(wanted: int, shape: ShapeZyx, grid: str) -> None:
    free = int(psutil.virtual_memory().available * MEMORY_SHARE)
    if wanted > free:
        z, y, x = shape
        msg = (
            f"{x} x {y} x {z} voxels of {grid} need {wanted / 1e9:.1f} GB of memory, "
            f"{free / 1e9:.1f} GB are free; scan a shorter field, or give this worker more memory"
        )
        raise RefusedSeries(msg)


def _free_on_gpu(device: torch.device) -> int:
    """Bytes that a scan may take, with the memory that PyTorch keeps from earlier scans."""
    free, _ = torch.cuda.mem_get_info(device)
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int((free + kept) * MEMORY_SHARE)
