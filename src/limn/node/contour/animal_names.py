"""What each of several animals is called: by a person, the site's list, the header, its number."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pydicom.dataset import Dataset

from limn.dicom.identity import decoded_text
from limn.dicom.rtstruct import SH_CHARACTERS
from limn.node.config import Model
from limn.segment.draw.animals.located import Place

# The end of the label of a demonstration bundle.
DEMO = " DEMO"
_BETWEEN = re.compile(r"\s*[,;+/|&]\s*|\s+")


@dataclass(frozen=True, slots=True)
class AnimalName:
    """One of several animals, for people.

    Attributes
    ----------
    name : a person's, the site's or the header's; empty if none names as many animals
    place : which of how many it is
    misfit : why it has none: "2for3" names and animals, or "twice" one name
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
        """A StructureSetLabel with it; of a long label it has the beginning, but DEMO stays.

        A name that does not fit, or is no plain text, gives way to the number: cut names of two
        animals may be the same.
        """
        if self.place.of < 2:
            return label
        base, demo, _ = label.partition(DEMO) if label.endswith(DEMO) else (label, "", "")
        room = SH_CHARACTERS - len(demo) - 1
        number = f"{self.place.number}/{self.place.of}"
        plain = self.name.isascii() and self.name.isprintable() and "\\" not in self.name
        short = self.name if self.name and plain and len(self.name) <= room else number
        return f"{base[: room - len(short)].rstrip()}{demo} {short}".lstrip()


def name_of(place: Place, model: Model, header: Dataset, given: str = "") -> AnimalName:
    """The name of an animal: a person's, from the config's list, or from the header's element.

    Parameters
    ----------
    given : by a person
    """
    if place.of < 2:
        return AnimalName("", place)
    if given:
        return AnimalName(given, place)
    names = model.animals
    if not names and model.animals_from:
        text = decoded_text(header, model.animals_from)
        names = tuple(each for each in _BETWEEN.split(text) if each)
    if not names:
        return AnimalName("", place)
    if len(set(names)) < len(names):
        return AnimalName("", place, "twice")
    if len(names) != place.of:
        return AnimalName("", place, f"{len(names)}for{place.of}")
    return AnimalName(names[place.number - 1], place)
