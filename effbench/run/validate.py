"""Build a config without data and weights, to check that its parts fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from effbench import build
from effbench.automatic import settled
from effbench.config.schema import Config
from effbench.cpu.library import check_switch
from effbench.data.modality import Modality
from effbench.errors import ConfigError, DataError, EffbenchError
from effbench.models import accounting
from effbench.report.cost import Setting, read_setting, shape_model
from effbench.target_allowlist import resolve
from effbench.units import human_count

_CLASSES = 10  # where the targets decide: any number will do, it does not affect the checks


def dry_build(config: Config, setting: Setting) -> str:
    """Build model, optimizer, schedule and callbacks.

    Args:
        config: a checked config.
        setting: modality and number of classes to build for.

    Returns:
        One line that describes what was built.

    Raises:
        ConfigError: a part refuses its options.
    """
    for group in ("model", "data"):
        resolve(group, getattr(config, group).target, config.allow_targets)
    task = build.task_of(config, setting.num_classes)
    task.check_samples(type(setting.modality), f"data ({config.data.label})")
    model = shape_model(config, setting)
    build.check_shapes(config, model)
    # The model has shapes only (device meta), and an optimizer needs values: it gets linear layers instead, one of them
    # hidden. A bias and a batch norm have parameters of one dimension, which an optimizer for matrices does not accept.
    vectors = build.takes_vectors(config)
    layers: list[torch.nn.Module] = [torch.nn.Linear(2, 2, bias=vectors)]
    if vectors:
        layers += [torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)]
    optimizer = build.optimizer(config, torch.nn.Sequential(*layers))
    kind = setting.modality
    build.schedule(settled(config, 1000, type(kind), kind.shape), optimizer, total_steps=100, steps_per_epoch=10)
    build.callbacks(config)
    count = "at most " * kind.provisional + human_count(accounting.parameters(model).total)
    return f"{type(model).__name__} ({count} parameters) with {type(optimizer).__name__}"


def dry_build_own(config: Config) -> str:
    """Build for the config's own samples, as `dry_build` does.

    The data are read only if the build is refused for the most token numbers that a tokenizer may get, which the fitted
    one may not have.
    """
    setting = own_setting(config)
    try:
        return dry_build(config, setting)
    except ConfigError:
        if not setting.modality.provisional:
            raise
        try:
            fitted = read_setting(config)
        except DataError:
            fitted = None
        if fitted is None:
            raise
    return dry_build(config, fitted)


def refuse_early(config: Config) -> None:
    """Refuse what can be refused before data are read. A model is built by shapes only if reading may take minutes."""
    check_switch()
    build.check_options(config)
    _refuse_shapes(config)


def refused_early(configs: Mapping[int, Config]) -> dict[int, str]:
    """Return number -> message for the configs that a run would refuse before it reads data.

    Options that exclude each other are found only here, such as ema=on with an optimizer that averages by itself: the
    schema knows each section by itself.
    """
    refused: dict[int, str] = {}
    # What decides the shape check -> its message: a sweep of learning rates builds its model once.
    by_shape: dict[str, str | None] = {}
    for number, config in configs.items():
        problem = _message_of(_refuse_parts, config)
        if problem is None:
            section = config.optimizer
            key = str((config.model, config.data, section.target, section.no_decay, section.group_lr))
            if key not in by_shape:
                by_shape[key] = _message_of(_refuse_shapes, config)
            problem = by_shape[key]
        if problem is not None:
            refused[number] = problem
    return refused


def _message_of(check: Callable[[Config], None], config: Config) -> str | None:
    """Return the message with which the check refuses the config; None if it does not."""
    try:
        check(config)
    except EffbenchError as error:
        return str(error)
    except Exception:  # noqa: BLE001 - a user's class may raise anything: the run itself reports it in full
        return None
    return None


def _refuse_parts(config: Config) -> None:
    build.device_type(config)
    build.check_options(config)
    build.callbacks(config)


def _refuse_shapes(config: Config) -> None:
    # With quick data the model itself is built a moment later: two builds would only take time.
    kind = build.preview(config) if build.takes_time(config) else None
    if kind is not None:
        build.check_shapes(config, shape_model(config, _previewed(kind)))


def own_setting(config: Config) -> Setting:
    """Return the config's own sample shape: as its dataset declares it, else by reading the dataset.

    Of a declared one the sizes that are known without the data are right: not the number of classes, and of a
    vocabulary that is fitted the most that it may have. `read_setting` has all of them.
    """
    kind = build.preview(config)
    return read_setting(config) if kind is None else _previewed(kind)


def _previewed(kind: Modality) -> Setting:
    return Setting(kind, kind.num_outputs or _CLASSES)
