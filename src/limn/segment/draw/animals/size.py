"""Measures how thick an animal is, and refuses what is no animal of the bundle's species."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from limn.domain.errors import RefusedSeries
from limn.domain.geometry import SpacingMm
from limn.domain.scan import Volume
from limn.segment.bundle.species import Species
from limn.segment.draw.animals.located import Located
from limn.segment.draw.hounsfield import (
    BODY_HU,
    CalibrateRule,
    calibration,
    find_peaks,
    in_hu,
)
from limn.segment.draw.neighbours import closed
from limn.segment.engine.localisation.coarse import COARSE_MM, coarse

# A field with more coarse voxels than this is first looked at on so many: what is far too large
# is refused before it costs time and memory.
MOST_VOXELS, LOOK_VOXELS = 4_000_000, 500_000
# Tissue that touches the field's edge is taken to go on so far.
REACH_MM = 10.0
# The six faces of a picture.
FACES = tuple((slice(None),) * axis + (end,) for axis in range(3) for end in (0, -1))


@dataclass(frozen=True, slots=True)
class Thickness:
    """Diameter of the largest ball inside an animal.

    Attributes
    ----------
    shown_mm : within the field; the animal is at least so thick
    beyond_mm : if everything at the field's edge goes on beyond it; it is at most so thick
    """

    shown_mm: float
    beyond_mm: float


def refuse_far_too_large(volume: Volume, species: Species, calibrate: CalibrateRule) -> None:
    """Look at a very large field on few voxels.

    Raises
    ------
    RefusedSeries
        If something in it is thicker than any animal of the species.
    """
    spacing = volume.grid.spacing_mm
    mm3 = spacing.voxel_mm3 * math.prod(volume.grid.shape_zyx)
    if mm3 / COARSE_MM**3 <= MOST_VOXELS:
        return
    voxel_mm = (mm3 / LOOK_VOXELS) ** (1 / 3)
    numbers = coarse(volume.hu_zyx, spacing, voxel_mm)
    try:
        picture = in_hu(numbers, calibration(find_peaks(numbers), calibrate))
    except RefusedSeries:
        # Peaks that are not clear on so few voxels may be clear on all.
        return
    thickness_mm = _measure(picture, voxel_mm).shown_mm
    if thickness_mm > species.thickness_mm[1] + voxel_mm:
        raise RefusedSeries(_too_thick(thickness_mm, species, spacing))


def refuse_other_size(located: Located, species: Species) -> Thickness:
    """How thick the animal is that counts.

    Raises
    ------
    RefusedSeries
        If no animal of the species is so thick or so thin.
    """
    spacing = located.scan.grid.spacing_mm
    found = _measure(located.coarse_spl[located.around.slices], COARSE_MM)
    low, high = species.thickness_mm
    if found.shown_mm > high:
        raise RefusedSeries(_too_thick(found.shown_mm, species, spacing))
    if found.beyond_mm < low:
        raise RefusedSeries(_too_thin(found.beyond_mm, species, spacing))
    return found


def _measure(picture: npt.NDArray[np.float32], voxel_mm: float) -> Thickness:
    reach = math.ceil(REACH_MM / voxel_mm)
    inner = (slice(reach, -reach),) * 3
    # Closing wears off the outermost voxels of an array.
    on = np.pad(picture > BODY_HU, reach, mode="edge")
    tissue = closed(on)[inner]
    shown_mm = _ball_mm(ndimage.distance_transform_edt(np.pad(tissue, 1)), voxel_mm)
    if not any(tissue[face].any() for face in FACES):
        return Thickness(shown_mm, shown_mm)
    on = np.pad(tissue, reach, mode="edge")
    if on.all():
        return Thickness(shown_mm, math.inf)
    return Thickness(shown_mm, _ball_mm(ndimage.distance_transform_edt(on)[inner], voxel_mm))


def _ball_mm(depth: npt.NDArray[np.float64], voxel_mm: float) -> float:
    # A voxel at the surface has depth 1, but its middle is half a voxel deep.
    return max(0.0, 2 * float(depth.max()) - 1) * voxel_mm


def _shown(spacing: SpacingMm) -> str:
    return f"{spacing.x:.3g} x {spacing.y:.3g} x {spacing.z:.3g} mm"


def _too_thick(thickness_mm: float, species: Species, spacing: SpacingMm) -> str:
    low, high = species.thickness_mm
    return (
        f"what lies in the field is {thickness_mm:.0f} mm thick, a {species.name} is {low:.0f} to "
        f"{high:.0f} mm: the bundle is made for the {species.name}, not for a larger animal or a "
        f"person. If this is a {species.name}, the voxels of {_shown(spacing)} are "
        f"{thickness_mm / math.sqrt(low * high):.1f} times too large or so: PixelSpacing and "
        "ImagePositionPatient must be mended where the scan is exported"
    )


def _too_thin(thickness_mm: float, species: Species, spacing: SpacingMm) -> str:
    low, high = species.thickness_mm
    return (
        f"what lies in the field is {thickness_mm:.1f} mm thick, a {species.name} is {low:.0f} to "
        f"{high:.0f} mm. If this is a {species.name}, the voxels of {_shown(spacing)} are "
        f"{math.sqrt(low * high) / thickness_mm:.1f} times too small or so: PixelSpacing and "
        "ImagePositionPatient must be mended where the scan is exported"
    )
