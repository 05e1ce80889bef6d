"""Charts as positions in an SVG: values in, ticks, lines, dots and bars out.

The template `chart.html` writes them; colours are classes of `history.css`. Lengths are the SVG's
own units, y grows downwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

LEFT, RIGHT, TOP, BOTTOM = 60.0, 14.0, 12.0, 30.0
DAY_S = 86400.0
# From this ratio of the largest to the smallest value on an axis has decades.
LOG_RATIO = 5.0


@dataclass(frozen=True, slots=True)
class Tick:
    """A place on an axis, and what stands there."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Line:
    """A line, by the SVG's points."""

    css: str
    points: str


@dataclass(frozen=True, slots=True)
class Dots:
    """Very many round dots, as one path."""

    css: str
    path: str


@dataclass(frozen=True, slots=True)
class Mark:
    """One round dot that leads to a scan."""

    css: str
    x: float
    y: float
    href: str
    words: str


@dataclass(frozen=True, slots=True)
class Bar:
    """A rectangle."""

    css: str
    x: float
    y: float
    width: float
    height: float
    words: str


@dataclass(frozen=True, slots=True)
class Key:
    """What a colour of the chart means."""

    css: str
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """One chart.

    Attributes
    ----------
    name : without spaces, different from those of the page's other charts
    words : what it shows, for those who don't see it
    y_name : with its unit
    columns, rows : the same values as a table
    """

    name: str
    title: str
    words: str
    y_name: str
    width: float
    height: float
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    keys: tuple[Key, ...] = ()
    lines: tuple[Line, ...] = ()
    dots: tuple[Dots, ...] = ()
    marks: tuple[Mark, ...] = ()
    bars: tuple[Bar, ...] = ()
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()

    @property
    def floor(self) -> float:
        """Where the axis of time lies."""
        return self.height - BOTTOM

    @property
    def left(self) -> float:
        """Where the axis of values lies."""
        return LEFT

    @property
    def right(self) -> float:
        """Where the axis of time ends."""
        return self.width - RIGHT


@dataclass(frozen=True, slots=True)
class Frame:
    """Turns times (UTC seconds) and values into positions.

    Attributes
    ----------
    log : whether the values stand on a logarithmic axis
    """

    width: float
    height: float
    begins_at: float
    ends_at: float
    low: float
    high: float
    log: bool

    def x(self, at: float) -> float:
        """Position of a time."""
        share = (at - self.begins_at) / (self.ends_at - self.begins_at)
        return LEFT + share * (self.width - LEFT - RIGHT)

    def y(self, value: float) -> float:
        """Position of a value; one below a logarithmic axis lies on it."""
        if self.log:
            value = max(value, self.low)
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.height - BOTTOM - share * (self.height - TOP - BOTTOM)

    def line(self, css: str, points: Iterable[tuple[float, float]]) -> Line:
        """A line through times and values."""
        return Line(css, " ".join(f"{self.x(at):.1f},{self.y(value):.1f}" for at, value in points))

    def dots(self, css: str, points: Iterable[tuple[float, float]]) -> Dots:
        """A dot for each time and value; those that would lie on each other are one."""
        places = {(round(2 * self.x(at)), round(2 * self.y(value))) for at, value in points}
        return Dots(css, "".join(f"M{x / 2:g} {y / 2:g}h0" for x, y in sorted(places)))

    def y_ticks(self) -> tuple[Tick, ...]:
        """Round values along the axis."""
        values = _decades(self.low, self.high) if self.log else _round(self.low, self.high)
        return tuple(Tick(self.y(value), f"{value:,.6g}") for value in values)

    def x_ticks(self) -> tuple[Tick, ...]:
        """Some days, or hours of one day, along the axis."""
        span_s = self.ends_at - self.begins_at
        most = max(2, int(self.width / 110))
        if span_s <= 2 * DAY_S:
            step_s, form = _least_step((3600, 10800, 21600, 43200), span_s, most), "%d %b %H:%M"
        else:
            days = (1, 2, 7, 14, 28, 56, 91, 182, 365, 730)
            step_s = _least_step([day * DAY_S for day in days], span_s, most)
            form = "%b %Y" if span_s > 400 * DAY_S else "%d %b"
        first = math.ceil(self.begins_at / step_s) * step_s
        count = int((self.ends_at - first) // step_s) + 1
        times = [first + k * step_s for k in range(max(0, count))]
        return tuple(
            Tick(self.x(at), datetime.fromtimestamp(at, UTC).strftime(form)) for at in times
        )


def frame_of(
    times: Sequence[float],
    values: Sequence[float],
    *,
    size: tuple[float, float],
    from_zero: bool = False,
    may_log: bool = True,
) -> Frame:
    """A frame in which all times and values have their place.

    Parameters
    ----------
    from_zero : the axis of values begins at 0
    may_log : the axis has decades if the values differ by so much
    """
    begins_at, ends_at = min(times, default=0.0), max(times, default=0.0)
    # A single moment has its place in the middle.
    margin_s = max(0.02 * (ends_at - begins_at), 1800.0)
    low, high = min(values, default=0.0), max(values, default=1.0)
    above = [value for value in values if value > 0.0]
    log = may_log and bool(above) and high > LOG_RATIO * min(above)
    if log:
        # Less than a hundredth of a second is nothing to look at.
        low, high = max(min(above) / 1.2, high / 1e5), high * 1.2
    else:
        margin = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
        low, high = (0.0 if from_zero else low - margin), high + margin
    return Frame(*size, begins_at - margin_s, ends_at + margin_s, low, high, log)


def framed(frame: Frame, **values: object) -> Chart:
    """A chart in a frame."""
    return Chart(
        width=frame.width,
        height=frame.height,
        x_ticks=frame.x_ticks(),
        y_ticks=frame.y_ticks(),
        **values,  # type: ignore[arg-type]
    )


def stacked(
    frame: Frame,
    begins_at: float,
    ends_at: float,
    parts: Mapping[str, float],
    words: Callable[[str, float], str],
) -> Iterable[Bar]:
    """Bars on each other, from the floor on.

    Parameters
    ----------
    parts : value of each class of `history.css`
    words : on a class and its value
    """
    x, until = frame.x(begins_at), frame.x(ends_at)
    below = 0.0
    for css, value in parts.items():
        top, bottom = frame.y(below + value), frame.y(below)
        below += value
        width = max(1.0, (until - x) * 0.86)
        yield Bar(
            css,
            round(x, 1),
            round(top, 2),
            round(width, 1),
            round(bottom - top, 2),
            words(css, value),
        )


def _least_step(steps: Sequence[float], span_s: float, most: int) -> float:
    return next((step for step in steps if span_s / step <= most), steps[-1])


def _decades(low: float, high: float) -> list[float]:
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    # Over more than three decades there is room for the powers of ten alone.
    factors = (1, 2, 5) if high / low < 5000.0 else (1,)
    values = [factor * 10.0**exponent for exponent in exponents for factor in factors]
    return [value for value in values if low <= value <= high]


def _round(low: float, high: float) -> list[float]:
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first = math.ceil(low / step)
    return [k * step for k in range(first, math.floor(high / step) + 1)]
