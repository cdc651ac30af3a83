"""effbench recipe: the tested recipes that ship with effbench."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from effbench.cache_dir import expanded
from effbench.cli.flags import RECIPE_ACTIONS, VERB_FLAGS, parse_flags, show_help
from effbench.config.paths import recipes_dir
from effbench.config.recipes import quoted, shipped_recipes
from effbench.errors import ConfigError, unknown_name
from effbench.strict_json import print_json

log = logging.getLogger(__name__)

HELP = """usage: effbench recipe ls [--json]
       effbench recipe show NAME
       effbench recipe cp NAME DIR
       effbench recipe validate NAME|PATH [--config-dir DIR]

ls        lists the recipes that ship with effbench; --json: name, summary and path of each
show      prints a recipe; its header states the measured result
cp        copies a recipe to DIR/NAME.yaml; train it with: effbench train recipe=DIR/NAME.yaml
validate  builds the model, optimizer and schedule of a recipe, without training"""


def main(words: Sequence[str]) -> int:
    arguments = parse_flags(words, VERB_FLAGS["recipe"])
    if arguments.has("help") or not arguments.overrides:
        return show_help(HELP, arguments.has("help"))
    name, *rest = arguments.overrides
    if name not in RECIPE_ACTIONS:
        raise ConfigError(unknown_name("action of recipe", name, RECIPE_ACTIONS))
    count = RECIPE_ACTIONS[name]
    if len(rest) != count:
        raise ConfigError(
            f"effbench recipe {name} takes {count} argument{'s' * (count != 1)}; got {len(rest)}.\n{HELP}"
        )
    if arguments.has("json") and name != "ls":
        raise ConfigError(f"effbench recipe {name} has no --json; effbench recipe ls --json has.")
    if arguments.has("config_dir") and name != "validate":
        raise ConfigError(f"effbench recipe {name} has no --config-dir; effbench recipe validate has.")
    # arguments from flags, which only these actions have
    own: dict[str, list[bool | str | None]] = {"ls": [arguments.has("json")], "validate": [arguments.get("config_dir")]}
    _ACTIONS[name](*rest, *own.get(name, []))
    return 0


def _list(as_json: bool) -> None:
    summaries: dict[str, str] = {}
    for name in shipped_recipes():
        lines = _path(name).read_text(encoding="utf-8").splitlines()
        top = itertools.takewhile(lambda line: line.startswith("#"), lines)
        # Hydra's directive comes first; the summary is the first line after it
        texts = (line.removeprefix("#").strip() for line in top if not line.startswith("# @package"))
        summaries[name] = next(filter(None, texts), "")
    if as_json:
        rows = [{"name": name, "summary": text, "path": str(_path(name))} for name, text in summaries.items()]
        print_json(rows)
        return
    # aligned for people; a program takes --json
    width = max(map(len, summaries))
    for name, text in summaries.items():
        print(f"{name:<{width}}  {text}")


def _show(name: str) -> None:
    print(_path(name).read_text(encoding="utf-8"), end="")


def _copy(name: str, folder: str) -> None:
    from effbench.records import write_text

    target = expanded(folder) / f"{name}.yaml"
    # also a broken link, which a write would follow
    if os.path.lexists(target):
        raise ConfigError(f"{target} exists already; effbench does not overwrite it.")
    content = _path(name).read_text(encoding="utf-8")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_text(target, content)
    except OSError as error:
        raise ConfigError(f"cannot write {target}: {error.strerror}.") from error
    print(target)
    log.info(f"run it with: effbench train recipe={target}")


def _validate(name: str, config_dir: str | None) -> None:
    """Compose the recipe, and build model, optimizer and schedule without weights."""
    from effbench.config.compose import compose

    # quoted: without quotes Hydra's grammar allows few characters of a path
    config = compose([f"recipe={quoted(name)}"], config_dir)
    # this imports torch: a mistyped recipe is reported before
    from effbench.run.validate import dry_build_own

    print(f"ok: {dry_build_own(config)}")


def _path(name: str) -> Path:
    # a name, never a path: show and cp read nothing but the files that ship
    if name not in shipped_recipes():
        raise ConfigError(unknown_name("recipe", name, shipped_recipes()))
    return recipes_dir() / f"{name}.yaml"


_ACTIONS: dict[str, Callable[..., None]] = {"ls": _list, "show": _show, "cp": _copy, "validate": _validate}
