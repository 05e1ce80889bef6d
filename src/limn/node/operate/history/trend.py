"""Times of chosen scans by day, week or month, for charts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from limn.node.operate.history.scans import LoggedScan, Part
from limn.node.operate.history.summary import Spread, spread

DAY_S = 86400.0
# Until so many days a step is a day, until so many a week, and then a month.
MOST_DAYS, MOST_WEEKS_DAYS = 45, 730
# The epoch began on a Thursday.
_THURSDAY = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The delivered scans of one day, week or month.

    Attributes
    ----------
    begins_at, ends_at : UTC seconds
    name : such as "2026-11-30", "week from 2026-11-30" or "2026-11"
    whole : of the times that the chart shows; None if no scan has one
    parts_s : mean seconds of each part of door to door; they add up to the mean of the whole
    person_s : mean seconds for which a scan waited for a person beside that
    """

    begins_at: float
    ends_at: float
    name: str
    count: int
    whole: Spread | None
    parts_s: dict[Part, float]
    person_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Trend:
    """Steps in the order of time, without those that have no scan; all of one length."""

    unit: str
    steps: tuple[Step, ...]


def trend_of(
    scans: Iterable[LoggedScan],
    value: Callable[[LoggedScan], float | None],
    unit: str | None = None,
) -> Trend:
    """The steps of the delivered scans.

    Parameters
    ----------
    value : seconds that the spread of a step is of
    unit : "day", "week" or "month"; None: by the span of the scans
    """
    timed = [scan for scan in scans if scan.at is not None and scan.delivered_s is not None]
    unit = unit or unit_of(timed)
    steps: dict[float, list[LoggedScan]] = {}
    for scan in timed:
        steps.setdefault(_beginning(scan.at or 0.0, unit), []).append(scan)
    return Trend(
        unit=unit,
        steps=tuple(_step(begins_at, own, value, unit) for begins_at, own in sorted(steps.items())),
    )


def unit_of(scans: Sequence[LoggedScan]) -> str:
    """The length of a step by which a chart of these scans has neither few nor too many."""
    times = [scan.at for scan in scans if scan.at is not None]
    days = (max(times) - min(times)) / DAY_S if times else 0.0
    return "day" if days <= MOST_DAYS else "week" if days <= MOST_WEEKS_DAYS else "month"


def _beginning(at: float, unit: str) -> float:
    day = int(at // DAY_S)
    if unit == "week":
        day -= (day + _THURSDAY) % 7
    if unit == "month":
        moment = datetime.fromtimestamp(at, UTC)
        return datetime(moment.year, moment.month, 1, tzinfo=UTC).timestamp()
    return day * DAY_S


def _step(
    begins_at: float,
    scans: Sequence[LoggedScan],
    value: Callable[[LoggedScan], float | None],
    unit: str,
) -> Step:
    begins = datetime.fromtimestamp(begins_at, UTC)
    days = {"day": 1, "week": 7}.get(unit, 0)
    # The first of the next month lies within 32 days.
    ends = begins + timedelta(days=days) if days else (begins + timedelta(days=32)).replace(day=1)
    day = begins.date().isoformat()
    name = {"day": day, "week": f"week from {day}"}.get(unit, day[:7])
    return Step(
        begins_at=begins_at,
        ends_at=ends.timestamp(),
        name=name,
        count=len(scans),
        whole=spread(map(value, scans)),
        parts_s={part: sum(scan.part_s(part) for scan in scans) / len(scans) for part in Part},
        person_s=sum(scan.person_s for scan in scans) / len(scans),
    )
