"""Says what is odd about a drawn scan, and whether a person must look before it is delivered."""

from __future__ import annotations

from collections.abc import Mapping

from limn.domain.scan import Organ
from limn.segment.draw.delineate import Delineated
from limn.segment.draw.sides import Sides
from limn.segment.engine.localisation.orient import MIN_RIGHT_SHARE, Lie, right_lung_share

# Folds that agree less than this on an organ see something that none of them was trained on.
LEAST_FOLD_DSC = 0.8
# Folds that agree less than this draw different things.
HELD_FOLD_DSC = 0.6


def flags(drawn: Delineated) -> list[str]:
    """The flags of how the animal lies, of its sides, of the folds and of the ensemble."""
    return [
        *([f"animals:{drawn.animals}"] if drawn.animals > 1 else []),
        *_lie_flags(drawn.lie, drawn.sides),
        *drawn.flags,
        *([drawn.calibration.flag] if drawn.calibration else []),
        *_fold_flags(drawn.fold_dsc),
    ]


def notes(drawn: Delineated) -> list[str]:
    """What the structure set says of it, beginning with the most important."""
    lie = drawn.lie
    calibrated = [drawn.calibration.note] if drawn.calibration else []
    if lie.mirrored:
        return ["mirrored image: held for release", *calibrated]
    if not lie.certain or not drawn.sides.sure:
        return ["left and right unsure: held for release", *calibrated]
    if _torn(drawn.fold_dsc):
        return ["the folds disagree: held for release", *calibrated]
    turned = [] if lie.as_in_header else [f"header and anatomy disagree: {lie.words}"]
    return [*turned, *calibrated]


def hold_reason(drawn: Delineated) -> str | None:
    """Why a person must look before the structure set is delivered; None if nobody must."""
    lie, sides = drawn.lie, drawn.sides
    if lie.mirrored:
        return _MIRRORED + f" (signs: {sides.words})"
    if not lie.certain:
        return _unsure(lie)
    if not sides.sure:
        return (
            f"left and right are in doubt ({sides.probability:.2f} of 1 that left is left; signs: "
            f"{sides.words}). Look at the picture; release it only if the left lung and the "
            "heart's apex lie on the animal's left"
        )
    if torn := _torn(drawn.fold_dsc):
        return (
            f"the networks disagree about {', '.join(torn)}: this scan is unlike those that they "
            "learnt from. Look at the picture; release it only if every contour is right"
        )
    return None


def organ_flags(volumes_mm3: Mapping[Organ, float], dropped: Mapping[Organ, int]) -> list[str]:
    """The flags of the contours: empty organs, dropped contours, a small right lung.

    Parameters
    ----------
    dropped : contours of each organ that no planning system could show
    """
    share = right_lung_share(volumes_mm3)
    # The right lung is the larger one in mice.
    small = share and share < MIN_RIGHT_SHARE
    return [
        *(f"empty:{organ.value}" for organ, mm3 in volumes_mm3.items() if mm3 == 0),
        *(f"dropped:{organ.value}:{n}" for organ, n in dropped.items() if n),
        *([f"right-lung-smaller:{share:.2f}"] if small else []),
    ]


_MIRRORED = (
    "mirror image: left and right are exchanged in this export, which no turn of the animal "
    "explains. The contours fit these pixels. Release them only if the treatment is planned on "
    "this same series; otherwise export it again without mirroring"
)


def _lie_flags(lie: Lie, sides: Sides) -> list[str]:
    if lie.mirrored:
        return [f"mirrored:{lie.letters}"]
    found = [] if lie.as_in_header else [f"header-disagrees:{lie.letters}"]
    if not lie.certain:
        found.append(f"lie-unsure:{lie.probability:.2f}")
    elif not sides.sure:
        found.append(f"sides-unsure:{sides.probability:.2f}")
    return found


def _unsure(lie: Lie) -> str:
    # If the header is wrong, left and right or head and tail are exchanged in these contours.
    return (
        f"the image hardly tells how the animal lies ({lie.probability:.2f} of 1 for what the "
        "header says): contoured as it says. Look at the picture; release it only if the left "
        "lung, the heart's apex and the head lie where they should"
    )


def _fold_flags(fold_dsc: Mapping[Organ, float]) -> list[str]:
    return [
        f"folds-disagree:{organ.value}:{dsc:.2f}"
        for organ, dsc in fold_dsc.items()
        if dsc < LEAST_FOLD_DSC
    ]


def _torn(fold_dsc: Mapping[Organ, float]) -> list[str]:
    """Organs of which the folds draw different things."""
    return [f"{organ.value} ({dsc:.2f})" for organ, dsc in fold_dsc.items() if dsc < HELD_FOLD_DSC]
