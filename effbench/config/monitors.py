"""Monitors: the metrics that rank checkpoints and stop a run early. `auto` becomes a metric and a mode."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from effbench.config.compare import leaves
from effbench.errors import ConfigError, unknown_name
from effbench.metrics import LOSS, Display, metric_of, primary, shipped_mode

if TYPE_CHECKING:
    from effbench.config.schema import Config

AUTO = "auto"
MONITORS = ("checkpoint", "early_stopping")  # sections with the keys monitor and mode


def with_shipped_monitors(content: dict[str, Any]) -> dict[str, Any]:
    """Replace `auto` where shipped metrics decide. `monitored` settles the rest.

    A name with a dot is the user's own class: its module is not imported yet, so its name and mode are unknown. Its
    name may be that of a shipped metric, with another mode.
    """
    task = content.get("task")
    named = task.get("metrics") if isinstance(task, dict) else None
    if not isinstance(named, list):
        return content
    first = named[0] if named else LOSS
    for key in MONITORS:
        section = content.get(key)
        if not isinstance(section, dict):
            continue
        if section.get("monitor") == AUTO and isinstance(first, str) and "." not in first:
            section = {**section, "monitor": f"val/{first}"}
        if section.get("mode") == AUTO and isinstance(section.get("monitor"), str):
            metric = metric_of(section["monitor"])
            section = {**section, "mode": (shipped_mode(metric) if metric in (LOSS, *named) else None) or AUTO}
        content = {**content, key: section}
    return content


def monitors_are_known(config: Config) -> bool:
    """Return True if no monitor and no mode is `auto`."""
    return all(AUTO not in (getattr(config, key).monitor, getattr(config, key).mode) for key in MONITORS)


def monitored(config: Config, displays: Mapping[str, Display], before: Mapping[str, Any] | None = None) -> Config:
    """Return the config with a metric and a mode for each `auto` that is left: those of the user's own metrics.

    Args:
        config: a checked config.
        displays: metric name -> display of the task, with the loss.
        before: the config that a resumed run was started with. Its values are kept.
    """
    for key in MONITORS:
        section = getattr(config, key)
        monitor, mode = section.monitor, section.mode
        if monitor == AUTO:
            kept = leaves(before or {}).get(f"{key}.monitor", AUTO)
            monitor = f"val/{primary(displays)}" if kept == AUTO else str(kept)
        display = displays.get(metric_of(monitor))
        # An unknown metric has no mode: the trainer's builder refuses it.
        if mode == AUTO and display is not None:
            mode = display.mode
        config = config.model_copy(update={key: section.model_copy(update={"monitor": monitor, "mode": mode})})
    return config


def check_monitors(config: Config) -> None:
    """Check that monitored metrics are computed, and their modes: a wrong one would keep the worst checkpoint.

    The user's own metrics are known only when their module is imported; the trainer's builder checks those.
    """
    shipped_ones = [name for name in (LOSS, *config.task.metrics) if "." not in name]
    # LOSS is always among them: as many names as task.metrics has mean that one of these is the user's own.
    own = len(shipped_ones) <= len(config.task.metrics)
    names = [f"{split}/{name}" for name in shipped_ones for split in ("train", "val")]
    for section in MONITORS:
        monitor = getattr(config, section).monitor
        if monitor not in (*names, AUTO) and not (own and monitor.startswith(("train/", "val/"))):
            computed = f"(task.metrics: {', '.join(config.task.metrics) or 'none'}; the loss is always computed)"
            if not monitor.startswith(("train/", "val/")):
                # A column of a callback has no mode and may be missing in an epoch, so it can rank nothing.
                computed += ". A column that a callback logs cannot be monitored: write a metric (task.metrics)"
            raise ConfigError(f"{unknown_name(f'{section}.monitor', monitor, names)} {computed}")
        wanted = shipped_mode(monitor) if metric_of(monitor) in shipped_ones else None
        mode = getattr(config, section).mode
        if wanted is not None and mode not in (wanted, AUTO):
            raise ConfigError(f"{section}.mode must be {wanted} where monitor is {monitor}; got mode={mode}.")
