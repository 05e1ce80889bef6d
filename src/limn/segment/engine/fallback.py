"""The networks on a device that works: if the GPU fails, the CPU does a scan, or all later ones."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import TypeVar

import torch

from limn.segment.bundle.bundle import Bundle
from limn.segment.engine.memory import GpuTooSmall
from limn.segment.engine.networks import Networks, load_networks
from limn.segment.engine.plans import Plan

_Result = TypeVar("_Result")

# The flag of every scan that the CPU does because the GPU can't.
GPU_FAILED = "gpu-failed:cpu"


class WorkingNetworks:
    """The resident networks of a bundle, on the GPU while it works and on the CPU otherwise.

    Attributes
    ----------
    networks : those of the scan that runs
    flags : what is done differently from the settings in this scan
    lost_gpu : why the CPU computes although a GPU was asked for; empty if none was or it works
    """

    def __init__(self, bundle: Bundle, plan: Plan, device: str, *, half: bool) -> None:
        self._bundle, self._plan, self._half = bundle, plan, half
        self.lost_gpu = ""
        try:
            self.networks = load_networks(bundle, plan, device, half=half)
        except (RuntimeError, AssertionError) as error:
            if not _gpu_failed(error):
                raise
            self.networks = self._on_cpu()
            self.lost_gpu = str(error) or repr(error)
        # The networks and the batch with which every scan begins.
        self._home, self._batch = self.networks, self.networks.batch
        # Flags of every scan.
        self._lasting = (GPU_FAILED,) if self.lost_gpu else ()
        self.flags: tuple[str, ...] = self._lasting

    def despite_gpu(self, step: Callable[[], _Result]) -> _Result:
        """Prepare, infer and label one scan, and repeat it if the GPU fails.

        If the GPU runs out of memory, the batch is halved, and at last the CPU does this scan;
        the next scan begins on the GPU again. If the GPU fails otherwise, it is not used any more.
        `flags` records both.
        """
        self.networks, self.flags = self._home, self._lasting
        self.networks.batch = self._batch
        left = False
        while not left:
            try:
                return step()
            except (RuntimeError, GpuTooSmall) as error:
                short = _out_of_memory(error)
                if not (short or _gpu_failed(error)):
                    raise
                why = str(error)
                smaller = short and not isinstance(error, GpuTooSmall) and self.networks.batch > 1
            # Only here has the error released the memory of the failed attempt.
            if short:
                torch.cuda.empty_cache()
            if smaller:
                self.networks.batch //= 2
                self.flags = (*self._lasting, f"gpu-out-of-memory:batch-{self.networks.batch}")
            else:
                self._leave_gpu("" if short else why)
                left = True
        return step()

    def of(self, bundle: Bundle) -> WorkingNetworks:
        """The same networks for fewer folds: if the GPU fails, the CPU gets those alone."""
        view = copy(self)
        view._bundle = bundle
        return view

    def _leave_gpu(self, broken: str) -> None:
        """Let the CPU do this scan, and every later scan if the GPU is broken, and why."""
        self.networks = self._on_cpu()
        if broken:
            self.lost_gpu = broken
            # CUDA repeats such an error at every later call.
            self._home, self._batch = self.networks, self.networks.batch
            self._lasting = (*self._lasting, GPU_FAILED)
            self.flags = self._lasting
        else:
            self.flags = (*self._lasting, "gpu-out-of-memory:cpu")

    def _on_cpu(self) -> Networks:
        return load_networks(self._bundle, self._plan, "cpu", half=self._half)


def _out_of_memory(error: Exception) -> bool:
    """Whether the GPU only lacks memory; not every library has an exception type for that."""
    text = str(error).lower()
    return isinstance(error, (torch.OutOfMemoryError, GpuTooSmall)) or (
        _gpu_failed(error) and ("out of memory" in text or "alloc_failed" in text)
    )


def _gpu_failed(error: Exception) -> bool:
    """Whether the error names the GPU or its libraries; PyTorch has no exception type for that."""
    text = str(error).lower()
    return any(word in text for word in ("cuda", "cudnn", "cublas", "nvidia"))
