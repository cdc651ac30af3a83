"""A run beside its compressed result: metrics on the same test samples, size, MACs, and latency in turns."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from effbench.bench.answers import judged
from effbench.bench.sources import Source
from effbench.compress.drop import Judge, answers, tested_split
from effbench.compress.speed import speeds
from effbench.errors import first_line
from effbench.models import accounting
from effbench.report.compression import compressed_file
from effbench.stats import share_interval

if TYPE_CHECKING:
    from torch import nn

    from effbench.bench.options import BenchOptions
    from effbench.run.run import Run

log = logging.getLogger(__name__)

MOST = 10_000  # samples that both are tested on: their interval is then at most a point wide


@dataclass(frozen=True)
class Comparison:
    """What was found.

    Attributes:
        facts: validation, test, before, after and speed, for compression.json.
        summary: metrics and model of the result, for its summary.json.
    """

    facts: Mapping[str, Any]
    summary: Mapping[str, Any]


def compare(source: Run, checkpoint: str, result: Run, options: BenchOptions) -> Comparison:
    """Measure both on the same test samples, and in turns on this machine.

    Args:
        source: the run before.
        checkpoint: name of its checkpoint.
        result: the run after.
        options: how latency is measured.

    Raises:
        EffbenchError: the result gives no answers.
    """
    tested = paired_test(source, checkpoint, result, "test", MOST)
    costs = {"before": _costs(source, source.model(checkpoint)), "after": _result_costs(source, result)}
    speed = speeds(source, checkpoint, result, options)
    judge = Judge(source, checkpoint)
    facts = {
        # by which candidates are chosen: the test split only tells the result
        "validation": judge.facts(judge.outputs(result)),
        "test": {key: tested[key] for key in ("split", "samples", "same_data", "lost", "lost_of", "parity")},
        **{side: {**costs[side], "metrics": tested[side], "accuracy": tested[f"{side}_accuracy"]} for side in costs},
        "speed": speed,
    }
    model = {**source.summary["model"], **{key: costs["after"][key] for key in ("parameters", "macs")}}
    model["trainable_parameters"] = model["parameters"]
    # metrics under the name of the split that they are of
    metrics = {f"{tested['split']}/{name}": value for name, value in tested["after"].items()}
    return Comparison(facts, {"metrics": metrics, "model": model})


def paired_test(source: Run, checkpoint: str, result: Run, which: str, most: int) -> dict[str, Any]:
    """Return the metrics of both on the same samples, and what is lost, in points with its interval.

    Args:
        source: the run before.
        checkpoint: name of its checkpoint.
        result: the run after.
        which: split; where the data have none, validation, and else train.
        most: samples; a split with more is sampled, with classes in proportion.
    """
    name, split, same = tested_split(source, which, most)
    targets = source.modality().targets(split.labels, torch.arange(len(split)), {})
    before, after = answers(source, checkpoint, split), answers(result, "best", split)
    judge = Source({}, torch.empty(0), source.modality().unit, targets=targets, task=source.task)
    own, found = judged(judge, before, before), judged(judge, before, after)
    return {
        "split": name,
        "samples": len(split),
        "same_data": same,
        "before": own["metrics"],
        "after": found["metrics"],
        "before_accuracy": _accuracy(source, before, targets),
        "after_accuracy": _accuracy(source, after, targets),
        "lost": found["lost"],
        "lost_of": found["lost_of"],
        "parity": found["parity"],
    }


def _accuracy(run: Run, outputs: Tensor, targets: Tensor) -> dict[str, float] | None:
    """Return the accuracy with its interval; None for tasks without one."""
    if run.task.kind != "class":
        return None
    return asdict(share_interval(int((outputs.argmax(1) == targets).sum()), len(targets)))


def _costs(run: Run, model: nn.Module) -> dict[str, Any]:
    counts = accounting.parameters(model)
    zeros = sum(int((each == 0).sum()) for each in model.parameters())
    return {"parameters": counts.total, "zeros": zeros, "macs": _macs(run, model)}


def _macs(run: Run, model: nn.Module) -> int | None:
    modality = run.modality()
    try:
        return accounting.macs(model, modality.example()).macs
    except Exception as error:  # noqa: BLE001 - a model of the user's may not run on shapes alone
        log.info(f"note: the model's MACs cannot be counted: {first_line(error)}")
        return None


def _result_costs(source: Run, result: Run) -> dict[str, Any]:
    """Return the costs of the result; a quantized one has the parameters and MACs of its source, in fewer bits."""
    if compressed_file(result.folder) is None:
        return _costs(result, result.model("best"))
    found: dict[str, Any] = {key: source.summary["model"].get(key) for key in ("parameters", "macs")}
    return {**found, "zeros": None}
