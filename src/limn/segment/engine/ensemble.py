"""The folds of a bundle, resident on a device: a scan in, labels on its own grid out.

In the paper's profile (Malimban 2022, Methods: "taking the average of the predicted
probabilities") the softmax of every fold and tile is Gaussian-weighted and summed in fp32, then
interpolated linearly to the scan's grid, where the largest wins. For the other profiles see
`profile`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from pickle import UnpicklingError
from typing import Literal, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from limn.domain.errors import BundleUnfit
from limn.domain.geometry import Grid, Reorientation
from limn.domain.scan import Labels, Volume
from limn.segment.bundle.bundle import Bundle
from limn.segment.bundle.profile import PROFILES, Profile, ProfileName
from limn.segment.engine.localisation.localise import Localiser
from limn.segment.engine.localisation.orient import STRAIGHT, Finder, Shares, turned
from limn.segment.engine.localisation.region import (
    Region,
    at_least,
    grown,
    moved_or_grown,
    region_of_organs,
    region_of_shares,
)
from limn.segment.engine.memory import WORKING_FLOATS, GpuTooSmall, refuse_too_large
from limn.segment.engine.networks import Networks, load_networks
from limn.segment.engine.plans import Plan, read_plan
from limn.segment.engine.resample import long_axis, most_probable, nearest, resized
from limn.segment.engine.tiles import TileZyx, gaussian, tiles_over

Progress = Callable[[int, int], None]
_Result = TypeVar("_Result")
ShapeZyx = tuple[int, int, int]
# Weighted scores (class, z, y, x) of a fold, summed over tiles, and the sums of weights (z, y, x).
_Sums: TypeAlias = tuple[torch.Tensor, torch.Tensor]

# A tile in which fewer than this share of the voxels are denser than this is air, with noise.
TISSUE_HU = -400.0
AIR_SHARE = 0.001
# After so many growths of the region the whole scan is segmented.
MOST_GROWTHS = 3
# The flag of every scan that the CPU does because the GPU can't.
GPU_FAILED = "gpu-failed:cpu"


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A scan prepared for the networks.

    Attributes
    ----------
    image_zyx : normalised, on the network's grid
    spacing_mm : of the network's grid
    shape : of the scan in the network's orientation, without the zeros around it
    margins : voxels of exactly zero that were cropped before and after it, along each axis
    across : axis along which voxels are too long to be interpolated, or None
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
    """The result of the networks.

    Attributes
    ----------
    scores : (class, z, y, x) fp32 mean probabilities (or logits) of a region
    region : the part of the network's grid; outside of it is background
    agreement : mean DSC of an organ over all pairs of folds, 1 if all agree; by label
    disagreement_zyx : (z, y, x) uint8 of the region: share of the folds that contradict the
        ensemble, 255 for all of them
    flags : what was done differently from the settings
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
    finder : finds how an animal lies; None if the bundle has none, and the header is believed
    localiser : finds the chest; None if the bundle has none, or every fold sees the whole scan
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
        self.finder = _loaded(bundle, "onlooker", Finder.load)
        found = _loaded(bundle, "localiser", Localiser.load)
        self.localiser = found if profile.region else None
        self._networks = networks
        # The networks and the batch with which every scan begins.
        self._home, self._batch = networks, networks.batch
        self._plan = plan
        self._flips = [
            axes for n in range(len(mirror_axes) + 1) for axes in combinations(mirror_axes, n)
        ]
        # Flags of every scan, and flags of this scan.
        self._lasting: tuple[str, ...] = ()
        self._flags: tuple[str, ...] = ()
        self._lost_gpu = ""
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
        mirroring : average over mirror images too, along the axes that the training mirrored
        half : bf16 if the hardware has it

        Raises
        ------
        BundleUnfit
            If plans and weights do not fit together, or mirroring is set for a bundle that was
            trained without it.
        """
        plan = read_plan(bundle)
        if mirroring and not bundle.mirror_axes:
            msg = f"bundle {bundle.label} was trained without mirroring; set mirroring to false"
            raise BundleUnfit(msg)
        networks, lost_gpu = _on_a_device(bundle, plan, device, half=half)
        flags = (GPU_FAILED,) if lost_gpu else ()
        axes = bundle.mirror_axes if mirroring else ()
        ensemble = cls(bundle, networks, plan, PROFILES[profile], axes)
        ensemble._lasting, ensemble._flags, ensemble._half = flags, flags, half
        ensemble._lost_gpu = lost_gpu
        return ensemble

    def first_fold(self) -> Ensemble:
        """The first fold alone, on the same resident networks: no weights are loaded."""
        view = copy(self)
        view.bundle = replace(self.bundle, folds=self.bundle.folds[:1])
        return view

    @property
    def description(self) -> str:
        """Device and precision with which the last scan ended, for the record."""
        return self._networks.description

    @property
    def lost_gpu(self) -> str:
        """Why the CPU computes although a GPU was asked for; empty if none was or it works."""
        return self._lost_gpu

    def warm_up(self) -> None:
        """Run every fold once at the real patch shape; on the CPU if the GPU fails."""
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
            If the networks' sums over this scan do not fit into memory.
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
        # The first fold alone needs one sum over tiles at a time, all folds together two.
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
        """Prepare, infer and label one scan, and repeat it if the GPU fails.

        If the GPU runs out of memory, the batch is halved, and at last the CPU does this scan;
        the next scan begins on the GPU again. If the GPU fails otherwise, it is not used any more.
        `Inferred.flags` records both.
        """
        self._networks, self._flags = self._home, self._lasting
        self._networks.batch = self._batch
        left = False
        while not left:
            try:
                return step()
            except (RuntimeError, GpuTooSmall) as error:
                short = _out_of_memory(error)
                if not (short or _gpu_failed(error)):
                    raise
                why = str(error)
                smaller = short and not isinstance(error, GpuTooSmall) and self._networks.batch > 1
            # Only here has the error released the memory of the failed attempt.
            if short:
                torch.cuda.empty_cache()
            if smaller:
                self._networks.batch //= 2
                self._flags = (*self._lasting, f"gpu-out-of-memory:batch-{self._networks.batch}")
            else:
                self._leave_gpu("" if short else why)
                left = True
        return step()

    @property
    def tile_mm(self) -> tuple[float, float, float]:
        """Size of a tile along the animal's axes S, P, L."""
        plan = self._plan
        mm = [n * (own or 0.0) for n, own in zip(plan.patch, plan.spacing_mm, strict=True)]
        letters = "".join(self.bundle.orientation[axis] for axis in plan.transpose)
        along_s, along_p, along_l = (
            mm[axis] for axis in Reorientation.between(letters, STRAIGHT).axes
        )
        return (along_s, along_p, along_l)

    def infer(
        self, prepared: Prepared, progress: Progress, organs: Shares | None = None
    ) -> Inferred:
        """Mean scores of all folds, for the whole scan or for the region of the organs.

        Parameters
        ----------
        organs : about where they begin and end along S, P, L, as shares of the scan; if this is
            not known, the first fold looks for them where the profile says so
        """
        image, patch = prepared.image_zyx, self._plan.patch
        shape = _shape(image)
        whole = Region.whole(shape)
        if not self.profile.region:
            return self._regional(image, whole, progress)
        first: _Sums | None = None
        if organs is None:
            glance = self._glance(image)
            region = region_of_organs(glance, len(self.bundle.organs), prepared.spacing_mm)
        else:
            around = region_of_shares(_cropped(prepared, organs), shape, prepared.spacing_mm)
            around = at_least(around, patch, shape)
            region, first = self._settled(image, around, prepared.spacing_mm)
        for _ in range(MOST_GROWTHS):
            if region is None:
                break
            region = at_least(region, patch, shape)
            inferred = self._regional(image, region, progress, first)
            first = None
            labels = _winners(inferred.scores)
            if len(np.unique(labels[labels > 0])) < len(self.bundle.organs):
                break
            larger = grown(region, labels, shape, prepared.spacing_mm)
            if larger == region:
                return inferred
            region = larger
        return self._regional(image, whole, progress)

    def _settled(
        self, image: torch.Tensor, region: Region, spacing_mm: tuple[float, float, float]
    ) -> tuple[Region, _Sums | None]:
        """The region, moved or grown where the first fold sees that it cuts an organ.

        Returns
        -------
        The region, and the first fold's sums there.
        """
        shape, patch = _shape(image), self._plan.patch
        for _ in range(MOST_GROWTHS):
            padded = _padded(image[region.slices], patch)
            sums = self._summed(padded, 0, self.profile.step, lambda: None)
            labels = _winners(sums[0][(slice(None), *_inner(region.shape, patch))])
            better = moved_or_grown(region, labels, shape, spacing_mm)
            if better == region:
                return region, sums
            region = better
        return region, None

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
        native = nearest(inferred.disagreement_zyx, inferred.region.low, whole, prepared.shape)
        return np.ascontiguousarray(prepared.turn.undo(np.pad(native, prepared.margins)))

    def _glance(self, image: torch.Tensor) -> npt.NDArray[np.uint8]:
        """Labels (z, y, x) of the first fold alone, on tiles that hardly overlap."""
        scores, _ = self._summed(_padded(image, self._plan.patch), 0, 1.0, lambda: None)
        inner = _inner(_shape(image), self._plan.patch)
        return _winners(scores[(slice(None), *inner)])

    def _regional(
        self, image: torch.Tensor, region: Region, progress: Progress, first: _Sums | None = None
    ) -> Inferred:
        """The result of all folds in a region.

        Parameters
        ----------
        first : the first fold's sums there, if they are known
        """
        patch, folds = self._plan.patch, len(self.bundle.folds)
        # Without the image, which is in memory already.
        self._refuse_too_large(region.shape, WORKING_FLOATS - 1 + 2 * self._classes, 0)
        padded = _padded(image[region.slices], patch)
        inner = (slice(None), *_inner(region.shape, patch))
        tiles = len(self._tiles(padded, self.profile.step)) * len(self._flips)
        passes = tiles * folds
        done = tiles if first else 0

        def passed() -> None:
            nonlocal done
            done += 1
            progress(done, passes)

        total, weight = first or self._summed(padded, 0, self.profile.step, passed)
        labelled = [_winners(total[inner])]
        for fold in range(1, folds):
            scores, _ = self._summed(padded, fold, self.profile.step, passed)
            labelled.append(_winners(scores[inner]))
            total += scores
        mean = total.div_(weight * folds)[inner]
        won = _winners(mean)
        otherwise = np.zeros(won.shape, dtype=np.uint16)
        for labels in labelled:
            otherwise += labels != won
        return Inferred(
            mean,
            region,
            {
                label: _agreement([labels == label for labels in labelled])
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
            # A generator: overlapping tiles together are many times as large as the image.
            flipped = (padded[where].flip(axes) for where in tiles)
            for where, logits in zip(tiles, self._networks.passes(fold, flipped), strict=True):
                score = logits.flip([axis + 1 for axis in axes])
                if self.profile.average == "probabilities":
                    score = torch.softmax(score, dim=0)
                scores[(slice(None), *where)].addcmul_(score, share)
                weight[where] += share
                passed()
        # Voxels that no tile covers are air: background.
        empty = weight == 0
        scores[0][empty] = 1.0
        weight[empty] = 1.0
        return scores, weight

    def _is_air(self, tile: torch.Tensor) -> bool:
        """Whether hardly any voxel of a tile is as dense as tissue."""
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

    def _leave_gpu(self, broken: str) -> None:
        """Let the CPU do this scan, and every later scan if the GPU is broken, and why."""
        self._networks = load_networks(self.bundle, self._plan, "cpu", half=self._half)
        if broken:
            self._lost_gpu = broken
            # CUDA repeats such an error at every later call.
            self._home, self._batch = self._networks, self._networks.batch
            self._lasting = (*self._lasting, GPU_FAILED)
            self._flags = self._lasting
        else:
            self._flags = (*self._lasting, "gpu-out-of-memory:cpu")


def _on_a_device(bundle: Bundle, plan: Plan, device: str, *, half: bool) -> tuple[Networks, str]:
    """The networks on the device, or on the CPU if the GPU fails; and the reason if it does."""
    try:
        return load_networks(bundle, plan, device, half=half), ""
    except (RuntimeError, AssertionError) as error:
        if not _gpu_failed(error):
            raise
        return load_networks(bundle, plan, "cpu", half=half), str(error) or repr(error)


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


def _loaded(
    bundle: Bundle, kind: Literal["onlooker", "localiser"], load: Callable[[Path], _Result]
) -> _Result | None:
    """A small network of the bundle; None if it has none."""
    name = bundle.onlooker if kind == "onlooker" else bundle.localiser
    if name is None:
        return None
    try:
        return load(bundle.folder / name)
    except (RuntimeError, KeyError, TypeError, AttributeError, EOFError, UnpicklingError) as error:
        msg = f"bundle {bundle.label}: {name} is no {kind}: {error}"
        raise BundleUnfit(msg) from error


def _cropped(prepared: Prepared, organs: Shares) -> Shares:
    """Spans along the scan's S, P, L as shares of the image, from which zeros were cropped."""
    spans = []
    for span, count, (before, after) in zip(
        turned(prepared.turn, organs), prepared.shape, prepared.margins, strict=True
    ):
        first, last = (share * (before + count + after) - before for share in span)
        spans.append((first / count, last / count))
    return tuple(spans)


def _nonzero(hu: npt.NDArray[np.float32]) -> tuple[slice, slice, slice]:
    """The box to which nnU-Net crops: without the outer planes that are exactly zero."""
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
    """The image, padded with zeros along axes that are shorter than a patch."""
    padding = [
        v
        for n, p in reversed(list(zip(image.shape, patch, strict=True)))
        for v in (max(0, p - n) // 2, max(0, p - n) - max(0, p - n) // 2)
    ]
    return functional.pad(image, padding)


def _inner(shape: ShapeZyx, patch: ShapeZyx) -> tuple[slice, slice, slice]:
    """Where the image lies in the padded image."""
    z, y, x = (
        slice(max(0, p - n) // 2, max(0, p - n) // 2 + n) for n, p in zip(shape, patch, strict=True)
    )
    return (z, y, x)


def _winners(scores: torch.Tensor) -> npt.NDArray[np.uint8]:
    """The class with the highest score: (z, y, x)."""
    return np.asarray(scores.argmax(dim=0).to(torch.uint8).cpu())


def _agreement(masks: Sequence[npt.NDArray[np.bool_]]) -> float:
    """Mean DSC over all pairs of masks; 1.0 for a single mask, and if no mask has a voxel."""
    sizes = [int(mask.sum()) for mask in masks]
    pairs = [
        2.0 * int((masks[i] & masks[j]).sum()) / (sizes[i] + sizes[j])
        for i, j in combinations(range(len(masks)), 2)
        if sizes[i] + sizes[j]
    ]
    return float(np.mean(pairs)) if pairs else 1.0


def _shape(array: npt.NDArray[np.float32] | torch.Tensor) -> ShapeZyx:
    return (array.shape[0], array.shape[1], array.shape[2])
