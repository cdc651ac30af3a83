"""Where effbench keeps what can be made again."""

from __future__ import annotations

import os
from pathlib import Path

from effbench.errors import ConfigError


def cache_home() -> Path:
    """$XDG_CACHE_HOME/effbench, or ~/.cache/effbench where that is unset or relative (to be ignored, XDG says)."""
    configured = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        return (configured if configured.is_absolute() else Path.home() / ".cache") / "effbench"
    except RuntimeError as error:
        raise ConfigError("There is no home folder for a cache: set XDG_CACHE_HOME to a folder.") from error
