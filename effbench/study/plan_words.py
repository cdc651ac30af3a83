"""What a plan can find, in words: how large a difference has to be, and how many seeds and tuning runs it takes."""

from __future__ import annotations

from effbench.metrics import Accuracy, Display
from effbench.study.power import distinguishable, least_seeds, power, seeds_needed, smallest_p
from effbench.study.table import Sampler, StudyRules
from effbench.study.tuning import lead_needed, least_trials
from effbench.study.wording import difference_text, share_text
from effbench.units import counted


def plan_sentences(
    seeds: int,
    comparisons: int,
    rules: StudyRules | None = None,
    deviation: float | None = None,
    display: Display = Accuracy.display,
    trials: int = 0,
    arms: int = 2,
    sampler: Sampler = "qmc",
) -> list[str]:
    """Return what a plan can find, in words, for `effbench study --plan`.

    Args:
        seeds: planned seeds of the final runs.
        comparisons: number of pairs that are compared.
        rules: of the study; None for the default ones.
        deviation: expected standard deviation of the paired differences; None if nothing is known.
        display: of the metric.
        trials: planned tuning runs an arm; 0 for arms that are not tuned.
        arms: number of arms that are compared.
        sampler: of the trials' settings.
    """
    rules = rules or StudyRules()
    least = least_seeds(comparisons, rules.alpha)
    sentences = [
        f"{seeds} seeds, {comparisons} comparison{'s' * (comparisons != 1)}: the smallest possible p is "
        f"{smallest_p(seeds):.3g}; Holm's correction needs {rules.alpha / max(1, comparisons):.2g} or less (at least "
        f"{least} seeds)."
    ]
    # in standard deviations, because nothing is known of them before the first paired runs
    found = distinguishable(1.0, seeds, comparisons, rules)
    if found is None:
        return [*sentences, f"No verdict is possible with {seeds} seeds."]
    share, relevant = f"{rules.power:.0%}", rules.relevant_difference
    wanted = "" if relevant is None else difference_text(relevant, display)
    # without a guess of the spread, a difference in points would be made up
    if deviation is None:
        sentences.append(
            f"A true difference of {found:.2g} standard deviations (of the paired differences over seeds) between two "
            f"chosen settings is found with a probability of {share}."
        )
        if relevant is not None:
            most = difference_text(relevant / found, display)
            sentences.append(
                f"A difference of {wanted} is found in {share} if the paired differences vary by {most} or less "
                "(standard deviation over seeds)."
            )
    else:
        spread, size = difference_text(deviation, display), difference_text(found * deviation, display)
        sentences.append(
            f"If paired differences vary by {spread} over seeds, a difference of {size} between two chosen settings is "
            f"found in {share}."
        )
        if relevant is not None:
            chance = power(relevant, deviation, seeds, comparisons, rules)
            enough = seeds_needed(relevant, deviation, comparisons, rules)
            more = f"{enough} seeds would find it in {share}" if enough else "no number of seeds would find it"
            sentences.append(f"A difference of {wanted} is found in {chance:.0%}; {more}.")
    return [*sentences, *_tuning_sentences(trials, arms, rules, sampler)]


def _tuning_sentences(trials: int, arms: int, rules: StudyRules, sampler: Sampler) -> list[str]:
    """Return what a finding about arms asks for beyond one about their settings."""
    if not trials:
        return []
    least, needed = least_trials(arms, rules, sampler), share_text(lead_needed(arms, rules, sampler))
    if trials < least:
        return [
            f"No arm will be named better with {counted(trials, 'tuning run')} an arm, only its setting: {least} are "
            "the least that can show that another tuning would agree."
        ]
    return [
        f"An arm is named better only if it also leads in {needed} of resampled tunings: surely, if its {least} best "
        f"of {trials} tuning runs are better than all of the other arm."
    ]
