"""The systems, test sets and measures of a study, in the paper's order and words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from limn.domain.scan import TG263_ROLES, Organ, Role

REFERENCE_SYSTEM = "3d_fullres"
LOWRES, CASCADE, FLAT, AIMOS, LIMN = "3d_lowres", "3d_cascade", "2d", "aimos", "limn"
OBSERVERS = "observers"
MANUAL = "manual"
# Both lungs as one, in the paper's tables.
BOTH_LUNGS = "Lungs"


@dataclass(frozen=True, slots=True)
class System:
    """One way to contour, with its names in tables.

    Attributes
    ----------
    model : its name in the paper
    rebuilt : whether the system here is a copy of the paper's and not the same
    axes : 2 if its networks see slices, 3 for blocks, 0 without a network
    """

    key: str
    algorithm: str
    model: str
    rebuilt: bool = False
    axes: int = 0

    @property
    def model_here(self) -> str:
        """The model's name beside figures that were measured here."""
        return f"{self.model}, rebuilt" if self.rebuilt else self.model

    @property
    def named(self) -> str:
        """Algorithm and model, for a table that has one column for both."""
        return f"{self.algorithm} {self.model_here}"


SYSTEMS: tuple[System, ...] = (
    System(REFERENCE_SYSTEM, "nnU-Net", "3d_fullres", axes=3),
    System(LOWRES, "nnU-Net", "3d_lowres", axes=3),
    System(CASCADE, "nnU-Net", "3d_cascade", axes=3),
    System(FLAT, "nnU-Net", "2d", axes=2),
    System(AIMOS, "AIMOS", "UNet-768", rebuilt=True, axes=2),
    System(LIMN, "limn", "engine", axes=3),
    System(OBSERVERS, "Interobserver variability", ""),
    System(MANUAL, "Manual", "one biologist"),
)
SETS: Mapping[str, str] = MappingProxyType(
    {"test1": "native CT (test set 1)", "test2": "contrast-enhanced CT (test set 2)"}
)
# Of one organ, compared with one observer.
MEASURES: Mapping[str, str] = MappingProxyType(
    {"dsc": "DSC", "msd_mm": "MSD (mm)", "hd95_mm": "95p HD (mm)"}
)
CONFORMITY = "ci"
TIMES: Mapping[str, str] = MappingProxyType(
    {"preprocess_s": "Preprocessing", "inference_s": "Inference", "runtime_s": "Runtime"}
)
# The paper's organs; another set's stand under their own names.
_PAPER_WORDS = {
    Role.HEART: "Heart",
    Role.CORD: "Spinal Cord",
    Role.LUNG_R: "Right Lung",
    Role.LUNG_L: "Left Lung",
}
ORGAN_WORDS: Mapping[str, str] = MappingProxyType(
    {TG263_ROLES[role]: words for role, words in _PAPER_WORDS.items()} | {BOTH_LUNGS: "Total lungs"}
)
# Structures that compared the paper's observers, in the order of its Table 3: observer 3 drew both
# lungs as one, and no cord.
PAPER_STRUCTURES: tuple[str, ...] = (
    TG263_ROLES[Role.HEART],
    BOTH_LUNGS,
    TG263_ROLES[Role.CORD],
)


def words_of(organ: str) -> str:
    """An organ's name in a table: the paper's words, or the name as it stands."""
    return ORGAN_WORDS.get(organ, organ)


def structures_in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Structures that compare observers: the paper's three, if no other is there.

    Otherwise those of the paper that are there, and then the others by their names.
    """
    given = set(names)
    others = sorted(given - set(PAPER_STRUCTURES))
    if not others:
        return PAPER_STRUCTURES
    return (*(name for name in PAPER_STRUCTURES if name in given), *others)


def organs_in_order(names: Iterable[str]) -> list[Organ]:
    """Organs in the paper's order; others come last, by their names."""
    given = set(names)
    paper = [organ for organ in TG263_ROLES.values() if organ in given]
    return paper + [Organ(name) for name in sorted(given - set(paper))]


def in_order(keys: set[str]) -> list[System]:
    """Systems in the paper's order; others come last, each under its key."""
    known = [system for system in SYSTEMS if system.key in keys]
    others = sorted(keys - {system.key for system in SYSTEMS})
    return known + [System(key, key, "") for key in others]
