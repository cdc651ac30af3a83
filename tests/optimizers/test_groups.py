"""Which parameters decay, at which rate, under which name."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from effbench.errors import ConfigError
from effbench.optimizers import Lion, parameter_groups
from effbench.optimizers.groups import decayed_parameters

torch.set_num_threads(1)


class MyRMSNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1, 8, 1, 1))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.class_token = nn.Parameter(torch.zeros(1, 1, 8))
        self.gamma = nn.Parameter(torch.ones(8))  # a gain outside any norm
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), MyRMSNorm(), nn.LayerNorm([8, 4, 4]))
        self.attention = nn.MultiheadAttention(8, 2)
        self.head = nn.Linear(8, 4)


def named(model, groups):
    """{group name: parameter names}"""
    name_of = {id(p): name for name, p in model.named_parameters()}
    return {group["name"]: [name_of[id(p)] for p in group["params"]] for group in groups}


def test_weights_decay_and_biases_norms_and_tokens_do_not():
    model = Net()
    assert named(model, parameter_groups(model, 0.1, 0.05)) == {
        "decay": ["backbone.0.weight", "attention.in_proj_weight", "attention.out_proj.weight", "head.weight"],
        "no_decay": [
            "class_token",
            "gamma",
            "backbone.0.bias",
            "backbone.1.weight",
            "backbone.1.bias",
            "backbone.2.gain",
            "backbone.3.weight",
            "backbone.3.bias",
            "attention.in_proj_bias",
            "attention.out_proj.bias",
            "head.bias",
        ],
    }
    decays = {group["name"]: (group["lr"], group["weight_decay"]) for group in parameter_groups(model, 0.1, 0.05)}
    assert decays == {"decay": (0.1, 0.05), "no_decay": (0.1, 0.0)}


def test_without_no_decay_everything_decays():
    model = Net()
    (group,) = parameter_groups(model, 0.1, 0.05, no_decay=False)
    assert (group["name"], group["weight_decay"]) == ("decay", 0.05)
    assert len(group["params"]) == len(list(model.parameters()))


def test_groups_partition_the_trainable_parameters():
    model = Net()
    model.backbone.requires_grad_(False)
    groups = parameter_groups(model, 0.1, 0.05, group_lr={"head.*": 2.0, "*.out_proj.*": 3.0})
    ids = [id(p) for group in groups for p in group["params"]]
    assert sorted(ids) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    assert all(group["params"] for group in groups)


def test_group_lr_multiplies_the_lr_of_matching_parameters():
    model = Net()
    groups = parameter_groups(model, 0.1, 0.05, group_lr={"head.*": 10, "backbone.*": 0.5})
    assert [(g["name"], pytest.approx(g["lr"])) for g in groups] == [
        ("decay", 0.1),
        ("no_decay", 0.1),
        ("head.decay", 1.0),
        ("head.no_decay", 1.0),
        ("backbone.decay", 0.05),
        ("backbone.no_decay", 0.05),
    ]
    assert named(model, groups)["head.decay"] == ["head.weight"]


def test_of_two_matching_patterns_the_first_wins():
    model = Net()
    groups = named(model, parameter_groups(model, 0.1, 0.05, group_lr={"*.0.*": 2.0, "backbone.*": 3.0}))
    assert groups["0.decay"] == ["backbone.0.weight"]
    assert "backbone.0.weight" not in groups.get("backbone.decay", [])


def test_two_patterns_that_shorten_alike_keep_their_full_names():
    model = Net()
    model.ahead = nn.Linear(8, 1, bias=False)
    groups = parameter_groups(model, 1.0, 0.1, group_lr={"head.*": 2.0, "*head.*": 3.0})
    assert [group["name"] for group in groups][-3:] == ["head.*.decay", "head.*.no_decay", "*head.*.decay"]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (
            "haed.*",
            r"optimizer\.group_lr must name parameters .* got 'haed\.\*', which matches none\. Did you mean 'head\.\*'",
        ),
        ("xyz", r"matches none\. There is: attention\.\*, backbone\.\*, head\.\*\. Write one"),
    ],
)
def test_a_pattern_that_matches_nothing_names_the_nearest(pattern, message):
    with pytest.raises(ConfigError, match=message):
        parameter_groups(Net(), 0.1, 0.0, group_lr={pattern: 0.1})


def test_a_pattern_that_earlier_ones_leave_nothing_is_refused():
    with pytest.raises(
        ConfigError, match=r"'head\.\*', all of which earlier patterns take, such as '\*'\. Put it before"
    ):
        parameter_groups(Net(), 0.1, 0.0, group_lr={"*": 0.1, "head.*": 1.0})


@pytest.mark.parametrize("factor", [-1, float("nan"), "0.1", True, None])
def test_a_factor_that_is_no_number_at_least_0_is_refused(factor):
    with pytest.raises(ConfigError, match=r"optimizer\.group_lr must map .* got 'head\.\*'"):
        parameter_groups(Net(), 0.1, 0.0, group_lr={"head.*": factor})


def test_a_model_with_nothing_to_train_is_refused():
    with pytest.raises(ConfigError, match="trainable parameter"):
        parameter_groups(Net().requires_grad_(False), 0.1, 0.0)


def test_a_model_may_exempt_parameters_by_timms_convention():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[1].no_weight_decay = lambda: {"weight"}
    assert named(model, parameter_groups(model, 0.1, 0.1)) == {"decay": ["0.weight"], "no_decay": ["1.weight"]}


def test_torchvision_transformer_tokens_and_tables_do_not_decay():
    from torchvision.models import SwinTransformer, VisionTransformer

    vit = VisionTransformer(8, 4, 1, 2, 8, 16, num_classes=2)
    swin = SwinTransformer([2, 2], 8, [1, 1], [2, 2], [4, 4], num_classes=2)
    decay = {name for m in (vit, swin) for name in named(m, parameter_groups(m, 0.1, 0.1))["decay"]}
    assert {name.rpartition(".")[2] for name in decay} == {"weight", "in_proj_weight"}
    every = {name.rpartition(".")[2] for m in (vit, swin) for name, _ in m.named_parameters()}
    assert {"class_token", "pos_embedding", "relative_position_bias_table"} <= every


def test_an_optimizer_takes_the_groups_and_keeps_their_names():
    model = Net()
    optimizer = Lion(parameter_groups(model, 1e-3, 0.1, group_lr={"head.*": 2.0}), lr=1e-3, weight_decay=0.1)
    assert [g["name"] for g in optimizer.state_dict()["param_groups"]][-2:] == ["head.decay", "head.no_decay"]


def test_decayed_parameters_do_not_depend_on_names_of_groups():
    model = nn.ModuleDict({"no_decay_head": nn.Linear(2, 2), "rest": nn.Linear(2, 2)})
    groups = named(model, parameter_groups(model, 0.1, 0.1, group_lr={"no_decay_head.*": 0.5}))
    assert groups["no_decay_head.decay"] == ["no_decay_head.weight"]
    assert [id(p) for p in decayed_parameters(model)] == [id(model[name].weight) for name in model]
    assert len(decayed_parameters(model, no_decay=False)) == 4
    model["rest"].requires_grad_(False)
    assert [id(p) for p in decayed_parameters(model)] == [id(model["no_decay_head"].weight)]
