"""Left is left: the signs of an animal and of its mirror image."""

import functools
from dataclasses import replace

import numpy as np
import pytest

from limn.domain.geometry import SpacingMm, axial_grid
from limn.domain.scan import Labels, Volume
from limn.domain.timing import Stopwatch
from limn.phantom.anatomy import TRUTH_LABELS, conceive
from limn.phantom.body import labels_of
from limn.phantom.scanner import expose, random_scanner
from limn.segment.bundle.bundle import open_bundle
from limn.segment.draw.delineate import delineate
from limn.segment.draw.sides import MOST_NATS, NO_SIGNS, Sides, weigh_sides
from limn.segment.engine.ensemble import Ensemble
from limn.segment.engine.localisation.orient import Lie
from tests.conftest import REPOSITORY, one_fold
from tests.support.organs import Organ

MM = 0.4
SCAN = REPOSITORY.parent / "shared" / "data" / "deepmlast" / "scan.npz"
STRAIGHT = Lie("SPL", 1.0)
NORMAL = Sides(0.0, 0.6, 1.6, 1.2, believed_mirrored=False)


@functools.cache
def truth(seed: int) -> Labels:
    """True labels of a phantom that lies straight, rolled and bent as phantoms are."""
    scanner = random_scanner(seed, MM, (100, 72, 78))
    _, shares = expose(conceive(seed), scanner, seed)
    return on_grid(labels_of(shares), MM)


def on_grid(labels_zyx: np.ndarray, mm: float) -> Labels:
    """Labels of a straight scan with cubic voxels."""
    grid = axial_grid(labels_zyx.shape, SpacingMm(mm, mm, mm), np.zeros(3))
    return Labels(np.ascontiguousarray(labels_zyx), grid, TRUTH_LABELS)


def mirrored(labels: Labels) -> Labels:
    """As a network draws the mirror image: the lung on the left is called the left one."""
    swapped = labels.labels_zyx[:, :, ::-1].copy()
    right, left = (
        next(k for k, organ in labels.organs.items() if organ == each)
        for each in (Organ.LUNG_R, Organ.LUNG_L)
    )
    was_right = swapped == right
    swapped[swapped == left] = right
    swapped[was_right] = left
    return replace(labels, labels_zyx=swapped)


@pytest.mark.parametrize("seed", [8201, 8202, 8203, 8204])
def test_anatomy_alone_tells_a_mouse_from_its_mirror_image(seed):
    """Although the header's prior speaks for it, a mirror image is never sure."""
    true, false = (weigh_sides(each, STRAIGHT) for each in (truth(seed), mirrored(truth(seed))))
    assert true.sure
    assert not false.sure
    assert false.nats < true.nats - 8.0
    for sign in ("heart_left_mm", "apex_left_mm"):
        assert getattr(false, sign) == pytest.approx(-getattr(true, sign), abs=1e-6)


@pytest.mark.slow
@pytest.mark.skipif(not SCAN.exists(), reason="the real mouse is not here")
@pytest.mark.parametrize("is_mirrored", [False, True])
def test_a_real_mouse_and_its_mirror_image(is_mirrored):
    """The file as it was published is a mirror image, and the header can't know."""
    with np.load(SCAN) as kept:
        mm = float(kept["spacing"][0])
        hu = kept["hu"].astype(np.float32)[:, ::-1, :: -1 if is_mirrored else 1]
    grid = axial_grid(hu.shape, SpacingMm(mm, mm, mm), np.zeros(3))
    ensemble = Ensemble.load(open_bundle(one_fold()), "cpu", "fast")
    volume = Volume(np.ascontiguousarray(hu), grid)
    drawn = delineate(volume, ensemble, "largest", Stopwatch(), lambda done, total: None)
    assert drawn.sides.sure
    assert drawn.lie.mirrored == is_mirrored
    assert drawn.sides.right_lung_share == pytest.approx(0.64, abs=0.04)


def test_every_sign_alone_is_capped():
    """No sign outweighs the header by more than its cap, however far out it is."""
    far = replace(NO_SIGNS, heart_left_mm=-50.0)
    assert far.nats == pytest.approx(NO_SIGNS.nats - MOST_NATS)
    assert not far.exchanged


@pytest.mark.parametrize(
    ("signs", "says"),
    [
        (NORMAL, "sure"),
        (replace(NORMAL, onlooker_nats=-6.0), "sure"),
        (replace(NORMAL, right_lung_share=0.4, onlooker_nats=-6.0), "in doubt"),
        (
            Sides(-4.8, 0.36, -1.6, -1.2, believed_mirrored=False),
            "exchanged",
        ),
        (replace(NORMAL, believed_mirrored=True, onlooker_nats=6.0), "sure"),
        (Sides(6.0, 0.4, -1.6, -1.2, believed_mirrored=True), "exchanged"),
        (NO_SIGNS, "sure"),
    ],
)
def test_signs_are_added_and_read(signs, says):
    """Anatomy outvotes the header and the onlooker; one voice against three is overruled."""
    found = "exchanged" if signs.exchanged else "sure" if signs.sure else "in doubt"
    assert found == says


def test_the_words_name_every_sign():
    """A person reads figures with units and sides."""
    assert NORMAL.words == (
        "onlooker +0.0 nats, right lung 60 % of both (a mouse: 59), "
        "heart 1.6 mm to the left of the spine, apex 1.2 mm to the left"
    )
    assert "right of the spine" in replace(NORMAL, heart_left_mm=-2.0).words


def test_a_bundle_without_these_organs_has_no_anatomical_signs():
    """Without heart, cord and lungs the header and the onlooker alone speak."""
    labels = replace(truth(8201), labels_zyx=np.zeros_like(truth(8201).labels_zyx))
    assert weigh_sides(labels, STRAIGHT) == NO_SIGNS
    assert weigh_sides(replace(labels, organs={1: Organ.HEART}), STRAIGHT) == NO_SIGNS
