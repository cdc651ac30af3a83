"""Run as a Hydra application, for features that only Hydra has: --cfg, --info, completion, other launchers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from effbench.cache_dir import expanded
from effbench.config.words import as_meant


def as_hydra_app(
    words: Sequence[str], task: Callable[[Any], None], config_dir: str | None, program: str = "effbench train"
) -> int:
    """Run `task` like the main function of a Hydra application.

    Args:
        words: overrides and options of the command line.
        task: function of the composed config.
        config_dir: folder with the user's config groups, from --config-dir.
        program: name of the program in Hydra's messages.

    Returns:
        Exit code: 0, or 2 if Hydra refuses the command line.
    """
    import hydra

    from effbench.config.compose import ROOT
    from effbench.config.hydra_loader import guarded, register_recipes
    from effbench.config.paths import conf_dir

    register_recipes(expanded(config_dir) if config_dir else None)
    # hydra.main reads sys.argv, and records it.
    argv, sys.argv = sys.argv, [program, *map(as_meant, words)]
    try:
        with guarded():
            hydra.main(config_path=str(conf_dir()), config_name=ROOT, version_base="1.3")(task)()
    except SystemExit as stop:  # Hydra has printed its error
        return 2 if stop.code else 0
    finally:
        sys.argv = argv
    return 0
