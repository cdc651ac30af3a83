"""Findings of a study as sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence

from effbench.stats import Interval
from effbench.study.power import MOST_SEEDS, distinguishable, least_seeds, power, seeds_needed, smallest_p
from effbench.study.results import BudgetPoint, Comparison, Interaction, InteractionContrast, TargetDifference
from effbench.study.table import Arm, StudyRules, StudyTable


def verdict(comparison: Comparison, table: StudyTable, rules: StudyRules) -> str:
    """Return the sentence of a comparison, such as 'Lion beats AdamW on Swin: +1.2 pt [0.4, 2.0], p = 0.01, 8 seeds'.

    Args:
        comparison: with its winner.
        table: of the study, for names and the metric's unit.
        rules: of the study.
    """
    first, second, place = _names(comparison.a, comparison.b, table.arms)
    seeds = comparison.wins + comparison.ties + comparison.losses
    missed = _missed(((first, comparison.missed_a), (second, comparison.missed_b)), seeds)
    if seeds == 0:
        return f"{first} and {second}{place}: not compared, no seed was run with both"
    if comparison.better_setting == "none":
        head = f"{first} and {second}{place}: not distinguishable with {_count(seeds, 'seed')}"
        return f"{head}{_difference(comparison.interval, table)}{_more_seeds(comparison, table, rules)}{missed}"

    a_leads = comparison.better_setting == "a"
    better, worse = (first, second) if a_leads else (second, first)
    difference = comparison.interval if a_leads else _negated(comparison.interval)
    shown = "" if difference is None else f"{interval_text(difference, table.as_percent)}, "
    found = f"{shown}{p_text(comparison.p_holm)}, {_count(seeds, 'seed')}"
    if comparison.winner == "none":
        ahead = comparison.tuned_ahead or 0.0
        return (
            f"{first} and {second}{place}: not distinguishable with this tuning; {better}'s setting is better "
            f"({found}), but {better} leads in only {ahead if a_leads else 1 - ahead:.0%} of resampled tunings{missed}"
        )
    text = f"{better} beats {worse}{place}: {found}"
    chance = comparison.probability.estimate if a_leads else 1 - comparison.probability.estimate
    if chance < rules.meaningful:
        text += f"; small: it wins on {chance:.0%} of new seeds, less than {rules.meaningful:.0%}"
    return text + missed


def interaction_verdict(interaction: Interaction, rules: StudyRules) -> str:
    """Return the sentence of a study's model x optimizer interaction."""
    seeds = _count(interaction.seeds, "seed")
    if interaction.p <= rules.alpha:
        return f"Which optimizer is better depends on the model: interaction {p_text(interaction.p)}, {seeds}"
    return f"No interaction of model and optimizer can be told with {seeds}: {p_text(interaction.p)}"


def contrast_verdict(contrast: InteractionContrast, as_percent: bool, rules: StudyRules) -> str:
    """Return the sentence of one difference of differences.

    Args:
        contrast: with adjusted p.
        as_percent: the metric is a fraction.
        rules: of the study.
    """
    (model, other_model), (optimizer, other) = contrast.models, contrast.optimizers
    excludes = contrast.difference.low > 0 or contrast.difference.high < 0
    told = "" if contrast.p <= rules.alpha and excludes else " (not distinguishable from 0)"
    size = interval_text(contrast.difference, as_percent)
    return f"{optimizer} over {other}, on {model} more than on {other_model}: {size}, {p_text(contrast.p)}{told}"


def target_verdict(difference: TargetDifference, table: StudyTable, seeds: int) -> str:
    """Return the sentence of a difference of times to the target.

    Args:
        difference: of restricted mean times.
        table: of the study, for names.
        seeds: number of pairs.
    """
    first, second, place = _names(difference.a, difference.b, table.arms)
    within = f"within {_amount(difference.horizon, difference.unit)}"
    doubt = ""
    if difference.unit == "seconds":
        disturbed = [cost.arm for cost in table.costs if cost.contaminated and cost.arm in (difference.a, difference.b)]
        doubt = f"; not reliable: the step time of {' and '.join(disturbed)} was disturbed" if disturbed else ""
    if difference.winner == "none":
        head = f"{first} and {second}{place}: {difference.unit} to target not distinguishable {within}"
        return f"{head}, {_count(seeds, 'seed')}{doubt}"
    faster, slower = (first, second) if difference.winner == "a" else (second, first)
    saved = difference.difference if difference.winner == "b" else _negated(difference.difference)
    assert saved is not None
    ends = f"[{_number(saved.low)}, {_number(saved.high)}]"
    return (
        f"{faster} reaches the target before {slower}{place}: {_number(saved.estimate)} {difference.unit} less {ends}, "
        f"{p_text(difference.p_holm)}, {_count(seeds, 'seed')} ({within}){doubt}"
    )


def budget_verdict(points: Sequence[BudgetPoint], arms: Sequence[Arm]) -> str:
    """Return who leads at each tuning budget, for the arms of one model.

    Args:
        points: of these arms at all budgets.
        arms: of the study.
    """
    parts, place = [], ""
    for budget in sorted({point.trials for point in points}):
        at = [point for point in points if point.trials == budget]
        leader = max(at, key=lambda point: point.wins)
        name, _, place = _names(leader.arm, next(point.arm for point in at if point.arm != leader.arm), arms)
        parts.append(f"{_count(budget, 'trial')} {name} ({leader.wins:.0%})")
    return f"Best validation after tuning{place}: " + ", ".join(parts)


def plan_sentences(
    seeds: int,
    comparisons: int,
    rules: StudyRules | None = None,
    deviation: float | None = None,
    as_percent: bool = True,
) -> list[str]:
    """Return what a plan can find, in words, for `effbench study --plan`.

    Args:
        seeds: planned confirmation seeds.
        comparisons: number of pairs that are compared.
        rules: of the study; None for the default ones.
        deviation: expected standard deviation of the paired differences; None if nothing is known.
        as_percent: the metric is a fraction that is written in percent.
    """
    rules = rules or StudyRules()
    least = least_seeds(comparisons, rules.alpha)
    sentences = [
        f"{seeds} seeds, {comparisons} comparison{'s' * (comparisons != 1)}: smallest p {smallest_p(seeds):.3g}; "
        f"Holm's correction asks for {rules.alpha / max(1, comparisons):.2g} (least number of seeds: {least})."
    ]
    found = distinguishable(1.0, seeds, comparisons, rules)
    if found is None:
        return [*sentences, f"No verdict is possible with {seeds} seeds."]
    share = f"{rules.power:.0%}"
    if deviation is None:
        sentences.append(
            f"A difference of {found:.2g} standard deviations of the paired differences over seeds is found in {share} "
            "of such studies."
        )
        return sentences
    spread, size = difference_text(deviation, as_percent), difference_text(found * deviation, as_percent)
    sentences.append(f"If paired differences vary by {spread} over seeds, a difference of {size} is found in {share}.")
    if rules.relevant_difference is not None:
        chance = power(rules.relevant_difference, deviation, seeds, comparisons, rules)
        enough = seeds_needed(rules.relevant_difference, deviation, comparisons, rules)
        wanted = difference_text(rules.relevant_difference, as_percent)
        more = f"{enough} seeds would find it in {share}" if enough else "no number of seeds would find it"
        sentences.append(f"A difference of {wanted} is found in {chance:.0%}; {more}.")
    return sentences


def interval_text(interval: Interval, as_percent: bool) -> str:
    """Write a difference with its interval: '+1.2 pt [0.4, 2.0]'.

    Args:
        interval: in the metric's unit.
        as_percent: the metric is a fraction; the difference is written in points.
    """
    shown = interval.times(100) if as_percent else interval
    digits = _digits(shown)
    unit = " pt" if as_percent else ""
    return f"{shown.estimate:+.{digits}f}{unit} [{shown.low:.{digits}f}, {shown.high:.{digits}f}]"


def difference_text(size: float, as_percent: bool) -> str:
    """Write the size of a difference: '0.5 pt', or '0.012' for a metric that is no fraction."""
    return f"{size * 100:.2g} pt" if as_percent else f"{size:.2g}"


def p_text(p: float) -> str:
    """Write a p value: 'p = 0.01', 'p = 0.0078', 'p < 0.001'."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def _digits(interval: Interval) -> int:
    """Return decimals that show the interval's width with two digits, from 1 on."""
    width = interval.high - interval.low
    if not (0 < width < math.inf):
        return 2
    return min(6, max(1, 1 - math.floor(math.log10(width))))


def _names(a: str, b: str, arms: Sequence[Arm]) -> tuple[str, str, str]:
    """Return how a sentence calls two arms, and ' on MODEL' if they share a model and differ by optimizer."""
    first, second = (next((arm for arm in arms if arm.name == name), Arm(name)) for name in (a, b))
    if first.model is not None and first.model == second.model and first.optimizer and second.optimizer:
        return first.title or first.optimizer, second.title or second.optimizer, f" on {first.model}"
    return first.title or first.name, second.title or second.name, ""


def _difference(interval: Interval | None, table: StudyTable) -> str:
    return "" if interval is None else f" ({interval_text(interval, table.as_percent)})"


def _more_seeds(comparison: Comparison, table: StudyTable, rules: StudyRules) -> str:
    if comparison.difference_to_tell is None:
        return ""
    size = difference_text(comparison.difference_to_tell, table.as_percent)
    if comparison.seeds_needed is None:
        return f"; no number of seeds would tell {size} apart with these test samples"
    seeds = comparison.wins + comparison.ties + comparison.losses
    if comparison.seeds_needed >= MOST_SEEDS:
        return f"; not even {MOST_SEEDS:,} would tell {size} apart"
    if comparison.seeds_needed <= seeds:
        return f"; {seeds} are enough to tell {size} apart in {rules.power:.0%} of studies"
    return f"; about {_rounded(comparison.seeds_needed):,} would tell {size} apart"


def _rounded(seeds: int) -> int:
    """Return a number of seeds without digits that nobody can know: to 5 from 20 on, to two digits from 100 on."""
    if seeds < 20:
        return seeds
    step = 5 if seeds < 100 else 10 ** (len(str(seeds)) - 2)
    return -(-seeds // step) * step


def _missed(arms: Sequence[tuple[str, int]], seeds: int) -> str:
    parts = [f"{name} has no result on {missed} of {_count(seeds, 'seed')}" for name, missed in arms if missed]
    return "; " + ", ".join(parts) + " (diverged or failed: counted as worst)" if parts else ""


def _negated(interval: Interval | None) -> Interval | None:
    return None if interval is None else Interval(-interval.estimate, -interval.high, -interval.low, interval.n)


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'s' * (number != 1)}"


def _amount(time: float, unit: str) -> str:
    return f"{_number(time)} {unit}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
