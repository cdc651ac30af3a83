"""Tables of studies whose truth is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.stats

from effbench.stats import Interval
from effbench.study.statistics import holm, sign_flip_p_values
from effbench.study.table import Arm, Confirmation, Cost, StudyTable, Trial, pairs_to_compare


def confirmation(arm: str, seed: int, test: float | None = 0.8, **changes: Any) -> Confirmation:
    """A completed run of 100 steps in 10 seconds without target; without `test` a diverged one."""
    fields: dict[str, Any] = {
        "arm": arm, "seed": seed, "validation": test, "test": test, "steps_to_target": None,
        "seconds_to_target": None, "steps": 100, "seconds": 10.0, "commit": "c0ffee", "machine": "one",
        "status": "completed" if test is not None else "diverged", "epochs": 4.0,
    }  # fmt: skip
    return Confirmation(**(fields | changes))


def trial(arm: str, number: int, value: float | None = 0.7, **changes: Any) -> Trial:
    fields: dict[str, Any] = {
        "arm": arm, "number": number, "settings": {}, "seed": 0, "value": value, "steps": 100, "seconds": 10.0,
        "commit": "c0ffee", "machine": "one", "status": "completed" if value is not None else "diverged", "epochs": 4.0,
    }  # fmt: skip
    return Trial(**(fields | changes))


def cost(arm: str, step: float, parameters: int = 1000, **changes: Any) -> Cost:
    fields: dict[str, Any] = {
        "arm": arm, "step_seconds": Interval(step, step * 0.98, step * 1.02, 9), "samples_per_second": 128 / step,
        "peak_memory_bytes": 10**9, "optimizer_state_bytes": 8 * parameters, "parameters": parameters,
        "macs": 10 * parameters, "latency_p50_seconds": None, "contaminated": False,
    }  # fmt: skip
    return Cost(**(fields | changes))


def arm_of(name: str) -> Arm:
    """'swin/lion' is a model with an optimizer; another name is an arm of its own."""
    model, _, optimizer = name.partition("/")
    return Arm(name, model=model, optimizer=optimizer) if optimizer else Arm(name)


def study(test: Mapping[str, Sequence[float | None]], **changes: Any) -> StudyTable:
    """A study with these test metrics by arm, for seeds 1, 2, ..."""
    arms = tuple(arm_of(name) for name in test)
    seeds = tuple(range(1, 1 + max(map(len, test.values()))))
    fields: dict[str, Any] = {
        "name": "planted", "arms": arms, "pairs": pairs_to_compare(arms), "trials": (), "costs": (),
        "confirmations": tuple(
            confirmation(name, seed, value) for name, values in test.items() for seed, value in enumerate(values, 1)
        ),
        "metric": "acc", "mode": "max", "as_percent": True, "planned_trials": 0, "planned_seeds": seeds,
        "planned_epochs": 4.0,
    }  # fmt: skip
    return StudyTable(**(fields | changes))


def winners(differences_SMK: np.ndarray, alpha: float = 0.05) -> np.ndarray:
    """The verdict's rule on many studies at once: 1, -1 or 0 for each of S studies and M comparisons."""
    studies, comparisons, k = differences_SMK.shape
    flips = sign_flip_p_values(differences_SMK.reshape(-1, k)).reshape(studies, comparisons)
    t_test = scipy.stats.ttest_1samp(differences_SMK, 0, axis=2)
    adjusted = np.array([holm(row) for row in np.maximum(flips, t_test.pvalue).tolist()])
    return np.where(adjusted <= alpha * (1 + 1e-9), np.sign(t_test.statistic), 0)


def pair_differences(values_SAK: np.ndarray) -> np.ndarray:
    """Differences of all pairs of arms."""
    arms = values_SAK.shape[1]
    return np.stack([values_SAK[:, a] - values_SAK[:, b] for a in range(arms) for b in range(a + 1, arms)], axis=1)
