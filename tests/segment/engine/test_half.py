"""Half precision only where the hardware has it."""

import pytest
import torch

from limn.segment.engine import half


@pytest.mark.parametrize("has", [True, False])
def test_a_network_runs_in_bf16_only_where_the_hardware_has_it(monkeypatch, has):
    """Emulated bf16 takes eight times as long."""
    monkeypatch.setattr(half, "has_bf16", lambda device: has)
    layer = torch.nn.Linear(4, 4)
    with half.autocast(torch.device("cpu")):
        found = layer(torch.ones(1, 4)).dtype
    assert found == (torch.bfloat16 if has else torch.float32)


def test_half_precision_can_be_declined(monkeypatch):
    """It is for parity with software that ran in fp32."""
    monkeypatch.setattr(half, "has_bf16", lambda device: True)
    with half.autocast(torch.device("cpu"), half=False):
        assert torch.nn.Linear(4, 4)(torch.ones(1, 4)).dtype == torch.float32


@pytest.mark.parametrize(
    ("device", "has", "wanted", "runs_in"),
    [
        ("cuda", True, True, torch.bfloat16),
        ("cuda", False, True, torch.float16),
        ("cuda", False, False, torch.float32),
        ("cpu", True, True, torch.bfloat16),
        ("cpu", False, True, torch.float32),
        ("cpu", True, False, torch.float32),
    ],
)
def test_older_gpus_infer_in_fp16_and_older_processors_in_fp32(
    monkeypatch, device, has, wanted, runs_in
):
    """Full precision is used on every device if it is set."""
    monkeypatch.setattr(half, "has_bf16", lambda device: has)
    assert half.to_infer(torch.device(device), half=wanted) == runs_in
