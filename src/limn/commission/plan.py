"""Which phantoms a commissioning sends, and what must become of each (D-271)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from limn.domain.errors import ConfigWrong
from limn.lab.phantoms.orientation import POSITIONS
from limn.lab.phantoms.quirks import QUIRKS
from limn.lab.phantoms.synthesize import PhantomRequest
from limn.node.commissioning import PREFIX

SPACING_MM = 0.2
SIZE_ZYX_MM = (30.0, 26.0, 30.0)
# Five animals for the volumes; another two lie in every position.
ANIMAL_SEEDS = (11, 12, 13, 14, 15)
LIE_SEED, STACK_SEED, VOXEL_SEED, SERIES_SEED = 3, 4, 16, 17
VOXELS_MM = (0.14, 0.25, 0.3)
# No C-STORE carries the names of files; a PatientID that is no commissioning's is never sent; a PET
# is a series of its own.
LEFT_OUT = (
    "path-in-patient-id",
    "pet-beside",
    "file-twice",
    "descending-files",
    "no-extension",
    "uid-names",
)
# What can't be contoured, and what the reason names.
REFUSED = {
    "blank-orientation": "ImageOrientationPatient",
    "no-rescale": "RescaleSlope",
    "position-twice": "ImagePositionPatient",
    "high-bit": "HighBit",
    "scout": "LOCALIZER",
    # Slices are missing within the organs; of "gap-aside" beside them.
    "gap": "slices missing",
}
FLAGGED = {
    "wrong-patient-position": "position",
    "no-frame-of-reference": "no-frame-of-reference",
    "rescale-type-us": "rescale-type",
    "gap-aside": "gap",
}

ENDS = {"x": "left and right", "y": "belly and back", "z": "head and tail"}
IMAGE_FAULTS = {
    "hu-shifted-far": "HU with a wrong intercept",
    "inverted": "negated numbers",
    "size-wrong": "a wrong voxel spacing in the header",
    "cut-caudal": "a field that cuts the chest at the tail's side",
    "missing-slices-blank": "a band of blank slices",
    "metal": "streaks from metal",
    "abdomen-only": "a field that shows the belly",
    "empty": "no animal in the field",
}
# A scan in which the networks find nothing ends as failed; the reason must say so.
NOT_FOUND = {"abdomen-only": "no organ was found"}


class Expected(StrEnum):
    """What must become of a phantom."""

    DRAWN = "delivered, within every tolerance"
    HELD = "held until a person has looked"
    REFUSED = "refused, with the reason"
    WARNED = "within every tolerance, or a warning"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedStep:
    """One phantom that is sent.

    Attributes
    ----------
    says : what is sent, for a physicist
    flag : that its scan must have, that counts as a warning, or that the reason of a refusal or
        a failure must name; empty for none
    fault : of the image, a name in `limn.phantom.faults.FAULTS`; empty for none
    seen : a person is asked for what the planning system shows of it
    """

    name: str
    group: str
    says: str
    request: PhantomRequest
    expected: Expected = Expected.DRAWN
    flag: str = ""
    fault: str = ""
    seen: bool = False

    @property
    def animal(self) -> str:
        """Its PatientID."""
        return PREFIX + self.name.upper()

    @property
    def may_leave(self) -> bool:
        """Whether a planning system that a person names gets it: sound series alone."""
        return self.group in ("animals", "lies", "stacks", "voxels")


GROUPS = {
    "animals": "Animals: volumes, positions and time",
    "lies": "How the animal lies: every PatientPosition",
    "stacks": "Stacks of slices",
    "voxels": "Sizes of voxels",
    "series": "What scanners and archives do to a series",
    "faults": "Faults that must not go out unseen",
}


def steps() -> tuple[PlannedStep, ...]:
    """The whole plan, in the order in which it is sent."""
    return (*_animals(), *_lies(), *_stacks(), *_voxels(), *_faults(), *_series())


def chosen(names: Sequence[str]) -> tuple[PlannedStep, ...]:
    """The steps of these names or groups, in the order of the plan; all if none is named.

    Raises
    ------
    ConfigWrong
        For a name that no step and no group has.
    """
    return named("--only", names, steps()) if names else steps()


def named(
    option: str, names: Sequence[str], planned: Sequence[PlannedStep]
) -> tuple[PlannedStep, ...]:
    """Those of the planned steps that have these names or are of these groups.

    Parameters
    ----------
    option : of the command, by which a person names them

    Raises
    ------
    ConfigWrong
        For a name that no step and no group has.
    """
    known = {each.name for each in planned} | {each.group for each in planned}
    if unknown := sorted(set(names) - known):
        msg = (
            f"{option} {', '.join(unknown)}: no such step in this plan; groups are "
            f"{', '.join(GROUPS)}, and `limn commission --list` names every step"
        )
        raise ConfigWrong(msg)
    return tuple(each for each in planned if each.name in names or each.group in names)


def digest(planned: Sequence[PlannedStep]) -> str:
    """Differs between two plans that send anything else."""
    return hashlib.sha256(repr(planned).encode()).hexdigest()[:16]


def _request(seed: int, spacing_mm: float = SPACING_MM, **how: object) -> PhantomRequest:
    return PhantomRequest(seed, spacing_mm, SIZE_ZYX_MM, **how)  # type: ignore[arg-type]


def _animals() -> list[PlannedStep]:
    return [
        PlannedStep(
            name=f"animal-{number}",
            group="animals",
            says=f"a mouse, phantom {seed}, voxels of {SPACING_MM:g} mm, head first, supine",
            request=_request(seed, position="HFS"),
            seen=number == 1,
        )
        for number, seed in enumerate(ANIMAL_SEEDS, start=1)
    ]


def _lies() -> list[PlannedStep]:
    return [
        PlannedStep(
            name=f"lie-{position.lower()}",
            group="lies",
            says=f"the mouse of phantom {LIE_SEED} as {position}, in image and header",
            request=_request(LIE_SEED, position=position),
            seen=position == "FFP",
        )
        for position in POSITIONS
    ]


def _stacks() -> list[PlannedStep]:
    return [
        PlannedStep(
            name=f"stack-{stack}-{position.lower()}",
            group="stacks",
            says=f"{stack} slices of an animal that lies {position}",
            request=_request(STACK_SEED, position=position, stack=stack),
        )
        for stack, position in (
            ("coronal", "HFS"),
            ("sagittal", "HFS"),
            ("coronal", "FFDR"),
            ("sagittal", "FFP"),
        )
    ]


def _voxels() -> list[PlannedStep]:
    return [
        PlannedStep(
            name=f"voxels-{round(1000 * mm)}",
            group="voxels",
            says=f"voxels of {mm:g} mm",
            request=_request(VOXEL_SEED, mm, position="HFS"),
        )
        for mm in VOXELS_MM
    ]


def _faults() -> list[PlannedStep]:
    mirrored = [
        _fault(
            f"mirrored-{axis}",
            f"a mirror image: {words} exchanged in the pixels, and the header does not say so",
            Expected.HELD,
            "mirrored",
            request=_faulty(mirrored=axis),
        )
        for axis, words in ENDS.items()
    ]
    turned = [
        _fault(
            f"turned-{axis}",
            f"the animal turned by 180 degrees about {axis}, and the header does not say so",
            request=_faulty(turned=axis),
        )
        for axis in ENDS
    ]
    beside = "a second animal beside the first; either may be the one that is drawn"
    return [
        *mirrored,
        *turned,
        _fault("two-animals", beside, flag="animals", request=_faulty(neighbour=True)),
        _fault("contrast", "a contrast agent in the blood", request=_faulty(contrast=True)),
        *(
            replace(_fault(name, says, flag=NOT_FOUND.get(name, "")), fault=name)
            for name, says in IMAGE_FAULTS.items()
        ),
    ]


def _faulty(**how: object) -> PhantomRequest:
    return _request(STACK_SEED, SPACING_MM, position="HFS", **how)


def _fault(
    name: str,
    says: str,
    expected: Expected = Expected.WARNED,
    flag: str = "",
    *,
    request: PhantomRequest | None = None,
) -> PlannedStep:
    return PlannedStep(
        name=name,
        group="faults",
        says=says,
        request=request or _faulty(),
        expected=expected,
        flag=flag,
    )


def _series() -> list[PlannedStep]:
    return [
        PlannedStep(
            name=name,
            group="series",
            says=quirk.meaning.rstrip("."),
            # The larger voxels halve the time; what is tried is the header.
            request=_request(SERIES_SEED, 0.3, position="HFS", quirks=(name,)),
            expected=Expected.REFUSED if name in REFUSED else Expected.DRAWN,
            flag=FLAGGED.get(name, REFUSED.get(name, "")),
        )
        for name, quirk in QUIRKS.items()
        if name not in LEFT_OUT
    ]
