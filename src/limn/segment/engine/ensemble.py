"""The folds of a bundle, resident on a device: a scan in, labels on its own grid out.

In the paper's profile (Malimban 2022, Methods: "taking the average of the predicted
probabilities") the softmax of every fold and tile is Gaussian-weighted and summed in fp32, then
interpolated linearly to the scan's grid, where the largest wins. For the other profiles see
`profile`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from pickle import UnpicklingError
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from limn.domain.errors import BundleUnfit
from limn.domain.geometry import Reorientation
from limn.domain.scan import Labels, Volume
from limn.segment.bundle.bundle import Bundle
from limn.segment.bundle.profile import PROFILES, Profile, ProfileName
from limn.segment.engine.certainty import Certainty, certainties
from limn.segment.engine.fallback import WorkingNetworks
from limn.segment.engine.localisation.localise import Localiser
from limn.segment.engine.localisation.orient import STRAIGHT, Finder, Shares
from limn.segment.engine.localisation.region import (
    Region,
    at_least,
    grown,
    moved_or_grown,
    region_of_organs,
    region_of_shares,
)
from limn.segment.engine.memory import WORKING_FLOATS, refuse_too_large
from limn.segment.engine.plans import Plan, read_plan
from limn.segment.engine.preparation import Prepared, ShapeZyx, prepare, shape_of
from limn.segment.engine.resample import most_probable, nearest, winners
from limn.segment.engine.sliding_window import SlidingWindow, Sums, inner_of, padded_to

Progress = Callable[[int, int], None]
_Result = TypeVar("_Result")

# After so many growths of the region the whole scan is segmented.
MOST_GROWTHS = 3


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
    certainty : of the networks, by label
    """

    scores: torch.Tensor
    region: Region
    agreement: Mapping[int, float]
    disagreement_zyx: npt.NDArray[np.uint8]
    flags: tuple[str, ...]
    certainty: Mapping[int, Certainty]


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
        working: WorkingNetworks,
        plan: Plan,
        profile: Profile,
        mirror_axes: tuple[int, ...] = (),
    ) -> None:
        self.bundle = bundle
        self.profile = profile
        self.finder = _loaded(bundle, "onlooker", Finder.load)
        found = _loaded(bundle, "localiser", Localiser.load)
        self.localiser = found if profile.region else None
        self._working = working
        self._plan = plan
        flips = [axes for n in range(len(mirror_axes) + 1) for axes in combinations(mirror_axes, n)]
        self._window = SlidingWindow(plan, profile, len(bundle.organs) + 1, flips)

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
        working = WorkingNetworks(bundle, plan, device, half=half)
        axes = bundle.mirror_axes if mirroring else ()
        return cls(bundle, working, plan, PROFILES[profile], axes)

    def first_fold(self) -> Ensemble:
        """The first fold alone, on the same resident networks: no weights are loaded."""
        view = copy(self)
        view.bundle = replace(self.bundle, folds=self.bundle.folds[:1])
        view._working = self._working.of(view.bundle)
        return view

    @property
    def description(self) -> str:
        """Device and precision with which the last scan ended, for the record."""
        return self._working.networks.description

    @property
    def lost_gpu(self) -> str:
        """Why the CPU computes although a GPU was asked for; empty if none was or it works."""
        return self._working.lost_gpu

    def warm_up(self) -> None:
        """Run every fold at the real patch shape, in batches of every size that a scan may have.

        cuDNN looks for the fastest algorithm of each size when it first sees it. On the CPU if the
        GPU fails.
        """
        self.despite_gpu(self._pass_all)

    def _pass_all(self) -> None:
        networks = self._working.networks
        tile = torch.zeros(self._plan.patch, device=networks.device)
        for count in range(networks.batch, 0, -1):
            for fold in range(len(self.bundle.folds)):
                for _ in networks.passes(fold, [tile] * count):
                    pass

    def despite_gpu(self, step: Callable[[], _Result]) -> _Result:
        """Prepare, infer and label one scan; see `WorkingNetworks.despite_gpu`."""
        return self._working.despite_gpu(step)

    def prepare(self, volume: Volume) -> Prepared:
        """Turn to the bundle's orientation, resample (cubic), clip, normalise.

        Raises
        ------
        RefusedSeries
            If the networks' sums over this scan do not fit into memory.
        """
        # The first fold alone needs one sum over tiles at a time, all folds together two.
        sums = (1 if self.profile.region else 2) * self._window.classes

        def refuse(shape: ShapeZyx, scan: ShapeZyx) -> None:
            floats = max(WORKING_FLOATS + sums, 1 + scan[0] / shape[0])
            self._refuse_too_large(shape, floats, math.prod(scan))

        return prepare(
            volume,
            self._plan,
            self._letters,
            self._working.networks.device,
            refuse,
            normalise_first=self.profile.normalise_first,
        )

    @property
    def _letters(self) -> str:
        """The patient axes along which the networks' axes grow."""
        return "".join(self.bundle.orientation[axis] for axis in self._plan.transpose)

    @property
    def tile_mm(self) -> tuple[float, float, float]:
        """Size of a tile along the animal's axes S, P, L."""
        plan = self._plan
        mm = [n * (own or 0.0) for n, own in zip(plan.patch, plan.spacing_mm, strict=True)]
        along_s, along_p, along_l = (
            mm[axis] for axis in Reorientation.between(self._letters, STRAIGHT).axes
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
        shape = shape_of(image)
        whole = Region.whole(shape)
        if not self.profile.region:
            return self._regional(image, whole, progress)
        first: Sums | None = None
        if organs is None:
            scores, weight = self._glance(image)
            seen = winners(scores)
            region = region_of_organs(
                seen, len(self.bundle.organs), prepared.spacing_mm, complete=False
            )
            if region is None:
                return self._inferred(scores.div_(weight), whole, [seen])
        else:
            around = region_of_shares(prepared.shares(organs), shape, prepared.spacing_mm)
            around = at_least(around, patch, shape)
            region, first = self._settled(image, around, prepared.spacing_mm)
        for _ in range(MOST_GROWTHS):
            if region is None:
                break
            region = at_least(region, patch, shape)
            inferred = self._regional(image, region, progress, first)
            first = None
            labels = winners(inferred.scores)
            if len(np.unique(labels[labels > 0])) < len(self.bundle.organs):
                if organs is None:
                    # The first fold saw the whole scan, and no more of them.
                    return inferred
                break
            larger = grown(region, labels, shape, prepared.spacing_mm)
            if larger == region:
                return inferred
            region = larger
        return self._regional(image, whole, progress)

    def _settled(
        self, image: torch.Tensor, region: Region, spacing_mm: tuple[float, float, float]
    ) -> tuple[Region, Sums | None]:
        """The region, moved or grown where the first fold sees that it cuts an organ.

        Returns
        -------
        The region, and the first fold's sums there.
        """
        shape, patch = shape_of(image), self._plan.patch
        for _ in range(MOST_GROWTHS):
            padded = padded_to(image[region.slices], patch)
            tiles = self._window.tiles(padded, self.profile.step)
            sums = self._window.summed(self._working.networks, padded, 0, tiles)
            labels = winners(sums[0][(slice(None), *inner_of(region.shape, patch))])
            better = moved_or_grown(region, labels, shape, spacing_mm)
            if better == region:
                return region, sums
            region = better
        return region, None

    def label(self, prepared: Prepared, inferred: Inferred) -> Labels:
        """The most probable organ of every voxel of the scan's own grid."""
        whole = shape_of(prepared.image_zyx)
        labels = most_probable(
            inferred.scores, inferred.region.low, whole, prepared.shape, prepared.across
        )
        return Labels(prepared.undone(labels), prepared.grid, self.bundle.organs, self.bundle.roles)

    def disagreement(self, prepared: Prepared, inferred: Inferred) -> npt.NDArray[np.uint8]:
        """`Inferred.disagreement_zyx` on the scan's own grid."""
        whole = shape_of(prepared.image_zyx)
        return prepared.undone(
            nearest(inferred.disagreement_zyx, inferred.region.low, whole, prepared.shape)
        )

    def _glance(self, image: torch.Tensor) -> Sums:
        """The sums of the first fold alone, on tiles that hardly overlap."""
        padded = padded_to(image, self._plan.patch)
        tiles = self._window.tiles(padded, 1.0)
        scores, weight = self._window.summed(self._working.networks, padded, 0, tiles)
        inner = inner_of(shape_of(image), self._plan.patch)
        return scores[(slice(None), *inner)], weight[inner]

    def _regional(
        self, image: torch.Tensor, region: Region, progress: Progress, first: Sums | None = None
    ) -> Inferred:
        """The result of all folds in a region.

        Parameters
        ----------
        first : the first fold's sums there, if they are known
        """
        patch, folds = self._plan.patch, len(self.bundle.folds)
        # Without the image, which is in memory already.
        self._refuse_too_large(region.shape, WORKING_FLOATS - 1 + 2 * self._window.classes, 0)
        padded = padded_to(image[region.slices], patch)
        inner = (slice(None), *inner_of(region.shape, patch))
        window, networks = self._window, self._working.networks
        tiles = window.tiles(padded, self.profile.step)
        of_fold = len(tiles) * len(window.flips)
        passes = of_fold * folds
        done = of_fold if first else 0

        def passed() -> None:
            nonlocal done
            done += 1
            progress(done, passes)

        total, weight = first or window.summed(networks, padded, 0, tiles, passed)
        labelled = [winners(total[inner])]
        for fold in range(1, folds):
            scores, _ = window.summed(networks, padded, fold, tiles, passed)
            labelled.append(winners(scores[inner]))
            total += scores
        return self._inferred(total.div_(weight * folds)[inner], region, labelled)

    def _inferred(
        self, mean: torch.Tensor, region: Region, labelled: Sequence[npt.NDArray[np.uint8]]
    ) -> Inferred:
        """The result, with the agreement of the folds.

        Parameters
        ----------
        labelled : (z, y, x) winners of each fold in the region
        """
        won = winners(mean)
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
            (otherwise * 255 // len(labelled)).astype(np.uint8),
            self._working.flags,
            certainties(mean, won, self.bundle.organs, logits=self.profile.average == "logits"),
        )

    def _refuse_too_large(self, shape: ShapeZyx, floats: float, scan_voxels: int) -> None:
        refuse_too_large(
            self._working.networks.device,
            shape,
            floats,
            len(self.bundle.folds),
            scan_voxels,
            f"{self.bundle.label}'s grid",
        )


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


def _agreement(masks: Sequence[npt.NDArray[np.bool_]]) -> float:
    """Mean DSC over all pairs of masks; 1.0 for a single mask, and if no mask has a voxel."""
    sizes = [int(mask.sum()) for mask in masks]
    pairs = [
        2.0 * int((masks[i] & masks[j]).sum()) / (sizes[i] + sizes[j])
        for i, j in combinations(range(len(masks)), 2)
        if sizes[i] + sizes[j]
    ]
    return float(np.mean(pairs)) if pairs else 1.0
