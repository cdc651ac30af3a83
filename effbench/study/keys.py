"""The keys of a study: conf/study/NAME.yaml, with the study.* words of the command line over it, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from effbench.config.options import Count, Positive, ThreadCount, Whole
from effbench.config.schema import Section
from effbench.config.study_files import assigned, content_of
from effbench.errors import ConfigError, shown, unknown_name
from effbench.run.overrides import override_key
from effbench.study.space import Sampler
from effbench.study.table import CompareRule


class StudyKeys(Section):
    """The keys of conf/study; conf/study/_base.yaml says what each means and holds its default."""

    models: list[str] | dict[str, list[str]]
    optimizers: list[str] | dict[str, list[str]]
    arms: dict[str, list[str]]
    overrides: list[str]
    search_space: str | dict[str, str]
    sampler: Sampler
    baseline: str | None
    compare: CompareRule
    trials: Count
    seeds: Count
    # half of the range that a run allows: the final runs count their seeds up from this one
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    epochs: Count | None
    seconds: Positive | None
    target: float | Literal["median"] | None
    timing_rounds: Whole
    deployment_rounds: Whole
    alpha: Annotated[float, Field(gt=0, lt=1)]
    relevant_difference: Positive | None
    power: Annotated[float, Field(gt=0, lt=1)]
    # 1024: a typing mistake would otherwise fork until the machine stands still
    workers: Annotated[int, Field(ge=1, le=1024)]
    threads: ThreadCount
    storage: str | None
    folder: str | None


def keys_of(words: Sequence[str], config_dir: str | None = None) -> tuple[str, StudyKeys, list[str]]:
    """Return (name of the study, its keys, the words that are overrides of every run).

    Args:
        words: study=NAME, study.KEY=VALUE, and overrides of every run.
        config_dir: folder with the user's groups.

    Raises:
        ConfigError: no study or several are named, or a key is unknown or has a wrong value.
    """
    names: list[str] = []
    changes: dict[str, Any] = {}
    overrides: list[str] = []
    for word in words:
        key = override_key(word)
        if key == "study":
            names.append(word.partition("=")[2])
        elif key.startswith("study."):
            dotted, value = assigned(word)
            changes[dotted.removeprefix("study.")] = value
        else:
            overrides.append(word)
    # Two names are two different experiments, so that none of them is guessed.
    if len(names) != 1 or not names[0]:
        raise ConfigError("name one study: effbench study study=NAME. `effbench study --help` lists them.")
    [name] = names
    return name, _checked(name, content_of("study", name, config_dir), changes), overrides


def _checked(name: str, content: Mapping[str, Any], changes: Mapping[str, Any]) -> StudyKeys:
    """Return the keys of a file with the changes over them."""
    # mappings are copied, because a change may also set one entry of a mapping: study.arms.mine=[optimizer=sgd]
    merged = {key: dict(value) if isinstance(value, dict) else value for key, value in content.items()}
    for dotted, value in changes.items():
        key, dot, entry = dotted.partition(".")
        if dot and isinstance(merged.get(key), dict):
            merged[key][entry] = value
        else:
            merged[dotted] = value

    # before pydantic, which would not say which key was meant
    known = list(StudyKeys.model_fields)
    for key in merged:
        if key not in known:
            raise ConfigError(unknown_name("key", f"study.{key}", [f"study.{each}" for each in known]))
    try:
        return StudyKeys.model_validate(merged)
    except ValidationError as error:
        raise ConfigError("\n".join(_messages(error, name))) from None


def _messages(error: ValidationError, name: str) -> list[str]:
    """Return one message a key."""
    # For a key with several possible types (list or mapping) pydantic reports one error for each of them.
    by_key: dict[str, list[Any]] = {}
    for item in error.errors():
        by_key.setdefault(str(item["loc"][0]), []).append(item)
    messages = []
    for key, items in by_key.items():
        if items[-1]["type"] == "missing":
            messages.append(
                f"study.{key} is missing: a file such as study/{name}.yaml begins with defaults: [_base, _self_]."
            )
            continue
        rules = dict.fromkeys(item["msg"].removeprefix("Input ") for item in items)  # each rule once, in order
        messages.append(f"study.{key} {' or '.join(rules)}; got {shown(items[-1].get('input'))}.")
    return messages
