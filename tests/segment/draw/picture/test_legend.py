import numpy as np
import pytest
from PIL import ImageDraw

from limn.domain.light import Light
from limn.segment.draw.picture.legend import (
    HEADER_PX,
    LIGHT_COLOURS,
    MOST_PX,
    Banner,
    Legend,
    draw_header,
    draw_legend,
)
from tests.conftest import COLOURS
from tests.support.organs import Organ

WIDTH = 340
TITLE = "scan-00012   mouse 7   2026-11-28 19:04"


def share(image, colour) -> float:
    """The share of pixels that have a colour."""
    return float((np.array(image) == colour).all(axis=2).mean())


@pytest.fixture
def words(monkeypatch) -> list[tuple[str, float, float]]:
    """Every text that is written, with its left edge and its width."""
    written = []
    text = ImageDraw.ImageDraw.text

    def record(self, place, what, **how):
        written.append((what, place[0], self.textlength(what, font=how["font"])))
        text(self, place, what, **how)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", record)
    return written


@pytest.mark.parametrize("level", list(Light))
def test_the_state_stands_on_its_colour(level, words):
    """A box as high as the header, at the right; the title is left of it."""
    header = draw_header(Banner(TITLE, "HELD: MIRROR IMAGE", level), 1500)
    assert header.size == (1500, HEADER_PX)
    pixels = np.array(header)
    assert (pixels[:, -5:] == LIGHT_COLOURS[level]).all()
    columns = np.flatnonzero((pixels[1] == LIGHT_COLOURS[level]).all(axis=1))
    (title, left, length), (state, place, _) = words
    assert (title, state) == (TITLE, "HELD: MIRROR IMAGE")
    assert left + length < columns[0] < place
    others = [colour for name, colour in LIGHT_COLOURS.items() if name != level]
    assert [share(header, colour) for colour in others] == [0, 0]


def test_a_scan_without_a_state_has_no_coloured_header(words):
    """Nothing to say is said by nothing."""
    header = draw_header(Banner(TITLE, level=Light.RED), 1500)
    assert [share(header, colour) for colour in LIGHT_COLOURS.values()] == [0, 0, 0]
    assert [what for what, *_ in words] == [TITLE]


def test_a_long_title_is_written_smaller(words):
    """The state is whole in every case."""
    draw_header(
        Banner(f"scan-00012   {'long-animal-' * 5}", "HELD: LEFT-RIGHT IN DOUBT", Light.RED), 1300
    )
    (_, left, length), (_, place, state_px) = words
    assert left + length < place
    assert place + state_px < 1300


def test_letters_that_the_font_lacks_are_spelled(words):
    """Accents go; what is left is a question mark and no empty box."""
    draw_header(Banner("Mäuse-é-ß-ネ"), 1500)
    assert words[0][0] == "Mause-e-?-?"


def test_each_organ_has_its_line(words):
    """Colour, name, volume, and the light as a disc and as a word."""
    volumes = {Organ.HEART: 201.6, Organ.LUNG_L: 0.0}
    lights = {Organ.HEART: Light.GREEN, Organ.LUNG_L: Light.RED}
    column = draw_legend(Legend(volumes, lights), COLOURS, list(Organ), (WIDTH, 100))
    written = [what for what, *_ in words]
    assert written == [
        *("Heart", "202 mm3", "green"),
        *("SpinalCord", "Lung_R"),
        *("Lung_L", "0 mm3", "red"),
    ]
    for organ in Organ:
        assert share(column, COLOURS[organ]) > 0.002
    green, red = (
        np.argwhere((np.array(column) == LIGHT_COLOURS[x]).all(axis=2)) for x in lights.values()
    )
    assert len(green) == pytest.approx(200, abs=40)
    # The discs are in their organs' lines: three lines apart.
    assert (red - green[: len(red)]).mean(axis=0) == pytest.approx([90, 0], abs=3)
    assert share(column, LIGHT_COLOURS[Light.AMBER]) > 0


def test_without_lights_there_are_none(words):
    """What is not given is not shown."""
    column = draw_legend(Legend(), COLOURS, list(Organ), (WIDTH, 100))
    assert [what for what, *_ in words] == [organ.value for organ in Organ]
    assert [share(column, colour) for colour in LIGHT_COLOURS.values()] == [0, 0, 0]


def test_reasons_are_wrapped(words):
    """Every word is there, in its order, and no line is wider than the column."""
    lines = ("left and right are in doubt " * 8, "flags: " + "folds-disagree:Lung_L:0.74," * 12)
    legend = Legend(advice="Look first.", lines=lines, note="phantom-7", level=Light.RED)
    column = draw_legend(legend, COLOURS, [], (WIDTH, 50))
    written = [what for what, *_ in words]
    assert written[:3] == ["this scan", "red", "Look first."]
    assert "".join(written[3:]).replace(" ", "") == "".join((*lines, "phantom-7")).replace(" ", "")
    assert max(length for _, _, length in words) <= WIDTH
    assert len(words) > 15
    assert column.height > 300


def test_endless_words_end():
    """A picture stays a picture."""
    column = draw_legend(Legend(lines=("word " * 9000,)), COLOURS, [], (WIDTH, 50))
    assert column.size == (WIDTH, MOST_PX)
