from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from limn.domain.geometry import SpacingMm, axial_grid
from limn.domain.scan import Volume, dice
from limn.domain.timing import Stopwatch
from limn.lab.report.ct_from_labels import FLESH_MM, ct_from_labels
from limn.lab.report.figures import REAL_HU
from limn.lab.train.nnunet_folder import ONLOOKER
from limn.segment.bundle.bundle import open_bundle
from limn.segment.draw.delineate import delineate
from limn.segment.engine.ensemble import Ensemble
from limn.segment.engine.localisation.coarse import coarse
from limn.segment.engine.localisation.orient import CERTAIN, Finder
from tests.conftest import BUNDLE
from tests.support.organs import Organ

pytestmark = pytest.mark.slow

REAL = Path(__file__).parents[4] / "shared/data/rosenhain-labels/CT140_organs_labels.nii.gz"


def test_labels_become_tissue_inside_a_body():
    """Organs have their HU, the body closes the ring of ribs, and air surrounds it."""
    n, mm = 80, 0.4
    axis = (np.arange(n) - (n - 1) / 2) * mm
    radius = np.hypot(axis[:, None], axis[None, :])
    ring = (np.abs(radius - 8.0) < 0.5)[None].repeat(40, axis=0)
    heart = ((radius < 3.0)[None]).repeat(40, axis=0)
    labels = np.where(heart, 1, np.where(ring, 3, 0))
    hu, body = ct_from_labels(
        labels, SpacingMm(mm, mm, mm), {1: 60.0, 3: 700.0}, blur_mm=0.01, noise_hu=0.1
    )
    assert abs(np.median(hu[heart]) - 60.0) < 1
    assert abs(np.median(hu[ring]) - 700.0) < 1
    between = (radius > 4.0) & (radius < 7.0)
    assert body[20][between].all()
    assert abs(np.median(hu[20][between]) - 40.0) < 1
    assert not body[20][radius > 8.5 + FLESH_MM + 0.7].any()
    assert body[20][radius < 8.5 + FLESH_MM - 0.7].all()
    assert np.median(hu[~body]) < -990


@pytest.mark.skipif(not REAL.exists(), reason="the real labels are not here")
@pytest.mark.slow
def test_the_organs_of_a_real_mouse_are_found():
    """In an image made from the labels of a real thorax the organs are found on their sides.

    Takes more than 10 s: two folds see the thorax at a scanner's resolution.
    """
    # By the file's header, rows grow towards the belly and columns towards the animal's right.
    labels = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(REAL)))[290:, ::-1, ::-1]
    spacing = SpacingMm(0.14, 0.14, 0.14)
    hu, body = ct_from_labels(labels, spacing, REAL_HU)
    volume = Volume(hu, axial_grid(labels.shape, spacing, np.zeros(3)))
    ensemble = Ensemble.load(replace(open_bundle(BUNDLE), folds=(0, 1)), "cpu", "fast")
    drawn = delineate(volume, ensemble, "central", Stopwatch(), lambda done, total: None)
    assert drawn.lie.as_in_header
    # The file has NIfTI's default header. In it the experts' heart leans to the right.
    assert drawn.sides.apex_left_mm is not None
    assert drawn.sides.apex_left_mm < -1.0
    assert not drawn.sides.sure
    assert dice(drawn.labels.mask(Organ.HEART), labels == 1) >= 0.85
    lungs = drawn.labels.mask(Organ.LUNG_R) | drawn.labels.mask(Organ.LUNG_L)
    assert dice(lungs, labels == 4) >= 0.9
    right, left = (
        np.argwhere(drawn.labels.mask(o)).mean(axis=0) for o in (Organ.LUNG_R, Organ.LUNG_L)
    )
    assert (left - right)[2] * 0.14 > 4.0
    assert body[drawn.labels.labels_zyx > 0].all()


@pytest.fixture(scope="module")
def whole_mouse():
    """The image of a whole real mouse, 68 mm long, lying straight."""
    labels = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(REAL)))[:, ::-1, ::-1]
    return ct_from_labels(labels, SpacingMm(0.14, 0.14, 0.14), REAL_HU)[0]


@pytest.mark.skipif(not REAL.exists(), reason="the real labels are not here")
@pytest.mark.parametrize(
    ("way", "flipped"), [("SPL", ()), ("SAR", (1, 2)), ("IPR", (0, 2)), ("IAL", (0, 1))]
)
def test_the_orientation_of_a_whole_real_mouse_is_found(whole_mouse, way, flipped):
    """As the header states and in every half turn, with certainty."""
    finder = Finder.load(BUNDLE / ONLOOKER)
    hu = np.ascontiguousarray(np.flip(whole_mouse, flipped))
    lie = finder.find(coarse(hu, SpacingMm(0.14, 0.14, 0.14)))
    assert lie.letters == way
    assert lie.probability > CERTAIN
