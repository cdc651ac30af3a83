"""Layers that torch does not have, and checks of model options."""

from __future__ import annotations

from torch import Tensor, nn

from effbench.config.options import COUNT, FRACTION_BELOW_1, ODD


class DepthwiseSeparableConv2d(nn.Module):
    """One k x k filter a channel, then a 1 x 1 convolution over channels (arXiv:1704.04861, section 3.1).

    (B, C_in, H, W) -> (B, C_out, H, W), stride 1, padding k // 2. It costs H W C_in (k^2 + C_out) MACs; a standard
    convolution costs H W k^2 C_in C_out; the ratio is 1/C_out + 1/k^2. Only the 1 x 1 convolution has a bias: it would
    absorb a bias of the first one.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: k, odd: an even k cannot keep H and W.
        bias: add a bias after the 1 x 1 convolution.

    Raises:
        OptionError: k is even or not positive.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3, bias: bool = True):
        super().__init__()
        padding = same_padding(kernel_size)
        # groups = channels: each filter sees its own channel only
        self.depthwise = nn.Conv2d(
            in_channels, in_channels, kernel_size, padding=padding, groups=in_channels, bias=False
        )
        # 1 x 1: it mixes channels, and sees one pixel
        self.pointwise = nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=bias)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H, W)."""
        # No norm and ReLU in between, as in the paper's blocks: both kinds of `cnn` differ in the convolution alone.
        mixed: Tensor = self.pointwise(self.depthwise(x_BCHW))
        return mixed


def same_padding(kernel_size: int) -> int:
    """Return the padding, k // 2, that keeps H and W at stride 1. Raise OptionError unless k is odd and positive."""
    # an even k would need other padding on the left than on the right
    rule = "odd and positive, so that height and width stay"
    return ODD.check(kernel_size, "model.kernel_size", rule, "Write 3 or 5.") // 2


def check_dropout(dropout: float, key: str = "model.dropout") -> None:
    """Raise OptionError, naming `key`, unless 0 <= dropout < 1."""
    # not 1, which torch accepts: everything would be dropped, and nothing learnt
    FRACTION_BELOW_1.check(dropout, key, "a fraction in [0, 1)", "For 30 % write 0.3.")


def check_count(count: int, key: str, what: str) -> None:
    """Check that a count is a whole number of at least 1.

    Args:
        count: the value.
        key: config key for the message.
        what: what it counts, for the message.

    Raises:
        OptionError: it is not.
    """
    COUNT.check(count, key, f"a whole number of {what}, at least 1")
