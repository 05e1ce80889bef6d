"""Says whether an animal and its organs have a size that is rare in the bundle's species."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from limn.domain.scan import Role
from limn.segment.bundle.species import Species
from limn.segment.draw.animals.size import Thickness


@dataclass(frozen=True, slots=True)
class SizeDoubt:
    """An animal of a size that is rare in its species.

    Attributes
    ----------
    flag, note, reason : for the record, for the structure set, and for who must release it
    """

    flag: str
    note: str
    reason: str


def size_doubt(
    species: Species, thickness: Thickness | None, volumes_mm3: Mapping[Role, float]
) -> SizeDoubt | None:
    """What is rare about an animal's size; None if nothing is.

    Parameters
    ----------
    thickness : None if it was not measured
    volumes_mm3 : 0 for an organ that is not in the field
    """
    low, high = species.usual_thickness_mm
    heart = volumes_mm3.get(Role.HEART, 0.0)
    lungs = volumes_mm3.get(Role.LUNG_R, 0.0) + volumes_mm3.get(Role.LUNG_L, 0.0)
    what, figure = None, f"{heart:.0f}+{lungs:.0f}mm3"
    if thickness is not None and (thickness.shown_mm > high or thickness.beyond_mm < low):
        figure = f"{thickness.shown_mm:.0f}mm"
        what = f"trunk {thickness.shown_mm:.0f} mm thick ({low:.0f} to {high:.0f} mm are usual)"
    elif heart > species.heart_mm3[1] or lungs > species.lungs_mm3[1]:
        what = f"heart {heart:.0f} mm3, lungs {lungs:.0f} mm3: too large"
    # Of organs that the field cuts, seldom all are small.
    elif 0 < heart < species.heart_mm3[0] and 0 < lungs < species.lungs_mm3[0]:
        what = f"heart {heart:.0f} mm3, lungs {lungs:.0f} mm3: too small"
    if what is None:
        return None
    return SizeDoubt(
        f"size-unusual:{figure}",
        "size in doubt",
        f"this size is rare for a {species.name}: {what}. Compare the length scale "
        "of the picture with the animal; if it is wrong, mend PixelSpacing or ImagePositionPatient "
        "where the scan is exported and send it again; release it only if the animal is so large",
    )
