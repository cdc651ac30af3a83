"""Findings of a study as sentences.

A sentence says no more than the result's fields: where `winner` is 'none', no sentence names a better arm. Each
finding has a sentence of its own for JSON and tables; `summary` returns those that a reader should see first.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

from effbench.metrics import Display
from effbench.stats import Interval
from effbench.study.power import MOST_SEEDS
from effbench.study.results import BudgetPoint, Comparison, Interaction, InteractionContrast, TargetDifference
from effbench.study.table import FROM_STEPS, Arm, StudyRules, StudyTable
from effbench.study.tuning import arms_compared, lead_needed, least_trials
from effbench.study.wording import difference_text, interval_text, listed, p_text, share_text
from effbench.units import counted

Finding = TypeVar("Finding", Comparison, TargetDifference)


def verdict(comparison: Comparison, table: StudyTable, rules: StudyRules) -> str:
    """Return the sentence of a comparison, such as 'Lion beats AdamW on Swin: +1.2 pt [0.4, 2.0], p = 0.01, 8 seeds'.

    Args:
        comparison: with its winner.
        table: of the study, for names and the metric's unit.
        rules: of the study.
    """
    first, second, place = _names(comparison.a, comparison.b, table.arms)
    seeds = comparison.seeds
    if seeds == 0:
        return f"{first} and {second}{place}: not compared, no seed was run with both"
    # misses decide by rank, not by size (worst_rank_differences), so a reader has to know of them in either case
    parts = [
        f"{name} has no result on {missed} of {counted(seeds, 'seed')}"
        for name, missed in ((first, comparison.missed_a), (second, comparison.missed_b))
        if missed
    ]
    missed_text = f"; {', '.join(parts)} (diverged or failed: counted as worst)" if parts else ""
    if comparison.better_setting == "none":
        interval = comparison.interval
        shown = "" if interval is None else f" ({interval_text(interval, table.display)})"
        head = f"{first} and {second}{place}: not distinguishable with {counted(seeds, 'seed')}{shown}"
        return f"{head}{_more_seeds(comparison, table, rules)}{missed_text}"

    # the sentence is written from the better arm's side: 'Lion beats AdamW: +1.2 pt', never 'AdamW ... -1.2 pt'
    a_leads = comparison.better_setting == "a"
    better, worse = (first, second) if a_leads else (second, first)
    difference = comparison.interval if a_leads else _negated(comparison.interval)
    # of pairs with a miss there is no difference, and that of the others may be small, or of the other sign
    which = " where both finished" if parts else ""
    shown = "" if difference is None else f"{interval_text(difference, table.display)}{which}, "
    found = f"{shown}{p_text(comparison.p_holm)}, {counted(seeds, 'seed')}"
    if comparison.winner == "none":
        # These two settings differ. The arms may be equal: another tuning could pick other settings.
        return (
            f"{first} and {second}{place}: not distinguishable with this tuning; {better}'s setting is better "
            f"({found}), but {better} leads in only "
            f"{_tunings(comparison.tuned_ahead, a_leads, arms_compared(table.pairs), table, rules)}{missed_text}"
        )
    text = f"{better} beats {worse}{place}: {found}"
    # a sure difference may still be too small to matter (arXiv:2103.03098)
    if not comparison.meaningful:
        chance = comparison.probability if a_leads else _opposite(comparison.probability)
        text += (
            f"; small: it wins on {chance.estimate:.0%} [{100 * chance.low:.0f}, {100 * chance.high:.0f}] of new seeds "
            f"(a meaningful lead: {rules.meaningful:.0%} or more, and surely more than half)"
        )
    return text + missed_text


def interaction_verdict(interaction: Interaction, rules: StudyRules) -> str:
    """Return the sentence of a study's model x optimizer interaction."""
    seeds = counted(interaction.seeds, "seed")
    if interaction.told:
        return f"Which optimizer is better depends on the model: interaction {p_text(interaction.p)}, {seeds}"
    if interaction.p <= rules.alpha:
        return (
            "Which of the chosen settings is better depends on the model, but other tunings might choose settings that "
            f"do not: interaction {p_text(interaction.p)}, {seeds}, in too few resampled tunings"
        )
    # "can be told": a large p does not show that there is none
    return f"No interaction of model and optimizer can be told with {seeds}: {p_text(interaction.p)}"


def contrast_verdict(contrast: InteractionContrast, display: Display, rules: StudyRules) -> str:
    """Return the sentence of one difference of differences.

    Args:
        contrast: with adjusted p.
        display: of the metric.
        rules: of the study.
    """
    # a difference of differences, said as a person would: where is the advantage larger?
    (model, other_model), (optimizer, other) = contrast.models, contrast.optimizers
    # the interval is for one contrast, p for all of them at once: only together they name a difference
    excludes = contrast.difference.low > 0 or contrast.difference.high < 0
    told = "" if contrast.p <= rules.alpha and excludes else " (not distinguishable from 0)"
    if not told and not contrast.told:
        ahead = contrast.tuned_ahead or 0.0
        told = f" (of the chosen settings; in only {share_text(max(ahead, 1 - ahead))} of resampled tunings)"
    size = interval_text(contrast.difference, display)
    return f"{optimizer} over {other}, on {model} more than on {other_model}: {size}, {p_text(contrast.p)}{told}"


def seconds_doubt(arms: Sequence[str], table: StudyTable) -> str:
    """Return why seconds to the target of these arms cannot be compared; '' if they can.

    Seconds are steps x the step time measured alone. A disturbed step time makes every run of its arm slow or fast by
    the same factor: more seeds do not show it, and no p value counts it. Without measured step times, each run has its
    own clock, beside whatever else the machine did.

    Args:
        arms: names of the arms.
        table: of the study.
    """
    disturbed = [cost.arm for cost in table.costs if cost.contaminated and cost.arm in arms]
    if disturbed:
        if len(disturbed) == 1:
            return f"the step time of {disturbed[0]} was disturbed"
        # their names fill two lines of a study of 12 arms, and the objection below the verdict has them
        every = "both arms" if len(disturbed) == 2 else f"all {len(disturbed)} arms"
        which = every if len(disturbed) == len(table.arms) else listed(disturbed)
        return f"the step times of {which} were disturbed"
    return "" if table.clock == FROM_STEPS else "no step time was measured alone"


def target_verdict(difference: TargetDifference, table: StudyTable, rules: StudyRules) -> str:
    """Return the sentence of a difference of times to the target.

    Args:
        difference: of restricted mean times.
        table: of the study, for names.
        rules: of the study.
    """
    first, second, place = _names(difference.a, difference.b, table.arms)
    if difference.doubt:
        return f"{first} and {second}{place}: {difference.unit} to target cannot be told: {difference.doubt}"
    within = f"within {_number(difference.horizon)} {difference.unit}"
    seeds = counted(difference.difference.n, "seed")
    if difference.faster_setting == "none":
        return f"{first} and {second}{place}: {difference.unit} to target not distinguishable {within}, {seeds}"
    # the difference is a - b, so the winner's time is the smaller one; the sentence says how much less it needs
    a_leads = difference.faster_setting == "a"
    faster, slower = (first, second) if a_leads else (second, first)
    saved = _negated(difference.difference) if a_leads else difference.difference
    assert saved is not None
    found = (
        f"{_number(saved.estimate)} {difference.unit} less [{_number(saved.low)}, {_number(saved.high)}], "
        f"{p_text(difference.p_holm)}, {seeds} ({within})"
    )
    if difference.winner == "none":
        return (
            f"{first} and {second}{place}: {difference.unit} to target not distinguishable with this tuning; "
            f"{faster}'s setting needs {found}, but {faster} is faster in only "
            f"{_tunings(difference.tuned_ahead, a_leads, arms_compared(table.pairs), table, rules)}"
        )
    return f"{faster} reaches the target before {slower}{place}: {found}"


def budget_verdict(points: Sequence[BudgetPoint], arms: Sequence[Arm]) -> str:
    """Return who leads at each tuning budget, for the arms of one model.

    Args:
        points: of these arms at all budgets.
        arms: of the study.
    """
    leaders: list[tuple[int, str | None, float]] = []
    place = ""
    for budget in sorted({point.trials for point in points}):
        at = [point for point in points if point.trials == budget]
        leader = max(at, key=lambda point: point.wins)
        name, _, place = _names(leader.arm, next(point.arm for point in at if point.arm != leader.arm), arms)
        # nobody where every trial diverged, or where arms are equal
        alone = leader.wins > 0 and sum(math.isclose(point.wins, leader.wins, rel_tol=1e-9) for point in at) == 1
        leaders.append((budget, name if alone else None, leader.wins))

    # neighbouring budgets with one leader are one part: a change of the leader is what a reader looks for
    parts: list[str] = []
    what, of = " has the best validation most often", " of resampled tunings"  # each is said once
    for name, group in itertools.groupby(leaders, key=lambda each: each[1]):
        own = list(group)
        first, last, shares = own[0][0], own[-1][0], [share for _, _, share in own]
        runs = counted(last, "run") if first == last else f"{first} to {last} runs"
        if name is None:
            parts.append(f"after {runs} no arm{what}")
        else:
            low, high = f"{min(shares):.0%}", f"{max(shares):.0%}"
            parts.append(f"after {runs} {name}{what} ({low if low == high else f'{low} to {high}'}{of})")
            of = ""
        what = ""
    return f"Tuning{place}: {', '.join(parts)}"


def summary(
    table: StudyTable,
    rules: StudyRules,
    comparisons: Sequence[Comparison],
    interaction: Interaction | None,
    differences: Sequence[TargetDifference],
) -> list[str]:
    """Return the sentences to read first: clear findings one by one, then one sentence for all that cannot be told.

    A study of 4 optimizers on 3 models has 18 pairs and as many times to the target in each of two units: a list of
    equal sentences would hide the few findings.

    Args:
        table: of the study.
        rules: of the study.
        comparisons: with sentences.
        interaction: with sentence, or None.
        differences: of times to the target, with sentences.
    """
    found = [each.sentence for each in comparisons if each.winner != "none"]
    found += [interaction.sentence] if interaction else []
    found += [each.sentence for each in differences if each.faster_setting != "none"]

    # a better setting and a miss have numbers of their own, which no list of pairs could hold
    rest = [each for each in comparisons if each.winner == "none"]
    own = [each for each in rest if each.seeds and (each.better_setting != "none" or each.missed_a or each.missed_b)]
    found += [each.sentence for each in own]
    alike = [each for each in rest if each.seeds and each not in own]
    for seeds in dict.fromkeys(each.seeds for each in alike):  # an unfinished study has pairs with fewer seeds
        found += _grouped(
            [each for each in alike if each.seeds == seeds], table.arms,
            f"Not distinguishable with {counted(seeds, 'seed')}{_bracket_lead(alike, rules, table)}",
            lambda each: _bracket(each, rules, table),
        )  # fmt: skip
    missing = [each for each in rest if not each.seeds]
    found += _grouped(missing, table.arms, "Not compared, no seed was run with both", every=comparisons)

    for unit in dict.fromkeys(each.unit for each in differences):
        every = [each for each in differences if each.unit == unit]
        doubted = [each for each in every if each.doubt]
        undecided = [each for each in every if each.faster_setting == "none" and not each.doubt]
        reason = seconds_doubt([arm for each in doubted for arm in (each.a, each.b)], table)
        for unclear, what in ((doubted, f"cannot be told ({reason})"), (undecided, "not distinguishable")):
            found += _grouped(unclear, table.arms, f"{unit.capitalize()} to target {what}", every=every)
    return found


def error_rates(
    comparisons: Sequence[Comparison],
    interaction: Interaction | None,
    differences: Sequence[TargetDifference],
    rules: StudyRules,
) -> list[str]:
    """Return what the error rate counts for; [] for a study with one kind of finding.

    Args:
        comparisons: of quality.
        interaction: None without one.
        differences: of times to the target.
        rules: of the study.
    """
    units = dict.fromkeys(each.unit for each in differences)
    kinds = [
        *(["quality"] if any(each.seeds for each in comparisons) else []),
        *(f"{unit} to target" for unit in units),
        *(["interaction"] if interaction else []),
    ]
    # one family of all would cost each of them power, though readers ask them as questions of their own
    if len(kinds) < 2:
        return []
    return [
        f"Error rate: without any true difference, at most {rules.alpha:.0%} of such studies find one, for each of "
        f"{listed(kinds)}; each is corrected for its own number of comparisons"
    ]


def _grouped(
    findings: Sequence[Finding],
    arms: Sequence[Arm],
    head: str,
    remark: Callable[[Finding], str] | None = None,
    every: Sequence[Finding] = (),
) -> list[str]:
    """Return one sentence that lists the pairs by model; of a single finding its own sentence.

    Args:
        findings: to be listed.
        arms: of the study, for names.
        head: what is said of all of them.
        remark: what is said of one, after its names.
        every: all findings of this kind: a model of which all are meant needs no list of pairs.
    """
    if len(findings) < 2:
        return [each.sentence for each in findings]
    by_place: dict[str, list[str]] = {}
    for each in findings:
        first, second, place = _names(each.a, each.b, arms)
        by_place.setdefault(place, []).append(f"{first} and {second}{remark(each) if remark else ''}")
    whole = Counter(_names(each.a, each.b, arms)[2] for each in every)
    if len(findings) == len(every):
        return [f"{head}: all {len(every)} pairs"]
    texts = {
        place: f"all {len(pairs)} pairs" if len(pairs) == whole[place] > 2 else ", ".join(pairs)
        for place, pairs in by_place.items()
    }
    if len(texts) == 1:
        ((place, text),) = texts.items()
        return [f"{head}{place}: {text}"]
    return [f"{head}: {'; '.join(f'{place.strip()} {text}'.strip() for place, text in texts.items())}"]


def _bracket_lead(comparisons: Sequence[Comparison], rules: StudyRules, table: StudyTable) -> str:
    if all(each.difference_to_tell is None for each in comparisons):
        return ""
    if not rules.relevant_difference:
        return " (in brackets: the difference seen, and the seeds that would tell it apart)"
    size = difference_text(rules.relevant_difference, table.display)
    return f" (in brackets: the seeds that would tell {size} apart)"


def _bracket(comparison: Comparison, rules: StudyRules, table: StudyTable) -> str:
    if comparison.difference_to_tell is None:
        return ""
    size = "" if rules.relevant_difference else f"{difference_text(comparison.difference_to_tell, table.display)}, "
    needed = comparison.seeds_needed
    if needed is None:
        return f" ({size}no number)"
    if needed >= MOST_SEEDS:
        return f" ({size}more than {MOST_SEEDS:,})"
    # with fewer than were run, the difference would have been found most of the time: it is probably smaller
    return f" ({size}{comparison.seeds} are enough)" if needed <= comparison.seeds else f" ({size}{_about(needed)})"


def _names(a: str, b: str, arms: Sequence[Arm]) -> tuple[str, str, str]:
    """Return how a sentence calls two arms, and ' on MODEL' if they share a model and differ by optimizer."""
    first, second = (next((arm for arm in arms if arm.name == name), Arm(name)) for name in (a, b))
    # 'swin-lion beats swin-adamw' would say the model twice
    if first.model is not None and first.model == second.model and first.optimizer and second.optimizer:
        return first.title or first.optimizer, second.title or second.optimizer, f" on {first.model}"
    return first.title or first.name, second.title or second.name, ""


def _more_seeds(comparison: Comparison, table: StudyTable, rules: StudyRules) -> str:
    if comparison.difference_to_tell is None:
        return ""
    size = difference_text(comparison.difference_to_tell, table.display)
    if comparison.seeds_needed is None:
        # seeds share their test samples, so the error of these samples stays (statistics.sample_error)
        return f"; no number of seeds would tell {size} apart with these test samples"
    if comparison.seeds_needed >= MOST_SEEDS:
        return f"; not even {MOST_SEEDS:,} would tell {size} apart"
    if comparison.seeds_needed <= comparison.seeds:
        return f"; {comparison.seeds} are enough to tell {size} apart in {rules.power:.0%} of studies"
    return f"; {_about(comparison.seeds_needed)} would tell {size} apart"


def _about(seeds: int) -> str:
    """Write a number of seeds without digits that nobody can know: to 5 from 20 on, to two digits from 100 on."""
    # it follows from the variance of a few seeds: of 8 seeds, a 95 % interval for it spans a factor of 9
    step = 1 if seeds < 20 else 5 if seeds < 100 else 10 ** (len(str(seeds)) - 2)
    return f"about {-(-seeds // step) * step:,}"  # rounded up: too few would be no promise


def _negated(interval: Interval | None) -> Interval | None:
    return None if interval is None else Interval(-interval.estimate, -interval.high, -interval.low, interval.n)


def _tunings(ahead: float | None, a_leads: bool, arms: int, table: StudyTable, rules: StudyRules) -> str:
    """Return in how many resampled tunings an arm leads, and in how many it would have to."""
    share = ahead or 0.0
    least = least_trials(arms, rules, table.sampler)
    few = f", which takes {least} tuning runs an arm" if 0 < table.planned_trials < least else ""
    needed = share_text(lead_needed(arms, rules, table.sampler))
    return f"{share_text(share if a_leads else 1 - share)} of resampled tunings ({needed} needed{few})"


def _opposite(chance: Interval) -> Interval:
    """Return P(B beats A) of P(A beats B)."""
    return Interval(1 - chance.estimate, 1 - chance.high, 1 - chance.low, chance.n)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
