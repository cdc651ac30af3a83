"""What is frozen stays to the bit: weights, and the running statistics that belong to them."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
import torch
from torch import nn

from effbench.models.adapt import freeze
from effbench.optimizers.groups import parameter_groups
from effbench.training.clipping import choose_clipping
from effbench.training.ema import Ema
from effbench.training.penalty import L1Penalty
from tests.training.tiny import convolutional, copied, data, same, trainer


def trained(patterns: list[str], **parts) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """(the net after two epochs with a validation between, its state before)."""
    net = convolutional()
    freeze(net, patterns)
    before = copied(dict(net.state_dict()))
    groups = parameter_groups(net, lr=0.1, weight_decay=0.1)
    optimizer = torch.optim.AdamW(groups)
    clip = choose_clipping([p for p in net.parameters() if p.requires_grad], 1.0, "norm")
    penalty = L1Penalty(list(net.parameters()), 0.1)
    trainer(data(), net, 6, optimizer=optimizer, validate=True, clip=clip, penalty=penalty, **parts).fit()
    return net, before


def changed(net: nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, tensor in net.state_dict().items() if not same(tensor, before[name])}


BLOCK = {"block1.0.weight", "block1.1.weight", "block1.1.bias"}
STATISTICS = {"block1.1.running_mean", "block1.1.running_var", "block1.1.num_batches_tracked"}
REST = {"hidden.1.weight", "hidden.1.bias", "head.weight", "head.bias"}


def test_unfrozen_everything_moves():
    assert changed(*trained([])) == BLOCK | STATISTICS | REST


def test_frozen_norm_keeps_weights_and_running_statistics():
    assert changed(*trained(["block1.*"])) == REST


@pytest.mark.parametrize("pattern", ["block1.0.*", "block1.1.bias"])
def test_a_partly_frozen_norm_updates_its_running_statistics(pattern):
    moved = changed(*trained([pattern]))
    assert STATISTICS - moved == set()
    assert (BLOCK | REST) - moved == {name for name in BLOCK if fnmatchcase(name, pattern)}


def test_frozen_parameters_stay_in_the_average_too():
    net = convolutional()
    freeze(net, ["block1.*"])
    before = copied(dict(net.state_dict()))
    run = trainer(data(), net, 6, optimizer=torch.optim.SGD(parameter_groups(net, 0.1, 0.0)), ema=Ema(net, 0.9))
    run.fit()
    assert changed(run.averaged.model, before) == REST


def test_dropout_stays_on_in_training_after_a_validation():
    net = convolutional()
    modes = []
    net.hidden[3].register_forward_hook(lambda module, *_: modes.append(module.training))
    trainer(data(), net, 6, validate=True).fit()
    validation = [False] * 3  # batches of 16 of 40
    assert modes == ([True] * 3 + validation) * 2
