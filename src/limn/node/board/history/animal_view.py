"""What an animal's page shows, as values: volumes and lung density over time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from limn.node.board.history.charts import Chart, Key, Mark, frame_of, framed
from limn.node.operate.history.animals import LUNGS, Course, RoiMeasure
from limn.node.operate.history.scans import LoggedScan

SMALL, LARGE = (360.0, 200.0), (720.0, 260.0)
Value = Callable[[RoiMeasure], float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class AnimalPage:
    """One animal.

    Attributes
    ----------
    scans : newest first
    density : mean HU of the lungs; None if no scan has a lung
    volumes : a chart for each ROI
    columns, rows : the same values as a table, a row for each scan, newest first; the first cell is
        the scan's name
    """

    animal: str
    scans: tuple[LoggedScan, ...]
    density: Chart | None
    volumes: tuple[Chart, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def animal_page(animal: str, scans: Sequence[LoggedScan], courses: Sequence[Course]) -> AnimalPage:
    """An animal's scans and the courses of its ROIs.

    Parameters
    ----------
    scans : of the animal, oldest first
    """
    lungs = [course for course in courses if course.role in LUNGS]
    return AnimalPage(
        animal=animal,
        scans=tuple({scan.name: scan for scan in scans}.values())[::-1],
        density=_chart("density", "Lung density over time: mean HU", "HU", lungs, _mean_hu, LARGE),
        volumes=tuple(
            chart
            for number, course in enumerate(courses)
            if (
                chart := _chart(
                    f"volume{number}", f"{course.roi}: volume", "mm³", [course], _volume_mm3, SMALL
                )
            )
        ),
        columns=(
            *("scan", "last slice UTC"),
            *(f"{course.roi} mm³" for course in courses),
            *(f"{course.roi} mean HU" for course in lungs),
        ),
        rows=tuple(_rows(courses, lungs)),
    )


def _volume_mm3(measure: RoiMeasure) -> float | None:
    return measure.volume_mm3


def _mean_hu(measure: RoiMeasure) -> float | None:
    return measure.mean_hu


def _rows(courses: Sequence[Course], lungs: Sequence[Course]) -> Iterator[tuple[str, ...]]:
    known = {(each.scan, course.roi): each for course in courses for each in course.measures}
    scans = {each.scan: each.last_slice_utc for each in known.values()}
    for scan, utc in sorted(scans.items(), key=lambda pair: (pair[1], pair[0]), reverse=True):
        volumes = [known.get((scan, course.roi)) for course in courses]
        densities = [known.get((scan, course.roi)) for course in lungs]
        yield (
            scan,
            utc[:16].replace("T", " "),
            *(_cell(each, _volume_mm3, 1) for each in volumes),
            *(_cell(each, _mean_hu, 0) for each in densities),
        )


def _cell(measure: RoiMeasure | None, value: Value, decimals: int) -> str:
    found = None if measure is None else value(measure)
    return "" if found is None else f"{found:.{decimals}f}"


def _chart(
    name: str,
    title: str,
    unit: str,
    courses: Sequence[Course],
    value: Value,
    size: tuple[float, float],
) -> Chart | None:
    """A line and dots for each course; None if no scan has a value."""
    points = [
        [
            (datetime.fromisoformat(each.last_slice_utc).timestamp(), found, each)
            for each in course.measures
            if each.last_slice_utc and (found := value(each)) is not None
        ]
        for course in courses
    ]
    flat = [point for own in points for point in own]
    if not flat:
        return None
    values = [found for _, found, _ in flat]
    frame = frame_of([at for at, _, _ in flat], values, size=size, may_log=False)
    return framed(
        frame,
        name=name,
        title=title,
        words=f"{len({each.scan for _, _, each in flat})} scans, from {min(values):.1f} to "
        f"{max(values):.1f} {unit}. The table below has the same values.",
        y_name=unit,
        keys=tuple(Key(f"group{number}", each.roi) for number, each in enumerate(courses))
        if len(courses) > 1
        else (),
        lines=tuple(
            frame.line(f"p50 group{number}", [(at, found) for at, found, _ in own])
            for number, own in enumerate(points)
        ),
        marks=tuple(
            Mark(
                f"group{number}",
                round(frame.x(at), 1),
                round(frame.y(found), 1),
                f"/{each.scan}",
                f"{each.roi}, {each.scan}: {found:.1f} {unit}",
            )
            for number, own in enumerate(points)
            for at, found, each in own
        ),
    )
