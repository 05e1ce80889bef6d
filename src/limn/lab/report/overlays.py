"""Draws contours over a scan, a row for each system, as the paper's Figures 1 to 4."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from limn.domain.files import replacement
from limn.domain.geometry import Reorientation
from limn.domain.scan import TG263_ROLES, Labels, Organ, Role, Volume
from limn.lab.measure.evaluate import colours_of
from limn.lab.measure.scores import FIRST_OBSERVER
from limn.lab.report.summary import OrganScore, mean_dsc
from limn.lab.words import ORGAN_WORDS, in_order
from limn.segment.draw.picture.cuts import box_around, middle
from limn.segment.draw.picture.panels import PLANES, Layer, draw_panels

SCORED = "DSC / 95p HD, mm"
GAP_PX = 8
LINE_PX = 20
FONT_PX = 14
PAPER, INK, FAINT = (16, 16, 16), (235, 235, 235), (170, 170, 170)
# As in Figure 4.
SHORT = {Role.HEART: "H", Role.CORD: "SC", Role.LUNG_R: "RL", Role.LUNG_L: "LL"}
# Drawn under a system's contours: visible only where the two differ.
WHITE = (255, 255, 255)


def draw_case(
    volume: Volume,
    observer1: Labels,
    predictions: Mapping[str, Labels],
    scores: Mapping[str, Mapping[Organ, OrganScore]],
    title: str,
    path: Path,
) -> None:
    """PNG of three planes through the heart: observer 1 in the first row, then each system.

    Colours are the paper's. The contours of observer 1 lie beneath a system's, thin and white. The
    animal's head is up, in the axial plane its belly; its right side is at the viewer's left.

    Parameters
    ----------
    predictions : system to its labels on the volume's grid
    scores : system to the scores of its organs, which are printed beside it as in Figure 4

    Raises
    ------
    ValueError
        If labels are not on the volume's grid; the message names the system.
    OSError
        If the picture can't be written.
    """
    for name, labels in {FIRST_OBSERVER: observer1, **predictions}.items():
        if labels.grid.shape_zyx != volume.grid.shape_zyx:
            msg = f"{name}: labels {labels.grid.shape_zyx} on a scan of {volume.grid.shape_zyx}"
            raise ValueError(msg)
    turn = Reorientation.between(volume.grid.axis_letters, "SPL")
    spacing = turn.spacing(volume.grid.spacing_mm).zyx
    manual = turn.apply(observer1.labels_zyx)
    around = box_around(manual, spacing)
    hu, manual = turn.apply(volume.hu_zyx)[around], manual[around]
    centre = _centre(manual, observer1.organs)

    colours = colours_of(observer1.organs.values())
    first = [Layer(manual, observer1.organs, colours)]
    rows: list[tuple[tuple[str, ...], list[Layer]]] = [(("Observer 1", "manual contours"), first)]
    under = Layer(manual, observer1.organs, dict.fromkeys(colours, WHITE), width_px=1)
    for system in in_order(set(predictions)):
        labels = predictions[system.key]
        layer = Layer(turn.apply(labels.labels_zyx)[around], labels.organs, colours)
        words = (system.algorithm, system.model_here, *_score_words(scores.get(system.key, {})))
        rows.append((tuple(word for word in words if word), [under, layer]))
    pictures = [(words, draw_panels(hu, spacing, centre, layers)) for words, layers in rows]
    with replacement(path) as part:
        _sheet(pictures, title, colours).save(part, format="PNG", optimize=True)


def _centre(labels_zyx: npt.NDArray[np.uint8], organs: Mapping[int, Organ]) -> tuple[int, int, int]:
    """The middle of the heart, or of all organs without a heart, or of the scan without organs."""
    named = TG263_ROLES[Role.HEART]
    heart = np.isin(labels_zyx, [label for label, organ in organs.items() if organ == named])
    return middle(heart.astype(np.uint8) if heart.any() else labels_zyx)


def _short(organ: Organ) -> str:
    """The letters of Figure 4; an organ that it lacks keeps its name."""
    return next((SHORT[role] for role, own in TG263_ROLES.items() if own == organ), organ)


def _score_words(scores: Mapping[Organ, OrganScore]) -> list[str]:
    """The mean DSC, then DSC and 95p HD of each organ."""
    if not scores:
        return ["no DSC"]
    organs = [
        f"{_short(organ)} {score.dsc:.2f}"
        + ("" if math.isnan(score.hd95_mm) else f" / {score.hd95_mm:.2f}")
        for organ, score in scores.items()
    ]
    return [f"mean DSC {mean_dsc(scores):.3f}", *organs]


def _sheet(
    rows: Sequence[tuple[tuple[str, ...], list[Image.Image]]],
    title: str,
    colours: Mapping[Organ, tuple[int, int, int]],
) -> Image.Image:
    """Names at the left, planes above, the legend below."""
    pen = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    longest = max(pen.textlength(word, font_size=FONT_PX) for words, _ in rows for word in words)
    names_px = round(longest) + 3 * GAP_PX
    widths = [panel.width for panel in rows[0][1]]
    lines = max(len(words) for words, _ in rows)
    height = max(lines * LINE_PX, *(panel.height for panel in rows[0][1]))
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
    legend = [
        (" ".join(dict.fromkeys((ORGAN_WORDS.get(organ, organ), _short(organ)))), colour)
        for organ, colour in colours.items()
    ]
    for word, colour in [*legend, ("Observer 1, where it differs", (255, 255, 255))]:
        pen.rectangle((left, top + 4, left + 10, top + 14), fill=colour)
        pen.text((left + 16, top), word, fill=INK, font_size=FONT_PX)
        left += 16 + round(pen.textlength(word, font_size=FONT_PX)) + 3 * GAP_PX
    pen.text((left, top), SCORED, fill=FAINT, font_size=FONT_PX)
    return sheet
