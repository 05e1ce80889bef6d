"""The truth of liver, kidneys, bones and the rest, beside that of the four organs."""

import numpy as np
import pytest

from limn.domain.geometry import SpacingMm
from limn.phantom.anatomy import (
    BONE,
    KIDNEY_L,
    KIDNEY_R,
    LIVER,
    STOMACH,
    TRUTH_LABELS,
    WHOLE_LABELS,
    conceive,
)
from limn.phantom.scanner import Scanner, scan

MM = 0.4
# From the neck to the pelvis.
SHAPE, CENTRE = (140, 66, 76), (0.0, 0.0, -13.0)


@pytest.fixture(scope="module", params=[11, 12])
def scans(request):
    """One mouse with the truth of four organs, and with that of all."""
    scanner = Scanner(SpacingMm(MM, MM, MM), SHAPE, CENTRE, breathing_mm=0.5)
    mouse = conceive(request.param)
    return scan(mouse, scanner, 1), scan(mouse, scanner, 1, WHOLE_LABELS)


def test_more_labels_change_neither_the_image_nor_the_four(scans):
    """Every bundle's phantoms stay what they were."""
    (image, four), (same, whole) = scans
    assert np.array_equal(image.hu_zyx, same.hu_zyx)
    for label in TRUTH_LABELS:
        assert np.array_equal(four.labels_zyx == label, whole.labels_zyx == label)


def test_every_organ_is_there_and_has_a_mouses_size(scans):
    """Of a whole trunk; kidneys 60 to 300 mm3, liver 600 to 2500."""
    _, (_, whole) = scans
    mm3 = {label: whole.volumes_mm3()[organ] for label, organ in WHOLE_LABELS.items()}
    assert all(mm3.values()), mm3
    assert 600 < mm3[LIVER] < 2500
    assert all(60 < mm3[kidney] < 300 for kidney in (KIDNEY_L, KIDNEY_R))


def test_left_is_left_and_bone_is_dense(scans):
    """Left kidney and stomach lie on the animal's left; bone is no soft tissue."""
    _, (image, whole) = scans
    middles = {
        label: np.argwhere(whole.labels_zyx == label).mean(axis=0)
        for label in (KIDNEY_L, KIDNEY_R, STOMACH, LIVER)
    }
    assert middles[KIDNEY_L][2] > middles[KIDNEY_R][2] + 5 / MM
    assert middles[STOMACH][2] > middles[KIDNEY_R][2]
    hu = image.hu_zyx
    assert hu[whole.labels_zyx == BONE].mean() > hu[whole.labels_zyx == LIVER].mean() + 300
