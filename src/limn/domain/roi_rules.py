"""How ROIs that need no network are made: a site's words for them, without the pixels.

A rule names the organs and ROIs that it is made of and says in words how; the words go into the
structure set. The key ``kind`` chooses the rule in a config.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

from limn.domain.scan import named_organ

# PS3.3 C.8.8.8: RT ROI Interpreted Type.
Interpreted: TypeAlias = Literal["EXTERNAL", "ORGAN", "AVOIDANCE"]
Third: TypeAlias = Literal["base", "middle", "apex"]
# No margin of a mouse is larger.
MOST_MM = 20.0
# A reader of tables refuses keys that a rule lacks.
_STRICT = {"extra": "forbid"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """The animal's body without bed and tubes, such as TG-263's External."""

    __pydantic_config__: ClassVar = _STRICT
    interpreted: ClassVar[Interpreted] = "EXTERNAL"
    kind: Literal["body"] = "body"
    name: str

    def __post_init__(self) -> None:
        _check(self)

    @property
    def sources(self) -> tuple[str, ...]:
        """It is made of none."""
        return ()

    @property
    def how(self) -> str:
        """What it is, in words."""
        return "the animal's body by HU, without bed and tubes, with lungs and gas"


@dataclass(frozen=True, slots=True, kw_only=True)
class Margin:
    """Everything within a distance of a structure, itself included (PRV).

    Attributes
    ----------
    mm : in all directions, or along x, y and z of the patient
    within : an ROI beyond which nothing is kept; empty for no limit
    """

    __pydantic_config__: ClassVar = _STRICT
    interpreted: ClassVar[Interpreted] = "AVOIDANCE"
    kind: Literal["margin"] = "margin"
    name: str
    of: str
    mm: float | tuple[float, float, float]
    within: str = ""

    def __post_init__(self) -> None:
        _check(self)
        if not all(0 <= mm <= MOST_MM for mm in self.mm_xyz) or not any(self.mm_xyz):
            msg = f"mm {self.mm}: one distance or three, 0 to {MOST_MM:g} mm, expected"
            raise ValueError(msg)

    @property
    def mm_xyz(self) -> tuple[float, float, float]:
        """Along each axis of the patient."""
        return self.mm if isinstance(self.mm, tuple) else (self.mm, self.mm, self.mm)

    @property
    def sources(self) -> tuple[str, ...]:
        """The structure, and what limits it."""
        return (self.of, self.within) if self.within else (self.of,)

    @property
    def how(self) -> str:
        """Such as ``Heart grown by 1 mm, within External``."""
        x, y, z = self.mm_xyz
        by = f"{x:g} mm" if x == y == z else f"{x:g} x {y:g} x {z:g} mm (x y z)"
        return f"{self.of} grown by {by}" + (f", within {self.within}" if self.within else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class ThirdOfOrgan:
    """A third of an organ's own long axis; the base is the end towards the animal's head."""

    __pydantic_config__: ClassVar = _STRICT
    interpreted: ClassVar[Interpreted] = "ORGAN"
    kind: Literal["third"] = "third"
    name: str
    of: str
    third: Third

    def __post_init__(self) -> None:
        _check(self)

    @property
    def sources(self) -> tuple[str, ...]:
        """The organ."""
        return (self.of,)

    @property
    def how(self) -> str:
        """Such as ``the apex third of the long axis of Heart``."""
        return f"the {self.third} third of the long axis of {self.of}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Union:
    """Several structures as one."""

    __pydantic_config__: ClassVar = _STRICT
    interpreted: ClassVar[Interpreted] = "ORGAN"
    kind: Literal["union"] = "union"
    name: str
    of: tuple[str, ...]

    def __post_init__(self) -> None:
        _check(self)

    @property
    def sources(self) -> tuple[str, ...]:
        """All of them."""
        return self.of

    @property
    def how(self) -> str:
        """Such as ``Lung_R and Lung_L as one``."""
        return f"{' and '.join(self.of)} as one"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A structure without others."""

    __pydantic_config__: ClassVar = _STRICT
    interpreted: ClassVar[Interpreted] = "ORGAN"
    kind: Literal["difference"] = "difference"
    name: str
    of: str
    minus: tuple[str, ...]

    def __post_init__(self) -> None:
        _check(self)

    @property
    def sources(self) -> tuple[str, ...]:
        """The structure and what is taken away."""
        return (self.of, *self.minus)

    @property
    def how(self) -> str:
        """Such as ``External without Lungs``."""
        return f"{self.of} without {' and '.join(self.minus)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """Voxels of the body, or of another structure, whose HU lie in a range, such as bone.

    Attributes
    ----------
    hu : least and most
    within : a structure; empty for the animal's body
    min_mm3 : smaller pieces are left out
    """

    __pydantic_config__: ClassVar = _STRICT
    interpreted: ClassVar[Interpreted] = "ORGAN"
    kind: Literal["threshold"] = "threshold"
    name: str
    hu: tuple[float, float]
    within: str = ""
    min_mm3: float = 0.0

    def __post_init__(self) -> None:
        _check(self)
        if not self.min_mm3 >= 0:
            msg = f"min_mm3 {self.min_mm3}: 0 or more expected"
            raise ValueError(msg)
        if not self.hu[0] < self.hu[1]:
            msg = f"hu {list(self.hu)}: two numbers, the smaller first, expected"
            raise ValueError(msg)

    @property
    def sources(self) -> tuple[str, ...]:
        """What it lies within."""
        return (self.within,) if self.within else ()

    @property
    def how(self) -> str:
        """Such as ``300 to 3000 HU within the body, pieces of 0.1 mm3 or more``."""
        place = self.within or "the animal's body"
        least = f", pieces of {self.min_mm3:g} mm3 or more" if self.min_mm3 else ""
        return f"{self.hu[0]:g} to {self.hu[1]:g} HU within {place}{least}"


RoiRule: TypeAlias = Body | Margin | ThirdOfOrgan | Union | Difference | Threshold


def _check(rule: RoiRule) -> None:
    """Refuse a name that no structure set holds, and a rule that is made of nothing.

    Raises
    ------
    ValueError
        Names the rule.
    """
    named_organ(rule.name)
    lists = [getattr(rule, key) for key in ("of", "minus") if hasattr(rule, key)]
    if any(len(names) == 0 for names in lists):
        msg = f"roi {rule.name} is made of nothing"
        raise ValueError(msg)


def faults_of(rules: Sequence[RoiRule], organs: Sequence[str]) -> list[str]:
    """What is wrong with the rules of a site whose bundle has these organs; empty if nothing is."""
    known = list(organs)
    found = []
    for rule in rules:
        if rule.name in known:
            found.append(f"roi {rule.name}: there is another ROI of this name")
        found += [
            f"roi {rule.name}: {source!r} is neither an organ of the bundle nor an ROI above it; "
            f"known are {', '.join(known)}"
            for source in rule.sources
            if source not in known
        ]
        if isinstance(rule, ThirdOfOrgan) and rule.of not in organs:
            found.append(f"roi {rule.name}: {rule.of!r} is no organ, and only an organ has thirds")
        known.append(rule.name)
    return found
