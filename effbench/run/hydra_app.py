"""Hydra's own application, for what is Hydra's: --cfg, --info, completion, other launchers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from effbench.cache_dir import expanded
from effbench.config.words import as_meant


def as_hydra_app(
    words: Sequence[str], task: Callable[[Any], None], config_dir: str | None, program: str = "effbench train"
) -> int:
    """Runs `task` the way Hydra runs an application's main; 2 where Hydra refuses."""
    import hydra

    from effbench.config.compose import ROOT
    from effbench.config.hydra_loader import guarded, register_recipes
    from effbench.config.paths import conf_dir

    register_recipes(expanded(config_dir) if config_dir else None)
    argv, sys.argv = sys.argv, [program, *map(as_meant, words)]
    try:
        with guarded():
            hydra.main(config_path=str(conf_dir()), config_name=ROOT, version_base="1.3")(task)()
    except SystemExit as stop:
        return 2 if stop.code else 0
    finally:
        sys.argv = argv
    return 0
