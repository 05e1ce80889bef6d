"""Codes and colours of organs by their TG-263 names, for ROIs of a bundle that states none.

Source of the codes: PS3.16, as in pydicom's dictionary (``codes.SCT``). The two lungs are not in
PS3.16; their codes are SNOMED CT's "Left lung structure" and "Right lung structure", which a public
RadLex map gives as exact matches of RID1326 and RID1302. A paired organ whose sides have no code
there has the code of the pair.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Code:
    """A coded concept (PS3.3 8.8)."""

    value: str
    scheme: str
    meaning: str


def _snomed(value: str, meaning: str) -> Code:
    return Code(value, "SCT", meaning)


_KIDNEY, _EYE, _FEMUR = (
    _snomed("64033007", "Kidney"),
    _snomed("81745001", "Eye"),
    _snomed("71341001", "Femur"),
)

ORGAN_CODES: Mapping[str, Code] = MappingProxyType(
    {
        "Heart": _snomed("80891009", "Heart"),
        "SpinalCord": _snomed("2748008", "Spinal cord"),
        "Lung_L": _snomed("44029006", "Left lung"),
        "Lung_R": _snomed("3341006", "Right lung"),
        "Lungs": _snomed("39607008", "Lung"),
        "Aorta": _snomed("15825003", "Aorta"),
        "Bladder": _snomed("89837001", "Bladder"),
        "Bone": _snomed("272673000", "Bone"),
        "Brain": _snomed("12738006", "Brain"),
        "Colon": _snomed("71854001", "Colon"),
        "Esophagus": _snomed("32849002", "Esophagus"),
        "Eye_L": _EYE,
        "Eye_R": _EYE,
        "Femur_L": _FEMUR,
        "Femur_R": _FEMUR,
        "Kidney_L": _KIDNEY,
        "Kidney_R": _KIDNEY,
        "Kidneys": _KIDNEY,
        "Liver": _snomed("10200004", "Liver"),
        "Pancreas": _snomed("15776009", "Pancreas"),
        "Spleen": _snomed("78961009", "Spleen"),
        "Stomach": _snomed("69695003", "Stomach"),
        "Trachea": _snomed("44567001", "Trachea"),
    }
)
# An organ has the same colour whatever bundle draws it.
ORGAN_COLOURS: Mapping[str, tuple[int, int, int]] = MappingProxyType(
    {
        "Heart": (255, 0, 0),
        "SpinalCord": (255, 255, 0),
        "Lung_R": (0, 200, 0),
        "Lung_L": (0, 128, 255),
        "Lungs": (0, 170, 130),
        "Bone": (230, 220, 190),
        "Brain": (255, 150, 200),
        "Bladder": (200, 200, 60),
        "Kidney_L": (200, 90, 30),
        "Kidney_R": (160, 60, 20),
        "Liver": (150, 75, 40),
        "Spleen": (140, 40, 110),
        "Stomach": (120, 160, 60),
        "Trachea": (120, 220, 255),
    }
)
# PS3.16 CID 7162.
ARTIFICIAL_INTELLIGENCE = Code("123110", "DCM", "Artificial Intelligence")
