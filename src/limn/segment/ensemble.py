"""Five folds held warm, their probabilities averaged into labels.

Rule of the ensemble (Malimban 2022, Methods: "taking the average of the predicted
probabilities"): softmax of every fold and tile, Gaussian-weighted, summed in one fp32
accumulator; then linear interpolation to the scan's own grid and argmax. The order of
preprocessing is the paper's: resample, then clip and normalise; no mirroring.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pickle import UnpicklingError
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import nn
from torch.nn import functional

from limn.domain.errors import BundleUnfit
from limn.domain.geometry import Grid, Reorientation
from limn.domain.scan import Labels, Volume
from limn.segment.bundle import Bundle
from limn.segment.orient import Finder

Progress = Callable[[int, int], None]

# A tile with fewer voxels above this than this share is air, noise included.
TISSUE_HU = -400.0
AIR_SHARE = 0.001

# Slices interpolated to the scan's grid at a time; bounds the memory of the last step.
SLAB = 16


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A scan as the network wants it."""

    image_zyx: torch.Tensor
    grid: Grid
    turn: Reorientation
    turned_shape_zyx: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class _Plan:
    patch_zyx: tuple[int, int, int]
    mean: float
    std: float
    low: float
    high: float
    architecture: dict[str, Any]


class Ensemble:
    """The resident networks of one bundle on one device.

    Attributes
    ----------
    finder : tells how an animal lies; None if the bundle has none and the header must be believed
    """

    def __init__(self, bundle: Bundle, networks: list[nn.Module], plan: _Plan, device: str) -> None:
        self.bundle = bundle
        self.finder = _load_finder(bundle)
        self.device = torch.device(device)
        self._networks = networks
        self._plan = plan
        self._half = _half_precision(self.device)

    @classmethod
    def load(cls, bundle: Bundle, device: str) -> Ensemble:
        """Build and fill every fold's network.

        Raises
        ------
        BundleUnfit
            If plans and weights do not fit together.
        """
        plan = _read_plan(bundle)
        networks = [_load_fold(bundle, plan, fold).to(device) for fold in bundle.folds]
        return cls(bundle, networks, plan, device)

    @property
    def description(self) -> str:
        """Device and precision, for the record."""
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"
        return f"{name} {'bf16' if self._half else 'fp32'}"

    def warm_up(self) -> None:
        """One forward pass of every fold at the real patch shape."""
        tile = torch.zeros((1, 1, *self._plan.patch_zyx), device=self.device)
        with torch.inference_mode():
            for network in self._networks:
                self._forward(network, tile)

    def prepare(self, volume: Volume) -> Prepared:
        """Turn to the bundle's orientation, resample (cubic), clip, normalise."""
        grid = volume.grid
        turn = Reorientation.between(grid.axis_letters, self.bundle.orientation)
        turned = turn.apply(volume.hu_zyx)
        spacing = turn.spacing(grid.spacing_mm).zyx
        wanted = self.bundle.spacing_mm.zyx
        shape = turned.shape
        target = tuple(
            round(n * own / want) for n, own, want in zip(shape, spacing, wanted, strict=True)
        )
        image = torch.from_numpy(np.ascontiguousarray(turned)).to(self.device)
        for axis in sorted(range(3), key=lambda i: target[i] / shape[i]):
            if target[axis] != shape[axis]:
                matrix = torch.from_numpy(_cubic_matrix(shape[axis], target[axis]))
                image = torch.movedim(
                    torch.tensordot(matrix.to(self.device), image, dims=([1], [axis])), 0, axis
                )
        plan = self._plan
        image = (image.clamp(plan.low, plan.high) - plan.mean) / plan.std
        return Prepared(image, grid, turn, (shape[0], shape[1], shape[2]))

    def infer(self, prepared: Prepared, progress: Progress) -> torch.Tensor:
        """Mean probability of every class, (class, z, y, x) fp32 on the network's grid."""
        plan = self._plan
        image = prepared.image_zyx
        padding = [max(0, p - n) for p, n in zip(plan.patch_zyx, image.shape, strict=True)]
        before = [n // 2 for n in padding]
        padded = functional.pad(
            image,
            [v for i in (2, 1, 0) for v in (before[i], padding[i] - before[i])],
        )
        classes = len(self.bundle.organs) + 1
        total = torch.zeros((classes, *padded.shape), device=self.device)
        weight = torch.zeros(padded.shape, device=self.device)
        gaussian = _gaussian(plan.patch_zyx).to(self.device)
        corners = list(
            itertools.product(
                *(_steps(n, p) for n, p in zip(padded.shape, plan.patch_zyx, strict=True))
            )
        )
        tiles: list[tuple[slice, ...]] = [
            tuple(slice(a, a + p) for a, p in zip(corner, plan.patch_zyx, strict=True))
            for corner in corners
        ]
        air = [self._is_air(padded[where]) for where in tiles]
        full = [where for where, empty in zip(tiles, air, strict=True) if not empty]
        for where in itertools.compress(tiles, air):
            # What the networks would say, at no cost: most of a wide field of view is air.
            total[0][where] += gaussian * len(self._networks)
            weight[where] += gaussian * len(self._networks)
        passes = len(full) * len(self._networks)
        with torch.inference_mode():
            for done, where in enumerate(full):
                tile = padded[where][None, None]
                for k, network in enumerate(self._networks):
                    soft = torch.softmax(self._forward(network, tile).float(), dim=1)[0]
                    total[(slice(None), *where)] += soft * gaussian
                    weight[where] += gaussian
                    progress(done * len(self._networks) + k + 1, passes)
        total /= weight
        inner = tuple(slice(b, b + n) for b, n in zip(before, image.shape, strict=True))
        return total[(slice(None), *inner)]

    def _is_air(self, tile: torch.Tensor) -> bool:
        """Whether hardly a voxel of a tile is as dense as tissue."""
        tissue = (TISSUE_HU - self._plan.mean) / self._plan.std
        return bool((tile > tissue).float().mean() < AIR_SHARE)

    def label(self, prepared: Prepared, probabilities: torch.Tensor) -> Labels:
        """The most probable organ of every voxel of the scan's own grid.

        Only the box around the voxels that any organ wins is interpolated: linear
        interpolation can't let an organ win where background wins at all eight corners.
        """
        labels = np.zeros(prepared.turned_shape_zyx, dtype=np.uint8)
        winners = probabilities.argmax(dim=0)
        occupied = torch.nonzero(winners)
        if len(occupied):
            low = (occupied.amin(dim=0) - 1).clamp(min=0).tolist()
            high = (occupied.amax(dim=0) + 2).tolist()
            self._fill(labels, probabilities, low, high)
        native = np.ascontiguousarray(prepared.turn.undo(labels))
        return Labels(native, prepared.grid, self.bundle.organs)

    def _fill(
        self,
        labels: npt.NDArray[np.uint8],
        probabilities: torch.Tensor,
        low: list[int],
        high: list[int],
    ) -> None:
        sources = [
            _linear_positions(n_out, n_in)
            for n_out, n_in in zip(labels.shape, probabilities.shape[1:], strict=True)
        ]
        spans = [
            np.flatnonzero((position >= a) & (position <= b - 1))
            for position, a, b in zip(sources, low, high, strict=True)
        ]
        if any(len(span) == 0 for span in spans):
            return
        z_span, y_span, x_span = spans
        y_low, y_weight, y_high = self._corners(sources[1][y_span], probabilities.shape[2])
        x_low, x_weight, x_high = self._corners(sources[2][x_span], probabilities.shape[3])
        for start in range(0, len(z_span), SLAB):
            part = z_span[start : start + SLAB]
            z_low, z_weight, z_high = self._corners(sources[0][part], probabilities.shape[1])
            slab = torch.lerp(
                probabilities[:, z_low], probabilities[:, z_high], z_weight[:, None, None]
            )
            slab = torch.lerp(slab[:, :, y_low], slab[:, :, y_high], y_weight[:, None])
            slab = torch.lerp(slab[..., x_low], slab[..., x_high], x_weight)
            won = slab.argmax(dim=0).to(torch.uint8).cpu().numpy()
            labels[
                part[0] : part[-1] + 1, y_span[0] : y_span[-1] + 1, x_span[0] : x_span[-1] + 1
            ] = won

    def _corners(
        self, positions: npt.NDArray[np.float64], size: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        below = np.floor(positions).astype(np.int64)
        above = np.minimum(below + 1, size - 1)
        weight = (positions - below).astype(np.float32)
        return (
            torch.from_numpy(below).to(self.device),
            torch.from_numpy(weight).to(self.device),
            torch.from_numpy(above).to(self.device),
        )

    def _forward(self, network: nn.Module, tile: torch.Tensor) -> torch.Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._half):
            output: torch.Tensor = network(tile)
        return output


def _half_precision(device: torch.device) -> bool:
    """bf16 where the hardware has it; it changes about 1 voxel in 100,000."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _read_plan(bundle: Bundle) -> _Plan:
    try:
        plans = json.loads((bundle.folder / "plans.json").read_text())
        configuration = plans["configurations"][bundle.configuration]
        properties = plans["foreground_intensity_properties_per_channel"]["0"]
        if configuration["normalization_schemes"] != ["CTNormalization"]:
            msg = f"bundle {bundle.label}: only CTNormalization is implemented"
            raise BundleUnfit(msg)
        if plans["transpose_forward"] != [0, 1, 2]:
            msg = f"bundle {bundle.label}: transpose_forward must be [0, 1, 2]"
            raise BundleUnfit(msg)
        z, y, x = configuration["patch_size"]
        return _Plan(
            patch_zyx=(z, y, x),
            mean=properties["mean"],
            std=max(properties["std"], 1e-8),
            low=properties["percentile_00_5"],
            high=properties["percentile_99_5"],
            architecture=configuration["architecture"],
        )
    except (KeyError, ValueError, TypeError) as error:
        msg = f"bundle {bundle.label}: plans.json is not usable: {error!r}"
        raise BundleUnfit(msg) from error


def _load_finder(bundle: Bundle) -> Finder | None:
    if bundle.onlooker is None:
        return None
    try:
        return Finder.load(bundle.folder / bundle.onlooker)
    except (RuntimeError, KeyError, TypeError, AttributeError, EOFError, UnpicklingError) as error:
        msg = f"bundle {bundle.label}: {bundle.onlooker} is no onlooker: {error}"
        raise BundleUnfit(msg) from error


def _load_fold(bundle: Bundle, plan: _Plan, fold: int) -> nn.Module:
    # Here, not at the top: the import costs seconds and only a process that infers pays it.
    from nnunetv2.utilities.get_network_from_plans import (  # noqa: PLC0415
        get_network_from_plans,
    )

    network: nn.Module = get_network_from_plans(
        plan.architecture["network_class_name"],
        plan.architecture["arch_kwargs"],
        plan.architecture["_kw_requires_import"],
        1,
        len(bundle.organs) + 1,
        deep_supervision=False,
    )
    try:
        checkpoint = torch.load(bundle.checkpoint(fold), map_location="cpu", weights_only=True)
        network.load_state_dict(checkpoint["network_weights"])
    except (RuntimeError, KeyError, TypeError, EOFError, UnpicklingError) as error:
        msg = f"bundle {bundle.label}: fold {fold} does not fit its plans: {error}"
        raise BundleUnfit(msg) from error
    return network.eval()


@lru_cache(maxsize=16)
def _cubic_matrix(n_in: int, n_out: int) -> npt.NDArray[np.float32]:
    """Skimage's cubic resize of one axis as a matrix, (n_out, n_in): it is linear."""
    identity = np.eye(n_in)
    return np.asarray(
        ndimage.zoom(identity, (n_out / n_in, 1), order=3, mode="nearest", grid_mode=True),
        dtype=np.float32,
    )


def _linear_positions(n_out: int, n_in: int) -> npt.NDArray[np.float64]:
    """Where the centres of n_out voxels lie among n_in over the same length, edges clamped."""
    positions = (np.arange(n_out) + 0.5) * (n_in / n_out) - 0.5
    return np.asarray(np.clip(positions, 0.0, n_in - 1.0), dtype=np.float64)


def _steps(size: int, patch: int) -> list[int]:
    """Tile starts along one axis at nnU-Net's step of half a patch."""
    if size <= patch:
        return [0]
    count = int(np.ceil((size - patch) / (patch / 2))) + 1
    return [round((size - patch) / (count - 1) * i) for i in range(count)]


@lru_cache(maxsize=4)
def _gaussian(patch_zyx: tuple[int, int, int]) -> torch.Tensor:
    """nnU-Net's tile weight: sigma an eighth of the patch, zeros lifted to the minimum."""
    point = np.zeros(patch_zyx)
    point[tuple(n // 2 for n in patch_zyx)] = 1
    weight = ndimage.gaussian_filter(point, [n / 8 for n in patch_zyx], mode="constant")
    weight /= weight.max()
    weight[weight == 0] = weight[weight > 0].min()
    return torch.from_numpy(weight.astype(np.float32))
