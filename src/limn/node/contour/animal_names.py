"""What each of several animals is called: by the site's list, by the header, or by its number."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pydicom.dataset import Dataset

from limn.dicom.identity import decoded_text
from limn.node.config import Model
from limn.segment.draw.animals.located import Place

# StructureSetLabel is a Short String of at most 16 characters (PS3.5 6.2).
SH_CHARACTERS = 16
_BETWEEN = re.compile(r"\s*[,;+/|&]\s*|\s+")


@dataclass(frozen=True, slots=True)
class AnimalName:
    """One of several animals, for people.

    Attributes
    ----------
    name : given by the site or the header; empty if neither names as many animals as there are
    place : which of how many it is
    misfit : how many names there are for how many animals, if that is why it has none
    """

    name: str
    place: Place
    misfit: str = ""

    @property
    def flag(self) -> str:
        """Its name, or why it has none although the site wants one; empty if none is wanted."""
        if self.name:
            return "animal-name:" + "_".join(self.name.split())
        return f"animal-names:{self.misfit}" if self.misfit else ""

    @property
    def short(self) -> str:
        """Its name, or its number and how many there are."""
        return self.name or f"{self.place.number}/{self.place.of}"

    @property
    def words(self) -> str:
        """Which animal it is and where; empty for the only one."""
        if self.place.of < 2:
            return ""
        x, y, z = self.place.middle_xyz_mm
        called = f", {self.name}," if self.name else ""
        return (
            f"animal {self.place.number} of {self.place.of}{called} in the middle of x {x:.0f}, "
            f"y {y:.0f}, z {z:.0f} mm"
        )

    def label(self, label: str) -> str:
        """A StructureSetLabel with it; of a long label it has the beginning."""
        if self.place.of < 2:
            return label
        short = self.short[: SH_CHARACTERS - 1]
        return f"{label[: SH_CHARACTERS - len(short) - 1].rstrip()} {short}".lstrip()


def name_of(place: Place, model: Model, header: Dataset) -> AnimalName:
    """The name of an animal, from the list of the config, else from the header's element."""
    if place.of < 2:
        return AnimalName("", place)
    names = model.animals
    if not names and model.animals_from:
        text = decoded_text(header, model.animals_from)
        names = tuple(each for each in _BETWEEN.split(text) if each)
    if not names:
        return AnimalName("", place)
    if len(names) != place.of or len(set(names)) < len(names):
        return AnimalName("", place, f"{len(names)}for{place.of}")
    return AnimalName(names[place.number - 1], place)
