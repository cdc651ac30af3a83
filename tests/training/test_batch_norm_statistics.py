"""Statistics made anew, against torch's own update_bn and the definition."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from effbench.models.quick import accelerate
from effbench.models.torchvision_zoo import create
from effbench.training.batch_norm_statistics import (
    RefreshStatistics,
    make_statistics,
    statistics_batches,
    trained_norms,
)
from effbench.training.precision import Precision
from tests.training.tiny import convolutional, data, finish

DATA = data(num_train=96)


def batches(eval_batch_size: int = 32):
    return statistics_batches(DATA.train, finish(DATA), 0, eval_batch_size)


def statistics(net: nn.Module) -> list[torch.Tensor]:
    return [buffer.clone() for name, buffer in net.named_buffers() if "running" in name]


def test_they_are_those_of_torchs_update_bn_where_nothing_is_dropped():
    net = convolutional(dropout=0.0)
    expected = copy.deepcopy(net)
    update_bn([batch.inputs for batch in batches()], expected)
    make_statistics(net, trained_norms(net), batches(), Precision())
    for ours, torchs in zip(statistics(net), statistics(expected), strict=True):
        torch.testing.assert_close(ours, torchs)


def test_blocks_that_are_computed_as_a_whole_get_torchs_statistics():
    torch.manual_seed(0)
    plain = create("mobilenet_v3_small", 4, 1, (8, 8), stem="tiny", dropout=0.0)
    ours = copy.deepcopy(plain)
    accelerate(ours)
    update_bn([batch.inputs for batch in batches()], plain)
    make_statistics(ours, trained_norms(ours), batches(), Precision())
    for made, expected in zip(statistics(ours), statistics(plain), strict=True):
        torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-5)


def test_dropout_takes_no_part_and_momentum_count_and_mode_stay():
    net = nn.Sequential(nn.Dropout(0.9), convolutional(dropout=0.9))
    norm = next(module for module in net.modules() if isinstance(module, nn.BatchNorm2d))
    norm.num_batches_tracked += 7
    make_statistics(net, trained_norms(net), batches(), Precision())
    first = statistics(net)
    make_statistics(net, trained_norms(net), batches(), Precision())
    assert all(map(torch.equal, first, statistics(net)))
    assert (norm.momentum, int(norm.num_batches_tracked), net.training, norm.training) == (0.1, 7, False, False)


def test_a_frozen_batch_norm_keeps_its_statistics():
    net = convolutional()
    for parameter in next(module for module in net.modules() if isinstance(module, nn.BatchNorm2d)).parameters():
        parameter.requires_grad_(False)
    assert trained_norms(net) == []


@pytest.mark.parametrize(
    ("momentum", "batch_size", "steps", "anew"),
    [
        (0.1, 64, 84, False),  # the default run's first validation
        (0.1, 64, 5, True),  # five steps an epoch: three fifths are still the initial values
        (0.1, 16, 1000, True),  # the last ten batches of 16
        (0.01, 64, 84, True),  # torchvision's MobileNetV3
        (0.01, 64, 1000, False),
        (None, 8, 5, False),  # a mean over all batches, as the model's author wished
    ],
)
def test_they_are_made_anew_where_the_running_ones_lag_or_are_noise(momentum, batch_size, steps, anew):
    net = convolutional()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = momentum
    before = statistics(net)
    RefreshStatistics(trained_norms(net), batches, batch_size, Precision()).refresh(net, steps)
    assert all(map(torch.equal, before, statistics(net))) != anew


@pytest.mark.parametrize(("eval_batch_size", "sizes"), [(512, [64]), (40, [40, 40]), (1, [2] * 48)])
def test_the_batches_are_of_one_size_and_always_the_same(eval_batch_size, sizes):
    assert [len(batch) for batch in batches(eval_batch_size)] == sizes
    pairs = zip(batches(eval_batch_size), batches(eval_batch_size), strict=True)
    assert all(torch.equal(one.inputs, other.inputs) for one, other in pairs)
