"""Says what becomes of a tried scan, and counts how often a judge is right."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from limn.domain.light import Light, worst
from limn.domain.scan import Organ
from limn.lab.trust.trial_row import TrialRow
from limn.segment.judge.quality import Interval, Judge
from limn.segment.judge.verdict import predicted_concerns


class Fate(StrEnum):
    """What becomes of a scan with the settings that a site has by default."""

    REFUSED = "refused"
    HELD = "held"
    AMBER = "amber"
    GREEN = "green"

    @property
    def leaves(self) -> bool:
        """Whether contours leave without a person's look."""
        return self in (Fate.AMBER, Fate.GREEN)


@dataclass(frozen=True, slots=True)
class Outcome:
    """A tried scan, its fate, and what was predicted of the organs whose truth is known.

    Attributes
    ----------
    predicted : by organ: interval of the DSC, and the true DSC
    """

    row: TrialRow
    fate: Fate
    predicted: Mapping[Organ, tuple[Interval, float]]

    @property
    def is_miss(self) -> bool:
        """Whether bad contours leave."""
        return self.row.is_bad and self.fate.leaves


def outcome_of(row: TrialRow, judge: Judge) -> Outcome:
    """What becomes of one scan."""
    if row.refused:
        return Outcome(row, Fate.REFUSED, {})
    quality = judge.predict(row.signs)
    volumes_mm3 = {Organ(name): mm3 for name, mm3 in row.volumes_mm3.items()}
    lights = [Light(light) for _, light, _ in row.concerns]
    lights += [each.light for each in predicted_concerns(quality, judge, volumes_mm3)]
    fate = {Light.RED: Fate.HELD, Light.AMBER: Fate.AMBER, Light.GREEN: Fate.GREEN}[worst(lights)]
    predicted = {
        organ: (each.dsc, row.dsc[organ]) for organ, each in quality.items() if organ in row.dsc
    }
    return Outcome(row, fate, predicted)


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts over some tried scans.

    Attributes
    ----------
    bad, bad_stopped : scans of bad contours, and those of them that don't leave; a refused scan
        is neither bad nor good
    exchanged, exchanged_stopped : the same of contours that exchange left and right
    good, good_held, good_amber : scans whose contours are all good
    error, within : of the predicted DSC: mean absolute error, and share within the interval
    """

    scans: int
    refused: int
    bad: int
    bad_stopped: int
    exchanged: int
    exchanged_stopped: int
    good: int
    good_held: int
    good_amber: int
    error: float
    within: float


def tally(outcomes: Iterable[Outcome]) -> Tally:
    """Count the outcomes of some scans."""
    found = list(outcomes)
    bad = [each for each in found if not each.row.refused and each.row.is_bad]
    exchanged = [each for each in bad if each.row.exchanged]
    good = [each for each in found if each.row.is_good]
    pairs = [pair for each in found for pair in each.predicted.values()]
    errors = [abs(interval.middle - dsc) for interval, dsc in pairs]
    within = [interval.low <= dsc <= interval.high for interval, dsc in pairs]
    return Tally(
        len(found),
        _count(found, Fate.REFUSED),
        len(bad),
        sum(not each.fate.leaves for each in bad),
        len(exchanged),
        sum(not each.fate.leaves for each in exchanged),
        len(good),
        _count(good, Fate.HELD),
        _count(good, Fate.AMBER),
        float(np.mean(errors)) if errors else float("nan"),
        float(np.mean(within)) if within else float("nan"),
    )


def _count(outcomes: Sequence[Outcome], fate: Fate) -> int:
    return sum(each.fate is fate for each in outcomes)
