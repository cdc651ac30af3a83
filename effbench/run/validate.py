"""A config built as far as it goes without data or weights: proof that its parts fit."""

from __future__ import annotations

import torch

from effbench import build
from effbench.automatic import settled
from effbench.config.options import COUNT
from effbench.config.schema import Config
from effbench.cpu.library import check_switch
from effbench.models import accounting
from effbench.report.cost import PUBLISHED, Setting, shape_model
from effbench.target_allowlist import resolve
from effbench.units import human_count


def dry_build(config: Config, setting: Setting | None = None) -> str:
    """A line on what was built. Raises ConfigError where model, optimizer or schedule refuse their options."""
    for group in ("model", "data"):
        resolve(group, getattr(config, group).target, config.allow_targets)
    model = shape_model(config, setting or PUBLISHED)
    build.check_shapes(config, model)
    optimizer = build.optimizer(config, _one_layer(build.takes_vectors(config)))
    build.schedule(settled(config, images=1000, side=28), optimizer, total_steps=100, steps_per_epoch=10)
    build.callbacks(config)
    count = human_count(accounting.parameters(model).total)
    return f"{type(model).__name__} ({count} parameters) with {type(optimizer).__name__}"


def refuse_early(config: Config) -> None:
    """Refuses what can be, before time is spent on data; a whole model by shapes only where that may be minutes."""
    check_switch()
    build.check_options(config)
    if build.takes_time(config):
        build.check_shapes(config, shape_model(config, own_setting(config)))


def own_setting(config: Config) -> Setting:
    """Images of the config's own size; the number of classes does not matter to what fits."""
    size = config.data.options.get("image_size")
    if not COUNT.holds(size):
        size = 224  # its dataset says what is wrong with it
    return Setting((3, size, size), 10)


def _one_layer(vectors: bool) -> torch.nn.Module:
    """vectors: with biases and a norm too, not a matrix alone."""
    layers = [torch.nn.Linear(2, 2, bias=vectors), *([torch.nn.BatchNorm1d(2)] if vectors else [])]
    return torch.nn.Sequential(*layers)
