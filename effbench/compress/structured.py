"""method=structured. Under construction: helper B's part."""

from __future__ import annotations

from pathlib import Path

from effbench.compress.options import CompressOptions
from effbench.compress.record import Result
from effbench.errors import ConfigError
from effbench.run.run import Run


def structured(source: Run, options: CompressOptions, folder: Path) -> Result:
    """Raise: it is not written yet."""
    raise ConfigError(f"method={options.method} of {source.folder} into {folder}: not written yet.")
