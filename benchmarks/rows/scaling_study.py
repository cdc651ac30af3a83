"""`effbench report STUDY` over 400 to 10,000 finished runs: seconds of its ranking, and of the whole command."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.arms_start import resources
from benchmarks.figures import Figure
from benchmarks.scaling import Point, resource_points
from effbench.stats import Interval
from effbench.study.frozen import freeze
from effbench.study.page import CURVES, TABLE
from effbench.study.planning import planned
from effbench.study.table import Arm, Confirmation, Cost, Range, StudyTable, Trial, pairs_to_compare, table_to_json

TITLE = "Many runs in one study"
MODELS, OPTIMIZERS = 4, 5
COUNTS = (10, 50, 250)  # tuning runs an arm, and as many seeds
REPEATS, SAMPLES, VALIDATIONS = 3, 2000, 20
ACROSS = "runs of 20 arms, half of them final runs with 2,000 test samples"
SPACE = {"optimizer.lr": Range(1e-4, 1e-1, log=True)}
# one process each: what is read and computed before a page, and all of it
TABLE_ONLY = """
import sys
from pathlib import Path
from effbench.study.grids import ranking
from effbench.study.analysis import analyse
from effbench.study.table import table_from_json
table = table_from_json((Path(sys.argv[1]) / "table.json").read_text())
print(ranking(table, analyse(table)))
"""
PARTS = {"the ranking": ("-c", TABLE_ONLY, "study"), "effbench report": ("report", "study")}
TARGETS = {"the ranking": "<= 5", "effbench report": "<= 30"}


def study(count: int) -> tuple[StudyTable, dict[str, list[list[tuple[int, float]]]]]:
    """Return a planted study of 2 x 20 x count runs, and its learning curves."""
    chance = np.random.default_rng(0)
    arms = tuple(Arm(f"model{m}-optimizer{o}", f"model{m}", f"optimizer{o}", (f"model=model{m}",), SPACE)
                 for m in range(MODELS) for o in range(OPTIMIZERS))  # fmt: skip
    shared = {"commit": "c0ffee", "machine": "one", "status": "completed", "epochs": 20.0}
    trials, runs, costs, curves = [], [], [], {}
    for at, arm in enumerate(arms):
        for number in range(count):
            trials.append(
                Trial(arm.name, number, {"optimizer.lr": float(10 ** chance.uniform(-4, -1))}, 0,
                      float(chance.normal(0.75, 0.05)), 2000, 20.0, run=f"runs/{arm.name}/tune-{number:03d}",
                      digest=f"{at:04x}{number:08x}", **shared)
            )  # fmt: skip
            correct = chance.random(SAMPLES) < 0.8 + at / 1000
            steps = float(chance.integers(8, 20) * 100)
            runs.append(
                Confirmation(arm.name, 1 + number, 0.8, float(correct.mean()), steps, steps / 100, 2000, 20.0,
                             correct=correct.tobytes(), run=f"runs/{arm.name}/confirm-{number:03d}",
                             digest=f"{at:04x}{number:08x}", **shared)
            )  # fmt: skip
        step = Interval(0.01 + at / 1e4, 0.0099 + at / 1e4, 0.0101 + at / 1e4, 3)
        costs.append(Cost(arm.name, step, 1e4, 10**9, 8 * 10**6, 10**6, 10**7, 1e-3, False))
        curves[arm.name] = [
            [(100 * step, float(value)) for step, value in enumerate(chance.normal(0.7, 0.01, VALIDATIONS), 1)]
            for _ in range(count)
        ]
    table = StudyTable(
        "planted", arms, pairs_to_compare(arms), tuple(trials), tuple(runs), tuple(costs), "acc", "max", True, count,
        tuple(range(1, 1 + count)), 20.0, target=0.78, target_source="given",
    )  # fmt: skip
    return table, curves


def measure() -> list[Figure | Point]:
    found: list[Figure | Point] = []
    note = f"Load average of the machine before it: {os.getloadavg()[0]:.1f}."
    with tempfile.TemporaryDirectory() as place:
        for count in COUNTS:
            folder = Path(place) / str(count)
            freeze(planned(["study=smoke", f"study.folder={folder / 'study'}"]))  # the page needs its rules alone
            table, curves = study(count)
            (folder / "study" / TABLE).write_text(table_to_json(table))
            (folder / "study" / CURVES).write_text(json.dumps(curves))
            runs = len(table.trials) + len(table.confirmations)
            for name, words in PARTS.items():
                both = resource_points(ACROSS, name, runs, [resources(words, folder) for _ in range(REPEATS)])
                found += both
                if count == COUNTS[-1]:
                    found.append(Figure(f"{name}, {runs:,} runs, seconds", both[0].value, TARGETS[name], note=note))
    return found
