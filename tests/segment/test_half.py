"""bf16 only where the processor has it."""

import pytest
import torch

from limn.segment import half


@pytest.mark.parametrize("has", [True, False])
def test_a_network_runs_in_bf16_only_where_the_hardware_has_it(monkeypatch, has):
    """Imitated, it takes eight times as long."""
    monkeypatch.setattr(half, "has_bf16", lambda device: has)
    layer = torch.nn.Linear(4, 4)
    with half.autocast(torch.device("cpu")):
        found = layer(torch.ones(1, 4)).dtype
    assert found == (torch.bfloat16 if has else torch.float32)


def test_half_precision_can_be_declined(monkeypatch):
    """For parity with what ran in fp32."""
    monkeypatch.setattr(half, "has_bf16", lambda device: True)
    with half.autocast(torch.device("cpu"), half=False):
        assert torch.nn.Linear(4, 4)(torch.ones(1, 4)).dtype == torch.float32
