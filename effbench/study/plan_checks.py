"""What a study refuses before time is spent: overrides without effect, spaces too small, too few seeds, secrets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from effbench.bench.options import LEAST_ROUNDS
from effbench.errors import ConfigError, shown, unknown_name
from effbench.redaction import redact
from effbench.run.overrides import override_key
from effbench.study.plan import FOLDER, OWN_KEYS, PlannedArm, StudyPlan
from effbench.study.power import check_seeds
from effbench.study.space import SearchSpace
from effbench.study.table import Arm

_LARGEST_DIFFERENCE = 0.5  # of fractions: one of 50 points needs no study


def check_overrides(words: Sequence[str]) -> None:
    """Refuse overrides of what the study sets, and of what belongs to one run."""
    for word in words:
        key = override_key(word)
        # a word for one run, such as seed=3, would be silently replaced by StudyPlan.words
        if key in OWN_KEYS:
            raise ConfigError(f"{word} cannot be given here: it is set by {OWN_KEYS[key]}.")
        if key == "resume" or key.startswith("hydra"):
            raise ConfigError(f"{word} is for one run. A study goes on by the same command; {FOLDER} names its folder.")


def check_space(arm: Arm, space: SearchSpace, config: Mapping[str, Any]) -> None:
    """Refuse settings that the arm's runs do not have, or that the study sets.

    Args:
        arm: the arm.
        space: its search space.
        config: dotted key -> value of a run with the arm's defaults.
    """
    for dimension in space.dimensions:
        if dimension.key not in config:
            raise ConfigError(
                f"arm {arm.name}: search_space/{space.name}: {unknown_name('key', dimension.key, config)}"
            )
        if dimension.key in OWN_KEYS:
            raise ConfigError(
                f"search_space/{space.name}: {dimension.key} cannot be tuned: it is set by {OWN_KEYS[dimension.key]}."
            )


def check_plan(plan: StudyPlan) -> None:
    """Refuse a plan that compares nothing, compares unfairly, or cannot reach a verdict.

    Raises:
        ConfigError: names the key, the rule and the remedy.
    """
    # cheap and certain mistakes first; the number of seeds depends on the pairs, so the pairs come before it
    keys, names = plan.keys, [arm.name for arm in plan.arms]
    if (keys.epochs is None) == (keys.seconds is None):
        raise ConfigError(
            f"a study needs study.epochs or study.seconds, and the other null; got epochs={shown(keys.epochs)}, "
            f"seconds={shown(keys.seconds)}."
        )
    if 0 < keys.deployment_rounds < LEAST_ROUNDS:
        raise ConfigError(
            f"study.deployment_rounds must be at least {LEAST_ROUNDS}, for intervals over them, or 0: not measured; "
            f"got {keys.deployment_rounds}."
        )
    _check_fractions(plan)
    if plan.baseline not in names:
        raise ConfigError(unknown_name("study.baseline: arm", plan.baseline, names))
    if not plan.pairs:
        raise ConfigError(
            f"study {plan.name} compares nothing: study.compare={keys.compare} finds no pair among the arms "
            f"{', '.join(names)}. Add an arm, or set study.compare=all."
        )
    for arm in plan.arms:
        # save_top_k: the test split is read with the checkpoint that was best on validation
        monitor = str(arm.config["checkpoint.monitor"]), arm.config["checkpoint.mode"]
        if monitor != (f"val/{plan.metric}", plan.mode) or not arm.config["checkpoint.save_top_k"]:
            raise ConfigError(
                f"arm {arm.name}: all arms must monitor one validation metric, with checkpoint.save_top_k of at least "
                f"1; {arm.name} monitors {monitor[0]} ({monitor[1]}), {names[0]} val/{plan.metric} ({plan.mode})."
            )
        _check_schedule_free(plan, arm)
        # a setting that is run twice with one seed gives the same number twice: a trial less than the other arms have
        if arm.space.distinct() < keys.trials:
            raise ConfigError(
                f"arm {arm.name}: search_space/{arm.space.name} has only {arm.space.distinct():.0f} settings, fewer "
                f"than study.trials={keys.trials}: some would be run twice. Widen it or lower study.trials."
            )
    # with too few seeds no data could give a verdict: the smallest p of the sign-flip test is above Holm's first step
    check_seeds(keys.seeds, len(plan.pairs), keys.alpha, "study.seeds")
    _check_effect(plan)
    every = [*plan.overrides, *(word for arm in plan.arms for word in arm.arm.overrides)]
    if secret := [word for word in every if redact(word) != word]:
        raise ConfigError(
            f"{redact(secret[0])} holds a secret, which study.json would record. Use an environment variable."
        )


def _check_fractions(plan: StudyPlan) -> None:
    """Refuse values in percent of a metric that is a fraction: no run would reach them, and nothing would tell."""
    if not plan.display.as_percent:
        return
    target, relevant = plan.keys.target, plan.keys.relevant_difference
    if isinstance(target, float) and not 0 <= target <= 1:
        hint = f" For {target:g} % write {target / 100:g}." if target > 1 else ""
        raise ConfigError(f"study.target must be a fraction in [0, 1], as val/{plan.metric} is; got {target:g}.{hint}")
    if relevant is not None and relevant >= _LARGEST_DIFFERENCE:
        raise ConfigError(
            f"study.relevant_difference must be a fraction below {_LARGEST_DIFFERENCE:g}, as val/{plan.metric} is one; "
            f"got {relevant:g}. For {relevant:g} points write {relevant / 100:g}."
        )


def _check_schedule_free(plan: StudyPlan, arm: PlannedArm) -> None:
    """Refuse a schedule-free optimizer with a schedule: its averaging takes the place of a falling learning rate."""
    # by the name, because planning imports no torch: effbench's class, and those of the package schedulefree
    optimizer = str(arm.config["optimizer._target_"]).lower().replace("_", "")
    scheduler = str(arm.config["scheduler._target_"])
    if "schedulefree" not in optimizer or scheduler == "effbench.schedulers.Constant":
        return
    words = [*arm.arm.overrides, "scheduler=constant"]
    key, name = "study.arms", arm.name
    if arm.arm.optimizer is not None:
        key, name = "study.optimizers", arm.arm.optimizer
        given = plan.keys.optimizers
        words = [*(given[name] if isinstance(given, Mapping) else [f"optimizer={name}"]), "scheduler=constant"]
    raise ConfigError(
        f"arm {arm.name}: a schedule-free optimizer needs scheduler=constant (arXiv:2405.15682); got {scheduler}. In "
        f"{key}, write {name}: {shown(words)}."
    )


def _check_effect(plan: StudyPlan) -> None:
    """Refuse overrides that no run would follow: a search space goes over the words of an arm, and these over all.

    A run would train with another value than its command line says, and nothing would tell.
    """
    tuned = [{dimension.key for dimension in arm.space.dimensions} for arm in plan.arms]
    own = [{override_key(word) for word in arm.arm.overrides} for arm in plan.arms]
    for arm, keys in zip(plan.arms, tuned, strict=True):
        for word in arm.arm.overrides:
            if override_key(word) in keys:
                raise ConfigError(
                    f"arm {arm.name}: {word} has no effect: search_space/{arm.space.name} tunes {override_key(word)}. "
                    "Leave it out, or name another space by study.search_space."
                )
    for word in plan.overrides:
        key = override_key(word)
        set_by_arm, tuned_by = [key in keys for keys in own], [key in keys for keys in tuned]
        # in one arm it has no effect, in another it has: that is a default, and arms may go over defaults
        if all(arm or space for arm, space in zip(set_by_arm, tuned_by, strict=True)):
            factor = f"study.{key}s" if key in ("model", "optimizer") and not plan.keys.arms else "study.arms"
            remedy = f"Choose it by {factor}" if all(set_by_arm) else "Name another space by study.search_space"
            who = "set" if all(set_by_arm) else "tune" if all(tuned_by) else "set or tune"
            raise ConfigError(f"{word} has no effect: all arms {who} {key} themselves. {remedy}, or leave it out.")
