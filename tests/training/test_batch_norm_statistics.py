"""Statistics made anew, against torch's own update_bn and the definition.

White-box: counts the samples of a pass.
"""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from effbench import build
from effbench.automatic import settled
from effbench.config.compose import compose
from effbench.cpu.accelerate import accelerate
from effbench.models.torchvision_zoo import create
from effbench.training.batch_norm_statistics import (
    AveragedStatistics,
    RefreshStatistics,
    make_statistics,
    statistics_batches,
    trained_norms,
)
from effbench.training.callbacks import Callbacks
from effbench.training.checkpoint import Checkpoints
from effbench.training.checkpoint_files import read_checkpoint
from effbench.training.distributed import DistributedContext
from effbench.training.ema import Ema
from effbench.training.precision import Precision
from effbench.training.trainer import Intervals, Trainer
from tests.training.tiny import At, convolutional, data, modality, same, sgd, trainer

DATA = data(num_train=96)


def batches(eval_batch_size: int = 32):
    return statistics_batches(DATA.train, modality(DATA), 0, eval_batch_size)


def statistics(net: nn.Module) -> list[torch.Tensor]:
    return [buffer.clone() for name, buffer in net.named_buffers() if "running" in name]


def test_refreshed_statistics_equal_torch_update_bn():
    net = convolutional(dropout=0.0)
    expected = copy.deepcopy(net)
    update_bn([batch.inputs for batch in batches()], expected)
    make_statistics(net, trained_norms(net), batches(), Precision())
    for ours, torchs in zip(statistics(net), statistics(expected), strict=True):
        torch.testing.assert_close(ours, torchs)


@pytest.mark.slow
def test_fused_blocks_get_the_statistics_of_torch_update_bn():
    torch.manual_seed(0)
    plain = create("mobilenet_v3_small", 4, 1, (8, 8), stem="tiny", dropout=0.0)
    ours = copy.deepcopy(plain)
    accelerate(ours)
    update_bn([batch.inputs for batch in batches()], plain)
    make_statistics(ours, trained_norms(ours), batches(), Precision())
    for made, expected in zip(statistics(ours), statistics(plain), strict=True):
        torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-5)


def test_refresh_ignores_dropout_and_keeps_momentum_and_mode():
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
def test_statistics_are_refreshed_if_they_lag_or_are_noisy(momentum, batch_size, steps, anew):
    net = convolutional()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = momentum
    before = statistics(net)
    RefreshStatistics(trained_norms(net), batches, batch_size, 32, Precision()).refresh(net, steps)
    assert all(map(torch.equal, before, statistics(net))) != anew


@pytest.mark.parametrize(("eval_batch_size", "sizes"), [(512, [64]), (40, [40, 40]), (1, [2] * 48)])
def test_the_batches_are_of_one_size_and_always_the_same(eval_batch_size, sizes):
    assert [len(batch) for batch in batches(eval_batch_size)] == sizes
    pairs = zip(batches(eval_batch_size), batches(eval_batch_size), strict=True)
    assert all(torch.equal(one.inputs, other.inputs) for one, other in pairs)


def averaged_run(folder: Path, save_steps: int | None = None, steps: int = 6) -> Trainer:
    """Epochs of three steps, validated after each; a checkpoint every `save_steps` too."""
    net = convolutional(dropout=0.0)
    run = trainer(
        DATA, net, steps, validate=True, ema=Ema(net, 0.9), optimizer=sgd(net, 0.3),
        statistics=AveragedStatistics(trained_norms(net), batches, 32, 32, Precision()),
        checkpoints=Checkpoints(folder, "val/loss", "min", 1, True), intervals=Intervals(save_steps=save_steps),
    )  # fmt: skip
    run.callbacks = Callbacks([At(5, lambda state: state.stop("a signal", "interrupted"))] if steps == 5 else [])
    run.fit()
    return run


@pytest.mark.parametrize("steps", [3, 5, 6])
def test_averaged_weights_are_saved_with_statistics_of_their_own(steps, tmp_path):
    """After a validation (3, 6) and at an interruption between two of them (5)."""
    run = averaged_run(tmp_path, steps=steps)
    saved = {name: value for name, value in read_checkpoint(tmp_path / "last").ema.items() if name != "_ema_steps"}
    expected = convolutional(dropout=0.0)
    expected.load_state_dict(saved)
    update_bn([batch.inputs for batch in batches()], expected)
    for name, value in expected.named_buffers():
        if "running" in name:
            torch.testing.assert_close(saved[name], value)
            assert not torch.allclose(saved[name], run.model.get_buffer(name)), "the running ones are of other weights"
    assert run.clocks.statistics.seconds > 0


def test_statistics_of_averaged_weights_do_not_affect_training(tmp_path):
    """Whatever is saved on the way: a run that is interrupted and goes on ends equal to the bit."""
    runs = [averaged_run(tmp_path / str(steps), steps) for steps in (None, 1, 2)]
    ends = [[run.model.state_dict(), run.averaged.state_dict(), run.state.metrics] for run in runs]
    assert same(ends[0], ends[1])
    assert same(ends[0], ends[2])


@pytest.mark.slow
@pytest.mark.parametrize(("limit", "samples"), [("null", 512), (1, 8), (3, 24), (1000, 512)])
def test_a_trial_of_few_batches_takes_no_more_samples(limit: object, samples: int) -> None:
    words = [
        "model=ds_cnn",
        "data.batch_size=8",
        "data.eval_batch_size=4",
        f"trainer.limit_train_batches={limit}",
        "device=cpu",
    ]
    config = compose([*words, "trainer.max_epochs=1"])
    data = build.splits(config)
    config = settled(config, len(data.train), data.modality, data.shape, 1, None)
    fitted = build.modality(config, data, torch.device("cpu"))
    statistics = build.trainer(config, data, fitted, DistributedContext(), None).statistics
    assert isinstance(statistics, RefreshStatistics)
    assert sum(map(len, statistics._batches(4))) == samples
