"""Half of the channels removed: latency over the dense run's, what is lost, and 8 bits on top."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.deploy import (
    SAMPLES,
    Measured,
    compressed,
    compression,
    in_turns,
    note_here,
    side_of,
    target_here,
    trained,
)
from benchmarks.figures import Figure
from effbench.bench.sources import run_source
from effbench.compress.compare import MOST, paired_test
from effbench.run.load import load_run
from effbench.stats import Interval, mean_interval, positive_interval

TITLE = "Structured pruning by half, and 8 bits on top"
SEEDS = range(3)
ORT = "onnxruntime"
# model: (words of the dense run, epochs of fine-tuning, target of the latency)
PLAN: dict[str, tuple[tuple[str, ...], int, str]] = {
    "cnn": (("model=cnn", "trainer.max_epochs=10", "early_stopping=off"), 12, "<= 0.35"),
    "mobilenet": (("model=mobilenet", "trainer.max_epochs=12", "early_stopping=off"), 12, "<= 0.45"),
    "resnet18": (("model=resnet18", "trainer.max_epochs=2", "early_stopping=off"), 6, "<= 0.20"),
}
TOGETHER = ("resnet18", "<= 0.12", "<= 1.5")  # model, targets of latency and of points lost
ROUNDS, SECONDS = 5, 1.0
MEASURED = ("rounds=3", "seconds=0.5", f"backends=[{ORT}]")  # by compress; the row measures again, all in turns
INT8 = ("method=quantize", "rounds=3", "seconds=0.1", f"backends=[{ORT}]", "max_drop=1.5")
NOTE = (
    "`effbench compress RUN method=structured ratio=0.5 epochs=N` of runs on the embedded Fashion-MNIST at 28 px "
    "(epochs before, N: cnn 10, 12; mobilenet 12, 12; resnet18 2, 6). Latency: p50 of ONNX Runtime at batch 1, one "
    "thread, paired by turns; interval over runs. Lost: points on the same 2,000 test images, mean over runs with "
    "Student's interval. Fine-tuning also trains further what the dense run had not finished. Half of the channels "
    "leave 0.25 of ResNet-18's MACs (456M, 114M): below that ratio the small model has to compute more of them in a "
    "second."
)


@dataclass(frozen=True)
class Made:
    """The results of a seed. both: the pruned run in 8 bits."""

    dense: Path
    pruned: Path
    both: Path | None


def measure() -> list[Figure]:
    # all training first: what is measured in the end takes minutes
    made = {name: [_made(name, seed) for seed in SEEDS] for name in PLAN}
    return [figure for name, results in made.items() for figure in _figures(name, results)]


def _made(name: str, seed: int) -> Made:
    words, epochs, _ = PLAN[name]
    dense = trained(f"{name}_28", words, seed)
    result = compressed(dense, ("method=structured", "ratio=0.5", f"epochs={epochs}", *MEASURED))
    assert result is not None  # only a bound of what may be lost refuses
    both = compressed(result, INT8) if name == TOGETHER[0] else None
    if name == TOGETHER[0] and both is None:
        raise RuntimeError(f"{result.name} loses more than 1.5 points on validation samples in 8 bits")
    return Made(dense, result, both)


def _figures(name: str, results: Sequence[Made]) -> list[Figure]:
    found = [_in_turns(each) for each in results]
    controls = positive_interval([each.control.estimate for each in found if each.control])
    records = [compression(each.pruned) for each in results]
    lost = [record["test"]["lost"]["estimate"] for record in records]
    arms = {"before": _accuracies(records, "before"), "after": _accuracies(records, "after"),
            "each run, points": ", ".join(f"{each:+.2f}" for each in lost)}  # fmt: skip
    figures = [
        Figure(f"latency pruned / dense, {name}", _over(found, "pruned"), PLAN[name][2], controls, arms, NOTE),
        Figure(f"points lost, {name}", mean_interval(lost), "<= 0.7", None, arms, NOTE),
    ]
    if name != TOGETHER[0]:
        return figures
    _, latency, points = TOGETHER
    what, note = f"pruned and in 8 bits / dense in float32, {name}", note_here(NOTE)
    lost = [_lost(each) for each in results]
    arms = {"each run, points": ", ".join(f"{each:+.2f}" for each in lost)}
    return [
        *figures,
        Figure(what, _over(found, "both"), target_here(latency), controls, arms, note),
        Figure(f"points lost, {what}", mean_interval(lost), points, None, arms, note),
    ]


def _in_turns(made: Made) -> Measured:
    dense, pruned = (run_source(folder, "best", {}, (), SAMPLES) for folder in (made.dense, made.pruned))
    sides = [side_of("dense", made.dense, dense, [ORT]), side_of("pruned", made.pruned, pruned, [ORT])]
    if made.both is not None:
        sides.append(side_of("both", made.both, pruned, [ORT]))
    return in_turns(sides, ROUNDS, SECONDS)


def _over(found: Sequence[Measured], side: str) -> Interval:
    return positive_interval([each.over(f"{side} {ORT}", f"dense {ORT}").estimate for each in found])


def _lost(made: Made) -> float:
    """Points that the pruned run in 8 bits loses on the test split, of the dense run's."""
    assert made.both is not None
    test = paired_test(load_run(made.dense), "best", load_run(made.both), "test", MOST)
    return float(test["lost"]["estimate"])


def _accuracies(records: Sequence[dict[str, object]], side: str) -> str:
    return ", ".join(f"{100 * record[side]['accuracy']['estimate']:.2f} %" for record in records)  # type: ignore[index]
