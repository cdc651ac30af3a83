"""Attention against torch.nn.MultiheadAttention and a dense attention with a mask."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from effbench.errors import OptionError
from effbench.models.attention import LocalAttention, SelfAttention, rotated


def mask_of(count: int, length: int) -> Tensor:
    """bool (count, length): all tokens in the first row, fewer in each next."""
    mask = torch.ones(count, length, dtype=torch.bool)
    for row in range(1, count):
        mask[row, max(1, length * row // (count + 1)) :] = False
    return mask


def dense(layer: LocalAttention, x: Tensor, mask: Tensor) -> Tensor:
    """The same weights, in float64, with a full matrix of scores and minus infinity where a token is not seen."""
    B, T, D = x.shape
    weight, bias = layer.qkv.weight.double(), layer.qkv.bias.double()
    q, k, v = (x.double() @ weight.T + bias).view(B, T, 3, layer.heads, -1).permute(2, 0, 3, 1, 4)
    places = torch.arange(T)
    seen = (places[:, None] - places).abs() <= layer.window
    if layer.causal:
        seen &= places[:, None] >= places
    seen |= (places[:, None] < layer.num_global) | (places < layer.num_global)
    scores = q @ k.transpose(2, 3) / math.sqrt(D // layer.heads)
    scores = scores.masked_fill(~(seen & mask[:, None, None, :]), -math.inf)
    mixed = (scores.softmax(3).nan_to_num() @ v).transpose(1, 2).reshape(B, T, D)
    return mixed @ layer.out.weight.double().T + layer.out.bias.double()


def test_attention_equals_torchs_class():
    torch.manual_seed(0)
    ours, theirs = SelfAttention(32, 4), nn.MultiheadAttention(32, 4, batch_first=True)
    theirs.load_state_dict(
        {
            "in_proj_weight": ours.qkv.weight,
            "in_proj_bias": ours.qkv.bias,
            "out_proj.weight": ours.out.weight,
            "out_proj.bias": ours.out.bias,
        }
    )
    x, mask = torch.randn(3, 17, 32), mask_of(3, 17)
    expected, _ = theirs(x, x, x, key_padding_mask=~mask, need_weights=False)
    torch.testing.assert_close(ours(x, mask)[mask], expected[mask], rtol=0, atol=1e-6)
    everything, _ = theirs(x, x, x, need_weights=False)
    torch.testing.assert_close(ours(x), everything, rtol=0, atol=1e-6)


def test_causal_attention_equals_torchs_class():
    torch.manual_seed(0)
    ours, theirs = SelfAttention(32, 4, causal=True), nn.MultiheadAttention(32, 4, batch_first=True)
    theirs.in_proj_weight, theirs.in_proj_bias, theirs.out_proj = ours.qkv.weight, ours.qkv.bias, ours.out
    x = torch.randn(2, 9, 32)
    later = torch.ones(9, 9, dtype=torch.bool).triu(1)
    expected, _ = theirs(x, x, x, attn_mask=later, need_weights=False)
    torch.testing.assert_close(ours(x), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(ours(x, torch.ones(2, 9, dtype=torch.bool)), expected, rtol=0, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 200), st.integers(1, 90), st.integers(0, 3), st.booleans(), st.booleans(), st.integers(0, 99))
def test_local_attention_equals_a_masked_dense_one(length, window, num_global, causal, padded, seed):
    torch.manual_seed(seed)
    layer = LocalAttention(16, 2, window, 0 if causal else num_global, causal=causal)
    x, mask = torch.randn(3, length, 16), mask_of(3, length) if padded else torch.ones(3, length, dtype=torch.bool)
    got = layer(x, mask if padded else None)
    torch.testing.assert_close(got[mask].double(), dense(layer, x, mask)[mask], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("window", "num_global"), [(5, 2), (1, 0), (1, 1)])  # 1: in chunks of 16 tokens
def test_gradients_of_local_attention_equal_a_masked_dense_one(window, num_global):
    torch.manual_seed(1)
    layer = LocalAttention(16, 2, window, num_global)
    x, mask = torch.randn(3, 70, 16, requires_grad=True), mask_of(3, 70)
    weights = torch.randn(3, 70, 16) * mask.unsqueeze(2)
    wanted = torch.autograd.grad((dense(layer, x, mask) * weights).sum(), [x, *layer.parameters()])
    got = torch.autograd.grad((layer(x, mask) * weights).sum(), [x, *layer.parameters()])
    for ours, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("num_global", [0, 1])
def test_nothing_outside_of_the_window_has_any_effect(num_global):
    torch.manual_seed(2)
    layer = LocalAttention(16, 2, window=4, num_global=num_global)
    x = torch.randn(1, 150, 16, requires_grad=True)
    layer(x)[0, 75].sum().backward()
    assert x.grad is not None
    touched = x.grad[0].abs().sum(1).nonzero().flatten().tolist()
    assert touched == [*range(num_global), *range(71, 80)]


def test_a_text_of_padding_alone_gives_finite_numbers():
    for layer in (SelfAttention(16, 2), LocalAttention(16, 2, window=3, num_global=1)):
        x = torch.randn(2, 70, 16, requires_grad=True)
        out = layer(x, torch.zeros(2, 70, dtype=torch.bool))
        out.sum().backward()
        assert out.isfinite().all()
        assert x.grad is not None
        assert x.grad.isfinite().all()


def test_rotated_scores_depend_on_the_distance_only():
    torch.manual_seed(3)
    q, k = torch.randn(8), torch.randn(8)
    turned_q, turned_k = (rotated(each.expand(1, 1, 30, 8).double()) for each in (q, k))
    scores = (turned_q @ turned_k.transpose(2, 3))[0, 0]
    for distance in (0, 1, 7):
        of_distance = scores.diagonal(distance)
        torch.testing.assert_close(of_distance, of_distance[0].expand_as(of_distance), rtol=0, atol=1e-6)
    torch.testing.assert_close(scores[0, 0].float(), q @ k)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 30, "heads": 4}, "model.heads must divide model.dim"),
        (
            {"dim": 6, "heads": 2, "rotary": True},
            "model.positions=rotary needs an even model.dim / model.heads; got 6 / 2 = 3.",
        ),
        ({"dim": 8, "heads": 2, "window": 0}, "model.window"),
        ({"dim": 8, "heads": 2, "window": 3, "num_global": -1}, "model.num_global"),
        ({"dim": 8, "heads": 2, "window": 3, "num_global": "abc"}, "model.num_global must be .* got 'abc'"),
        ({"dim": 8, "heads": 2, "window": 3, "num_global": 1, "causal": True}, "would see later ones"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(OptionError, match=message):
        (LocalAttention if "window" in options else SelfAttention)(**options)
