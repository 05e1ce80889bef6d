import numpy as np

from limn.domain.geometry import SpacingMm
from limn.lab.likeness import FLESH_MM, ct_like


def test_labels_become_tissue_inside_a_body():
    """Organs have their HU, a ring of ribs is filled to one body with flesh around, air outside."""
    n, mm = 80, 0.4
    axis = (np.arange(n) - (n - 1) / 2) * mm
    radius = np.hypot(axis[:, None], axis[None, :])
    ring = (np.abs(radius - 8.0) < 0.5)[None].repeat(40, axis=0)
    heart = ((radius < 3.0)[None]).repeat(40, axis=0)
    labels = np.where(heart, 1, np.where(ring, 3, 0))
    hu, body = ct_like(
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
