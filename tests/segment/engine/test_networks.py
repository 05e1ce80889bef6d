"""OpenVINO's networks against PyTorch's, whose weights they are built from."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from limn.segment.bundle.bundle import open_bundle
from limn.segment.engine.networks import OpenVinoNetworks, TorchNetworks, load_networks
from limn.segment.engine.openvino_net import can_build
from limn.segment.engine.plans import Plan, read_plan
from tests.conftest import BUNDLE
from tests.support.segment.bundles import architecture, network

CUBES = [[3, 3, 3]] * 3


def plan_of(described, patch) -> Plan:
    """A plan for a network."""
    flat = patch[0] == 1
    return Plan(patch, (0.3, 0.3, 0.3), (0, 1, 2), 0.0, 1.0, -1.0, 1.0, flat, described)


@pytest.mark.parametrize(
    ("described", "patch"),
    [
        (architecture(3, [[1, 1, 1], [2, 2, 2], [2, 2, 2]], CUBES), (16, 24, 32)),
        (
            architecture(3, [[1, 1, 1], [1, 2, 2], [2, 2, 2]], [[1, 3, 3], [1, 3, 3], [3, 3, 3]]),
            (8, 32, 24),
        ),
        (architecture(3, [[1, 1, 1], [2, 2, 2], [2, 1, 2]], [[3, 3, 3], [3, 3, 1], [3, 3, 3]]),
         (16, 16, 24)),
        (
            architecture(
                3,
                [[1, 1, 1], [2, 2, 2]],
                CUBES[:2],
                n_conv_per_stage=[1, 3],
                n_conv_per_stage_decoder=[3],
                nonlin_kwargs={"inplace": True, "negative_slope": 0.2},
            ),
            (16, 16, 16),
        ),
        (architecture(2, [[1, 1], [2, 2], [2, 2]], [[3, 3]] * 3), (1, 48, 32)),
    ],
    ids=["cubes", "flat kernels first", "uneven", "one and three convolutions", "2d"],
)  # fmt: skip
def test_openvino_says_what_torch_says(described, patch):
    """The same logits to a thousandth of their spread, whatever the plans look like."""
    assert can_build(described)
    networks = [network(described, seed) for seed in (1, 2)]
    plan = plan_of(described, patch)
    torch.manual_seed(0)
    tiles = [torch.randn(patch) for _ in range(5)]
    oracle = TorchNetworks(networks, plan, "cpu", half=False)
    ours = OpenVinoNetworks(networks, plan, half=False)
    for fold in (0, 1):
        wanted = [each.clone() for each in oracle.passes(fold, tiles)]
        found = [each.clone() for each in ours.passes(fold, tiles)]
        assert len(found) == len(tiles)
        for one, other in zip(wanted, found, strict=True):
            assert one.shape == other.shape == (5, *patch)
            assert (one - other).abs().max() < 1e-3 * one.std()


def test_requests_that_nobody_waits_for_end():
    """If a caller stops after the first tile, the networks are ready for the next scan."""
    described = architecture(3, [[1, 1, 1], [2, 2, 2]], CUBES[:2])
    networks = OpenVinoNetworks(
        [network(described, 1)], plan_of(described, (16, 16, 16)), half=False
    )
    tiles = [torch.randn(16, 16, 16) for _ in range(6)]
    wanted = next(iter(networks.passes(0, tiles[:1]))).clone()
    passes = networks.passes(0, tiles)
    next(passes)
    passes.close()
    np.testing.assert_array_equal(next(iter(networks.passes(0, tiles[:1]))), wanted)


def test_a_residual_network_runs_on_torch():
    """OpenVINO's U-Net is the plain one; another is left to PyTorch."""
    described = architecture(3, [[1, 1, 1], [2, 2, 2]], CUBES[:2])
    other = described | {"network_class_name": described["network_class_name"] + "Residual"}
    assert not can_build(other)


def test_the_cpu_gets_openvino():
    """The embedded bundle runs on OpenVINO where there is no GPU."""
    bundle = open_bundle(BUNDLE)
    plan = read_plan(bundle)
    loaded = load_networks(bundle, plan, "cpu", half=True)
    assert isinstance(loaded, OpenVinoNetworks)
    assert loaded.description in ("cpu openvino bf16", "cpu openvino fp32")


@pytest.mark.slow
def test_nothing_reports_its_use():
    """OpenVINO's telemetry is never loaded (P10)."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, limn.segment.engine.openvino_net; "
            "print([m for m in sys.modules if m.startswith('openvino_telemetry') "
            "and sys.modules[m]])",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"
