"""A network in the fast layout, compared with PyTorch's own norms and layout."""

import pytest
import torch
from torch import nn

from limn.lab.train.channels_last import LayoutFreeNorm, channels_last, with_layout_free_norms


@pytest.mark.parametrize("shape", [(1, 6, 5, 7, 9), (3, 6, 5, 7, 9), (4, 6, 8, 9)])
def test_a_norm_is_pytorchs_instance_norm(shape):
    """One image or several, 3d or 2d, forward and backward."""
    oracle = (nn.InstanceNorm3d if len(shape) == 5 else nn.InstanceNorm2d)(6, affine=True)
    own = LayoutFreeNorm(6, affine=True)
    generator = torch.Generator().manual_seed(4)
    for weights in oracle.parameters():
        weights.data = torch.randn(6, generator=generator)
    own.load_state_dict(oracle.state_dict())
    images = torch.randn(shape, generator=generator) * 3 + 5
    layout = torch.channels_last_3d if len(shape) == 5 else torch.channels_last
    first = images.clone().requires_grad_()
    second = images.to(memory_format=layout).requires_grad_()
    wanted, found = oracle(first), own(second)
    torch.testing.assert_close(found, wanted)
    (wanted**3).sum().backward()
    (found**3).sum().backward()
    torch.testing.assert_close(second.grad, first.grad, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(own.weight.grad, oracle.weight.grad, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize(
    ("convolution", "shape", "layout"),
    [
        (nn.Conv3d, (1, 4, 6, 7, 8), torch.channels_last_3d),
        (nn.Conv2d, (3, 4, 7, 8), torch.channels_last),
    ],
)
def test_weights_are_laid_out_and_the_norm_keeps_the_layout(convolution, shape, layout):
    """PyTorch chooses a convolution's output layout by processor; the other layers keep it."""
    network = channels_last(nn.Sequential(convolution(4, 4, 3), LayoutFreeNorm(4, affine=True)))
    assert network[0].weight.is_contiguous(memory_format=layout)
    images = torch.randn(shape).to(memory_format=layout)
    assert network[1](images).is_contiguous(memory_format=layout)


def test_plans_keep_everything_else():
    """Only the norm changes, and the given arguments stay as they are."""
    kwargs = {"norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d", "n_stages": 5}
    changed = with_layout_free_norms(kwargs)
    assert changed == {"norm_op": "limn.lab.train.channels_last.LayoutFreeNorm", "n_stages": 5}
    assert kwargs["norm_op"] == "torch.nn.modules.instancenorm.InstanceNorm3d"
