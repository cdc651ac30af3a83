"""Build the callbacks of a config."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

from effbench.builders.factories import check_booleans, construct
from effbench.config.schema import Config
from effbench.errors import ConfigError
from effbench.target_allowlist import resolve
from effbench.training.callback_checks import complaint_about
from effbench.training.callbacks import Callback, NamedCallback


def callbacks(config: Config, more: Sequence[Callback] = ()) -> list[NamedCallback]:
    """Return the callbacks of the config, then `more`; each carries its name for messages.

    Args:
        config: a checked config.
        more: callbacks made in Python.

    Raises:
        ConfigError: an object is not a Callback, a hook does not exist or takes other arguments, or two callbacks
            have the same column of metrics.csv.
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

    named: list[NamedCallback] = []
    owners: dict[str, str] = {}  # column -> name of its callback
    # Both kinds: objects made in Python come unchecked, and a misspelt hook would never be called.
    for key, callback in found:
        if not isinstance(callback, Callback):
            raise ConfigError(f"callbacks must be instances of effbench.Callback; got {callback!r}.")
        one = NamedCallback(key, callback)
        if complaint := complaint_about(callback, one.columns):
            raise ConfigError(f"{one.label}: {complaint}.")
        for column in one.columns:
            # A cell of metrics.csv holds one value: that of the second callback would replace the first one's.
            if column in owners:
                raise ConfigError(f"{owners[column]} and {key} both have the column {column!r}; rename one.")
            owners[column] = key
        named.append(one)
    return named
