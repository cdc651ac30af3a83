"""Which parameters Muon orthogonalizes, of small models written out and of each model of conf."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from effbench import build
from effbench.config.compose import compose
from effbench.cpu.accelerate import accelerate
from effbench.data.images.modality import Images
from effbench.errors import ConfigError
from effbench.models.adapt import head_names
from effbench.optimizers import Muon, parameter_groups
from effbench.optimizers.hidden_matrices import hidden_matrices
from effbench.report.cost import Setting, shape_model


def names(model: nn.Module, heads: tuple[str, ...] | None = None) -> list[str]:
    found = {id(parameter) for parameter in hidden_matrices(model, head_names(model) if heads is None else heads)}
    return [name for name, parameter in model.named_parameters() if id(parameter) in found]


class Mixed(nn.Module):
    """A layer of each kind; the head is registered last."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3)
        self.conv = nn.Conv2d(8, 8, 3)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
        self.grouped = nn.Conv2d(8, 8, 3, groups=2)
        self.norm = nn.LayerNorm([8, 4])
        self.pos_embed = nn.Parameter(torch.zeros(16, 8))
        self.queries = nn.Parameter(torch.zeros(1, 5, 8))
        self.attention = nn.MultiheadAttention(8, 2)
        self.words = nn.Embedding(10, 8)
        self.gate = nn.Linear(8, 1)
        self.hidden = nn.Linear(8, 8)
        self.head = nn.Linear(8, 4)


def test_hidden_matrices_are_inner_linear_and_dense_convolutions() -> None:
    expected = ["conv.weight", "attention.in_proj_weight", "attention.out_proj.weight", "hidden.weight"]
    assert names(Mixed()) == expected


def test_the_first_layer_stays_first_when_frozen() -> None:
    model = Mixed()
    model.stem.requires_grad_(False)
    assert "conv.weight" in names(model)
    assert "stem.weight" not in names(model)


def test_behind_an_embedding_the_first_linear_layer_is_inside() -> None:
    model = nn.Sequential(nn.Embedding(10, 8), nn.Linear(8, 8), nn.Linear(8, 2))
    assert names(model) == ["1.weight"]


def test_a_head_tied_to_another_layer_keeps_it_outside() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8))
    model[3].weight = model[1].weight
    assert names(model) == ["2.weight"]


def test_a_head_of_several_layers_is_outside_as_a_whole() -> None:
    model = nn.ModuleDict({"stem": nn.Linear(4, 8), "body": nn.Linear(8, 8), "head": nn.Sequential(nn.Linear(8, 8))})
    assert names(model, ("head",)) == ["body.weight"]


def test_groups_are_divided_and_keep_their_options() -> None:
    model = Mixed()
    groups = parameter_groups(model, 0.1, 0.05, group_lr={"attention.*": 0.5})
    divided = Muon.divide_groups(groups, model, head_names(model))
    found = {group["name"]: (group["lr"], group["weight_decay"], group["use_muon"]) for group in divided}
    assert found == {
        "decay.muon": (0.1, 0.05, True),
        "decay.adamw": (0.1, 0.05, False),
        "no_decay.adamw": (0.1, 0.0, False),
        "attention.decay.muon": (0.05, 0.05, True),
        "attention.no_decay.adamw": (0.05, 0.0, False),
    }
    assert sorted(id(p) for group in divided for p in group["params"]) == sorted(map(id, model.parameters()))
    assert [group["name"] for group in Muon(divided).param_groups] == list(found)


# Trained matrices of each: all inner layers, none of the stem, the head and depthwise layers.
COUNTS = {
    "mlp": 2,  # hidden2, hidden3
    "cnn": 3,  # two convolutions, one linear layer
    "resnet18": 19,  # 16 in blocks and 3 shortcuts
    "vit_tiny": 48,  # 4 in each of 12 blocks
}


@pytest.mark.spread(3)
@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp", "cnn", "ds_cnn", "mobilenet", "resnet18", "swin_micro", "vit_tiny"])
def test_models_of_conf_have_hidden_matrices(name: str) -> None:
    config = compose([f"model={name}", "optimizer=muon"])
    model = shape_model(config, Setting(Images.blank((3, 32, 32)), 10))
    found = names(model)
    assert len(found) == COUNTS.get(name, len(found)) > 0
    [head] = head_names(model)
    shapes = {key: parameter.shape for key, parameter in model.named_parameters()}
    assert not any(key.startswith(f"{head}.") or len(shapes[key]) < 2 for key in found)
    assert next(iter(shapes)) not in found
    accelerate(model)
    assert names(model) == found


@pytest.mark.slow
@pytest.mark.parametrize("words", [["model.hidden=[]"], ["model.hidden=[8]"], ["model.freeze=[hidden2.*,hidden3.*]"]])
def test_a_model_without_hidden_matrices_is_refused(words: list[str]) -> None:
    config = compose(["model=mlp", "optimizer=muon", *words])
    model = shape_model(config, Setting(Images.blank((1, 8, 8)), 10))
    for refused in (build.optimizer, build.check_shapes):
        with pytest.raises(ConfigError, match=r"optimizer muon needs a matrix of a hidden layer.*optimizer=adamw"):
            refused(config, model)


class Layered(torch.optim.SGD):
    """An optimizer of a user's own that treats the head differently."""

    @staticmethod
    def divide_groups(groups: list[dict[str, Any]], model: nn.Module, heads: tuple[str, ...]) -> list[dict[str, Any]]:
        head = [p for name, p in model.named_parameters() if name.startswith(heads)]
        rest = [p for name, p in model.named_parameters() if not name.startswith(heads)]
        return [{"params": rest}, {"params": head, "lr": 10 * groups[0]["lr"]}]


@pytest.mark.slow
def test_a_user_s_optimizer_may_divide_groups() -> None:
    own = ["~optimizer.fused", "~optimizer.betas", "~optimizer.eps", "allow_targets=[tests.optimizers]"]
    config = compose(["optimizer._target_=tests.optimizers.test_hidden_matrices.Layered", "optimizer.lr=0.5", *own])
    groups = build.optimizer(config, nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))).param_groups
    assert [(group["lr"], len(group["params"])) for group in groups] == [(0.5, 2), (5.0, 2)]
