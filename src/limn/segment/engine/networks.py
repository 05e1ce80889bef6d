"""The folds' networks on a device: PyTorch on CUDA or CPU, OpenVINO on CPU."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pickle import UnpicklingError
from typing import Protocol

import numpy as np
import torch
from torch import nn

from limn.domain.errors import BundleUnfit
from limn.segment.bundle.bundle import Bundle, Ranges
from limn.segment.engine import openvino_net
from limn.segment.engine.half import to_infer
from limn.segment.engine.plans import Plan
from limn.segment.engine.weights import build, fill

# A batch of small patches keeps a GPU as busy as one of the paper's (128 x 96 x 192 voxels).
BATCH_VOXELS = 2_400_000
# A patch as large as this, whichever way it lies, holds a mouse's chest: such a scan has few tiles.
CHEST_MM = (16.0, 16.0, 25.0)
PRECISIONS = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}


class Networks(Protocol):
    """Every fold's network.

    Attributes
    ----------
    device : of the images and the sums of probabilities
    batch : tiles in one pass
    description : device and precision, for the record
    """

    device: torch.device
    batch: int
    description: str

    def passes(self, fold: int, tiles: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        """Logits (class, z, y, x) fp32 of each (z, y, x) tile, in order.

        A tensor is valid until the caller takes the next one.
        """
        ...


class TorchNetworks:
    """PyTorch, in half precision if the hardware has it."""

    def __init__(
        self, networks: Sequence[nn.Module], plan: Plan, device: str, *, half: bool
    ) -> None:
        self.device = torch.device(device)
        self._networks = [network.to(self.device) for network in networks]
        self._runs_in = to_infer(self.device, half=half)
        self._flat = plan.flat
        cuda = self.device.type == "cuda"
        self.batch = max(1, BATCH_VOXELS // int(np.prod(plan.patch))) if cuda else 1
        name = torch.cuda.get_device_name(self.device) if cuda else "cpu"
        self.description = f"{name} torch {PRECISIONS[self._runs_in]}"
        # Every tile has the same shape, so cuDNN may search for the fastest algorithm once.
        torch.backends.cudnn.benchmark = True

    def passes(self, fold: int, tiles: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        """See `Networks.passes`."""
        network, waiting = self._networks[fold], iter(tiles)
        while batch := list(islice(waiting, self.batch)):
            stacked = torch.stack(batch)
            # A 2d network's tile is one slice: its z serves as the channel.
            image = stacked if self._flat else stacked[:, None]
            with (
                torch.inference_mode(),
                torch.autocast(
                    self.device.type, self._runs_in, enabled=self._runs_in != torch.float32
                ),
            ):
                logits = network(image)
            for each in logits.float():
                yield each[:, None] if self._flat else each


class OpenVinoNetworks:
    """OpenVINO on the CPU: several tiles at once, each on its own cores.

    Parameters
    ----------
    ranges : for each network, to run its convolutions in int8; () for none
    most_streams : tiles at a time, on so many cores

    Attributes
    ----------
    at_once : tiles that run at a time
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        plan: Plan,
        *,
        half: bool,
        ranges: Sequence[Ranges] = (),
        most_streams: int = openvino_net.MOST_STREAMS,
    ) -> None:
        self.device = torch.device("cpu")
        self.batch = 1
        self._flat = plan.flat
        patch = plan.patch[1:] if plan.flat else plan.patch
        half = half and openvino_net.has_bf16()
        own_ranges: Sequence[Ranges | None] = ranges or [None] * len(networks)
        self._requests = [
            openvino_net.compiled(
                network.state_dict(),
                plan.architecture,
                patch,
                half=half,
                ranges=own,
                most_streams=most_streams,
            )
            for network, own in zip(networks, own_ranges, strict=True)
        ]
        # One request more than streams is made.
        self.at_once = len(self._requests[0]) - 1
        precision = "int8" if ranges else "bf16" if half else "fp32"
        self.description = f"cpu openvino {precision}"

    def passes(self, fold: int, tiles: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        """See `Networks.passes`."""
        idle, running = list(self._requests[fold]), deque[openvino_net.Request]()
        try:
            for tile in tiles:
                if not idle:
                    request = running.popleft()
                    yield self._logits(request)
                    idle.append(request)
                request = idle.pop()
                image = tile[None] if self._flat else tile[None, None]
                request.start_async({0: np.ascontiguousarray(image.numpy())}, share_inputs=True)
                running.append(request)
            while running:
                yield self._logits(running.popleft())
        finally:
            for request in running:
                request.wait()

    def _logits(self, request: openvino_net.Request) -> torch.Tensor:
        request.wait()
        logits = torch.from_numpy(request.get_output_tensor(0).data)[0]
        return logits[:, None] if self._flat else logits


def load_networks(bundle: Bundle, plan: Plan, device: str, *, half: bool) -> Networks:
    """Build and fill every fold's network on "cpu" or "cuda".

    Parameters
    ----------
    half : bf16 if the hardware has it, and int8 on the CPU if the bundle has `Bundle.int8_ranges`

    Raises
    ------
    BundleUnfit
        If plans and weights do not fit together.
    """
    networks = [load_fold(bundle, plan, fold) for fold in bundle.folds]
    if device == "cpu" and openvino_net.can_build(plan.architecture):
        return OpenVinoNetworks(
            networks,
            plan,
            half=half,
            ranges=bundle.int8_ranges if half else (),
            most_streams=most_streams(bundle, plan),
        )
    return TorchNetworks(networks, plan, device, half=half)


def most_streams(bundle: Bundle, plan: Plan) -> int:
    """How many tiles may run at a time: one where one tile holds the chest.

    One stream on every core needs half the memory of two, and there may be no second tile.
    """
    across, *within = plan.spacing_mm
    if across is None or bundle.profile != "fast":
        return openvino_net.MOST_STREAMS
    sides_mm = sorted(n * mm for n, mm in zip(plan.patch, (across, *within), strict=True))
    holds_chest = all(side >= least - 1e-6 for side, least in zip(sides_mm, CHEST_MM, strict=True))
    return 1 if holds_chest else openvino_net.MOST_STREAMS


def load_fold(bundle: Bundle, plan: Plan, fold: int) -> nn.Module:
    """Build and fill one fold's network.

    Raises
    ------
    BundleUnfit
        If plans and weights do not fit together.
    """
    network = build(plan.architecture, 1, len(bundle.organs) + 1)
    source = f"bundle {bundle.label}: fold {fold}"
    try:
        checkpoint = torch.load(bundle.checkpoint(fold), map_location="cpu", weights_only=True)
        weights = checkpoint["network_weights"]
    except (RuntimeError, KeyError, TypeError, EOFError, UnpicklingError) as error:
        msg = f"{source} is no checkpoint of nnunetv2: {error}"
        raise BundleUnfit(msg) from error
    return fill(network, weights, source).float()
