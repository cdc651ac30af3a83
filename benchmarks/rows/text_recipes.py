"""Test accuracy of the recipes on the texts that ship, within ten minutes each, beside linear n-grams."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks import text_baselines
from benchmarks.alternate import ROOT, THREADS
from benchmarks.figures import Figure, exact
from effbench.stats import mean_interval

TITLE = "Test accuracy of the recipes on texts, 5 seeds, two threads"
SEEDS = range(5)
LINEAR = {"language_id": text_baselines.language_id, "wordnet_gloss": text_baselines.wordnet_gloss}
BUDGET_S = 600  # trainer.max_time of a recipe
BUDGETS_S: Mapping[str, int] = {}  # recipe -> seconds, where it has another budget
BEST = {"language_id": ">= 0.88"}  # targets of the best recipe by validation
EACH = {("language_id", "lstm_attention"): ">= 0.84", ("language_id", "transformer"): ">= 0.84"}  # of (data, model)
NOTE = (
    f"Each run has trainer.max_time={BUDGET_S}; its time is that of training. The mean over seeds with Student's t "
    "interval, in the column of medians. Linear: TF-IDF of n-grams and a linear SVM of scikit-learn's "
    "(benchmarks/text_baselines.py), fitted in the same run. The best recipe is the one with the highest mean of the "
    "best validation accuracies."
)


@dataclass(frozen=True)
class Measured:
    """The runs of a recipe: accuracies of test and of the best validation, seconds of training, by seed."""

    test: Sequence[float]
    val: Sequence[float]
    seconds: Sequence[float]

    def figure(self, what: str, target: str) -> Figure:
        seconds = f"{min(self.seconds):.0f} to {max(self.seconds):.0f} s"
        return Figure(what, mean_interval(self.test), target, None, {"training": seconds}, NOTE)


def measure() -> list[Figure]:
    figures = []
    for data, linear in LINEAR.items():
        figures.append(Figure(f"{data}: linear n-grams", exact(linear().accuracy["test"]), note=NOTE))
        found = {name: measured(name) for name in recipes_on(data)}
        for name, runs in found.items():
            figures.append(runs.figure(f"{data}: recipe={name}", EACH.get((data, model_of(name)), "")))
        if found:
            best = max(found, key=lambda name: sum(found[name].val))
            figures.append(found[best].figure(f"{data}: the best recipe, {best}", BEST.get(data, "")))
    return figures


def recipes_on(data: str) -> list[str]:
    """The recipes that ship for this dataset."""
    from effbench.config.recipes import shipped_recipes

    return [name for name in shipped_recipes() if composed(name).data.target.endswith(f".{data}")]


def model_of(recipe: str) -> str:
    return str(composed(recipe).model.label)


@cache
def composed(recipe: str) -> Any:
    import effbench

    return effbench.compose([f"recipe={recipe}"])


def measured(recipe: str, seeds: Sequence[int] = SEEDS, words: Sequence[str] = ()) -> Measured:
    """Train a recipe with each seed, in a process each. words: further overrides."""
    found: list[tuple[float, float, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in seeds:
            run = Path(folder) / str(seed)
            own = [f"recipe={recipe}", f"seed={seed}", f"device.threads={THREADS}", f"hydra.run.dir={run}"]
            own.append(f"trainer.max_time={BUDGETS_S.get(recipe, BUDGET_S)}")
            command = [sys.executable, "-m", "effbench", "train", *own, *words]
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
            summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
            training_s = summary["timing"]["training_s"]
            found.append((summary["metrics"]["test/acc"], summary["best"]["value"], training_s))
            print(f"   {recipe}, seed {seed}: {found[-1]}", file=sys.stderr, flush=True)
    test, val, seconds = zip(*found, strict=True)
    return Measured(test, val, seconds)
