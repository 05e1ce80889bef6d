"""The picture of two delineations of one scan."""

import io
from dataclasses import replace

import numpy as np
from PIL import Image

from limn.segment.compare.difference import differences
from limn.segment.draw.picture.difference_sheet import (
    NEW_COLOUR,
    OLD_COLOUR,
    draw_difference,
    line_of,
)
from tests.support.node.viewed import stack


def pixels(png, colour):
    """How many pixels of the picture have a colour."""
    image = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
    return int((image == colour).all(axis=2).sum())


def test_both_contours_stand_where_they_differ_most():
    """Of two equal delineations the later covers the first; where they differ both are seen."""
    for lie in ("oblique", "sagittal stack"):
        volume, old, _ = stack(lie)
        zyx = old.labels_zyx.copy()
        zyx[np.roll(zyx == 1, 3, axis=1)] = 1
        new = replace(old, labels_zyx=zyx)
        same = draw_difference(volume, old, old, differences(old, old))
        apart = draw_difference(volume, old, new, differences(old, new))
        assert pixels(same, NEW_COLOUR) > 200
        assert pixels(apart, OLD_COLOUR) > pixels(same, OLD_COLOUR) + 50


def test_a_line_says_what_changed():
    """As on the sheet and in a terminal."""
    _, old, _ = stack("oblique")
    zyx = np.where(old.labels_zyx == 2, 0, old.labels_zyx).astype(np.uint8)
    found = differences(old, replace(old, labels_zyx=zyx), {}, {})
    assert line_of(found[0]).startswith("Heart: DSC 1.000, 95 % 0.00 mm, ")
    assert line_of(found[1]).startswith("Lung_L: DSC 0.000, ")
    assert "(-100.0 %)" in line_of(found[1])
