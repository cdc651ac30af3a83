"""A run beside its compressed result: size, MACs, and latency in turns; metrics on the same test samples."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from effbench.bench.answers import Judging, part_samples
from effbench.compress.drop import Judge, output_shape, outputs_of, tested_split
from effbench.compress.speed import speeds
from effbench.errors import first_line
from effbench.models import accounting
from effbench.report.compression import compressed_file

if TYPE_CHECKING:
    from torch import nn

    from effbench.compress.options import CompressOptions
    from effbench.run.run import Run

log = logging.getLogger(__name__)

MOST = 10_000  # samples that both are tested on: their interval is then at most a point wide


@dataclass(frozen=True)
class Comparison:
    """What was found.

    Attributes:
        facts: validation, before, after and speed, for compression.json.
        model: of the result, for its summary.json.
    """

    facts: Mapping[str, Any]
    model: Mapping[str, Any]


def compare(source: Run, result: Run, options: CompressOptions) -> Comparison:
    """Measure what both cost, in turns on this machine, and what is lost on validation samples.

    The test split is not read: by these facts candidates are chosen.

    Args:
        source: the run before.
        result: the run after.
        options: the checkpoint of the run, and how latency is measured.

    Raises:
        EffbenchError: the result gives no answers.
    """
    checkpoint = options.checkpoint
    costs = {"before": _costs(source, source.model(checkpoint)), "after": _result_costs(source, result)}
    validation = _validated(source, checkpoint, result)
    speed = speeds(source, checkpoint, result, options.bench, validation, options.bounded)
    facts = {"task": source.task.display_record(), "validation": validation, **costs, "speed": speed}
    model = {**source.summary["model"], **{key: costs["after"][key] for key in ("parameters", "macs")}}
    model["trainable_parameters"] = model["parameters"]
    return Comparison(facts, model)


def _validated(source: Run, checkpoint: str, result: Run) -> dict[str, Any]:
    # the judge holds all outputs of the run, which are of no use while the latency is measured
    judge = Judge(source, checkpoint)
    return judge.facts(judge.outputs(result))


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
    models = source.model(checkpoint), result.model("best")
    own, changed = (Judging(source.task, split.labels) for _ in range(2))
    # in parts: all outputs of a next-token model may exceed the memory
    for rows in torch.arange(len(split)).split(part_samples(output_shape(source))):
        part = split.take(rows)
        targets = source.modality().targets(part.labels, torch.arange(len(part)), {})
        before, after = outputs_of(models[0], source, part), outputs_of(models[1], result, part)
        own.add(before, before, targets)
        changed.add(before, after, targets)
    found = changed.facts()
    return {
        "split": name,
        "samples": len(split),
        "same_data": same,
        "before": own.facts()["metrics"],
        "after": found["metrics"],
        "before_accuracy": own.accuracy(),
        "after_accuracy": changed.accuracy(),
        "lost": found["lost"],
        "lost_of": found["lost_of"],
        "parity": found["parity"],
    }


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
