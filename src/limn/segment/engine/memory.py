"""What memory a scan takes, held against what is free, on the machine and on the GPU."""

from __future__ import annotations

import math

import psutil
import torch

from limn.domain.errors import RefusedSeries

ShapeZyx = tuple[int, int, int]

# What a scan may take of the memory that is free.
MEMORY_SHARE = 0.9
FLOAT_BYTES = 4
# fp32 numbers a voxel of the network's grid beside the sums over tiles: the image, its padded
# copy, two sums of weights, and the winners as int64.
WORKING_FLOATS = 6
# Bytes a voxel of the network's grid on the host, beside one a fold: what wins, whether a fold
# says otherwise, and how many do.
VOTE_BYTES = 4
# Bytes a voxel of the scan: labels as drawn, as cleaned and turned back, and three times the map
# of disagreement while it is turned.
LABEL_BYTES = 6


class NoRoomOnGpu(Exception):
    """What a scan needs is more than the GPU has, whatever the batch."""


def refuse_unread(shape: ShapeZyx) -> None:
    """Refuse a scan before its pixels are read.

    Parameters
    ----------
    shape : of the scan, (z, y, x)

    Raises
    ------
    RefusedSeries
        If its Hounsfield units and its labels alone are more than the machine's free memory.
    """
    _refuse(math.prod(shape) * (FLOAT_BYTES + LABEL_BYTES), shape, "this scan")


def refuse_too_large(
    device: torch.device, shape: ShapeZyx, floats: float, folds: int, scan_voxels: int, grid: str
) -> None:
    """Refuse a scan before it takes the machine's memory, and the node's other scans with it.

    The scan itself is in memory already.

    Parameters
    ----------
    device : where the networks are
    shape : of the network's grid or a region of it, (z, y, x)
    floats : fp32 numbers that each of its voxels takes there
    scan_voxels : of the scan's own grid, where its labels are still to come
    grid : the network's grid in words

    Raises
    ------
    RefusedSeries
        If the machine has less memory than that.
    NoRoomOnGpu
        If the GPU has.
    """
    voxels = math.prod(shape)
    working = int(FLOAT_BYTES * floats * voxels)
    here = (folds + VOTE_BYTES) * voxels + LABEL_BYTES * scan_voxels
    if device.type != "cuda":
        here += working
    elif working > _free_on_gpu(device):
        raise NoRoomOnGpu
    _refuse(here, shape, grid)


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
    """Bytes that a scan may take, with what PyTorch keeps of earlier scans."""
    free, _ = torch.cuda.mem_get_info(device)
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int((free + kept) * MEMORY_SHARE)
