"""Build the task with its loss and metrics."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from effbench.builders.factories import construct
from effbench.config.schema import Config
from effbench.data.splits import Splits
from effbench.errors import ConfigError, unknown_name
from effbench.metrics import LOSS, Metric, shipped
from effbench.target_allowlist import resolve
from effbench.tasks.losses import Loss, OfTorch, class_weights
from effbench.tasks.task import Task


def task(config: Config, data: Splits, device: torch.device | None = None) -> Task:
    """Build the task with its loss and metrics.

    Args:
        config: a checked config.
        data: the dataset.
        device: device of the loss's tensors; the CPU by default.

    Raises:
        ConfigError: loss, metrics and task do not fit each other or the data.
    """
    return task_of(config, len(data.classes), loss(config, data).to(device or torch.device("cpu")))


def task_of(config: Config, num_outputs: int, minimised: Loss | None = None) -> Task:
    """Build the task of a trained run, without data.

    Args:
        config: a checked config.
        num_outputs: size of the model's last dimension.
        minimised: the loss; by default that of `config` without class weights, which only training needs.
    """
    section = config.task
    kind = resolve("task", section.target, config.allow_targets)
    if not (inspect.isclass(kind) and issubclass(kind, Task)):
        raise ConfigError(f"task._target_ {section.target!r} is no subclass of effbench.tasks.task.Task.")
    if minimised is None:
        minimised = loss(config)
    facts = {"loss": minimised, "metrics": metrics(config), "num_outputs": num_outputs}
    built: Task = construct("task", section.target, kind, {**section.options, **facts})
    return built


def metrics(config: Config) -> list[Metric]:
    """Return the metrics in task.metrics, which are names of shipped ones or of the user's classes."""
    kind = getattr(resolve("task", config.task.target, config.allow_targets), "kind", "class")
    known, found = shipped(kind), list[Metric]()
    for name in config.task.metrics:
        # A name with a dot is a user's class; shipped metrics have plain names.
        metric: Any = resolve("task.metrics", name, config.allow_targets) if "." in name else known.get(name)
        if metric is None:
            raise ConfigError(unknown_name("metric in task.metrics", name, known))
        if not (inspect.isclass(metric) and issubclass(metric, Metric) and hasattr(metric, "name")):
            raise ConfigError(f"task.metrics: {name!r} must be a subclass of effbench.metrics.Metric with a name.")
        found.append(construct("task.metrics", name, metric, {}))
    # Sums, columns and log lines are keyed by name; the loss is always there.
    names = [metric.name for metric in found]
    if twice := {name for name in names if names.count(name) > 1 or name == LOSS}:
        raise ConfigError(f"task.metrics names {', '.join(sorted(twice))} twice; each metric has a name of its own.")
    return found


def loss(config: Config, data: Splits | None = None) -> Loss:
    """Build the loss. Class weights are computed from the train split; without data there are none."""
    section, options = config.loss, config.loss.options
    kind = resolve("loss", section.target, config.allow_targets)
    if not inspect.isclass(kind) or not issubclass(kind, Loss | nn.Module):
        raise ConfigError(f"loss._target_ {section.target!r} must be a subclass of Loss (effbench.tasks.losses), or a "
                          "loss of torch.nn.")  # fmt: skip
    # The config holds 'balanced' or a list of numbers; the class takes a tensor (K,).
    chosen = options.pop("class_weights", None)
    if chosen is not None and data is not None:
        if data.train.labels.dim() != 1 or data.train.labels.is_floating_point():
            raise ConfigError(f"loss.class_weights={chosen} is for class numbers; {data.name} has other targets.")
        options["class_weights"] = class_weights(chosen, data.train.labels, len(data.classes))
    if not issubclass(kind, Loss):
        # nn.Module's own constructor refuses all arguments, although its signature is (*args, **kwargs)
        words = [] if kind.__init__ is nn.Module.__init__ else inspect.signature(kind).parameters.values()
        if not any(word.name == "reduction" or word.kind is word.VAR_KEYWORD for word in words):
            raise ConfigError(
                f"loss._target_ {section.target!r} has no argument reduction, which losses of torch.nn have. Make it a "
                "subclass of effbench.tasks.losses.Loss with a method summed, or add reduction: it gets 'none', for "
                "one value a sample."
            )
        options["reduction"] = "none"  # torch's losses then give one value a sample, and the loop computes the sum
    built: Any = construct("loss", section.target, kind, options)
    return built if isinstance(built, Loss) else OfTorch(built)
