"""From a volume to labels: where the chest is looked for, and what happens if it isn't found."""

import numpy as np
import pytest

from limn.domain.geometry import SpacingMm
from limn.domain.scan import Volume, dice
from limn.domain.timing import Stopwatch
from limn.phantom.anatomy import conceive
from limn.phantom.scanner import Scanner, scan
from limn.segment.bundle.bundle import open_bundle
from limn.segment.draw import delineate as module
from limn.segment.draw.delineate import delineate
from limn.segment.engine.ensemble import Ensemble
from limn.segment.engine.localisation.orient import Lie
from tests.conftest import one_fold
from tests.support.organs import Organ

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ensemble():
    """One fold of the embedded bundle."""
    return Ensemble.load(open_bundle(one_fold()), "cpu", "fast")


@pytest.fixture(scope="module")
def body():
    """A phantom from snout to hip, 84 mm long, and its truth."""
    scanner = Scanner(SpacingMm(0.4, 0.4, 0.4), (210, 70, 80), (0.0, 0.0, -6.0))
    return scan(conceive(9), scanner, 9)


def drawn(volume, ensemble):
    """Labels, flags and the passes of all folds."""
    passes = []
    found = delineate(
        volume, ensemble, "largest", Stopwatch(), lambda done, total: passes.append(total)
    )
    return found, passes


def test_a_whole_body_is_seen_in_one_tile(ensemble, body):
    """The folds see the chest alone, and every organ is there."""
    volume, truth = body
    found, passes = drawn(volume, ensemble)
    assert set(passes) <= {1, 2}
    assert "chest-unsure" not in found.flags
    for organ in (Organ.HEART, Organ.LUNG_R, Organ.LUNG_L):
        assert dice(found.labels.mask(organ), truth.mask(organ)) > 0.85
    assert found.labels.labels_zyx.shape == volume.hu_zyx.shape
    assert found.disagreement_zyx.shape == volume.hu_zyx.shape


def test_what_was_seen_in_a_stretch_decides_nothing_where_no_chest_was(ensemble, body, monkeypatch):
    """All stretches decide how the animal lies, and the flag says that the whole was seen."""
    lies = []

    def find(whole, chest=None):
        lies.append(chest)
        return Lie("SAR" if chest is not None else "SPL", 0.99)

    monkeypatch.setattr(ensemble.finder, "find", find)
    monkeypatch.setattr(module, "find_chest", lambda *_: None)
    volume = Volume(
        body[0].hu_zyx[90:150], body[0].grid.part((slice(90, 150), slice(0, 70), slice(0, 80)))
    )
    found, _ = drawn(volume, ensemble)
    assert "chest-unsure" in found.flags
    assert found.lie.letters == "SPL"
    assert lies[-1] is None


def test_zeros_around_the_scan_move_no_organ(ensemble, body):
    """nnU-Net crops planes of exactly 0 HU; the tile stays where the organs are."""
    volume, truth = body
    hu = volume.hu_zyx.copy()
    hu[120:] = 0.0
    hu[:, :8] = 0.0
    found, passes = drawn(Volume(hu, volume.grid), ensemble)
    kept = np.zeros(hu.shape, dtype=bool)
    kept[:115, 12:] = True
    assert set(passes) <= {1, 2, 3, 4}
    lungs = found.labels.mask(Organ.LUNG_R) | found.labels.mask(Organ.LUNG_L)
    wanted = truth.mask(Organ.LUNG_R) | truth.mask(Organ.LUNG_L)
    assert dice(lungs & kept, wanted & kept) > 0.8
