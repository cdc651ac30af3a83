"""Does the better optimizer depend on the model? The interaction of two factors over paired seeds."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from effbench.stats import Interval, mean_interval
from effbench.study.results import Interaction, InteractionCell, InteractionContrast
from effbench.study.runs import common_seeds, result_of, runs_by_arm
from effbench.study.samples import Bytes, Samples
from effbench.study.statistics import Array, crossed_interval, holm, max_t_p_values
from effbench.study.table import Arm, Confirmation, StudyRules, StudyTable
from effbench.study.tuning import Differences, contrast_lead, lead_needed
from effbench.study.verdicts import contrast_verdict, interaction_verdict

Cell = tuple[str, str]  # (model, optimizer)
Scores = Mapping[Cell, Array | Bytes]  # (K, N): a row a seed, a column a test sample


def interaction(table: StudyTable, rules: StudyRules, samples: Samples | None = None) -> Interaction | None:
    """Return the model x optimizer interaction; None without two models that share two optimizers and two full seeds.

    Each contrast is a difference of differences by seed, with a t interval, or with that of crossed resampling where
    the predictions of the test samples are known. Its p is the larger of two, because both tests have to agree:
    sign flips of whole seeds, adjusted for the number of contrasts by max-t (Westfall & Young 1993; Holm's method over
    some dozens of correlated contrasts could reject none with few seeds), and the crossed test, which counts the luck
    of the test samples that all seeds share, adjusted by Holm's method. They are a family of their own, beside that of
    the pairwise comparisons. Only seeds on which every cell has a result count; `left_out` says how many do not.

    Args:
        table: of the study.
        rules: of the study.
        samples: of the study, if there are some already.
    """
    models, optimizers, cells = _grid(table.arms)
    # with one model or one optimizer there is nothing that could depend on the other
    if len(models) < 2 or len(optimizers) < 2:
        return None
    runs = runs_by_arm(table)
    seeds = common_seeds(runs, [arm.name for arm in cells.values()])
    # one missing cell takes its whole seed out: contrasts of different seeds could not be flipped together
    values = {cell: [result_of(runs[arm.name][seed]) for seed in seeds] for cell, arm in cells.items()}
    full = [index for index in range(len(seeds)) if all(each[index] is not None for each in values.values())]
    if len(full) < 2:
        return None
    chosen = {cell: [runs[arm.name][seeds[index]] for index in full] for cell, arm in cells.items()}
    # in the metric's own sign: a difference of differences has a size, no better or worse
    by_seed = {cell: np.array([[result_of(run)] for run in own], float) for cell, own in chosen.items()}
    scores = _by_sample(samples or Samples(table), chosen) or by_seed
    names = {cell: arm.name for cell, arm in cells.items()}
    known: Differences = {}
    contrasts = _contrasts(models, optimizers, by_seed, scores, rules)
    found = [_judged(each, table, names, rules, known) for each in contrasts]
    plain = Interaction(
        models=tuple(models),
        optimizers=tuple(optimizers),
        cells=_effects(scores, models, optimizers, rules.confidence),
        contrasts=tuple(found),
        # the smallest of the adjusted values is the p of "no interaction at all"
        p=min(each.p for each in found),
        seeds=len(full),
        left_out=len(seeds) - len(full),
        told=any(each.told for each in found),
    )
    return replace(plain, sentence=interaction_verdict(plain, rules))


def _by_sample(samples: Samples, chosen: Mapping[Cell, Sequence[Confirmation]]) -> Scores | None:
    """Return each cell's scores, a row a seed, a column a test sample; None unless all cells have them."""
    found = {cell: samples.of(runs) for cell, runs in chosen.items()}
    known = {cell: scores for cell, scores in found.items() if scores is not None}
    alike = len({scores.shape for scores in known.values()}) == 1
    return known if alike and len(known) == len(found) else None


def _contrasts(
    models: Sequence[str], optimizers: Sequence[str], by_seed: Scores, scores: Scores, rules: StudyRules
) -> list[InteractionContrast]:
    """Return the contrasts of each two models and two optimizers; 3 models and 4 optimizers have 3 x 6 = 18.

    Args:
        models: of the grid.
        optimizers: of the grid.
        by_seed: results of each cell, (K, 1).
        scores: the same by test sample, (K, N), or `by_seed`.
        rules: of the study.
    """
    places, flipped, intervals, crossed = [], [], [], []
    for (m1, m2), (o1, o2) in itertools.product(
        itertools.combinations(models, 2), itertools.combinations(optimizers, 2)
    ):
        # what the seed does to all four runs (its split, its order of the data) drops out
        one, other = ((each[m1, o1] - each[m1, o2]) - (each[m2, o1] - each[m2, o2]) for each in (by_seed, scores))
        interval, p = _interval(other.astype(float), rules.confidence)
        places.append(((m1, m2), (o1, o2)))
        flipped.append(one[:, 0])
        intervals.append(interval)
        crossed.append(p)
    p_flips = [float(p) for p in max_t_p_values(np.array(flipped), rules.seed)]
    p_values = map(max, p_flips, holm(crossed))
    return [
        InteractionContrast(*place, interval, p) for place, interval, p in zip(places, intervals, p_values, strict=True)
    ]


def _judged(
    contrast: InteractionContrast, table: StudyTable, names: Mapping[Cell, str], rules: StudyRules, known: Differences
) -> InteractionContrast:
    """Return the contrast with what resampled tunings say of it, and its sentence."""
    (m1, m2), (o1, o2) = contrast.models, contrast.optimizers
    ahead = contrast_lead(table, (names[m1, o1], names[m1, o2], names[m2, o1], names[m2, o2]), known)
    above = contrast.difference.estimate > 0
    leads = ahead is None or (ahead if above else 1 - ahead) >= lead_needed(len(names), rules, table.sampler)
    told = contrast.p <= rules.alpha and leads
    judged = replace(contrast, tuned_ahead=ahead, told=told)
    return replace(judged, sentence=contrast_verdict(judged, table.display, rules))


def _interval(scores_KN: Array, confidence: float) -> tuple[Interval, float]:
    """Return the mean's interval for new seeds, and new test samples where they are known, and the p of the latter."""
    if scores_KN.shape[1] > 1:
        return crossed_interval(scores_KN, confidence)
    return mean_interval(scores_KN[:, 0].tolist(), confidence), 0.0


def _grid(arms: Sequence[Arm]) -> tuple[list[str], list[str], dict[tuple[str, str], Arm]]:
    """Return the models, the optimizers that all of them have, and the arm of each such pair."""
    # an optimizer that one model lacks would leave holes in the two-way table: it is left out
    cells = {(arm.model, arm.optimizer): arm for arm in arms if arm.model is not None and arm.optimizer is not None}
    models = list(dict.fromkeys(model for model, _ in cells))
    optimizers = [
        each for each in dict.fromkeys(name for _, name in cells) if all((model, each) in cells for model in models)
    ]
    return models, optimizers, {cell: arm for cell, arm in cells.items() if cell[1] in optimizers}


def _effects(
    scores: Scores, models: Sequence[str], optimizers: Sequence[str], confidence: float
) -> tuple[InteractionCell, ...]:
    """Return each cell's value less the average effects of its model and its optimizer (double centring)."""
    values = {cell: each.astype(float) for cell, each in scores.items()}
    # one cell that deviates by d keeps d (1 - 1/M)(1 - 1/O): of 3 x 3 it shows 4/9 of d, the rest is in the averages
    rows = {model: sum(values[model, each] for each in optimizers) / len(optimizers) for model in models}
    columns = {each: sum(values[model, each] for model in models) / len(models) for each in optimizers}
    grand = sum(rows.values()) / len(models)
    return tuple(
        InteractionCell(
            model,
            optimizer,
            _interval(values[model, optimizer] - rows[model] - columns[optimizer] + grand, confidence)[0],
        )
        for model in models
        for optimizer in optimizers
    )
