"""method=structured on models: channels are really gone, as many as asked for, the least important first.

White-box: the pruning of a model without a run.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import re
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from effbench import build
from effbench.compress import structured as module
from effbench.compress.options import CompressOptions, StructuredOptions
from effbench.compress.structured import (
    NothingToRemoveError,
    _library,
    _widths,
    kept_channels,
    remove_channels,
    structured,
)
from effbench.config.compose import compose
from effbench.errors import ConfigError, MissingExtraError
from effbench.models.accounting import macs
from effbench.models.adapt import head_names
from effbench.models.channels import apply_plan, plan_of
from effbench.models.cnn import cnn
from effbench.models.mlp import mlp

# not importorskip: its import takes seconds in every worker that only collects
pytestmark = pytest.mark.skipif(importlib.util.find_spec("torch_pruning") is None, reason="needs torch_pruning")

# words -> layers whose outputs lose half of their channels; None: all but the head
MODELS: dict[str, tuple[list[str], tuple[str, ...] | None]] = {
    "cnn": (["model.channels=[16,32]", "model.hidden=32"], None),
    "ds_cnn": (["model.channels=[16,32]", "model.hidden=32"], None),
    "mlp": (["model.hidden=[64,32]"], None),
    "resnet18": ([], None),
    "mobilenet": ([], None),
    "torchvision": (["model.arch=convnext_tiny"], None),
    "swin_micro": (["model.depths=[1,1]", "model.num_heads=[2,2]"], ("mlp.0",)),
    "vit_tiny": (["model.depth=2"], ("mlp.0",)),
    "transformer": (["data=language_id", "model.depth=2"], ("mlp.0",)),
    "text_cnn": (["data=language_id"], None),
    "gpt": (["data=kjv", "model.depth=2"], ("mlp.0",)),
}


def model_of(*words: str) -> tuple[nn.Module, Tensor]:
    given = ["data=synthetic"] if not any(word.startswith("data=") for word in words) else []
    config = compose([*given, *words])
    modality = build.preview(config)
    assert modality is not None
    return build.model(config, 10, modality).eval(), modality.example(2)


def prune(model: nn.Module, example: Tensor, ratio: float = 0.5, round_to: int = 8) -> None:
    remove_channels(_library(), model, example, _widths(model), ratio, round_to, "this model")


@pytest.mark.spread(1)
@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_half_of_the_channels_are_gone(name: str) -> None:
    words, chosen = MODELS[name]
    model, example = model_of(f"model={name}", *words)
    before, shape, cost = _widths(model), model(example).shape, macs(model, example[:1]).macs
    prune(model, example)
    after = _widths(model)
    head = head_names(model)
    pruned = [each for each in before if each not in head and (chosen is None or each.endswith(chosen))]
    assert pruned
    for each in before:
        expected = kept_channels(before[each], 0.5, 8) if each in pruned else before[each]
        assert after[each] == expected, each
        weight = model.get_submodule(each).weight
        assert weight.shape[0] == expected, "the tensor, not only the attribute"
    assert model(example).shape == shape
    # products of halves for convolutions between pruned layers; a block of a transformer loses half of two layers
    assert macs(model, example[:1]).macs < (0.55 if chosen is None else 0.9) * cost


@pytest.mark.spread(5)
@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_plan_and_weights_give_the_pruned_model(name: str) -> None:
    words, _ = MODELS[name]
    model, example = model_of(f"model={name}", *words)
    fresh, _ = model_of(f"model={name}", *words)
    prune(model, example)
    apply_plan(fresh, json.loads(json.dumps(plan_of(fresh, model))), "here")
    fresh.load_state_dict(model.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(fresh(example), model(example))
    assert [key for key, _ in fresh.named_parameters()] == [key for key, _ in model.named_parameters()]


@pytest.mark.parametrize(
    ("width", "ratio", "round_to", "kept"),
    [
        (64, 0.5, 8, 32), (72, 0.5, 8, 40), (24, 0.5, 8, 16), (20, 0.5, 8, 8), (16, 0.9, 8, 8), (8, 0.5, 8, 8),
        (3, 0.5, 8, 3), (100, 0.3, 1, 70), (10, 0.99, 1, 1), (576, 0.5, 16, 288), (12, 0.1, 8, 8),
    ],
)  # fmt: skip
def test_kept_channels_are_the_nearest_multiple(width: int, ratio: float, round_to: int, kept: int) -> None:
    assert kept_channels(width, ratio, round_to) == kept


def test_channels_that_do_nothing_go_first() -> None:
    """The outputs stay to rounding: half of each layer's channels are zero, with all that depends on them."""
    torch.manual_seed(0)
    model = cnn(5, 3, (16, 16), channels=(16, 32), hidden=32).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for block in (model.block1, model.block2):
            idle = torch.randperm(block[0].out_channels, generator=generator)[: block[0].out_channels // 2]
            block[0].weight[idle], block[1].weight[idle], block[1].bias[idle] = 0, 0, 0
        idle = torch.randperm(32, generator=generator)[:16]
        model.hidden[1].weight[idle], model.hidden[1].bias[idle] = 0, 0
    x = torch.randn(4, 3, 16, 16)
    expected = model(x)
    prune(model, x[:2])
    assert [model.block1[0].out_channels, model.block2[0].out_channels, model.hidden[1].out_features] == [8, 16, 16]
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)


def test_remaining_units_keep_their_weights() -> None:
    """With numpy's norm instead of torch-pruning's: the kept rows are those of the largest norm, in their order."""
    torch.manual_seed(0)
    model = mlp(3, in_features=6, hidden=(32,)).eval()
    weight, out = model.hidden1[0].weight.detach().clone(), model.head.weight.detach().clone()
    x = torch.randn(2, 6)
    prune(model, x, ratio=0.75)
    rows = [int((weight == row).all(1).nonzero()[0]) for row in model.hidden1[0].weight]
    assert rows == sorted(rows)
    assert len(rows) == 8
    assert torch.equal(model.head.weight, out[:, rows])
    hidden = F.relu(F.linear(x, weight[rows], model.hidden1[0].bias))
    torch.testing.assert_close(model(x), F.linear(hidden, out[:, rows], model.head.bias))
    mass = weight.norm(dim=1) ** 2 + out.norm(dim=0) ** 2
    kept, gone = mass[rows], mass[[row for row in range(32) if row not in rows]]
    assert kept.mean() > gone.mean()


def test_steps_end_at_the_ratio_of_one_step() -> None:
    # 8 of 24 and 16 of 48: a part that is no sum of halves, which floats round
    model, example = model_of("model=cnn", "model.channels=[24,48]", "model.hidden=48")
    widths = _widths(model)
    for ratio in (0.1, 2 / 3):
        remove_channels(_library(), model, example, widths, ratio, 8, "this model")
    assert _widths(model) == {
        name: width if name == "head" else kept_channels(width, 2 / 3, 8) for name, width in widths.items()
    }


def test_a_step_that_rounding_leaves_empty_loses_no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 32 channels, 3 steps to a half keep 24, 24 and 16."""
    net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3)).eval()
    tuned: list[int] = []
    tuning = SimpleNamespace(run=lambda _, step, __: tuned.append(step), details={}, summary={})
    source = SimpleNamespace(
        folder=None, model=lambda _: net, config=SimpleNamespace(model=SimpleNamespace(label="net"))
    )
    for name, value in {
        "unpruned_model": lambda _: copy.deepcopy(net), "_example": lambda _: torch.randn(2, 8),
        "FineTuning": lambda *_, **__: tuning, "kept_zeros": lambda _: (), "zeros_of": lambda _: (),
    }.items():  # fmt: skip
        monkeypatch.setattr(module, name, value)
    own = StructuredOptions(ratio=0.5, steps=3, epochs=3)
    structured(source, CompressOptions("structured", own), None)  # type: ignore[arg-type]
    assert tuned == [1, 2, 3]
    assert net[0].out_features == 16
    with pytest.raises(NothingToRemoveError):  # before anything is trained
        structured(source, CompressOptions("structured", replace(own, ratio=0.01)), None)  # type: ignore[arg-type]
    assert tuned == [1, 2, 3]


@pytest.mark.spread(3)
@pytest.mark.parametrize(
    "words",
    [
        ["model=linear"], ["model=neuron", "data=breast_cancer"],
        ["model=cnn", "model.channels=[8]", "model.hidden=8"], ["model=ngrams", "data=language_id"],
        ["model=rnn", "data=language_id"], ["model=lstm_attention", "data=language_id"],
        ["model=torchvision", "model.arch=shufflenet_v2_x0_5"],
    ],
)  # fmt: skip
def test_models_without_removable_channels_are_refused(words: list[str]) -> None:
    model, example = model_of(*words)
    with pytest.raises(ConfigError, match=r"this model.*method=quantize"):
        prune(model, example)


def test_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    with pytest.raises(MissingExtraError, match=r"method=structured needs the extra 'compress'"):
        structured(None, CompressOptions("structured", StructuredOptions()), None)  # type: ignore[arg-type]


def test_a_multiple_that_keeps_every_layer_is_named() -> None:
    net = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 3))
    with pytest.raises(ConfigError, match="round_to=64 keeps all channels of this model, whose widest layer has 24"):
        prune(net, torch.randn(2, 8), round_to=64)


@pytest.mark.parametrize(
    ("ratio", "round_to", "remedy"),
    [(0.01, 100_000, "Write a larger ratio"), (0.05, 64, "Write round_to=3 or less"), (0.5, 64, "Write round_to=4")],
)
def test_the_remedy_for_rounding_removes_channels(ratio: float, round_to: int, remedy: str) -> None:
    net, example = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3)), torch.randn(2, 8)
    with pytest.raises(ConfigError, match=f"ratio={ratio:g} with round_to={round_to} keeps .* {remedy}"):
        prune(net, example, ratio, round_to)
    if "round_to" in remedy:
        prune(net, example, ratio, int(re.findall(r"=(\d+)", remedy)[0]))
        assert net[0].out_features < 32
