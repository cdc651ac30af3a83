"""Test accuracy of the recipes on the texts that ship, within ten minutes each, beside linear n-grams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks import text_baselines
from benchmarks.figures import Figure, exact
from benchmarks.recipe_runs import composed, run_of
from effbench.stats import mean_interval

TITLE = "Test accuracy of the recipes on texts, 5 seeds, one thread"
SEEDS = range(5)
LINEAR = {"language_id": text_baselines.language_id, "wordnet_gloss": text_baselines.wordnet_gloss}
BUDGET_S = 600  # trainer.max_time of a recipe
BEST = {"language_id": ">= 0.88"}  # targets of the best recipe by validation
EACH = {("language_id", "lstm_attention"): ">= 0.84", ("language_id", "transformer"): ">= 0.84"}  # of (data, model)
NOTE = (
    f"Each run has trainer.max_time={BUDGET_S}; its time is that of training. The mean over seeds with Student's t "
    "interval, in the column of medians. Linear: TF-IDF of n-grams and a linear SVM of scikit-learn's "
    "(benchmarks/text_baselines.py), fitted in the same run. The best recipe is the one with the highest mean of the "
    "best validation accuracies. Finished runs are kept in docs/recipe_runs.json, each with its date and commit; the "
    "minutes above are for the others."
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


def measured(recipe: str, seeds: Sequence[int] = SEEDS) -> Measured:
    """The runs of a recipe, of which those that are missing are made now."""
    runs = [run_of(recipe, seed, BUDGET_S) for seed in seeds]
    return Measured(*([run[key] for run in runs] for key in ("test", "val", "training_s")))
