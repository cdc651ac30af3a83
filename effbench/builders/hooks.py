"""Build the callbacks of a config."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

from effbench.builders.factories import check_booleans, construct
from effbench.config.schema import Config
from effbench.errors import ConfigError
from effbench.target_allowlist import resolve
from effbench.training.callbacks import Callback, NamedCallback, complaint_about


def callbacks(config: Config, more: Sequence[Callback] = ()) -> list[NamedCallback]:
    """Return the callbacks of the config, then `more`; each carries its name for messages.

    Args:
        config: a checked config.
        more: callbacks made in Python.

    Raises:
        ConfigError: an object is not a Callback, or a hook does not exist or takes other arguments.
    """
    found = []
    for name, section in config.callbacks.named.items():
        key = f"callbacks.{name}"
        kind = resolve(key, section.target, config.allow_targets)
        if not (inspect.isclass(kind) and issubclass(kind, Callback)):
            raise ConfigError(
                f"{key}._target_ {section.target!r} must be a class derived from effbench.Callback, such as "
                "class Mine(effbench.Callback): def epoch_end(self, context, values): ..."
            )
        check_booleans(key, kind, section.options, config.allow_targets)
        found.append((key, construct(key, section.target, kind, section.options)))
    found += [(f"callback {type(callback).__name__}", callback) for callback in more]
    for key, callback in found:
        if not isinstance(callback, Callback):
            raise ConfigError(f"callbacks must be instances of effbench.Callback; got {callback!r}.")
        if complaint := complaint_about(callback):
            raise ConfigError(f"{key} ({type(callback).__module__}.{type(callback).__qualname__}): {complaint}.")
    return [NamedCallback(key, callback) for key, callback in found]
