"""The winner of every voxel, against PyTorch's own argmax."""

import numpy as np
import torch

from limn.segment.engine.resample import winners


def test_the_first_of_the_highest_scores_wins():
    """Where classes are equal too, and for a part of a larger array."""
    torch.manual_seed(0)
    scores = torch.randn(5, 20, 24, 28).round(decimals=1)
    assert (scores.amax(dim=0) == scores).sum(dim=0).max() > 1
    for part in (scores, scores[:, 3:-2, 5:, 1:9], scores.flip(0), scores[:1], scores - 50.0):
        assert np.array_equal(winners(part), part.argmax(dim=0).numpy())
