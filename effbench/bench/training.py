"""Where the time of a training step goes: data wait, forward, backward, clipping, optimizer, in the real Trainer."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Any

from effbench.bench.options import DEVICE, note_device
from effbench.bench.scratch import scratch
from effbench.config.compose import parse
from effbench.config.schema import Config
from effbench.config.static_compose import member
from effbench.disturbance import OTHERS, calibration_s, drifted
from effbench.errors import EffbenchError
from effbench.jobs.processes import called, relaying
from effbench.log import LOGGER
from effbench.run.load import load_run, recorded_config
from effbench.stats import mean, positive_interval

log = logging.getLogger(__name__)

SCHEMA = 1
WARM_UP_STEPS = 5  # memory is allocated, kernels are chosen
PARTS = {
    "data": "waiting for the next batch",
    "forward": "model and loss",
    "backward": "gradients",
    "clip": "clipping of the gradients",
    "optimizer": "the rest of the optimizer's step",
    "other": "between these, such as callbacks and logging",
}


def bench_training(
    config: Config, steps: int = 45, rounds: int = 5, threads: int = 1, target: str = ""
) -> dict[str, Any]:
    """Split the training steps of a config and return the record.

    Args:
        config: a checked config; checkpoints, validation and test are left out.
        steps: optimizer steps of a process, of which the first WARM_UP_STEPS are not counted.
        rounds: processes.
        threads: of a process.
        target: what is measured, for the record: a run's folder, or ''.

    Raises:
        EffbenchError: the config does not train.
    """
    content = _shortened(config, steps, threads)
    note_device(config)
    found: list[dict[str, Any]] = []
    with scratch() as place, relaying() as relay:
        for number in range(rounds):
            log.info(f"round {number + 1} of {rounds}: {steps} training steps")
            one = called(relay, split_steps, content, place / str(number))
            if one is None:
                raise relay.interruption()
            found.append(one)
    return _record(config, found, steps, threads, target)


def run_config(folder: str | Path, allow_targets: Sequence[str] = ()) -> Config:
    """Return the config of a run, without its callbacks: a line names those that are left out.

    Args:
        folder: of the run.
        allow_targets: the user's modules that a _target_ may name.
    """
    run = load_run(folder, allow_targets)
    callbacks = recorded_config(run.folder).get("callbacks")
    if isinstance(callbacks, Mapping) and callbacks:
        # without them a run is measured also where their modules are not there
        log.info(f"note: the run's callbacks are left out: {', '.join(map(str, callbacks))}")
    return run.config


def _shortened(config: Config, steps: int, threads: int) -> dict[str, Any]:
    """Return the config's content for a few steps, without what is no training step."""
    content = config.to_dict()
    # the other ends of the run's training would come before that of the measurement, or contradict it
    content["trainer"] |= {"max_steps": steps, "max_epochs": None, "min_steps": None, "max_time": None}
    content["trainer"] |= {"limit_val_batches": 1, "limit_test_batches": 0}
    content["checkpoint"] |= {"save_last": False, "save_top_k": 0, "every_n_steps": None}
    content["early_stopping"]["enabled"] = False
    # no tracking service: it would record each round as a run
    content["logger"]["name"] = "csv"
    # the run's own may have a warm-up that is longer than the measurement; a step takes as long with any
    content["scheduler"] = member("scheduler", "constant")
    content["device"] |= {"name": DEVICE, "threads": threads}
    # the file may be gone, and a step takes as long with any weights; what is frozen stays frozen
    content["model"]["pretrained"] = None
    return {**content, "resume": None}


def split_steps(content: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Train and return the seconds of each part in each step; called in a process of its own.

    Args:
        content: of the config.
        folder: of the run, which is removed.
    """
    from effbench.bench.step_split import StepSplit
    from effbench.run import session

    LOGGER.setLevel(logging.CRITICAL)  # this process's own
    split, before = StepSplit(WARM_UP_STEPS), calibration_s()
    try:
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
            run = session.train(parse(dict(content)), folder, callbacks=[split])
        model = run.summary["model"]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if not split.steps:
        raise EffbenchError(f"the run ended before step {WARM_UP_STEPS + 1}: give more steps or more data.")
    return {
        "steps": split.steps,
        "others": split.others,
        "drift": calibration_s() / before,
        "batch_size": split.batch_size,
        "unit": split.unit,
        "model": {"name": model.get("name"), "parameters": model["parameters"], "macs": model["macs"]},
    }


def _record(
    config: Config, found: Sequence[Mapping[str, Any]], steps: int, threads: int, target: str
) -> dict[str, Any]:
    from effbench.report.environment import environment

    # of each round its mean, and of these the interval
    by_part = {part: [mean([step[part] for step in one["steps"]]) for one in found] for part in PARTS}
    totals = [sum(by_part[part][number] for part in PARTS) for number in range(len(found))]
    whole = positive_interval(totals)
    parts = {part: _facts(values, totals) for part, values in by_part.items()}
    others = [one["others"] for one in found if one["others"] is not None]
    return {
        "schema_version": SCHEMA,
        "kind": "train",
        "target": target or None,
        "model": {**found[0]["model"], "name": config.model.label},
        "optimizer": config.optimizer.label,
        "unit": found[0]["unit"],
        "options": {"steps": steps, "rounds": len(found), "threads": threads, "warm_up_steps": WARM_UP_STEPS},
        "batch_size": found[0]["batch_size"],
        "steps_counted": sum(len(one["steps"]) for one in found),
        "step_s": asdict(whole),
        "parts": parts,
        "drift": max(max(one["drift"], 1 / one["drift"]) for one in found),
        "disturbed_rounds": sum((one["others"] or 0) > OTHERS or drifted(one["drift"]) for one in found),
        "device": DEVICE,
        "others": max(others, default=None),
        "environment": environment(),
    }


def _facts(values: Sequence[float], totals: Sequence[float]) -> dict[str, Any]:
    """Return mean seconds of a part with its interval, and its share of the step."""
    # a part that is not there, such as clipping with gradient_clip_val=null, has no logarithm
    found = positive_interval(values) if min(values) > 0 else None
    estimate = mean(values)
    ends = {"low": found.low, "high": found.high} if found else {"low": None, "high": None}
    return {"estimate_s": found.estimate if found else estimate, **ends, "share": estimate / mean(totals)}
