"""The site whose mice no bundle saw contours another way than the phantoms."""

import numpy as np

from limn.domain.scan import Organ
from limn.lab.phantoms.other_site import FIRST_SEED, SEVEN, OtherSite
from limn.phantom.scanner import scan

SITE = OtherSite(spacing_mm=0.5, size_mm=(44.0, 27.0, 29.0))


def test_the_heart_has_no_atria_and_the_cord_reaches_the_loin():
    """The same mouse by the phantoms' protocol has a larger heart and a shorter cord."""
    _, ours = SITE.scan(FIRST_SEED)
    _, usual = scan(SITE.mouse(FIRST_SEED), SITE.scanner(FIRST_SEED), FIRST_SEED)
    heart = ours.mask(Organ("Heart"))
    assert not np.any(heart & ~usual.mask(Organ("Heart")))
    assert 0.7 < heart.sum() / usual.mask(Organ("Heart")).sum() < 0.93
    cord, shorter = ours.mask(Organ("SpinalCord")), usual.mask(Organ("SpinalCord"))
    assert not np.any(shorter & ~cord)
    lengths = [np.ptp(np.flatnonzero(own.any(axis=(1, 2)))) * 0.5 for own in (cord, shorter)]
    assert 1.5 < lengths[0] - lengths[1] < 5.0
    for lung in ("Lung_R", "Lung_L"):
        assert np.array_equal(ours.mask(Organ(lung)), usual.mask(Organ(lung)))


def test_a_longer_list_has_liver_and_kidneys():
    """Numbered in the order of the list."""
    _, labels = OtherSite(SEVEN, spacing_mm=0.9, size_mm=(60.0, 29.0, 30.0)).scan(FIRST_SEED)
    assert list(labels.organs.values()) == list(SEVEN)
    found = np.bincount(labels.labels_zyx.ravel(), minlength=8)
    assert all(found[1:])
