"""What a commissioning lets pass, each number with its reason; a site may set its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

from limn.domain.errors import ConfigWrong
from limn.domain.scan import Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerances:
    """Limits; volumes in percent of the truth, positions in mm between the middles of an organ.

    Attributes
    ----------
    *_volume_percent : of one scan
    *_mean_percent : of the mean of the animals
    position_mm : along each patient axis; of the cord sideways, at the levels that both have
    cord_end_mm : the cord along the animal, whose ends are uncertain
    *_dsc : least DSC to the truth
    back_volume_percent, back_volume_mm3 : what the planning system returns or shows against what
        limn sent; the larger counts
    back_position_voxels : the same of positions
    seen_edge_mm : a contour in the planning system against the edge in the image
    slower_percent : the median from door to door against the last report's
    """

    lung_volume_percent: float = 10.0
    heart_volume_percent: float = 20.0
    cord_volume_percent: float = 35.0
    lung_mean_percent: float = 5.0
    heart_mean_percent: float = 15.0
    cord_mean_percent: float = 25.0
    position_mm: float = 0.6
    cord_end_mm: float = 2.0
    lung_dsc: float = 0.90
    heart_dsc: float = 0.85
    cord_dsc: float = 0.70
    back_volume_percent: float = 2.0
    back_volume_mm3: float = 5.0
    back_position_voxels: float = 0.5
    seen_edge_mm: float = 0.1
    slower_percent: float = 50.0

    def volume_percent(self, role: Role) -> float:
        """Of one scan."""
        return float(getattr(self, f"{_family(role)}_volume_percent"))

    def mean_percent(self, role: Role) -> float:
        """Of the mean of the animals."""
        return float(getattr(self, f"{_family(role)}_mean_percent"))

    def least_dsc(self, role: Role) -> float:
        """Least DSC of an organ."""
        return float(getattr(self, f"{_family(role)}_dsc"))

    def offset_mm(self, role: Role, axis: int) -> float:
        """Of an organ's middle along patient axis x, y or z (0 to 2)."""
        return self.cord_end_mm if role is Role.CORD and axis == 2 else self.position_mm


REASONS: Mapping[str, str] = {
    "lung_volume_percent": "52 phantoms, -4 to +9 % measured; a voxel at each border is 5 %",
    "heart_volume_percent": "52 phantoms, -9 to +12 % measured",
    "cord_volume_percent": "52 phantoms, -1 to +33 % measured; its ends are uncertain",
    "lung_mean_percent": "a mean that is further away is no chance",
    "heart_mean_percent": "a mean that is further away is no chance",
    "cord_mean_percent": "a mean that is further away is no chance",
    "position_mm": "three voxels; the planning margin of a mouse is about 1 mm; the cord aside at "
    "the levels that both have, because its ends are uncertain",
    "cord_end_mm": "half a vertebra at one end moves the middle by less",
    "lung_dsc": "below it a contour is visibly wrong",
    "heart_dsc": "below it a contour is visibly wrong",
    "cord_dsc": "a thin organ; one vertebra at its end is 0.1",
    "back_volume_percent": "planning systems rasterise on their own grids",
    "back_volume_mm3": "the same of small organs",
    "back_position_voxels": "more means that the import moved it",
    "seen_edge_mm": "half a voxel of 0.2 mm: limn traces voxel borders",
    "slower_percent": "beyond that something has changed",
}


def _family(role: Role) -> str:
    return role.value.partition("_")[0]


def own_tolerances(given: Mapping[str, object]) -> Tolerances:
    """The tolerances with a site's own numbers.

    Raises
    ------
    ConfigWrong
        For a name that is none, or no positive number.
    """
    known = [each.name for each in fields(Tolerances)]
    for name, value in given.items():
        if name not in known:
            msg = f"tolerances.{name} is no tolerance; they are {', '.join(known)}"
            raise ConfigWrong(msg)
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            msg = f"tolerances.{name} is {value!r}: a number above 0 expected"
            raise ConfigWrong(msg)
    return replace(Tolerances(), **{name: float(str(value)) for name, value in given.items()})
