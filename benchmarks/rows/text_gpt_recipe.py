"""Bits a byte of recipe=gpt_kjv on the King James Bible, after five and after fifteen minutes of training."""

from __future__ import annotations

from benchmarks.figures import Figure
from benchmarks.recipe_runs import run_of
from effbench.stats import mean_interval

TITLE = "Bits a byte of recipe=gpt_kjv after 5 and 15 minutes, 3 seeds, one thread"
SEEDS = range(3)
TARGETS = {300: "<= 1.85", 900: "<= 1.75"}  # trainer.max_time, in seconds -> target of validation
NOTE = (
    "trainer.max_time is 300 and 900 seconds; the whole recipe, 550 steps, may end before the second. The mean over "
    "seeds with Student's t interval, in the column of medians. bzip2 needs 1.85 for the validation text by itself, "
    "lzma 2.05 (effbench/data/text/kjv.py). Finished runs are kept in docs/recipe_runs.json, each with its date, "
    "commit and machine; the minutes above are for the others."
)


def measure() -> list[Figure]:
    return [figure for budget_s in TARGETS for figure in after(budget_s)]


def after(budget_s: int) -> list[Figure]:
    """The figures of one budget, of which the runs that are missing are made now."""
    runs = [run_of("gpt_kjv", seed, budget_s) for seed in SEEDS]
    seconds = ", ".join(f"{run['training_s']:.0f} s" for run in runs)
    machines = dict.fromkeys(f"{run['machine']['cpu']} with {run['machine']['cpu_capability']}" for run in runs)
    found = []
    for what, key, target in (("validation", "val", TARGETS[budget_s]), ("test", "test", "")):
        mean = mean_interval([run[key] for run in runs])
        name = f"bits a byte of {what}, {budget_s // 60} minutes"
        found.append(Figure(name, mean, target, None, {"training": seconds, "on": ", ".join(machines)}, NOTE))
    return found
