"""Bits a byte of recipe=gpt_kjv on the King James Bible, after five minutes of training."""

from __future__ import annotations

from benchmarks.figures import Figure
from benchmarks.recipe_runs import run_of
from effbench.stats import mean_interval

TITLE = "Bits a byte of recipe=gpt_kjv after 5 minutes, 3 seeds, one thread"
SEEDS = range(3)
BUDGET_S = 300
NOTE = (
    f"trainer.max_time={BUDGET_S}. The mean over seeds with Student's t interval, in the column of medians. bzip2 "
    "needs 1.85 for the validation text by itself, lzma 2.05 (effbench/data/text/kjv.py). Finished runs are kept in "
    "docs/recipe_runs.json, each with its date and commit; the minutes above are for the others."
)


def measure() -> list[Figure]:
    runs = [run_of("gpt_kjv", seed, BUDGET_S) for seed in SEEDS]
    seconds = ", ".join(f"{run['training_s']:.0f} s" for run in runs)
    found = []
    for what, key, target in (("validation", "val", "<= 1.85"), ("test", "test", "")):
        mean = mean_interval([run[key] for run in runs])
        found.append(Figure(f"bits a byte of {what}", mean, target, None, {"training": seconds}, NOTE))
    return found
