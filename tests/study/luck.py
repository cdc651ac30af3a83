"""How often studies of tuned arms err, and what they find: thousands of studies at once, with a known truth.

`python -m tests.study.luck` prints the rates that effbench/study/tuning.py states, in about four minutes on one core.
"""

from __future__ import annotations

import argparse
import itertools
import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from effbench.stats import share_interval
from effbench.study.space import Dimension, SearchSpace, sampled
from effbench.study.statistics import max_t_p_values
from effbench.study.table import StudyRules
from effbench.study.tuning import lead_needed
from tests.study.planted import pair_differences, winners

NOISE = 0.01  # of one run, tuning or final; paired differences over seeds vary by sqrt(2) times as much
PAIRED = NOISE * math.sqrt(2)
_SCRAMBLES = 40  # of the study's own sampler; more are made of them by flipping binary digits, which keeps them even


@dataclass(frozen=True)
class Case:
    """Arms that are equal but for where their best setting lies, and for `lift`.

    Attributes:
        arms: number of arms.
        trials: of each.
        seeds: of the final runs.
        weights: of the settings in the quality, which falls with the square of the distance from the best.
        curve: quality lost at distance 1 in the unit cube, for weight 1.
        shared: the arms try the same points, as in a study whose spaces have equally many settings.
        noise: of a trial's validation metric.
        inside: the best setting lies at least so far from the ends.
        lift: what arm 0 is better by, in standard deviations of paired differences.
        random: independent random points instead of Sobol' points.
    """

    arms: int = 4
    trials: int = 16
    seeds: int = 8
    weights: tuple[float, ...] = (1.0, 0.3, 0.1)
    curve: float = 0.2
    shared: bool = False
    noise: float = NOISE
    inside: float = 0.2
    lift: float = 0.0
    random: bool = False


@lru_cache(maxsize=16)
def _scrambled(trials: int, settings: int) -> np.ndarray:
    space = SearchSpace("cube", tuple(Dimension(f"s{index}", "uniform", (0, 1)) for index in range(settings)))
    found = [[list(point.values()) for point in sampled(space, trials, seed)] for seed in range(_SCRAMBLES)]
    return (np.array(found, float) * 2**30).astype(np.int64)


def points(case: Case, chance: np.random.Generator, studies: int) -> np.ndarray:
    """(S, T, D) points of the study's sampler."""
    shape = (studies, case.trials, len(case.weights))
    if case.random:
        return chance.random(shape)
    base = _scrambled(*shape[1:])[chance.integers(0, _SCRAMBLES, studies)]
    return (base ^ chance.integers(0, 2**30, (studies, 1, shape[2]))) / 2**30


def tuned(case: Case, chance: np.random.Generator, studies: int = 1000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(S, A, T) validation metrics of trials, (S, A, K) test metrics of the chosen settings, (S, A, T) lr from best."""
    tried = [points(case, chance, studies) for _ in range(1 if case.shared else case.arms)]
    u_SATD = np.stack(tried * (case.arms if case.shared else 1), axis=1)
    best = chance.uniform(case.inside, 1 - case.inside, (studies, case.arms, 1, len(case.weights)))
    quality = 0.8 - case.curve * ((u_SATD - best) ** 2 @ np.array(case.weights))
    quality[:, 0] += case.lift * PAIRED
    values = quality + chance.normal(0, case.noise, quality.shape)
    chosen = np.take_along_axis(quality, values.argmax(axis=-1)[..., None], axis=-1)
    seeds = chance.normal(0, 0.02, (studies, 1, case.seeds))
    runs = chosen + seeds + chance.normal(0, NOISE, (studies, case.arms, case.seeds))
    return values, runs, u_SATD[..., 0] - best[..., 0]


def shares(trials: int) -> np.ndarray:
    """Probability that the 1st, 2nd, ... best trial is the best one drawn, and that none is drawn."""
    later = np.exp(-np.arange(trials + 1.0))
    return np.append(later[:-1] - later[1:], later[-1])


def leads(values: np.ndarray) -> np.ndarray:
    """(S, M) share of resampled tunings in which the first arm of each pair leads, by its best trial."""
    outcomes = np.concatenate([-np.sort(-values, axis=-1), np.full((*values.shape[:2], 1), -np.inf)], axis=-1)
    return _leads(outcomes)


def time_leads(values: np.ndarray, times: np.ndarray) -> np.ndarray:
    """(S, M) share of resampled tunings in which the trial that is chosen by its value is the faster one."""
    ordered = np.take_along_axis(times, np.argsort(-values, axis=-1, kind="stable"), axis=-1)
    return _leads(-np.concatenate([ordered, np.full((*values.shape[:2], 1), np.inf)], axis=-1))


def _leads(outcomes: np.ndarray) -> np.ndarray:
    share = shares(outcomes.shape[-1] - 1)
    found = []
    for a, b in itertools.combinations(range(outcomes.shape[1]), 2):
        left, right = outcomes[:, a, :, None], outcomes[:, b, None, :]
        found.append(((left > right) + (left == right) / 2) @ share @ share)
    return np.stack(found, axis=1)


def _needed(case: Case) -> float:
    return lead_needed(case.arms, StudyRules(), "random" if case.random else "qmc")


def named(found: np.ndarray, ahead: np.ndarray, case: Case) -> np.ndarray:
    """(S, M) of 1, -1 or 0: the arm that is named, of those whose setting is better."""
    return np.where(np.where(found > 0, ahead, 1 - ahead) >= _needed(case), found, 0)


def quality(case: Case, studies: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(S, M): settings that are better, and arms that are named."""
    values, runs, _ = tuned(case, np.random.default_rng(seed), studies)
    better = winners(pair_differences(runs))
    return better, named(better, leads(values), case)


def timed(case: Case, slope: float, studies: int, seed: int, faster: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """The same for the time to a target: log time falls by `slope` over the range of the first setting.

    A run's log time varies by 0.1; arm 0 is faster by `faster` standard deviations of paired differences of it.
    """
    chance = np.random.default_rng(seed)
    values, _, lr = tuned(case, chance, studies)
    log_times = -slope * lr
    log_times[:, 0] -= faster * 0.1 * math.sqrt(2)
    chosen = np.take_along_axis(log_times, values.argmax(axis=-1)[..., None], axis=-1)
    runs = np.exp(chosen + chance.normal(0, 0.1, (studies, case.arms, case.seeds)))
    better = winners(-pair_differences(runs))
    ahead = time_leads(values, log_times + chance.normal(0, 0.1, log_times.shape))
    return better, named(better, ahead, case)


def interacting(case: Case, optimizers: int, studies: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(S, C) of bool for the contrasts of a grid of arms: those of the settings, and those told of the arms."""
    values, runs, _ = tuned(case, np.random.default_rng(seed), studies)
    models = case.arms // optimizers
    pairs = itertools.product(itertools.combinations(range(models), 2), itertools.combinations(range(optimizers), 2))
    cells = [tuple(m * optimizers + o for m, o in ((m1, o1), (m1, o2), (m2, o1), (m2, o2)))
             for (m1, m2), (o1, o2) in pairs]  # fmt: skip
    signs = np.array([1, -1, -1, 1])
    contrasts = np.stack([np.einsum("c,sck->sk", signs, runs[:, list(four)]) for four in cells], axis=1)
    settings = np.array([max_t_p_values(each) for each in contrasts]) <= 0.05
    # beyond the ten best the probability is e^-10
    share = shares(values.shape[-1])[:10]
    share /= share.sum()
    best = -np.sort(-values, axis=-1)[..., :10]
    arms = np.zeros(settings.shape, bool)
    for study, at in zip(*np.nonzero(settings), strict=True):
        a, b, c, d = (best[study, each] for each in cells[at])
        left, right = np.subtract.outer(a, b)[..., None, None], np.subtract.outer(c, d)
        above = np.einsum("ijkl,i,j,k,l->", left > right, share, share, share, share)
        needed = _needed(case)
        arms[study, at] = (above if contrasts[study, at].mean() > 0 else 1 - above) >= needed
    return settings, arms


def _text(found: np.ndarray) -> str:
    share = share_interval(int(found.sum()), len(found))
    return f"{share.estimate:6.3f} [{share.low:.3f}, {share.high:.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=4000)
    studies = parser.parse_args().studies
    curves, weights = (0.02, 0.1, 0.2, 0.5, 2.0), ((1.0, 0.3, 0.1), (1.0, 1.0, 1.0), (1.0, 0.3), (1.0,))
    shapes = ({"shared": True}, {}, {"seeds": 10}, {"noise": 0.02}, {"noise": 0.005}, {"inside": 0.0}, {"trials": 8},
              {"trials": 32}, {"arms": 2}, {"arms": 6, "seeds": 10}, {"random": True}, {"random": True, "arms": 2},
              {"random": True, "arms": 6, "trials": 32})  # fmt: skip
    print("any of the equal arms named: better setting, arm (95 % intervals)")
    for shape in shapes:
        for weight, curve in itertools.product(weights, curves if shape in shapes[:2] else curves[1::2] + curves[-1:]):
            better, arm = (
                (each != 0).any(axis=1) for each in quality(Case(weights=weight, curve=curve, **shape), studies, 1)
            )
            print(f"{shape!s:28} {weight!s:16} {curve:<5} {_text(better)} {_text(arm)}", flush=True)
    print("arm 0 is better than each of three equal arms: share of the three in which it is named")
    for weight, curve, lift in itertools.product(weights[:2], curves, (1, 2, 3)):
        better, arm = (
            (each[:, :3] > 0).ravel() for each in quality(Case(weights=weight, curve=curve, lift=lift), studies // 2, 2)
        )
        print(f"{weight!s:16} {curve:<5} {lift} sd {_text(better)} {_text(arm)}", flush=True)
    print("time to target: equal arms, then arm 0 faster by 2 and 3 sd")
    for weight, curve, slope in itertools.product(weights[:2], curves[1:], (0.3, 3.0)):
        case = Case(weights=weight, curve=curve)
        none = [_text((each != 0).any(axis=1)) for each in timed(case, slope, studies // 2, 3)]
        some = [_text((timed(case, slope, studies // 4, 4, sd)[1][:, :3] > 0).ravel()) for sd in (2, 3)]
        print(f"{weight!s:16} {curve:<5} slope {slope} {' '.join(none)} | {' '.join(some)}", flush=True)
    print("interaction of 2 x 2 and 3 x 4 equal arms: settings, arms")
    for (arms, optimizers), weight, curve in itertools.product(((4, 2), (12, 4)), weights[:2], curves[1:]):
        found = interacting(Case(arms=arms, weights=weight, curve=curve), optimizers, studies // 4, 5)
        print(f"{arms} arms {weight!s:16} {curve:<5} {' '.join(_text(each.any(axis=1)) for each in found)}", flush=True)


if __name__ == "__main__":
    main()
