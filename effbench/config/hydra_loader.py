"""Hydra's config loader with two changes: recipes are a group, and only the command line sets `hydra.*`.

Importing this module imports Hydra, which is slow: import it inside functions.
"""

from __future__ import annotations

import copy
import importlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra._internal.config_repository import CachingConfigRepository, ConfigRepository, IConfigRepository
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.defaults_list import create_defaults_list
from hydra.core.config_search_path import ConfigSearchPath, SearchPathElement
from hydra.core.config_store import ConfigNode, ConfigStore
from hydra.core.default_element import ResultDefault
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigLoadError, ConfigResult
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict

from effbench.config.paths import conf_dir, recipes_dir
from effbench.config.static_compose import GROUP, ROOT
from effbench.config.yaml_text import parse_yaml
from effbench.errors import ConfigError, first_line
from effbench.guarded import MissingFileError, read_text

PROTECTED = ("hydra", "allow_targets", "resume")  # these can run code, or write to other folders
USER = "user"  # names of sources: the folder of --config-dir, and the recipes
RECIPES = "effbench"
SHIPPED = ("hydra", "main", RECIPES, "schema")  # Hydra's own files, conf/, recipes/ and Hydra's dataclasses
MOST_FILES = 2_000  # looked up for one config, repeats included; ours takes 100
_RESOLVER = re.compile(r"\$\{[^}]*[:$]")  # ${oc.env:HOME}, ${${key}}

_user_dir: Path | None = None  # the folder of groups given by --config-dir


def register_recipes(user_dir: Path | None = None) -> None:
    """Register the group `recipe` and the user's folder of groups with Hydra. Repeated calls are safe."""
    global _user_dir
    _user_dir = user_dir.resolve() if user_dir else None
    for plugin in (RecipeSource, RecipeSearchPath):
        Plugins.instance().register(plugin)


class GuardedSource(FileConfigSource):
    """A folder of YAML files, in which values are read like those on the command line."""

    def load_config(self, config_path: str) -> ConfigResult:
        # realpath: a link is read where it leads, and an error names that file.
        path = Path(os.path.realpath(Path(self.path) / self._normalize_file_name(config_path)))
        try:
            text = read_text(path)
        except MissingFileError as error:
            # the class that Hydra expects of a source
            raise ConfigLoadError(str(error)) from error
        content = parse_yaml(text, str(path))
        if not isinstance(content, dict | None):  # OmegaConf would parse a text again, by other rules
            raise ConfigError(f"{path} must hold keys and values; it holds a {type(content).__name__}.")
        return ConfigResult(
            config=OmegaConf.create(content or {}),
            path=f"{self.scheme()}://{self.path}",
            provider=self.provider,
            # `# @package …` stands in the first lines
            header=self._get_header_dict(text[:512]),
        )


class RecipeSource(GuardedSource):
    """A folder of recipes, presented as the group `recipe`."""

    @staticmethod
    def scheme() -> str:
        return "recipes"

    def load_config(self, config_path: str) -> ConfigResult:
        """Read a recipe. Recipes may come from untrusted sources: keys that could run code are refused."""
        name = config_path.removeprefix(f"{GROUP}/")
        loaded = super().load_config(name)
        if loaded.header.get("package") != "_global_":
            raise ConfigError(
                f"recipe {name}: its first line must be '# @package _global_', so that its keys are the run's."
            )
        for key in PROTECTED:
            if key in loaded.config:
                raise ConfigError(f"recipe {name} sets '{key}', which can run other code. Give it on the command line.")
        for key, value in scalars(loaded.config):
            if isinstance(value, str) and _RESOLVER.search(value):
                raise ConfigError(
                    f"recipe {name}: {key} is {value!r}, which looks up more than the config's own keys. A recipe may "
                    "hold ${KEY} alone; give other values on the command line."
                )
        return loaded

    def is_group(self, config_path: str) -> bool:
        return config_path in ("", GROUP) and super().is_group("")

    def is_config(self, config_path: str) -> bool:
        inside = config_path.removeprefix(f"{GROUP}/")
        return config_path != inside and bool(super().is_config(inside))

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        if config_path == "":
            return [] if results_filter is ObjectType.CONFIG else [GROUP]
        if config_path != GROUP or results_filter is ObjectType.GROUP:
            return []
        return sorted(path.stem for path in Path(self.path).glob("*.yaml"))


class RecipeSearchPath(SearchPathPlugin):
    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append(RECIPES, f"{RecipeSource.scheme()}://{recipes_dir()}")
        if _user_dir is not None:
            search_path.append(USER, f"file://{_user_dir}")


def scalars(content: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of all leaves, unresolved."""
    if isinstance(content, DictConfig | ListConfig):
        content = OmegaConf.to_container(content, resolve=False)
    if not isinstance(content, dict | list):
        yield key, content
        return
    for name, value in content.items() if isinstance(content, dict) else enumerate(content):
        yield from scalars(value, f"{key}.{name}" if key else str(name))


class GuardedRepository(ConfigRepository):
    """Reads every folder of config files, including hydra.searchpath, as a GuardedSource."""

    def initialize_sources(self, config_search_path: ConfigSearchPath) -> None:
        super().initialize_sources(config_search_path)
        self.sources = [
            GuardedSource(source.provider, source.path) if source.scheme() == "file" else source
            for source in self.sources
        ]


class CountingRepository(CachingConfigRepository):
    """Stops a composition whose files include each other endlessly, or so often that it would take hours."""

    _looks = 0

    def load_config(self, config_path: str) -> ConfigResult | None:
        self._looks += 1
        if self._looks > MOST_FILES:
            raise ConfigError(f"the defaults lists name more than {MOST_FILES} files, the last of them {config_path}.")
        return super().load_config(config_path)


class GuardedLoader(ConfigLoaderImpl):
    """Refuses a composition in which a file changed one of PROTECTED, before Hydra reads its value.

    The merged files are compared with a reference: Hydra's files, those of installed plugins and conf/config.yaml, for
    the same `hydra/...=` choices. Values from the command line are merged after the comparison.
    """

    _given: Sequence[Override] = ()

    def __init__(self, config_search_path: ConfigSearchPath) -> None:
        super().__init__(config_search_path)
        self.repository = GuardedRepository(config_search_path)

    def _load_configuration_impl(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """Compose in two parts: the files, which a process merges once for the same choices, then the values."""
        parsed = OverridesParser.create().parse_overrides(overrides=overrides)
        path = tuple((item.provider, item.path) for item in self.config_search_path.get_path())
        if config_name != ROOT or run_mode is not RunMode.RUN or not _reusable(path, parsed):
            # Hydra's method applies the values by its own class's method, not by `self`.
            with guarded("hydra._internal.config_loader_impl"):
                return super()._load_configuration_impl(
                    config_name, overrides, run_mode, from_shell, validate_sweep_overrides
                )
        # Hydra's own rule for what is a choice of a file (defaults_list.Overrides).
        values = [
            override
            for override in parsed
            if isinstance(override.value(), dict) or not self.repository.group_exists(override.key_or_group)
        ]
        chosen = tuple(str(override.input_line) for override in parsed if override not in values)
        config: DictConfig = copy.deepcopy(_merged_files(path, chosen, _stamp()))
        self._apply_overrides_to_config(values, config)
        # Not by the words' first letters: ++hydra.run.dir=DIR is one of Hydra's, too.
        task = [override for override in parsed if not override.is_hydra_override()]
        config.hydra.overrides.task = [override.input_line for override in task]
        config.hydra.overrides.hydra = [override.input_line for override in parsed if override not in task]
        rules = config.hydra.job.config.override_dirname
        config.hydra.job.override_dirname = get_overrides_dirname(
            overrides=task,
            kv_sep=rules.kv_sep,
            item_sep=rules.item_sep,
            exclude_keys=rules.exclude_keys,
        )
        config.hydra.runtime.cwd = str(Path.cwd())
        return config

    @staticmethod
    def _apply_overrides_to_config(overrides: list[Override], cfg: DictConfig) -> None:
        """Apply values and deletions. Unlike Hydra's own method, this one also deletes a key whose value is null."""
        for override in overrides:
            if not (override.is_delete() and override.value() is None and _delete_null(cfg, override.key_or_group)):
                ConfigLoaderImpl._apply_overrides_to_config([override], cfg)

    def _parse_overrides_and_create_caching_repo(
        self, config_name: str | None, overrides: list[str]
    ) -> tuple[list[Override], CachingConfigRepository]:
        parsed = OverridesParser.create().parse_overrides(overrides=overrides)
        repository = CountingRepository(self.repository)
        self._process_config_searchpath(config_name, parsed, repository)
        # These choose Hydra's own files, so the reference is composed with them.
        self._given = [override for override in parsed if str(override.key_or_group).startswith("hydra/")]
        return parsed, repository

    def _compose_config_from_defaults_list(self, defaults: list[ResultDefault], repo: IConfigRepository) -> DictConfig:
        merged = super()._compose_config_from_defaults_list(defaults, repo)
        # The reference: PROTECTED composed without the files of the user and the recipes.
        path = self.config_search_path.get_path()
        own = tuple((item.provider, item.path) for item in path if item.provider not in (USER, RECIPES))
        words = tuple(str(override.input_line) for override in self._given)
        try:
            reference = _composed_protected(own, words)
        except HydraException as error:
            raise ConfigError(
                f"{' '.join(words)}: a file of your own may not say what Hydra runs. Choose one of Hydra's or of an "
                f"installed plugin's, and give its values on the command line ({first_line(error)})."
            ) from error

        for key in _differing(reference, _protected(merged)):
            who = "a config file"
            for default in defaults:  # of several files the last one wins, as in Hydra's merge
                loaded = self._load_single_config(default, repo)
                if key.split(".")[0] in loaded.config and loaded.provider in (USER, RECIPES):
                    who = f"the file {default.config_path}"
            raise ConfigError(
                f"{who} changes {key}, which can run other code or write elsewhere: only the command line may. Leave "
                f"it out of the file, and give {key}=VALUE yourself if you want it."
            )
        return merged


def _delete_null(config: DictConfig, key: str) -> bool:
    """Delete the dotted key if its value is null; return True if it was."""
    above, _, last = key.rpartition(".")
    node = OmegaConf.select(config, above) if above else config
    content = OmegaConf.to_container(node, resolve=False) if isinstance(node, DictConfig) else None
    if not isinstance(content, dict) or content.get(last, ...) is not None:
        return False
    with open_dict(node):
        del node[last]
    return True


def _reusable(path: Sequence[tuple[str, str]], overrides: Sequence[Override]) -> bool:
    """Return True if the composition reads shipped files alone, and what is said of Hydra is the run's folder."""
    # A notebook may store configs of its own, and others under the same name later.
    if any(node.provider != "hydra" for node in _stored(ConfigStore.instance().repo)):
        return False
    return all(provider in SHIPPED for provider, _ in path) and all(
        not override.is_sweep_override()
        and (override.key_or_group == "hydra.run.dir" or "hydra" not in override.get_key_element())
        and (override.key_or_group != GROUP or "/" not in str(override.value()))
        for override in overrides
    )


def _stored(nodes: Mapping[str, Any]) -> Iterator[ConfigNode]:
    for node in nodes.values():
        if isinstance(node, dict):
            yield from _stored(node)
        else:
            yield node


def _stamp() -> tuple[tuple[str, int, int], ...]:
    """Return path, time of change and size of all shipped files: a notebook may run while someone edits them."""
    waiting, found = [str(conf_dir()), str(recipes_dir())], []
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir():
                    waiting.append(entry.path)
                else:
                    status = entry.stat()
                    found.append((entry.path, status.st_mtime_ns, status.st_size))
    return tuple(sorted(found))


@lru_cache(maxsize=64)
def _merged_files(
    path: tuple[tuple[str, str], ...], chosen: tuple[str, ...], _files: tuple[tuple[str, int, int], ...]
) -> DictConfig:
    """Return Hydra's composition of the chosen files; callers copy it.

    Args:
        path: provider and path of each of Hydra's sources.
        chosen: the words that choose files.
        _files: return value of `_stamp`, part of the cache's key: after a change of a file it differs.
    """
    loader = GuardedLoader(_search_path(path))
    return ConfigLoaderImpl._load_configuration_impl(loader, ROOT, list(chosen), RunMode.RUN, from_shell=False)


def _search_path(path: Sequence[tuple[str, str]]) -> ConfigSearchPathImpl:
    found = ConfigSearchPathImpl()
    found.config_search_path = [SearchPathElement(*item) for item in path]
    return found


class _WithoutGroups(GuardedRepository):
    """Reads conf/config.yaml without the groups that it chooses: they do not set PROTECTED."""

    def _extract_defaults_list(self, config_path: str, cfg: Any) -> ListConfig:
        found = super()._extract_defaults_list(config_path, cfg)
        return ListConfig(["_self_"]) if config_path == ROOT else found


@cache
def _composed_protected(search_path: tuple[tuple[str, str], ...], words: tuple[str, ...]) -> Mapping[str, Any]:
    """Compose the reference with Hydra's own loader. Cached: a sweep composes many configs with the same files."""
    own = _search_path(search_path)
    loader = ConfigLoaderImpl(own)
    parsed = OverridesParser.create().parse_overrides(overrides=list(words))
    repo = CachingConfigRepository(_WithoutGroups(own))
    found = create_defaults_list(repo, ROOT, parsed, prepend_hydra=True, skip_missing=False)
    return _protected(loader._compose_config_from_defaults_list(found.defaults, repo))


def _protected(config: DictConfig) -> Mapping[str, Any]:
    """Return the values of PROTECTED, unresolved: resolving an interpolation could run code."""
    content = OmegaConf.to_container(OmegaConf.masked_copy(config, list(PROTECTED)), resolve=False, enum_to_str=True)
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


def _differing(own: Any, merged: Any, key: str = "") -> Iterator[str]:
    """Yield the dotted keys whose values differ."""
    if isinstance(own, Mapping) and isinstance(merged, Mapping):
        for name in dict.fromkeys([*own, *merged]):
            yield from _differing(own.get(name, ...), merged.get(name, ...), f"{key}.{name}" if key else str(name))
    elif type(own) is not type(merged) or own != merged:
        yield key


@contextmanager
def guarded(name: str = "hydra._internal.hydra") -> Iterator[None]:
    """Let a module of Hydra use GuardedLoader within the block. Other users of Hydra in this process are not affected.

    name: of the module; the default is the one that creates loaders.
    """
    # Hydra has no setting for its loader's class: it takes the one of this name.
    module: Any = importlib.import_module(name)
    usual, module.ConfigLoaderImpl = module.ConfigLoaderImpl, GuardedLoader
    try:
        yield
    finally:
        module.ConfigLoaderImpl = usual
