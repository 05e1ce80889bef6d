"""The ROIs of one structure set: the organs' labels, and the masks of ROIs derived from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from limn.domain.geometry import IntArray
from limn.domain.roi_rules import RoiRule
from limn.domain.scan import Labels, Organ
from limn.segment.draw.derived import DerivedRoi, Scene, derive
from limn.segment.draw.trace import HoleRule, TooRagged, Traced, joined, trace, trace_mask

# More outlines and holes in a slice are specks.
MOST_RINGS = 200


@dataclass(frozen=True, slots=True, eq=False)
class RoiSet:
    """Organs and derived ROIs on the slices that exist.

    Attributes
    ----------
    labels : of the organs
    derived : they may overlap the organs and one another
    traced : the contours of the derived ones
    flags : of ROIs that could not be derived
    """

    labels: Labels
    derived: tuple[DerivedRoi, ...] = ()
    traced: tuple[Traced, ...] = ()
    flags: tuple[str, ...] = ()

    @classmethod
    def made(
        cls,
        labels: Labels,
        rules: Sequence[RoiRule],
        scene: Scene,
        rungs: IntArray,
        form: tuple[HoleRule, int | None],
    ) -> RoiSet:
        """Derive and trace each ROI; one that can't be made leaves a flag and stops nothing.

        Parameters
        ----------
        labels : on the slices that exist
        scene, rungs : the even grid, and the places of these slices on it
        form : how holes are written, and the most points of a contour
        """
        derived, traced, flags = [], [], []
        for rule in rules:
            try:
                roi = derive(rule, scene).on_slices(rungs)
                own = trace_mask(roi.mask_zyx, roi.box, labels.grid, roi.name, *form, MOST_RINGS)
            except TooRagged:
                flags.append(f"roi-ragged:{rule.name}")
            except Exception:  # noqa: BLE001 - the planner must get the organs whatever else fails
                flags.append(f"roi-failed:{rule.name}")
            else:
                derived.append(roi)
                traced.append(own)
        return cls(labels, tuple(derived), tuple(traced), tuple(flags))

    def volumes_mm3(self) -> dict[Organ, float]:
        """The volume of every organ and ROI."""
        voxel_mm3 = self.labels.grid.spacing_mm.voxel_mm3
        derived = {roi.name: int(roi.mask_zyx.sum()) * voxel_mm3 for roi in self.derived}
        return self.labels.volumes_mm3() | derived

    def mean_hu(self, hu_zyx: npt.NDArray[np.float32]) -> dict[Organ, float]:
        """The mean HU of every organ and ROI that has a voxel; the HU are of the same slices."""
        box = self.labels.box
        drawn = self.labels.labels_zyx[box].ravel()
        counts = np.bincount(drawn, minlength=256)
        sums = np.bincount(drawn, weights=hu_zyx[box].ravel(), minlength=256)
        found = {
            organ: float(sums[label] / counts[label])
            for label, organ in self.labels.organs.items()
            if counts[label]
        }
        for roi in self.derived:
            if roi.mask_zyx.any():
                found[roi.name] = float(hu_zyx[roi.box][roi.mask_zyx].mean())
        return found

    def trace(self, holes: HoleRule, max_points: int | None) -> Traced:
        """The contours of every organ and ROI."""
        return joined((trace(self.labels, holes, max_points), *self.traced))

    def masks(self) -> Iterator[tuple[Organ, npt.NDArray[np.bool_]]]:
        """Every organ and ROI with its voxels, (z, y, x)."""
        for organ in self.labels.organs.values():
            yield organ, self.labels.mask(organ)
        for roi in self.derived:
            yield roi.name, roi.whole(self.labels.grid.shape_zyx)

    def slices(self) -> Iterator[tuple[Organ, range, Callable[[int], npt.NDArray[np.bool_]]]]:
        """Every organ and ROI, the slices that hold all its voxels, and what gives those of one.

        The masks of a whole-body scan take a second to make and to compare.
        """
        organs = self.labels.box[0]
        for label, organ in self.labels.organs.items():
            yield organ, range(organs.start, organs.stop), partial(self._in_slice, label)
        for roi in self.derived:
            whole = roi.whole(self.labels.grid.shape_zyx)
            yield roi.name, range(roi.box[0].start, roi.box[0].stop), whole.__getitem__

    def _in_slice(self, label: int, k: int) -> npt.NDArray[np.bool_]:
        return np.asarray(self.labels.labels_zyx[k] == label)
