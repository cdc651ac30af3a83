"""Whole runs of recipes, for rows that take hours: each is kept in docs/recipe_runs.json.

A kept run is not repeated while its config and its budget are the same, so that a row goes on where it was stopped.
`python -m benchmarks.recipe_runs RECIPE SEED SECONDS` makes one run.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.alternate import ROOT
from benchmarks.page import commit_here, machine_here

KEPT = ROOT / "docs" / "recipe_runs.json"


def run_of(recipe: str, seed: int, budget_s: int) -> dict[str, Any]:
    """The kept run of a recipe, if its config and budget are the same; else it is trained now, and kept.

    Args:
        recipe: name of a recipe that ships.
        seed: of the run.
        budget_s: trainer.max_time, in seconds.

    Returns:
        `test` and `val`, the test metric and the best validation value; `training_s`; commit, date and machine.
    """
    key, config = f"{recipe}, {budget_s} s, seed {seed}", config_sha256(recipe)
    kept = kept_runs().get(key)
    if kept is None or kept["config"] != config:
        kept = {"config": config, **trained(recipe, seed, budget_s)}
        keep(key, kept)
        print(f"   {key}: {kept}", file=sys.stderr, flush=True)
    return kept


def keep(key: str, run: dict[str, Any]) -> None:
    # read again: another process may have kept a run in between
    runs = {**kept_runs(), key: run}
    KEPT.write_text(json.dumps(dict(sorted(runs.items())), indent=1) + "\n", encoding="utf-8")


def kept_runs() -> dict[str, dict[str, Any]]:
    return json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.is_file() else {}


@cache
def composed(recipe: str) -> Any:
    import effbench

    return effbench.compose([f"recipe={recipe}"])


def config_sha256(recipe: str) -> str:
    """Digest of all that a recipe sets for training."""
    values = composed(recipe).model_dump(mode="json", by_alias=True)
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def trained(recipe: str, seed: int, budget_s: int) -> dict[str, Any]:
    """Train a recipe with one thread, in a process of its own. The arguments are those of `run_of`."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        own = [f"recipe={recipe}", f"seed={seed}", "device.threads=1", f"hydra.run.dir={run}"]
        command = [sys.executable, "-m", "effbench", "train", *own, f"trainer.max_time={budget_s}"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
        summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    metric = summary["best"]["metric"].partition("/")[2]
    return {
        "test": round(summary["metrics"][f"test/{metric}"], 5),
        "val": round(summary["best"]["value"], 5),
        "training_s": round(summary["timing"]["training_s"], 1),
        "commit": commit_here(),
        "date": date.today().isoformat(),
        "machine": machine_here(),
    }


if __name__ == "__main__":
    run_of(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
