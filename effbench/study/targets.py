"""Steps and seconds to a target, by arm and by pair of arms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from effbench.stats import mean, mean_interval
from effbench.study.comparisons import p_of_each
from effbench.study.results import TargetDifference, TargetTimes, Winner
from effbench.study.runs import MISSED, Runs, common_seeds, groups, runs_by_arm
from effbench.study.statistics import holm, t_p_value
from effbench.study.survival import restricted_mean, restricted_times, survival_curve
from effbench.study.table import Confirmation, StudyRules, StudyTable
from effbench.study.tuning import Unit, arms_compared, lead_needed, time_lead
from effbench.study.verdicts import seconds_doubt, target_verdict

UNITS: tuple[Unit, ...] = ("steps", "seconds")
_ENDED_BY_ITSELF = (*MISSED, "stopped_early")  # without the target, they would never have reached it


def target_times(table: StudyTable, rules: StudyRules) -> list[TargetTimes]:
    """Return the times to the target of each arm in both units; [] for a study without target.

    Args:
        table: of the study.
        rules: of the study.
    """
    if not table.has_target:
        return []
    runs = runs_by_arm(table)
    found = []
    for unit in UNITS:
        for group in groups(table.arms):
            arms = [arm.name for arm in group if runs[arm.name]]
            # One horizon for all arms of a model: restricted means up to different times cannot be compared. A common
            # one for all models would end with the quickest, before the large ones get anywhere.
            horizon = _horizon([list(runs[arm].values()) for arm in arms], unit)
            for arm in arms:
                chosen = [run for _, run in sorted(runs[arm].items())]
                longest = max(_end(run, unit) for run in chosen)
                reached = [_hit(run, unit) is not None for run in chosen]
                times = _times(chosen, unit, horizon)
                several = len(chosen) > 1  # one run has no interval
                found.append(
                    TargetTimes(
                        arm=arm,
                        unit=unit,
                        horizon=horizon,
                        restricted_mean=restricted_mean(times, reached, horizon, rules.confidence) if several else None,
                        reached=sum(reached),
                        runs=len(chosen),
                        curve=tuple(survival_curve(_times(chosen, unit, longest), reached, rules.confidence)),
                    )
                )
    return found


def target_differences(table: StudyTable, rules: StudyRules) -> list[TargetDifference]:
    """Return the paired differences of restricted mean times for each pair of the table in both units.

    The differences are those of `restricted_times` by seed. As for quality, p is the larger of the sign-flip test's and
    the t test's, corrected by Holm's method over the comparisons in this unit; and an arm is named only if it is also
    faster in nearly all resampled tunings (tuning.py).

    Args:
        table: of the study.
        rules: of the study.
    """
    if not table.has_target:
        return []
    runs = runs_by_arm(table)
    return [each for unit in UNITS for each in _differences(table, rules, runs, unit)]


def _differences(table: StudyTable, rules: StudyRules, runs: Runs, unit: Unit) -> list[TargetDifference]:
    pairs, by_seed, means, horizons = [], [], [], []
    for a, b in table.pairs:
        seeds = common_seeds(runs, (a, b))
        if len(seeds) < 2:  # no interval; fairness.py says which seeds are missing
            continue
        chosen = [[runs[arm][seed] for seed in seeds] for arm in (a, b)]
        # of these two arms and their common seeds alone: a third arm must not change what is said of two
        horizon = _horizon(chosen, unit)
        values = [
            restricted_times(_times(each, unit, horizon), [_hit(run, unit) is not None for run in each], horizon)
            for each in chosen
        ]
        pairs.append((a, b))
        horizons.append(horizon)
        means.append([mean(each.tolist()) for each in values])
        by_seed.append((values[0] - values[1]).tolist())
    # two tests with different assumptions (symmetry, normality) must agree, as for quality (comparisons.py)
    flips = p_of_each(by_seed, rules.seed)
    p_values = [max(p, t_p_value(each)) for p, each in zip(flips, by_seed, strict=True)]
    enough = lead_needed(arms_compared(table.pairs), rules, table.sampler)
    found = []
    for (a, b), differences, (mean_a, mean_b), horizon, p, p_holm in zip(
        pairs, by_seed, means, horizons, p_values, holm(p_values), strict=True
    ):
        interval = mean_interval(differences, rules.confidence)
        # JSON must say what the sentence says: no winner in seconds that nobody can trust
        doubt = seconds_doubt((a, b), table) if unit == "seconds" else ""
        faster: Winner = "none"
        # 1e-9: p times the number of comparisons may exceed alpha by rounding alone
        if p_holm <= rules.alpha * (1 + 1e-9) and not doubt:
            faster = "a" if interval.estimate < 0 else "b"  # less time is better
        # the time is that of the settings that tuning chose by their quality: another tuning may choose slower ones
        ahead = time_lead(table, a, b, unit)
        leads = ahead is None or (ahead if faster == "a" else 1 - ahead) >= enough
        ratio = mean_b / mean_a if mean_a > 0 else None
        plain = TargetDifference(
            a, b, unit, horizon, interval, ratio, p, p_holm,
            winner=faster if leads else "none", doubt=doubt, faster_setting=faster, tuned_ahead=ahead,
        )  # fmt: skip
        found.append(replace(plain, sentence=target_verdict(plain, table, rules)))
    return found


def _hit(run: Confirmation, unit: Unit) -> float | None:
    """Return the time to the target; None for a miss, which every diverged or failed run is."""
    if run.status in MISSED:
        return None
    return run.steps_to_target if unit == "steps" else run.seconds_to_target


def _end(run: Confirmation, unit: Unit) -> float:
    return float(run.steps) if unit == "steps" else run.seconds


def _times(runs: Sequence[Confirmation], unit: Unit, horizon: float) -> list[float]:
    """Return times to the target, or of censoring: the run's end, or the horizon if it would never have reached it."""
    # Censored, never imputed: a miss says that its time is longer than this.
    hits = [_hit(run, unit) for run in runs]
    return [
        hit if hit is not None else horizon if run.status in _ENDED_BY_ITSELF else _end(run, unit)
        for hit, run in zip(hits, runs, strict=True)
    ]


def _horizon(arms: Sequence[Sequence[Confirmation]], unit: Unit) -> float:
    """Return the time up to which every arm was observed: the least of the arms' longest completed runs."""
    ends = [
        [_end(run, unit) for run in runs if _hit(run, unit) is not None or run.status not in _ENDED_BY_ITSELF]
        for runs in arms
    ]
    # An arm whose runs all diverged was observed for ever: it limits no one. If that is true of all arms, any end does.
    longest = [max(each) for each in ends if each]
    return min(longest) if longest else max((_end(run, unit) for runs in arms for run in runs), default=0.0)
