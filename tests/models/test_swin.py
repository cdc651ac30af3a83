"""The small Swin against torchvision's class and its published sizes."""

from __future__ import annotations

import pytest
import torch
import torchvision.models as tv

from effbench.errors import ConfigError
from effbench.models.swin import swin_micro


@pytest.mark.slow
def test_with_swin_ts_sizes_it_is_torchvisions_swin_t() -> None:
    with torch.device("meta"):
        ours = swin_micro(
            1000,
            3,
            (224, 224),
            patch_size=4,
            embed_dim=96,
            depths=[2, 2, 6, 2],
            num_heads=[3, 6, 12, 24],
            window_size=7,
        )
        theirs = tv.swin_t()
    assert sum(p.numel() for p in ours.parameters()) == tv.Swin_T_Weights.IMAGENET1K_V1.meta["num_params"]
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [28, 32])
def test_small_images_go_forward_and_backward(channels: int, side: int) -> None:
    model = swin_micro(10, channels, (side, side), stochastic_depth_prob=0.0)
    logits = model(torch.randn(2, channels, side, side))
    logits.square().sum().backward()
    assert logits.shape == (2, 10)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depths": [2, 2]}, r"one number for each stage.*got \[2, 2\] and \[2, 4, 8\]"),
        ({"depths": [1], "num_heads": [2]}, "at least two blocks in all"),
        ({"num_heads": [2, 5, 8]}, "model.num_heads must divide the stage's width; got 5 for 96"),
        ({"patch_size": 5}, r"data.image_size must be a multiple of model.patch_size; got 32 x 32 px .* 5 px"),
        ({"stochastic_depth_prob": 1.0}, "model.stochastic_depth_prob must be a fraction"),
        ({"dropout": -0.5}, "model.dropout must be a fraction"),
        ({"embed_dim": 0}, "model.embed_dim must be a whole number of channels, at least 1; got 0"),
        ({"depths": [2, 0, 2]}, "model.depths must be a whole number of blocks in each stage, at least 1; got 0"),
        ({"num_heads": [0, 4, 8]}, "model.num_heads must be a whole number of heads in each stage, at least 1; got 0"),
        ({"window_size": 0}, "model.window_size must be a whole number of patches, at least 1; got 0"),
        ({"mlp_ratio": -1}, "model.mlp_ratio must be a finite number above 0; got -1. Usual is 2 to 4"),
        ({"patch_size": 0}, "model.patch_size must be a whole number of px, at least 1; got 0"),
    ],
)
def test_a_wrong_option_is_refused_with_its_key(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        swin_micro(10, 3, (32, 32), **options)
