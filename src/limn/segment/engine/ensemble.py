"""The folds of a bundle held warm: a scan in, labels on its own grid out.

In the paper's profile (Malimban 2022, Methods: "taking the average of the predicted
probabilities") the softmax of every fold and tile is Gaussian-weighted and summed in fp32, then
interpolated linearly to the scan's grid, where the largest wins. What the other profiles do
otherwise: `profile`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pickle import UnpicklingError
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from limn.domain.errors import BundleUnfit
from limn.domain.geometry import Grid, Reorientation
from limn.domain.scan import Labels, Volume
from limn.segment.bundle.bundle import Bundle
from limn.segment.bundle.profile import PROFILES, Profile, ProfileName
from limn.segment.engine.memory import WORKING_FLOATS, NoRoomOnGpu, refuse_too_large
from limn.segment.engine.networks import Networks, load_networks
from limn.segment.engine.orient import Finder
from limn.segment.engine.plans import Plan, read_plan
from limn.segment.engine.region import Region, at_least, grown, region_of_organs
from limn.segment.engine.resample import long_axis, most_probable, nearest, resized
from limn.segment.engine.tiles import TileZyx, gaussian, tiles_over

Progress = Callable[[int, int], None]
_Result = TypeVar("_Result")
ShapeZyx = tuple[int, int, int]

# A tile with fewer voxels above this than this share is air, noise included.
TISSUE_HU = -400.0
AIR_SHARE = 0.001
# A region that has grown so often is no region.
MOST_GROWTHS = 3


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A scan as the networks want it.

    Attributes
    ----------
    image_zyx : normalised, on the network's grid
    spacing_mm : of that grid
    shape : of the scan in the network's orientation, without the zeros around it
    margins : how many voxels of exactly zero were left out before and after it, along each axis
    across : axis along which voxels are too long to be interpolated
    """

    image_zyx: torch.Tensor
    spacing_mm: tuple[float, float, float]
    grid: Grid
    turn: Reorientation
    shape: ShapeZyx
    margins: tuple[tuple[int, int], ...]
    across: int | None


@dataclass(frozen=True, slots=True, eq=False)
class Inferred:
    """What the networks say.

    Attributes
    ----------
    scores : (class, z, y, x) fp32 mean probabilities (or logits) of a region
    region : which part of the network's grid; outside of it is background
    agreement : mean DSC of an organ over all pairs of folds, 1 where all agree; by label
    disagreement_zyx : (z, y, x) uint8 of the region: share of folds that say something else than
        the ensemble, 255 for all of them
    flags : what had to be done otherwise than asked
    """

    scores: torch.Tensor
    region: Region
    agreement: Mapping[int, float]
    disagreement_zyx: npt.NDArray[np.uint8]
    flags: tuple[str, ...]


class Ensemble:
    """The resident networks of one bundle on one device.

    Attributes
    ----------
    finder : tells how an animal lies; None if the bundle has none and the header must be believed
    """

    def __init__(
        self,
        bundle: Bundle,
        networks: Networks,
        plan: Plan,
        profile: Profile,
        mirror_axes: tuple[int, ...] = (),
    ) -> None:
        self.bundle = bundle
        self.profile = profile
        self.finder = _load_finder(bundle)
        self._networks = networks
        # Where every scan begins, and with how many tiles at a time.
        self._home, self._batch = networks, networks.batch
        self._plan = plan
        self._flips = [
            axes for n in range(len(mirror_axes) + 1) for axes in combinations(mirror_axes, n)
        ]
        # What stays true of every scan, and what is true of this one.
        self._lasting: tuple[str, ...] = ()
        self._flags: tuple[str, ...] = ()
        self._half = True

    @classmethod
    def load(
        cls,
        bundle: Bundle,
        device: str,
        profile: ProfileName = "paper",
        *,
        mirroring: bool = False,
        half: bool = True,
    ) -> Ensemble:
        """Build and fill every fold's network.

        Parameters
        ----------
        device : "cpu" or "cuda"
        mirroring : average over mirror images too, along the axes that training mirrored
        half : bf16 where the hardware has it

        Raises
        ------
        BundleUnfit
            If plans and weights do not fit together, or mirroring is asked of a bundle that was
            trained without.
        """
        plan = read_plan(bundle)
        if mirroring and not bundle.mirror_axes:
            msg = f"bundle {bundle.label} was trained without mirroring; set mirroring to false"
            raise BundleUnfit(msg)
        networks, flags = _on_a_device(bundle, plan, device, half=half)
        axes = bundle.mirror_axes if mirroring else ()
        ensemble = cls(bundle, networks, plan, PROFILES[profile], axes)
        ensemble._lasting, ensemble._flags, ensemble._half = flags, flags, half
        return ensemble

    @property
    def description(self) -> str:
        """Device and precision that the last scan ended with, for the record."""
        return self._networks.description

    def warm_up(self) -> None:
        """One forward pass of every fold at the real patch shape; on the CPU if the GPU fails."""
        self.despite_gpu(self._pass_once)

    def _pass_once(self) -> None:
        tiles = [torch.zeros(self._plan.patch, device=self._networks.device)] * self._networks.batch
        for fold in range(len(self.bundle.folds)):
            for _ in self._networks.passes(fold, tiles):
                pass

    def prepare(self, volume: Volume) -> Prepared:
        """Turn to the bundle's orientation, resample (cubic), clip, normalise.

        Raises
        ------
        RefusedSeries
            If the networks' sums over this scan would not fit into memory.
        """
        plan, grid = self._plan, volume.grid
        letters = "".join(self.bundle.orientation[axis] for axis in plan.transpose)
        turn = Reorientation.between(grid.axis_letters, letters)
        turned = turn.apply(volume.hu_zyx)
        within = _nonzero(turned)
        own_mm = turn.spacing(grid.spacing_mm).zyx
        spacing = (plan.spacing_mm[0] or own_mm[0], *plan.spacing_mm[1:])
        shape = _shape(turned[within])
        z, y, x = (
            max(1, round(n * own / want))
            for n, own, want in zip(shape, own_mm, spacing, strict=True)
        )
        target = (z, y, x)
        # A first look takes one sum over tiles at a time, all folds together two.
        sums = (1 if self.profile.region else 2) * self._classes
        self._refuse_too_large(
            target, max(WORKING_FLOATS + sums, 1 + turned.shape[0] / z), turned.size
        )
        across = long_axis(own_mm, spacing)
        first = self.profile.normalise_first
        image = resized(
            turned[within],
            target,
            self._networks.device,
            across,
            self._normalised if first else lambda slab: slab,
        )
        margins = tuple(
            (span.start or 0, n - (span.stop or n))
            for span, n in zip(within, turned.shape, strict=True)
        )
        return Prepared(
            image if first else self._normalised(image), spacing, grid, turn, shape, margins, across
        )

    def despite_gpu(self, step: Callable[[], _Result]) -> _Result:
        """Prepare, infer and label one scan, again if the GPU fails on the way.

        A GPU that runs out of memory gets smaller batches, then leaves this scan to the CPU; the
        next one begins on the GPU, as the first did. One that fails altogether is left for good.
        `Inferred.flags` says so.
        """
        self._networks, self._flags = self._home, self._lasting
        self._networks.batch = self._batch
        left = False
        while not left:
            try:
                return step()
            except (RuntimeError, NoRoomOnGpu) as error:
                short = _out_of_memory(error)
                if not (short or _gpu_failed(error)):
                    raise
                smaller = short and not isinstance(error, NoRoomOnGpu) and self._networks.batch > 1
            # Only here has the error let go of what the failed try held.
            if short:
                torch.cuda.empty_cache()
            if smaller:
                self._networks.batch //= 2
                self._flags = (*self._lasting, f"gpu-out-of-memory:batch-{self._networks.batch}")
            else:
                self._leave_gpu(for_good=not short)
                left = True
        return step()

    def infer(self, prepared: Prepared, progress: Progress) -> Inferred:
        """What the folds say, all of them together, of the whole scan or the organs' region."""
        image, patch = prepared.image_zyx, self._plan.patch
        shape = _shape(image)
        whole = Region.whole(shape)
        if not self.profile.region:
            return self._regional(image, whole, progress)
        glance = self._glance(image)
        region = region_of_organs(glance, len(self.bundle.organs), prepared.spacing_mm)
        for _ in range(MOST_GROWTHS):
            if region is None:
                break
            region = at_least(region, patch, shape)
            inferred = self._regional(image, region, progress)
            labels = _winners(inferred.scores)
            if len(np.unique(labels[labels > 0])) < len(self.bundle.organs):
                break
            larger = grown(region, labels, shape, prepared.spacing_mm)
            if larger == region:
                return inferred
            region = larger
        return self._regional(image, whole, progress)

    def label(self, prepared: Prepared, inferred: Inferred) -> Labels:
        """The most probable organ of every voxel of the scan's own grid."""
        whole = _shape(prepared.image_zyx)
        labels = most_probable(
            inferred.scores, inferred.region.low, whole, prepared.shape, prepared.across
        )
        native = prepared.turn.undo(np.pad(labels, prepared.margins))
        return Labels(np.ascontiguousarray(native), prepared.grid, self.bundle.organs)

    def disagreement(self, prepared: Prepared, inferred: Inferred) -> npt.NDArray[np.uint8]:
        """`Inferred.disagreement_zyx` on the scan's own grid."""
        whole = _shape(prepared.image_zyx)
        seen = nearest(inferred.disagreement_zyx, inferred.region.low, whole, prepared.shape)
        return np.ascontiguousarray(prepared.turn.undo(np.pad(seen, prepared.margins)))

    def _glance(self, image: torch.Tensor) -> npt.NDArray[np.uint8]:
        """What the first fold alone says of tiles that hardly overlap; (z, y, x) labels."""
        scores, _ = self._summed(_padded(image, self._plan.patch), 0, 1.0, lambda: None)
        inner = _inner(_shape(image), self._plan.patch)
        return _winners(scores[(slice(None), *inner)])

    def _regional(self, image: torch.Tensor, region: Region, progress: Progress) -> Inferred:
        """What all folds say of a region."""
        patch, folds = self._plan.patch, len(self.bundle.folds)
        # The image is there already.
        self._refuse_too_large(region.shape, WORKING_FLOATS - 1 + 2 * self._classes, 0)
        padded = _padded(image[region.slices], patch)
        inner = (slice(None), *_inner(region.shape, patch))
        passes = len(self._tiles(padded, self.profile.step)) * folds * len(self._flips)
        done = 0

        def passed() -> None:
            nonlocal done
            done += 1
            progress(done, passes)

        total, weight = self._summed(padded, 0, self.profile.step, passed)
        said = [_winners(total[inner])]
        for fold in range(1, folds):
            scores, _ = self._summed(padded, fold, self.profile.step, passed)
            said.append(_winners(scores[inner]))
            total += scores
        mean = total.div_(weight * folds)[inner]
        won = _winners(mean)
        otherwise = np.zeros(won.shape, dtype=np.uint16)
        for labels in said:
            otherwise += labels != won
        return Inferred(
            mean,
            region,
            {
                label: _agreement([labels == label for labels in said])
                for label in self.bundle.organs
            },
            (otherwise * 255 // folds).astype(np.uint8),
            self._flags,
        )

    def _tiles(self, padded: torch.Tensor, step: float) -> list[TileZyx]:
        tiles = tiles_over(padded.shape, self._plan.patch, step)
        if not self.profile.skip_air:
            return tiles
        return [where for where in tiles if not self._is_air(padded[where])]

    def _summed(
        self, padded: torch.Tensor, fold: int, step: float, passed: Callable[[], None]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Weighted sum of one fold's scores over tiles and mirror images, and the weights' sum."""
        device, patch = padded.device, self._plan.patch
        scores = torch.zeros((self._classes, *padded.shape), device=device)
        weight = torch.zeros(padded.shape, device=device)
        share = gaussian(patch).to(device)
        tiles = self._tiles(padded, step)
        for axes in self._flips:
            # One after the other: overlapping tiles together are many times the image.
            seen = (padded[where].flip(axes) for where in tiles)
            for where, logits in zip(tiles, self._networks.passes(fold, seen), strict=True):
                said = logits.flip([axis + 1 for axis in axes])
                if self.profile.average == "probabilities":
                    said = torch.softmax(said, dim=0)
                scores[(slice(None), *where)].addcmul_(said, share)
                weight[where] += share
                passed()
        # What no tile covers is air: background, at no cost.
        empty = weight == 0
        scores[0][empty] = 1.0
        weight[empty] = 1.0
        return scores, weight

    def _is_air(self, tile: torch.Tensor) -> bool:
        """Whether hardly a voxel of a tile is as dense as tissue."""
        tissue = (TISSUE_HU - self._plan.mean) / self._plan.std
        return bool((tile > tissue).float().mean() < AIR_SHARE)

    def _normalised(self, hu: torch.Tensor) -> torch.Tensor:
        """nnU-Net's CTNormalization, in place."""
        plan = self._plan
        return hu.clamp_(plan.low, plan.high).sub_(plan.mean).div_(plan.std)

    @property
    def _classes(self) -> int:
        return len(self.bundle.organs) + 1

    def _refuse_too_large(self, shape: ShapeZyx, floats: float, scan_voxels: int) -> None:
        refuse_too_large(
            self._networks.device,
            shape,
            floats,
            len(self.bundle.folds),
            scan_voxels,
            f"{self.bundle.label}'s grid",
        )

    def _leave_gpu(self, *, for_good: bool) -> None:
        """The CPU takes this scan, and where the GPU is broken every later one."""
        self._networks = load_networks(self.bundle, self._plan, "cpu", half=self._half)
        if for_good:
            # An error that CUDA once reported comes back with every later call.
            self._home, self._batch = self._networks, self._networks.batch
            self._lasting = (*self._lasting, "gpu-failed:cpu")
            self._flags = self._lasting
        else:
            self._flags = (*self._lasting, "gpu-out-of-memory:cpu")


def _on_a_device(
    bundle: Bundle, plan: Plan, device: str, *, half: bool
) -> tuple[Networks, tuple[str, ...]]:
    """The networks where they were asked for, or on the CPU where the GPU does not answer."""
    try:
        return load_networks(bundle, plan, device, half=half), ()
    except (RuntimeError, AssertionError) as error:
        if not _gpu_failed(error):
            raise
        return load_networks(bundle, plan, "cpu", half=half), ("gpu-failed:cpu",)


def _out_of_memory(error: Exception) -> bool:
    """Whether the GPU lacks memory and is well otherwise; not every library has a type for it."""
    said = str(error).lower()
    return isinstance(error, (torch.OutOfMemoryError, NoRoomOnGpu)) or (
        _gpu_failed(error) and ("out of memory" in said or "alloc_failed" in said)
    )


def _gpu_failed(error: Exception) -> bool:
    """Whether PyTorch speaks of the GPU or its libraries; it has no type for that."""
    said = str(error).lower()
    return any(word in said for word in ("cuda", "cudnn", "cublas", "nvidia"))


def _load_finder(bundle: Bundle) -> Finder | None:
    if bundle.onlooker is None:
        return None
    try:
        return Finder.load(bundle.folder / bundle.onlooker)
    except (RuntimeError, KeyError, TypeError, AttributeError, EOFError, UnpicklingError) as error:
        msg = f"bundle {bundle.label}: {bundle.onlooker} is no onlooker: {error}"
        raise BundleUnfit(msg) from error


def _nonzero(hu: npt.NDArray[np.float32]) -> tuple[slice, slice, slice]:
    """The box that nnU-Net crops to: without the faces on which every voxel is exactly zero."""
    spans = []
    for axis in range(3):
        low, high = 0, hu.shape[axis]
        while low < high - 1 and not hu.take(low, axis).any():
            low += 1
        while high > low + 1 and not hu.take(high - 1, axis).any():
            high -= 1
        spans.append(slice(low, high))
    if not hu[spans[0], spans[1], spans[2]].any():
        return (slice(None), slice(None), slice(None))
    return (spans[0], spans[1], spans[2])


def _padded(image: torch.Tensor, patch: ShapeZyx) -> torch.Tensor:
    """With zeros around it where it is smaller than a patch."""
    padding = [
        v
        for n, p in reversed(list(zip(image.shape, patch, strict=True)))
        for v in (max(0, p - n) // 2, max(0, p - n) - max(0, p - n) // 2)
    ]
    return functional.pad(image, padding)


def _inner(shape: ShapeZyx, patch: ShapeZyx) -> tuple[slice, slice, slice]:
    """Where in the padded image the image lies."""
    z, y, x = (
        slice(max(0, p - n) // 2, max(0, p - n) // 2 + n) for n, p in zip(shape, patch, strict=True)
    )
    return (z, y, x)


def _winners(scores: torch.Tensor) -> npt.NDArray[np.uint8]:
    """The class with the highest score: (z, y, x)."""
    return np.asarray(scores.argmax(dim=0).to(torch.uint8).cpu())


def _agreement(masks: Sequence[npt.NDArray[np.bool_]]) -> float:
    """Mean DSC over all pairs; 1.0 of a single one, and where none has a voxel."""
    sizes = [int(mask.sum()) for mask in masks]
    pairs = [
        2.0 * int((masks[i] & masks[j]).sum()) / (sizes[i] + sizes[j])
        for i, j in combinations(range(len(masks)), 2)
        if sizes[i] + sizes[j]
    ]
    return float(np.mean(pairs)) if pairs else 1.0


def _shape(array: npt.NDArray[np.float32] | torch.Tensor) -> ShapeZyx:
    return (array.shape[0], array.shape[1], array.shape[2])
