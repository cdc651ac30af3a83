"""Compose overrides into a checked Config. The command line, notebooks and tests all use these functions."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yaml import YAMLError

from effbench.cache_dir import expanded, refuse_url
from effbench.config import hints, names
from effbench.config import static_compose as static
from effbench.config.arguments import check_path
from effbench.config.monitors import check_monitors, with_shipped_monitors
from effbench.config.paths import conf_dir
from effbench.config.words import as_meant, boolean_word, expand_folders, with_paths_as_text
from effbench.config.yaml_text import check_references
from effbench.errors import ConfigError, first_line, shown, unknown_name
from effbench.guarded import kind_of
from effbench.redaction import REDACTED
from effbench.target_allowlist import look_beside

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hydra.core.config_loader import ConfigLoader
    from omegaconf import DictConfig

    from effbench.config import schema

ROOT = static.ROOT
GROUP = static.GROUP


def compose(overrides: Sequence[str] = (), config_dir: str | Path | None = None) -> schema.Config:
    """Return the checked config of `effbench train <overrides>`.

    Args:
        overrides: words of the command line.
        config_dir: folder with the user's config groups.

    Raises:
        ConfigError: a key is unknown, or a value has the wrong type or is out of range. The message names the key.
    """
    return parse(plain(compose_raw(overrides, config_dir)))


def compose_raw(overrides: Sequence[str], config_dir: str | Path | None = None) -> DictConfig:
    """Return Hydra's composition with its node `hydra`. Its errors become ConfigErrors that name the config's keys."""
    check_words(overrides)
    if config_dir is not None:
        check_path("config_dir", config_dir)
    overrides = [as_meant(override) for override in overrides]
    for override in overrides:
        key, equals, value = override.partition("=")
        if equals and REDACTED in value:  # the placeholder for a secret in a run's record
            raise ConfigError(
                f"{key} looks like a secret: its value was kept out of the run's record. Give it again, {key}=VALUE."
            )
    # Importing Hydra takes half a second: a mistyped word is refused before.
    if not config_dir:
        names.refuse_mistyped(overrides)
    import hydra
    from omegaconf import OmegaConf

    with loader(config_dir) as config_loader:
        try:
            raw = hydra.compose(ROOT, overrides=list(overrides), return_hydra_config=True)
        except ConfigError:
            raise
        except Exception as error:  # Hydra asserts, and lets errors of YAML and files pass
            try:
                _explain(overrides, config_loader)
            except ConfigError:
                raise
            except Exception:  # noqa: BLE001 - what _explain meets is the same fault: report the first error
                pass
            # Hydra's first line is complete; later lines of a YAML error tell the place.
            text = " ".join(str(error).split()) if isinstance(error, YAMLError) else first_line(error)
            raise ConfigError(f"the config does not compose: {text}") from error
    # Before anything is resolved: a few lines of references can expand to gigabytes.
    check_references(OmegaConf.to_container(raw, resolve=False, enum_to_str=True))
    expand_folders(raw)
    _check_names(raw)
    return raw


def check_words(overrides: Sequence[str]) -> None:
    """Raise ConfigError if the overrides are not a list of texts: a notebook may pass anything."""
    if isinstance(overrides, str):
        raise ConfigError(f"overrides are a list of words: [{overrides!r}]; got the text {overrides!r}.")
    if not isinstance(overrides, Sequence) or not all(isinstance(word, str) for word in overrides):
        raise ConfigError(f"overrides are a list of words, ['model=mlp', 'optimizer.lr=0.1']; got {overrides!r}.")


def _check_names(raw: DictConfig) -> None:
    """Check names that become paths: no control characters, and a sweep's jobs stay inside its folder."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    with _numbered(raw):
        names: dict[str, str] = {}
        for key in ("run.dir", "sweep.dir", "sweep.subdir", "job.name"):
            try:
                names[key] = str(OmegaConf.select(raw, f"hydra.{key}"))
            except OmegaConfBaseException as error:
                raise ConfigError(f"hydra.{key} does not resolve: {first_line(error)}") from error
    for key, name in names.items():
        hidden = [character for character in name if ord(character) < 32 or 127 <= ord(character) < 160]
        if hidden:
            raise ConfigError(f"hydra.{key} {name!r} cannot be written: it holds {hidden[0]!r}. Leave that out.")

    for key in ("run.dir", "sweep.dir"):
        refuse_url(names[key])
    below = Path(names["sweep.subdir"])
    if below.is_absolute() or ".." in below.parts:
        raise ConfigError(
            f"hydra.sweep.subdir must stay below hydra.sweep.dir, without '..'; got {str(below)!r}. "
            "${hydra.job.num} is always right."
        )
    if "/" in names["job.name"] or names["job.name"] in ("", ".", ".."):
        raise ConfigError(f"hydra.job.name must be a plain name, without '/'; got {names['job.name']!r}.")


@contextmanager
def _numbered(raw: DictConfig) -> Iterator[None]:
    """Give the job the number 0 during the block: names may refer to the number, which only a sweep sets."""
    from omegaconf import OmegaConf

    before = OmegaConf.to_container(raw.hydra.job, resolve=False)
    assert isinstance(before, dict)
    OmegaConf.set_readonly(raw.hydra.job, False)
    for number in ("num", "id"):
        OmegaConf.update(raw, f"hydra.job.{number}", 0, force_add=True)
    try:
        yield
    finally:
        for number in ("num", "id"):
            OmegaConf.update(raw, f"hydra.job.{number}", before.get(number, "???"))


def check_folder(config_dir: str | Path) -> None:
    """Raise ConfigError if --config-dir is no folder."""
    if kind_of(expanded(config_dir), "--config-dir") != "a folder":
        raise ConfigError(f"--config-dir {config_dir} is not a folder.")


@contextmanager
def loader(config_dir: str | Path | None = None) -> Iterator[ConfigLoader]:
    """Initialise Hydra with conf/, the recipes and the user's folder."""
    import hydra
    from hydra.core.global_hydra import GlobalHydra

    if config_dir:
        check_folder(config_dir)
        look_beside(expanded(config_dir))
    from effbench.config.hydra_loader import guarded, register_recipes

    register_recipes(expanded(config_dir) if config_dir else None)
    # A notebook may have initialised Hydra, and Hydra refuses a second initialisation.
    GlobalHydra.instance().clear()
    with guarded():
        initialized = hydra.initialize_config_dir(str(conf_dir()), version_base="1.3", job_name="train")
    with initialized:
        yield GlobalHydra.instance().config_loader()


def plain(raw: DictConfig) -> dict[str, Any]:
    """Return resolved plain containers without the node `hydra`."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    task = OmegaConf.masked_copy(raw, [str(key) for key in raw if key != "hydra"])
    # Again, because a caller may give a config that `compose_raw` has not checked (Hydra's launchers do).
    check_references(OmegaConf.to_container(task, resolve=False))
    try:
        content = OmegaConf.to_container(task, resolve=True, throw_on_missing=True)
    except (OmegaConfBaseException, RecursionError) as error:
        raise ConfigError(f"the config does not resolve: {first_line(error)}") from error
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


def parse(content: Mapping[str, Any]) -> schema.Config:
    """Turn plain containers into a Config. Raises one ConfigError that lists every key that breaks a rule."""
    from pydantic import ValidationError

    from effbench.config import schema
    from effbench.target_allowlist import check_targets

    # Targets are checked by name before pydantic sees the content: nothing of a refused config is imported.
    content = with_shipped_monitors(with_paths_as_text(content))
    check_targets(content)
    try:
        config = schema.Config.model_validate(dict(content))
    except ValidationError as error:
        # pydantic reports an error for each type that a key may have: one message a key.
        by_key: dict[tuple[Any, ...], list[Any]] = {}
        for item in error.errors():
            by_key.setdefault(tuple(item["loc"][:2]), []).append(item)
        raise ConfigError("\n".join(_rule(items, content) for items in by_key.values())) from None
    check_monitors(config)
    return config


def _rule(items: Sequence[Any], content: Mapping[str, Any]) -> str:
    """Return a message with key, rule and value, and the nearest key if the key is unknown."""
    from effbench.config import schema

    item = items[0]
    location = [str(part) for part in item["loc"]]
    # Two levels: below them a location names an item of a list, or a type that was tried.
    key = ".".join(location[:2])
    if item["type"] == "extra_forbidden":
        if key == GROUP:
            return "a recipe's first line must be '# @package _global_': without it, its keys are not the run's."
        section, fields, prefix = content, list(schema.Config.model_fields), ""
        if len(location) > 1:
            kind = schema.Config.model_fields[location[0]].annotation
            section, prefix = content.get(location[0]) or {}, f"{location[0]}."
            fields = list(kind.model_fields) if isinstance(kind, type) else []
        known = [f"{prefix}{name}" for name in fields or dict(section) if name != location[-1]]
        listed = unknown_name("key", key, known)
        if difflib.get_close_matches(key, static.all_keys(content) - {key}, n=1, cutoff=0.9):
            return listed  # a typing error
        hint = hints.for_key(key, str(item["input"]), static.all_keys(content) - {key}, static.group_options())
        return f"{listed.partition(' Did you mean')[0]} {hint}" if hint else listed
    if item["type"] == "missing":
        base = conf_dir() / location[0] / "_base.yaml"
        sets = base.exists() and any(line.startswith(f"{location[-1]}:") for line in base.read_text().splitlines())
        hint = f" A file of the group {location[0]} begins with defaults: [_base], which sets it." if sets else ""
        return f"{key} is missing.{hint}"
    if item["type"] == "value_error":
        return f"{item['ctx']['error']}."
    message = " or ".join(dict.fromkeys(item["msg"].removeprefix("Input ") for item in items))
    hint = hints.for_value(key, item["input"])
    # YAML 1.2 reads `yes` and `off` as text: say what was meant.
    if hint is None and any(part["type"].startswith("bool") for part in items):
        hint = boolean_word(item["input"])
    return f"{key} {message}; got {shown(item['input'])}.{f' Write {key}={hint}.' if hint else ''}"


def _explain(overrides: Sequence[str], config_loader: ConfigLoader) -> None:
    """Raise a ConfigError that names the first faulty override; return if there is none."""
    # Group -> its choices, including those of the user's folder; names with a leading _ are base files.
    groups = {
        group: [name for name in config_loader.get_group_options(group) if not name.startswith("_")]
        for group in config_loader.list_groups("")
        if group != "hydra"
    }
    choices: list[str] = []
    for override in parsed(overrides, config_loader):
        if override.is_sweep_override():
            raise ConfigError(f"{override.input_line} gives several values: that is a sweep, and needs -m.")
        group = str(override.key_or_group)
        if group not in groups:
            continue
        options = groups[group]
        value = override.value()
        several = value if isinstance(value, list) else [value]
        is_file = group == GROUP and "/" in str(value)
        path = Path(str(value) if str(value).endswith(".yaml") else f"{value}.yaml")
        if is_file and kind_of(path, GROUP) != "a file":
            raise ConfigError(f"there is no recipe file {value}: it must exist, and end in .yaml.")
        if is_file or override.is_delete():
            choices.append(override.input_line)
        elif all(isinstance(name, str) and name in options for name in several):
            choices.append(f"{group}={value}" if isinstance(value, str) else override.input_line)
        else:
            unknown = next(name for name in several if name not in options)
            raise ConfigError(hints.unknown_choice(group, "null" if unknown is None else str(unknown), options))

    # All choices exist: their composition shows which keys there are.
    import hydra

    known = static.all_keys(plain(hydra.compose(ROOT, overrides=choices)))
    for override in parsed(overrides, config_loader):
        key = str(override.key_or_group)
        # `+key=value` may name a new key, and Hydra has the rules for its own.
        if key in groups or key.startswith("hydra") or override.is_force_add() or override.is_add():
            continue
        if key not in known:
            value = override.input_line.partition("=")[2] or None
            raise ConfigError(names.nearest_key(key, known, value, groups))
        if isinstance(override.value(), dict):
            raise ConfigError(f"{key} gets new keys with a plus: +{override.input_line}")


def group_options(config_dir: str | Path | None = None) -> dict[str, list[str]]:
    """Return group -> its choices, as `effbench train --help` lists them."""
    if config_dir:
        check_folder(config_dir)
    return static.group_options(expanded(config_dir) if config_dir else None)


def parsed(overrides: Iterable[str], config_loader: ConfigLoader) -> Iterator[Any]:
    """Yield Hydra's Override of each word. Raises ConfigError for a word that is no override."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser = OverridesParser.create(config_loader=config_loader)
    for override in overrides:
        try:
            found = parser.parse_override(override)
        except HydraException as error:
            raise ConfigError(_unreadable(override, first_line(error))) from error
        if not found.key_or_group:
            raise ConfigError(_unreadable(override, "there is no key"))
        found.config_loader = config_loader  # glob(*) lists the group's choices with it
        yield found


def _unreadable(override: str, why: str) -> str:
    hint = hints.for_word(override, static.group_options())
    if hint is not None:
        return f"cannot read {override!r}: an override is key=value. Write {hint}."
    return (
        f"cannot read {override!r}: an override is key=value, a list [1,2] ({why}). "
        "Quote values that hold spaces, commas or brackets."
    )
