"""Decides whether a series is complete; pure (P2 in DESIGN.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from limn.domain.geometry import ladder


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
    """

    positions_mm: Sequence[float | None]
    announced_slices: int | None
    open_associations: int
    aborted: bool
    last_arrival_s: float
    rounding_mm: float = 0.0


def decide(arrivals: Arrivals, rules: Rules, now_s: float) -> Verdict:
    """Complete, not yet, or no longer worth waiting for."""
    quiet_s = now_s - arrivals.last_arrival_s
    count = len(arrivals.positions_mm)
    expected = rules.expected_slices or arrivals.announced_slices
    busy = bool(arrivals.open_associations) or quiet_s < rules.settle_s
    if busy and expected != count:
        return Verdict.WAIT
    whole = is_uniform(arrivals.positions_mm, arrivals.rounding_mm)
    if whole and expected == count:
        return Verdict.COMPLETE
    if busy:
        return Verdict.WAIT
    if not arrivals.aborted and whole and count >= max(rules.min_slices, expected or 0):
        return Verdict.COMPLETE
    if quiet_s < rules.hold_s:
        return Verdict.WAIT
    return Verdict.GIVE_UP_ABORTED if arrivals.aborted else Verdict.GIVE_UP_INCOMPLETE


def is_uniform(positions_mm: Sequence[float | None], rounding_mm: float = 0.0) -> bool:
    """Distinct positions, equally far apart, none missing between them."""
    known = sorted(position for position in positions_mm if position is not None)
    if len(known) < 2 or len(known) < len(positions_mm):
        return False
    rungs = ladder(np.array(known), rounding_mm)
    return rungs is not None and int(rungs[-1]) == len(known) - 1
