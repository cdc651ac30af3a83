"""The folder is `recipes/`, the user's word is `recipe=`: a Hydra source that shows one as the other.

`recipe=NAME` is a file of recipes/ (or of the user's --config-dir); `recipe=path/to/file.yaml` is that very file.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from effbench.config.names import GROUP
from effbench.config.paths import recipes_dir
from effbench.errors import ConfigError

_user_dir: Path | None = None


def absolute_recipe(override: str) -> str:
    """'recipe=my.yaml' with the file's absolute path, which holds from any folder; the rest as it is."""
    key, equals, value = override.partition("=")
    if key.lstrip("+") != GROUP or not equals:
        return override
    whole = value[:1] in ("'", '"') or Path(value).is_file()
    return f"{key}={','.join(map(_absolute, [value] if whole else value.split(',')))}"


def _absolute(value: str) -> str:
    """A path made absolute and quoted, since Hydra's grammar allows few characters bare; a name as it is."""
    path = value[1:-1].replace("\\'", "'") if value[:1] in ("'", '"') and value[-1:] == value[:1] else value
    if not (path.endswith((".yaml", ".yml")) or "/" in path):
        return value
    return quoted(Path(os.path.expanduser(path)).resolve())  # noqa: PTH111 - Path's raises where there is no such user


def quoted(text: str | Path) -> str:
    """As Hydra's grammar takes any text: bare, it allows few characters."""
    escaped = str(text).replace("'", "\\'")
    return f"'{escaped}'"


def register_recipes(user_dir: Path | None = None) -> None:
    """Teaches Hydra the group `recipe`, and the user's folder of groups; safe to repeat."""
    global _user_dir
    _user_dir = user_dir.resolve() if user_dir else None
    from hydra.core.plugins import Plugins

    for plugin in _plugins():
        Plugins.instance().register(plugin)


_classes: list[type[Any]] = []


def _plugins() -> list[type[Any]]:
    """The two plugin classes, made once, when Hydra is first needed."""
    if _classes:
        return _classes
    from hydra._internal.core_plugins.file_config_source import FileConfigSource
    from hydra.core.config_search_path import ConfigSearchPath
    from hydra.core.object_type import ObjectType
    from hydra.plugins.search_path_plugin import SearchPathPlugin

    class RecipeSource(FileConfigSource):
        """A folder of recipes, seen as the group `recipe`."""

        @staticmethod
        def scheme() -> str:
            return "recipes"

        def load_config(self, config_path: str) -> Any:
            loaded = super().load_config(_inside(config_path))
            _check_harmless(_inside(config_path), loaded.header.get("package"), loaded.config)
            return loaded

        def is_group(self, config_path: str) -> bool:
            return config_path in ("", GROUP) and super().is_group("")

        def is_config(self, config_path: str) -> bool:
            return config_path.startswith(f"{GROUP}/") and bool(super().is_config(_inside(config_path)))

        def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
            if config_path == "":
                return [] if results_filter is ObjectType.CONFIG else [GROUP]
            if config_path != GROUP or results_filter is ObjectType.GROUP:
                return []
            return sorted(path.stem for path in Path(self.path).glob("*.yaml"))

    class RecipeSearchPath(SearchPathPlugin):
        def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
            search_path.append("effbench", f"recipes://{recipes_dir()}")
            if _user_dir is not None:
                search_path.append("user", f"file://{_user_dir}")

    _classes.extend([RecipeSource, RecipeSearchPath])
    return _classes


def _inside(config_path: str) -> str:
    return config_path.removeprefix(f"{GROUP}/")


def _check_harmless(name: str, package: str | None, content: Any) -> None:
    """A recipe may come from a stranger, and must not decide what code may run."""
    if package != "_global_":
        raise ConfigError(
            f"recipe {name}: its first line must be '# @package _global_', so that its keys are the run's."
        )
    for key in ("allow_targets", "hydra"):
        if key in content:
            raise ConfigError(f"recipe {name} sets '{key}', which can run other code. Give it on the command line.")
