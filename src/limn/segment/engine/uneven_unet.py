"""nnU-Net v1's network for kernels that differ between resolutions.

In v1 the decoder takes the kernel of the resolution below, in nnunetv2 that of its own resolution.
If the two are equal, nnunetv2's network is v1's; otherwise the decoder's kernels must be given.
"""

from __future__ import annotations

from typing import Any

from dynamic_network_architectures.architectures.unet import PlainConvUNet
from dynamic_network_architectures.building_blocks.simple_conv_blocks import StackedConvBlocks


class UnevenUNet(PlainConvUNet):  # type: ignore[misc]
    """``PlainConvUNet`` whose decoder has kernels of its own.

    Parameters
    ----------
    kernel_sizes_decoder : one for each stage of the decoder, from the coarsest up
    """

    def __init__(self, *, kernel_sizes_decoder: list[list[int]], **described: Any) -> None:
        super().__init__(**described)
        features = described["features_per_stage"]
        for u, kernel in enumerate(kernel_sizes_decoder):
            skipped = features[-(u + 2)]
            self.decoder.stages[u] = StackedConvBlocks(
                described["n_conv_per_stage_decoder"][u],
                described["conv_op"],
                2 * skipped,
                skipped,
                kernel,
                1,
                described["conv_bias"],
                described["norm_op"],
                described["norm_op_kwargs"],
                described["dropout_op"],
                described["dropout_op_kwargs"],
                described["nonlin"],
                described["nonlin_kwargs"],
            )
