"""Contours over a scan, a row for each system, as the paper's Figures 1 to 3; and which scans."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from limn.domain.geometry import Reorientation
from limn.domain.scan import Labels, Organ, Volume
from limn.lab.evaluate import COLOURS
from limn.lab.scores import FIRST_OBSERVER, Score
from limn.lab.study_words import ORGAN_WORDS, REFERENCE_SYSTEM, in_order
from limn.segment.picture import PLANES, Layer, box_around, draw_panels, middle

GAP_PX = 8
LINE_PX = 20
FONT_PX = 14
PAPER, INK, FAINT = (16, 16, 16), (235, 235, 235), (170, 170, 170)
# Under a system's own contours, so that only where the two part the observer's is seen.
MANUAL = dict.fromkeys(COLOURS, (255, 255, 255))


def pick_cases(scores: Sequence[Score], test_set: str) -> tuple[tuple[str, str], ...]:
    """The best, the intermediate and the worst scan of a test set, as ("best", scan), ...

    By the mean DSC of the organs that 3d_fullres drew, against observer 1 and before the
    clean-up; scans of one mean stand in the order of their names. Of an even number the better
    of the two in the middle is the intermediate. Two scans are best and worst, one is best,
    none gives ().
    """
    by_scan: dict[str, list[float]] = {}
    for own in scores:
        what = (own.set, own.system, own.reference, own.cleaned, own.measure)
        if what == (test_set, REFERENCE_SYSTEM, FIRST_OBSERVER, "no", "dsc"):
            by_scan.setdefault(own.scan, []).append(own.value)
    means = {}
    for scan, values in by_scan.items():
        told = [value for value in values if not math.isnan(value)]
        if told:
            # Exact sums: the order of the file's lines does not decide between equals.
            means[scan] = math.fsum(told) / len(told)
    ranked = sorted(means, key=lambda scan: (-means[scan], scan))
    places = {0: "best"}
    if len(ranked) > 1:
        places[len(ranked) - 1] = "worst"
        places.setdefault((len(ranked) - 1) // 2, "intermediate")
    return tuple((word, ranked[k]) for k, word in sorted(places.items()) if k < len(ranked))


def draw_case(
    volume: Volume,
    observer1: Labels,
    drawn: Mapping[str, Labels],
    mean_dsc: Mapping[str, float],
    title: str,
    path: Path,
) -> None:
    """PNG of three planes through the heart: observer 1 in the first row, then each system.

    Colours are the paper's; beneath a system's contours lie those of observer 1, thin and white.
    The animal's head is up, in the axial plane its belly, its right side at the viewer's left.

    Parameters
    ----------
    drawn : system to its labels on the volume's grid
    mean_dsc : system to the scan's mean DSC over the organs; absent or NaN where there is none

    Raises
    ------
    ValueError
        If labels are not on the volume's grid; the text names whose.
    OSError
        If the picture can't be written.
    """
    for name, labels in {FIRST_OBSERVER: observer1, **drawn}.items():
        if labels.grid.shape_zyx != volume.grid.shape_zyx:
            msg = f"{name}: labels {labels.grid.shape_zyx} on a scan of {volume.grid.shape_zyx}"
            raise ValueError(msg)
    turn = Reorientation.between(volume.grid.axis_letters, "SPL")
    spacing = turn.spacing(volume.grid.spacing_mm).zyx
    manual = turn.apply(observer1.labels_zyx)
    around = box_around(manual, spacing)
    hu, manual = turn.apply(volume.hu_zyx)[around], manual[around]
    centre = _centre(manual, observer1.organs)

    first = [Layer(manual, observer1.organs, COLOURS)]
    rows: list[tuple[tuple[str, ...], list[Layer]]] = [(("Observer 1", "manual contours"), first)]
    under = Layer(manual, observer1.organs, MANUAL, width_px=1)
    for system in in_order(set(drawn)):
        labels = drawn[system.key]
        own = Layer(turn.apply(labels.labels_zyx)[around], labels.organs, COLOURS)
        words = (system.algorithm, system.model, _dsc_words(mean_dsc.get(system.key, math.nan)))
        rows.append((tuple(word for word in words if word), [under, own]))
    pictures = [(words, draw_panels(hu, spacing, centre, layers)) for words, layers in rows]
    _sheet(pictures, title).save(path, format="PNG", optimize=True)


def _centre(labels_zyx: npt.NDArray[np.uint8], organs: Mapping[int, Organ]) -> tuple[int, int, int]:
    """The voxel amid the heart; without one amid all organs, without any amid the scan."""
    heart = np.isin(labels_zyx, [label for label, organ in organs.items() if organ is Organ.HEART])
    return middle(heart.astype(np.uint8) if heart.any() else labels_zyx)


def _dsc_words(value: float) -> str:
    return "no DSC" if math.isnan(value) else f"mean DSC {value:.3f}"


def _sheet(rows: Sequence[tuple[tuple[str, ...], list[Image.Image]]], title: str) -> Image.Image:
    """Names at the left, planes above, what the colours mean below."""
    pen = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    longest = max(pen.textlength(word, font_size=FONT_PX) for words, _ in rows for word in words)
    names_px = round(longest) + 3 * GAP_PX
    widths = [panel.width for panel in rows[0][1]]
    height = max(panel.height for panel in rows[0][1])
    lefts = [names_px + sum(widths[:k]) + GAP_PX * k for k in range(len(widths))]
    top = 2 * LINE_PX + 2 * GAP_PX
    size = (lefts[-1] + widths[-1] + GAP_PX, top + (height + GAP_PX) * len(rows) + LINE_PX + GAP_PX)
    sheet = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((GAP_PX, GAP_PX), title, fill=INK, font_size=FONT_PX + 2)
    for left, plane in zip(lefts, PLANES, strict=True):
        pen.text((left, GAP_PX + LINE_PX), plane, fill=FAINT, font_size=FONT_PX)
    for words, panels in rows:
        for k, word in enumerate(words):
            colour = FAINT if k else INK
            pen.text((GAP_PX, top + k * LINE_PX), word, fill=colour, font_size=FONT_PX)
        for left, panel in zip(lefts, panels, strict=True):
            sheet.paste(panel, (left, top))
        top += height + GAP_PX
    left = names_px
    legend = [(ORGAN_WORDS[organ], colour) for organ, colour in COLOURS.items()]
    for word, colour in [*legend, ("Observer 1, where it differs", (255, 255, 255))]:
        pen.rectangle((left, top + 4, left + 10, top + 14), fill=colour)
        pen.text((left + 16, top), word, fill=INK, font_size=FONT_PX)
        left += 16 + round(pen.textlength(word, font_size=FONT_PX)) + 3 * GAP_PX
    return sheet
