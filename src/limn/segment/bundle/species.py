"""Says how large the animals are that a bundle was made for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Species:
    """An animal and its size.

    Attributes
    ----------
    name : in messages
    thickness_mm : diameter of the largest ball inside the animal's trunk, least and most; other
        scans are refused
    usual_thickness_mm : the same of most animals; other scans are held
    heart_mm3, lungs_mm3 : least and most volume of the heart and of both lungs; a scan with more,
        or with less of both, is held
    """

    name: str
    thickness_mm: tuple[float, float]
    usual_thickness_mm: tuple[float, float]
    heart_mm3: tuple[float, float]
    lungs_mm3: tuple[float, float]

    @property
    def scientific_name(self) -> str:
        """For PatientSpeciesDescription (PS3.3 C.7.1.1); its own name if limn knows no other."""
        return SCIENTIFIC_NAMES.get(self.name.lower(), self.name)


SCIENTIFIC_NAMES = {"mouse": "Mus musculus", "rat": "Rattus norvegicus"}
# From a pup of 10 g to an obese mouse of 60 g (D-211).
MOUSE = Species("mouse", (9.0, 36.0), (11.5, 28.0), (45.0, 700.0), (110.0, 1600.0))


def read_species(table: Mapping[str, Any] | None) -> Species:
    """The table ``[animal]`` of a manifest; a bundle without one is made for mice.

    Raises
    ------
    ValueError
        If a range is empty or not positive.
    """
    if table is None:
        return MOUSE
    ranges = {
        key: (float(table[key][0]), float(table[key][1]))
        for key in ("thickness_mm", "usual_thickness_mm", "heart_mm3", "lungs_mm3")
    }
    for key, (low, high) in ranges.items():
        if not 0 < low < high:
            msg = f"animal.{key} {[low, high]}, two numbers, the smaller first, expected"
            raise ValueError(msg)
    return Species(name=str(table["species"]), **ranges)
