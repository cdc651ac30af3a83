"""The depthwise separable convolution against the standard one, and against its own definition."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from effbench.errors import ConfigError
from effbench.models.accounting import macs
from effbench.models.layers import DepthwiseSeparableConv2d


@settings(max_examples=25, deadline=None)
@given(c_in=st.integers(1, 12), c_out=st.integers(1, 12), k=st.sampled_from([1, 3, 5, 7]), side=st.integers(1, 9))
def test_separable_macs_ratio_is_the_closed_form(c_in: int, c_out: int, k: int, side: int) -> None:
    standard = macs(nn.Conv2d(c_in, c_out, k, padding=k // 2), torch.empty(1, c_in, side, side)).macs
    separable = macs(DepthwiseSeparableConv2d(c_in, c_out, k), torch.empty(1, c_in, side, side)).macs
    # The ratio 1/c_out + 1/k^2, cleared of fractions so that it holds exactly.
    assert separable * c_out * k * k == standard * (k * k + c_out)


@pytest.mark.parametrize(("c_out", "gain"), [(16, 5.8), (1024, 8.9)])
def test_saves_5_8_times_at_16_channels_and_8_9_times_at_1024(c_out: int, gain: float) -> None:
    shape = (32, 8, 8)
    example = torch.empty(1, *shape)
    ratio = (
        macs(nn.Conv2d(32, c_out, 3, padding=1), example).macs / macs(DepthwiseSeparableConv2d(32, c_out), example).macs
    )
    assert ratio == pytest.approx(gain, abs=0.05)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_keeps_height_and_width_and_maps_channels(k: int) -> None:
    assert DepthwiseSeparableConv2d(3, 7, k)(torch.zeros(2, 3, 9, 6)).shape == (2, 7, 9, 6)


def test_separable_equals_convolution_with_the_kernel_product() -> None:
    torch.manual_seed(0)
    separable = DepthwiseSeparableConv2d(4, 6, 3).double()
    images = torch.randn(2, 4, 7, 5, dtype=torch.float64)
    # A separable kernel is W[o, i] = pointwise[o, i] * depthwise[i].
    kernel = separable.pointwise.weight * separable.depthwise.weight.transpose(0, 1)
    expected = nn.functional.conv2d(images, kernel, separable.pointwise.bias, padding=1)
    torch.testing.assert_close(separable(images), expected)


@pytest.mark.parametrize("k", [0, 2, 4, -3, 2.5, "wide"])
def test_even_kernel_size_is_refused(k: object) -> None:
    with pytest.raises(ConfigError, match=rf"model.kernel_size must be odd.*got {k!r}"):
        DepthwiseSeparableConv2d(3, 3, k)
