"""From the words of `effbench study` to a checked plan. Nothing is written, and torch is not imported."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from effbench.cache_dir import expanded
from effbench.config import static_compose as static
from effbench.config.compare import PLACES, leaves
from effbench.config.monitors import monitors_are_known
from effbench.config.refusals import Refusals
from effbench.config.schema import Config
from effbench.config.study_files import content_of
from effbench.errors import ConfigError
from effbench.metrics import Display, display_of, metric_of
from effbench.run.overrides import is_ephemeral, merge_overrides
from effbench.study.keys import StudyKeys, keys_of
from effbench.study.plan import PlannedArm, StudyPlan
from effbench.study.plan_checks import check_overrides, check_plan, check_space
from effbench.study.space import search_space, words_of
from effbench.study.table import Arm

DEFAULT_FOLDER = Path("outputs") / "studies"
# It names a folder on any file system, an Optuna study and a row of tables; 60 characters leave the tables readable.
_ARM_NAME = re.compile(r"[A-Za-z0-9][\w.+-]{0,59}", re.ASCII)


def planned(words: Sequence[str], config_dir: str | None = None) -> StudyPlan:
    """Return the checked plan of `effbench study WORDS`.

    Args:
        words: study=NAME, study.KEY=VALUE, and overrides of every run.
        config_dir: folder with the user's groups.

    Raises:
        ConfigError: a key is wrong, an arm does not compose, a search space is empty, or there are too few seeds.
    """
    name, keys, overrides = keys_of(words, config_dir)
    # Words of one session, such as allow_targets, reach every run and are not frozen: a folder that someone sends must
    # not widen what its reader's machine may import.
    session_words = [word for word in overrides if is_ephemeral(word)]
    common = merge_overrides(keys.overrides, [word for word in overrides if not is_ephemeral(word)])
    check_overrides([*common, *session_words])
    arms = _arms(keys, common, session_words, config_dir)
    # of the first arm; check_plan refuses arms that monitor something else
    monitor, mode = str(arms[0].config["checkpoint.monitor"]), arms[0].config["checkpoint.mode"]
    metric = monitor.partition("/")[2]
    folder = expanded(keys.folder) if keys.folder else DEFAULT_FOLDER / name
    plan = StudyPlan(name, keys, arms, tuple(common), tuple(session_words), folder, metric, mode, config_dir)
    check_plan(plan)
    return plan


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
        check_overrides(arm.overrides)
        words = merge_overrides(common, arm.overrides)
        composed = _with_monitors(checked(arm.name, words))
        content = composed.to_dict()
        name = _space_name(keys, arm, content)
        space = search_space(name, content_of("search_space", name, config_dir))
        config = {key: value for key, value in leaves(content).items() if not key.startswith(PLACES) and key != "seed"}
        check_space(arm, space, config)
        # Most rules of a config are ranges of one key: what composes at both ends composes between them. A trial that
        # is refused only when its turn comes would count as a run without result.
        for corner in space.corners():
            checked(arm.name, merge_overrides(words, words_of(corner)), f" with {' '.join(words_of(corner))}")
        with_space = Arm(arm.name, arm.model, arm.optimizer, arm.overrides, space.ranges())
        found.append(PlannedArm(with_space, space, config, _display(composed)))
    return tuple(found)


def _with_monitors(config: Config) -> Config:
    if monitors_are_known(config):
        return config
    # The metric is of the user's own class, which says its name and mode. Imported here, because it imports torch.
    from effbench.builders.tasks import with_monitors

    return with_monitors(config)


def _display(config: Config) -> Display:
    """Return how the metric that a run monitors is written."""
    metric = metric_of(config.checkpoint.monitor)
    if metric in config.task.metrics:
        return display_of(metric)
    # The loss, whose unit the task knows, or a metric of the user's own class. It imports torch, as above.
    from effbench.builders.tasks import task_of

    # The number of outputs changes no display; an unknown metric is refused by the first run of the arm.
    return task_of(config, num_outputs=2).displays.get(metric) or display_of(metric)


def _named_arms(keys: StudyKeys) -> list[Arm]:
    """Return the arms without their spaces: the combinations of models and optimizers, or the lists of overrides."""
    if bool(keys.arms) == bool(keys.models or keys.optimizers) or bool(keys.models) != bool(keys.optimizers):
        raise ConfigError(
            "a study needs study.models and study.optimizers, whose combinations are its arms, or study.arms, a "
            f"mapping NAME: [OVERRIDES]; got models={keys.models}, optimizers={keys.optimizers}, arms={keys.arms}."
        )
    if keys.arms:
        arms = [Arm(name, overrides=tuple(words)) for name, words in keys.arms.items()]
    else:
        arms = [
            # the optimizer's overrides come last, so that they replace those of the model
            Arm(f"{model}-{optimizer}", model, optimizer, (*model_words, *optimizer_words))
            for model, model_words in _factor("model", keys.models)
            for optimizer, optimizer_words in _factor("optimizer", keys.optimizers)
        ]
    # lower case: the folders of two arms would be one on a file system that does not tell cases apart
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
    """Return the name of the arm's search space. content: the config of a run of the arm."""
    given = keys.search_space
    if isinstance(given, Mapping):
        if arm.name not in given:
            raise ConfigError(f"study.search_space names no space for arm {arm.name}: add {arm.name}: NAME.")
        return given[arm.name]
    if given != "auto":
        return given
    # The word optimizer=NAME says it. Without one (the optimizer is in study.overrides or a recipe) the config's class
    # and values tell which choice it was.
    chosen = [word.partition("=")[2] for word in arm.overrides if word.startswith("optimizer=")]
    name = chosen[-1] if chosen else static.choice_like("optimizer", content["optimizer"])
    if name is None:
        raise ConfigError(
            f"arm {arm.name}: {content['optimizer']['_target_']} is no optimizer of conf/, so its search space is not "
            "known. Name it: study.search_space=NAME."
        )
    return name
