"""Short runs that measure what an arm costs. Each is called in a process of its own."""

from __future__ import annotations

import logging
import os
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from effbench.config.recipes import quoted
from effbench.disturbance import calibration_s, contaminated
from effbench.errors import EffbenchError
from effbench.log import LOGGER
from effbench.records import read_summary
from effbench.run.launch import composed, train_composed
from effbench.summary_schema import speed_unit_of, throughput_of
from effbench.units import seen_key

# Optimizer steps of a short run. The first 5 are not counted: they include allocations and lazy setup. 12 show that an
# arm trains and about how fast; 45 leave 40 for a step time that is compared.
PROBE_STEPS, TIMED_STEPS = 12, 45
LATENCY_RUNS = 40  # forward passes; the first quarter only warms the caches up


@dataclass(frozen=True)
class Probe:
    """A short run.

    Attributes:
        step_s: seconds an optimizer step.
        samples_per_s: training samples a second.
        unit: the word for a sample.
        steps_per_epoch: optimizer steps.
        evaluation_s: seconds of one validation.
        start_s: seconds of everything else: composing, reading data, building.
        parameters: of the model.
        macs: of one sample; 0 if they cannot be counted.
        peak_bytes: memory of the GPU, where the run used one; else resident memory of the process.
        share: own processor seconds a second of the whole run.
        others: processor seconds a second that other processes took during the timed steps; None if not known.
        drift: time of a fixed calculation after the run, divided by that before it.
        load: load average of the machine before it.
        splits: names of the dataset's splits.
    """

    step_s: float
    samples_per_s: float
    unit: str
    steps_per_epoch: float
    evaluation_s: float
    start_s: float
    parameters: int
    macs: int
    peak_bytes: int
    share: float
    others: float | None
    drift: float
    load: float
    splits: tuple[str, ...]

    @property
    def contaminated(self) -> bool:
        return contaminated(self.share, self.others, self.drift)

    def record(self) -> dict[str, Any]:
        return {**asdict(self), "contaminated": self.contaminated}


def probe(words: Sequence[str], folder: Path, steps: int, config_dir: str | None = None) -> Probe:
    """Train a few steps, validate once, and return what it took. The run's folder is removed.

    Args:
        words: overrides of the run.
        folder: for the run; it must not exist.
        steps: optimizer steps, more than 5.
        config_dir: folder with the user's groups.
    """
    from effbench.study.watch import Watch  # here, because it imports torch

    LOGGER.setLevel(logging.CRITICAL)  # the process's own: a study's log has no lines of short runs
    load, before = os.getloadavg()[0], calibration_s()
    short = [*words, f"trainer.max_steps={steps}", "checkpoint.save_last=false", f"hydra.run.dir={quoted(folder)}"]
    watch = Watch()
    begun, processor = time.perf_counter(), time.process_time()
    try:
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
            train_composed(composed(short, config_dir), config_dir=config_dir, callbacks=[watch])
        summary = read_summary(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    wall = time.perf_counter() - begun
    if not summary["steps"]:
        raise EffbenchError(f"no optimizer step was taken ({summary['stop_reason'] or summary['status']}).")
    # With one thread, a process that had a core to itself has a share of nearly 1; waiting for others lowers it.
    share = (time.process_time() - processor) / wall
    timing, clocks = summary["timing"], summary["timing"]["seconds"]
    speed, seen = throughput_of(summary) or 0.0, summary[seen_key(speed_unit_of(summary))]
    per_step = seen / summary["steps"]
    # The run's own throughput leaves its first steps out. A run with fewer steps (a tiny dataset) has none.
    step_s = per_step / speed if speed else timing["training_s"] / summary["steps"]
    return Probe(
        step_s=step_s,
        samples_per_s=per_step / step_s,
        unit=speed_unit_of(summary),
        steps_per_epoch=summary["steps"] / summary["epochs"],
        evaluation_s=float(clocks.get("evaluation") or 0.0),
        # 0 at least: the clocks of the run and of this function differ a little
        start_s=max(0.0, wall - timing["training_s"] - float(clocks.get("evaluation") or 0.0)),
        parameters=summary["model"]["parameters"],
        macs=summary["model"].get("macs") or 0,
        peak_bytes=summary["memory"].get("peak_cuda_bytes") or summary["memory"]["peak_rss_bytes"],
        share=share,
        others=watch.others,
        drift=calibration_s() / before,
        load=load,
        splits=tuple(summary["data"]["counts"]),
    )


def steps_in(budget_s: float, step_s: float) -> int:
    """Return the optimizer steps of a budget in seconds, at least 1."""
    return max(1, round(budget_s / step_s))


def inference_costs(
    words: Sequence[str], config_dir: str | None = None, latency: bool = True
) -> dict[str, float | int | None]:
    """Return optimizer_state_bytes, and latency_p50_s: median seconds of one sample's forward pass on the run's device.

    The model is untrained. Where deployment is measured (deployment.py), this latency is not: it is None.

    Args:
        words: overrides of the run.
        config_dir: folder with the user's groups.
        latency: measure it.
    """
    # here, because the module is also imported by commands that only plan
    import torch

    from effbench import build
    from effbench.config.compose import compose
    from effbench.report.cost import cost, read_setting

    LOGGER.setLevel(logging.CRITICAL)
    config = compose(words, config_dir)
    device = build.device(config)
    setting = read_setting(config)  # of the runs: with other classes or tokens the model would have other weights
    # latency and state do not depend on the values of weights, so nothing is downloaded; frozen ones count as trained
    section = config.model.model_copy(update={"pretrained": None, "freeze": []})
    config = config.model_copy(update={"model": section})
    found: dict[str, float | int | None] = {
        "optimizer_state_bytes": cost(config, setting)["optimizer_state_bytes"],
        "latency_p50_s": None,
    }
    if not latency:
        return found
    model = build.model(config, setting.num_classes, setting.modality).eval().to(device)
    example = setting.example.to(device)
    # a GPU computes after the call returns
    wait: Callable[[], object] = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    times = []
    # one sample at a time: the latency that a user of one request waits for
    with torch.inference_mode():
        for _ in range(LATENCY_RUNS):
            begun = time.perf_counter()
            model(example)
            wait()
            times.append(time.perf_counter() - begun)
    # the median, because other processes make some passes longer and none shorter
    return {**found, "latency_p50_s": statistics.median(times[LATENCY_RUNS // 4 :])}
