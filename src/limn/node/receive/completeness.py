"""Decides whether a series is complete, and says what one that waits waits for; pure (P2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from limn.domain.geometry import ladder

# A pause ends a series of several associations once it is so many times as long as the longest
# pause so far. Without a pause worth measuring, settle_s takes its place.
PAUSES = 4.0
FEW = 10.0


class Verdict(Enum):
    """What to do with a series now."""

    WAIT = "wait"
    COMPLETE = "complete"
    GIVE_UP_ABORTED = "aborted"
    GIVE_UP_INCOMPLETE = "incomplete"


@dataclass(frozen=True, slots=True)
class Rules:
    """The site's settings, s."""

    min_slices: int
    settle_s: float
    hold_s: float
    expected_slices: int | None = None


@dataclass(frozen=True, slots=True)
class Opening:
    """An association of the same sender that has not brought a slice yet: it may feed any series.

    Attributes
    ----------
    opened_s : same clock as ``now_s``
    receiving : the first bytes of an instance have come
    series : its Series Instance UID; empty as long as it is not known
    """

    opened_s: float
    receiving: bool
    series: str = ""


@dataclass(frozen=True, slots=True)
class Arrivals:
    """What has come of one series.

    Attributes
    ----------
    positions_mm : position of every instance along the slice normal; None where the header
        gives none
    announced_slices : the count in the headers, if they give one
    open_associations : associations that brought a slice and are still open
    aborted : the last association that brought a slice was aborted or timed out, or slices of it
        were refused
    last_arrival_s : same clock as ``now_s``
    rounding_mm : size of the last decimal in which positions are written
    associations : how many brought it, one after another or at once
    longest_pause_s : from the first byte of one slice to that of the next
    openings : associations of its sender that may bring more of it
    """

    positions_mm: Sequence[float | None]
    announced_slices: int | None
    open_associations: int
    aborted: bool
    last_arrival_s: float
    rounding_mm: float = 0.0
    associations: int = 1
    longest_pause_s: float = 0.0
    openings: Sequence[Opening] = ()


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict, and for a series that waits why and how long.

    Attributes
    ----------
    awaits : what it waits for, without a figure that changes with each slice
    until_s : when the wait ends if nothing comes; None while an association must end first
    setting : of the config, by which the wait ends, where a person may want to know: nothing comes
        any more, and the series is not complete
    """

    verdict: Verdict
    awaits: str = ""
    until_s: float | None = None
    setting: str = ""


def decide(arrivals: Arrivals, rules: Rules, now_s: float) -> Verdict:
    """Complete, not yet, or no longer worth waiting for."""
    return judge(arrivals, rules, now_s).verdict


def judge(arrivals: Arrivals, rules: Rules, now_s: float) -> Decision:  # noqa: PLR0911 - a ladder
    """As `decide`, with what a series that waits waits for."""
    count, last_s = len(arrivals.positions_mm), arrivals.last_arrival_s
    if count == rules.expected_slices and _is_whole(arrivals):
        return Decision(Verdict.COMPLETE)
    if busy := _busy(arrivals, rules, now_s):
        return Decision(Verdict.WAIT, busy)
    quiet_s, silence_s = now_s - last_s, silence_needed_s(arrivals, rules)
    if quiet_s < rules.settle_s:
        return Decision(Verdict.WAIT, "more slices", last_s + silence_s)
    if obstacle := _obstacle(arrivals, rules):
        if quiet_s < rules.hold_s:
            return Decision(Verdict.WAIT, obstacle, last_s + rules.hold_s, "settle.hold_s")
        aborted = arrivals.aborted
        return Decision(Verdict.GIVE_UP_ABORTED if aborted else Verdict.GIVE_UP_INCOMPLETE)
    if quiet_s < silence_s:
        more = "more slices, by its pace so far"
        return Decision(Verdict.WAIT, more, last_s + silence_s, "settle.settle_s")
    return Decision(Verdict.COMPLETE)


def silence_needed_s(arrivals: Arrivals, rules: Rules) -> float:
    """How long nothing must come before a series may be complete.

    A sender that keeps one association says by its release that it is done. One that opens an
    association for each slice does not, and only its pace tells a pause from the end.
    """
    if arrivals.associations <= 1:
        return rules.settle_s
    # Of few associations the longest pause says little.
    doubt = 1.0 + FEW / arrivals.associations
    pause_s = PAUSES * max(doubt * arrivals.longest_pause_s, rules.settle_s)
    return max(rules.settle_s, min(pause_s, rules.hold_s))


def _busy(arrivals: Arrivals, rules: Rules, now_s: float) -> str:
    """Which association must end or bring a slice first; empty if none must."""
    if arrivals.open_associations:
        return "the end of its association"
    silence_s = silence_needed_s(arrivals, rules)
    # An association that brings nothing holds the series up for so long, and one that began after
    # the series would have been complete does not concern it.
    idle_s = max(silence_s, PAUSES * rules.settle_s)
    for opening in arrivals.openings:
        in_time = opening.opened_s - arrivals.last_arrival_s < silence_s
        # A first slice whose series is not known comes in soon, or never.
        patience_s = rules.hold_s if opening.receiving and not opening.series else idle_s
        receiving = opening.receiving and bool(opening.series)
        if in_time and (receiving or now_s - opening.opened_s < patience_s):
            return "the first slice of another association of its sender"
    return ""


def _obstacle(arrivals: Arrivals, rules: Rules) -> str:
    """What a series of which nothing comes any more lacks; empty if nothing."""
    count = len(arrivals.positions_mm)
    if arrivals.aborted:
        return "the rest of it: its association broke off, or slices of it were not taken"
    if rules.expected_slices and count < rules.expected_slices:
        return f"{rules.expected_slices} slices (settle.expected_slices)"
    if not rules.expected_slices and count < (arrivals.announced_slices or 0):
        return f"{arrivals.announced_slices} slices, which its headers announce"
    if count < rules.min_slices:
        return f"at least {rules.min_slices} slices (settle.min_slices)"
    if not _is_whole(arrivals):
        return "slices at even distances: some are missing, or two are in one place"
    return ""


def _is_whole(arrivals: Arrivals) -> bool:
    return is_uniform(arrivals.positions_mm, arrivals.rounding_mm)


def is_uniform(positions_mm: Sequence[float | None], rounding_mm: float = 0.0) -> bool:
    """Distinct positions, equally far apart, none missing between them."""
    known = sorted(position for position in positions_mm if position is not None)
    if len(known) < 2 or len(known) < len(positions_mm):
        return False
    rungs = ladder(np.array(known), rounding_mm)
    return rungs is not None and int(rungs[-1]) == len(known) - 1
