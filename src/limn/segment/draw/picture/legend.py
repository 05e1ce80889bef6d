"""The words of a picture: a header that says whether a scan is held, and what each organ is."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from PIL import Image, ImageDraw

from limn.domain.light import Light
from limn.domain.scan import Organ
from limn.segment.draw.picture.panels import BLACK, WHITE, Colour, fitting_px, font

LIGHT_COLOURS: Mapping[Light, Colour] = {
    Light.GREEN: (40, 167, 80),
    Light.AMBER: (255, 176, 0),
    Light.RED: (214, 30, 40),
}
PAPER, INK, FAINT = (16, 16, 16), (240, 240, 240), (175, 175, 175)
HEADER_PX = 64
TITLE_PX, SMALLEST_TITLE_PX = 30, 16
TEXT_PX, ORGAN_PX, NOTE_PX = 17, 19, 15
# A line's height as a share of its letters' size.
LEADING = 1.25
ORGAN_STEP_PX, GAP_PX, LIGHT_PX = 30, 10, 100
# No more words are written; a hundred lines.
MOST_PX = 2400


@dataclass(frozen=True, slots=True)
class Banner:
    """The header of a picture.

    Attributes
    ----------
    title : scan, animal and time
    state : in capitals, what an operator must know first, such as ``HELD: MIRROR IMAGE``; empty if
        there is nothing to say
    level : the colour of the state
    """

    title: str
    state: str = ""
    level: Light = Light.GREEN


@dataclass(frozen=True, slots=True)
class Legend:
    """What stands beside the panels; what is not given is not shown.

    Attributes
    ----------
    volumes_mm3, lights : of each organ
    advice : of the whole scan, what a person should do
    level : the light of the whole scan
    lines : reasons and flags, one sentence or flag each
    note : about the scan and the model, in small letters
    """

    volumes_mm3: Mapping[Organ, float] = field(default_factory=dict)
    lights: Mapping[Organ, Light] = field(default_factory=dict)
    advice: str = ""
    level: Light | None = None
    lines: tuple[str, ...] = ()
    note: str = ""


def draw_header(banner: Banner, width: int) -> Image.Image:
    """The title at the left, the state at the right on its colour; smaller if they are long."""
    header = Image.new("RGB", (width, HEADER_PX), (44, 44, 48))
    pen = ImageDraw.Draw(header)
    title, state = _in_font(banner.title), _in_font(banner.state)
    gap = 20
    size = fitting_px(title + state, width - 4 * gap, TITLE_PX, SMALLEST_TITLE_PX)
    middle = HEADER_PX // 2
    pen.text((gap, middle), title, fill=WHITE, font=font(size), anchor="lm")
    if state:
        left = round(width - pen.textlength(state, font=font(size)) - 2 * gap)
        pen.rectangle((left, 0, width, HEADER_PX), fill=LIGHT_COLOURS[banner.level])
        ink = BLACK if banner.level is Light.AMBER else WHITE
        place = (left + gap, middle)
        pen.text(place, state, fill=ink, font=font(size), anchor="lm", stroke_width=1)
    return header


def draw_legend(
    legend: Legend, colours: Mapping[Organ, Colour], organs: Sequence[Organ], size: tuple[int, int]
) -> Image.Image:
    """A line for each organ, then what there is to say.

    Parameters
    ----------
    size : width and least height, px
    """
    width, height = size
    column = Image.new("RGB", (width, MOST_PX), PAPER)
    pen = ImageDraw.Draw(column)
    top = 0
    for organ in organs:
        pen.rectangle((0, top + 4, 26, top + 20), fill=colours[organ])
        pen.text((36, top + 12), organ, fill=INK, font=font(ORGAN_PX), anchor="lm")
        if organ in legend.volumes_mm3:
            mm3 = legend.volumes_mm3[organ]
            ink = INK if mm3 else LIGHT_COLOURS[Light.AMBER]
            place = (width - LIGHT_PX, top + 12)
            pen.text(place, f"{mm3:.0f} mm3", fill=ink, font=font(ORGAN_PX), anchor="rm")
        if organ in legend.lights:
            _draw_light(pen, width - LIGHT_PX + 16, top + 12, legend.lights[organ])
        top += ORGAN_STEP_PX
    top += GAP_PX
    if legend.level:
        pen.text((0, top + 12), "this scan", fill=INK, font=font(ORGAN_PX), anchor="lm")
        _draw_light(pen, width - LIGHT_PX + 16, top + 12, legend.level)
        top += ORGAN_STEP_PX + GAP_PX
    top = _write_paragraph(pen, top, legend.advice, width, ORGAN_PX, WHITE)
    for line in legend.lines:
        top = _write_paragraph(pen, top, line, width, TEXT_PX, INK)
    top = _write_paragraph(pen, top, legend.note, width, NOTE_PX, FAINT)
    return column.crop((0, 0, width, min(max(top, height), MOST_PX)))


def _draw_light(pen: ImageDraw.ImageDraw, left: int, middle: int, level: Light) -> None:
    """A disc, and its word for those who can't tell its colour."""
    box = (left, middle - 8, left + 16, middle + 8)
    pen.ellipse(box, fill=LIGHT_COLOURS[level])
    pen.text((left + 24, middle), level, fill=INK, font=font(ORGAN_PX), anchor="lm")


def _write_paragraph(
    pen: ImageDraw.ImageDraw, top: int, text: str, width: int, size: int, ink: Colour
) -> int:
    """Write wrapped text; returns where the next paragraph begins."""
    lines = _wrapped(pen, text, width, size)
    for number, line in enumerate(lines):
        pen.text((0, top + number * size * LEADING), line, fill=ink, font=font(size))
    return top + round(len(lines) * size * LEADING) + GAP_PX if lines else top


def _wrapped(pen: ImageDraw.ImageDraw, text: str, width: int, size: int) -> list[str]:
    """Lines that are no wider; a word that is too wide is cut."""
    lines: list[str] = []
    free = 0.0
    space = pen.textlength(" ", font=font(size))
    for word in _in_font(text).split():
        wide = pen.textlength(word, font=font(size))
        if lines and wide + space <= free:
            lines[-1] += f" {word}"
            free -= wide + space
            continue
        pieces = _pieces(pen, word, width, size) if wide > width else [word]
        lines += pieces
        free = width - pen.textlength(pieces[-1], font=font(size))
    return lines


def _pieces(pen: ImageDraw.ImageDraw, word: str, width: int, size: int) -> list[str]:
    pieces = [""]
    for letter in word:
        if pen.textlength(pieces[-1] + letter, font=font(size)) > width:
            pieces.append("")
        pieces[-1] += letter
    return pieces


def _in_font(text: str) -> str:
    """The text in letters that the font has: without accents, and ``?`` for any other."""
    apart = unicodedata.normalize("NFKD", text)
    plain = "".join(letter for letter in apart if not unicodedata.combining(letter))
    return plain.encode("ascii", "replace").decode()
