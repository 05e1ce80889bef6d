"""What the history's page shows, as values: chosen scans, what is usual, charts."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from limn.domain.timing import DOOR_TO_DOOR_STAGES
from limn.node.board.history.charts import (
    Chart,
    Frame,
    Key,
    Line,
    Mark,
    frame_of,
    framed,
    stacked,
)
from limn.node.operate.history.choice import Choice
from limn.node.operate.history.scans import STAGE_WORDS, LoggedScan, Part
from limn.node.operate.history.summary import (
    SLOW,
    Group,
    Spread,
    Summary,
    Usual,
    Why,
    groups_of,
    shown_s,
    summary_of,
)
from limn.node.operate.history.trend import Step, Trend, trend_of, unit_of

# Of the table, one page; all of it is in the CSV.
PAGE = 200
# So many of the slowest scans can be reached from the chart.
MOST_MARKS = 12
# A chart with more lines shows none.
MOST_LINES = 6
SIZE = (720.0, 300.0)
DOOR = "door_to_door_s"
WHAT = {
    DOOR: "door to door",
    "waiting": "all waiting for slices, queue and destination",
    "person": "waiting for a person",
    **STAGE_WORDS,
}
BY: dict[str, Callable[[LoggedScan], str]] = {
    "scanner": lambda scan: scan.scanner,
    "cohort": lambda scan: scan.cohort,
    "bundle": lambda scan: scan.bundle,
}
LIGHTS = ("green", "amber", "red")
# Classes of the parts in the stacked bars.
PART_CSS = {part: f"part{number}" for number, part in enumerate(Part)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """How the chosen scans are shown.

    Attributes
    ----------
    what : of `WHAT`: the times in the first chart
    by : of `BY`, or empty: the lines apart by it
    sort : "slowest", or empty for the newest first
    """

    what: str = DOOR
    by: str = ""
    sort: str = ""

    @property
    def wrong(self) -> str:
        """What can't be shown; empty if all can."""
        for name, text, known in (
            ("chart", self.what, (*WHAT,)),
            ("apart by", self.by, ("", *BY)),
            ("order", self.sort, ("", "slowest")),
        ):
            if text not in known:
                return f"{name} {text}: one of {', '.join(filter(None, known))} expected"
        return ""

    def value(self, scan: LoggedScan) -> float | None:
        """The seconds in the first chart."""
        if self.what == DOOR:
            return scan.delivered_s
        if self.what == "waiting":
            return scan.waiting_s
        if self.what == "person":
            return scan.person_s or None
        return scan.stages_s[DOOR_TO_DOOR_STAGES.index(self.what)]


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """The history's page.

    Attributes
    ----------
    rows : each scan of the table with what took longest in it
    groups : the scans apart, if that was asked for
    """

    summary: Summary
    rows: tuple[tuple[LoggedScan, Why | None], ...]
    charts: tuple[Chart, ...]
    groups: tuple[Group, ...]


def history_of(scans: Sequence[LoggedScan], usual: Usual, choice: Choice, shown: Shown) -> History:
    """The chosen scans of a log."""
    chosen = choice.of(scans)
    delivered = [scan for scan in chosen if scan.delivered_s is not None]
    listed = chosen
    if shown.sort:
        listed = sorted(delivered, key=lambda scan: scan.delivered_s or 0.0)
    return History(
        summary=summary_of(chosen, usual),
        rows=tuple((scan, usual.why(scan)) for scan in reversed(listed[-PAGE:])),
        charts=tuple(_charts(delivered, shown)) if delivered else (),
        groups=groups_of(chosen, BY[shown.by]) if shown.by else (),
    )


def _charts(delivered: Sequence[LoggedScan], shown: Shown) -> Iterator[Chart]:
    unit = unit_of(delivered)
    points = [
        (scan.at, value, scan)
        for scan in delivered
        if scan.at is not None and (value := shown.value(scan)) is not None
    ]
    trend = trend_of(delivered, shown.value, unit)
    if points:
        yield _times_chart(points, trend, delivered, shown)
    if trend.steps:
        yield _parts_chart(trend)


def _times_chart(
    points: Sequence[tuple[float, float, LoggedScan]],
    trend: Trend,
    delivered: Sequence[LoggedScan],
    shown: Shown,
) -> Chart:
    frame = frame_of([at for at, _, _ in points], [value for _, value, _ in points], size=SIZE)
    words = WHAT[shown.what]
    dots = [
        (f"light-{light}", [(at, value) for at, value, scan in points if scan.light == light])
        for light in ("", *LIGHTS)
    ]
    keys = [Key(css, f"{css[6:] or 'no light'}") for css, own in dots if own]
    lines, line_keys = _lines(frame, trend, delivered, shown)
    slow = SLOW * statistics.median(value for _, value, _ in points)
    slowest = sorted(points, key=lambda point: -point[1])[:MOST_MARKS]
    first, last = points[0][2].day, points[-1][2].day
    return framed(
        frame,
        name="times",
        title=f"{words[0].upper()}{words[1:]} of each scan, with p50 and p95 of each {trend.unit}",
        words=f"{len(points)} scans from {first} to {last}; seconds"
        f"{' on a logarithmic axis' if frame.log else ''}. The slowest "
        f"took {shown_s(slowest[0][1])} s. The table below has the same values.",
        y_name="s",
        keys=(*keys, *line_keys),
        lines=lines,
        dots=tuple(frame.dots(css, own) for css, own in dots if own),
        marks=tuple(
            Mark(
                f"light-{scan.light}",
                round(frame.x(at), 1),
                round(frame.y(value), 1),
                f"/{scan.name}",
                f"{scan.name}, animal {scan.animal}: {shown_s(value)} s",
            )
            for at, value, scan in slowest
            if value > slow or scan is slowest[0][2]
        ),
        columns=(trend.unit, "scans", "p50 s", "p95 s", "max s"),
        rows=tuple((step.name, str(step.count), *_cells(step.whole)) for step in trend.steps),
    )


def _lines(
    frame: Frame, trend: Trend, delivered: Sequence[LoggedScan], shown: Shown
) -> tuple[tuple[Line, ...], tuple[Key, ...]]:
    """The p50 and p95 of all scans, or of each scanner, cohort or bundle."""
    if not shown.by:
        half, most = Key("p50", f"half of a {trend.unit}"), Key("p95", f"95 % of a {trend.unit}")
        return tuple(_two_lines(frame, trend.steps, "")), (half, most)
    groups: dict[str, list[LoggedScan]] = {}
    for scan in delivered:
        groups.setdefault(BY[shown.by](scan), []).append(scan)
    largest = sorted(groups, key=lambda name: (-len(groups[name]), name))[:MOST_LINES]
    lines: list[Line] = []
    for number, name in enumerate(largest):
        steps = trend_of(groups[name], shown.value, trend.unit).steps
        lines += _two_lines(frame, steps, f" group{number}")
    keys = [Key(f"group{number}", name or "(none)") for number, name in enumerate(largest)]
    if len(groups) > MOST_LINES:
        keys.append(Key("none", f"and {len(groups) - MOST_LINES} more, in the table"))
    return tuple(lines), (*keys, Key("p95", "dashed: 95 %"))


def _two_lines(frame: Frame, steps: Sequence[Step], css: str) -> Iterable[Line]:
    known = [(step, step.whole) for step in steps if step.whole is not None]
    for name, value in (
        ("p50", lambda found: found.p50_s),
        ("p95", lambda found: found.p95_s),
    ):
        yield frame.line(f"{name}{css}", _through(frame, known, value))


def _through(
    frame: Frame,
    known: Sequence[tuple[Step, Spread]],
    value: Callable[[Spread], float],
) -> Iterator[tuple[float, float]]:
    """The middle of each step; one step alone is a line over its length."""
    for step, found in known:
        begins_at = max(step.begins_at, frame.begins_at)
        ends_at = min(step.ends_at, frame.ends_at)
        if len(known) == 1:
            yield begins_at, value(found)
            yield ends_at, value(found)
        else:
            yield (begins_at + ends_at) / 2, value(found)


def _parts_chart(trend: Trend) -> Chart:
    wholes_s = [sum(step.parts_s.values()) for step in trend.steps]
    frame = frame_of(
        [trend.steps[0].begins_at, trend.steps[-1].ends_at],
        [0.0, *wholes_s],
        size=SIZE,
        from_zero=True,
        may_log=False,
    )
    words = {css: str(part) for part, css in PART_CSS.items()}
    bars = [
        bar
        for step in trend.steps
        for bar in stacked(
            frame,
            step.begins_at,
            step.ends_at,
            {PART_CSS[part]: seconds for part, seconds in step.parts_s.items()},
            lambda css, value, step=step: f"{step.name}, {words[css]}: {shown_s(value)} s",  # type: ignore[misc]
        )
    ]
    return framed(
        frame,
        name="parts",
        title=f"Where the time goes: mean of each {trend.unit}, waiting apart from computing",
        words=f"Mean seconds of the parts of door to door for {len(trend.steps)} steps of a "
        f"{trend.unit}. The table below has the same values.",
        y_name="s",
        keys=tuple(Key(css, str(part)) for part, css in PART_CSS.items()),
        bars=tuple(bars),
        columns=(trend.unit, "scans", *(f"{part}, s" for part in Part), "for a person besides, s"),
        rows=tuple(
            (
                step.name,
                str(step.count),
                *(f"{step.parts_s[part]:.2f}" for part in Part),
                f"{step.person_s:.0f}",
            )
            for step in trend.steps
        ),
    )


def _cells(found: Spread | None) -> tuple[str, ...]:
    if found is None:
        return ("", "", "")
    return tuple(f"{value:.2f}" for value in (found.p50_s, found.p95_s, found.max_s))
