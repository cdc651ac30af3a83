"""Does the better optimizer depend on the model? The interaction of two factors over paired seeds."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from effbench.stats import mean_interval
from effbench.study.results import Interaction, InteractionCell, InteractionContrast
from effbench.study.runs import common_seeds, result_of, runs_by_arm
from effbench.study.statistics import Array, max_t_p_values
from effbench.study.table import Arm, StudyRules, StudyTable
from effbench.study.verdicts import contrast_verdict, interaction_verdict


def interaction(table: StudyTable, rules: StudyRules) -> Interaction | None:
    """Return the model x optimizer interaction; None without two models that share two optimizers and two full seeds.

    Each contrast is a difference of differences by seed, with a t interval. Their p values are adjusted for their
    number by max-t over sign flips of whole seeds (Westfall & Young 1993): a family of its own, beside that of the
    pairwise comparisons, because Holm's method over some dozens of correlated contrasts could reject none with few
    seeds. Only seeds on which every cell has a result count; `left_out` says how many do not.

    Args:
        table: of the study.
        rules: of the study.
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
    # in the metric's own sign: a difference of differences has a size, no better or worse
    y_MOK = np.array([[[values[m, o][index] for index in full] for o in optimizers] for m in models], float)

    # 3 models and 4 optimizers have 3 x 6 = 18 contrasts
    contrasts, found = [], []
    for (m1, m2), (o1, o2) in itertools.product(
        itertools.combinations(range(len(models)), 2), itertools.combinations(range(len(optimizers)), 2)
    ):
        # what the seed does to all four runs (its split, its order of the data) drops out
        by_seed_K = (y_MOK[m1, o1] - y_MOK[m1, o2]) - (y_MOK[m2, o1] - y_MOK[m2, o2])
        contrasts.append(by_seed_K)
        difference = mean_interval(by_seed_K.tolist(), rules.confidence)
        found.append(InteractionContrast((models[m1], models[m2]), (optimizers[o1], optimizers[o2]), difference, p=1.0))
    # the smallest of the adjusted values is the p of "no interaction at all" (single-step max-t)
    p_values = [float(p) for p in max_t_p_values(np.array(contrasts), rules.seed)]
    found = [replace(each, p=p) for each, p in zip(found, p_values, strict=True)]
    plain = Interaction(
        models=tuple(models),
        optimizers=tuple(optimizers),
        cells=_effects(y_MOK, models, optimizers, rules.confidence),
        contrasts=tuple(replace(each, sentence=contrast_verdict(each, table.as_percent, rules)) for each in found),
        p=min(p_values),
        seeds=len(full),
        left_out=len(seeds) - len(full),
    )
    return replace(plain, sentence=interaction_verdict(plain, rules))


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
    y_MOK: Array, models: Sequence[str], optimizers: Sequence[str], confidence: float
) -> tuple[InteractionCell, ...]:
    """Return each cell's value less the average effects of its model and its optimizer (double centring)."""
    # one cell that deviates by d keeps d (1 - 1/M)(1 - 1/O): of 3 x 3 it shows 4/9 of d, the rest is in the averages
    effects_MOK = (
        y_MOK
        - y_MOK.mean(axis=1, keepdims=True)
        - y_MOK.mean(axis=0, keepdims=True)
        + y_MOK.mean(axis=(0, 1), keepdims=True)
    )
    return tuple(
        InteractionCell(model, optimizer, mean_interval(effects_MOK[m, o].tolist(), confidence))
        for m, model in enumerate(models)
        for o, optimizer in enumerate(optimizers)
    )
