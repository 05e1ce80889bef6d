"""The words of a scan's picture: which scan it is, whether a person must look first, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from limn.dicom import rtstruct
from limn.dicom.series import Series
from limn.domain.light import Light
from limn.domain.scan import Organ
from limn.segment.draw.picture.legend import Banner, Legend
from limn.segment.judge.verdict import Verdict

# DICOM's DA: YYYYMMDD.
DATE_DIGITS = 8


def banner(
    name: str, series: Series, identity: rtstruct.Identity, verdict: Verdict, *, held: bool
) -> Banner:
    """The picture's header.

    Parameters
    ----------
    name : of the scan; empty if it has none
    held : whether a person must release the structure set
    """
    title = "   ".join(filter(None, (name, series.animal, identity.animal, _taken_at(series))))
    if held:
        return Banner(title, f"HELD: {verdict.headline}", Light.RED)
    if identity.preview:
        return Banner(title, "PREVIEW", Light.AMBER)
    if verdict.light is Light.RED:
        return Banner(title, verdict.headline, Light.RED)
    return Banner(title)


def _taken_at(series: Series) -> str:
    """When the scan was taken, by its own header; empty if that does not say."""
    for what in ("Acquisition", "Series", "Content", "Study"):
        date, time = (str(series.first.get(f"{what}{part}", "")) for part in ("Date", "Time"))
        if len(date) == DATE_DIGITS and date.isdigit():
            clock = f" {time[:2]}:{time[2:4]}" if time[:4].isdigit() else ""
            return f"{date[:4]}-{date[4:6]}-{date[6:]}{clock}"
    return ""


def legend(
    series: Series,
    identity: rtstruct.Identity,
    volumes_mm3: Mapping[Organ, float],
    verdict: Verdict,
    flags: Sequence[str],
) -> Legend:
    """What stands beside the picture's cuts."""
    z, y, x = series.grid.shape_zyx
    mm = series.grid.spacing_mm
    preview = f"preview: {identity.preview}. " if identity.preview else ""
    lights = {organ: verdict.light_of(organ) for organ in volumes_mm3}
    reasons = [each.reason for each in verdict.concerns if each.light is not Light.GREEN]
    return Legend(
        volumes_mm3,
        {organ: light for organ, light in lights.items() if light is not None},
        advice=reasons[0] if reasons else "",
        level=verdict.light,
        lines=(*reasons[1:], *([f"flags: {' '.join(flags)}"] if flags else [])),
        note=f"{preview}{x} x {y} x {z} voxels of {mm.x:.3f} x {mm.y:.3f} x {mm.z:.3f} mm. "
        f"{identity.label}, {identity.algorithm}.",
    )
