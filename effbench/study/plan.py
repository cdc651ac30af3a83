"""The plan of a study: arms, search spaces, budget, seeds and rules, checked and frozen before the first run."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from effbench.cache_dir import expanded
from effbench.config import static_compose as static
from effbench.config.compare import PLACES, leaves
from effbench.config.options import Count, Positive, Whole
from effbench.config.refusals import Refusals
from effbench.config.schema import Config, Section
from effbench.config.study_files import assigned, content_of
from effbench.errors import ConfigError, shown, unknown_name
from effbench.metrics import display_of
from effbench.redaction import redact
from effbench.run.overrides import is_ephemeral, merge_overrides, override_key
from effbench.study.power import check_seeds
from effbench.study.space import SearchSpace, search_space, words_of
from effbench.study.table import Arm, CompareRule, Setting, StudyRules, pairs_to_compare

FOLDER = "study.folder=DIR"  # sets another folder; for remedies in messages
DEFAULT_FOLDER = Path("outputs") / "studies"
# Keys of a run that the study sets, with the key of the study that decides them.
OWN_KEYS = {
    "seed": "study.seed",
    "data.split_seed": "study.seed",
    "trainer.max_epochs": "study.epochs or study.seconds",
    "trainer.max_steps": "study.epochs or study.seconds",
    "trainer.max_time": "study.epochs or study.seconds",
    "trainer.limit_test_batches": "nothing: only the final runs read the test split",
    "device.threads": "study.threads",
}
_OPERATION = ("workers", "threads", "storage", "folder")  # how it is run; not part of what is compared
MOST_EPOCHS = 1000  # of a run that only measures; the measurement ends it
_ARM_NAME = re.compile(r"[A-Za-z0-9][\w.+-]{0,59}", re.ASCII)


class StudyKeys(Section):
    """The keys of conf/study."""

    models: list[str] | dict[str, list[str]]
    optimizers: list[str] | dict[str, list[str]]
    arms: dict[str, list[str]]
    overrides: list[str]
    search_space: str | dict[str, str]
    baseline: str | None
    compare: CompareRule
    trials: Count
    seeds: Count
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    epochs: Count | None
    seconds: Positive | None
    target: float | Literal["median"] | None
    timing_rounds: Whole
    alpha: Annotated[float, Field(gt=0, lt=1)]
    relevant_difference: Positive | None
    power: Annotated[float, Field(gt=0, lt=1)]
    workers: Annotated[int, Field(ge=1, le=1024)]
    threads: Annotated[int, Field(ge=1, le=1024)]
    storage: str | None
    folder: str | None


@dataclass(frozen=True)
class PlannedArm:
    """One arm.

    Attributes:
        arm: as the table has it.
        space: what is tuned.
        config: dotted key -> value of a run with the arm's defaults, without what the study sets.
    """

    arm: Arm
    space: SearchSpace
    config: Mapping[str, Any]

    @property
    def name(self) -> str:
        return self.arm.name


@dataclass(frozen=True)
class StudyPlan:
    """A checked study.

    Attributes:
        name: of its file in conf/study.
        keys: its keys.
        arms: the arms, in order.
        overrides: of every run, command line included.
        session_words: words for every process that are not recorded, such as allow_targets.
        folder: of study.json, journal and runs.
        metric: what the runs monitor: 'acc' for val/acc.
        config_dir: folder with the user's groups.
    """

    name: str
    keys: StudyKeys
    arms: tuple[PlannedArm, ...]
    overrides: tuple[str, ...]
    session_words: tuple[str, ...]
    folder: Path
    metric: str
    mode: Literal["max", "min"]
    config_dir: str | None

    @property
    def as_percent(self) -> bool:
        return display_of(self.metric).as_percent

    @property
    def baseline(self) -> str:
        return self.keys.baseline or self.arms[0].name

    @property
    def tuning_seed(self) -> int:
        return self.keys.seed

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the final runs: none of them is the tuning's."""
        return tuple(self.keys.seed + 1 + index for index in range(self.keys.seeds))

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        return pairs_to_compare([each.arm for each in self.arms], self.keys.compare, self.baseline)

    @property
    def rules(self) -> StudyRules:
        return rules_of(self.keys.model_dump())

    def arm(self, name: str) -> PlannedArm:
        return next(each for each in self.arms if each.name == name)

    def words(
        self, arm: str, settings: Mapping[str, Setting], seed: int, tests: bool, steps: int | None = None
    ) -> list[str]:
        """Return the overrides of one run.

        Args:
            arm: name of the arm.
            settings: what was sampled.
            seed: of weights, data order, augmentation and the validation split.
            tests: False: the run does not read the test split.
            steps: optimizer steps, for a budget in seconds; None: a short run that measures them.
        """
        planned = self.arm(arm)
        given = merge_overrides(merge_overrides(self.overrides, planned.arm.overrides), words_of(settings))
        split = [f"data.split_seed={seed}"] if "data.split_seed" in planned.config else []
        own = [f"seed={seed}", *split, *self._length(steps)]
        own += ["trainer.max_time=null", f"trainer.limit_test_batches={'null' if tests else 0}"]
        own += [f"device.threads={self.keys.threads}"]
        if tests:
            own.append("++callbacks.keep_predictions._target_=effbench.callbacks.KeepPredictions")
        return merge_overrides(given, own)

    def _length(self, steps: int | None) -> list[str]:
        if self.keys.epochs is not None:
            return [f"trainer.max_epochs={self.keys.epochs}", "trainer.max_steps=null"]
        if steps is not None:
            return ["trainer.max_epochs=null", f"trainer.max_steps={steps}"]
        return [f"trainer.max_epochs={MOST_EPOCHS}", "trainer.max_steps=null"]

    def record(self) -> dict[str, Any]:
        """Return what is frozen, as plain containers without secrets."""
        keys = {key: value for key, value in self.keys.model_dump().items() if key not in _OPERATION}
        overrides = [word for word in self.overrides if not override_key(word).startswith(PLACES)]
        arms = {
            each.name: {
                "model": each.arm.model,
                "optimizer": each.arm.optimizer,
                "overrides": list(each.arm.overrides),
                "search_space": {"name": each.space.name, **each.space.record()},
                "config": dict(each.config),
            }
            for each in self.arms
        }
        frozen = {"keys": {**keys, "overrides": overrides}, "metric": self.metric, "arms": arms}
        plain: dict[str, Any] = json.loads(json.dumps(redact(frozen), default=str))
        return plain

    @cached_property
    def digest(self) -> str:
        return digest_of(self.record())


def rules_of(keys: Mapping[str, Any]) -> StudyRules:
    """Return the rules in the keys of a study, as its YAML or its study.json has them."""
    return StudyRules(
        alpha=keys["alpha"],
        confidence=1 - keys["alpha"],
        relevant_difference=keys["relevant_difference"],
        power=keys["power"],
        seed=keys["seed"],
    )


def digest_of(record: Mapping[str, Any]) -> str:
    """Return the sha256 (hex) of a plan's record; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


# --- from the command line to a plan ----------------------------------------------------------------------------------


def planned(words: Sequence[str], config_dir: str | None = None) -> StudyPlan:
    """Return the checked plan of `effbench study WORDS`. Nothing is written.

    Args:
        words: study=NAME, study.KEY=VALUE, and overrides of every run.
        config_dir: folder with the user's groups.

    Raises:
        ConfigError: a key is wrong, an arm does not compose, a search space is empty, or there are too few seeds.
    """
    name, changes, overrides = _divided(words)
    keys = _keys(name, content_of("study", name, config_dir), changes)
    session_words = [word for word in overrides if is_ephemeral(word)]
    common = merge_overrides(keys.overrides, [word for word in overrides if not is_ephemeral(word)])
    _check_overrides([*common, *session_words])
    arms = _arms(keys, common, session_words, config_dir)
    monitor, mode = str(arms[0].config["checkpoint.monitor"]), arms[0].config["checkpoint.mode"]
    metric = monitor.partition("/")[2]
    folder = expanded(keys.folder) if keys.folder else DEFAULT_FOLDER / name
    plan = StudyPlan(name, keys, arms, tuple(common), tuple(session_words), folder, metric, mode, config_dir)
    _check_plan(plan)
    return plan


def _divided(words: Sequence[str]) -> tuple[str, dict[str, Any], list[str]]:
    """Return (name of the study, its changed keys, overrides of every run)."""
    names: list[str] = []
    changes: dict[str, Any] = {}
    rest: list[str] = []
    for word in words:
        key = override_key(word)
        if key == "study":
            names.append(word.partition("=")[2])
        elif key.startswith("study."):
            name, value = assigned(word)
            changes[name.removeprefix("study.")] = value
        else:
            rest.append(word)
    if len(names) != 1 or not names[0]:
        raise ConfigError("name one study: effbench study study=NAME. `effbench study --help` lists them.")
    return names[0], changes, rest


def _keys(name: str, content: Mapping[str, Any], changes: Mapping[str, Any]) -> StudyKeys:
    """Return the study's keys. A change may also set one entry of a mapping: study.arms.mine=[optimizer=sgd]."""
    merged = {key: dict(value) if isinstance(value, dict) else value for key, value in content.items()}
    for dotted, value in changes.items():
        key, dot, entry = dotted.partition(".")
        if dot and isinstance(merged.get(key), dict):
            merged[key][entry] = value
        else:
            merged[dotted] = value
    known = list(StudyKeys.model_fields)
    for key in merged:
        if key not in known:
            raise ConfigError(unknown_name("key", f"study.{key}", [f"study.{each}" for each in known]))
    try:
        return StudyKeys.model_validate(merged)
    except ValidationError as error:
        raise ConfigError("\n".join(_rule(item, name) for item in _by_key(error))) from None


def _by_key(error: ValidationError) -> list[dict[str, Any]]:
    """Return one entry a key: for a key with several possible types pydantic reports an error for each."""
    found: dict[str, dict[str, Any]] = {}
    for item in error.errors():
        key = str(item["loc"][0])
        texts = [*found.get(key, {}).get("texts", []), item["msg"].removeprefix("Input ")]
        found[key] = {"key": key, "texts": texts, "input": item.get("input"), "missing": item["type"] == "missing"}
    return list(found.values())


def _rule(item: Mapping[str, Any], name: str) -> str:
    if item["missing"]:
        return (
            f"study.{item['key']} is missing: a file such as study/{name}.yaml begins with defaults: [_base, _self_]."
        )
    return f"study.{item['key']} {' or '.join(dict.fromkeys(item['texts']))}; got {shown(item['input'])}."


def _check_overrides(words: Sequence[str]) -> None:
    for word in words:
        key = override_key(word)
        if key in OWN_KEYS:
            raise ConfigError(f"{word} cannot be given here: it is set by {OWN_KEYS[key]}.")
        if key == "resume" or key.startswith("hydra"):
            raise ConfigError(f"{word} is for one run. A study goes on by the same command; {FOLDER} names its folder.")


def _arms(
    keys: StudyKeys, common: Sequence[str], session_words: Sequence[str], config_dir: str | None
) -> tuple[PlannedArm, ...]:
    """Return the arms with their spaces; every arm and both ends of every range must compose."""
    refusals = Refusals(config_dir)

    def checked(arm: str, words: Sequence[str], what: str = "") -> Config:
        try:
            return refusals.checked([*words, *session_words])
        except ConfigError as error:
            raise ConfigError(f"arm {arm} cannot be built{what}: {error}") from error

    found = []
    for arm in _named_arms(keys):
        _check_overrides(arm.overrides)
        words = merge_overrides(common, arm.overrides)
        content = checked(arm.name, words).to_dict()
        name = _space_name(keys, arm, content)
        space = search_space(name, content_of("search_space", name, config_dir))
        config = {key: value for key, value in leaves(content).items() if not key.startswith(PLACES) and key != "seed"}
        _check_space(arm, space, config)
        for corner in space.corners():
            checked(arm.name, merge_overrides(words, words_of(corner)), f" with {' '.join(words_of(corner))}")
        with_space = Arm(arm.name, arm.model, arm.optimizer, arm.overrides, space.ranges())
        found.append(PlannedArm(with_space, space, config))
    return tuple(found)


def _named_arms(keys: StudyKeys) -> list[Arm]:
    if bool(keys.arms) == bool(keys.models or keys.optimizers) or bool(keys.models) != bool(keys.optimizers):
        raise ConfigError(
            "a study needs study.models and study.optimizers, whose combinations are its arms, or study.arms, a "
            f"mapping NAME: [OVERRIDES]; got models={keys.models}, optimizers={keys.optimizers}, arms={keys.arms}."
        )
    if keys.arms:
        arms = [Arm(name, overrides=tuple(words)) for name, words in keys.arms.items()]
    else:
        arms = [
            Arm(f"{model}-{optimizer}", model, optimizer, (*model_words, *optimizer_words))
            for model, model_words in _factor("model", keys.models)
            for optimizer, optimizer_words in _factor("optimizer", keys.optimizers)
        ]
    names = [arm.name.lower() for arm in arms]
    for arm in arms:
        if _ARM_NAME.fullmatch(arm.name) is None:
            raise ConfigError(f"an arm's name is of letters, digits and . _ + -, at most 60; got {arm.name!r}.")
        if names.count(arm.name.lower()) > 1:
            raise ConfigError(f"two arms are named {arm.name}: names must differ, and not in case alone.")
    return arms


def _factor(group: str, levels: Sequence[str] | Mapping[str, Sequence[str]]) -> list[tuple[str, Sequence[str]]]:
    """Return (name, overrides) of each model or optimizer: choices of the group, or names with their own overrides."""
    if isinstance(levels, Mapping):
        return list(levels.items())
    return [(name, (f"{group}={name}",)) for name in levels]


def _space_name(keys: StudyKeys, arm: Arm, content: Mapping[str, Any]) -> str:
    given = keys.search_space
    if isinstance(given, Mapping):
        if arm.name not in given:
            raise ConfigError(f"study.search_space names no space for arm {arm.name}: add {arm.name}: NAME.")
        return given[arm.name]
    if given != "auto":
        return given
    chosen = [word.partition("=")[2] for word in arm.overrides if word.startswith("optimizer=")]
    name = chosen[-1] if chosen else static.choice_like("optimizer", content["optimizer"])
    if name is None:
        raise ConfigError(
            f"arm {arm.name}: {content['optimizer']['_target_']} is no optimizer of conf/, so its search space is not "
            "known. Name it: study.search_space=NAME."
        )
    return name


def _check_space(arm: Arm, space: SearchSpace, config: Mapping[str, Any]) -> None:
    for dimension in space.dimensions:
        if dimension.key not in config:
            raise ConfigError(
                f"arm {arm.name}: search_space/{space.name}: {unknown_name('key', dimension.key, config)}"
            )
        if dimension.key in OWN_KEYS:
            raise ConfigError(
                f"search_space/{space.name}: {dimension.key} cannot be tuned: it is set by {OWN_KEYS[dimension.key]}."
            )


def _check_plan(plan: StudyPlan) -> None:
    keys, names = plan.keys, [arm.name for arm in plan.arms]
    if (keys.epochs is None) == (keys.seconds is None):
        raise ConfigError(
            f"a study needs study.epochs or study.seconds, and the other null; got epochs={keys.epochs}, "
            f"seconds={keys.seconds}."
        )
    if plan.baseline not in names:
        raise ConfigError(unknown_name("study.baseline: arm", plan.baseline, names))
    if not plan.pairs:
        raise ConfigError(
            f"study {plan.name} compares nothing: study.compare={keys.compare} finds no pair among the arms "
            f"{', '.join(names)}. Add an arm, or set study.compare=all."
        )
    for arm in plan.arms:
        monitor = str(arm.config["checkpoint.monitor"]), arm.config["checkpoint.mode"]
        if monitor != (f"val/{plan.metric}", plan.mode) or not arm.config["checkpoint.save_top_k"]:
            raise ConfigError(
                f"arm {arm.name}: all arms must monitor one validation metric, with checkpoint.save_top_k of at least "
                f"1; {arm.name} monitors {monitor[0]} ({monitor[1]}), {names[0]} val/{plan.metric} ({plan.mode})."
            )
    for arm in plan.arms:
        if arm.space.distinct() < keys.trials:
            raise ConfigError(
                f"arm {arm.name}: search_space/{arm.space.name} has only {arm.space.distinct():.0f} settings, fewer "
                f"than study.trials={keys.trials}: some would be run twice. Widen it or lower study.trials."
            )
    check_seeds(keys.seeds, len(plan.pairs), keys.alpha, "study.seeds")
    _check_effect(plan)
    every = [*plan.overrides, *(word for arm in plan.arms for word in arm.arm.overrides)]
    if secret := [word for word in every if redact(word) != word]:
        raise ConfigError(
            f"{redact(secret[0])} holds a secret, which study.json would record. Use an environment variable."
        )


def _check_effect(plan: StudyPlan) -> None:
    """Refuse overrides that no run would follow: a search space goes over the words of an arm, and these over all."""
    for arm in plan.arms:
        tuned = {dimension.key for dimension in arm.space.dimensions}
        for word in arm.arm.overrides:
            if override_key(word) in tuned:
                raise ConfigError(
                    f"arm {arm.name}: {word} has no effect: search_space/{arm.space.name} tunes {override_key(word)}. "
                    "Leave it out, or name another space by study.search_space."
                )
    for word in plan.overrides:
        key = override_key(word)
        set_by_arm = [key in {override_key(own) for own in arm.arm.overrides} for arm in plan.arms]
        tuned_by = [key in {dimension.key for dimension in arm.space.dimensions} for arm in plan.arms]
        if all(arm or space for arm, space in zip(set_by_arm, tuned_by, strict=True)):
            factor = f"study.{key}s" if key in ("model", "optimizer") and not plan.keys.arms else "study.arms"
            remedy = f"Choose it by {factor}" if all(set_by_arm) else "Name another space by study.search_space"
            who = "set" if all(set_by_arm) else "tune" if all(tuned_by) else "set or tune"
            raise ConfigError(f"{word} has no effect: all arms {who} {key} themselves. {remedy}, or leave it out.")
