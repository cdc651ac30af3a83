"""Measures the loops: whole runs over seeds for time, memory and accuracy; steps in turns for the overhead."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.alternate import CONTROL_SUFFIX, ROOT, Arm, rounds
from benchmarks.frameworks.lines import user_lines

PEERS = Path(__file__).with_name("peers")
BARE = "bare"
OURS = "effbench"
SLICE_STEPS, WARM_UP = 50, 20


@dataclass(frozen=True)
class Framework:
    """A loop. distribution: its package; '' for the loop by hand. extra: further files of its user."""

    name: str
    title: str
    distribution: str = ""
    extra: tuple[str, ...] = ()

    def version(self) -> str:
        """Return the installed version; '' for none."""
        try:
            return importlib.metadata.version(self.distribution) if self.distribution else ""
        except importlib.metadata.PackageNotFoundError:
            return ""

    @property
    def problem(self) -> str:
        """Why it cannot be measured here; '' if it can."""
        return f"{self.distribution} is not installed" if self.distribution and not self.version() else ""

    @property
    def lines(self) -> int:
        """Lines of user code."""
        return sum(user_lines(PEERS / each) for each in (f"{self.name}.py", *self.extra))


FRAMEWORKS = (
    Framework(BARE, "by hand"),
    Framework(OURS, "effbench", "effbench", ("conf/model/given.yaml",)),
    Framework("lightning", "pytorch-lightning", "pytorch-lightning"),
    Framework("accelerate", "Accelerate", "accelerate"),
    Framework("skorch", "skorch", "skorch"),
    Framework("fastai", "fastai", "fastai"),
    Framework("keras", "Keras 3", "keras"),
)


@dataclass(frozen=True)
class Plan:
    """How much is measured. rounds: of steps, in `processes` processes of each loop, `parts` slices a round."""

    seeds: int = 5
    epochs: int = 10
    rounds: int = 12
    processes: int = 2
    parts: int = 4


def surroundings(data: Path) -> dict[str, str]:
    """Return the environment variables of a loop's process: one thread, no GPU, the data's path."""
    one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    return {**one, "CUDA_VISIBLE_DEVICES": "", "KERAS_BACKEND": "torch", "FRAMEWORKS_DATA": str(data)}


def run(name: str, seed: int, plan: Plan, data: Path) -> dict[str, Any]:
    """Return what one whole run took: `seconds` of its process from start to exit, and what it tells itself.

    Raises:
        RuntimeError: it failed; with the end of what it wrote.
    """
    command = [sys.executable, "-m", "benchmarks.frameworks.one", name, str(seed), str(plan.epochs)]
    environment = {**os.environ, **surroundings(data), "PYTHONPATH": str(ROOT)}
    begun = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - begun
    if done.returncode:
        raise RuntimeError(f"{name} failed:\n{done.stderr[-3000:]}")
    return {"seed": seed, "seconds": seconds, **json.loads(done.stdout.splitlines()[-1])}


def all_runs(chosen: Sequence[Framework], plan: Plan, data: Path, tell: Callable[[str, dict[str, Any]], None]) -> None:
    """Train every framework with each seed, in turns from either end; `tell` gets each (name, run)."""
    for seed in range(plan.seeds):
        for framework in chosen if seed % 2 == 0 else chosen[::-1]:
            found = run(framework.name, seed, plan, data)
            print(f"   {framework.name}, seed {seed}: {found}", file=sys.stderr, flush=True)
            tell(framework.name, found)


def all_steps(chosen: Sequence[Framework], plan: Plan, data: Path) -> list[Mapping[str, float]]:
    """Return rounds of mean seconds of a step: of each loop, and of the bare one twice."""
    options = {"slice_steps": SLICE_STEPS, "warm_up": WARM_UP}
    arms = [
        Arm(each.name, "benchmarks.frameworks.one:steps", {"name": each.name, **options}, surroundings(data))
        for each in chosen
    ]
    return list(rounds(arms, plan.rounds, plan.processes, plan.parts))


def overheads(found: Sequence[Mapping[str, float]], name: str) -> list[float]:
    """Return a loop's seconds a step beyond the bare loop's, round by round; the bare loop's own are its control's."""
    own = BARE + CONTROL_SUFFIX if name == BARE else name
    return [values[own] - values[BARE] for values in found if own in values]
