"""Build the training loop with all its parts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from effbench.automatic import number, settled
from effbench.builders.datasets import eval_batches, train_batches
from effbench.builders.devices import memory_format
from effbench.builders.factories import refuse_given
from effbench.builders.models import check_outputs, compiled_model, model, model_facts
from effbench.builders.optimizers import optimizer, refuse_two_averages
from effbench.builders.schedulers import schedule, watches_metric
from effbench.builders.tasks import task, try_loss, with_monitors
from effbench.config.schema import Config
from effbench.cpu.accelerate import accelerate
from effbench.data.batches import TrainBatches
from effbench.data.modality import Modality
from effbench.data.splits import Splits
from effbench.errors import ConfigError, unknown_name
from effbench.metrics import LOSS
from effbench.optimizers.groups import decayed_parameters
from effbench.tasks.task import Task
from effbench.training.batch_norm_statistics import (
    AveragedStatistics,
    KeepStatistics,
    NormStatistics,
    RefreshStatistics,
    statistics_batches,
    trained_norms,
)
from effbench.training.checkpoint import Checkpoints
from effbench.training.clipping import choose_clipping
from effbench.training.distributed import DistributedContext
from effbench.training.early_stopping import EarlyStopping, NoEarlyStopping, StoppingRule
from effbench.training.ema import Ema, NoEma, OptimizerAverage, WeightAverage, averages_itself
from effbench.training.failure_policies import (
    BufferSnapshot,
    RaiseOnOutOfMemory,
    SkipNonFinite,
    SplitOnOutOfMemory,
)
from effbench.training.penalty import L1Penalty
from effbench.training.precision import Precision, choose_precision
from effbench.training.state import Limits
from effbench.training.trainer import Intervals, Trainer
from effbench.units import seconds_from


def trainer(
    config: Config,
    data: Splits,
    modality: Modality,
    ranks: DistributedContext,
    checkpoints: Checkpoints | None,
    chosen: Task | None = None,
    make_model: Callable[[], nn.Module] | None = None,
) -> Trainer:
    """Build the trainer. Parts that cannot work together are refused here, before the first step.

    Args:
        config: a checked config.
        data: the dataset.
        modality: fitted modality.
        ranks: processes that train together.
        checkpoints: where checkpoints are saved; None on ranks other than 0.
        chosen: the task, if it has checked `data` and `config` is settled; by default both are done here.
        make_model: returns the model, on the CPU; by default `build.model` does.

    Raises:
        ConfigError: two parts do not fit each other or the data.
    """
    device = modality.transfer.device
    if chosen is None:
        config, data, chosen = _prepared(config, data, device, ranks)
    _check_monitors(config, data, chosen)
    # The batches come before the schedule, because spans such as '2 epochs' need the steps of an epoch.
    train = train_batches(config, data, modality, ranks)
    limits = _limits(config)
    net = _model_on(device, config, data, modality, chosen, make_model)
    over = optimizer(config, net)
    section, trained = config.trainer, [p for p in net.parameters() if p.requires_grad]
    precision, _ = choose_precision(section.precision, device)
    planned = schedule(config, over, limits.total_steps(train.steps_per_epoch), train.steps_per_epoch)
    return Trainer(
        model=net,
        forward=ranks.wrap(compiled_model(net, section.compile)),
        optimizer=over,
        schedule=planned,
        plateau_metric=_plateau_metric(config, chosen),
        compiled=section.compile is not False,
        train=train,
        val=None if data.val is None else eval_batches(config, data.val, modality, ranks, section.limit_val_batches),
        limits=limits,
        task=chosen,
        penalty=L1Penalty(decayed_parameters(net, config.optimizer.no_decay), config.loss.l1),
        clip=choose_clipping(trained, section.gradient_clip_val, section.gradient_clip_algorithm),
        precision=precision,
        ema=_average(config, net, over),
        **_failure_policies(config, net, modality, ranks, precision),
        early_stopping=_early_stopping(config, planned.rise),
        statistics=_statistics(config, net, averages_itself(over), train, ranks, precision),
        checkpoints=checkpoints,
        save_in_background=config.checkpoint.background,
        ranks=ranks,
        intervals=Intervals(
            section.check_val_every_n_epoch, section.log_every_n_steps, config.checkpoint.every_n_steps
        ),
    )


def _prepared(
    config: Config, data: Splits, device: torch.device, ranks: DistributedContext
) -> tuple[Config, Splits, Task]:
    """Do what a session has done before: settle the config, check the targets."""
    config = with_monitors(settled(config, len(data.train), data.modality, data.shape, ranks.world_size))
    chosen = task(config, data, device)
    return config, chosen.checked(data), chosen


def _failure_policies(
    config: Config, net: nn.Module, modality: Modality, ranks: DistributedContext, precision: Precision
) -> dict[str, Any]:
    """Return the trainer's arguments for losses that are not finite and for out-of-memory errors."""
    section = config.trainer
    oom = SplitOnOutOfMemory if section.on_oom == "halve" else RaiseOnOutOfMemory
    # Only a step that may be taken back needs a copy of the buffers (batch norm statistics).
    undoes = (section.on_nonfinite, section.on_oom) != ("stop", "raise")
    # With 16-mixed torch's GradScaler looks for gradients that are not finite, and skips the step itself.
    looks = precision.name != "16-mixed"
    return {
        "nonfinite_policy": SkipNonFinite(ranks, looks) if section.on_nonfinite == "skip" else None,
        "oom_policy": oom(modality.size_key),
        "buffer_snapshot": BufferSnapshot(net.buffers() if undoes else ()),
    }


def _model_on(
    device: torch.device,
    config: Config,
    data: Splits,
    modality: Modality,
    chosen: Task,
    make_model: Callable[[], nn.Module] | None,
) -> nn.Module:
    # On the CPU first, so that a seed gives the same weights on every device.
    try_loss(config, chosen, data, modality)
    refuse_given("model", config.model.options, model_facts(len(data.classes), modality))
    net = model(config, len(data.classes), modality) if make_model is None else make_model()
    check_outputs(config, net, data, modality, chosen)
    # Layers are replaced before the optimizer sees the parameters, and moved before it makes its state.
    if device.type == "cpu":
        accelerate(net)
    moved: nn.Module = net.to(device, memory_format=memory_format(config))  # type: ignore[call-overload]
    return moved


def _average(config: Config, net: nn.Module, over: Optimizer) -> WeightAverage:
    """Return the weights to evaluate: the optimizer's average, an EMA, or the trained weights."""
    if averages_itself(over):
        # An EMA of weights that are an average already would lag behind them.
        refuse_two_averages(config)
        return OptimizerAverage(net, over)
    return Ema(net, config.ema.decay) if config.ema.enabled else NoEma(net)


def _limits(config: Config) -> Limits:
    section = config.trainer
    seconds = None if section.max_time is None else seconds_from(section.max_time, "trainer.max_time")
    epochs = None if section.max_epochs is None else number(section.max_epochs)
    return Limits(section.max_steps, seconds, epochs)


def _statistics(
    config: Config,
    net: nn.Module,
    averages: bool,
    train: TrainBatches,
    ranks: DistributedContext,
    precision: Precision,
) -> NormStatistics:
    """Return the policy for batch norm statistics. Every rank computes the same ones, so no exchange is needed.

    averages: True if the optimizer averages the weights.
    """
    norms = trained_norms(net)
    if not norms:
        return KeepStatistics()
    # Not drawn from the loop's batches: those are at another place after a resume. A run that trains on a few batches
    # only (debug=smoke) is to be short: it takes no more samples for the statistics than for an epoch.
    trial = config.trainer.is_trial
    most = {"most": max(2, train.batch_size * train.accumulate * train.steps_per_epoch)} if trial else {}
    batches = partial(statistics_batches, train.split, train.modality, config.seed, **most)
    # The running statistics belong to the weights in training, not to their average.
    kind = AveragedStatistics if averages or config.ema.enabled else RefreshStatistics
    return kind(norms, batches, train.batch_size // ranks.world_size, config.data.eval_batch_size, precision)


def _early_stopping(config: Config, warmup: int) -> StoppingRule:
    section = config.early_stopping
    if not section.enabled:
        return NoEarlyStopping()
    patience = number(section.patience)
    return EarlyStopping(section.monitor, section.mode, patience, section.min_delta, section.stopping_threshold, warmup)


# What to write instead of what reads a validation.
_WITHOUT = {
    "checkpoint.monitor": "checkpoint.save_top_k=0", "early_stopping.monitor": "early_stopping=off",
    "scheduler": "scheduler=cosine",
}  # fmt: skip


def _check_monitors(config: Config, data: Splits, chosen: Task) -> None:
    """Check that monitored metrics exist, with the right mode; without a validation split there is no val/*."""
    for key in ("checkpoint", "early_stopping"):
        section = getattr(config, key)
        metric = section.monitor.partition("/")[2]
        if metric not in chosen.names:
            raise ConfigError(unknown_name(f"{key}.monitor", section.monitor, [f"val/{name}" for name in chosen.names]))
        # The schema knows the modes of shipped metrics; that of a user's own is known only now.
        if section.mode != chosen.displays[metric].mode:
            raise ConfigError(f"{key}.mode must be {chosen.displays[metric].mode} for {metric}; got {section.mode}.")
    if data.val is not None:
        return
    # Only what would read a validation's result: a checkpoint is not ranked with save_top_k=0.
    wanted = {"checkpoint.monitor": config.checkpoint.monitor} if config.checkpoint.save_top_k else {}
    if config.early_stopping.enabled:
        wanted["early_stopping.monitor"] = config.early_stopping.monitor
    if watches_metric(config):
        wanted["scheduler"] = _plateau_metric(config, chosen)
    unmet = [key for key, metric in wanted.items() if metric.startswith("val/")]
    if unmet:
        read = " and ".join(f"{key} reads {wanted[key]}" for key in unmet)
        raise ConfigError(
            f"{read}, but {data.name} has no validation split. Give it one (data.val_fraction), or write "
            f"{' '.join(_WITHOUT[key] for key in unmet)}."
        )


def _plateau_metric(config: Config, chosen: Task) -> str:
    """Return the metric that a schedule watches: val/loss, or for mode=max the task's first metric to maximise."""
    if not (watches_metric(config) and config.scheduler.options.get("mode") == "max"):
        return f"val/{LOSS}"
    rising = [name for name, display in chosen.displays.items() if display.mode == "max"]
    if not rising:
        raise ConfigError(f"scheduler.mode=max, but task.metrics={list(chosen.names[1:])} has none that is to rise.")
    return f"val/{rising[0]}"
