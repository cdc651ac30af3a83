"""1 x 1 convolutions on 1 x 1 maps, as in squeeze-and-excitation (arXiv:1709.01507), computed as linear layers.

oneDNN's convolution spends more time on setup than on arithmetic here. As a matrix product, forward and backward
together were 1.7 to 4.4 times as fast for 15 shapes (AMD EPYC, 2 threads, medians of 7). On larger maps oneDNN's
convolution is faster.
"""

from __future__ import annotations

from torch import Tensor, nn

from effbench.cpu.eligibility import Accelerated, is_tracing
from effbench.cpu.linear import linear


class CpuPointwiseConv2d(nn.Conv2d, Accelerated):
    """nn.Conv2d of kernel size 1, faster on 1 x 1 maps on a CPU; parameters and state_dict are the same."""

    def forward(self, input: Tensor) -> Tensor:
        x = input
        # while tracing not: a recorded graph must contain the convolution
        if not is_tracing() and x.dim() == 4 and x.shape[2:] == (1, 1) and x.device.type == "cpu":
            return linear(x.flatten(1), self.weight.flatten(1), self.bias)[:, :, None, None]
        return super().forward(x)


def is_pointwise(conv: nn.Conv2d) -> bool:
    """Return True for a 1 x 1 convolution without padding and groups."""
    return conv.kernel_size == (1, 1) and conv.padding in ((0, 0), "valid", "same") and conv.groups == 1
