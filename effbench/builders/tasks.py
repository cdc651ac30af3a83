"""Build the task with its loss and metrics."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from effbench.builders.factories import construct, refuse_given
from effbench.config.monitors import monitored, monitors_are_known
from effbench.config.schema import Config
from effbench.data.batches import mixed_labels
from effbench.data.modality import Modality
from effbench.data.splits import Splits
from effbench.errors import ConfigError, shown, unknown_name
from effbench.metrics import LOSS, Display, Metric, shipped
from effbench.target_allowlist import resolve
from effbench.tasks.losses import TORCH_TARGETS, UNFIT, Loss, OfTorch, class_weights
from effbench.tasks.task import Task
from effbench.units import SPEED

# Torch's losses then give one value a sample, and the loop computes the sum.
_PER_SAMPLE = {"reduction": "none"}


def task(config: Config, data: Splits, device: torch.device | None = None) -> Task:
    """Build the task with its loss and metrics, fitted to the train split.

    Args:
        config: a checked config.
        data: the dataset.
        device: device of the loss's tensors; the CPU by default.

    Raises:
        ConfigError: loss, metrics and task do not fit each other or the data.
        DataError: the targets do not fit the task.
    """
    check_loss(config)
    minimised = loss(config, data).to(device or torch.device("cpu"))
    built = task_of(config, len(data.classes), minimised, data.modality.task_facts(data.facts))
    built.fit(data)
    return built


def task_of(
    config: Config, num_outputs: int, minimised: Loss | None = None, facts: Mapping[str, Any] | None = None
) -> Task:
    """Build the task of a trained run, without data: `Task.restore` brings what was fitted to them.

    Args:
        config: a checked config.
        num_outputs: size of the model's last dimension.
        minimised: the loss; by default that of `config` without class weights, which only training needs.
        facts: what the data give the task's constructor, from `Modality.task_facts`; those that it has are taken.
    """
    section = config.task
    kind = resolve("task", section.target, config.allow_targets)
    if not (inspect.isclass(kind) and issubclass(kind, Task)):
        raise ConfigError(f"task._target_ {section.target!r} is no subclass of effbench.tasks.task.Task.")
    if minimised is None:
        minimised = loss(config)
    given = {"loss": minimised, "metrics": metrics(config), "num_outputs": num_outputs}
    words = inspect.signature(kind).parameters
    given |= {key: value for key, value in (facts or {}).items() if key in words}
    built: Task = construct("task", section.target, kind, {**section.options, **given})
    return built


def check_loss(config: Config) -> None:
    """Refuse a loss of torch.nn that is for other targets than the task's, or for other outputs than logits.

    Only for training: a run that was trained with one can still be read.
    """
    target = config.loss.target
    task: Any = resolve("task", config.task.target, config.allow_targets)
    kind: Any = resolve("loss", target, config.allow_targets)
    # Of exactly torch's class: a subclass of the user's may change outputs and targets first.
    if kind in UNFIT:
        raise ConfigError(f"loss._target_ {target!r} {UNFIT[kind]}")
    takes, has = TORCH_TARGETS.get(kind), getattr(task, "kind", None)
    if takes is not None and has is not None and has not in takes:
        raise ConfigError(
            f"loss._target_ {target!r} is for targets of kind {' or '.join(takes)}; task={task.label} has "
            f"targets of kind {has}. {task.remedy}"
        )
    if inspect.isclass(kind) and not issubclass(kind, Loss):
        refuse_given("loss", config.loss.options, _PER_SAMPLE)


def try_loss(config: Config, chosen: Task, data: Splits, modality: Modality) -> None:
    """Refuse a loss of torch.nn with options that cannot take the targets of a training step.

    A loss of the user's is not tried: its class may need more than two samples.

    Args:
        config: a checked config.
        chosen: the task, with the loss on the device.
        data: the dataset.
        modality: fitted modality; its augmentation may mix targets.
    """
    loss = chosen.loss
    if not isinstance(loss, OfTorch) or not type(loss.module).__module__.startswith("torch."):
        return
    labels, device = modality.targets(data.train.labels, slice(0, 2), {}), modality.transfer.device
    outputs = torch.zeros(len(labels), *chosen.output_shape(data.shape, len(data.classes)), device=device)
    steps = {"": labels}
    if modality.draws and "partner" in modality.draw(2, torch.Generator().manual_seed(0)):
        shares = torch.full((len(labels),), 0.5)
        steps["mixed "] = mixed_labels(labels, labels.flip(0), shares, len(data.classes))
    for form, targets in steps.items():
        try:
            loss.summed(*chosen.rows(outputs, targets.to(device)))
        except (TypeError, ValueError, AssertionError, LookupError, RuntimeError) as error:
            given = ", ".join(f"loss.{key}={shown(value)}" for key, value in config.loss.options.items())
            unmixed = ", or do not mix (for images augment.mixup_alpha=0 augment.cutmix_alpha=0)" if form else ""
            raise ConfigError(
                f"loss ({config.loss.target}) does not take the {form}targets of this run: {str(error).rstrip('.')}. "
                f"Options: {given or 'none'}. Leave out the option that does not fit, take another loss{unmixed}."
            ) from error


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
    for metric in found:
        _check_name(metric)
    # Sums, columns and log lines are keyed by name; the loss is always there.
    names = [metric.name for metric in found]
    if twice := {name for name in names if names.count(name) > 1 or name == LOSS}:
        raise ConfigError(f"task.metrics names {', '.join(sorted(twice))} twice; each metric has a name of its own.")
    return found


def _check_name(metric: Metric) -> None:
    """Check the name and the display of a metric: both are written into columns and records."""
    label = type(metric).__name__
    name: object = metric.name
    if not isinstance(name, str) or not name or "/" in name or not name.isprintable() or any(map(str.isspace, name)):
        raise ConfigError(
            f"task.metrics: the name of {label} must be a text without spaces and '/', such as 'kappa'; "
            f"got {shown(name)}. It becomes the column val/kappa."
        )
    if name.endswith(SPEED):
        raise ConfigError(
            f"task.metrics: the name of {label} is {name!r}, but columns whose name ends with {SPEED} hold the "
            "throughput. Name it otherwise."
        )
    display = getattr(metric, "display", None)
    if not isinstance(display, Display):
        raise ConfigError(
            f"task.metrics: {label} needs display = Display(title, 'min' or 'max') of effbench.metrics: it says how "
            "values are written and which are better."
        )
    for key, text in (("title", display.title), ("unit", display.unit)):
        if not text.isprintable():
            raise ConfigError(
                f"task.metrics: display.{key} of {label} must hold printable characters only; got {text!r}. It is "
                "written on the terminal and in charts."
            )


def with_monitors(config: Config, before: Mapping[str, Any] | None = None) -> Config:
    """Return the config with a metric and a mode for each `auto` of checkpoint and early_stopping.

    Args:
        config: a checked config.
        before: the config that a resumed run was started with. Its values are kept.
    """
    if monitors_are_known(config):
        return config
    # The number of outputs changes no display.
    return monitored(config, task_of(config, num_outputs=2).displays, before)


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
        options |= _PER_SAMPLE
    built: Any = construct("loss", section.target, kind, options)
    return built if isinstance(built, Loss) else OfTorch(built)
