"""Nothing waits for a GPU between one pass and the next: seen by the operations that would wait."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from limn.segment.bundle.profile import PROFILES
from limn.segment.engine.ensemble import Ensemble
from limn.segment.engine.networks import TorchNetworks
from limn.segment.engine.plans import Plan
from limn.segment.engine.resample import resized
from limn.segment.engine.sliding_window import SlidingWindow, padded_to
from tests.support.segment.bundles import architecture, network, random_bundle

CUBES = [[3, 3, 3]] * 2
PATCH = (16, 16, 24)
CPU = torch.device("cpu")


class Waits(TorchDispatchMode):
    """Notes operations for which the host must know what a GPU computed."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        # A mask as an index is turned into places first, unless one number is written there.
        by_mask = (
            name in ("index", "index_put_")
            and any(each is not None and each.dtype == torch.bool for each in args[1])
            and not (name == "index_put_" and args[2].numel() == 1)
        )
        if by_mask or name in ("_local_scalar_dense", "nonzero", "masked_select"):
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def window():
    """A sliding window that skips air, and two networks that take two tiles at a time."""
    described = architecture(3, [[1, 1, 1], [2, 2, 2]], CUBES)
    plan = Plan(PATCH, (0.3, 0.3, 0.3), (0, 1, 2), 0.0, 1.0, -1.0, 1.0, False, described)
    networks = TorchNetworks([network(described, seed) for seed in (1, 2)], plan, "cpu", half=False)
    networks.batch = 2
    profile = replace(PROFILES["fast"], skip_air=True)
    return SlidingWindow(plan, profile, 5, [()]), networks


def test_the_mode_sees_what_waits():
    """Otherwise the tests below could not fail."""
    ones = torch.ones(4)
    with Waits() as waits:
        float(ones.sum())
        ones[ones > 0] = 2.0
        ones[ones > 0].sum()
        torch.nonzero(ones)
    assert waits.seen == ["_local_scalar_dense", "index", "nonzero"]


def test_no_pass_waits(window):
    """Whatever the number of tiles; voxels that no tile covers are background."""
    sliding, networks = window
    torch.manual_seed(0)
    image = torch.randn(40, 16, 48) - 1000.0
    image[:20] += 1000.0
    padded = padded_to(image, PATCH)
    tiles = sliding.tiles(padded, 1.0)
    assert 1 < len(tiles) < len(sliding.tiles(torch.zeros_like(padded) + 1.0, 1.0))
    with Waits() as waits:
        scores, weight = sliding.summed(networks, padded, 0, tiles)
    assert waits.seen == []
    assert (weight > 0).all()
    assert (scores[:, -1] == torch.tensor([1.0, 0, 0, 0, 0])[:, None, None]).all()


def test_air_is_decided_at_once(window):
    """Not tile by tile."""
    sliding, _ = window
    with Waits() as waits:
        tiles = sliding.tiles(torch.ones(64, 64, 96), 0.5)
    assert len(tiles) > 100
    assert waits.seen == []


def test_a_scan_is_resampled_without_a_wait():
    """Its least and largest value bound the splines on the device itself."""
    hu = np.random.default_rng(0).normal(0, 300, (90, 200, 300)).astype(np.float32)
    with Waits() as waits:
        image = resized(hu, (45, 150, 310), CPU, None, lambda slab: slab.clamp_(-700, 700))
    assert waits.seen == []
    assert image.min() >= -700
    assert image.max() <= 700


def test_batches_of_every_size_are_warm(tmp_path, monkeypatch):
    """CuDNN searches for each size anew, and no animal should wait for that."""
    described = architecture(3, [[1, 1, 1], [2, 2, 2]], CUBES)
    bundle = random_bundle(tmp_path / "b", described, list(PATCH), [0.3] * 3, folds=2)
    ensemble = Ensemble.load(bundle, "cpu")
    home = ensemble._working._home
    seen = []

    class Batches:
        device, batch, description = home.device, 3, "batches of three"

        def passes(self, fold, tiles):
            seen.append((fold, len(tiles)))
            return home.passes(fold, tiles)

    monkeypatch.setattr(ensemble._working, "_home", Batches())
    monkeypatch.setattr(ensemble._working, "_batch", 3)
    ensemble.warm_up()
    assert sorted(seen) == [(fold, count) for fold in (0, 1) for count in (1, 2, 3)]
