"""Before and after, organ by organ, and what follows from it by a stated rule."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from limn.domain.scan import Organ
from limn.lab.adapt.scoring import (
    AFTER,
    BEFORE,
    LEFT_OUT,
    PHANTOMS,
    TESTED,
    AdaptScore,
    means_by_animal,
)
from limn.lab.adapt.site_scans import SiteData
from limn.lab.adapt.watch import MOST_FORGOTTEN
from limn.lab.measure.statistics import compare

# Fewer animals than this that no network of theirs has seen prove nothing.
FEWEST_JUDGES = 3
# The least predicted DSC at which a judge's red light may begin (`lab.trust.teach`).
LEAST_DSC = 0.80
RULE = (
    "Use it, if all of this holds. Each organ that was taught was scored on at least "
    f"{FEWEST_JUDGES} animals that no network of theirs has seen. On them and on phantoms no "
    f"organ's mean DSC fell by more than {MOST_FORGOTTEN:g}. On them every organ's mean is "
    f"{LEAST_DSC:.2f} or more. On so many of them one organ's 95 % interval of the gain lies above "
    "0, or one organ is new. Do not use it, if an organ fell by more than that. Otherwise contour "
    "more animals."
)


class Advice(StrEnum):
    """What to do with the new bundle."""

    USE = "use"
    MORE_ANIMALS = "more animals"
    DO_NOT_USE = "do not use"


@dataclass(frozen=True, slots=True)
class OrganChange:
    """One organ in one group of scans.

    Attributes
    ----------
    animals : how many
    before : mean DSC over animals; None for an organ that the old bundle did not know
    after : the same of the new bundle
    gain, low, high : mean of the differences, and its 95 % bootstrap interval by animal
    worst : the lowest mean of an animal after
    """

    group: str
    organ: Organ
    animals: int
    before: float | None
    after: float
    gain: float
    low: float
    high: float
    worst: float


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The advice and the one sentence that says it."""

    advice: Advice
    sentence: str


def changes(scores: Sequence[AdaptScore], old: Sequence[Organ]) -> list[OrganChange]:
    """Every organ of every group that was scored.

    Parameters
    ----------
    old : the organs that the old bundle knew
    """
    found = []
    for group in (LEFT_OUT, TESTED, PHANTOMS):
        of_group = [score for score in scores if score.group == group]
        for organ in dict.fromkeys(score.organ for score in of_group):
            own = [score for score in of_group if score.organ == organ]
            before = means_by_animal([score for score in own if score.when == BEFORE])
            after = means_by_animal([score for score in own if score.when == AFTER])
            animals = sorted(after)
            values = [np.array([means[each] for each in animals]) for means in (after, before)]
            both = compare(values[0], values[1], animals)
            known = organ in old
            found.append(
                OrganChange(
                    group,
                    organ,
                    len(animals),
                    float(values[1].mean()) if known else None,
                    float(values[0].mean()),
                    both.mean_difference,
                    both.low,
                    both.high,
                    float(values[0].min()),
                )
            )
    return found


def too_few_judges(site: SiteData, left_out: Collection[int]) -> str:
    """Why the page can't say "use" whatever is learnt; empty if enough animals judge each organ.

    Parameters
    ----------
    left_out : numbers of the groups of animals that a fold leaves out
    """
    few: dict[tuple[int, int], list[str]] = {}
    judging = [scan for scan in site.teaching if scan.group in left_out]
    for organ in site.organs:
        own, tested = (
            len(site.animals([scan for scan in scans if organ in scan.organs]))
            for scans in (judging, site.testing)
        )
        if max(own, tested) < FEWEST_JUDGES:
            few.setdefault((own, tested), []).append(str(organ))
    if not few:
        return ""
    shown = "; ".join(
        f"{', '.join(organs)} by {own} that a fold leaves out and {tested} that only test"
        for (own, tested), organs in few.items()
    )
    return (
        f"the page can't say to use the new bundle, because too few animals judge it: {shown}; "
        f"{FEWEST_JUDGES} of one kind must. Contour more animals, or let all teach: limn lab "
        "import with --split"
    )


def recommend(found: Sequence[OrganChange], taught: Sequence[Organ]) -> Recommendation:
    """The advice by `RULE`.

    Parameters
    ----------
    taught : organs that the site's animals taught
    """
    unseen = [change for change in found if change.group != PHANTOMS]
    fallen = [
        f"{change.organ} on {change.group} by {-change.gain:.3f}"
        for change in found
        if change.before is not None and change.gain < -MOST_FORGOTTEN
    ]
    if fallen:
        return Recommendation(
            Advice.DO_NOT_USE,
            f"Do not use the new bundle: {', '.join(fallen)} DSC worse than before.",
        )
    weak = [f"{c.organ} on {c.group} {c.after:.3f}" for c in unseen if c.after < LEAST_DSC]
    if weak:
        return _more(f"{', '.join(weak)}, below {LEAST_DSC:.2f}")
    judged = {organ: [c.animals for c in unseen if c.organ == organ] for organ in taught}
    few = {
        organ: sum(animals)
        for organ, animals in judged.items()
        if max(animals, default=0) < FEWEST_JUDGES
    }
    if few:
        shown = ", ".join(f"{organ} by {animals}" for organ, animals in few.items())
        return _more(f"too few animals judge it ({shown}; {FEWEST_JUDGES} must)")
    enough = [c for c in unseen if c.animals >= FEWEST_JUDGES]
    better = [c for c in enough if c.before is not None and c.low > 0]
    new = [c for c in enough if c.before is None]
    if better:
        best = max(better, key=lambda change: change.gain)
        why = (
            f"{best.organ} gained {best.gain:.3f} DSC (95 % interval {best.low:.3f} to "
            f"{best.high:.3f}) on {best.animals} {best.group}"
        )
    elif new:
        why = (
            f"{new[0].organ} is new, with DSC {new[0].after:.3f} on {new[0].animals} {new[0].group}"
        )
    else:
        return _more("no organ's gain is told from chance")
    return Recommendation(
        Advice.USE,
        f"Use the new bundle after commissioning: {why}, and no organ's mean fell by more than "
        f"{MOST_FORGOTTEN:g} on left-out animals, test animals or phantoms.",
    )


def _more(why: str) -> Recommendation:
    return Recommendation(
        Advice.MORE_ANIMALS, f"Contour more animals and adapt again before you use it: {why}."
    )
