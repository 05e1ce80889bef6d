"""The first fold of a resident ensemble, as a preview uses it."""

from dataclasses import replace

import numpy as np
import torch

from limn.domain.geometry import SpacingMm, axial_grid
from limn.domain.scan import Volume
from limn.segment.engine import fallback
from limn.segment.engine.ensemble import Ensemble
from tests.support.segment.bundles import architecture, random_bundle


def test_the_first_fold_alone_gives_its_own_labels_and_loads_nothing(tmp_path, monkeypatch):
    """The scores are those of an ensemble of that fold; the whole ensemble is left as it was."""
    described = architecture(3, [[1, 1, 1], [2, 2, 2]], [[3, 3, 3]] * 2)
    bundle = random_bundle(tmp_path / "bundle", described, [16] * 3, [0.3] * 3, folds=3)
    alone = Ensemble.load(replace(bundle, folds=(0,)), "cpu", half=False)
    whole = Ensemble.load(bundle, "cpu", half=False)
    grid = axial_grid((24, 24, 24), SpacingMm(0.3, 0.3, 0.3), np.zeros(3))
    hu_zyx = np.random.default_rng(1).normal(0, 300, grid.shape_zyx).astype(np.float32)
    volume = Volume(hu_zyx, grid)

    def scores(ensemble):
        prepared = ensemble.prepare(volume)
        passes = []
        inferred = ensemble.infer(prepared, lambda done, total: passes.append(total))
        return inferred.scores, passes[-1], inferred.agreement

    before, all_passes, _ = scores(whole)
    monkeypatch.setattr(fallback, "load_networks", None)
    first = whole.first_fold()
    assert first.bundle.folds == (0,)
    ours, passes, agreement = first.despite_gpu(lambda: scores(first))
    assert torch.equal(ours, scores(alone)[0])
    assert not torch.allclose(ours, before)
    assert passes * 3 == all_passes
    assert set(agreement.values()) == {1.0}
    assert whole.bundle.folds == (0, 1, 2)
    assert torch.equal(scores(whole)[0], before)
